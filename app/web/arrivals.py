"""Bodies that come in parts or are large: how many there may be, which of them give way, and when each is read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from app.sharing.turns import Turns

# Large bodies that are read in one round of the loop.
MOST_READ = 4


class Arrivals:
    """Requests whose body has not come whole or not been read. Where they are too many, one of them gives way.

    It is the one that has waited longest: of the address that has its share of them, or else of the address that has
    most.
    """

    def __init__(self, most: int, share: int) -> None:
        self._most, self._share, self._count = most, share, 0
        self._waiting: dict[str, dict[asyncio.Timeout, None]] = {}
        self._reading = Turns[str](MOST_READ, 1)

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

    async def json(self, address: str, body: bytes | bytearray) -> Any:
        """What a body holds; orjson.JSONDecodeError where it is no JSON.

        An address has one read at a time, and the loop serves others in between: what is read of 100 KB may take 3 MB,
        and a millisecond.
        """
        async with self._reading.turn(address):
            await asyncio.sleep(0)
            return orjson.loads(body)

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
