"""A database that was distributed at an early revision is upgraded to the latest one, as a plain database is."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import nodes
import pytest
from conftest import SECRET, Server, User, connect, distributed, made_settings, running
from nodes import DATABASE, OWNER, SERVER, Cluster, execute
from test_migrations import REVISIONS

from app.database.checks import FORCED
from app.database.url import DatabaseURL
from app.identity.tokens import Signer
from migrations import citus
from migrations.run import migrate

pytestmark = pytest.mark.citus

# The first revision that supports clusters, and what it distributes.
FIRST = "0014"
TABLES = ("tasks", "task_clocks", "task_tags")
FUNCTIONS = (
    "act_as(uuid)",
    "begin_write(uuid)",
    "position_between(text, text)",
    "search_key(text)",
    "keep_task_tags()",
    "stamp_task()",
    "forget_tasks()",
    "is_distributed()",
    "tell(uuid, integer)",
)
PLAIN = "plain"
USERS = [UUID(int=number) for number in range(1, 21)]
# The rows are older than the upgrade, which gives some of them the time at which it runs.
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FILL = (
    """
    INSERT INTO users (id, email, created_at, updated_at)
    SELECT id, id || '@example.com', '2020-01-01', '2020-01-01' FROM unnest($1::uuid[]) AS id
    """,
    # For each user: 12 tasks, open, completed and in the trash, with titles of any case, accents and numbers. One has
    # tags that differ in case, and becomes another task by the upgrade.
    """
    INSERT INTO tasks (
        user_id, id, title, description, completed, completed_at, priority, due_date, tags,
        created_at, updated_at, deleted_at
    )
    SELECT owner, md5(owner || ' ' || n)::uuid, (ARRAY['Éclair', 'file ', 'FILE ', 'Żółw'])[1 + n % 4] || n,
        nullif('Notes ' || n, 'Notes 3'), n % 3 = 0, CASE WHEN n % 3 = 0 THEN '2020-01-02'::timestamptz END, n % 5,
        '2020-02-01'::date + n,
        CASE WHEN n = 5 THEN '{Home,HOME,Work}' WHEN n % 2 = 0 THEN '{Home,Work}' ELSE '{}' END::varchar[],
        '2020-01-01'::timestamptz + n * interval '1 hour', '2020-01-03',
        CASE WHEN n % 4 = 0 THEN '2020-01-04'::timestamptz END
    FROM unnest($1::uuid[]) AS owner, generate_series(1, 12) AS n
    """,
)
VIEW = "tasks(first: 100, orderBy: [{ field: TITLE }, { field: POSITION }]"
TASK = "id title description completed completedAt priority dueDate tags position version createdAt deletedAt"
READ = f"""{{
    viewer {{ id email taskStats {{ total open completed overdue }} }}
    open: {VIEW}) {{ totalCount nodes {{ {TASK} }} }}
    trash: {VIEW}, filter: {{ trashed: true }}) {{ totalCount nodes {{ {TASK} }} }}
    home: {VIEW}, filter: {{ tagsAll: ["HOME"], search: "file" }}) {{ nodes {{ id }} }}
    tags {{ name open total }}
    lists {{ totalCount }}
    changes(first: 100) {{ token changes {{
        ... on TaskUpserted {{ task {{ id title tags version }} token }} ... on TaskRemoved {{ taskId token }}
    }} }}
}}"""
WRITE = """mutation ($list: ID!, $task: ID!, $gone: ID!) {
    createList(input: { id: $list, name: "Home" }) { userErrors { code } }
    createTask(input: { title: "New", tags: ["home", "newer"], listId: $list }) { userErrors { code } }
    updateTask(id: $task, input: { title: "Changed", listId: $list }) { userErrors { code } task { tags } }
    restoreTask(id: $gone) { userErrors { code } }
    renameTag(from: "work", to: "office") { affectedCount userErrors { code } }
    deleteList(id: $list) { userErrors { code } }
}"""


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with nodes.running() as cluster:
        await execute(
            cluster.coordinator.url(),
            "SET citus.enable_ddl_propagation = off",
            f"CREATE DATABASE {PLAIN} OWNER {OWNER}",
        )
        yield cluster


async def filled(server: Server, owner: str) -> None:
    """Migrate to the early revision, and add tasks of several users."""
    await migrate(DatabaseURL(owner), None, FIRST)
    connection = await connect(server.owner_url)
    for statement in FILL:
        await connection.execute(statement, USERS)
    await connection.close()


async def rows(server: Server) -> dict[str, list[Any]]:
    """All rows of each table. The time of the upgrade is shown as such."""
    connection = await connect(server.owner_url)
    found = {}
    for table in ("users", *FORCED):
        if await connection.fetchval("SELECT to_regclass($1) IS NULL", table):
            continue
        texts = await connection.fetch(f"SELECT to_jsonb({table})::text FROM {table}")  # noqa: S608 - constants
        found[table] = sorted((shown(json.loads(row[0])) for row in texts), key=str)
    await connection.close()
    return found


def shown(row: dict[str, Any]) -> dict[str, Any]:
    at = row.get("updated_at")
    is_new = at is not None and datetime.fromisoformat(at) > LONG_AGO + timedelta(days=365)
    return {**row, "updated_at": "new" if is_new else at}


async def answers(server: Server) -> list[dict[str, Any]]:
    """What each user reads, writes and reads again."""
    found = []
    async with running(made_settings(server)) as application:
        for owner in USERS:
            token = Signer(SECRET).token(owner, timedelta(hours=1))
            user = User(owner, f"{owner}@example.com", token, application.http)
            before = await user.data(READ)
            names = {"list": str(UUID(int=owner.int + 1000)), "task": before["open"]["nodes"][0]["id"]}
            written = await user.data(WRITE, **names, gone=before["trash"]["nodes"][0]["id"])
            found += [before, written, await user.data("{ tags { name open total } lists { totalCount } }")]
    return found


async def test_upgrading_from_the_first_revision(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows, and what users read and write, are the same as on a plain database."""
    spread, plain = cluster.server, cluster.server.database(PLAIN)
    owner, plain_owner = cluster.owner_url, cluster.owner_url.replace(f"/{DATABASE}?", f"/{PLAIN}?")
    await filled(spread, owner)
    await filled(plain, plain_owner)
    with monkeypatch.context() as old:
        old.setattr(citus, "FORCED", TABLES)
        old.setattr(citus, "FUNCTIONS", FUNCTIONS)
        await migrate(DatabaseURL(owner), None, FIRST, spread=True)
    assert await rows(spread) == await rows(plain)

    later = REVISIONS[REVISIONS.index(FIRST) + 1 :]
    assert await migrate(DatabaseURL(owner), DatabaseURL(cluster.coordinator.url(SERVER))) == later
    assert await migrate(DatabaseURL(plain_owner), DatabaseURL(cluster.coordinator.url(SERVER, PLAIN))) == later

    assert (await distributed(spread), await distributed(plain)) == (True, False)
    upgraded = await rows(spread)
    assert upgraded == await rows(plain)
    assert {row["updated_at"] == "new" for row in upgraded["tasks"]} == {True, False}
    assert await answers(spread) == await answers(plain)
    assert await unlike_the_coordinator(cluster) == []


async def unlike_the_coordinator(cluster: Cluster) -> list[str]:
    """Tables and functions of user data that are not the same on the coordinator and on each worker."""
    facts = []
    for node in cluster.nodes:
        connection = await connect(node.url())
        found = await connection.fetch(
            """SELECT 'function ' || oid::regprocedure AS name, prosrc AS fact FROM pg_proc
            WHERE proname = ANY ($1) AND pronamespace = 'public'::regnamespace
            UNION ALL SELECT 'column ' || attrelid::regclass || '.' || attname, format_type(atttypid, atttypmod)
            FROM pg_attribute WHERE attrelid = ANY ($2::regclass[]) AND attnum > 0 AND NOT attisdropped""",
            [function.partition("(")[0] for function in citus.FUNCTIONS],
            [*FORCED],
        )
        await connection.close()
        facts.append({row["name"]: row["fact"] for row in found})
    coordinator, *workers = facts
    return [name for name, fact in coordinator.items() for worker in workers if worker.get(name) != fact]
