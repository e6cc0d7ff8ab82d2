"""scripts/soak: checks that the server's memory does not grow over a million requests."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import click
import uvloop

from benchmarks import data, load, picture, report, servers, workloads
from benchmarks.measure import CONNECTIONS
from benchmarks.servers import ROOT, Server
from benchmarks.workloads import Request

BUILD = ROOT / "build"
REQUESTS, QUICK = 1_000_000, 20_000
SETTLED = 10  # one tenth of all requests fills the caches
STEPS = 40
BATCH = 5_000  # responses that are kept until they are verified
NEW_EVERY = 25  # one of this many requests is a new document
MOST_GROWTH = 0.05


@dataclass(frozen=True, slots=True)
class Reading:
    """The server's private memory in MB after a number of requests."""

    requests: int
    memory: float


@click.command()
@click.option("--quick", is_flag=True, help="20,000 requests instead of a million, without a verdict.")
def main(quick: bool) -> None:  # noqa: FBT001 - a flag of the command line
    """Send a million requests of all kinds, and compare the memory after them with that after a tenth."""
    total = QUICK if quick else REQUESTS
    readings = _soaked(total)
    settled = next(reading for reading in readings if reading.requests >= total // SETTLED)
    growth = readings[-1].memory / settled.memory - 1
    verdict = f"From {settled.requests:,} to {total:,} requests, the server's memory grew by {growth:.1%}."
    results = {"memory": {str(reading.requests): reading.memory for reading in readings}, "growth": growth}
    drawn = picture.memory([(reading.requests, reading.memory) for reading in readings])
    report.keep(BUILD / "soak", "soak", results, f"{_table(readings)}\n{verdict}\n", drawn)
    click.echo(verdict)
    sys.exit(growth > MOST_GROWTH and not quick)


def _soaked(total: int) -> list[Reading]:
    with data.site(BUILD / "bench" / "database") as site:
        uvloop.run(data.prepare(site))
        servers.pin(site.postmaster, [servers.LOAD_CORE])
        os.sched_setaffinity(0, [servers.LOAD_CORE])
        with servers.running(servers.taskql(site.app_url), Path(sys.executable)) as server:
            return list(_readings(server, total))


def _readings(server: Server, total: int) -> Iterator[Reading]:
    requests, step = _requests(), total // STEPS
    for done in range(step, total + 1, step):
        for left in range(step, 0, -BATCH):
            asked = load.Load(islice(requests, min(left, BATCH)), load.ENDLESS)
            uvloop.run(load.run(server.port, asked, CONNECTIONS))
            asked.verify()
        reading = Reading(done, server.memory())
        click.echo(f"{reading.requests:>9,} requests: {reading.memory:6.1f} MB", err=True)
        yield reading


def _requests() -> Iterator[Request]:
    """The mix of reads and writes, with a new document at intervals."""
    mix = workloads.standard()[-1].requests
    for number in count():
        yield workloads.cold(number) if number % NEW_EVERY == 0 else next(mix)


def _table(readings: list[Reading]) -> str:
    rows = [f"| {reading.requests:,} | {reading.memory:.1f} |" for reading in readings]
    return "\n".join(["| requests | memory, MB |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    main()
