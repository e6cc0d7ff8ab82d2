"""A server that records the long steps of its event loop: python -m benchmarks.steps FILE serve --port 8000.

It runs on asyncio's own loop, since uvloop's cannot be watched from Python. A step is what one callback or one task
does until it waits; it is measured in CPU time of the thread, so that other processes do not lengthen it.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import uvicorn.config

from app.cli import main

LONG_SECONDS = 0.002


def watch(file: TextIO) -> None:
    """Write a line for each long step: when it ended (monotonic seconds) and its CPU time in milliseconds."""
    handle: Any = asyncio.events.Handle
    run = handle._run  # noqa: SLF001 - what the loop calls for each step; there is no public place between

    def watched(step: Any) -> None:
        begin = time.thread_time()
        run(step)
        spent = time.thread_time() - begin
        if spent >= LONG_SECONDS:
            file.write(f"{time.monotonic():.6f} {spent * 1000:.2f}\n")

    handle._run = watched  # noqa: SLF001 - as above


def longest(path: Path, begin: float, end: float) -> float:
    """The longest step that ended between two times of the monotonic clock, in milliseconds; 0 for none on record."""
    lines = (line.split() for line in path.read_text().splitlines())
    return max((float(spent) for at, spent in lines if begin <= float(at) <= end), default=0.0)


if __name__ == "__main__":
    uvicorn.config.LOOP_FACTORIES["auto"] = uvicorn.config.LOOP_FACTORIES["asyncio"]
    with Path(sys.argv[1]).open("w", buffering=1) as lines:
        watch(lines)
        main(sys.argv[2:])
