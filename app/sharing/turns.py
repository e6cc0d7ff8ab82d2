"""Fair semaphores: a number of places, of which each key holds at most a share. Waiting keys are served in turn.

So a flood of one key delays only that key, and another key waits until at most one place is free. asyncio's semaphores
have no keys, and take ten calls if a place is free, which is nearly always the case; this one takes two.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

K = TypeVar("K")


class Turns(Generic[K]):
    """`most` places in total, and `share` for each key. `take` a place or `wait` for one, then `give` it back."""

    def __init__(self, most: float, share: int) -> None:
        self._most, self.share, self._total = most, share, 0
        self._taken: dict[K, int] = {}
        # In the order in which keys are served.
        self._waiting: dict[K, deque[asyncio.Future[None]]] = {}

    def take(self, key: K) -> bool:
        """Take a place and return True, if one is free for this key."""
        taken = self._taken.get(key, 0)
        if taken == self.share or self._total == self._most:
            return False
        self._taken[key] = taken + 1
        self._total += 1
        return True

    async def wait(self, key: K) -> None:
        """Wait for a place, behind earlier waiters of this key."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(key, turn)
            else:
                self.give(key)
            raise

    def give(self, key: K) -> None:
        """Give a place back. It goes to the key that has waited longest and holds less than its share."""
        taken = self._taken[key] - 1
        if taken:
            self._taken[key] = taken
        else:
            del self._taken[key]
        self._total -= 1
        if self._waiting:
            if key in self._waiting:
                self._waiting[key] = self._waiting.pop(key)  # it has just been served
            self._pass_on()

    @asynccontextmanager
    async def turn(self, key: K) -> AsyncIterator[None]:
        """Hold a place in a `with` block."""
        if not self.take(key):
            await self.wait(key)
        try:
            yield
        finally:
            self.give(key)

    @property
    def are_all_taken(self) -> bool:
        """Whether all places are taken."""
        return self._total == self._most

    def _pass_on(self) -> None:
        while (found := self._next()) is not None:
            key, waiting = found
            del self._waiting[key]
            turn = waiting.popleft()
            if waiting:
                self._waiting[key] = waiting
            if not turn.cancelled():
                self.take(key)
                turn.set_result(None)
                return

    def _next(self) -> tuple[K, deque[asyncio.Future[None]]] | None:
        """The key that is served next, which may be None, and its waiters; None if no place is free for a waiter."""
        if self.are_all_taken:
            return None
        return next((found for found in self._waiting.items() if self._taken.get(found[0], 0) < self.share), None)

    def _leave(self, key: K, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(key, deque())
        if turn in waiting:
            waiting.remove(turn)
        if not waiting:
            self._waiting.pop(key, None)
