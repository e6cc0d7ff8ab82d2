"""What a client asks and what it is answered, over whichever transport."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from app.errors import BadUserInput


class Places(Protocol):
    """Where a request has its place."""

    def give(self, key: str) -> None:
        """Give the place of this payer back."""


@dataclass(slots=True)
class GraphQLRequest:
    """What a client asks: a document or the id of one, its variables, the operation to run; and what is known of it.

    `address` is the client's, empty where none is known. `safe`: it came in a way that must not change anything.
    `size`: the bytes it came in, where they are known; it has no more values than those. `payer`: who is charged, a
    user's id or a stranger's address. `is_large`: its variables have many values. `places`: among these it has one
    until it was answered, and where it came in many bytes, one among `large_places`.
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
    size: float = inf
    payer: str = ""
    is_large: bool = False
    places: Places | None = None
    large_places: Places | None = None

    def leave(self) -> None:
        """Give up the place of a request that was answered, and what it has brought along.

        The tracebacks of refusals are in cycles, and may refer to the request until garbage is collected.
        """
        self.variables = None
        if self.places is not None:
            self.places.give(self.payer)
            self.places = None
            if self.large_places is not None:
                self.large_places.give(self.payer)
                self.large_places = None


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


_KINDS = {"query": str, "documentId": str, "operationName": str, "variables": dict, "extensions": dict}


def request(
    members: Mapping[str, Any], authorization: str | None, request_id: str, *, address: str = "", safe: bool = False
) -> GraphQLRequest:
    """The request of a JSON object; BadUserInput names the member that is not what it must be."""
    for name, value in members.items():
        kind = _KINDS.get(name)
        if value is not None and kind is not None and type(value) is not kind:
            raise BadUserInput(f"{name} must be {'an object' if _KINDS[name] is dict else 'a string'}.")
    query, extensions = members.get("query"), members.get("extensions")
    document_id = _persisted(extensions) if extensions else None
    document_id = document_id or members.get("documentId")
    if query is None and document_id is None:
        raise BadUserInput("query must be a string.")
    if document_id and query is not None and not query.strip():
        query = None  # clients of protocols that demand a query send an empty one along with an id
    variables, operation_name = members.get("variables"), members.get("operationName") or None
    return GraphQLRequest(
        query, document_id, variables, operation_name, extensions, authorization, request_id, address=address, safe=safe
    )


def _persisted(extensions: Mapping[str, Any]) -> str | None:
    """The id of a document in Apollo's extension, which goes before `documentId`."""
    persisted = extensions.get("persistedQuery")
    if persisted is not None and type(persisted) is not dict:
        raise BadUserInput("persistedQuery must be an object.")
    if not persisted:
        return None
    sha256 = persisted.get("sha256Hash")
    if persisted.get("version") != 1 or not isinstance(sha256, str):
        raise BadUserInput("extensions.persistedQuery must have version 1 and a sha256Hash.")
    return sha256
