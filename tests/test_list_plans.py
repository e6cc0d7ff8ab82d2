"""Pages and counts of lists among 10,000 tasks read few rows, with any plan."""

from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import Application, Server
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
from test_plans import faults, nodes

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
# Lists of a user by name, with the share of the tasks that they have. The rest is in the inbox.
SIZES = {"tiny": 3, "small": 150, "large": 2000, "huge": 7800}


class Listed:
    """A user with 10,000 tasks in lists of different sizes, and the ids of these lists."""

    def __init__(self, seeded: Seeded) -> None:
        self.user = seeded.user
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

    def filter(self, name: str) -> dict[str, Any]:
        return {"list": {"isNull": True} if name == "inbox" else {"ids": [str(self.lists[name])]}}


@pytest.fixture(scope="module")
async def listed(server: Server, application: Application) -> Listed:
    async with owning(server) as connection:
        seeded = await seed(connection, application, MANY)
        listed = Listed(seeded)
        await listed.fill(connection, seeded)
        await connection.execute("VACUUM ANALYZE tasks")
    return listed


@pytest.fixture(scope="module")
async def served(server: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    async with serving_(server) as connection:
        yield connection


def rows_read(plan: Mapping[str, Any]) -> int:
    """The rows of tasks that a plan has read, those that it has filtered out included."""
    return sum(
        round((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
        for node in nodes(plan)
        if node.get("Relation Name") == "tasks"
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
