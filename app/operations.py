"""What a client asks and what it is answered, over whichever transport."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import BadUserInput


@dataclass(slots=True)
class GraphQLRequest:
    """What a client asks: a document or the id of one, its variables, the operation to run; and what is known of it.

    `address` is the client's, empty where none is known. `safe`: it came in a way that must not change anything.
    """

    query: str | None
    document_id: str | None
    variables: Mapping[str, Any] | None
    operation_name: str | None
    extensions: Mapping[str, Any] | None
    authorization: str | None
    request_id: str
    address: str = ""
    safe: bool = False


@dataclass(slots=True)
class GraphQLAnswer:
    """The entries of an answer, and whether the operation came to execution."""

    entries: dict[str, Any]
    executed: bool


@dataclass(slots=True)
class ResponseStream:
    """The answers of a subscription, one an event; it holds until its token expires (Unix seconds).

    One that did not come to execution is the last: the subscription could not begin, or broke off.
    """

    answers: AsyncGenerator[GraphQLAnswer, None]
    expires_at: float


Execute = Callable[[GraphQLRequest], Awaitable[GraphQLAnswer | ResponseStream]]


async def each(answered: GraphQLAnswer | ResponseStream) -> AsyncGenerator[GraphQLAnswer, None]:
    """One answer or many."""
    if isinstance(answered, GraphQLAnswer):
        yield answered
        return
    try:
        async for answer in answered.answers:
            yield answer
    finally:
        await answered.answers.aclose()


def request(
    members: Mapping[str, Any], authorization: str | None, request_id: str, *, address: str = "", safe: bool = False
) -> GraphQLRequest:
    """The request of a JSON object; BadUserInput names the member that is not what it must be."""
    extensions = _member(members, "extensions", dict)
    query, document_id = _member(members, "query", str), _document_id(members, extensions)
    if query is None and document_id is None:
        raise BadUserInput("query must be a string.")
    variables, name = _member(members, "variables", dict), _member(members, "operationName", str) or None
    return GraphQLRequest(
        query, document_id, variables, name, extensions, authorization, request_id, address=address, safe=safe
    )


def _member(members: Mapping[str, Any], name: str, kind: type) -> Any:
    value = members.get(name)
    if value is None or type(value) is kind:
        return value
    raise BadUserInput(f"{name} must be {'an object' if kind is dict else 'a string'}.")


def _document_id(members: Mapping[str, Any], extensions: Mapping[str, Any] | None) -> str | None:
    """What names a document that is known here: `documentId`, or Apollo's extension."""
    persisted = extensions and _member(extensions, "persistedQuery", dict)
    if not persisted:
        document_id: str | None = _member(members, "documentId", str)
        return document_id
    sha256 = persisted.get("sha256Hash")
    if persisted.get("version") != 1 or not isinstance(sha256, str):
        raise BadUserInput("extensions.persistedQuery must have version 1 and a sha256Hash.")
    return sha256
