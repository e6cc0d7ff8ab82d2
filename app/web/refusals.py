"""What the protocol layer answers by itself, before the application has seen the request."""

import logging
from http import HTTPStatus
from typing import NamedTuple

import orjson

from app.errors import BadUserInput, LimitExceeded, MethodNotAllowed, RequestError, Unavailable
from app.observability.masking import MASKED
from app.observability.metrics import ERRORS
from app.origins import Header, Origins
from app.web.requests import request_id

log = logging.getLogger(__name__)


class Refusal(NamedTuple):
    """A status, a message and a code; `headers` are those beyond what every refusal has."""

    status: HTTPStatus
    message: str
    code: str = BadUserInput.code
    headers: tuple[Header, ...] = ()

    def answer(self, asked: list[Header], origins: Origins, *, has_body: bool = True) -> bytes:
        """The last answer of a connection, to a request with these headers; it is logged and counted here."""
        given = dict(asked)
        asked_as = request_id(given.get(b"x-request-id"))
        ERRORS.labels(self.code).inc()
        log.info("request %s was refused with %d: %s", asked_as, self.status, self.message)
        body = orjson.dumps({"errors": [{"message": self.message, "extensions": {"code": self.code}}]})
        headers = [
            (b"connection", b"close"),
            (b"content-type", b"application/json; charset=utf-8"),
            (b"x-request-id", asked_as.encode()),
            (b"content-length", b"%d" % len(body)),
            *self.headers,
            *origins.headers_for(given.get(b"origin")),
        ]
        lines = [b"HTTP/1.1 %d %b" % (self.status, self.status.phrase.encode()), *map(b": ".join, headers)]
        return b"\r\n".join([*lines, b"", body if has_body else b""])


class RequestRefused(Exception):
    """Raised within the parser's callbacks: makes the parser stop."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def too_long(what: str, most: int) -> Refusal:
    """A refusal of more than `most` bytes of head."""
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return Refusal(status, f"{what} must be at most {most:,} bytes.", LimitExceeded.code)


def many_parts(most: int) -> Refusal:
    """A refusal of a body in more than `most` parts."""
    message = f"The body must come in at most {most:,} parts."
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, LimitExceeded.code)


def many_ahead(most: int) -> Refusal:
    """A refusal of more than `most` requests that are sent before the one under way is answered."""
    message = f"At most {most} requests may be sent ahead on a connection; send the others again."
    return Refusal(HTTPStatus.BAD_REQUEST, message, LimitExceeded.code)


def malformed(message: str) -> Refusal:
    """A refusal of what is not HTTP/1.1 as its RFCs define it."""
    return Refusal(HTTPStatus.BAD_REQUEST, message)


def handshake(status: int, problem: str) -> Refusal:
    """A refusal of a WebSocket handshake."""
    headers: list[Header] = [(b"sec-websocket-version", b"13")]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return Refusal(HTTPStatus(status), problem, MethodNotAllowed.code, (*headers, (b"allow", b"GET")))
    return Refusal(HTTPStatus(status), problem, BadUserInput.code, tuple(headers))


LATE = Refusal(HTTPStatus.REQUEST_TIMEOUT, "The request did not come whole in time.")
MALFORMED = malformed("The request is not valid HTTP/1.1.")
NO_TUNNEL = Refusal(
    HTTPStatus.METHOD_NOT_ALLOWED,
    "This server is no proxy; send operations by POST, or queries by GET.",
    MethodNotAllowed.code,
    ((b"allow", b"GET, POST"),),
)
STALLED = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE, "The socket could not be opened in time; try again.", Unavailable.code
)
FAILED = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, MASKED, RequestError.code)
