"""Reads GraphQL requests from HTTP: bodies and query strings, and rejects malformed ones."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from app import operations
from app.errors import (
    RETRY_AFTER_SECONDS,
    BadUserInput,
    LimitExceeded,
    RateLimited,
    RequestError,
    Unauthenticated,
    Unavailable,
)
from app.operations import GraphQLRequest
from app.sharing.rate_limits import network
from app.web.arrivals import BODY, Arrivals
from app.web.bounded_json import parse
from app.web.long_messages import LONGEST_BYTES, MOST_BYTES, LongMessages
from app.web.media import is_identity, is_json

# Bodies up to this size are parsed as soon as they have arrived: a thousand of them at once use little memory.
SMALL_BYTES = 16_000
# How long the rest of a body is discarded, after it was rejected because of too many others, before the response.
THROW_AWAY_SECONDS = 0.25
MOST_PARAMETERS = 20
_RETRY, _CLOSE = (b"retry-after", b"%d" % RETRY_AFTER_SECONDS), (b"connection", b"close")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Header = tuple[bytes, bytes]
Headers = Mapping[bytes, bytes]
# Called for requests that are rejected before they become an operation, with the request id, the status and the code.
Note = Callable[[str, int, str], None]


class Refused(Exception):
    """A rejected request: its response has one GraphQL error, and the same status with both media types."""

    def __init__(self, status: int, message: str, code: str = BadUserInput.code, *headers: Header) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers

    def forget(self) -> None:
        """Drop the traceback, so that the body and its values are not kept in memory while the response is delayed."""
        self.__traceback__ = self.__context__ = None


# Headers with a single value. All others are lists, which may span several lines.
_SINGLE = (b"authorization", b"content-type", b"host", b"origin")


def joined(lines: list[Header]) -> Headers:
    """The headers of a request, the lines of each joined."""
    values: dict[bytes, dict[bytes, None]] = {}
    for name, value in lines:
        values.setdefault(name, {})[value] = None
    return {name: b", ".join(different) for name, different in values.items()}


def refuse_conflicts(lines: list[Header]) -> None:
    """Raise Refused if a header with a single value has several different ones."""
    for single in _SINGLE:
        if len({value for name, value in lines if name == single}) > 1:
            raise Refused(400, f"The request has {single.decode().title()} headers with different values; send one.")


class Places(NamedTuple):
    """The limits of bodies that are being received."""

    arrivals: Arrivals
    long: LongMessages


class Disconnected(Exception):
    """The client has disconnected."""


async def read(scope: Scope, headers: Headers, receive: Receive, request_id: str, places: Places) -> GraphQLRequest:
    """Read the request from the body, or from the query string of a GET.

    Only JSON is accepted, because forms on other sites can send other media types without a preflight request.
    """
    safe, client, authorization = scope["method"] != "POST", scope.get("client"), headers.get(b"authorization")
    address = client[0] if client else ""
    token = None if authorization is None else authorization.decode("latin-1")
    try:
        if safe:
            members, size = _parameters(scope["query_string"])
        elif b"content-encoding" in headers and not is_identity(headers[b"content-encoding"]):
            message = "The body must not be compressed; send it without Content-Encoding."
            raise Refused(415, message, BadUserInput.code, (b"accept-encoding", b"identity"))
        elif is_json(headers.get(b"content-type", b"")):
            members, size = await _members(receive, address, token, places)
        else:
            raise Refused(415, "The Content-Type must be application/json, in UTF-8.")
        if type(members) is not dict:
            raise Refused(400, "The body must be a JSON object with the member query; batches are not supported.")
        asked = operations.request(members, token, request_id, address=address, safe=safe)
    except (RateLimited, Unavailable) as error:
        status = 429 if isinstance(error, RateLimited) else 503
        raise Refused(status, str(error), error.code, _RETRY, _CLOSE) from None
    except RequestError as error:
        raise Refused(413 if isinstance(error, LimitExceeded) else 400, str(error), error.code) from None
    asked.size = size
    return asked


async def _members(receive: Receive, address: str, token: str | None, places: Places) -> tuple[Any, int]:
    """The parsed body, and its size. Bodies that are large or arrive in parts need a place first."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) <= SMALL_BYTES:
            return parse(body, BODY)
    try:
        return await _large_members(message, receive, address, token, places)
    except TimeoutError:
        await _throw_away(receive)
        many = "Too many large or incomplete requests from your address are in progress; retry later."
        raise Refused(503, many, Unavailable.code, _RETRY, _CLOSE) from None


async def _throw_away(receive: Receive) -> None:
    """Discard the rest of a body for a moment."""
    with suppress(TimeoutError):
        async with asyncio.timeout(THROW_AWAY_SECONDS):
            while (await receive()).get("more_body"):
                pass


async def _large_members(
    message: MutableMapping[str, Any], receive: Receive, address: str, token: str | None, places: Places
) -> tuple[Any, int]:
    payer, body = network(address), bytearray()
    async with places.arrivals.place(payer):
        if await _received(body, MOST_BYTES, message, receive):
            return await places.arrivals.json(payer, body)
        try:
            async with places.long.place(token, address):
                if not await _received(body, LONGEST_BYTES, await receive(), receive):
                    raise _too_long(f"The body must be at most {LONGEST_BYTES:,} bytes.")
                return await places.arrivals.json(payer, body)
        except Unauthenticated as error:
            few = f"The body must be at most {MOST_BYTES:,} bytes without a valid token. {error}"
            raise _too_long(few) from None


async def _received(body: bytearray, most: int, message: MutableMapping[str, Any], receive: Receive) -> bool:
    """Read the parts of a body until it is complete, or longer than `most`; returns whether it is complete."""
    while True:
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        if len(body) > most:
            return False
        if not message.get("more_body"):
            return True
        message = await receive()


def _too_long(message: str) -> Refused:
    # The connection stays open: if it is closed while the client still sends, the response may be lost.
    return Refused(413, message, LimitExceeded.code)


def _parameters(query_string: bytes) -> tuple[dict[str, Any], int]:
    """The members of a request in a URL, and their size. The parameters variables and extensions are JSON."""
    try:
        given = parse_qsl(query_string.decode("ascii"), errors="strict", max_num_fields=MOST_PARAMETERS)
    except ValueError:
        message = f"The URL's query string is malformed, or has more than {MOST_PARAMETERS} parameters."
        raise Refused(400, message) from None
    members: dict[str, Any] = dict(given)
    size = len(query_string)
    for name in ("variables", "extensions"):
        if name in members:
            members[name], more = parse(members[name], name)
            size += more
    return members, size


def request_id(given: bytes | None) -> str:
    """The client's request id if it is safe to log, otherwise a new one."""
    return given.decode() if given and re.fullmatch(rb"[\w.-]{1,64}", given, re.ASCII) else os.urandom(8).hex()
