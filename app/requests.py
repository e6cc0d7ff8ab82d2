"""What a client asks, read from HTTP and checked member by member."""

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson

from app.errors import BadUserInput, LimitExceeded
from app.media import is_json

MOST_BYTES = 100_000
MOST_PARAMETERS = 20

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Header = tuple[bytes, bytes]
Headers = Mapping[bytes, bytes]

ALLOW: Header = (b"allow", b"GET, POST")
ALLOW_POST: Header = (b"allow", b"POST")
CLOSE: Header = (b"connection", b"close")


@dataclass(slots=True)
class GraphQLRequest:
    """What a client asks, and what it says of itself. `safe`: it came by GET, and nothing may change."""

    query: str | None
    document_id: str | None
    variables: Mapping[str, Any] | None
    operation_name: str | None
    extensions: Mapping[str, Any] | None
    authorization: str | None
    address: str
    request_id: str
    safe: bool


class Refused(Exception):
    """A request that is answered with a status of its own under either media type, and with one GraphQL error."""

    def __init__(self, status: int, message: str, code: str = BadUserInput.code, *headers: Header) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


class Gone(Exception):
    """The client has hung up."""


async def read(scope: Scope, headers: Headers, receive: Receive, request_id: str) -> GraphQLRequest:
    """The request of a body or a query string. Anything but JSON is what a foreign page's form could send."""
    safe = scope["method"] != "POST"
    if safe:
        members = _parameters(scope["query_string"])
    elif is_json(headers.get(b"content-type", b"")):
        members = _json(await _body(receive), "The body")
    else:
        raise Refused(415, "The Content-Type must be application/json, in UTF-8.")
    if type(members) is not dict:
        raise Refused(400, "The body must be a JSON object with a query.")
    extensions = _member(members, "extensions", dict)
    query, document_id = _member(members, "query", str), _document_id(members, extensions)
    if query is None and document_id is None:
        raise Refused(400, "query must be a string.")
    return GraphQLRequest(
        query,
        document_id,
        _member(members, "variables", dict),
        _member(members, "operationName", str) or None,
        extensions,
        authorization.decode("latin-1") if (authorization := headers.get(b"authorization")) is not None else None,
        client[0] if (client := scope.get("client")) else "",
        request_id,
        safe,
    )


async def _body(receive: Receive) -> bytes:
    """The body, read no further than it may be long."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        size += len(part)
        if size > MOST_BYTES:
            raise Refused(413, f"The body must be at most {MOST_BYTES:,} bytes.", LimitExceeded.code, CLOSE)
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


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


def _json(text: bytes | str, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Refused(400, f"{what} is not valid JSON.") from None


def _member(members: dict[str, Any], name: str, kind: type) -> Any:
    value = members.get(name)
    if value is None or type(value) is kind:
        return value
    raise Refused(400, f"{name} must be {'an object' if kind is dict else 'a string'}.")


def _document_id(members: dict[str, Any], extensions: dict[str, Any] | None) -> str | None:
    """What names a document that is known here: `documentId`, or Apollo's extension."""
    if extensions is None or extensions.get("persistedQuery") is None:
        name: str | None = _member(members, "documentId", str)
        return name
    persisted = _member(extensions, "persistedQuery", dict)
    if persisted.get("version") != 1 or type(persisted.get("sha256Hash")) is not str:
        raise Refused(400, "persistedQuery must have version 1 and a sha256Hash.")
    sha256: str = persisted["sha256Hash"]
    return sha256


def request_id(given: bytes | None) -> str:
    """The caller's id where it may stand in a log, or a new one."""
    return given.decode() if given and re.fullmatch(rb"[\w.-]{1,64}", given, re.ASCII) else secrets.token_hex(8)
