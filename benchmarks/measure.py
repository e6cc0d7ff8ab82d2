"""Measures servers in alternating rounds with the same requests."""

import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from benchmarks import load
from benchmarks.servers import Server
from benchmarks.workloads import Workload

CONNECTIONS = 8
WARM_SECONDS = 0.3

# A server and its workloads. Servers with the same tables share these, so that each continues the writes of the other.
Loaded = tuple[Server, Sequence[Workload]]


@dataclass(frozen=True, slots=True)
class Round:
    """One server under one load: requests, seconds, latencies in seconds, and CPU seconds by process."""

    requests: int
    seconds: float
    median: float
    high: float
    server_cpu: float
    client_cpu: float
    database_cpu: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def cost(self) -> float:
        """CPU time of the server per request, in milliseconds."""
        return self.server_cpu / self.requests * 1000

    @property
    def database_cost(self) -> float:
        """CPU time of PostgreSQL per request, in milliseconds."""
        return self.database_cpu / self.requests * 1000

    @property
    def total_cost(self) -> float:
        return self.cost + self.database_cost


async def measured(server: Server, work: Workload, seconds: float, connections: int, postmaster: int) -> Round:
    """One round after a short warm-up. Raises RuntimeError for a wrong response."""
    warm = await load.run(server.port, load.Load(work.requests, WARM_SECONDS), connections)
    warm.verify()
    before = (server.cpu(), time.process_time(), database_cpu(postmaster))
    seen = await load.run(server.port, load.Load(work.requests, seconds), connections)
    after = (server.cpu(), time.process_time(), database_cpu(postmaster))
    seen.verify()
    spent = [end - start for start, end in zip(before, after, strict=True)]
    latencies = sorted(seen.latencies)
    high = latencies[int(len(latencies) * 0.99)]
    return Round(len(latencies), seen.elapsed, statistics.median(latencies), high, *spent)


def database_cpu(postmaster: int) -> float:
    """CPU seconds of PostgreSQL's processes, including those that have exited."""
    parent = psutil.Process(postmaster)
    own = parent.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for process in parent.children():
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


async def interleaved(
    loads: Sequence[Loaded], rounds: int, seconds: float, connections: int, postmaster: int
) -> dict[str, dict[str, list[Round]]]:
    """The rounds for each workload and server. Which server goes first alternates."""
    names = [work.name for work in loads[0][1]]
    found: dict[str, dict[str, list[Round]]] = {name: {server.name: [] for server, _ in loads} for name in names}
    for number in range(rounds):
        for place, name in enumerate(names):
            for server, works in loads if number % 2 == 0 else reversed(loads):
                seen = await measured(server, works[place], seconds, connections, postmaster)
                found[name][server.name].append(seen)
    return found
