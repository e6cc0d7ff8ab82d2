"""The main queries of a task list use an index, for a user of 10,000 tasks among many users."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from conftest import Application, Server, User, running
from sqlalchemy import event
from test_pages import MANY, Seeded, Sent, explained, owning, seed, serving
from test_partitions import explicable, recorder
from test_plans import CROWD, Plan, nodes

from app.settings import Settings

LIST = """
    query List($filter: TaskFilter) {
        tasks(filter: $filter, orderBy: [{ field: CREATED_AT }], first: 100) {
            nodes { id title completed } pageInfo { hasNextPage endCursor }
        }
    }
"""
PAYLOAD = "{ task { id title completed version } userErrors { code } }"
QUERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "all tasks, sorted": (LIST, {}),
    "incomplete tasks": (LIST, {"filter": {"completed": False}}),
    "create": (f'mutation {{ createTask(input: {{ title: "New", tags: ["new"] }}) {PAYLOAD} }}', {}),
    "create with an id": (
        f'mutation ($id: ID!) {{ createTask(input: {{ id: $id, title: "New" }}) {PAYLOAD} }}',
        {"id": None},
    ),
    "update": (f'mutation ($id: ID!) {{ updateTask(id: $id, input: {{ title: "Other" }}) {PAYLOAD} }}', {"id": None}),
    "set completed": (f"mutation ($id: ID!) {{ setTaskCompleted(id: $id, completed: true) {PAYLOAD} }}", {"id": None}),
    "delete": (f"mutation ($id: ID!) {{ deleteTask(id: $id) {PAYLOAD} }}", {"id": None}),
    "count by status": ("{ viewer { taskStats { total open completed overdue } } }", {}),
}
MANY_IDS = (
    "mutation ($ids: [ID!]!) { updateTasks(where: { ids: $ids }, input: { priority: LOW }, atMost: 1000)"
    " { affectedCount userErrors { code } } }"
)
PLANS = ("force_custom_plan", "force_generic_plan")


@pytest.fixture(scope="module")
async def many(server: Server, application: Application) -> Seeded:
    """Two users of 10,000 tasks each, among many users of 40 tasks."""
    async with owning(server) as connection:
        await connection.execute(CROWD)
        return await seed(connection, application, MANY)


@pytest.fixture(scope="module")
async def sent(settings: Settings) -> AsyncIterator[tuple[Application, list[Sent]]]:
    """An application, and the statements that it sends."""
    async with running(settings) as application:
        found: list[Sent] = []
        event.listen(application.database.engine.sync_engine, "connect", recorder(found))
        yield application, found


async def plan_of(server: Server, user: User, statement: Sent, mode: str) -> Plan:
    """The plan of a statement in a transaction of its user, like a write's."""
    async with serving(server) as connection:
        await connection.execute(f"BEGIN; SET LOCAL app.user_id = '{user.id}'")
        return await explained(connection, statement, mode)


@pytest.mark.parametrize("mode", PLANS)
@pytest.mark.parametrize("name", QUERIES)
async def test_the_seven_queries_take_an_index(
    server: Server, many: Seeded, sent: tuple[Application, list[Sent]], name: str, mode: str
) -> None:
    """Each query finds its tasks by an index that starts with the user, with a custom or generic plan."""
    application, found = sent
    query, variables = QUERIES[name]
    task = next(str(row["id"]) for row in many.rows[len(name) :] if not row["completed"])
    user = replace(many.user, http=application.http)
    found.clear()

    await user.data(query, **{key: value or task for key, value in variables.items()})
    await asyncio.sleep(0)  # the driver reports a statement in the next iteration of the loop
    statement = explicable(found)[-1]
    plan = await plan_of(server, user, statement, mode)

    kinds = {node["Node Type"] for node in nodes(plan) if node.get("Relation Name") == "tasks"} - {"ModifyTable"}
    conditions = [node["Index Cond"] for node in nodes(plan) if "_tasks" in node.get("Index Name", "")]
    # Writes go to the place of the row that an index has found.
    assert kinds <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Tid Scan"}
    assert conditions or name == "create"  # which looks up no task
    assert all("user_id = " in condition for condition in conditions)


@pytest.mark.parametrize("mode", PLANS)
async def test_many_tasks_are_looked_up_by_their_ids(
    server: Server, many: Seeded, sent: tuple[Application, list[Sent]], mode: str
) -> None:
    """A write of 1,000 tasks looks them up by id in an index, with a custom or generic plan."""
    application, found = sent
    ids = [str(row["id"]) for row in many.rows[2000:3000] if row["deleted_at"] is None]
    user = replace(many.user, http=application.http)
    found.clear()

    payload = (await user.data(MANY_IDS, ids=ids))["updateTasks"]
    await asyncio.sleep(0)
    plan = await plan_of(server, user, explicable(found)[-1], mode)

    assert payload == {"affectedCount": len(ids), "userErrors": []}
    conditions = [node["Index Cond"] for node in nodes(plan) if "_tasks" in node.get("Index Name", "")]
    assert conditions
    assert all("id = ANY" in condition for condition in conditions), conditions
