"""GraphQL over HTTP: the endpoint, the explorer's page and the health checks."""

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from app import operations
from app.errors import BadUserInput, LimitExceeded, RequestError, Unauthenticated, Unavailable
from app.events import EventStreams, wants_events
from app.explorer import CONTENT_SECURITY_POLICY, page
from app.operations import Execute, GraphQLAnswer, GraphQLRequest, ResponseStream

MOST_BYTES = 100_000
RETRY_AFTER_SECONDS = 1
JSON = "application/json"
GRAPHQL_JSON = "application/graphql-response+json"

NO_EVENTS = (
    "A subscription needs an Accept header that names text/event-stream, "
    "or a WebSocket with the subprotocol graphql-transport-ws."
)

# What a whole answer without data is worth, by the code of its first error.
STATUS = {Unauthenticated.code: 401, Unavailable.code: 503}


class GraphQLEndpoint:
    """`POST /graphql` runs operations; `GET /graphql` shows a browser the explorer."""

    def __init__(self, execute: Execute, streams: EventStreams, explorer_token: Callable[[str], str | None]) -> None:
        self._execute, self._streams, self._explorer_token = execute, streams, explorer_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> ASGIApp:
        if request.method == "POST":
            return await self._answer(request)
        if request.method in {"GET", "HEAD"} and "text/html" in request.headers.get("accept", ""):
            return self._explorer(request)
        return _refusal(405, "Send operations as POST with a JSON body.", BadUserInput.code, {"Allow": "GET, POST"})

    async def _answer(self, request: Request) -> ASGIApp:
        media_type = _accepted(request.headers)
        try:
            asked = await _read(request)
        except _Refused as refused:
            return _refusal(refused.status, str(refused), refused.code, media_type=media_type)
        answer = await self._execute(asked)
        headers = {"X-Request-ID": asked.request_id}
        if wants_events(request.headers.get("accept", ""), answer):
            return self._streams.response(answer, headers)
        if isinstance(answer, ResponseStream):
            return _refusal(406, NO_EVENTS, BadUserInput.code, media_type=media_type)
        status = _status(answer, media_type)
        if status == STATUS[Unauthenticated.code]:
            headers["WWW-Authenticate"] = "Bearer"
        if status == STATUS[Unavailable.code]:
            headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return Response(orjson.dumps(answer.entries), status, headers, media_type)

    def _explorer(self, request: Request) -> Response:
        token = self._explorer_token(request.headers.get("host", ""))
        headers = {
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        return HTMLResponse(page(request.url.path, token), headers=headers)


class _Refused(Exception):
    """A request that is no GraphQL request."""

    def __init__(self, status: int, message: str, code: str = BadUserInput.code) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def _status(answer: GraphQLAnswer, media_type: str) -> int:
    """As GraphQL over HTTP has it: the old media type says 200 to whatever it understood."""
    data = answer.entries.get("data")
    if data is not None and ("errors" not in answer.entries or any(value is not None for value in data.values())):
        return 200
    code = answer.entries["errors"][0].get("extensions", {}).get("code")
    if answer.executed or code in STATUS:
        return STATUS.get(code, 200)
    return 400 if media_type == GRAPHQL_JSON or code == BadUserInput.code else 200


def _accepted(headers: Headers) -> str:
    offered = {part.partition(";")[0].strip().lower() for part in headers.get("accept", "").split(",")}
    return GRAPHQL_JSON if GRAPHQL_JSON in offered else JSON


async def _read(request: Request) -> GraphQLRequest:
    """The GraphQL request of a POST; other media types than JSON are what a foreign page's form could send."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise _Refused(415, "The Content-Type must be application/json.")
    try:
        body = orjson.loads(await _body(request))
    except orjson.JSONDecodeError:
        raise _Refused(400, "The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise _Refused(400, "The body must be a JSON object with a query.")
    try:
        identifier = _request_id(request.headers.get("x-request-id", ""))
        return operations.request(body, request.headers.get("authorization"), identifier)
    except BadUserInput as error:
        raise _Refused(400, str(error)) from None


def _request_id(given: str) -> str:
    """The caller's id where it may stand in a log, or a new one."""
    return given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else secrets.token_hex(8)


async def _body(request: Request) -> bytes:
    """The body, read no further than it may be long."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise _Refused(413, f"The body must be at most {MOST_BYTES:,} bytes.", LimitExceeded.code)
        parts.append(part)
    return b"".join(parts)


def _refusal(
    status: int, message: str, code: str, headers: Mapping[str, str] | None = None, media_type: str = JSON
) -> Response:
    error = {"message": message, "extensions": {"code": code}}
    return Response(orjson.dumps({"errors": [error]}), status, headers, media_type)


class ExplorerFiles(StaticFiles):
    """The explorer's assets: their addresses change with what they hold, so that browsers may keep them."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


async def live(_request: Request) -> Response:
    """Whether the process answers."""
    return JSONResponse({"status": "ok"})


def readiness(check: Callable[[], Awaitable[None]]) -> Callable[[Request], Awaitable[Response]]:
    """Whether requests can be served: the database answers."""

    async def ready(_request: Request) -> Response:
        try:
            await check()
        except RequestError as error:
            return JSONResponse({"status": "unavailable", "problem": str(error)}, 503)
        return JSONResponse({"status": "ok"})

    return ready
