"""GraphQL over HTTP: the endpoint and the explorer's page.

The endpoint is plain ASGI, without Starlette's request and response objects, because it is on the hot path.
"""

import asyncio
import gzip
import re
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from app.addresses import headers_of
from app.errors import (
    MethodNotAllowed,
    PersistedQueryNotFound,
    PersistedQueryNotSupported,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from app.observability.masking import masked
from app.operations import Execute, GraphQLRequest, GraphQLResponse, ResponseStream
from app.origins import Origins
from app.sharing.rate_limits import Rates, network
from app.web.arrivals import Arrivals
from app.web.event_streams import EventStreams
from app.web.explorer import CONTENT_SECURITY_POLICY, page
from app.web.long_messages import LongMessages
from app.web.media import EVENT_STREAM, GRAPHQL_JSON, HTML, JSON, names, preferred, takes_gzip
from app.web.refusals import FAILED, Refusal, no_address, no_method
from app.web.requests import (
    Disconnected,
    Header,
    Headers,
    Note,
    Places,
    Refused,
    joined,
    read,
    refuse_conflicts,
    request_id,
)

# A response that fits into TCP's initial window arrives no sooner if it is smaller.
WORTH_COMPRESSING = 14_000
FASTEST = 1
# Responses with these statuses are delayed: most clients send their next request after they have the response.
PAUSE_SECONDS = 0.25
PAUSED = (401, 429, 503)
# The charge, in rows, for a request that cannot be read, and for the explorer's page.
ROWS_OF_A_REFUSAL = 5
# Requests whose body is large or arrives in parts, per process and per address. Each can occupy 100 KB.
MOST_ARRIVALS, ARRIVALS_OF_AN_ADDRESS = 300, 150

ANSWERS = (GRAPHQL_JSON, JSON)
PAGES = (HTML, *ANSWERS)
BY_POST = (*ANSWERS, EVENT_STREAM)
BY_GET = (*PAGES, EVENT_STREAM)
NO_EVENTS = (
    f"A subscription needs the header Accept: {EVENT_STREAM}, or a WebSocket with the subprotocol graphql-transport-ws."
)

# The status of a response without data, by the code of its first error, with either media type. Clients with persisted
# queries accept only 200 for an unknown hash.
STATUS = {
    Unauthenticated.code: 401,
    MethodNotAllowed.code: 405,
    RateLimited.code: 429,
    Unavailable.code: 503,
    PersistedQueryNotFound.code: 200,
    PersistedQueryNotSupported.code: 200,
}

ALLOW: Header = (b"allow", b"GET, POST")
_CLOSE: Header = (b"connection", b"close")
NO_STORE: Header = (b"cache-control", b"no-store")
_HEADERS_OF: dict[int, list[Header]] = {
    401: [],
    405: [(b"allow", b"POST")],
    429: [],
    503: [],
}
_CONTENT_TYPE: dict[str, Header] = {name: (b"content-type", name.encode() + b"; charset=utf-8") for name in PAGES}
_COMPRESSED: list[Header] = [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]
_ASSET_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept-Encoding",
}
_PAGE_HEADERS: list[Header] = [
    _CONTENT_TYPE[HTML],
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    NO_STORE,
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class GraphQLEndpoint:
    """Executes operations by POST and GET, and serves the explorer to browsers.

    `note` is called for requests that are rejected before they become an operation.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it is composed of
        self, execute: Execute, streams: EventStreams, rates: Rates, origins: Origins, note: Note, long: LongMessages
    ) -> None:
        self._execute, self._streams, self._rates, self._origins, self._note = execute, streams, rates, origins, note
        self._places = Places(Arrivals(MOST_ARRIVALS, ARRIVALS_OF_AN_ADDRESS), long)
        self._is_stopping = False

    def stop(self) -> None:
        """Close each connection after its next response."""
        self._is_stopping = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: C901 - splitting it would add a coroutine to each request
        lines = scope["headers"]
        headers = headers_of(scope)
        send = _closing(send) if self._is_stopping else send
        id_ = request_id(headers.get(b"x-request-id"))
        asked: GraphQLRequest | None = None
        try:
            if len(headers) != len(lines):
                refuse_conflicts(lines)
                headers = joined(lines)
            media_type = _media_type(scope["method"], headers)
            if media_type == HTML:
                await self._charge(scope)
                return await _respond(send, 200, _PAGE_HEADERS, page().encode())
            asked = await read(scope, headers, receive, id_, self._places)
            response = await self._execute(asked)
            if isinstance(response, GraphQLResponse):
                body, more = orjson.dumps(response.entries), [NO_STORE] if asked.safe else []
            else:
                _demand_events(headers)
        except Disconnected:
            return None
        except Exception as error:  # noqa: BLE001 - the client gets a GraphQL error for any exception
            charged = error if asked else await self._charged(error, scope)
            return await self._refuse(send, charged, headers, id_)
        else:
            if isinstance(response, ResponseStream) or media_type == EVENT_STREAM:
                return await self._streams.send(response, [_id_header(id_)], receive, send)
            status = _status(response, media_type)
            if status in _HEADERS_OF:
                asked.leave()
                asked = None  # do not keep its variables in memory during the delay
                more += [*_HEADERS_OF[status], *_headers_of(response.entries["errors"][0])]
            if len(body) >= WORTH_COMPRESSING and takes_gzip(headers.get(b"accept-encoding", b"")):
                body, more = await _compressed(body), [*more, *_COMPRESSED]
            return await _respond(send, status, [_CONTENT_TYPE[media_type], _id_header(id_), *more], body)
        finally:
            if asked is not None:
                asked.leave()

    async def _charged(self, error: Exception, scope: Scope) -> Exception:
        """Charge an error to the client's address; returns it, or the error that the rate is used up."""
        if isinstance(error, Refused):
            error.forget()
            if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                return error
        try:
            await self._charge(scope)
        except Refused as limited:
            return limited
        return error

    async def _charge(self, scope: Scope) -> None:
        """Charge a request that runs no operation to the client's address; raises Refused if the rate is used up."""
        client = scope.get("client")
        try:
            if waits := self._rates.charge(network(client[0] if client else ""), ROWS_OF_A_REFUSAL, is_user=False):
                await waits
        except RateLimited as limited:
            raise Refused(429, str(limited), limited.code, (b"retry-after", b"%d" % limited.seconds)) from None

    async def _refuse(self, send: Send, error: Exception, headers: Headers, id_: str) -> None:
        """Respond with one GraphQL error. An exception that is not `Refused` is a bug: it is masked and logged."""
        if isinstance(error, Refused):
            error.forget()
            status, more = error.status, error.headers
            shown = {"message": str(error), "extensions": {"code": error.code}}
            self._note(id_, status, error.code)
            if status == HTTPStatus.METHOD_NOT_ALLOWED and b"access-control-request-method" in headers:
                self._origins.log_refused(headers.get(b"origin", b"").decode("latin-1"))
        else:
            status, more, shown = 500, (), masked(error, id_)
        media_type = preferred(headers.get(b"accept", b""), ANSWERS) or JSON
        body = orjson.dumps({"errors": [shown]})
        await _respond(send, status, [_CONTENT_TYPE[media_type], _id_header(id_), *more], body)


def _media_type(method: str, headers: Headers) -> str:
    """Negotiate the media type of the response: one of GraphQL's, by GET also HTML."""
    if method not in {"POST", "GET", "HEAD"}:
        raise Refused(405, "Send operations by POST, or queries by GET.", MethodNotAllowed.code, ALLOW)
    media_type = preferred(headers.get(b"accept", b""), BY_POST if method == "POST" else BY_GET)
    if media_type is None:
        raise Refused(406, f"The Accept header must allow {GRAPHQL_JSON}, {JSON} or {EVENT_STREAM}.")
    return media_type


def _demand_events(headers: Headers) -> None:
    """Reject an Accept header that allows event streams only by a wildcard: such a client expects one response."""
    if not names(headers.get(b"accept", b""), EVENT_STREAM):
        raise Refused(406, NO_EVENTS)


def _status(response: GraphQLResponse, media_type: str) -> int:
    """The status by GraphQL over HTTP: with application/json, 200 for all well-formed requests."""
    errors, data = response.entries.get("errors"), response.entries.get("data")
    if not errors or (data and any(value is not None for value in data.values())):
        return 200
    refused = 400 if media_type == GRAPHQL_JSON and not response.executed else 200
    return STATUS.get(errors[0]["extensions"]["code"], refused)


def _headers_of(error: Mapping[str, Any]) -> list[Header]:
    """The headers that repeat an error's extensions, for clients that read only headers."""
    extensions = error["extensions"]
    if extensions["code"] == Unauthenticated.code:
        return [_challenge(error["message"], extensions.get("reason", Unauthenticated.INVALID))]
    seconds = extensions.get("retryAfter")
    return [(b"retry-after", b"%d" % seconds)] if seconds else []


def _challenge(message: str, reason: str) -> Header:
    """The challenge of RFC 6750, without an error if the request has no token."""
    if reason == Unauthenticated.MISSING:
        return b"www-authenticate", b"Bearer"
    described = re.sub(r"[^ !#-\[\]-~]", "", message).encode()
    return b"www-authenticate", b'Bearer error="invalid_token", error_description="%b"' % described


async def _compressed(body: bytes) -> bytes:
    """Compress a body on a thread, so that the event loop is not blocked."""
    return await asyncio.to_thread(gzip.compress, body, FASTEST)


def _id_header(id_: str) -> Header:
    return b"x-request-id", id_.encode()


def _closing(send: Send) -> Send:
    async def send_and_close(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], _CLOSE]
        await send(message)

    return send_and_close


async def _respond(send: Send, status: int, headers: list[Header], body: bytes) -> None:
    length = (b"content-length", b"%d" % len(body))
    if status in PAUSED:
        await asyncio.sleep(PAUSE_SECONDS)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def handlers(address: str) -> dict[Any, Callable[[Request, Exception], Any]]:
    """Starlette's exception handlers. Their errors name `address`, the path that serves requests."""
    return {HTTPException: partial(_refusal, no_address(address)), Exception: _failure}


async def _refusal(nowhere: Refusal, request: Request, error: Exception) -> Response:
    """The GraphQL error for an unknown path or method, or an unreadable file."""
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler of that class
    is_method = error.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    return _error_response(
        no_method((error.headers or {}).get("Allow", "GET, HEAD")) if is_method else nowhere, request
    )


async def _failure(request: Request, _error: Exception) -> Response:
    """The GraphQL error for a bug outside the endpoint. uvicorn logs the exception."""
    return _error_response(FAILED, request)


def _error_response(refusal: Refusal, request: Request) -> Response:
    headers, body = refusal.rendered(request.scope["headers"])
    response = Response(body, refusal.status)
    response.raw_headers = headers
    return response


class ExplorerFiles(StaticFiles):
    """The explorer's assets. Their URLs change with their content, so browsers may cache them permanently.

    Each is compressed once, on a thread, and cached, because anybody can request them. Range headers are ignored:
    Starlette responses malformed ones in plain text.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory)
        self._compressed: dict[tuple[Path, str], asyncio.Task[bytes]] = {}

    async def get_response(self, path: str, scope: Scope) -> Response:
        # FileResponse reads the Range header itself.
        scope["headers"] = [header for header in scope["headers"] if header[0] != b"range"]
        response = await super().get_response(path, scope)
        if not isinstance(response, FileResponse):
            return response
        response.headers.update(_ASSET_HEADERS)
        del response.headers["accept-ranges"]
        if not takes_gzip(headers_of(scope).get(b"accept-encoding", b"")):
            return response
        headers = {**response.headers, "content-encoding": "gzip"}
        del headers["content-length"]
        return Response(await self._gzipped(Path(response.path), headers["etag"]), headers=headers)

    async def _gzipped(self, file: Path, etag: str) -> bytes:
        key = file, etag  # a rebuilt file has another etag
        if key not in self._compressed:
            compressing = asyncio.to_thread(lambda: gzip.compress(file.read_bytes()))
            self._compressed[key] = asyncio.create_task(compressing)
        # Shielded: a client that disconnects must not cancel the work that others wait for.
        return await asyncio.shield(self._compressed[key])
