"""Pages and counts of lists, and changes of both, among 10,000 tasks read few rows, with any plan."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import Application, Server, untold
from test_pages import (
    EACH_WAY,
    INDEXED_EACH_WAY,
    MANY,
    MODES,
    Seeded,
    explained,
    order_by,
    owning,
    predicted,
    seed,
    sent,
)
from test_pages import serving as serving_
from test_plans import all_sorts, faults, nodes, whole_scans

from app.entities.cursors import sync_token, sync_token_with_trash

PAGE = """
    query ($filter: TaskFilter, $order: [TaskOrder!], $first: Int, $last: Int, $after: String) {
        tasks(filter: $filter, orderBy: $order, first: $first, last: $last, after: $after) {
            totalCount nodes { id } pageInfo { hasNextPage hasPreviousPage endCursor }
        }
    }
"""
BELOW = """
    query ($id: ID!, $order: [TaskOrder!], $first: Int, $after: String) {
        list(id: $id) { tasks(orderBy: $order, first: $first, after: $after) { nodes { id } pageInfo { endCursor } } }
    }
"""
SCREEN = "{ lists(first: 50) { nodes { id name taskStats { open overdue } } } }"
CHANGES = """
    query ($since: SyncToken) {
        changes(since: $since, first: 100) {
            changes { ... on ListUpserted { list { id name } token } ... on TaskUpserted { task { id title } token } }
            token hasMore fullSync
        }
    }
"""
# 400 lists of the other user, of the same versions as every 20th of the first 8,000 tasks.
MANY_LISTS = """
    INSERT INTO task_lists (user_id, id, name, position, version)
    SELECT $1, md5('list ' || n)::uuid, 'List ' || n, 'a' || lpad(to_hex(n), 8, '0') || 'V', n * 20
    FROM generate_series(1, 400) AS n RETURNING id::text, version
"""
CLOCK = "INSERT INTO task_clocks (user_id, version) VALUES ($1, $2) ON CONFLICT (user_id) DO UPDATE SET version = $2"
# Lists of a user by name, with the share of the tasks that they have. The rest is in the inbox.
SIZES = {"tiny": 3, "small": 150, "large": 2000, "huge": 7800}


class Listed:
    """A user with 10,000 tasks in lists of different sizes, and the ids of these lists.

    Another user has 400 lists without tasks; their ids and those of the tasks are in the order of changes.
    """

    def __init__(self, seeded: Seeded) -> None:
        self.user, self.other = seeded.user, seeded.other
        self.changes: list[str] = []
        self.lists = {name: uuid4() for name in SIZES}
        self.rows: dict[str, list[Any]] = {}

    async def fill(self, connection: "asyncpg.Connection[Any]", seeded: Seeded) -> None:
        """Spread the tasks evenly over the order of their positions."""
        shuffled = sorted(seeded.rows, key=lambda row: str(row["id"])[::-1])
        for name, list_id in self.lists.items():
            await connection.execute(
                "INSERT INTO task_lists (user_id, id, name) VALUES ($1, $2, $3)", self.user.id, list_id, name
            )
            self.rows[name], shuffled = shuffled[: SIZES[name]], shuffled[SIZES[name] :]
            ids = [row["id"] for row in self.rows[name]]
            await connection.execute(
                "UPDATE tasks SET list_id = $2, version = version + 1 WHERE user_id = $1 AND id = ANY ($3)",
                self.user.id, list_id, ids,
            )  # fmt: skip
        self.rows["inbox"] = shuffled
        await self._fill_other(connection, seeded)

    async def _fill_other(self, connection: "asyncpg.Connection[Any]", seeded: Seeded) -> None:
        async with untold(connection):
            lists = await connection.fetch(MANY_LISTS, self.other.id)
        await connection.execute(CLOCK, self.other.id, MANY)
        rows = [(version, "list", row_id) for row_id, version in lists]
        rows += [(row["version"], "task", str(row["id"])) for row in seeded.rows]
        self.changes = [row_id for _, _, row_id in sorted(rows)]

    def filter(self, name: str) -> dict[str, Any]:
        return {"list": {"isNull": True} if name == "inbox" else {"ids": [str(self.lists[name])]}}


@pytest.fixture(scope="module")
async def listed(server: Server, application: Application) -> Listed:
    async with owning(server) as connection:
        seeded = await seed(connection, application, MANY)
        listed = Listed(seeded)
        await listed.fill(connection, seeded)
        await connection.execute("VACUUM ANALYZE tasks")
        await connection.execute("VACUUM ANALYZE task_lists")
    return listed


@pytest.fixture(scope="module")
async def served(server: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    async with serving_(server) as connection:
        yield connection


def rows_read(plan: Mapping[str, Any], table: str = "tasks") -> int:
    """The rows of a table that a plan has read, those that it has filtered out included."""
    return sum(
        round((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
        for node in nodes(plan)
        if node.get("Relation Name") == table
    )


@pytest.mark.parametrize("order", EACH_WAY)
@pytest.mark.parametrize("name", [*SIZES, "inbox"])
async def test_pages_of_a_list(listed: Listed, name: str, order: str) -> None:
    """The filter and the list itself show the same page, in each order, and the next one."""
    expected, terms = predicted(listed.rows[name], order), order_by(order)
    page = (await listed.user.data(PAGE, filter=listed.filter(name), order=terms, first=7))["tasks"]
    after = page["pageInfo"]["endCursor"]
    following = (await listed.user.data(PAGE, filter=listed.filter(name), order=terms, first=7, after=after))["tasks"]
    last = (await listed.user.data(PAGE, filter=listed.filter(name), order=terms, last=7))["tasks"]

    assert [node["id"] for node in page["nodes"]] == expected[:7]
    assert [node["id"] for node in following["nodes"]] == expected[7:14]
    assert [node["id"] for node in last["nodes"]] == expected[-7:]
    assert page["totalCount"] == len(expected)
    assert page["pageInfo"]["hasNextPage"] is (len(expected) > 7)
    if name != "inbox":
        below = (await listed.user.data(BELOW, id=str(listed.lists[name]), order=terms, first=7, after=after))["list"]
        assert [node["id"] for node in below["tasks"]["nodes"]] == expected[7:14]


@pytest.mark.parametrize("order", INDEXED_EACH_WAY)
@pytest.mark.parametrize("name", [*SIZES, "inbox"])
async def test_a_page_of_a_list_reads_few_rows(
    listed: Listed, application: Application, served: "asyncpg.Connection[Any]", name: str, order: str
) -> None:
    """By any plan, a page of a small list looks up its tasks, and one of a large list scans the order's index."""
    statements = [
        await sent(application, listed.user, PAGE.replace("totalCount", ""), filter=listed.filter(name),
                   order=order_by(order), first=20)
    ]  # fmt: skip
    if name != "inbox":
        one = {"id": str(listed.lists[name]), "order": order_by(order), "first": 20}
        statements.append(await sent(application, listed.user, BELOW, **one))
    for statement in statements:
        for mode in MODES:
            plan = await explained(served, statement, mode, "ANALYZE,", runs=6)
            assert rows_read(plan) < 900, (mode, rows_read(plan))
            assert faults(plan) == []


async def test_counts_of_lists(listed: Listed, application: Application, served: "asyncpg.Connection[Any]") -> None:
    """The counts of a page of lists are index-only scans of the tasks in these lists."""
    found = (await listed.user.data(SCREEN))["lists"]["nodes"]
    for one in found:
        tasks = listed.rows[one["name"]]
        assert UUID(one["id"]) == listed.lists[one["name"]]
        assert one["taskStats"]["open"] == sum(not row["completed"] for row in tasks)
    statement = await sent(application, listed.user, SCREEN)
    for mode in MODES:
        plan = await explained(served, statement, mode, "ANALYZE,", runs=6)
        scans = {
            (node["Node Type"], node["Index Name"]) for node in nodes(plan) if node.get("Relation Name") == "tasks"
        }
        assert scans == {("Index Only Scan", "ix_tasks_counts")}
        assert rows_read(plan) <= sum(SIZES.values())
        assert faults(plan) == []


@pytest.mark.parametrize(("since", "passed"), [(None, 0), (1000, 1050), (7990, 8389), (8000, 8400), (MANY, MANY + 400)])
async def test_changes_of_lists_and_tasks(
    listed: Listed, application: Application, served: "asyncpg.Connection[Any]", since: int | None, passed: int
) -> None:
    """By any plan a page of 100 changes reads at most 101 rows of each kind by its index, and no more are sorted.

    If only tasks have changed, nothing is sorted.
    """
    token = None if since is None else sync_token(since, listed.other.id)
    statement = await sent(application, listed.other, CHANGES, since=token)
    answer = json.loads(statement.answer or "")
    found = [change["list" if "list" in change else "task"]["id"] for change in answer["changes"]]
    assert found == listed.changes[passed : passed + 100]
    assert (answer["hasMore"], answer["fullSync"]) == (since != MANY, since is None)
    for mode in MODES:
        plan = await explained(served, statement, mode, "ANALYZE,", runs=6)
        lists = rows_read(plan, "task_lists")
        assert faults(plan) == whole_scans(plan) == []
        assert rows_read(plan) <= 101
        # One of them is read to see whether there are any.
        assert lists <= 101 + 1 if (since or 0) < 8000 else lists == 0
        ran = [node for node in nodes(plan) if node["Actual Loops"]]
        assert [node for node in ran if all_sorts({**node, "Plans": []})] == [] or lists
        assert max((node["Actual Rows"] for node in ran), default=0) <= 202


STONES = """
    INSERT INTO tombstones (user_id, id, kind, version, trashed_version)
    SELECT $1, gen_random_uuid(), n % 2, n, n - 10 FROM generate_series(1, 10000) AS n
"""


@pytest.mark.parametrize("trash", [False, True])
async def test_changes_with_tombstones(
    listed: Listed,
    application: Application,
    served: "asyncpg.Connection[Any]",
    owner: "asyncpg.Connection[Any]",
    *,
    trash: bool,
) -> None:
    """By any plan, tombstones cost one look into their index if there are none after the token, or a page of them.

    In a first sync, 10,000 older ones are not read.
    """
    user = listed.user
    await owner.execute(CLOCK, user.id, MANY)
    await owner.execute(STONES, user.id)
    query = CHANGES.replace("first: 100", f"first: 100, trash: {str(trash).lower()}")
    token = sync_token_with_trash if trash else sync_token
    try:
        for since in (None, MANY, 9_900, 5_000):
            asked = None if since is None else token(since, user.id)
            statement = await sent(application, user, query, since=asked)
            for mode in MODES:
                plan = await explained(served, statement, mode, "ANALYZE,", runs=6)
                ran = [
                    node for node in nodes(plan) if node.get("Relation Name") == "tombstones" and node["Actual Loops"]
                ]
                assert faults(plan) == whole_scans(plan) == []
                assert {node["Index Name"] for node in ran} == {"ix_tombstones_version"}
                found = rows_read(plan, "tombstones")
                if since in {None, MANY}:
                    # In the first sync there are lists, with which tombstones would be merged.
                    assert (len(ran), found) == (1 if since else 2, 0), mode
                else:
                    assert found <= 102 + 2 * 10, mode
    finally:
        await owner.execute("DELETE FROM tombstones WHERE user_id = $1", user.id)
