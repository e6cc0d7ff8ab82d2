"""Measures the latency of changes with 1,000 sockets, and the cost of 5,000 idle sockets."""

import asyncio
import random
import resource
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import click
import httpx
import psutil
import uvloop

from app.database.notices import LOCKS, SPACE
from benchmarks import data, floor, servers
from benchmarks.following import Copy, gathered

SOCKETS, EACH, IDLE = 1000, 4, 5000
WRITES, PAUSE_SECONDS = 800, 0.02
BURST = 1000
CONNECTIONS = (1, 8, 40)
TURNS = 3
EVERY_LOCK = f"SELECT pg_advisory_lock_shared({SPACE}, n) FROM generate_series(0, {LOCKS - 1}) AS n"  # noqa: S608 - ours
ROUNDS = 10
CREATE = "mutation ($title: String!) { createTask(input: { title: $title }) { task { id } userErrors { code } } }"
# Above the defaults, since one user has a thousand followers here.
SETTINGS = {"LIMIT_SOCKETS": "10000", "LIMIT_SUBSCRIPTIONS": "10000", "LIMIT_CONCURRENCY": "20000"}


def notices(site: data.Site, folder: Path) -> dict[str, dict[str, float]]:
    """Creates per second by pgbench, by number of connections, for users with and without followers."""
    found = {}
    for connections in CONNECTIONS:
        create = asyncio.run(floor.scripts(site, connections))["W4"]
        rates: dict[str, list[float]] = {"followed": [], "alone": []}
        for _ in range(TURNS):
            rates["alone"].append(floor.run(site, create, 3, folder, connections).rate)
            with _all_followed(site):
                rates["followed"].append(floor.run(site, create, 3, folder, connections).rate)
        found[str(connections)] = {kind: statistics.median(each) for kind, each in rates.items()}
    return found


@contextmanager
def _all_followed(site: data.Site) -> Iterator[None]:
    """Hold a shared lock for all users and listen, as a process whose subscribers follow all users does."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(site.owner_url))
        runner.run(connection.execute(f"LISTEN taskql; {EVERY_LOCK}"))
        yield
        runner.run(connection.close())


def run(site: data.Site, python: Path) -> dict[str, Any]:
    """Measure one server process."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    kind = servers.taskql(site.app_url)
    kind = replace(kind, settings={**kind.settings, **SETTINGS})
    with servers.running(kind, python) as server:
        return uvloop.run(_measured(server.port, server.process))


async def _measured(port: int, process: psutil.Process) -> dict[str, Any]:
    click.echo("Opening sockets", err=True)
    many = [Copy(data.user_id(1 + place // EACH), [port]) for place in range(SOCKETS)]
    async with _Following(many):
        await _written(port, [copy.user for copy in many])
        spread = distribution(_latencies(many))
        await _written(port, [many[0].user], pause=0, count=BURST)
    one = [Copy(data.user_id(900), [port]) for _ in range(SOCKETS)]
    async with _Following(one):
        await _written(port, [one[0].user], pause=1.0, count=ROUNDS)
        single = distribution(_latencies(one))
    return {"spread": spread, "one_user": single, "idle": await _idle(port, process)}


async def _idle(port: int, process: psutil.Process) -> dict[str, float]:
    before = process.memory_full_info().uss
    copies = [Copy(data.user_id(1 + place % 800), [port]) for place in range(IDLE)]
    async with _Following(copies):
        after, cpu = process.memory_full_info().uss, sum(process.cpu_times()[:2])
        await asyncio.sleep(10)
        spent = sum(process.cpu_times()[:2]) - cpu
    return {"sockets": IDLE, "kilobytes_each": (after - before) / IDLE / 1000, "cpu_in_10_s": spent}


class _Following:
    """Runs copies within the block."""

    def __init__(self, copies: Sequence[Copy]) -> None:
        self._copies, self._tasks = copies, list[asyncio.Task[None]]()

    async def __aenter__(self) -> None:
        with click.progressbar(length=len(self._copies), label="Sockets", file=sys.stderr) as bar:
            self._tasks = [task async for task in gathered(self._copies, 50, bar.update)]
        for copy in self._copies:
            copy.latencies.clear()

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)


async def _written(port: int, users: Sequence[Any], pause: float = PAUSE_SECONDS, count: int = WRITES) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
        for number in range(count):
            user = random.choice(users)  # noqa: S311 - no secret
            body = {"query": CREATE, "variables": {"title": f"Number {number}"}}
            answer = await http.post("/graphql", json=body, headers={"Authorization": f"Bearer {data.token(user)}"})
            answer.raise_for_status()
            await asyncio.sleep(pause)
        await asyncio.sleep(1)


def _latencies(copies: Sequence[Copy]) -> list[float]:
    return [latency * 1000 for copy in copies for latency in copy.latencies]


def distribution(milliseconds: Sequence[float]) -> dict[str, Any]:
    """The count and the 99 percentiles."""
    return {"changes": len(milliseconds), "percentiles": statistics.quantiles(milliseconds, n=100)}
