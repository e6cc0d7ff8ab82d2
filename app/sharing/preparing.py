"""Work that would hold up the event loop: parsing, validating, compiling, and bringing long lists into form."""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import thread_time
from typing import Any, TypeVar

from app.errors import Unavailable
from app.observability.metrics import count_preparing
from app.sharing.turns import Turns

T = TypeVar("T")

# What a caller waits at most, in seconds: for its turn and for the work.
PATIENCE_SECONDS = 4.3
# How long the loop waits at most for the interpreter while the thread works, in seconds. Python's own 5 ms would add
# up: a request comes back to the loop several times.
SWITCH_SECONDS = 0.001
STRANGERS = "strangers"

Spend = Callable[[str, float], None]


class Preparation:
    """One thread. Callers take turns on it, one piece of work at a time each; all strangers are one caller.

    `spend` is told the payer of a piece of work and the seconds of CPU time that it has taken.
    """

    def __init__(self, spend: Spend) -> None:
        self._spend = spend
        self._turns = Turns[str](1, 1)
        self._thread = ThreadPoolExecutor(1, "preparing")
        sys.setswitchinterval(SWITCH_SECONDS)

    async def run(self, payer: str, work: Callable[[], T], *, is_user: bool = True) -> T:
        """What `work` gives or raises; Unavailable where it takes too long until its turn has come."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                result, error, seconds = await self._run(payer, work, payer if is_user else STRANGERS)
        except TimeoutError:
            raise Unavailable("The server is busy preparing other requests; try again.") from None
        count_preparing(seconds)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # it is there where no error is

    async def _run(self, payer: str, work: Callable[[], T], key: str) -> tuple[T | None, Exception | None, float]:
        if not self._turns.take(key):
            await self._turns.wait(key)
        # What has begun goes on and keeps its turn, also where nobody waits for it any more.
        working = asyncio.wrap_future(self._thread.submit(_timed, work))
        working.add_done_callback(partial(self._done, payer, key))
        return await asyncio.shield(working)

    def _done(self, payer: str, key: str, done: "asyncio.Future[tuple[Any, Any, float]]") -> None:
        self._turns.give(key)
        if not done.cancelled():
            self._spend(payer, done.result()[2])

    async def close(self) -> None:
        """End the thread when its work is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _timed(work: Callable[[], T]) -> tuple[T | None, Exception | None, float]:
    """What some work gives or raises, and the seconds of CPU time that it took."""
    start = thread_time()
    try:
        return work(), None, thread_time() - start
    except Exception as error:  # noqa: BLE001 - raised where the work was asked for
        return None, error, thread_time() - start
