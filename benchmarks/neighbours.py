"""Measures the effect of one hostile caller on others: runs each attack against a server while a victim works.

Server, victim and attacker are separate processes. Each attack gets a new server. The victim works alone first, then
under attack, and the figures are compared within this run.
"""

import asyncio
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import orjson
import psutil

from app.database.embedded import EmbeddedPostgres
from benchmarks import crowd, data, steps
from benchmarks.attacks import ATTACKS, Attack
from benchmarks.servers import ROOT

SECONDS = 10.0
IDLE_SECONDS = 5.0
LEAD_SECONDS = 0.2
AFTER_SECONDS = 2.0
SAMPLE_SECONDS = 0.05
PATIENCE_SECONDS = 60
STOP_SECONDS = 20
MOST_FILES = 65_536
PORTS = range(20_000, 32_768)

P95_MILLISECONDS, TIMES_IDLE = 100, 5
LIVE_MILLISECONDS = 250
LIVEZ_MILLISECONDS = 25
MEGABYTES = 100
STEP_MILLISECONDS = 15


@dataclass(frozen=True, slots=True)
class Place:
    """The database and directory of the benchmark, the server's Python, and whether steps are timed."""

    postgres: EmbeddedPostgres
    folder: Path
    python: Path
    steps: bool

    @property
    def steps_file(self) -> Path:
        return self.folder / "steps"


def run(folder: Path, python: Path, numbers: Sequence[int], seconds: float, *, timed: bool) -> dict[str, Any]:
    """The figures of each attack by its number."""
    files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    # If this process is terminated, it terminates the processes that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with EmbeddedPostgres.start(folder / "database") as postgres:
        asyncio.run(crowd.prepare(postgres))
        place = Place(postgres, folder, python, timed)
        found = {}
        for number in numbers:
            try:
                found[str(number)] = _attacked(place, number, seconds)
            except RuntimeError as error:  # continue with the other attacks
                click.echo(f"{number:>3} {ATTACKS[number].title}: not measured: {error}", err=True)
            else:
                click.echo(_line(number, found[str(number)]), err=True)
    return found


def _attacked(place: Place, number: int, seconds: float) -> dict[str, Any]:
    attack = ATTACKS[number]
    with ExitStack() as stack:
        stack.callback(lambda: asyncio.run(crowd.end_statements(place.postgres.owner_url)))
        issuer = stack.enter_context(crowd.key_set(_free_port())) if attack.key_set else crowd.Secret()
        port = _free_port()
        server = stack.enter_context(_serving(place, port, {**issuer.settings, **attack.settings}))
        tokens = {"big": issuer.token(crowd.BIG), "hostile": issuer.token(data.user_id(crowd.HOSTILE + number))}
        job = {"port": port, "token": issuer.token(crowd.VICTIM), "pace": attack.pace, "large": attack.large}
        victim = stack.enter_context(_started("victim", job))
        attacker = stack.enter_context(_started("attacker", {"number": number, "port": port, "tokens": tokens}))
        idle = time.monotonic() + LEAD_SECONDS
        times = {"idle": idle, "attack": idle + IDLE_SECONDS, "end": idle + IDLE_SECONDS + seconds}
        for process in (victim, attacker):
            _tell(process, times)
        memory = _memory(server, times)
        found: dict[str, Any] = {"memory": memory, "victim": _result(victim), "attacker": _result(attacker)}
        if place.steps:
            step = steps.longest(place.steps_file, times["attack"], times["end"] + AFTER_SECONDS)
            found["longest_step"] = {"milliseconds": step.milliseconds, "name": step.name}
    found["missed"] = missed(attack, found)
    return {"title": attack.title, "by": attack.by, **found}


@contextmanager
def _serving(place: Place, port: int, settings: Mapping[str, str]) -> Iterator[psutil.Process]:
    """Within the block, run a server with default settings except these."""
    module = ["benchmarks.steps", str(place.steps_file)] if place.steps else ["app"]
    command = [str(place.python), "-m", *module, "serve", "--port", str(port)]
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": place.postgres.app_url, **settings}
    log = place.folder / "server.log"
    with log.open("wb") as lines, _ending(command, environment, lines.fileno()) as process:
        _wait(port, process, log)
        yield psutil.Process(process.pid)


@contextmanager
def _started(name: str, job: Mapping[str, Any]) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of this benchmark that is ready and waits for its times."""
    command = [sys.executable, "-m", f"benchmarks.{name}", orjson.dumps(job).decode()]
    with _ending(command, dict(os.environ), subprocess.PIPE) as process:
        assert process.stdout  # noqa: S101 - a pipe was asked for
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the {name} did not start")
        yield process


@contextmanager
def _ending(command: Sequence[str], environment: Mapping[str, str], stdout: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is terminated at the end of the block, and killed if necessary."""
    errors = subprocess.STDOUT if stdout != subprocess.PIPE else None
    process = subprocess.Popen(  # noqa: S603 - ours
        command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=stdout, stderr=errors
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tell(process: "subprocess.Popen[bytes]", times: Mapping[str, float]) -> None:
    assert process.stdin  # noqa: S101 - a pipe was asked for
    process.stdin.write(orjson.dumps(times) + b"\n")
    process.stdin.flush()


def _result(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """The result of a process. Raises RuntimeError if it does not print it in time."""
    try:
        result: dict[str, Any] = orjson.loads(process.communicate(timeout=PATIENCE_SECONDS)[0])
    except (subprocess.TimeoutExpired, orjson.JSONDecodeError) as error:
        raise RuntimeError(f"no result from {process.args!r}") from error
    return result


def _memory(server: psutil.Process, times: Mapping[str, float]) -> dict[str, float]:
    """Resident memory in megabytes: before the attack, the maximum, and after it."""
    time.sleep(max(0, times["attack"] - time.monotonic()))
    before = most = _resident(server)
    while time.monotonic() < times["end"] + AFTER_SECONDS:
        most = max(most, _resident(server))
        time.sleep(SAMPLE_SECONDS)
    return {"before": before, "most": most, "after": _resident(server)}


def _resident(server: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        return sum(process.memory_info().rss for process in (server, *server.children(recursive=True))) / 1e6
    return 0.0


def _wait(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).is_success:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log.read_text()[-500:]}")


def _free_port() -> int:
    """A port below the range of ephemeral ports."""
    while True:
        port = random.choice(PORTS)  # noqa: S311 - no secret
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def missed(attack: Attack, found: Mapping[str, Any]) -> list[str]:
    """Short descriptions of the missed targets."""
    idle, seen, memory = found["victim"]["idle"], found["victim"]["attack"], found["memory"]
    step = found["longest_step"]["milliseconds"] if "longest_step" in found else 0.0
    checks = {
        "failures": not seen["failures"] and seen["requests"] > 0,
        "p95": seen["p95"] <= max(P95_MILLISECONDS, TIMES_IDLE * idle["p95"]),
        "live": seen["live_p95"] <= LIVE_MILLISECONDS and not seen["live_missing"],
        "/livez": seen["livez_p99"] <= idle["livez_p99"] + LIVEZ_MILLISECONDS,
        "memory": memory["most"] - memory["before"] <= MEGABYTES,
        "step": step <= STEP_MILLISECONDS,
        attack.bound: attack.bounded(found["attacker"]),
        "the attack itself": found["attacker"]["fault"] is None,
    }
    return [name for name, holds in checks.items() if not holds]


def _line(number: int, found: Mapping[str, Any]) -> str:
    idle, seen = found["victim"]["idle"], found["victim"]["attack"]
    failures = sum(seen["failures"].values())
    verdict = f"missed: {', '.join(found['missed'])}" if found["missed"] else "all targets met"
    return (
        f"{number:>3} {found['title']}: p95 {idle['p95']:.0f} -> {seen['p95']:.0f} ms, {failures} failures,"
        f" live p95 {seen['live_p95']:.0f} ms; {verdict}"
    )


HEAD = """| | attack | by | p50, p95, worst, ms | failures | changes p95, worst, ms | /livez p99, ms | MB more | \
attacker was told | missed |
|---|---|---|---|---|---|---|---|---|---|
"""


def table(results: Mapping[str, Any]) -> str:
    """A Markdown table of what the victim saw, idle and under attack, and of the responses to the attacker."""
    met = sum(not found["missed"] for found in results.values())
    rows = "".join(_row(number, found) for number, found in results.items())
    return f"{HEAD}{rows}\nAll targets were met in {met} of {len(results)} attacks.\n"


def _row(number: str, found: Mapping[str, Any]) -> str:
    idle, seen, memory = found["victim"]["idle"], found["victim"]["attack"], found["memory"]
    longest = found.get("longest_step")
    step = [f"longest step {longest['milliseconds']:.0f} ms ({longest['name']})"] if longest else []
    cells = [
        number,
        found["title"],
        found["by"],
        f"{_shown(idle, 'p50', 'p95', 'worst')} → {_shown(seen, 'p50', 'p95', 'worst')}{_prepared(idle, seen)}",
        _counted(seen["failures"], seen["requests"]),
        f"{_shown(idle, 'live_p95', 'live_worst')} → {_shown(seen, 'live_p95', 'live_worst')}",
        f"{_shown(idle, 'livez_p99')} → {_shown(seen, 'livez_p99')}",
        f"{memory['most'] - memory['before']:.0f}",
        "; ".join([*_told(found["attacker"]), *step]),
        ", ".join(found["missed"]) or "none",
    ]
    return f"| {' | '.join(cells)} |\n"


def _prepared(idle: Mapping[str, Any], seen: Mapping[str, Any]) -> str:
    if not idle["prepared_p95"]:
        return ""
    return f"; a large prepared one, p95: {_shown(idle, 'prepared_p95')} → {_shown(seen, 'prepared_p95')}"


def _shown(figures: Mapping[str, Any], *names: str) -> str:
    return ", ".join(f"{figures[name]:,.0f}" if figures[name] >= 10 else f"{figures[name]:.1f}" for name in names)  # noqa: PLR2004 - two digits


def _counted(failures: Mapping[str, int], requests: int) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in failures.items())
    return f"{kinds} of {requests}" if failures else f"0 of {requests}"


def _told(attacker: Mapping[str, Any]) -> list[str]:
    counted = sorted((attacker["told"] | attacker["facts"]).items(), key=lambda item: -item[1])
    shown = [f"{count:,} {kind}" for kind, count in counted if count][:6]
    return [f"sent {attacker['sent']:,}", *shown, *([attacker["fault"]] if attacker["fault"] else [])]
