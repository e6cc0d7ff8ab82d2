"""Graceful shutdown."""

import asyncio
import signal
from collections.abc import Callable
from types import FrameType


def before_stopping(begin: Callable[[], None], end: Callable[[], None], drain_seconds: float) -> None:
    """On SIGTERM call `begin`, and stop after `drain_seconds`, so that load balancers see that it is not ready.

    Ctrl-C or a second SIGTERM stops at once. `end` ends event streams, because uvicorn waits for all responses to
    complete before it shuts the application down.
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

    def handle(number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(act, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
