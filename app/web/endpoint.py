"""GraphQL over HTTP: the endpoint and the explorer's page.

The endpoint is plain ASGI: each request passes it, so what it does not make need not be paid for.
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
from starlette.types import ASGIApp, Receive, Scope, Send

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
from app.operations import Execute, GraphQLAnswer, GraphQLRequest, ResponseStream
from app.origins import Origins
from app.sharing.rate_limits import OtherRequests, Rates, network
from app.web.arrivals import Arrivals
from app.web.event_streams import EventStreams
from app.web.explorer import CONTENT_SECURITY_POLICY, page
from app.web.media import EVENT_STREAM, GRAPHQL_JSON, HTML, JSON, names, preferred, takes_gzip
from app.web.refusals import FAILED, Refusal, no_address, no_method, too_many
from app.web.requests import Gone, Header, Headers, Note, Refused, joined, read, refuse_conflicts, request_id

# What fits into the first flight of a connection arrives no sooner when it is smaller.
WORTH_COMPRESSING = 14_000
FASTEST = 1
# A caller who is not known, has used up its share or came at a bad time waits a little for that answer: most send the
# next request when they have it.
PAUSE_SECONDS = 0.25
PAUSED = (401, 429, 503)
# Nobody needs more of these than may be had.
LONG_PAUSE_SECONDS = 1.0
# A request that cannot be read costs a stranger as much as so many rows.
ROWS_OF_A_REFUSAL = 5
# Requests whose body comes in parts or is large, of a process and of one address: each may have 100 KB in memory.
MOST_ARRIVALS, ARRIVALS_OF_AN_ADDRESS = 500, 200

ANSWERS = (GRAPHQL_JSON, JSON)
PAGES = (HTML, *ANSWERS)
BY_POST = (*ANSWERS, EVENT_STREAM)
BY_GET = (*PAGES, EVENT_STREAM)
NO_EVENTS = (
    f"A subscription needs an Accept header that names {EVENT_STREAM}, "
    "or a WebSocket with the subprotocol graphql-transport-ws."
)

# What an answer without data is worth under either media type, by the code of its first error. Clients that send ids
# of documents take no other status than 200 for the news that an id is not known.
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
    """POST and GET run operations; a browser's GET shows the explorer. `note` is told of what never becomes one."""

    def __init__(self, execute: Execute, streams: EventStreams, rates: Rates, origins: Origins, note: Note) -> None:
        self._execute, self._streams, self._rates, self._origins, self._note = execute, streams, rates, origins, note
        self._arrivals = Arrivals(MOST_ARRIVALS, ARRIVALS_OF_AN_ADDRESS)
        self._is_stopping = False

    def stop(self) -> None:
        """Have clients leave: each answer from now on is the last of its connection."""
        self._is_stopping = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: C901 - a part of its own would be a coroutine more a request
        lines = scope["headers"]
        headers = headers_of(scope)
        send = _closing(send) if self._is_stopping else send
        asked_as = request_id(headers.get(b"x-request-id"))
        asked: GraphQLRequest | None = None
        try:
            if len(headers) != len(lines):
                refuse_conflicts(lines)
                headers = joined(lines)
            media_type = _media_type(scope["method"], headers)
            if media_type == HTML:
                return await _respond(send, 200, _PAGE_HEADERS, page().encode())
            asked = await read(scope, headers, receive, asked_as, self._arrivals)
            answer = await self._execute(asked)
            if isinstance(answer, GraphQLAnswer):
                body, more = orjson.dumps(answer.entries), [NO_STORE] if asked.safe else []
            else:
                _demand_events(headers)
        except Gone:
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a GraphQL error
            charged = error if asked else await self._charged(error, scope)
            return await self._refuse(send, charged, headers, asked_as)
        else:
            if isinstance(answer, ResponseStream) or media_type == EVENT_STREAM:
                return await self._streams.send(answer, [_id_header(asked_as)], receive, send)
            status = _status(answer, media_type)
            if status in _HEADERS_OF:
                asked.leave()
                asked = None  # its variables must not be kept while its answer waits
                more += [*_HEADERS_OF[status], *_headers_of(answer.entries["errors"][0])]
            if len(body) >= WORTH_COMPRESSING and takes_gzip(headers.get(b"accept-encoding", b"")):
                body, more = await _compressed(body), [*more, *_COMPRESSED]
            return await _respond(send, status, [_CONTENT_TYPE[media_type], _id_header(asked_as), *more], body)
        finally:
            if asked is not None:
                asked.leave()

    async def _charged(self, error: Exception, scope: Scope) -> Exception:
        """The same refusal, charged to the address that it goes to; or that the address has had too many."""
        client = scope.get("client")
        if isinstance(error, Refused):
            error.forget()
        try:
            if waits := self._rates.charge(network(client[0] if client else ""), ROWS_OF_A_REFUSAL, is_user=False):
                await waits
        except RateLimited as limited:
            return Refused(429, str(limited), limited.code, (b"retry-after", b"%d" % limited.seconds))
        return error

    async def _refuse(self, send: Send, error: Exception, headers: Headers, asked_as: str) -> None:
        """Answer with one GraphQL error: the refusal's own, or that of a bug, which is masked and logged."""
        if isinstance(error, Refused):
            error.forget()
            status, more = error.status, error.headers
            shown = {"message": str(error), "extensions": {"code": error.code}}
            self._note(asked_as, status, error.code)
            if status == HTTPStatus.METHOD_NOT_ALLOWED and b"access-control-request-method" in headers:
                self._origins.log_refused(headers.get(b"origin", b"").decode("latin-1"))
        else:
            status, more, shown = 500, (), masked(error, asked_as)
        media_type = preferred(headers.get(b"accept", b""), ANSWERS) or JSON
        body = orjson.dumps({"errors": [shown]})
        await _respond(send, status, [_CONTENT_TYPE[media_type], _id_header(asked_as), *more], body)


def _media_type(method: str, headers: Headers) -> str:
    """What the answer shall be: by POST one of GraphQL's media types, by GET the explorer's page as well."""
    if method not in {"POST", "GET", "HEAD"}:
        raise Refused(405, "Send operations by POST, or queries by GET.", MethodNotAllowed.code, ALLOW)
    media_type = preferred(headers.get(b"accept", b""), BY_POST if method == "POST" else BY_GET)
    if media_type is None:
        raise Refused(406, f"Answers come as {GRAPHQL_JSON} or {JSON}; accept one of these.")
    return media_type


def _demand_events(headers: Headers) -> None:
    """By name: whoever takes anything expects one answer, and would wait for its end."""
    if not names(headers.get(b"accept", b""), EVENT_STREAM):
        raise Refused(406, NO_EVENTS)


def _status(answer: GraphQLAnswer, media_type: str) -> int:
    """As GraphQL over HTTP has it: the old media type says 200 to whatever it understood."""
    errors, data = answer.entries.get("errors"), answer.entries.get("data")
    if not errors or (data and any(value is not None for value in data.values())):
        return 200
    refused = 400 if media_type == GRAPHQL_JSON and not answer.executed else 200
    return STATUS.get(errors[0]["extensions"]["code"], refused)


def _headers_of(error: Mapping[str, Any]) -> list[Header]:
    """What an error's extensions say for clients that look at headers alone."""
    extensions = error["extensions"]
    if extensions["code"] == Unauthenticated.code:
        return [_challenge(error["message"], extensions.get("reason", Unauthenticated.INVALID))]
    seconds = extensions.get("retryAfter")
    return [(b"retry-after", b"%d" % seconds)] if seconds else []


def _challenge(message: str, reason: str) -> Header:
    """The challenge of RFC 6750, which names no error where no token came."""
    if reason == Unauthenticated.MISSING:
        return b"www-authenticate", b"Bearer"
    described = re.sub(r"[^ !#-\[\]-~]", "", message).encode()
    return b"www-authenticate", b'Bearer error="invalid_token", error_description="%b"' % described


async def _compressed(body: bytes) -> bytes:
    """A thread compresses; the loop serves others meanwhile."""
    return await asyncio.to_thread(gzip.compress, body, FASTEST)


def _id_header(asked_as: str) -> Header:
    return b"x-request-id", asked_as.encode()


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


def limited(app: ASGIApp, requests: OtherRequests, probes: tuple[str, ...]) -> ASGIApp:
    """An application without operations, whose requests are refused where a client address sends too many.

    `probes` are the ends of the paths that probes ask.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            client = scope.get("client")
            try:
                await requests.charge(client[0] if client else "", is_probe=scope["path"].endswith(probes))
            except RateLimited as error:
                await asyncio.sleep(LONG_PAUSE_SECONDS)
                return await too_many(error).send(scope, send, ())
        return await app(scope, receive, send)

    return call


def handlers(address: str) -> dict[Any, Callable[[Request, Exception], Any]]:
    """Starlette's handlers of exceptions, which refuse what the routes do not answer; `address` is named for use."""
    return {HTTPException: partial(_refusal, no_address(address)), Exception: _failure}


async def _refusal(nowhere: Refusal, request: Request, error: Exception) -> Response:
    """A GraphQL error for what no route takes: 404, 405, or a file that may not be read."""
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler of that class
    is_method = error.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    return _answer(no_method((error.headers or {}).get("Allow", "GET, HEAD")) if is_method else nowhere, request)


async def _failure(request: Request, _error: Exception) -> Response:
    """The GraphQL error for a bug in anything but the endpoint; uvicorn logs it."""
    return _answer(FAILED, request)


def _answer(refusal: Refusal, request: Request) -> Response:
    headers, body = refusal.told(request.scope["headers"])
    response = Response(body, refusal.status)
    response.raw_headers = headers
    return response


class ExplorerFiles(StaticFiles):
    """The explorer's assets: their addresses change with what they hold, so that browsers may keep them.

    Strangers ask for them as often as they like: each is compressed once, on a thread. A Range is ignored: Starlette
    refuses malformed ones in plain text.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory)
        self._compressed: dict[tuple[Path, str], asyncio.Task[bytes]] = {}

    async def get_response(self, path: str, scope: Scope) -> Response:
        # The response looks for the header by itself.
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
        key = file, etag  # a file that was built anew has another
        if key not in self._compressed:
            compressing = asyncio.to_thread(lambda: gzip.compress(file.read_bytes()))
            self._compressed[key] = asyncio.create_task(compressing)
        # Shielded: a client that leaves must not take the work of all others along.
        return await asyncio.shield(self._compressed[key])
