"""The index of tags: pages by rare and common tags with any plan, and consistency after every kind of write."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from conftest import Application, Server, User, connect
from test_pages import (
    ARGUMENTS,
    INDEXED,
    MANY,
    MODES,
    NODES,
    PAGE_INFO,
    TASKS,
    Row,
    Seeded,
    explained,
    order_by,
    owning,
    page_of,
    predicted,
    seed,
    sent,
    serving,
    tasks_of,
)
from test_plans import Plan, faults, nodes

from app.database.url import DatabaseURL
from app.tasks.tags import FEW
from migrations.run import migrate

PAGE = (
    f"query Page({ARGUMENTS}) {{ {TASKS} {{ edges {{ cursor node {{ id description }} }} {PAGE_INFO} totalCount }} }}"
)
RETAG = "mutation Retag($id: ID!, $input: UpdateTaskInput!) { updateTask(id: $id, input: $input) { task { id } } }"
BY_TAG = "query ByTag($tags: [String!]!) { tasks(filter: { tagsAll: $tags }) { nodes { id } } }"

# Adds a tag to some tasks of both users, besides the tag that a quarter of all tasks have.
ADD = "UPDATE tasks SET tags = array_append(tags, $3) WHERE user_id = ANY ($1) AND id = ANY ($2)"
RARE = {"one": 1, "some": 30, "few": FEW, "many": FEW + 1}


@pytest.fixture(scope="module")
async def many(server: Server, application: Application) -> Seeded:
    """Two users of 10,000 tasks each with the same ids, some of them with rare tags."""
    async with owning(server) as connection:
        seeded = await seed(connection, application, MANY)
        users = [seeded.user.id, seeded.other.id]
        for place, (tag, count) in enumerate(RARE.items()):
            await connection.execute(
                ADD, users, [row["id"] for row in seeded.rows[place :: MANY // count][:count]], tag
            )
        rows = await connection.fetch("SELECT * FROM tasks WHERE user_id = $1", seeded.user.id)
        return Seeded(seeded.user, seeded.other, [dict(row) for row in rows])


def tagged(rows: list[Row], order: str, *tags: str) -> list[str]:
    """The ids of the tasks that have all of the tags, in an order."""
    return predicted([row for row in rows if set(tags) <= set(row["tags"])], order)


@pytest.mark.parametrize("tag", [*RARE, "tag 1"])
@pytest.mark.parametrize("order", ["-CREATED_AT", "DUE_DATE", "-PRIORITY TITLE"])
async def test_pages_by_a_tag(many: Seeded, order: str, tag: str) -> None:
    """Pages by a rare or a common tag, in either direction, show all its tasks in order, with right page info."""
    expected = tagged(many.rows, order, tag)
    arguments: dict[str, Any] = {"filter": {"tagsAny": [tag, "no task"]}, "orderBy": order_by(order)}
    for size, mark, end, more in (
        ("first", "after", "endCursor", "hasNextPage"),
        ("last", "before", "startCursor", "hasPreviousPage"),
    ):
        shown: list[str] = []
        page = await page_of(many.user, PAGE, **arguments, **{size: 100})
        assert page["totalCount"] == len(expected)
        for _ in range(3):
            ids = [task["id"] for task in tasks_of(page)]
            shown = shown + ids if size == "first" else ids + shown
            if not page["pageInfo"][more]:
                break
            page = await page_of(many.user, PAGE, **arguments, **{size: 100, mark: page["pageInfo"][end]})
            assert page["pageInfo"]["hasPreviousPage" if size == "first" else "hasNextPage"]
        assert shown == (expected[:300] if size == "first" else expected[-300:])


@pytest.mark.parametrize(
    ("tags", "count"),
    [(["tag 1", "some"], None), (["some", "tag 1"], None), (["one", "no task"], 0), (["tag 1"] * 3, MANY // 4)],
)
async def test_all_of_several_tags(many: Seeded, tags: list[str], count: int | None) -> None:
    """The filter tagsAll finds the tasks that have all tags, in any order of the tags."""
    expected = tagged(many.rows, "-CREATED_AT", *tags)
    page = await page_of(many.user, PAGE, filter={"tagsAll": tags})

    assert [task["id"] for task in tasks_of(page)] == expected[:20]
    assert page["totalCount"] == len(expected) == (len(expected) if count is None else count)


def scans(plan: Plan) -> set[str]:
    """The indexes that were read, and the types of other table scans."""
    ran = [node for node in nodes(plan) if node["Actual Loops"] and "Scan" in node["Node Type"]]
    tables = [node for node in ran if "Relation Name" in node or "Index Name" in node]
    return {node.get("Index Name", node["Node Type"]) for node in tables} - {"Bitmap Heap Scan"}


@pytest.mark.parametrize("order", [*INDEXED, "PRIORITY"])
async def test_a_rare_tag_is_looked_up(many: Seeded, application: Application, server: Server, order: str) -> None:
    """With any plan a page by a rare tag reads the tag's entries and tasks, but no index of the order."""
    every = (await page_of(many.user, PAGE, filter={"tagsAll": ["some"]}, orderBy=order_by(order), first=30))["edges"]
    arguments = {"filter": {"tagsAll": ["tag 1", "some"]}, "orderBy": order_by(order), "after": every[3]["cursor"]}
    statement = await sent(application, many.user, PAGE, **arguments)
    async with serving(server) as connection:
        plans = {mode: await explained(connection, statement, mode, "ANALYZE,", runs=6) for mode in MODES}

    assert {mode: scans(plan) for mode, plan in plans.items()} == {
        mode: {"pk_task_tags", "pk_tasks", "pk_user_tags"} for mode in MODES
    }
    assert {mode: faults(plan) for mode, plan in plans.items()} == {mode: [] for mode in MODES}


@pytest.mark.parametrize("order", INDEXED)
async def test_a_common_tag_is_met_on_the_way(
    many: Seeded, application: Application, server: Server, order: str
) -> None:
    """With any plan a page by a common tag walks the order's index."""
    arguments = {"filter": {"tagsAny": ["tag 1"]}, "orderBy": order_by(order)}
    statement = await sent(application, many.user, NODES, **arguments)
    async with serving(server) as connection:
        plans = [await explained(connection, statement, mode, "ANALYZE,", runs=6) for mode in MODES]

    walked = {"CREATED_AT": "created", "UPDATED_AT": "updated", "DUE_DATE": "due", "POSITION": "position"}[order]
    assert [scans(plan) for plan in plans] == [{"pk_task_tags", "pk_user_tags", f"ix_tasks_{walked}"}] * len(MODES)


# Entries of the index, and tags of users, that differ from the tasks.
ASTRAY = """
    WITH meant AS (SELECT user_id, tag_key(unnest(tags)), id FROM tasks)
    (TABLE task_tags EXCEPT TABLE meant) UNION ALL (TABLE meant EXCEPT TABLE task_tags)
    UNION ALL (
        SELECT user_id, tag, id FROM tasks, unnest(tags) AS tag
        WHERE NOT EXISTS (SELECT FROM user_tags WHERE user_tags.user_id = tasks.user_id AND name = tag)
    )
"""


async def found(user: User, *tags: str) -> set[str]:
    return {task["id"] for task in (await user.data(BY_TAG, tags=tags))["tasks"]["nodes"]}


async def test_the_index_follows_the_api(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Tags that mutations write are found, by their own user only."""
    hers, his = await alice.add(tags=["home", "work"]), await bob.add(tags=["home"])
    assert (await found(alice, "home"), await found(bob, "home")) == ({hers["id"]}, {his["id"]})

    await alice.data(RETAG, id=hers["id"], input={"tags": ["garden"]})
    assert (await found(alice, "home"), await found(alice, "garden")) == (set(), {hers["id"]})
    assert await found(bob, "home") == {his["id"]}

    await bob.data(RETAG, id=his["id"], input={"tags": None})
    assert await found(bob, "home") == set()
    assert await owner.fetch(ASTRAY) == []


async def test_the_index_follows_sql(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Tags written by SQL are found; deleting a user deletes the entries."""
    task_id = uuid4()
    insert = "INSERT INTO tasks (user_id, id, title, position, version, tags) VALUES ($1, $2, 'x', 'a', 1, $3)"
    await owner.execute(insert, alice.id, task_id, ["sql", "sql", "more"])
    assert await found(alice, "sql", "more") == {str(task_id)}

    await owner.execute("UPDATE tasks SET tags = '{new}', user_id = $2 WHERE user_id = $1", alice.id, bob.id)
    assert (await found(alice, "sql"), await found(bob, "new")) == (set(), {str(task_id)})

    await owner.execute("DELETE FROM users WHERE id = $1", bob.id)
    assert await owner.fetchval("SELECT count(*) FROM task_tags WHERE user_id = ANY ($1)", [alice.id, bob.id]) == 0
    assert await owner.fetch(ASTRAY) == []


async def test_the_server_cannot_index_for_another(server: Server, alice: User, bob: User) -> None:
    """Acting as one user, the server's role neither sees nor creates another user's entries."""
    await alice.add(tags=["secret"])
    async with serving(server) as connection:
        await connection.execute(f"BEGIN; SET LOCAL app.user_id = '{bob.id}'")
        assert await connection.fetchval("SELECT count(*) FROM task_tags") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await connection.execute("INSERT INTO task_tags VALUES ($1, 'secret', gen_random_uuid())", alice.id)


@pytest.fixture
async def held(empty: Server) -> AsyncIterator[DatabaseURL]:
    """The URL of an owner subject to row-level security, for the test's own database."""
    role = f"owner_{uuid4().hex}"
    superuser = await connect(empty.owner_url)
    await superuser.execute(f"CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA public TO {role}")
    yield DatabaseURL(empty.owner_url.replace("//postgres", f"//{role}"))
    await superuser.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
    await superuser.close()


TWO_USERS = """
    INSERT INTO users (email) VALUES ('a@example.com'), ('b@example.com');
    INSERT INTO tasks (user_id, id, title, position, version, tags)
    SELECT id, gen_random_uuid(), 'Old', 'a', 1, '{home,home,work}' FROM users
"""


async def test_tags_from_before_the_index_are_in_it(empty: Server, held: DatabaseURL) -> None:
    """The migration indexes existing tags, also as an owner subject to row-level security."""
    superuser = await connect(empty.owner_url)
    await migrate(held, None, "0002")
    await superuser.execute(TWO_USERS)
    await migrate(held, None)

    assert await superuser.fetchval("SELECT count(*) FROM task_tags") == 4
    assert await superuser.fetch(ASTRAY) == []
    forced = "SELECT relforcerowsecurity FROM pg_class WHERE oid = ANY ('{tasks,task_tags}'::regclass[])"
    assert [row[0] for row in await superuser.fetch(forced)] == [True, True]
    await superuser.close()


@pytest.mark.parametrize("revision", ["head", "0004"])
async def test_tags_go_with_their_user(empty: Server, held: DatabaseURL, revision: str) -> None:
    """An owner subject to row-level security deletes a user with the tags; leftovers are removed."""
    superuser = await connect(empty.owner_url)
    await migrate(held, None, revision)
    await superuser.execute(TWO_USERS)
    owner = await connect(str(held.sqlalchemy.set(drivername="postgresql")))
    await owner.execute("DELETE FROM users WHERE email = 'a@example.com'")
    await owner.close()
    await migrate(held, None)

    assert await superuser.fetchval("SELECT count(*) FROM task_tags") == 2
    assert await superuser.fetch(ASTRAY) == []
    await superuser.close()


OF_TWO_CASES = """
    WITH made AS (INSERT INTO users (email) VALUES ('a@example.com'), ('b@example.com') RETURNING id)
    INSERT INTO tasks (user_id, id, title, position, created_at, tags, completed, completed_at, deleted_at)
    SELECT made.id, gen_random_uuid(), task.title, 'a', task.made_at::timestamptz, task.tags::text[],
        task.title = 'Done', CASE WHEN task.title = 'Done' THEN now() END, CASE WHEN task.title = 'Gone' THEN now() END
    FROM made, (VALUES
        ('Newer', '2026-02-02', '{HOME,x,home}'), ('Older', '2026-01-01', '{Home}'), ('Done', '2026-03-03', '{X," "}'),
        ('Gone', '2026-03-03', '{home}'), ('Blank', '2026-03-03', '{" "}'), ('None', '2026-03-03', '{}')
    ) AS task (title, made_at, tags)
"""
SHOWN = "SELECT DISTINCT title, tags FROM tasks ORDER BY title"


async def test_existing_tags_are_converted(empty: Server, held: DatabaseURL) -> None:
    """A migration merges tags that differ by case alone, under the oldest name, and changed tasks get new versions."""
    superuser = await connect(empty.owner_url)
    await migrate(held, None, "0014")
    await superuser.execute(OF_TWO_CASES)
    versions = await superuser.fetch("SELECT id, version FROM tasks WHERE title IN ('Older', 'None')")
    clocks = await superuser.fetchval("SELECT min(version) FROM task_clocks")
    await migrate(held, None)

    assert [tuple(row) for row in await superuser.fetch(SHOWN)] == [
        ("Blank", []),
        ("Done", ["x"]),
        ("Gone", ["Home"]),
        ("Newer", ["Home", "x"]),
        ("None", []),
        ("Older", ["Home"]),
    ]
    assert await superuser.fetch(ASTRAY) == []
    assert await superuser.fetch("SELECT id, version FROM tasks WHERE title IN ('Older', 'None')") == versions
    assert await superuser.fetchval("SELECT min(version) FROM tasks WHERE title IN ('Newer', 'Done', 'Gone')") > clocks
    await superuser.close()
