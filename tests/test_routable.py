"""A Citus cluster can send every statement of the server to a single worker unchanged."""

import importlib.util
import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from conftest import Application, User, running
from routable import Functions, problems
from sqlalchemy import Boolean, Text, bindparam, case, cast, false, func, insert, literal, null, select, update
from sqlalchemy.sql.elements import ClauseElement
from test_partitions import READS, WRITES

from app.database.compiling import Statements
from app.database.rendering import Field, Selection
from app.database.statements import Statement, compiled, user_id
from app.entities import bulk, changes, moving
from app.entities.writing import Change
from app.models import CLOCKS, TAGS, TASKS
from app.settings import Settings
from app.tasks.feed import FEED
from app.tasks.fields import TASK
from app.tasks.lists import LIST as LIST_OF_TASKS
from app.tasks.purge import purge
from app.tasks.recount import recount

TASK_ID = "{ task { id } }"
MORE = {
    "due": '{ tasks(filter: { due: { gte: "2026-01-01", lt: "2027-01-01" } }) { totalCount nodes { id } } }',
    "updated": '{ tasks(filter: { not: { updated: { lt: "2027-01-01T00:00:00Z" } } }) { nodes { id } } }',
    "create with an id": f"""mutation {{
        createTask(input: {{ id: "7b9c4f4e-2f5e-4a3c-9a51-1f6d3c0f9a11", title: "New" }}) {TASK_ID}
    }}""",
    "uncomplete": f"""mutation ($id: ID!) {{
        setTaskCompleted(id: $id, completed: false, expectedVersion: 1) {TASK_ID}
    }}""",
    "everything": f"""mutation ($id: ID!) {{ updateTask(id: $id, input: {{
        title: "T", description: "D", completed: true, priority: HIGH, dueDate: "2026-05-05", tags: ["a"]
    }}) {TASK_ID} }}""",
    "nothing of many": "mutation { deleteTasks(where: { filter: { or: [] } }) { affectedCount } }",
    "no tasks": "{ tasks(filter: { or: [] }) { totalCount nodes { id } } }",
    "all of many": "mutation { restoreTasks(where: { all: true }) { affectedCount } }",
    "everything of many": """mutation { updateTasks(where: { filter: { search: "t" } }, atMost: 1000, input: {
        title: "T", description: "D", completed: true, priority: HIGH, dueDate: "2026-05-05", tags: ["a"]
    }) { affectedCount } }""",
}
BASE = f"""mutation ($id: ID!) {{
    updateTask(id: $id, input: {{ title: "B", description: null, completed: false, tags: ["b"] }}, base: {{
        title: "T", description: "D", completed: true, tags: ["a"]
    }}) {TASK_ID}
}}"""
OUTBOX = """mutation ($id: ID!, $other: ID!) { write(writes: [
    { createList: { id: "7b9c4f4e-2f5e-4a3c-9a51-1f6d3c0f9a13", name: "Batch" } }
    { createTask: { title: "In", listId: "7b9c4f4e-2f5e-4a3c-9a51-1f6d3c0f9a13" } }
    { updateTask: { id: $id, input: { title: "T", addTags: ["x"] }, base: { title: "B" } } }
    { moveTask: { id: $id, to: { after: $other } } }
    { deleteTask: { id: $other } } { restoreTask: { id: $other } }
    { updateList: { id: "7b9c4f4e-2f5e-4a3c-9a51-1f6d3c0f9a13", input: { icon: "x" } } }
    { moveList: { id: "7b9c4f4e-2f5e-4a3c-9a51-1f6d3c0f9a13", to: { toStart: true } } }
    { deleteList: { id: "7b9c4f4e-2f5e-4a3c-9a51-1f6d3c0f9a13" } }
    { restoreList: { id: "7b9c4f4e-2f5e-4a3c-9a51-1f6d3c0f9a13" } }
    { renameTag: { from: "x", to: "y" } } { deleteTag: { name: "y" } }
]) { task { title list { name } } list { name taskStats { open } } userErrors { code } } }"""
LIST_ID = "7b9c4f4e-2f5e-4a3c-9a51-1f6d3c0f9a12"
LIST = "{ list { id name taskStats { open } tasks(first: 2) { nodes { title list { name } } } } }"
LISTS = {
    "create a list": f'mutation {{ createList(input: {{ id: "{LIST_ID}", name: "Home" }}) {LIST} }}',
    "create another list": f'mutation {{ createList(input: {{ name: "Work" }}) {LIST} }}',
    "change a list": f'mutation {{ updateList(id: "{LIST_ID}", input: {{ name: "Home!", icon: "x" }}) {LIST} }}',
    "move a list": f'mutation {{ moveList(id: "{LIST_ID}", to: {{ toEnd: true }}) {LIST} }}',
    "create in a list": f"""mutation {{
        createTask(input: {{ title: "In", listId: "{LIST_ID}" }}) {{ task {{ list {{ name taskStats {{ open }} }} }} }}
    }}""",
    "create many in a list": f"""mutation {{
        createTasks(inputs: [{{ title: "In", listId: "{LIST_ID}" }}, {{ title: "Out" }}]) {{
            tasks {{ list {{ name }} }}
        }}
    }}""",
    "put into a list": f"""mutation ($id: ID!) {{
        updateTask(id: $id, input: {{ listId: "{LIST_ID}" }}) {{ task {{ id list {{ id }} }} }}
    }}""",
    "put many into a list": f"""mutation ($id: ID!, $other: ID!) {{
        updateTasks(where: {{ ids: [$id, $other] }}, input: {{ listId: "{LIST_ID}" }}) {{ tasks {{ list {{ id }} }} }}
    }}""",
    "lists": """{
        lists(orderBy: [{ field: NAME }], filter: { created: { gte: "2020-01-01T00:00:00Z" } }) {
            totalCount pageInfo { endCursor hasNextPage }
            nodes { taskStats { total } tasks(last: 3, filter: { search: "a" }) {
                totalCount pageInfo { hasPreviousPage startCursor } edges { cursor node { list { name } } }
            } }
        }
    }""",
    "a list": f'{{ list(id: "{LIST_ID}") {{ name taskStats {{ open }} tasks {{ nodes {{ id }} }} }} }}',
    "a list as a node": f'{{ node(id: "{LIST_ID}") {{ ... on TaskList {{ tasks {{ totalCount }} }} }} }}',
    "tasks of lists": f"""{{
        tasks(filter: {{ list: {{ ids: ["{LIST_ID}"] }} }}) {{ totalCount nodes {{ list {{ icon }} }} }}
    }}""",
    "the inbox": "{ tasks(filter: { list: { isNull: true } }, orderBy: [{ field: TITLE }]) { nodes { id } } }",
    "changes with lists": "{ changes(first: 5) { changes { ... on TaskUpserted { task { list { name } } } } } }",
    "changes of both": """{ changes(first: 5) { token hasMore fullSync changes {
        ... on ListUpserted { list { name icon taskStats { open } tasks(first: 2) { nodes { id } } } token }
        ... on ListRemoved { listId } ... on TaskUpserted { task { title list { name } } } ... on TaskRemoved { taskId }
    } } }""",
    "delete a list": f'mutation {{ deleteList(id: "{LIST_ID}") {LIST} }}',
    "restore from a list": "mutation ($id: ID!) { restoreTask(id: $id) { task { list { name } } } }",
    "restore a list": f'mutation {{ restoreList(id: "{LIST_ID}") {LIST} }}',
    "purge with lists": "mutation { purgeTasks(where: { all: true }) { tasks { list { name } } } }",
    "purge the list": f"""mutation {{
        purgeLists(where: {{ ids: ["{LIST_ID}"] }}) {{
            lists {{ name tasks(first: 1) {{ totalCount }} }} affectedCount
        }}
    }}""",
    "create the purged list": f'mutation {{ createList(input: {{ id: "{LIST_ID}", name: "Home" }}) {LIST} }}',
    "create a task with its id": f"""mutation {{
        createTasks(inputs: [{{ id: "{LIST_ID}", title: "In" }}]) {{ userErrors {{ code }} }}
    }}""",
    "delete the list again": f'mutation {{ deleteList(id: "{LIST_ID}", expectedVersion: 1) {LIST} }}',
}

MANY = Selection("TasksPayload", (Field("tasks", "tasks", Selection("Task", (Field("id", "id"),))),))
# A filter that no task meets, whatever its values, and an update that sets nothing.
NOTHING_SELECTED = [
    bulk.Many(kind, columns, (False, (("or", ()),)))
    for kind, columns in (("update", ("title",)), ("update", ()), ("delete", ()), ("restore", ()))
]
NOTHING_SET = [bulk.Many("update", (), (False, ())), bulk.Many("update", (), None)]


class Record:
    """The compiled constructs, by statement text, and the statements that create rows."""

    def __init__(self) -> None:
        self.constructs: dict[str, ClauseElement] = {}
        self.elsewhere: set[str] = set()

    def compiled(self, construct: ClauseElement) -> Statement:
        statement = compiled(construct)
        self.constructs[statement.text] = construct
        return statement

    def creates(self, statement: Statement) -> None:
        """Note a create, for which a cluster uses other statements."""
        if statement.after_loss is not None:
            self.elsewhere.add(statement.text)
        if statement.creation is not None:
            statement.creation()
            self.elsewhere.add((statement.after_loss or statement).text)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    record = Record()
    modules = [module for name, module in sys.modules.items() if name.startswith("app.")]
    for module in modules:
        if getattr(module, "compiled", None) is compiled:
            monkeypatch.setattr(module, "compiled", record.compiled)
    given = Statements.compiled

    async def watched(*arguments: Any) -> Statement:
        statement = await given(*arguments)
        record.creates(statement)
        return statement

    monkeypatch.setattr(Statements, "compiled", watched)
    for module in modules:
        if any(isinstance(value, Statement) for value in vars(module).values()):
            _executed_again(module)
    return record


def _executed_again(module: Any) -> None:
    """Import a second copy of a module, to record the statements that it compiles on import."""
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_again", module.__file__)
    assert spec
    assert spec.loader
    copy = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = copy
    try:
        spec.loader.exec_module(copy)
    finally:
        del sys.modules[spec.name]


@pytest.fixture
async def functions(owner: "asyncpg.Connection[Any]") -> Functions:
    rows = await owner.fetch(
        "SELECT proname, provolatile <> 'i' AS changing, prorettype = 'void'::regtype AS void FROM pg_proc"
    )
    changing = {row["proname"] for row in rows if row["changing"]}
    return Functions(changing, {row["proname"] for row in rows if row["void"]})


async def test_all_statements_go_to_one_worker(
    record: Record, functions: Functions, settings: Settings, alice: User
) -> None:
    """All statements of reads, writes and per-user commands can be routed to one worker."""
    async with running(settings) as application:  # one that has compiled nothing yet
        alice = replace(alice, http=application.http)
        tasks = [(await alice.add(f"A task {n}", tags=["home", "work"]))["id"] for n in range(3)]
        for query in [*READS.values(), *WRITES.values(), *MORE.values(), *LISTS.values(), BASE, OUTBOX]:
            names = {name: task for name, task in zip(("id", "other"), tasks, strict=False) if f"${name}:" in query}
            await alice.data(query, **names)
        assert [seen async for seen in purge(application.database, timedelta(0), timedelta(0))]
        assert [seen async for seen in recount(application.database)]
    for shape in [*NOTHING_SELECTED, *NOTHING_SET]:
        bulk.change(TASK, MANY, shape)
    for entity in (TASK, LIST_OF_TASKS):
        moves = [(kind, in_batch) for kind in ("before", "after") for in_batch in (False, True)]
        for kind, in_batch in moves:
            change = Change(kind + moving.APART, (), in_batch=in_batch)
            moving.move_apart(entity, Selection(entity.type_name, ()), change)
    for trash in (False, True):
        changes.page(FEED, changes.whole(FEED), trash=trash)

    of_users = {text: construct for text, construct in record.constructs.items() if text not in record.elsewhere}
    assert len(of_users) > len(READS) + len(WRITES)
    found = {text: wrong for text, construct in of_users.items() if (wrong := problems(construct, functions))}
    assert found == {}


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("shape", NOTHING_SELECTED)
async def test_nothing_is_selected(application: Application, alice: User, shape: bulk.Many, *, dry_run: bool) -> None:
    """A bulk write that the planner knows to select nothing writes nothing, also on a cluster."""
    await alice.add()
    values = {"user_id": alice.id, "at_most": 10, "dry_run": dry_run, "title": "Other"}
    row = await application.database.write(alice.id, bulk.change(TASK, MANY, shape), values)

    assert (row["affected"], row["tasks_0"]) == (0, "[]")


MINE = TASKS.c.user_id == user_id()
NOW = func.statement_timestamp()
BAD = {
    "no user": (select(TASKS.c.id), "tasks is not narrowed to $user_id"),
    "another user": (select(TASKS.c.id).where(TASKS.c.user_id == bindparam("id")), "tasks is not narrowed to $user_id"),
    "a user of either": (select(TASKS.c.id).where(MINE | TASKS.c.completed), "tasks is not narrowed to $user_id"),
    "a join by the task alone": (
        select(TASKS.c.id).join(TAGS, TAGS.c.task_id == TASKS.c.id).where(MINE),
        "task_tags is not narrowed to $user_id",
    ),
    "a subquery": (
        select(TASKS.c.id).where(MINE, TASKS.c.id.in_(select(TAGS.c.task_id))),
        "task_tags is not narrowed to $user_id",
    ),
    "an alias": (
        select(TASKS.c.id, TASKS.alias("others").c.id).where(MINE),
        "others is not narrowed to $user_id",
    ),
    "an update": (update(TASKS).values(title="x"), "tasks is not narrowed to $user_id"),
    "an insert as a part": (
        select(
            insert(TASKS)
            .values(user_id=user_id(), id=literal(UUID(int=1)), title="x")
            .returning(TASKS.c.id)
            .cte("made")
        ),
        "made inserts beside other parts",
    ),
    "an insert for a parameter": (
        insert(TASKS).from_select(
            ["user_id", "title"], select(user_id(), CLOCKS.c.user_id).where(CLOCKS.c.user_id == user_id())
        ),
        "tasks gets its user_id from no table",
    ),
    "a time that is chosen": (
        update(TASKS).values(completed_at=case((TASKS.c.completed, NOW), else_=null())).where(MINE),
        "statement_timestamp() chooses completed_at",
    ),
    "a time if there is none": (
        update(TASKS).values(completed_at=func.coalesce(TASKS.c.completed_at, NOW)).where(MINE),
        "statement_timestamp() chooses completed_at",
    ),
    "an update that may be empty": (
        update(TASKS).values(title="x").where(MINE, ~bindparam("dry_run", type_=Boolean)),
        "tasks has no shard if nothing can be written",
    ),
    "an update beside an empty part": (
        select(TASKS.c.id).where(MINE, false()).add_cte(update(TASKS).values(title="x").where(MINE, false()).cte()),
        "tasks has no shard if nothing can be written",
    ),
    "another table that an update reads if a parameter says so": (
        update(CLOCKS)
        .values(version=1)
        .where(
            CLOCKS.c.user_id == user_id(),
            bindparam("last", type_=Boolean),
            ~select(TASKS.c.id).where(MINE).exists(),
        ),
        "tasks has no shard if nothing can be written",
    ),
    "a column of no type": (
        select(func.pg_notify(literal("a"), TASKS.c.title)).where(MINE),
        "pg_notify() has no type",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_statements_that_cannot_be_routed(functions: Functions, name: str) -> None:
    """Each rule finds its violation."""
    construct, problem = BAD[name]

    assert problem in " ".join(problems(construct, functions))


def test_a_statement_that_can_be_routed(functions: Functions) -> None:
    """The routable forms of the same constructs violate no rule."""
    clock = select(NOW.label("at")).cte("clock")
    chosen = case((TASKS.c.completed, select(clock.c.at).scalar_subquery()), else_=null())
    done = update(TASKS).values(completed_at=chosen).where(MINE).returning(TASKS.c.id).cte("done")
    told = cast(func.pg_notify(literal("a"), literal("b")), Text)

    assert problems(select(told, done.c.id), functions) == []
