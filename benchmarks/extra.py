"""Benchmarks without rounds: memory, many different operations, and two processes."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import data, load, servers, workloads
from benchmarks.measure import CONNECTIONS, measured
from benchmarks.servers import Server


async def different(server: Server, site: data.Site, seconds: float, operations: int) -> dict[str, Any]:
    """Memory in MB and the cost of a known operation in ms, before and after many different ones."""
    pages = next(work for work in workloads.standard() if work.name == "W1")
    before = await measured(server, pages, seconds, CONNECTIONS, site.postmaster)
    found = {"idle_memory": server.memory(), "cost_before": before.cost}
    for start, end in pairwise((0, operations // 10, operations // 2, operations)):
        await _send(server, map(workloads.cold, range(start, end)))
        found[f"memory_after_{end}"] = server.memory()
    after = await measured(server, pages, seconds, CONNECTIONS, site.postmaster)
    return found | {"cost_after": after.cost}


async def _send(server: Server, requests: Iterator[workloads.Request]) -> None:
    """Send all requests once."""
    (await load.run(server.port, load.Load(requests, load.ENDLESS), CONNECTIONS)).verify()


async def workers(site: data.Site, python: Path, seconds: float) -> dict[str, Any]:
    """Requests per second of W1 with one process and with two, not pinned to cores."""
    pages = next(work for work in workloads.standard() if work.name == "W1")
    found = {}
    for number in (1, 2):
        with servers.running(servers.taskql(site.app_url), python, number, cores=servers.ALL) as server:
            seen = await measured(server, pages, seconds, CONNECTIONS, site.postmaster)
            found[str(number)] = {"rate": seen.rate, "cpu": seen.cost, "memory": server.memory()}
    return found
