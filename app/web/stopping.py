"""What happens between being told to stop and stopping."""

import asyncio
import signal
from collections.abc import Callable
from types import FrameType


def before_stopping(begin: Callable[[], None], end: Callable[[], None], drain_seconds: float) -> None:
    """Act when the process is told to stop, and let it stop some time later: balancers shall see that it is not ready.

    Ctrl-C, or being told again, does not wait. uvicorn waits for all answers to end before it tells the application,
    and event streams do not end by themselves: `end` ends them.
    """
    loop, stop = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    if not callable(stop):
        return
    draining: list[asyncio.TimerHandle] = []

    def act(number: int) -> None:
        begin()
        if number == signal.SIGTERM and not draining:
            draining.append(loop.call_later(drain_seconds, finish, number))
        else:
            finish(number)

    def finish(number: int) -> None:
        end()
        stop(number, None)

    def told(number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(act, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, told)
