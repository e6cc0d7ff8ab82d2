"""Limits how many steps of a long job run in one iteration of the event loop."""

import asyncio
from collections import deque


class Steps:
    """Allows `most` steps in each iteration of the event loop. Further steps wait for later iterations, in order.

    So other tasks wait for at most `most` steps.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def step(self) -> None:
        """Wait until the current iteration of the loop has room for one more step."""
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
            if not turn.done():  # unless its task was cancelled
                turn.set_result(None)
                self._left -= 1
        if self._left < self._most:
            asyncio.get_running_loop().call_soon(self._renew)
