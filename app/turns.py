"""Turns for those who do the same thing: for each key at most so many at a time, in the order of asking.

asyncio's semaphores do this too, by ten calls where a place is free, which is nearly always, and this by two.
"""

import asyncio
from collections import deque
from typing import Generic, TypeVar

K = TypeVar("K")


class Turns(Generic[K]):
    """Whoever was refused a place by `take` waits for one; each gives it back."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[K, int] = {}
        self._waiting: dict[K, deque[asyncio.Future[None]]] = {}

    def take(self, key: K) -> bool:
        """A place, if one is free."""
        taken = self._taken.get(key, 0)
        if taken == self._most:
            return False
        self._taken[key] = taken + 1
        return True

    async def wait(self, key: K) -> None:
        """A place, behind all who wait already."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.give(key)
            raise

    def give(self, key: K) -> None:
        """Give a place to whoever has waited longest, if anybody has."""
        if self._waiting and self._pass_on(key):
            return
        taken = self._taken[key]
        if taken > 1:
            self._taken[key] = taken - 1
        else:
            del self._taken[key]

    def _pass_on(self, key: K) -> bool:
        waiting = self._waiting.get(key)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return True
        self._waiting.pop(key, None)
        return False

    def are_taken(self, key: K) -> bool:
        """Whether whoever comes now has to wait."""
        return self._taken.get(key) == self._most
