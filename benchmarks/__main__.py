"""scripts/bench: runs benchmarks and writes their results."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg
import click
import uvloop

from benchmarks import (
    data,
    extra,
    floor,
    load,
    mercurius,
    neighbours,
    picture,
    pythons,
    realtime,
    report,
    scale,
    servers,
    workloads,
)
from benchmarks import instructions as counting
from benchmarks import kills as killing
from benchmarks.attacks import ATTACKS
from benchmarks.measure import CONNECTIONS, Loaded, interleaved
from benchmarks.servers import ROOT, Kind, Server
from benchmarks.workloads import Workload

BUILD = ROOT / "build" / "bench"
COUNTED_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Effort:
    """The number and duration of the rounds of each part."""

    rounds: int
    seconds: float
    alone_rounds: int
    alone_seconds: float
    floor_seconds: int
    operations: int


QUICK = Effort(2, 0.8, 1, 0.5, 1, 500)
FULL = Effort(5, 2.0, 3, 1.0, 3, 10_000)


class _Numbers(click.ParamType[list[int]]):
    """Numbers of attacks, separated by commas."""

    name = "numbers"

    def convert(self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None) -> list[int]:
        numbers = [int(part) if part.strip().isdecimal() else 0 for part in value.split(",")]
        if not ATTACKS.keys() >= set(numbers):
            self.fail(f"{value!r} is not a list of attacks; choose from {', '.join(map(str, ATTACKS))}.")
        return numbers


@click.command()
@click.option("--quick", is_flag=True, help="About a minute instead of ten: fewer and shorter rounds.")
@click.option(
    "--scale", "largest", type=int, metavar="TASKS", help="Measure the seven queries with 10,000 up to this many tasks."
)
@click.option("--realtime", "live", is_flag=True, help="Measure the latency of changes, and the cost of idle sockets.")
@click.option("--kills", type=int, metavar="N", help="Kill sockets, listeners and servers, and compare copies.")
@click.option("--instructions", is_flag=True, help="Count the instructions of a request, with Valgrind.")
@click.option(
    "--neighbours",
    "hostile",
    is_flag=True,
    help="Measure the effect of a hostile caller on others: one attack at a time.",
)
@click.option("--only", type=_Numbers(), metavar="1,3", help="With --neighbours: only these attacks.")
@click.option(
    "--seconds", type=float, default=neighbours.SECONDS, help="With --neighbours: the duration of each attack."
)
@click.option(
    "--steps", is_flag=True, help="With --neighbours: also time each step of the event loop, using asyncio's."
)
@click.option("--python", type=click.Path(path_type=Path), help="Run the servers on another Python, such as Debian's.")
@click.option("--name", help="Store the results as benchmarks/results/NAME.json, with table and chart.")
def main(  # noqa: PLR0913, PLR0917 - the options of the command line
    quick: bool,  # noqa: FBT001 - a flag of the command line
    largest: int | None,
    live: bool,  # noqa: FBT001 - a flag of the command line
    kills: int | None,
    instructions: bool,  # noqa: FBT001 - a flag of the command line
    hostile: bool,  # noqa: FBT001 - a flag of the command line
    only: list[int] | None,
    seconds: float,
    steps: bool,  # noqa: FBT001 - a flag of the command line
    python: Path | None,
    name: str | None,
) -> None:
    """Measure TaskQL next to a strong peer and a plain server with the same API."""
    used = Path(sys.executable) if python is None else pythons.environment(BUILD, python)
    if largest is not None:
        _scaled(largest, used, name)
    elif live:
        _live(used, name)
    elif kills is not None:
        _killed(kills, used, name)
    elif instructions:
        _counted(used, name)
    elif hostile:
        _hostile(used, name, only or list(ATTACKS), seconds, timed=steps)
    else:
        _beside_others(QUICK if quick else FULL, used, name)


def _beside_others(effort: Effort, python: Path, name: str | None) -> None:
    with data.site(BUILD / "database") as site:
        uvloop.run(data.prepare(site))
        kinds = [servers.taskql(site.app_url), *_peers(site), servers.plain(site.plain_url)]
        servers.pin(site.postmaster, [servers.LOAD_CORE])
        results = _measured(site, kinds, effort, python)
    results["machine"] = report.machine(pythons.description(python))
    _keep(name, "results", results, _tables(results), picture.costs(results["workloads"], _titles()))


def _peers(site: data.Site) -> list[Kind]:
    """The strong peer, if Node.js is installed."""
    if not mercurius.is_possible():
        _say("Node.js or npm is not installed, so Mercurius is not measured")
        return []
    program = mercurius.install(BUILD / "peers")
    uvloop.run(data.execute(site, mercurius.TABLES, "VACUUM (ANALYZE) peer.tasks"))
    return [mercurius.kind(site.plain_url, program)]


def _tables(results: dict[str, Any]) -> str:
    machine = results["machine"]
    parts = [
        report.costs(results["workloads"], _titles()),
        report.speeds(results["workloads"], _titles()),
        report.loads(results["workloads"], _titles()),
        report.others(results["more"], _titles()),
        report.memory(results),
        report.workers(results["workers"]),
        f"{machine['date']}, Python {machine['python']}, {machine['cores']} cores, {machine['system']}.\n",
    ]
    return "\n".join(parts)


def _titles() -> dict[str, str]:
    return {work.name: work.title for work in [*workloads.standard(), *workloads.extra()]}


def _scaled(largest: int, python: Path, name: str | None) -> None:
    results = scale.run(BUILD / "scale", largest, python) | {"machine": report.machine(pythons.description(python))}
    drawn = picture.growth(results["tasks"], results["any_user"])
    _keep(name, "scale", results, report.scaled(results), drawn)


def _live(python: Path, name: str | None) -> None:
    with data.site(BUILD / "database") as site:
        uvloop.run(data.prepare(site))
        servers.pin(site.postmaster, [servers.LOAD_CORE])
        os.sched_setaffinity(0, [servers.LOAD_CORE])
        results = realtime.run(site, python)
        os.sched_setaffinity(0, [servers.SERVER_CORE])
        results["notices"] = realtime.notices(site, BUILD)
    results["machine"] = report.machine(pythons.description(python))
    shown = {"1,000 sockets of 250 users": "spread", "1,000 sockets of one user": "one_user"}
    drawn = picture.latencies({title: results[part]["percentiles"] for title, part in shown.items()})
    _keep(name, "realtime", results, report.live(results), drawn)


def _killed(count: int, python: Path, name: str | None) -> None:
    results = killing.run(BUILD / "kills", count, python) | {"machine": report.machine(pythons.description(python))}
    drawn = picture.latencies({f"through {count:,} kills": results["latency"]["percentiles"]})
    _keep(name, "kills", results, report.killed(results), drawn)


def _counted(python: Path, name: str | None) -> None:
    with data.site(BUILD / "database") as site:
        uvloop.run(data.prepare(site))
        found = counting.run(site, python)
    results = {"workloads": found, "machine": report.machine(pythons.description(python))}
    _keep(name, "instructions", results, report.counted(found, _titles()), None)


def _hostile(python: Path, name: str | None, numbers: list[int], seconds: float, *, timed: bool) -> None:
    kind = "neighbours-steps" if timed else "neighbours"
    found = neighbours.run(BUILD / "neighbours", python, numbers, seconds, timed=timed)
    results = {"attacks": found, "machine": report.machine(pythons.description(python))}
    _keep(name and f"{name}-{kind}", kind, results, neighbours.table(found), None)


def _keep(name: str | None, default: str, results: dict[str, Any], tables: str, drawn: str | None) -> None:
    click.echo(tables)
    report.keep(BUILD, default, results, tables, drawn)
    if name is not None:
        report.keep(ROOT / "benchmarks" / "results", name, results, tables, drawn)


def _measured(site: data.Site, kinds: Sequence[Kind], effort: Effort, python: Path) -> dict[str, Any]:
    os.sched_setaffinity(0, [servers.LOAD_CORE])
    with ExitStack() as stack:
        running = [stack.enter_context(servers.running(kind, python)) for kind in kinds]
        loads, more_loads = _loads(running, workloads.standard), _loads(running, workloads.extra)
        calls = uvloop.run(_calls(site, loads))
        _say("Measuring with 8 connections")
        rounds = uvloop.run(interleaved(loads, effort.rounds, effort.seconds, CONNECTIONS, site.postmaster))
        few, short = effort.alone_rounds, effort.alone_seconds
        _say("Measuring with one connection")
        alone = uvloop.run(interleaved(loads, few, short, 1, site.postmaster))
        _say("Measuring the rest")
        more = uvloop.run(interleaved(more_loads, few, short, CONNECTIONS, site.postmaster))
        memory = {server.name: server.memory() for server in running}
    rest = uvloop.run(_rest(site, python, effort))
    compared = report.compared(rounds, alone, _floors(site, effort), calls)
    return {"workloads": compared, "more": report.costs_of(more), "memory_after_load": memory, **rest}


def _loads(running: Sequence[Server], works: Callable[[], Sequence[Workload]]) -> list[Loaded]:
    shared = works()
    return [(server, works() if server.name == mercurius.NAME else shared) for server in running]


async def _rest(site: data.Site, python: Path, effort: Effort) -> dict[str, Any]:
    found = {}
    for kind in (servers.taskql(site.app_url), servers.plain(site.plain_url)):
        with servers.running(kind, python) as server:
            found[kind.name] = await extra.different(server, site, effort.seconds, effort.operations)
    return {"different_operations": found, "workers": await extra.workers(site, python, effort.seconds)}


async def _calls(site: data.Site, loads: Sequence[Loaded]) -> dict[str, dict[str, float]]:
    """Statements per request, as PostgreSQL counts them, including BEGIN and COMMIT."""
    connection = await asyncpg.connect(site.owner_url)
    found: dict[str, dict[str, float]] = {work.name: {} for work in loads[0][1]}
    try:
        await data.count_statements(connection, on=True)
        for server, works in loads:
            for work in works:
                await load.run(server.port, load.Load(work.requests, COUNTED_SECONDS), 1)
                await connection.execute("SELECT pg_stat_statements_reset()")
                asked = await load.run(server.port, load.Load(work.requests, COUNTED_SECONDS), 1)
                calls = await data.statements(connection, server.role)
                found[work.name][server.name] = calls / len(asked.answers)
        await data.count_statements(connection, on=False)
    finally:
        await connection.close()
    return found


def _floors(site: data.Site, effort: Effort) -> dict[str, dict[str, float]]:
    """The results of pgbench, on the core of the servers."""
    _say("Measuring pgbench")
    os.sched_setaffinity(0, [servers.SERVER_CORE])
    found = {}
    for name, script in uvloop.run(floor.scripts(site)).items():
        found[name] = asdict(floor.run(site, script, effort.floor_seconds, BUILD))
    return found


def _say(what: str) -> None:
    click.echo(what, err=True)


if __name__ == "__main__":
    main()
