"""Kills sockets, listeners, sessions and servers while clients write, and then compares all copies with the database.

Two server processes share one database; four clients write; thirty clients keep copies, each on any server that
responds.
"""

import asyncio
import os
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import click
import httpx

from app.database.embedded import EmbeddedPostgres
from app.database.url import DatabaseURL
from app.models import PRIORITIES
from benchmarks import data
from benchmarks.following import BROKEN, Copy
from benchmarks.realtime import distribution
from benchmarks.servers import ROOT
from migrations.run import migrate

USERS, COPIES_EACH, WRITERS, SERVERS = 10, 3, 4, 2
KINDS = {"socket": 75, "listener": 15, "session": 6, "server": 4}
PAUSES = (0.05, 0.3)
PATIENCE_SECONDS = 60
ENDED = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE usename = 'taskql_app' AND (application_name = 'taskql listener') = $1
"""
STORED = "SELECT id::text, title, completed, priority, version FROM tasks WHERE user_id = $1 AND deleted_at IS NULL"
WRITES = [
    ("($title: String!)", "createTask(input: { title: $title }) { task { id } }"),
    ("($title: String!)", "createTasks(inputs: [{ title: $title }, { title: $title }]) { tasks { id } }"),
    ("($id: ID!, $title: String!)", "updateTask(id: $id, input: { title: $title, priority: HIGH }) { token }"),
    ("($id: ID!)", "setTaskCompleted(id: $id, completed: true) { token }"),
    ("($id: ID!)", "setTaskCompleted(id: $id, completed: false) { token }"),
    ("($id: ID!)", "moveTask(id: $id, to: { toStart: true }) { token }"),
    ("($id: ID!)", "deleteTask(id: $id) { token }"),
    ("($id: ID!)", "restoreTask(id: $id) { token }"),
]


def run(folder: Path, kills: int, python: Path) -> dict[str, Any]:
    """The kills and their effects. Raises RuntimeError if a copy differs from the database."""
    with EmbeddedPostgres.start(folder) as postgres:
        site = Site(postgres, python)
        try:
            return asyncio.run(_run(site, kills))
        finally:
            site.stop()


class Site:
    """The database, and the server processes by port."""

    def __init__(self, postgres: EmbeddedPostgres, python: Path) -> None:
        self.owner_url, self._app_url, self._python = postgres.owner_url, postgres.app_url, python
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    async def start(self) -> None:
        await migrate(DatabaseURL(self.owner_url), DatabaseURL(self._app_url))
        for _ in range(SERVERS):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
            self.serve(port)

    def serve(self, port: int) -> None:
        command = [str(self._python), "-m", "app", "serve", "--port", str(port)]
        settings = {
            "DATABASE_URL": self._app_url,
            "AUTH_SECRET": data.SECRET,
            "RATE_LIMIT": "off",
            "LOG_LEVEL": "error",
        }
        environment = {"PATH": os.environ["PATH"], **settings}
        self.processes[port] = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: S603 - ours

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    async def answers(self, port: int) -> None:
        """Wait until a server accepts requests."""
        async with httpx.AsyncClient() as http:
            while True:
                with suppress(httpx.HTTPError):
                    if (await http.get(f"http://127.0.0.1:{port}/livez")).is_success:
                        return
                await asyncio.sleep(0.05)


async def _run(site: Site, kills: int) -> dict[str, Any]:
    await site.start()
    owner = await asyncpg.connect(site.owner_url)
    users = [data.user_id(number) for number in range(1, USERS + 1)]
    await owner.executemany(
        "INSERT INTO users (id, email) VALUES ($1, $2) ON CONFLICT DO NOTHING", [(user, str(user)) for user in users]
    )
    ports = list(site.processes)
    await asyncio.gather(*map(site.answers, ports))
    copies = [Copy(user, ports) for user in users for _ in range(COPIES_EACH)]
    keeping = [asyncio.create_task(copy.keep()) for copy in copies]
    writing = [asyncio.create_task(_write(users, ports)) for _ in range(WRITERS)]
    killed = await _kill(site, owner, copies, kills)
    for writer in writing:
        writer.cancel()
    written = sum(await asyncio.gather(*writing))
    await _compare(owner, copies)
    for task in keeping:
        task.cancel()
    await asyncio.wait(keeping)
    await owner.close()
    return {
        "killed": dict(killed),
        "acknowledged_writes": written,
        "copies": len(copies),
        "came_again": sum(copy.again for copy in copies),
        "began_anew": sum(copy.began_anew for copy in copies),
        "latency": distribution([latency * 1000 for copy in copies for latency in copy.latencies]),
    }


async def _kill(site: Site, owner: "asyncpg.Connection[Any]", copies: Sequence[Copy], kills: int) -> Counter[str]:
    killed: Counter[str] = Counter()
    with click.progressbar(range(kills), label="Kills", file=sys.stderr) as numbers:
        for _ in numbers:
            [kind] = random.choices(list(KINDS), list(KINDS.values()))  # noqa: S311 - no secret
            await _kill_one(kind, site, owner, copies)
            killed[kind] += 1
            await asyncio.sleep(random.uniform(*PAUSES))  # noqa: S311 - no secret
    return killed


async def _kill_one(kind: str, site: Site, owner: "asyncpg.Connection[Any]", copies: Sequence[Copy]) -> None:
    if kind == "socket":
        connected = [copy.connection for copy in copies if copy.connection]
        if connected:
            random.choice(connected).transport.abort()  # noqa: S311 - no secret
    elif kind == "server":
        port = random.choice(list(site.processes))  # noqa: S311 - no secret
        site.processes[port].kill()
        site.processes[port].wait()
        site.serve(port)
        await site.answers(port)
    else:
        await owner.fetch(ENDED, kind == "listener")


async def _write(users: Sequence[UUID], ports: Sequence[int]) -> int:
    """Write until cancelled. Returns the number of acknowledged writes."""
    known: dict[UUID, list[str]] = {user: [] for user in users}
    acknowledged = 0
    async with httpx.AsyncClient(timeout=10) as http:
        try:
            while True:
                with suppress(*BROKEN):
                    acknowledged += await _write_one(http, random.choice(ports), known)  # noqa: S311 - no secret
        except asyncio.CancelledError:
            return acknowledged


async def _write_one(http: httpx.AsyncClient, port: int, known: dict[UUID, list[str]]) -> bool:
    user = random.choice(list(known))  # noqa: S311 - no secret
    parameters, field = random.choice(WRITES if known[user] else WRITES[:1])  # noqa: S311 - no secret
    variables = {"title": f"Title {random.random()}"} if "$title" in parameters else {}  # noqa: S311 - no secret
    if "$id" in parameters:
        variables["id"] = random.choice(known[user][-50:])  # noqa: S311 - no secret
    body = {"query": f"mutation {parameters} {{ written: {field} }}", "variables": variables}
    headers = {"Authorization": f"Bearer {data.token(user)}"}
    answer = (await http.post(f"http://127.0.0.1:{port}/graphql", json=body, headers=headers)).json()
    written = (answer.get("data") or {}).get("written") or {}
    made = [written["task"]] if written.get("task") else written.get("tasks", [])
    known[user] += [task["id"] for task in made]
    return bool(written)


async def _compare(owner: "asyncpg.Connection[Any]", copies: Sequence[Copy]) -> None:
    """Raise RuntimeError if a copy does not become equal to the database."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        for copy in copies:
            while _shown(copy) != await _stored(owner, copy.user):  # noqa: ASYNC110 - copies have no events
                await asyncio.sleep(0.05)


def _shown(copy: Copy) -> set[tuple[Any, ...]]:
    names = ("id", "title", "completed", "priority", "version")
    return {tuple(task[name] for name in names) for task in copy.tasks.values()}


async def _stored(owner: "asyncpg.Connection[Any]", user: UUID) -> set[tuple[Any, ...]]:
    rows = await owner.fetch(STORED, user)
    return {(row["id"], row["title"], row["completed"], PRIORITIES[row["priority"]], row["version"]) for row in rows}
