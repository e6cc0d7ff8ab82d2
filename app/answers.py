"""What a client is answered, over whichever transport."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from app.errors import RequestError
from app.masking import MASKED, outline
from app.requests import GraphQLRequest, Refused

log = logging.getLogger(__name__)


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


def failure(error: Exception, request_id: str) -> GraphQLAnswer:
    """The answer to a request that is refused, or that met a bug, which is logged once and masked."""
    if isinstance(error, Refused):
        shown = {"message": str(error), "extensions": {"code": error.code}}
    else:
        log.error("request %s failed: %s", request_id, outline(error))
        shown = {"message": MASKED, "extensions": {"code": RequestError.code, "requestId": request_id}}
    return GraphQLAnswer({"errors": [shown]}, executed=False)
