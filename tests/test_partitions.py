"""Each statement names its user for every table of user data, and thus touches that user's partition only.

This lets a sharded database send the whole statement to one node. Here hash partitions stand for the nodes: the
planner prunes the partitions that a statement's own conditions exclude.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from conftest import ALL_FIELDS, SECRET, Application, Server, User, connect, made_settings, running
from mirror import CHANGE
from partitions import PARTS, TABLES, partition
from sqlalchemy import event, select, update
from test_pages import Sent, owning

from app.database.database import Database
from app.database.url import DatabaseURL
from app.identity.tokens import Signer
from app.models import Task, TaskTag
from app.tasks.purge import Progress, purge
from app.tasks.recount import recount
from migrations.run import migrate

CONNECTION = f"""{{
    totalCount edges {{ cursor node {{ {ALL_FIELDS} }} }} nodes {{ id }}
    pageInfo {{ hasNextPage hasPreviousPage startCursor endCursor }}
}}"""
TASK = f"{{ task {{ {ALL_FIELDS} }} userErrors {{ code message field }} token }}"
MANY = f"{{ tasks {{ {ALL_FIELDS} }} affectedCount userErrors {{ code message field }} token }}"

# $id and $other are two tasks of the user.
TAG = "{ tag { name open total } affectedCount userErrors { code } token }"
READS = {
    "viewer": """{ viewer { id email
        taskStats { total open completed overdue } ofDay: taskStats(today: "2026-11-29") { overdue dueToday }
    } }""",
    "task": f"query ($id: ID!) {{ task(id: $id) {{ {ALL_FIELDS} }} }}",
    "node": "query ($id: ID!) { node(id: $id) { id ... on Task { title } ... on User { taskStats { total } } } }",
    "page": f"{{ tasks {CONNECTION} }}",
    "changes": f"{{ changes {{ changes {{ {CHANGE} }} token hasMore fullSync }} }}",
    "changes with the trash": f"{{ changes(trash: true) {{ changes {{ {CHANGE} }} token hasMore fullSync }} }}",
    "last page": f"{{ tasks(last: 3) {CONNECTION} }}",
    "filtered": f"""query ($id: ID!) {{ tasks(filter: {{
        search: "task", completed: false, not: {{ ids: [$id] }}, or: [{{ priority: [NONE] }}, {{ tagsAny: ["x"] }}],
        due: {{ isNull: true }}, created: {{ gte: "2020-01-01T00:00:00Z" }}, tagsAll: ["home", "work"]
    }}) {CONNECTION} }}""",
    "tags": "{ tags { name open total } }",
    "names of tags": '{ tags(first: 1, after: "home") { name } }',
    "any tag": f'{{ tasks(filter: {{ tagsAny: ["home", "work"] }}) {CONNECTION} }}',
    "trash": f"{{ tasks(filter: {{ trashed: true }}) {CONNECTION} }}",
    **{
        f"by {field.lower()}": f"{{ tasks(orderBy: [{{ field: {field}, direction: DESC }}]) {CONNECTION} }}"
        for field in ("CREATED_AT", "UPDATED_AT", "DUE_DATE", "PRIORITY", "POSITION", "TITLE")
    },
}
WRITES = {
    "create": f'mutation {{ createTask(input: {{ title: "New", tags: ["home"] }}) {TASK} }}',
    "create many": f'mutation {{ createTasks(inputs: [{{ title: "New" }}, {{ title: "Newer" }}]) {MANY} }}',
    "update": f'mutation ($id: ID!) {{ updateTask(id: $id, input: {{ title: "Other", tags: ["work"] }}) {TASK} }}',
    "stale update": f"""mutation ($id: ID!) {{
        updateTask(id: $id, input: {{ title: "Third" }}, expectedVersion: 1) {TASK}
    }}""",
    "complete": f"mutation ($id: ID!) {{ setTaskCompleted(id: $id, completed: true) {TASK} }}",
    "move to the start": f"mutation ($id: ID!) {{ moveTask(id: $id, to: {{ toStart: true }}) {TASK} }}",
    "move to the end": f"mutation ($id: ID!) {{ moveTask(id: $id, to: {{ toEnd: true }}) {TASK} }}",
    "move before": f"mutation ($id: ID!, $other: ID!) {{ moveTask(id: $id, to: {{ before: $other }}) {TASK} }}",
    "move after": f"mutation ($id: ID!, $other: ID!) {{ moveTask(id: $id, to: {{ after: $other }}) {TASK} }}",
    "update many": f"mutation ($id: ID!) {{ updateTasks(where: {{ ids: [$id] }}, input: {{ priority: LOW }}) {MANY} }}",
    "update all": f"""mutation {{
        updateTasks(where: {{ filter: {{ tagsAny: ["work"] }} }}, input: {{ tags: ["home"] }}) {MANY}
    }}""",
    "add tags": f"""mutation ($id: ID!) {{
        updateTask(id: $id, input: {{ addTags: ["new", "Home"], removeTags: ["work"] }}) {TASK}
    }}""",
    "add tags to all": f"""mutation {{
        updateTasks(where: {{ filter: {{ tagsAll: ["HOME"] }} }}, input: {{ addTags: ["newer"] }}) {MANY}
    }}""",
    "remove tags of all": f"""mutation {{
        updateTasks(where: {{ filter: {{ tagsAny: ["NEWER"] }} }}, input: {{ removeTags: ["new"] }}) {MANY}
    }}""",
    "rename a tag": f'mutation {{ renameTag(from: "newer", to: "newest") {TAG} }}',
    "merge tags": f'mutation {{ renameTag(from: "newest", to: "home") {TAG} }}',
    "delete a tag": f'mutation {{ deleteTag(name: "new") {TAG} }}',
    "delete": f"mutation ($id: ID!) {{ deleteTask(id: $id) {TASK} }}",
    "restore": f"mutation ($id: ID!) {{ restoreTask(id: $id) {TASK} }}",
    "delete many": f"mutation ($id: ID!) {{ deleteTasks(where: {{ ids: [$id] }}) {MANY} }}",
    "restore many": f"mutation ($id: ID!) {{ restoreTasks(where: {{ ids: [$id] }}) {MANY} }}",
    "dry purge": f"mutation {{ purgeTasks(where: {{ all: true }}, dryRun: true) {MANY} }}",
    "delete all": f"mutation {{ deleteTasks(where: {{ all: true }}) {MANY} }}",
    "restore all": f"mutation {{ restoreTasks(where: {{ all: true }}) {MANY} }}",
    "purge": f"mutation ($id: ID!) {{ purgeTasks(where: {{ ids: [$id] }}) {MANY} }}",
    "purge lists": "mutation ($id: ID!) { purgeLists(where: { ids: [$id] }) { affectedCount token } }",
    "purge all lists": "mutation { purgeLists(where: { all: true }) { affectedCount lists { id } token } }",
    "empty the trash": "mutation { emptyTrash { affectedCount userErrors { code } token } }",
}


@dataclass
class Divided:
    """An application on partitioned tables, a user with tasks, and the sent statements."""

    server: Server
    application: Application
    user: User
    tasks: list[str]
    sent: list[Sent]

    async def asked(self, query: str) -> tuple[dict[str, Any], list[Sent]]:
        """The data of a response, and the statements sent for it."""
        await asyncio.sleep(0)  # the driver reports a statement in the next iteration of the loop
        self.sent.clear()
        names = {name: task for name, task in zip(("id", "other"), self.tasks, strict=False) if f"${name}:" in query}
        answer = await self.user.data(query, **names)
        await asyncio.sleep(0)
        return answer, list(self.sent)


def arguments(text: str, given: list[Any]) -> list[Any]:
    """A statement's arguments. If it is executed twice, the second execution writes."""
    twice = "begin_write(" in text and all(isinstance(value, list) for value in given)
    return list(given[-1]) if twice else given


def recorder(sent: list[Sent]) -> Callable[[Any, object], None]:
    """A listener for new connections that records the statements sent on them."""

    async def record(query: Any) -> None:
        sent.append(Sent(query.query, arguments(query.query, list(query.args or [])), None))

    return lambda connection, _entry: connection.driver_connection.add_query_logger(record)


async def new_user(server: Server, application: Application) -> User:
    owner = await connect(server.owner_url)
    email = f"{uuid4()}@example.com"
    user_id = await owner.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", email)
    await owner.close()
    return User(user_id, email, Signer(SECRET).token(user_id, timedelta(hours=1)), application.http)


@pytest.fixture(scope="module")
async def divided(server: Server) -> AsyncIterator[Divided]:
    name = f"test_{uuid4().hex}"
    admin = await connect(server.owner_url)
    await admin.execute(f"CREATE DATABASE {name}")
    own = server.database(name)
    await migrate(DatabaseURL(own.owner_url), DatabaseURL(own.app_url))
    await partition(own.owner_url)
    async with running(made_settings(own)) as application:
        sent: list[Sent] = []
        event.listen(application.database.engine.sync_engine, "connect", recorder(sent))
        user = await new_user(own, application)
        tasks = [(await user.add(f"A task {n}", tags=["home", "work"]))["id"] for n in range(5)]
        yield Divided(own, application, user, tasks, sent)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


def names(node: Any) -> Iterator[str]:
    """The tables that a plan reads or writes."""
    if isinstance(node, list):
        for item in node:
            yield from names(item)
    elif isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "Relation Name")
        for item in node.values():
            yield from names(item)


async def parts(connection: "asyncpg.Connection[Any]", statement: Sent) -> dict[str, set[str]]:
    """The partitions that a statement touches, by table."""
    plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement.text}", *statement.arguments))
    found = [re.fullmatch(rf"({'|'.join(TABLES)})_(\d)", name) for name in names(plan)]
    touched: dict[str, set[str]] = {}
    for part in filter(None, found):
        touched.setdefault(part[1], set()).add(part[2])
    return touched


def explicable(sent: list[Sent]) -> list[Sent]:
    return [statement for statement in sent if re.match(r"\s*(SELECT|WITH|UPDATE|DELETE|INSERT)", statement.text)]


async def assert_one_part(divided: Divided, sent: list[Sent]) -> None:
    """All statements touch one partition, by their own conditions: a superuser bypasses row-level security."""
    async with owning(divided.server) as connection:
        touched = [await parts(connection, statement) for statement in explicable(sent)]
    found = {part for tables in touched for of_table in tables.values() for part in of_table}
    assert len(found) == 1, touched


@pytest.mark.parametrize("name", READS)
async def test_a_read_stays_in_one_part(divided: Divided, name: str) -> None:
    """Every reading statement touches its user's partition only."""
    answer, sent = await divided.asked(READS[name])

    assert all(value is not None for value in answer.values())
    assert len(sent) == 1
    await assert_one_part(divided, sent)


# "create" is an INSERT that reads no task; its row determines the partition.
@pytest.mark.parametrize("name", [name for name in WRITES if name != "create"])
async def test_a_write_stays_in_one_part(divided: Divided, name: str) -> None:
    """Every writing statement touches its user's partition only."""
    _, sent = await divided.asked(WRITES[name])

    # PostgreSQL prunes partitions before the statement of one execution has set the user: two executions follow.
    assert {statement.text.split()[0] for statement in sent} == {"WITH"}
    assert len(sent) <= 2
    await assert_one_part(divided, sent[-1:])


def by_sessions(database: Database) -> list[Sent]:
    """Record what SQLAlchemy sends, as the driver does not report prepared statements."""
    sent: list[Sent] = []

    def record(*told: Any) -> None:
        sent.append(Sent(told[2], list(told[3]), None))

    event.listen(database.engine.sync_engine, "before_cursor_execute", record)
    return sent


async def test_what_sessions_do_stays_in_one_part(divided: Divided) -> None:
    """Purging, recounting and the ORM's statements touch their user's partition only."""
    task, database = await divided.user.add("Waste"), divided.application.database
    await divided.user.data(WRITES["delete"], id=task["id"])
    owner = await connect(divided.server.owner_url)
    await owner.execute("UPDATE task_clocks SET tasks = 99 WHERE user_id = $1", divided.user.id)
    await owner.close()
    sent = by_sessions(database)
    assert [seen async for seen in recount(database)] == [(1, 1)]
    assert [seen async for seen in purge(database, timedelta(0), timedelta(0))] == [Progress(1, 1, 0)]
    async with database.session(divided.user.id) as session:
        made = Task(id=uuid4(), title="Made")
        session.add(made)
        await session.flush()
        made.title = "Changed"
        await session.flush()
        await session.execute(update(Task).values(priority=1))
        await session.scalars(select(Task).where(Task.id.in_(select(TaskTag.task_id))))
        await session.delete(made)

    assert len(explicable(sent)) > 10
    await assert_one_part(divided, sent)


async def test_a_statement_without_its_user_touches_every_part(divided: Divided) -> None:
    """A statement without its user's id touches all partitions, so the tests above can fail."""
    bare = Sent("SELECT count(*) FROM tasks WHERE user_id = act_as($1)", [divided.user.id], None)
    async with owning(divided.server) as connection:
        assert len((await parts(connection, bare))["tasks"]) == PARTS


async def test_answers_are_the_same_in_parts(divided: Divided) -> None:
    """On partitioned tables, creating, listing, updating, tags, moves, deletion and counts work as usual."""
    user = await new_user(divided.server, divided.application)
    first, second = [(await user.add(title, tags=["home"]))["id"] for title in ("First", "Second")]
    await user.data(WRITES["complete"], id=first)
    await user.data(WRITES["move before"], id=second, other=first)
    await user.data(WRITES["delete"], id=(await user.add("Third"))["id"])

    by_tag = (await user.data(READS["any tag"]))["tasks"]
    assert {node["id"] for node in by_tag["nodes"]} == {first, second}
    in_order = (await user.data("{ tasks(orderBy: [{ field: POSITION }]) { nodes { title completed } } }"))["tasks"]
    assert in_order["nodes"] == [{"title": "Second", "completed": False}, {"title": "First", "completed": True}]
    stats = (await user.data(READS["viewer"]))["viewer"]["taskStats"]
    assert stats == {"total": 2, "open": 1, "completed": 1, "overdue": 0}
