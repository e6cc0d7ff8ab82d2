"""Requests that have not come whole: how many there may be, and which of them give way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Arrivals:
    """Requests whose body has not come whole. Where they are too many, one that has waited longest gives way.

    It is one of the address that has its share of them, or else of the address that has most.
    """

    def __init__(self, most: int, share: int) -> None:
        self._most, self._share, self._count = most, share, 0
        self._waiting: dict[str, dict[asyncio.Timeout, None]] = {}

    @asynccontextmanager
    async def place(self, address: str) -> AsyncIterator[None]:
        """A place for as long as a body takes to arrive; TimeoutError where it has to give way to another."""
        async with asyncio.timeout(None) as waiting:
            self._make_room(address)
            self._waiting.setdefault(address, {})[waiting] = None
            self._count += 1
            try:
                yield
            finally:
                self._leave(address, waiting)

    def _make_room(self, address: str) -> None:
        if len(self._waiting.get(address, ())) >= self._share:
            self._dismiss(address)
        elif self._count >= self._most:
            self._dismiss(max(self._waiting, key=lambda one: len(self._waiting[one])))

    def _dismiss(self, address: str) -> None:
        oldest = next(iter(self._waiting[address]))
        oldest.reschedule(asyncio.get_running_loop().time())
        self._leave(address, oldest)

    def _leave(self, address: str, waiting: asyncio.Timeout) -> None:
        if waiting not in self._waiting.get(address, ()):
            return
        del self._waiting[address][waiting]
        self._count -= 1
        if not self._waiting[address]:
            del self._waiting[address]
