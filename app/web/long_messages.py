"""Request bodies and socket messages that are long: only users may send them, and few at a time."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from app.errors import RETRY_AFTER_SECONDS, RateLimited, Unavailable
from app.identity.tokens import Principal
from app.sharing.turns import Turns

# Up to this size, bodies and messages are read before their sender is known. Longer ones are read from users alone.
MOST_BYTES, LONGEST_BYTES = 100_000, 1_000_000
# Long ones that are being received, per process and per user. Each occupies up to a megabyte.
MOST_LONG, LONG_OF_A_USER = 20, 4

Verify = Callable[[str | None, str], Awaitable[Principal]]


class LongMessages:
    """Places for long bodies and messages while they are received. `verify` returns the user of a token."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._places = Turns[UUID](MOST_LONG, LONG_OF_A_USER)

    @asynccontextmanager
    async def place(self, authorization: str | None, address: str) -> AsyncIterator[None]:
        """Hold a place. Raises Unauthenticated without a valid token, RateLimited or Unavailable if none is free."""
        user_id = (await self._verify(authorization, address)).user_id
        if not self._places.take(user_id):
            raise self._refusal()
        try:
            yield
        finally:
            self._places.give(user_id)

    def take(self, user_id: UUID) -> bool:
        """Take a place and return True, if one is free for this user."""
        return self._places.take(user_id)

    def give(self, user_id: UUID) -> None:
        """Give back a place."""
        self._places.give(user_id)

    def _refusal(self) -> RateLimited | Unavailable:
        if self._places.are_all_taken:
            return Unavailable("The server receives too many long requests; try again.")
        few = f"You are sending {LONG_OF_A_USER} long requests; wait until one of them has arrived."
        return RateLimited(few, RETRY_AFTER_SECONDS)
