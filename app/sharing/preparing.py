"""A thread for work that would block the event loop: parsing, validating, compiling, and converting long lists."""

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

# How long a caller waits at most for its turn and the work, in seconds.
PATIENCE_SECONDS = 4.3
# How long the event loop waits at most for the GIL while the thread works, in seconds. Python's default of 5 ms would
# add up: a request returns to the loop several times.
SWITCH_SECONDS = 0.001
ANONYMOUS = "anonymous"

Spend = Callable[[str, float], None]


class Preparation:
    """One thread. Callers take turns, with one piece of work each; all anonymous callers count as one caller.

    `spend` is called with the payer of a piece of work and the CPU time that it took, in seconds.
    """

    def __init__(self, spend: Spend) -> None:
        self._spend = spend
        self._turns = Turns[str](1, 1)
        self._thread = ThreadPoolExecutor(1, "preparing")
        sys.setswitchinterval(SWITCH_SECONDS)

    async def run(self, payer: str, work: Callable[[], T], *, is_user: bool = True) -> T:
        """Return or raise what `work` returns or raises. Raises Unavailable if it is not done in time."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                result, error, seconds = await self._run(payer, work, payer if is_user else ANONYMOUS)
        except TimeoutError:
            raise Unavailable("The server is busy preparing other requests; try again.") from None
        count_preparing(seconds)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # it is set if there is no error

    async def _run(self, payer: str, work: Callable[[], T], key: str) -> tuple[T | None, Exception | None, float]:
        if not self._turns.take(key):
            await self._turns.wait(key)
        # Started work finishes and keeps its turn, even if its caller has gone.
        working = asyncio.wrap_future(self._thread.submit(_timed, work))
        working.add_done_callback(partial(self._done, payer, key))
        return await asyncio.shield(working)

    def _done(self, payer: str, key: str, done: "asyncio.Future[tuple[Any, Any, float]]") -> None:
        self._turns.give(key)
        if not done.cancelled():
            self._spend(payer, done.result()[2])

    async def close(self) -> None:
        """Stop the thread after its current work."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _timed(work: Callable[[], T]) -> tuple[T | None, Exception | None, float]:
    """The result or the error of some work, and the CPU time that it took, in seconds."""
    start = thread_time()
    try:
        return work(), None, thread_time() - start
    except Exception as error:  # noqa: BLE001 - raised again by the caller
        return None, error, thread_time() - start
