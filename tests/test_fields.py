"""A field is declared once: every field of the schema is read, written, validated, filtered and sorted everywhere."""

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import ALL_FIELDS, User
from declared import DECIDED, condition, conditions, empty, inputs, is_derived, leaves, samples, snake, values_of
from sqlalchemy import ColumnElement, Date, Text, cast, select

from app.database.statements import compiled, user_id
from app.entities.content import taken
from app.entities.entity import Condition, Entity
from app.entities.filters import Filter
from app.entities.filters import condition as sql_of
from app.entities.kinds import moment
from app.entities.problems import Problem
from app.models import TASKS
from app.tasks.fields import TASK

Json = dict[str, Any]

CREATED, UPDATED = inputs("CreateTaskInput"), inputs("UpdateTaskInput")
# Without those that change a field relative to what it contains.
REPLACED = {name: type_ for name, type_ in UPDATED.items() if name not in {"addTags", "removeTags"}}
ROW = f"{ALL_FIELDS} list {{ id }}"
ONE = f"{{ task {{ {ROW} }} userErrors {{ code message field }} }}"
MANY = f"{{ tasks {{ {ROW} }} userErrors {{ code message field }} }}"
MUTATIONS = {
    "createTask": f"mutation ($input: CreateTaskInput!) {{ done: createTask(input: $input) {ONE} }}",
    "createTasks": f"mutation ($input: CreateTaskInput!) {{ done: createTasks(inputs: [$input]) {MANY} }}",
    "updateTask": f"mutation ($id: ID!, $input: UpdateTaskInput!) {{ done: updateTask(id: $id, input: $input) {ONE} }}",
    "updateTasks": f"""mutation ($id: ID!, $input: UpdateTaskInput!) {{
        done: updateTasks(where: {{ ids: [$id] }}, input: $input) {MANY}
    }}""",
}
TASKS_OF = f"query ($filter: TaskFilter) {{ tasks(first: 100, filter: $filter) {{ nodes {{ {ROW} }} }} }}"
LIST = 'mutation ($id: ID!) { createList(input: { id: $id, name: "A list" }) { userErrors { code } } }'


# The declaration and the schema


def test_the_schema_matches_the_declaration() -> None:
    """The schema has exactly the declared fields."""
    assert set(TASK.fields) == set(leaves("Task"))
    assert {snake(name) for name in CREATED} == {"id", *TASK.at_creation}
    assert {snake(name) for name in UPDATED} == set(TASK.in_updates)
    assert set(values_of("TaskOrderField")) == set(TASK.sort_keys)
    assert {path for path, _ in conditions("TaskFilter")} == set(TASK.conditions)


def test_the_table_matches_the_declaration() -> None:
    """Each column of the table is a field, except the user and those that the database derives from others."""
    columns = {column.name for column in TASKS.columns if not is_derived(column)}

    assert {field.column.name for field in TASK.declared} == columns - {"user_id"}


def test_an_error_names_the_input_field() -> None:
    """The path of a user error has the API's field name, not the column's."""

    def check(_value: object) -> list[Problem]:
        return [Problem("INVALID", "No.", ("0",))]

    declared = tuple(
        replace(field, content=replace(field.content, check=check)) if field.content else field
        for field in TASK.declared
    )
    more = {name: replace(content, check=check) for name, content in TASK.more_contents.items()}
    entity: Entity = replace(TASK, declared=declared, more_contents=more)
    _, wrong = taken(entity, dict.fromkeys(entity.in_updates), ("inputs", "7"))

    assert {problem.field for problem in wrong} == {("inputs", "7", name, "0") for name in UPDATED}


# Writes


async def written(user: User, mutation: str, fields: Json, task_id: str) -> Json:
    """The task in a mutation's payload, which must equal the task read afterwards."""
    done = (await user.data(MUTATIONS[mutation], id=task_id, input=fields))["done"]
    assert done["userErrors"] == []
    task: Json = done["task"] if "task" in done else done["tasks"][0]
    (found,) = (await user.data(TASKS_OF, filter={"ids": [task["id"]]}))["tasks"]["nodes"]
    assert found == task
    return flat(task)


def flat(task: Json) -> Json:
    """A task with the id of its list as the inputs have it."""
    return {**task, "listId": task["list"] and task["list"]["id"]}


async def with_lists(*users: User) -> None:
    """Create the lists that the sample values name."""
    for user in users:
        for list_id in samples(CREATED["listId"]):
            assert (await user.data(LIST, id=list_id))["createList"]["userErrors"] == []


@pytest.mark.parametrize("mutation", ["createTask", "createTasks"])
async def test_every_field_of_a_new_task_is_written(alice: User, mutation: str) -> None:
    """Each field alone, and all together, read back as given; omitted fields are empty."""
    await with_lists(alice)
    given = {name: samples(type_)[0] for name, type_ in CREATED.items()}
    for names in [*([name] for name in empty("CreateTaskInput")), list(CREATED)]:
        fields = {"title": given["title"], **{name: given[name] for name in names}, "id": str(uuid4())}
        task = await written(alice, mutation, fields, fields["id"])

        expected = empty("CreateTaskInput") | fields
        assert {name: task[name] for name in expected} == expected, names


@pytest.mark.parametrize("mutation", ["updateTask", "updateTasks"])
async def test_every_field_of_a_task_can_be_changed(alice: User, bob: User, mutation: str) -> None:
    """Each field alone, and all together, are changed, then cleared if nullable; no other field or user is affected."""
    await with_lists(alice, bob)
    shared = {name: samples(type_)[0] for name, type_ in CREATED.items() if name not in DECIDED} | {"id": str(uuid4())}
    task = await written(alice, "createTask", shared, shared["id"])
    await written(bob, "createTask", shared, shared["id"])
    foreign = (await bob.data(TASKS_OF))["tasks"]["nodes"]
    for names in [*([name] for name in REPLACED), list(REPLACED)]:
        for place in (1, 0):
            changes = {name: samples(REPLACED[name])[place] for name in names}
            before, task = task, await written(alice, mutation, changes, task["id"])

            assert {name: task[name] for name in REPLACED} == {name: before[name] for name in REPLACED} | changes
    cleared = empty("CreateTaskInput")
    task = await written(alice, mutation, dict.fromkeys(cleared), task["id"])
    assert {name: task[name] for name in cleared} == cleared
    assert (await bob.data(TASKS_OF))["tasks"]["nodes"] == foreign


# Filters


async def ids_of(user: User, asked: Json) -> set[str]:
    return {node["id"] for node in (await user.data(TASKS_OF, filter=asked))["tasks"]["nodes"]}


async def filled(user: User) -> set[str]:
    """Tasks with all fields, with some and with none."""
    await with_lists(user)
    optional = empty("CreateTaskInput")
    tasks = [
        await user.add("Some text", **{name: samples(CREATED[name])[place] for name in optional}) for place in (0, 1)
    ]
    tasks += [await user.add("Imported", **{name: samples(CREATED[name])[0]}) for name in DECIDED]
    tasks += [await user.add("Other", **{name: samples(CREATED[name])[0]}) for name in optional]
    tasks.append(await user.add("Nothing"))
    await written(user, "updateTask", {"completed": True}, tasks[0]["id"])
    return {task["id"] for task in tasks}


async def test_not_is_the_exact_opposite(alice: User, bob: User) -> None:
    """Each task matches either a condition or its negation, also if fields are null, at any nesting depth."""
    everything, foreign = await filled(alice), await filled(bob)
    assert not everything & foreign
    for path, type_ in conditions("TaskFilter"):
        for value in [*samples(type_), *([[]] if isinstance(samples(type_)[0], list) else [])]:
            asked = condition(path, value)
            met = await ids_of(alice, asked)
            assert await ids_of(alice, {"not": asked}) == everything - met, asked
            assert await ids_of(alice, {"not": {"not": asked}}) == met, asked
            assert await ids_of(alice, {"or": [asked, {"not": asked}]}) == everything, asked
            assert await ids_of(alice, {"and": [asked, {"not": asked}]}) == set(), asked


def _is_due_before(bind: Any) -> ColumnElement[bool]:
    return TASKS.c.due_date < cast(bind, Date)


async def test_a_condition_that_is_null_is_false(
    new_user: Callable[..., Awaitable[User]], owner: "asyncpg.Connection[Any]"
) -> None:
    """A declared condition may evaluate to NULL: filters treat that as false, also below `not`."""
    user = await new_user()
    dated, other = await user.add("Dated", dueDate="2026-01-01"), await user.add("No day")
    entity = replace(TASK, more_conditions={"before": Condition(_is_due_before, Text(), moment)})

    async def found(asked: Json) -> set[str]:
        wanted = Filter(entity, asked)
        statement = compiled(select(TASKS.c.id).where(TASKS.c.user_id == user_id(), sql_of(entity, wanted.shape)))
        rows = await owner.fetch(statement.text, *statement.arguments({"user_id": user.id, **wanted.values}))
        return {str(row["id"]) for row in rows}

    before: Json = {"before": date(2026, 6, 1)}
    assert await found(before) == {dated["id"]}
    for opposite in ({"not": before}, {"not": {"or": [before]}}, {"and": [{"not": {"and": [before, {}]}}]}):
        assert await found(opposite) == {other["id"]}, opposite
    assert await found({"not": {"not": before}}) == {dated["id"]}
    assert await found({"not": {"and": [{"not": before}, {"not": before}]}}) == {dated["id"]}


# Cursors


PAGE = """
    query ($after: String, $before: String) {
        tasks(first: 1, after: $after, before: $before) { nodes { title } pageInfo { endCursor } }
    }
"""


def resealed(cursor: str, owner: UUID, listed: str) -> str:
    """A user's cursor changed to name another list, with a valid checksum."""
    name, *keys = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))[6:])
    content = json.dumps([name.replace("tasks ", listed), *keys]).encode()
    seal = hashlib.sha256(owner.bytes + content).digest()[:6]
    return base64.urlsafe_b64encode(seal + content).decode().rstrip("=")


async def test_a_cursor_names_its_list(alice: User) -> None:
    """A cursor of another list, or one without a list's name, is rejected with a reason."""
    for title in ("One", "Two"):
        await alice.add(title)
    end = (await alice.data(PAGE))["tasks"]["pageInfo"]["endCursor"]

    same = resealed(end, alice.id, "tasks ")
    assert (await alice.data(PAGE, after=same))["tasks"]["nodes"] == [{"title": "One"}]
    for other in ("lists ", "task ", ""):
        foreign = resealed(end, alice.id, other)
        for argument in ("after", "before"):
            (error,) = (await alice.ask(PAGE, **{argument: foreign}))["errors"]
            assert error["extensions"]["code"] == "BAD_USER_INPUT"
            assert "the list `tasks`" in error["message"]
