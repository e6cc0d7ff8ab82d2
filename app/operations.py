"""GraphQL requests and responses, independent of the transport."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from app.errors import BadUserInput


class Places(Protocol):
    """Limits the requests in progress."""

    def give(self, key: str) -> None:
        """Release a place of this payer."""


@dataclass(slots=True)
class GraphQLRequest:
    """A GraphQL request, and what the server knows about it.

    address: The client's, empty if unknown.
    safe: Whether the HTTP method is safe (GET), so that mutations are rejected.
    size: Bytes of the request, if known, with more for lists and objects. It cannot have more values than this.
    payer: The key that is charged: a user's id, or the network of an anonymous caller.
    is_large: Whether the variables have many values.
    places, large_places, long_places: Where the request occupies a place until its response is complete; in the last
        two only if it is large, and in the last one only if it is long.
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
    long_places: Places | None = None

    def leave(self) -> None:
        """Release the places of a request, its text and its variables.

        The tracebacks of errors form cycles, and can keep the request alive until the next garbage collection.
        """
        self.query = self.variables = self.extensions = None
        if self.places is not None:
            self.places.give(self.payer)
            self.places = None
            if self.large_places is not None:
                self.large_places.give(self.payer)
                self.large_places = None
                if self.long_places is not None:
                    self.long_places.give(self.payer)
                    self.long_places = None


@dataclass(slots=True)
class GraphQLResponse:
    """The entries of a GraphQL response, and whether the operation was executed."""

    entries: dict[str, Any]
    executed: bool


@dataclass(slots=True)
class ResponseStream:
    """The responses of a subscription, one per event, until the token expires (Unix seconds).

    A response that was not executed is the last one: the subscription could not start, or failed.
    """

    responses: AsyncGenerator[GraphQLResponse, None]
    expires_at: float


Execute = Callable[[GraphQLRequest], Awaitable[GraphQLResponse | ResponseStream]]


async def each(outcome: GraphQLResponse | ResponseStream) -> AsyncGenerator[GraphQLResponse, None]:
    """The single response, or each response of the stream."""
    if isinstance(outcome, GraphQLResponse):
        yield outcome
        return
    try:
        async for response in outcome.responses:
            yield response
    finally:
        await outcome.responses.aclose()


_KINDS = {"query": str, "documentId": str, "operationName": str, "variables": dict, "extensions": dict}


def request(
    members: Mapping[str, Any], authorization: str | None, request_id: str, *, address: str = "", safe: bool = False
) -> GraphQLRequest:
    """Build the request from a JSON object; raises BadUserInput that names an invalid member."""
    query, variables, extensions = members.get("query"), members.get("variables"), members.get("extensions")
    document_id, operation_name = members.get("documentId"), members.get("operationName")
    is_plain = extensions is document_id is operation_name is None  # the common case
    if not is_plain or type(query) is not str or (variables is not None and type(variables) is not dict):
        _check(members)
        if extensions:
            document_id = _persisted(extensions) or document_id
        if query is None and document_id is None:
            raise BadUserInput("query must be a string.")
    if document_id and query is not None and not query.strip():
        query = None  # clients whose protocol requires a query send an empty one with an id
    return GraphQLRequest(
        query,
        document_id,
        variables,
        operation_name or None,
        extensions,
        authorization,
        request_id,
        address=address,
        safe=safe,
    )


def _check(members: Mapping[str, Any]) -> None:
    """Raise BadUserInput if a member has the wrong type."""
    for name, kind in _KINDS.items():
        value = members.get(name)
        if value is not None and type(value) is not kind:
            raise BadUserInput(f"{name} must be {'an object' if kind is dict else 'a string'}.")


def _persisted(extensions: Mapping[str, Any]) -> str | None:
    """The hash in Apollo's extension, which takes precedence over `documentId`."""
    persisted = extensions.get("persistedQuery")
    if persisted is not None and type(persisted) is not dict:
        raise BadUserInput("extensions.persistedQuery must be an object.")
    if not persisted:
        return None
    sha256 = persisted.get("sha256Hash")
    if persisted.get("version") != 1 or not isinstance(sha256, str):
        raise BadUserInput("extensions.persistedQuery must have version: 1 and sha256Hash, a string.")
    return sha256
