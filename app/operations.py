"""What a client asks and what it is answered, over whichever transport."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import BadUserInput


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """What a client asks: the document, its variables, the operation to run, and whom it says it is."""

    query: str
    variables: Mapping[str, Any] | None
    operation_name: str | None
    authorization: str | None
    request_id: str


@dataclass(frozen=True, slots=True)
class GraphQLAnswer:
    """The entries of an answer, and whether the operation came to execution."""

    entries: dict[str, Any]
    executed: bool


@dataclass(frozen=True, slots=True)
class ResponseStream:
    """The answers of a subscription, one an event; it holds until its token expires (Unix seconds).

    One that did not come to execution is the last: the subscription could not begin, or broke off.
    """

    answers: AsyncGenerator[GraphQLAnswer, None]
    expires_at: float


Execute = Callable[[GraphQLRequest], Awaitable[GraphQLAnswer | ResponseStream]]


def request(members: Mapping[str, Any], authorization: str | None, request_id: str) -> GraphQLRequest:
    """The request of a JSON object; BadUserInput names the member that is not what it must be."""
    return GraphQLRequest(
        _member(members, "query", str, required=True),
        _member(members, "variables", dict),
        _member(members, "operationName", str),
        authorization,
        request_id,
    )


async def answers(answered: GraphQLAnswer | ResponseStream) -> AsyncGenerator[GraphQLAnswer, None]:
    """One answer or many."""
    if isinstance(answered, GraphQLAnswer):
        yield answered
        return
    try:
        async for answer in answered.answers:
            yield answer
    finally:
        await answered.answers.aclose()


def _member(members: Mapping[str, Any], name: str, kind: type, *, required: bool = False) -> Any:
    value = members.get(name)
    if isinstance(value, kind) or (value is None and not required):
        return value
    raise BadUserInput(f"{name} must be {'an object' if kind is dict else 'a string'}.")
