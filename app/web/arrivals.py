"""Limits for request bodies that are large or arrive in parts: how many, which is rejected, and when each is parsed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from app.sharing.turns import Turns
from app.web.bounded_json import parse

# Large bodies that are parsed in one turn of the event loop.
MOST_READ = 4
BODY = "The body"


class Arrivals:
    """Requests whose body is incomplete or not parsed yet. If there are too many, the oldest one is rejected.

    It is the oldest of the same address if that has used up its share, otherwise of the address that has most.
    """

    def __init__(self, most: int, share: int) -> None:
        self._most, self._share, self._count = most, share, 0
        self._waiting: dict[str, dict[asyncio.Timeout, None]] = {}
        self._reading = Turns[str](MOST_READ, 1)

    @asynccontextmanager
    async def place(self, address: str) -> AsyncIterator[None]:
        """Hold a place until the body has arrived; raises TimeoutError if the place is needed for another request."""
        async with asyncio.timeout(None) as waiting:
            self._make_room(address)
            self._waiting.setdefault(address, {})[waiting] = None
            self._count += 1
            try:
                yield
            finally:
                self._leave(address, waiting)

    async def json(self, address: str, body: bytes | bytearray) -> tuple[Any, int]:
        """Parse a body, like `bounded_json.parse`.

        Only one body per address is parsed at a time, and the event loop serves others in between: a body can take a
        millisecond.
        """
        async with self._reading.turn(address):
            await asyncio.sleep(0)
            return parse(body, BODY)

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
