"""Measures seven queries on ten thousand up to millions of tasks: scripts/bench --scale 1000000.

Every user has 10,000 tasks, which are loaded with COPY into the migrated tables with all indexes. The triggers are off
while loading, except for the one that derives columns; the rows of task_tags and user_tags are copied too.
"""

import asyncio
import itertools
import json
import os
import random
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import click
import psutil
import uvloop

from app.database.embedded import EmbeddedPostgres
from app.database.url import DatabaseURL
from benchmarks import data, load, report, servers, workloads
from benchmarks.sent import Sent, sent
from benchmarks.servers import Server
from benchmarks.workloads import Request
from migrations.run import migrate

EACH = 10_000
SMALLEST = 10_000
TABLES = ("tasks", "task_clocks", "task_tags", "user_tags")
COLUMNS = """
    user_id id title description completed completed_at priority due_date tags position version created_at updated_at
"""
PAGE = 100
LIST_LIMIT, ROW_LIMIT = 100, 50
WARM, COUNTED, ROUNDS = 30, 150, 9
# PostgreSQL's default, and a size for the tables of millions if the machine has enough memory.
DEFAULT_BUFFERS = "128MB"
READ = """
    SELECT sum(pg_prewarm(relation)) FROM (
        SELECT $1::regclass::oid UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid = $1::regclass
    ) AS relations (relation)
"""
# The indexes of created_at and updated_at start with the user.
RESTORE = (
    "DELETE FROM tasks WHERE user_id = ANY ($1::uuid[]) AND created_at > '2026-03-01'",
    """
    UPDATE tasks SET deleted_at = NULL, updated_at = created_at, completed = right(id::text, 6)::int % 3 = 0,
                     completed_at = CASE WHEN right(id::text, 6)::int % 3 = 0 THEN created_at END
    WHERE user_id = ANY ($1::uuid[]) AND updated_at > '2026-03-01'
    """,
)

LIST = """
query List($filter: TaskFilter) {
  tasks(filter: $filter, orderBy: [{field: CREATED_AT}], first: 100) {
    nodes { id title completed priority dueDate createdAt } pageInfo { hasNextPage endCursor }
  }
}"""
UPDATE = """
mutation Update($id: ID!, $title: String!) {
  updateTask(id: $id, input: {title: $title}) { task { id title version } userErrors { code } }
}"""
DELETE = "mutation Delete($id: ID!) { deleteTask(id: $id) { task { id deletedAt } userErrors { code } } }"


def user_id(user: int) -> UUID:
    """Evenly distributed ids, like those of real users."""
    return UUID(md5(str(user).encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Size:
    """A database with a given number of tasks."""

    tasks: int
    owner_url: str
    app_url: str

    @property
    def users(self) -> int:
        return self.tasks // EACH


def sizes(postgres: EmbeddedPostgres, largest: int) -> list[Size]:
    """The sizes to measure, from 10,000 tasks up to the largest."""
    steps = [step for step in (SMALLEST, 1_000_000, 10_000_000) if step < largest]
    return [
        Size(step, *(url.replace("/taskql?", f"/scale_{step}?") for url in (postgres.owner_url, postgres.app_url)))
        for step in [*steps, largest]
    ]


async def prepare(postgres: EmbeddedPostgres, size: Size) -> None:
    """Create and fill the database of a size unless that is done. Continues an interrupted run."""
    name = f"scale_{size.tasks}"
    admin = await asyncpg.connect(postgres.owner_url)
    if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
        await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    await migrate(DatabaseURL(size.owner_url), DatabaseURL(size.app_url))
    connection = await asyncpg.connect(size.owner_url)
    done = await connection.fetchval("SELECT count(*) FROM users")
    await _fill(connection, size, done)
    await connection.close()


async def _fill(connection: "asyncpg.Connection[Any]", size: Size, done: int) -> None:
    if done == size.users:
        return
    await connection.execute("SET session_replication_role = replica; SET synchronous_commit = off")
    await connection.execute("ALTER TABLE tasks ENABLE ALWAYS TRIGGER derive_inserted_task")
    with click.progressbar(range(done, size.users), label=f"Making {size.tasks:,} tasks", file=sys.stderr) as users:
        for user in users:
            async with connection.transaction():
                await _copy(connection, user)
    await connection.execute("ALTER TABLE tasks ENABLE TRIGGER derive_inserted_task")
    for table in ("users", *TABLES):
        await connection.execute(f"VACUUM (ANALYZE) {table}")
    await connection.execute("CHECKPOINT")


async def _copy(connection: "asyncpg.Connection[Any]", user: int) -> None:
    owner = user_id(user)
    await connection.execute("INSERT INTO users (id, email) VALUES ($1, $2)", owner, f"user{user}@example.com")
    await connection.execute("INSERT INTO task_clocks (user_id, version, tasks) VALUES ($1, $2, $2)", owner, EACH)
    rows = "".join(_row(owner, user, task) for task in range(EACH)).encode()
    await connection.copy_to_table("tasks", source=_chunks(rows), columns=COLUMNS.split())
    tags = "".join(map(partial(_tag, owner, user), range(EACH))).encode()
    await connection.copy_to_table("task_tags", source=_chunks(tags), columns=["user_id", "tag", "task_id"])
    names = [(owner, f"tag {number}", f"tag {number}") for number in range(7)]
    await connection.copy_records_to_table("user_tags", records=names, columns=["user_id", "key", "name"])


def _tag(owner: UUID, user: int, task: int) -> str:
    return f"{owner}\ttag {task % 7}\t{data.task_id(user, task)}\n"


async def _chunks(rows: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(rows), 65536):
        yield rows[start : start + 65536]


def _row(owner: UUID, user: int, task: int) -> str:
    """A task in COPY's text format."""
    made = f"2026-01-{task // 1440 + 1:02d} {task // 60 % 24:02d}:{task % 60:02d}:00Z"
    done = task % 3 == 0
    return "\t".join(
        (
            str(owner),
            data.task_id(user, task),
            f"Task {task} of user {user}: call back and say when it can be done",
            "More about it. " * 6 if task % 2 else "\\N",
            "t" if done else "f",
            made if done else "\\N",
            str(task % 5),
            f"2020-01-{task % 28 + 1:02d}" if task % 4 == 0 else "\\N",
            f'{{"tag {task % 7}"}}',
            f"a{task:08x}V",
            str(task + 1),
            made,
            f"{made}\n",
        )
    )


Asked = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """One of the seven queries: its text, its latency limit in ms, its variables, and a check of its response."""

    name: str
    limit: float
    text: str
    variables: Callable[[int, int], Asked]
    holds: Callable[[int, Asked, Asked], bool]

    def request(self, user: int, task: int) -> Request:
        asked = self.variables(user, task)
        return workloads.request(user_id(user), self.text, asked, lambda answer: self.holds(user, asked, answer))


def _list(name: str, where: Asked) -> Query:
    """The first page of all tasks of a user, or of those that match a filter."""

    def holds(user: int, _asked: Asked, answer: Asked) -> bool:
        nodes = answer["tasks"]["nodes"]
        mine = all(f"of user {user}:" in node["title"] and not (where and node["completed"]) for node in nodes)
        return mine and len(nodes) == PAGE and nodes == sorted(nodes, key=lambda node: str(node["createdAt"]))

    return Query(name, LIST_LIMIT, LIST, lambda _user, _task: {"filter": where}, holds)


def _write(name: str, text: str, field: str, variables: Callable[[int, int], Asked]) -> Query:
    """A mutation of one task, which must succeed and return the written values."""

    def holds(_user: int, asked: Asked, answer: Asked) -> bool:
        payload = answer[field]
        wanted = {name: asked[name] for name in ("id", "title", "completed") if name in asked}
        return bool(payload["userErrors"] == [] and wanted.items() <= payload["task"].items())

    return Query(name, ROW_LIMIT, text, variables, holds)


def _counts() -> Query:
    def holds(_user: int, _asked: Asked, answer: Asked) -> bool:
        stats = answer["viewer"]["taskStats"]
        return bool(stats["total"] == stats["open"] + stats["completed"] > EACH // 2)

    return Query("count by status", ROW_LIMIT, workloads.COUNTS, lambda _user, _task: {}, holds)


def _made(user: int, _task: int) -> Asked:
    return {"input": {"title": f"Task of user {user}: new", "priority": "HIGH", "tags": ["new"]}}


def _renamed(user: int, task: int) -> Asked:
    return {"id": data.task_id(user, task), "title": f"Task of user {user}: {secrets.token_hex(8)}"}


def _completed(user: int, task: int) -> Asked:
    return {"id": data.task_id(user, task), "completed": task % 3 != 0}


def _deleted(user: int, task: int) -> Asked:
    return {"id": data.task_id(user, task)}


def queries() -> list[Query]:
    """The seven queries."""
    return [
        _list("all tasks, sorted", {}),
        _list("incomplete tasks", {"completed": False}),
        _write("create", workloads.CREATE, "createTask", _made),
        _write("update", UPDATE, "updateTask", _renamed),
        _write("set completed", workloads.COMPLETE, "setTaskCompleted", _completed),
        _write("delete", DELETE, "deleteTask", _deleted),
        _counts(),
    ]


def requests(users: Sequence[int]) -> dict[str, Iterator[Request]]:
    """Requests of each query for these users, in random order. No two of them change the same task."""
    pick = random.Random(len(users))  # noqa: S311 - the same in every run
    all_queries = queries()
    targets = {query.name: _targets(pick, users, place, len(all_queries)) for place, query in enumerate(all_queries)}
    return {query.name: itertools.starmap(query.request, targets[query.name]) for query in all_queries}


def _targets(pick: random.Random, users: Sequence[int], place: int, step: int) -> Iterator[tuple[int, int]]:
    tasks = list(range(place, EACH, step))
    pick.shuffle(tasks)
    for task in itertools.cycle(tasks):
        yield pick.choice(users), task


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of one round of a query at a size, in milliseconds."""

    p50: float
    p95: float


async def measured(server: Server, asked: Iterator[Request]) -> Latency:
    """A round with one connection, after a short warm-up. Raises RuntimeError for a wrong response."""
    for number in (WARM, COUNTED):
        seen = await load.run(server.port, load.Load(itertools.islice(asked, number), load.ENDLESS), 1)
        seen.verify()
    latencies = sorted(seen.latencies)
    return Latency(latencies[len(latencies) // 2] * 1000, latencies[int(len(latencies) * 0.95)] * 1000)


async def rounds(
    servers_: Sequence[Server], users: Sequence[Sequence[int]], number: int
) -> dict[str, list[list[Latency]]]:
    """The rounds for each query and size. The sizes alternate."""
    asked = [requests(of_size) for of_size in users]
    found: dict[str, list[list[Latency]]] = {query.name: [[] for _ in users] for query in queries()}
    for _ in range(number):
        for name, per_size in found.items():
            for place, server in enumerate(servers_):
                per_size[place].append(await measured(server, asked[place][name]))
    return found


async def restore(size: Size) -> None:
    """Undo the writes of an earlier run, and vacuum.

    Autovacuum is off: it would process a small table during a run, and a large one long after it.
    """
    connection = await asyncpg.connect(size.owner_url)
    users = [user_id(user) for user in range(size.users)]
    for statement in RESTORE:
        await connection.execute(statement, users)
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await connection.execute(f"VACUUM (INDEX_CLEANUP ON) {table}")
    await connection.close()


async def give(postgres: EmbeddedPostgres, buffers: str) -> None:
    """Set PostgreSQL's shared buffers and maximum WAL size, from its next restart."""
    admin = await asyncpg.connect(postgres.owner_url)
    await admin.execute(f"ALTER SYSTEM SET shared_buffers = '{buffers}'")
    await admin.execute("ALTER SYSTEM SET max_wal_size = '8GB'")
    await admin.close()


async def read_all(size: Size) -> None:
    """Load the tables and their indexes into PostgreSQL's memory, as far as they fit."""
    connection = await asyncpg.connect(size.owner_url)
    await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
    for table in ("users", *TABLES):
        await connection.execute(READ, table)
    await connection.execute("CHECKPOINT")
    await connection.close()


async def bytes_a_task(size: Size) -> float:
    connection = await asyncpg.connect(size.owner_url)
    room = sum([await connection.fetchval("SELECT pg_total_relation_size($1)", table) for table in TABLES])
    count = await connection.fetchval("SELECT count(*) FROM tasks")
    await connection.close()
    return float(room / count)


async def plans(size: Size) -> dict[str, list[str]]:
    """The indexes that each query uses. Raises RuntimeError for a full scan of a table with several users."""
    connection = await asyncpg.connect(size.app_url)
    found = {}
    for query in queries():
        statement = max(await sent(size.app_url, user_id(0), query.text, query.variables(0, 1)), key=_size)
        await connection.execute(f"BEGIN; SELECT begin_write('{user_id(0)}')")
        explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement.text}", *statement.rounds[-1])
        plan = json.loads(explained)[0]["Plan"]
        await connection.execute("ROLLBACK")
        nodes = list(_nodes(plan))
        whole = [node for node in nodes if node["Node Type"] == "Seq Scan" and node["Relation Name"] == "tasks"]
        if size.users > 1 and whole:
            raise RuntimeError(f"{query.name} reads a whole table at {size.tasks:,} tasks: {plan}")
        found[query.name] = sorted({node["Index Name"] for node in nodes if "Index Name" in node})
    await connection.close()
    return found


def _size(statement: Sent) -> int:
    return len(statement.text)


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from _nodes(below)


def run(folder: Path, largest: int, python: Path) -> dict[str, Any]:
    """Measure at every size up to the largest."""
    with EmbeddedPostgres.start(folder) as postgres:
        all_sizes = sizes(postgres, largest)
        for size in all_sizes:
            asyncio.run(prepare(postgres, size))
        asyncio.run(give(postgres, DEFAULT_BUFFERS))
    everybody = [range(size.users) for size in all_sizes]
    with EmbeddedPostgres.start(folder) as postgres:
        elsewhere = _latencies(folder, all_sizes, everybody, python)
        asyncio.run(give(postgres, f"{psutil.virtual_memory().total * 2 // 3 >> 20}MB"))
    with EmbeddedPostgres.start(folder):
        for size in all_sizes:
            asyncio.run(read_all(size))
        return {
            "tasks": [size.tasks for size in all_sizes],
            "bytes_a_task": [asyncio.run(bytes_a_task(size)) for size in all_sizes],
            "one_user": _latencies(folder, all_sizes, [[size.users // 2] for size in all_sizes], python),
            "any_user": _latencies(folder, all_sizes, everybody, python),
            "any_user_elsewhere": elsewhere,
            "indexes": asyncio.run(plans(all_sizes[-1])),
        }


def _latencies(folder: Path, all_sizes: Sequence[Size], users: Sequence[Sequence[int]], python: Path) -> dict[str, Any]:
    """The latencies of each query at each size, for these users."""
    for size in all_sizes:
        asyncio.run(restore(size))
    servers.pin(data.postmaster(folder), [servers.LOAD_CORE])
    os.sched_setaffinity(0, [servers.LOAD_CORE])
    with ExitStack() as stack:
        kinds = [servers.taskql(size.app_url) for size in all_sizes]
        running = [stack.enter_context(servers.running(kind, python)) for kind in kinds]
        found = uvloop.run(rounds(running, users, ROUNDS))
    return {query.name: _summary(query, found[query.name]) for query in queries()}


def _summary(query: Query, latencies: Sequence[Sequence[Latency]]) -> dict[str, Any]:
    growth = [last.p50 / first.p50 for first, last in zip(latencies[0], latencies[-1], strict=True)]
    return {
        "limit": query.limit,
        "p50": [report.spread([part.p50 for part in size]) for size in latencies],
        "p95": [report.spread([part.p95 for part in size]) for size in latencies],
        "growth": report.spread(growth),
    }
