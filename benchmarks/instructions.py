"""Counts the instructions of a request, which do not depend on other load of the machine.

Each server runs under Valgrind's callgrind, which counts instructions outside the kernel, by library.
"""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import uvloop

from benchmarks import data, load, servers, workloads
from benchmarks.measure import CONNECTIONS
from benchmarks.servers import Kind, Server
from benchmarks.workloads import Workload

# Enough for TaskQL to have cached each user's token; the plain server caches none.
WARM = {"TaskQL": 4000, "plain": 100}
COUNTED = 400
LIBRARIES = {
    "Python": "libpython|/bin/python|lib-dynload",
    "asyncpg": "/asyncpg/",
    "uvloop, httptools": "/uvloop/|/httptools/",
    "orjson": "/orjson/",
    "OpenSSL": "libcrypto",
    "C library": "libc|ld-linux",
}


def run(site: data.Site, python: Path) -> dict[str, dict[str, Any]]:
    """The instructions of a request for each workload and server, in total and by library."""
    if not shutil.which("callgrind_control"):
        raise click.ClickException("callgrind is not installed: apt-get install valgrind")
    works = workloads.standard()
    found: dict[str, dict[str, Any]] = {work.name: {} for work in works}
    for kind in (servers.taskql(site.app_url), servers.plain(site.plain_url)):
        for work, parts in _counted(kind, python, works):
            click.echo(
                f"{kind.name}, {work.title}: {sum(parts.values()) / COUNTED:,.0f} instructions per request", err=True
            )
            found[work.name][kind.name] = _by_library(parts)
    return found


def _counted(kind: Kind, python: Path, works: Sequence[Workload]) -> Iterator[tuple[Workload, Mapping[str, int]]]:
    """The instructions of the counted requests of each workload, by object file."""
    with TemporaryDirectory() as folder:
        valgrind = [
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={folder}/out",
        ]
        with servers.running(kind, python, before=valgrind) as server:
            for work in works:
                _ask(server, work, 1, connections=1)  # slow here, so before other connections wait for it
                _ask(server, work, WARM[kind.name])
                _control(server, "--instr=on")
                _ask(server, work, COUNTED)
                _control(server, "--instr=off")
                _control(server, f"--dump={work.name}")
                yield work, _dumped(Path(folder))


def _ask(server: Server, work: Workload, count: int, connections: int = CONNECTIONS) -> None:
    seen = uvloop.run(load.run(server.port, load.Load(islice(work.requests, count), load.ENDLESS), connections))
    seen.verify()


def _control(server: Server, option: str) -> None:
    subprocess.run(["callgrind_control", option, str(server.process.pid)], check=True, capture_output=True)  # noqa: S603, S607 - Valgrind's own, ours to run


def _dumped(folder: Path) -> Mapping[str, int]:
    found: Counter[str] = Counter()
    for dump in folder.iterdir():
        found.update(files(dump.read_text()))
        dump.unlink()
    return found


def files(dump: str) -> Mapping[str, int]:
    """The cost of each object file in a dump of callgrind. Lines after `calls=` are skipped: the callee has its own."""
    names, found, here, is_call = dict[str, str](), Counter[str](), "", False
    for line in dump.splitlines():
        if line.startswith(("ob=", "cob=")):
            number, _, name = line.partition("=")[2].partition(" ")
            names[number] = name or names.get(number, "")
            here = names[number] if line.startswith("ob=") else here
        elif line.startswith("calls="):
            is_call = True
        elif re.match(r"[+\-*\d]", line):
            found[here] += 0 if is_call else int(line.split()[1])
            is_call = False
    return found


def _by_library(parts: Mapping[str, int]) -> dict[str, float]:
    found = dict.fromkeys([*LIBRARIES, "the rest"], 0.0)
    for name, count in parts.items():
        library = next((title for title, pattern in LIBRARIES.items() if re.search(pattern, name)), "the rest")
        found[library] += count / COUNTED
    return {"all": sum(found.values()), **found}
