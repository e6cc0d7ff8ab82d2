"""Row-level security: every reading statement calls act_as before it reads, with any plan."""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import Application, Server
from sqlalchemy import Select, Uuid, bindparam, column, func, select, true
from test_pages import (
    ARGUMENTS,
    EACH_WAY,
    INDEXED_EACH_WAY,
    MANY,
    MODES,
    PAGE_INFO,
    TASKS,
    Row,
    Seeded,
    Sent,
    explained,
    order_by,
    owning,
    page_of,
    predicted,
    seed,
    sent,
    serving,
)

from app import models
from app.database.statements import Reader, Statement, compiled, read, user_id
from app.entities.cursors import sync_token
from app.models import PRIORITIES

VIEWER = "{ viewer { id email } }"
STATS = "{ viewer { email taskStats { total open completed overdue dueToday } } }"
STATS_OF_DAYS = """
    query ($today: Date) {
        viewer { a: taskStats(today: $today) { overdue dueToday } b: taskStats(today: "2026-01-02") { overdue } }
    }
"""
TASK = "query Task($id: ID!) { task(id: $id) { id title description } }"
NODE = "query Node($id: ID!) { node(id: $id) { id ... on Task { description } ... on User { taskStats { total } } } }"
PAGE = f"query Page({ARGUMENTS}) {{ {TASKS} {{ nodes {{ id }} }} }}"
PAGE_WITH_INFO = f"query PageWithInfo({ARGUMENTS}) {{ {TASKS} {{ nodes {{ id }} {PAGE_INFO} }} }}"
COUNTED = f"query Counted({ARGUMENTS}) {{ {TASKS} {{ nodes {{ id description }} totalCount }} }}"

# Most users are like these, so a generic plan assumes one of them.
CROWD = """
    WITH crowd AS (INSERT INTO users (email) SELECT gen_random_uuid() FROM generate_series(1, 1500) RETURNING id)
    INSERT INTO tasks (user_id, id, title, position, version)
    SELECT crowd.id, gen_random_uuid(), 'One of many', 'a' || n, n FROM crowd, generate_series(1, 40) AS n
"""

Plan = Mapping[str, Any]


@pytest.fixture(scope="module")
async def many(server: Server, application: Application) -> Seeded:
    """Two users of 10,000 tasks each with the same ids, among many users of 40 tasks."""
    async with owning(server) as connection:
        await connection.execute(CROWD)
        return await seed(connection, application, MANY)


@pytest.fixture(scope="module")
async def served(server: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection like the server's own."""
    async with serving(server) as connection:
        yield connection


def nodes(plan: Plan, *, through_limits: bool = True) -> Iterator[Plan]:
    """A plan's nodes from the top, optionally without those below a LIMIT."""
    yield plan
    for below in plan.get("Plans", []):
        if through_limits or below["Node Type"] != "Limit":
            yield from nodes(below, through_limits=through_limits)


def child(plan: Plan, relationship: str) -> Plan:
    found: Plan = next(below for below in plan["Plans"] if below["Parent Relationship"] == relationship)
    return found


def reads(node: Plan) -> bool:
    """Whether a node reads one of our tables, or contains the policy's condition."""
    own = {name: value for name, value in node.items() if name != "Plans"}
    return "current_setting" in json.dumps(own) or node.get("Relation Name") in models.Base.metadata.tables


def faults(plan: Plan) -> list[str]:
    """What keeps a plan from calling act_as before it reads.

    A nested loop produces a row of its outer side before it runs the inner: act_as must be alone on the outer side,
    and everything that reads on the inner side, below the LIMIT that keeps it there.
    """
    loops = [
        node
        for node in nodes(plan)
        if node["Node Type"] == "Nested Loop" and child(node, "Outer").get("Function Name") == "act_as"
    ]
    if len(loops) != 1:
        return [f"{len(loops)} nested loops begin with act_as"]
    fenced = child(loops[0], "Inner")
    within = [id(node) for node in nodes(fenced)]
    outside = [node["Node Type"] for node in nodes(plan) if reads(node) and id(node) not in within]
    return [
        *([] if fenced["Node Type"] == "Limit" else ["no LIMIT holds what follows act_as"]),
        *(f"{kind} reads outside of the fence" for kind in outside),
        *([] if any(reads(node) for node in nodes(fenced)) else ["nothing reads"]),
    ]


def whole_scans(plan: Plan) -> list[str]:
    """The scans that read the tasks of all users."""
    return [node["Node Type"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]


def sorts(plan: Plan) -> list[str]:
    """The sorts of all tasks of a user, as opposed to a page after its LIMIT."""
    return [
        node["Node Type"]
        for node in nodes(plan)
        if "Sort" in node["Node Type"]
        and any(below.get("Relation Name") == "tasks" for below in nodes(node, through_limits=False))
    ]


def all_sorts(plan: Plan) -> list[str]:
    """All sorts, those of the rows of a page included."""
    return [node["Node Type"] for node in nodes(plan) if "Sort" in node["Node Type"]]


async def same_on_every_plan(connection: "asyncpg.Connection[Any]", statement: Sent) -> dict[str, Plan]:
    """The plans of a statement; each calls act_as before it reads, and all results are equal."""
    plans: dict[str, Plan] = {}
    for mode in MODES:
        runs = 7 if mode == "auto" else 1  # the sixth may be the first with a generic plan
        await connection.execute(f"SET plan_cache_mode = {mode}")
        answers = {await connection.fetchval(statement.text, *statement.arguments) for _ in range(runs)}
        assert answers == {statement.answer}
        plans[mode] = await explained(connection, statement, mode, runs=runs - 1)
    assert {mode: faults(plan) for mode, plan in plans.items()} == {mode: [] for mode in MODES}
    return plans


def one(rows: list[Row]) -> str:
    return str(rows[4711]["id"])


@pytest.mark.parametrize("query", [STATS, STATS_OF_DAYS, "{ tasks { totalCount } }"])
async def test_counts(
    many: Seeded,
    application: Application,
    served: "asyncpg.Connection[Any]",
    owner: "asyncpg.Connection[Any]",
    query: str,
) -> None:
    """Counting all tasks of a user is an index-only scan."""
    await owner.execute("VACUUM ANALYZE tasks")
    plans = await same_on_every_plan(served, await sent(application, many.user, query))

    read = [[node for node in nodes(plan) if node.get("Relation Name") == "tasks"] for plan in plans.values()]
    shown = [[(node["Node Type"], node["Index Name"]) for node in scans] for scans in read]
    scans = 2 if query == STATS_OF_DAYS else 1
    assert shown == [[("Index Only Scan", "ix_tasks_counts")] * scans] * len(MODES)


@pytest.mark.parametrize("query", ["{ tags { name open total } }", "{ tags(first: 2) { name total } }"])
async def test_tags(
    many: Seeded,
    application: Application,
    served: "asyncpg.Connection[Any]",
    owner: "asyncpg.Connection[Any]",
    query: str,
) -> None:
    """Counting the tasks of all tags of a user is one scan of each of two indexes, with any plan."""
    await owner.execute("VACUUM ANALYZE task_tags, tasks")
    statement = await sent(application, many.user, query)
    await same_on_every_plan(served, statement)

    for mode in MODES:
        plan = await explained(served, statement, mode, "ANALYZE,", runs=6)
        scans = [node for node in nodes(plan) if node.get("Relation Name") in {"task_tags", "tasks"}]
        assert sorted((node["Node Type"], node["Index Name"], node["Actual Loops"]) for node in scans) == [
            ("Index Only Scan", "ix_tasks_completed_created", 1),
            ("Index Only Scan", "pk_task_tags", 1),
        ]


@pytest.mark.parametrize("name", ["viewer", "stats", "task", "no task", "node", "own node", "no node"])
async def test_single_objects(
    many: Seeded, application: Application, served: "asyncpg.Connection[Any]", name: str
) -> None:
    """The user with counts, a task and a node: act_as first, index scans, right results, with any plan."""
    user, rows = many.user, many.rows
    done = sum(row["completed"] for row in rows)
    overdue = sum(not row["completed"] and row["due_date"] is not None for row in rows)
    stats = {"total": MANY, "open": MANY - done, "completed": done, "overdue": overdue, "dueToday": 0}
    task = {"id": one(rows), "title": rows[4711]["title"], "description": user.email}
    query, arguments, expected = {
        "viewer": (VIEWER, {}, {"id": str(user.id), "email": user.email}),
        "stats": (STATS, {}, {"email": user.email, "taskStats": stats}),
        "task": (TASK, {"id": one(rows)}, task),
        "no task": (TASK, {"id": str(uuid4())}, None),
        "node": (NODE, {"id": one(rows)}, {"id": one(rows), "description": user.email}),
        "own node": (NODE, {"id": str(user.id)}, {"id": str(user.id), "taskStats": {"total": MANY}}),
        "no node": (NODE, {"id": str(many.other.id)}, None),
    }[name]
    statement = await sent(application, user, query, **arguments)
    plans = await same_on_every_plan(served, statement)

    assert (statement.answer and json.loads(statement.answer)) == expected
    assert [whole_scans(plan) for plan in plans.values()] == [[]] * len(MODES)


CHANGES = """
    query Changes($since: SyncToken, $first: Int) {
        changes(since: $since, first: $first) {
            changes { ... on TaskUpserted { task { id title } token } ... on TaskRemoved { taskId } }
            token hasMore fullSync
        }
    }
"""


@pytest.mark.parametrize("name", ["all", "between pages", "after a write", "nothing new"])
async def test_changes(
    many: Seeded,
    application: Application,
    served: "asyncpg.Connection[Any]",
    owner: "asyncpg.Connection[Any]",
    name: str,
) -> None:
    """With any plan a page of changes is right, calls act_as first, and walks the index of versions."""
    clock = "INSERT INTO task_clocks VALUES ($1, $2, 0) ON CONFLICT (user_id) DO UPDATE SET version = $2"
    await owner.execute(clock, many.user.id, MANY)
    begun = (await many.user.data(CHANGES, first=99))["changes"]["token"]
    since, passed = {
        "all": (None, 0),
        "between pages": (begun, 99),
        "after a write": (sync_token(5000, many.user.id), 5000),
        "nothing new": (sync_token(MANY, many.user.id), MANY),
    }[name]
    statement = await sent(application, many.user, CHANGES, since=since, first=100)
    plans = await same_on_every_plan(served, statement)

    answer = json.loads(statement.answer or "")
    expected = [str(row["id"]) for row in sorted(many.rows, key=lambda row: row["version"])[passed : passed + 100]]
    assert [change["task"]["id"] for change in answer["changes"]] == expected
    assert (answer["hasMore"], answer["fullSync"]) == (name != "nothing new", name == "all")
    assert [(whole_scans(plan), sorts(plan)) for plan in plans.values()] == [([], [])] * len(MODES)
    scans = [
        [one for one in nodes(plan) if one.get("Relation Name", "").startswith("tasks")] for plan in plans.values()
    ]
    assert all(found and all("(version, id) > ROW(" in one.get("Index Cond", "") for one in found) for found in scans)


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        *((PAGE_WITH_INFO, {name: size}) for name in ("first", "last") for size in (1, 20, 100)),
        (PAGE_WITH_INFO, {"first": 20, "orderBy": order_by("TITLE")}),
        (COUNTED, {"first": 20, "filter": {"completed": True}}),
        (CHANGES, {"first": 100}),
        (CHANGES, {"first": 1000}),
        (TASK, {}),
        (STATS, {}),
    ],
)
async def test_a_statement_is_not_planned_for_each_execution(
    many: Seeded, application: Application, server: Server, query: str, arguments: dict[str, Any]
) -> None:
    """PostgreSQL keeps the plan of a statement after its first five executions, also for a user of many tasks."""
    asked = await sent(application, many.user, query, **arguments, **({"id": one(many.rows)} if query == TASK else {}))
    plans = "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement = $1"
    async with serving(server) as connection:
        statement = await connection.prepare(asked.text)
        for _ in range(20):
            await statement.fetch(*asked.arguments)
        assert [tuple(row) for row in await connection.fetch(plans, asked.text)] == [(5, 15)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "field", ["setTaskCompleted(id: $id, completed: true)", "updateTask(id: $id, input: { priority: URGENT })"]
)
async def test_a_change_reads_no_other_task(  # noqa: PLR0913, PLR0917 - fixtures
    many: Seeded,
    application: Application,
    served: "asyncpg.Connection[Any]",
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    field: str,
) -> None:
    """With any plan a change finds its task once by the primary key, and then by its place."""
    written: list[Sent] = []
    given = application.database.write

    async def watched(owner: UUID, statement: Statement, values: Mapping[str, Any]) -> Mapping[str, Any]:
        written.append(Sent(statement.text, statement.arguments(values), None))
        return await given(owner, statement, values)

    monkeypatch.setattr(application.database, "write", watched)
    # An unknown task: the plan is the same, and the tasks of other tests stay as they are.
    await many.user.data(f"mutation ($id: ID!) {{ {field} {{ userErrors {{ code }} }} }}", id=str(uuid4()))
    plan = await explained(served, written[0], mode, runs=0 if mode != "auto" else 6)

    found = [
        (node["Node Type"], node.get("Index Name")) for node in nodes(plan) if node.get("Relation Name") == "tasks"
    ]
    assert sorted(name for name in found if name[0] != "ModifyTable") == [
        ("Index Scan", "pk_tasks"),
        ("Tid Scan", None),
    ]


UNEVEN = ("-PRIORITY DUE_DATE", "DUE_DATE -TITLE")
SHAPES_WITH_INFO = ("after, with info", "before, with info")
SHAPES = ("first", "last", "after", "before", "between", "filtered", "counted")


def shape(name: str, ids: list[str], marks: list[str], rows: list[Row]) -> tuple[str, dict[str, Any], list[str]]:
    """A query of a page, its arguments, and the expected ids."""
    done = {str(row["id"]) for row in rows if row["completed"] and row["priority"] == PRIORITIES.index("HIGH")}
    shapes: dict[str, tuple[str, dict[str, Any], list[str]]] = {
        "first": (PAGE, {"first": 20}, ids[:20]),
        "last": (PAGE, {"last": 20}, ids[-20:]),
        "after": (PAGE, {"first": 20, "after": marks[99]}, ids[100:120]),
        "before": (PAGE, {"last": 20, "before": marks[99]}, ids[79:99]),
        "between": (PAGE, {"first": 20, "after": marks[9], "before": marks[19]}, ids[10:19]),
        "filtered": (
            PAGE,
            {"first": 20, "filter": {"completed": True, "priority": ["HIGH"]}},
            [task for task in ids if task in done][:20],
        ),
        "counted": (COUNTED, {"first": 20}, ids[:20]),
        "after, with info": (PAGE_WITH_INFO, {"first": 20, "after": marks[99]}, ids[100:120]),
        "before, with info": (PAGE_WITH_INFO, {"last": 20, "before": marks[99]}, ids[79:99]),
    }
    return shapes[name]


async def page_on_every_plan(
    many: Seeded, application: Application, connection: "asyncpg.Connection[Any]", order: str, name: str
) -> list[Plan]:
    """The plans of a page; the page is right and act_as comes first with each of them."""
    first = await page_of(many.user, orderBy=order_by(order), first=100)
    marks = [edge["cursor"] for edge in first["edges"]]
    query, arguments, expected = shape(name, predicted(many.rows, order), marks, many.rows)
    statement = await sent(application, many.user, query, orderBy=order_by(order), **arguments)
    answer = json.loads(statement.answer or "")
    assert [task["id"] for task in answer["nodes"]] == expected != []
    assert answer.get("totalCount", MANY) == MANY
    return list((await same_on_every_plan(connection, statement)).values())


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("order", [*EACH_WAY, *UNEVEN])
async def test_pages(
    many: Seeded, application: Application, served: "asyncpg.Connection[Any]", order: str, name: str
) -> None:
    """With any plan a page is right, calls act_as first, scans no whole table, and walks its order's index."""
    plans = await page_on_every_plan(many, application, served, order, name)

    assert [whole_scans(plan) for plan in plans] == [[]] * len(MODES)
    if order in INDEXED_EACH_WAY:
        assert [sorts(plan) for plan in plans] == [[]] * len(MODES)
        # Only the rows of a page that was scanned in reverse are sorted.
        assert {len(all_sorts(plan)) for plan in plans} == {int(name in {"last", "before"})}


@pytest.mark.parametrize("name", SHAPES_WITH_INFO)
@pytest.mark.parametrize("order", INDEXED_EACH_WAY)
async def test_pages_that_look_back(
    many: Seeded, application: Application, served: "asyncpg.Connection[Any]", order: str, name: str
) -> None:
    """With any plan, checking for tasks before a cursor uses an index and no other user's tasks."""
    plans = await page_on_every_plan(many, application, served, order, name)

    assert [(whole_scans(plan), sorts(plan)) for plan in plans] == [([], [])] * len(MODES)


@pytest.mark.parametrize("name", SHAPES_WITH_INFO)
@pytest.mark.parametrize("order", ["PRIORITY", "-TITLE", *UNEVEN])
async def test_pages_that_look_back_without_an_index(
    many: Seeded, application: Application, served: "asyncpg.Connection[Any]", order: str, name: str
) -> None:
    """With any plan, a page in an order without an index calls act_as before it looks back."""
    assert await page_on_every_plan(many, application, served, order, name)


Body = Callable[[Reader], Select[Any]]


def one_task(me: Reader) -> Select[Any]:
    wanted = models.TASKS.c.id == bindparam("id", type_=Uuid)
    return select(models.TASKS.c.description).where(me.owns(models.TASKS), wanted)


def unfenced(body: Body) -> Statement:
    """A statement as `read` builds it, without the LIMIT."""
    acting = func.act_as(user_id()).table_valued(column("user_id", Uuid), name="me").render_derived()
    answer = body(Reader(acting)).lateral("answer")
    return compiled(select(*answer.c).select_from(acting.join(answer, true())))


def beside(_: Body) -> Statement:
    """A statement that counts next to act_as instead of below it."""
    acting = func.act_as(user_id()).table_valued(column("user_id", Uuid), name="me").render_derived()
    count = select(func.count()).where(models.TASKS.c.user_id == user_id()).scalar_subquery()
    return compiled(select(acting.c.user_id, count, bindparam("id", type_=Uuid)))


@pytest.mark.parametrize("mode", MODES)
async def test_the_fence_is_what_orders_a_read(many: Seeded, served: "asyncpg.Connection[Any]", mode: str) -> None:
    """Without the LIMIT the policy is evaluated before act_as and hides all rows; `faults` detects it."""
    values = {"user_id": many.user.id, "id": UUID(one(many.rows))}
    found, wrong = {}, {}
    for name, build in {"fenced": read, "unfenced": unfenced, "beside": beside}.items():
        statement = build(one_task)
        asked = Sent(statement.text, statement.arguments(values), None)
        wrong[name] = faults(await explained(served, asked, mode, runs=6))
        await served.execute(f"SET plan_cache_mode = {mode}")
        found[name] = [row[0] for row in await served.fetch(asked.text, *asked.arguments)]

    assert (found["fenced"], wrong["fenced"]) == ([many.user.email], [])
    assert found["unfenced"] == []
    assert wrong["unfenced"] != []
    assert wrong["beside"] != []


@pytest.mark.parametrize("table", ["tasks", "task_clocks", "task_tags", "user_tags"])
async def test_nothing_is_visible_without_a_user(
    many: Seeded, owner: "asyncpg.Connection[Any]", server: Server, table: str
) -> None:
    """Without a current user the server's role sees no rows, also after a transaction that had one."""
    await owner.execute("INSERT INTO task_clocks (user_id) VALUES ($1) ON CONFLICT DO NOTHING", many.user.id)
    count = f"SELECT count(*) FROM {table}"  # noqa: S608 - a fixed table name
    theirs = await owner.fetchval(f"{count} WHERE user_id = $1", many.user.id)
    async with serving(server) as connection:
        assert await connection.fetchval(count) == 0

        for end in ("COMMIT", "ROLLBACK"):
            await connection.execute(f"BEGIN; SET LOCAL app.user_id = '{many.user.id}'")
            assert await connection.fetchval(count) == theirs > 0
            await connection.execute(end)
            assert await connection.fetchval(count) == 0

        assert await connection.fetchval("SELECT act_as($1)", many.user.id) == many.user.id
        assert await connection.fetchval("SELECT current_setting('app.user_id')") == ""
        assert await connection.fetchval(count) == 0


INSERT_TASK = "INSERT INTO tasks (user_id, id, title, position, version) VALUES ($1, gen_random_uuid(), 'x', 'a', 1)"
INSERT_CLOCK = "INSERT INTO task_clocks (user_id) VALUES ($1)"


@pytest.mark.parametrize("insert", [INSERT_TASK, INSERT_CLOCK])
async def test_nothing_is_written_without_a_user(many: Seeded, server: Server, insert: str) -> None:
    """Without a current user the server's role can insert nothing, and updates and deletes match no rows."""
    async with serving(server) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await connection.execute(insert, many.other.id)

        assert await connection.execute("UPDATE tasks SET title = 'x'") == "UPDATE 0"
        assert await connection.execute("DELETE FROM tasks") == "DELETE 0"
        assert await connection.execute("UPDATE task_clocks SET version = 0") == "UPDATE 0"
        assert await connection.execute("DELETE FROM task_clocks") == "DELETE 0"


async def test_no_user_can_write_for_another(many: Seeded, server: Server) -> None:
    """Acting as one user, the server's role cannot insert, give away, change or delete another user's rows."""
    give = "UPDATE tasks SET user_id = $1, id = gen_random_uuid()"
    async with serving(server) as connection:
        for statement in (INSERT_TASK, INSERT_CLOCK, give):
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"SET LOCAL app.user_id = '{many.user.id}'")
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                await connection.execute(statement, many.other.id)
            await transaction.rollback()

        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"SET LOCAL app.user_id = '{many.user.id}'")
        others = "WHERE user_id <> $1"
        assert await connection.execute(f"UPDATE tasks SET title = 'x' {others}", many.user.id) == "UPDATE 0"  # noqa: S608
        assert await connection.execute(f"DELETE FROM tasks {others}", many.user.id) == "DELETE 0"  # noqa: S608
        await transaction.rollback()


FIRST_WALL = re.compile(r"tasks\.user_id = \$1::UUID AND tasks\.user_id = anon_1\.user_id")


@pytest.mark.parametrize(
    ("query", "arguments"),
    [(TASK, {}), (COUNTED, {"first": 100}), (COUNTED, {"last": 7, "orderBy": order_by("TITLE")}), (STATS, {})],
)
async def test_the_second_wall_holds_alone(
    many: Seeded, application: Application, server: Server, query: str, arguments: dict[str, Any]
) -> None:
    """Row-level security alone restricts statements to the user's rows; a superuser sees all."""
    asked = await sent(application, many.user, query, **arguments, **({"id": one(many.rows)} if query == TASK else {}))
    text, walls = FIRST_WALL.subn("anon_1.user_id IS NOT NULL", asked.text)
    bare = replace(asked, text=text)
    assert walls == asked.text.count("FROM tasks") > 0
    assert "WHERE tasks.user_id" not in text

    async with serving(server) as connection, owning(server) as superuser:
        await same_on_every_plan(connection, bare)
        rows = await superuser.fetch(text.replace(" LIMIT 1)", ")"), *asked.arguments)

    assert [row[0] for row in rows] != [asked.answer]
