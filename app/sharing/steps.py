"""Small steps: a long job that is cut into many must not fill a turn of the event loop with them."""

import asyncio
from collections import deque


class Steps:
    """At most `most` steps in each turn of the event loop. Further ones wait for the next turns, in order.

    So others who have something to do in the loop wait for `most` steps at most, however many there are.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def step(self) -> None:
        """Wait until this turn of the loop has room for one more step."""
        if self._left == self._most:
            asyncio.get_running_loop().call_soon(self._renew)
        if self._left:
            self._left -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _renew(self) -> None:
        self._left = self._most
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # its task was cancelled meanwhile
                turn.set_result(None)
                self._left -= 1
        if self._left < self._most:
            asyncio.get_running_loop().call_soon(self._renew)
