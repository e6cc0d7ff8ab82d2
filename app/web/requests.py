"""GraphQL requests as they come over HTTP: bodies, query strings, and what is refused of them."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

import orjson

from app import operations
from app.errors import RETRY_AFTER_SECONDS, BadUserInput, LimitExceeded, Unavailable
from app.operations import GraphQLRequest
from app.sharing.rate_limits import network
from app.web.arrivals import Arrivals
from app.web.media import is_identity, is_json

MOST_BYTES = 100_000
# A body that is no longer is read as soon as it has come: a thousand of them at once are no burden.
SMALL_BYTES = 16_000
# How long the rest of a body is thrown away that had to give way, before that is answered.
THROW_AWAY_SECONDS = 0.25
MOST_PARAMETERS = 20
_RETRY, _CLOSE = (b"retry-after", b"%d" % RETRY_AFTER_SECONDS), (b"connection", b"close")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Header = tuple[bytes, bytes]
Headers = Mapping[bytes, bytes]
# Is told of what never becomes an operation: a request id, a status and a code.
Note = Callable[[str, int, str], None]


class Refused(Exception):
    """A request that is answered with a status of its own under either media type, and with one GraphQL error."""

    def __init__(self, status: int, message: str, code: str = BadUserInput.code, *headers: Header) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers

    def forget(self) -> None:
        """Let go of what led here: the body, and what was read of it, must not be kept while the answer waits."""
        self.__traceback__ = self.__context__ = None


# Headers that have one value; all others of several lines are lists.
_SINGLE = (b"authorization", b"content-type", b"host", b"origin")


def joined(lines: list[Header]) -> Headers:
    """The headers of a request, each with the elements of all its lines."""
    values: dict[bytes, dict[bytes, None]] = {}
    for name, value in lines:
        values.setdefault(name, {})[value] = None
    return {name: b", ".join(different) for name, different in values.items()}


def refuse_conflicts(lines: list[Header]) -> None:
    """Refused where several lines give different values for what has one."""
    for single in _SINGLE:
        if len({value for name, value in lines if name == single}) > 1:
            raise Refused(400, f"The request has several different {single.decode().title()} headers; send one.")


class Gone(Exception):
    """The client has hung up."""


async def read(scope: Scope, headers: Headers, receive: Receive, request_id: str, arrivals: Arrivals) -> GraphQLRequest:
    """The request of a body, or of a query string. Anything but JSON is what a foreign page's form could send."""
    safe, client, authorization = scope["method"] != "POST", scope.get("client"), headers.get(b"authorization")
    address = client[0] if client else ""
    if safe:
        members, size = _parameters(scope["query_string"]), len(scope["query_string"])
    elif b"content-encoding" in headers and not is_identity(headers[b"content-encoding"]):
        message = "The body must come as it is, without a Content-Encoding such as gzip."
        raise Refused(415, message, BadUserInput.code, (b"accept-encoding", b"identity"))
    elif is_json(headers.get(b"content-type", b"")):
        members, size = await _members(receive, address, arrivals)
    else:
        raise Refused(415, "The Content-Type must be application/json, in UTF-8.")
    if type(members) is not dict:
        raise Refused(400, "The body must be a JSON object with a query.")
    token = None if authorization is None else authorization.decode("latin-1")
    try:
        asked = operations.request(members, token, request_id, address=address, safe=safe)
    except BadUserInput as error:
        raise Refused(400, str(error)) from None
    asked.size = size
    return asked


async def _members(receive: Receive, address: str, arrivals: Arrivals) -> tuple[Any, int]:
    """What a body holds, and its length. Most are small and come in one piece; all others need a place until then."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) <= SMALL_BYTES:
            return _json(body, "The body"), len(body)
    try:
        return await _large_members(message, receive, network(address), arrivals)
    except TimeoutError:
        await _throw_away(receive)
        many = "Too many incomplete or large requests come from your address; send a request at once, and try again."
        raise Refused(503, many, Unavailable.code, _RETRY, _CLOSE) from None


async def _throw_away(receive: Receive) -> None:
    """Keep nothing of what still comes while a refusal waits."""
    with suppress(TimeoutError):
        async with asyncio.timeout(THROW_AWAY_SECONDS):
            while (await receive()).get("more_body"):
                pass


async def _large_members(
    message: MutableMapping[str, Any], receive: Receive, address: str, arrivals: Arrivals
) -> tuple[Any, int]:
    async with arrivals.place(address):
        parts = await _parts(message, receive)
        try:
            return await arrivals.json(address, parts), len(parts)
        except orjson.JSONDecodeError:
            raise _no_json("The body") from None


async def _parts(message: MutableMapping[str, Any], receive: Receive) -> bytearray:
    """A body of several parts, read no further than it may be long."""
    body = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            # The connection stays open: closed while a client still sends, it may lose the answer on the way.
            raise Refused(413, f"The body must be at most {MOST_BYTES:,} bytes.", LimitExceeded.code)
        if not message.get("more_body"):
            return body
        message = await receive()


def _parameters(query_string: bytes) -> dict[str, Any]:
    """The members of a request in a URL, where variables and extensions are JSON texts."""
    try:
        given = parse_qsl(query_string.decode("ascii"), errors="strict", max_num_fields=MOST_PARAMETERS)
    except ValueError:
        raise Refused(400, "The URL's query string is malformed.") from None
    members: dict[str, Any] = dict(given)
    for name in ("variables", "extensions"):
        if name in members:
            members[name] = _json(members[name], name)
    return members


def _json(text: bytes | bytearray | str, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _no_json(what) from None


def _no_json(what: str) -> Refused:
    return Refused(400, f"{what} is not valid JSON.")


def request_id(given: bytes | None) -> str:
    """The caller's id where it may stand in a log, or a new one."""
    return given.decode() if given and re.fullmatch(rb"[\w.-]{1,64}", given, re.ASCII) else os.urandom(8).hex()
