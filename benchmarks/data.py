"""The database of the benchmarks: an embedded PostgreSQL with generated users and tasks."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import click

from app.database.embedded import EmbeddedPostgres
from app.database.url import DatabaseURL
from app.identity.tokens import Signer
from app.models import PRIORITIES
from migrations.run import migrate

SECRET = "signs the tokens of the benchmark alone"  # noqa: S105 - made up
TASKS_EACH = 100
READERS = range(1, 801)
WRITERS = range(801, 1001)
# One with many tasks, and one with twenty of 16 KB together.
BUSY, BUSY_TASKS = 1001, 10_000
WORDY, WORDY_TASKS = 1002, 20
SPAN = 50

# The role of the servers to compare with: without row-level security, but not a superuser.
PLAIN_ROLE_NAME = "plain"
PLAIN_ROLE = """
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'plain') THEN
            CREATE ROLE plain LOGIN NOSUPERUSER BYPASSRLS;
        END IF;
    END $$;
    GRANT SELECT, INSERT, UPDATE, DELETE ON tasks, task_tags, user_tags TO plain;
    GRANT SELECT ON users TO plain;
"""
MAKE_USERS = """
    INSERT INTO users (id, email)
    SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'user' || n || '@example.com'
    FROM generate_series($1::int, $2::int) AS n
"""
MAKE_TASKS = """
    INSERT INTO tasks (user_id, id, title, description, completed, completed_at, priority, due_date, tags,
                       position, version, created_at, updated_at)
    SELECT ('00000000-0000-4000-8000-' || lpad(u::text, 12, '0'))::uuid,
           ('01900000-0000-7000-8000-' || lpad(u::text, 6, '0') || lpad(n::text, 6, '0'))::uuid,
           'Task ' || n || ' of user ' || u || ': call back and say when it can be done',
           CASE WHEN $4::int > 0 THEN repeat('x', $4::int) WHEN n % 2 = 0 THEN repeat('More about it. ', 6) END,
           n % 3 = 0, CASE WHEN n % 3 = 0 THEN made.at END, n % 5,
           CASE WHEN n % 4 = 0 THEN date '2020-01-01' + n % 28 END, ARRAY['tag ' || n % 7],
           'a' || lpad(to_hex(n), 8, '0') || 'V', n, made.at, made.at
    FROM generate_series($1::int, $2::int) AS u, generate_series(1, $3::int) AS n,
         LATERAL (SELECT timestamptz '2026-01-01 00:00:00Z' + n * interval '1 minute' AS at) AS made
"""
MAKE_CLOCKS = """
    INSERT INTO task_clocks (user_id, version, tasks)
    SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, $3::int, $3::int
    FROM generate_series($1::int, $2::int) AS n
"""
# Undoes the writes of earlier runs.
RESTORE = """
    DELETE FROM tasks WHERE id::text NOT LIKE '01900000-0000-7000-8000-%';
    UPDATE tasks SET completed = false, completed_at = NULL
    WHERE completed AND user_id > '00000000-0000-4000-8000-000000000800'
      AND user_id < '00000000-0000-4000-8000-000000001001';
"""


def user_id(user: int) -> UUID:
    return UUID(f"00000000-0000-4000-8000-{user:012d}")


def task_id(user: int, task: int) -> str:
    return f"01900000-0000-7000-8000-{user:06d}{task:06d}"


@cache
def token(owner: UUID) -> str:
    """A token that is valid for a day."""
    return Signer(SECRET).token(owner, timedelta(days=1))


def shown(user: int, task: int) -> dict[str, Any]:
    """The fields of a generated task, as both servers return them."""
    made = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=task)).isoformat()
    return {
        "id": task_id(user, task),
        "title": f"Task {task} of user {user}: call back and say when it can be done",
        "completed": task % 3 == 0,
        "priority": PRIORITIES[task % 5],
        "dueDate": f"2020-01-{task % 28 + 1:02d}" if task % 4 == 0 else None,
        "createdAt": made,
    }


@dataclass
class Site:
    """The database, with the URLs of its owner, of TaskQL's role and of the plain server's role."""

    owner_url: str
    app_url: str
    plain_url: str
    postmaster: int


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """The embedded PostgreSQL of a folder, which can count statements."""
    with EmbeddedPostgres.start(folder) as postgres:
        asyncio.run(_configure(postgres.owner_url))
    with EmbeddedPostgres.start(folder) as postgres:
        plain_url = postgres.app_url.replace("taskql_app", "plain")
        yield Site(postgres.owner_url, postgres.app_url, plain_url, postmaster(folder))


def postmaster(folder: Path) -> int:
    """The process id of the embedded PostgreSQL in a folder."""
    return int((folder / "postgres" / "postmaster.pid").read_text().split("\n")[0])


async def prepare(site: Site) -> None:
    """Migrate and fill the database unless that is done, and undo the writes of earlier runs."""
    await migrate(DatabaseURL(site.owner_url), DatabaseURL(site.app_url))
    connection = await asyncpg.connect(site.owner_url)
    try:
        await connection.execute(PLAIN_ROLE)
        if await connection.fetchval("SELECT count(*) FROM users WHERE id = $1", user_id(WORDY)) == 0:
            await _fill(connection)
        await connection.execute(RESTORE)
        for table in ("users", "tasks", "task_clocks", "task_tags", "user_tags"):
            await connection.execute(f"VACUUM (ANALYZE) {table}")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def execute(site: Site, *statements: str) -> None:
    """Execute statements as the owner, each in a transaction of its own."""
    connection = await asyncpg.connect(site.owner_url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _fill(connection: "asyncpg.Connection[Any]") -> None:
    """Create the users in groups. The last one marks completion: without it, the next run starts from the beginning."""
    await connection.execute("TRUNCATE users, tasks, task_clocks, task_lists, task_tags, user_tags, tombstones")
    last = WRITERS[-1]
    groups = [(first, min(first + SPAN - 1, last), TASKS_EACH, 0) for first in range(1, last + 1, SPAN)]
    groups += [(BUSY, BUSY, BUSY_TASKS, 0), (WORDY, WORDY, WORDY_TASKS, 820)]
    with click.progressbar(groups, label="Creating users and tasks", file=sys.stderr) as shown:
        for first, end, tasks, description in shown:
            await connection.execute(MAKE_USERS, first, end)
            await connection.execute(MAKE_TASKS, first, end, tasks, description)
            await connection.execute(MAKE_CLOCKS, first, end, tasks)


async def _configure(owner_url: str) -> None:
    connection = await asyncpg.connect(owner_url)
    try:
        await connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        await connection.execute("ALTER SYSTEM SET pg_stat_statements.track = 'none'")
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    finally:
        await connection.close()


async def count_statements(connection: "asyncpg.Connection[Any]", *, on: bool) -> None:
    """Enable or disable the counting of statements, which takes time."""
    await connection.execute(f"ALTER SYSTEM SET pg_stat_statements.track = '{'top' if on else 'none'}'")
    await connection.execute("SELECT pg_reload_conf()")


async def statements(connection: "asyncpg.Connection[Any]", role: str) -> int:
    """How many statements a role has sent while counting was on."""
    calls = (
        "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements JOIN pg_roles ON userid = oid WHERE rolname = $1"
    )
    found: int = await connection.fetchval(calls, role)
    return found
