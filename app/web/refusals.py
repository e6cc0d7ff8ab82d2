"""Responses to rejected requests and WebSocket handshakes: one GraphQL error, whichever layer rejects them."""

import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson

from app.errors import (
    RETRY_AFTER_SECONDS,
    BadUserInput,
    LimitExceeded,
    MethodNotAllowed,
    RateLimited,
    RequestError,
    Unavailable,
)
from app.observability.masking import MASKED
from app.observability.metrics import ERRORS
from app.origins import Header, Origins
from app.web.requests import Scope, request_id

log = logging.getLogger(__name__)

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Refusal(NamedTuple):
    """A status, a message and a code, with additional headers. `retry_after` is in seconds."""

    status: HTTPStatus
    message: str
    code: str = BadUserInput.code
    headers: tuple[Header, ...] = ()
    retry_after: int | None = None

    def rendered(self, asked: Iterable[Header]) -> tuple[list[Header], bytes]:
        """The headers and the body for a request with the headers `asked`. Logs and counts the refusal."""
        id_ = request_id(dict(asked).get(b"x-request-id"))
        ERRORS.labels(self.code).inc()
        log.info("request %s was rejected with %d: %s", id_, self.status, self.message)
        again = {} if self.retry_after is None else {"retryAfter": self.retry_after}
        body = orjson.dumps({"errors": [{"message": self.message, "extensions": {"code": self.code, **again}}]})
        headers = [
            (b"content-type", b"application/json; charset=utf-8"),
            (b"x-request-id", id_.encode()),
            (b"content-length", b"%d" % len(body)),
            *self.headers,
            *((b"retry-after", b"%d" % seconds) for seconds in again.values()),
        ]
        return headers, body

    def answer(self, asked: list[Header], origins: Origins, *, has_body: bool = True) -> bytes:
        """The last response on a connection, as bytes."""
        headers, body = self.rendered(asked)
        headers += [(b"connection", b"close"), *origins.headers_for(dict(asked).get(b"origin"))]
        lines = [b"HTTP/1.1 %d %b" % (self.status, self.status.phrase.encode()), *map(b": ".join, headers)]
        return b"\r\n".join([*lines, b"", body if has_body else b""])

    async def send(self, scope: Scope, send: Send, cors: Iterable[Header]) -> None:
        """Respond to an ASGI request, or to a WebSocket handshake that was not accepted."""
        kind = "http" if scope["type"] == "http" else "websocket.http"
        headers, body = self.rendered(scope["headers"])
        await send({"type": f"{kind}.response.start", "status": self.status.value, "headers": [*headers, *cors]})
        await send({"type": f"{kind}.response.body", "body": body})


class RequestRefused(Exception):
    """Raised in the parser's callbacks, to stop the parser."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def too_long(what: str, most: int) -> Refusal:
    """The refusal of a head, or a part of one, of more than `most` bytes."""
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return Refusal(status, f"{what} must be at most {most:,} bytes.", LimitExceeded.code)


def many_parts(most: int) -> Refusal:
    """The refusal of a body in more than `most` parts."""
    message = f"The body must arrive in at most {most:,} parts."
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, LimitExceeded.code)


def many_ahead(most: int) -> Refusal:
    """The refusal of more than `most` pipelined requests."""
    message = f"At most {most} requests may be pipelined on a connection; send the others again."
    return Refusal(HTTPStatus.BAD_REQUEST, message, LimitExceeded.code)


def malformed(message: str) -> Refusal:
    """The refusal of a request that violates the RFCs of HTTP/1.1."""
    return Refusal(HTTPStatus.BAD_REQUEST, message)


def handshake(status: int, problem: str) -> Refusal:
    """The refusal of a WebSocket handshake."""
    headers: list[Header] = [(b"sec-websocket-version", b"13")]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return Refusal(HTTPStatus(status), problem, MethodNotAllowed.code, (*headers, (b"allow", b"GET")))
    return Refusal(HTTPStatus(status), problem, BadUserInput.code, tuple(headers))


def no_address(graphql: str) -> Refusal:
    """The refusal of an unknown path; `graphql` is the endpoint's path."""
    return Refusal(HTTPStatus.NOT_FOUND, f"There is nothing at this path; send requests to {graphql}.")


def no_method(allowed: str) -> Refusal:
    """The refusal of a method; `allowed` is the value of Allow."""
    message = f"This path does not support this method; use {allowed}."
    return Refusal(
        HTTPStatus.METHOD_NOT_ALLOWED, message, MethodNotAllowed.code, ((b"allow", allowed.encode("latin-1")),)
    )


def too_many(error: RateLimited) -> Refusal:
    """The refusal of an address that has sent too many requests."""
    return Refusal(HTTPStatus.TOO_MANY_REQUESTS, str(error), error.code, retry_after=error.seconds)


FOREIGN = Refusal(
    HTTPStatus.FORBIDDEN, "Pages of this origin may not call this server; its setting CORS_ORIGINS can allow it."
)
LATE = Refusal(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive completely in time.")
MALFORMED = malformed("The request is not valid HTTP/1.1.")
NO_TUNNEL = Refusal(
    HTTPStatus.METHOD_NOT_ALLOWED,
    "This server is not a proxy; send operations by POST, or queries by GET.",
    MethodNotAllowed.code,
    ((b"allow", b"GET, POST"),),
)
STALLED = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "The WebSocket could not be opened in time; retry.", Unavailable.code)
STOPPING = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE, "This server process is stopping; retry to reach another one.", Unavailable.code
)
CROWDED = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The server has too many requests with long URLs or headers; send shorter ones, or retry.",
    Unavailable.code,
    retry_after=RETRY_AFTER_SECONDS,
)
FAILED = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, MASKED, RequestError.code)
