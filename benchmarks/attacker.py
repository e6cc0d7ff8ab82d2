"""The attacker's process: runs one attack for a given time.

Prints `ready`, then reads the times from a line of JSON, as the victim does.
"""

import asyncio
import os
import sys
import time
from contextlib import suppress
from typing import Any

import orjson
import uvloop

from benchmarks.attacks import ATTACKS
from benchmarks.flooding import Target

# In reality, an attacker runs on another machine, so it must not take CPU time from the other processes.
NICENESS = 10


async def _attack(job: dict[str, Any]) -> dict[str, Any]:
    target = Target(job["port"], job["tokens"])
    print("ready", flush=True)  # noqa: T201 - what the parent waits for
    loop = asyncio.get_running_loop()
    times = orjson.loads(await loop.run_in_executor(None, sys.stdin.readline))
    await asyncio.sleep(max(0, times["attack"] - time.monotonic()))
    fault = None
    with suppress(TimeoutError):
        async with asyncio.timeout(times["end"] - time.monotonic()):
            try:
                await ATTACKS[job["number"]].run(target)
            except Exception as error:  # noqa: BLE001 - reported in the table
                fault = repr(error)[:500]
    return {"sent": target.sent, "told": dict(target.told), "facts": dict(target.facts), "fault": fault}


if __name__ == "__main__":
    os.nice(NICENESS)
    found = uvloop.run(_attack(orjson.loads(sys.argv[1])))
    print(orjson.dumps(found).decode(), flush=True)  # noqa: T201 - the result
