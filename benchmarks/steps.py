"""A server that records the long steps of its event loop: python -m benchmarks.steps FILE serve --port 8000.

It uses asyncio's own event loop, because uvloop's cannot be observed from Python. A step is what one callback or task
does until it waits. Steps are measured in CPU time of the thread, which does not depend on other processes.
"""

import asyncio
import gc
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import uvicorn.config

from app.cli import main

LONG_SECONDS = 0.002
# asyncio accepts all waiting connections in one step; uvloop, which the server uses, accepts each in its own step.
OF_ASYNCIO = "BaseSelectorEventLoop._accept_connection"


class Collections:
    """The CPU time of garbage collection since the last reset, in seconds."""

    def __init__(self) -> None:
        self.spent = self._begin = 0.0
        gc.callbacks.append(self._told)

    def _told(self, phase: str, _info: object) -> None:
        if phase == "start":
            self._begin = time.thread_time()
        else:
            self.spent += time.thread_time() - self._begin


def watch(file: TextIO) -> None:
    """Write a line for each long step: its end (monotonic seconds), its CPU time in milliseconds, and its name."""
    collections = Collections()
    handle: Any = asyncio.events.Handle
    run = handle._run  # noqa: SLF001 - the loop calls it for each step; there is no public hook

    def watched(step: Any) -> None:
        begin = time.thread_time()
        run(step)
        spent, collected = time.thread_time() - begin, collections.spent
        collections.spent = 0.0
        if spent >= LONG_SECONDS:
            file.write(f"{time.monotonic():.6f} {spent * 1000:.2f} {_name(step)}{_of_garbage(collected)}\n")

    handle._run = watched  # noqa: SLF001 - as above


def _of_garbage(seconds: float) -> str:
    return f", {seconds * 1000:.0f} ms of it garbage collection" if seconds >= LONG_SECONDS else ""


def _name(step: Any) -> str:
    """The name of a task's coroutine, otherwise that of the callback."""
    callback = step._callback  # noqa: SLF001 - otherwise only in the repr of the handle
    task = getattr(callback, "__self__", None)
    named = task.get_coro() if isinstance(task, asyncio.Task) else callback
    return str(getattr(named, "__qualname__", type(named).__name__))


@dataclass(frozen=True, slots=True)
class Step:
    """The CPU time of a step in milliseconds, and its name."""

    milliseconds: float
    name: str


def longest(path: Path, begin: float, end: float) -> Step:
    """The longest step that ended between two times of the monotonic clock; a step of 0 ms if none was recorded."""
    lines = (line.split(maxsplit=2) for line in path.read_text().splitlines())
    found = (
        Step(float(spent), name)
        for at, spent, name in lines
        if begin <= float(at) <= end and not name.startswith(OF_ASYNCIO)
    )
    return max(found, key=lambda step: step.milliseconds, default=Step(0.0, "none"))


if __name__ == "__main__":
    uvicorn.config.LOOP_FACTORIES["auto"] = uvicorn.config.LOOP_FACTORIES["asyncio"]
    with Path(sys.argv[1]).open("w", buffering=1) as lines:
        watch(lines)
        main(sys.argv[2:])
