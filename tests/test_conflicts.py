"""Updates with a `base` are merged field by field, and creates with an id can be repeated whatever happened since."""

from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from conftest import ALL_FIELDS, CREATE, User
from declared import inputs, samples, snake

from app.tasks.fields import TASK
from app.tasks.lists import LIST

Json = dict[str, Any]

ROW = f"{ALL_FIELDS} list {{ id }}"
UPDATE = f"""mutation ($id: ID!, $input: UpdateTaskInput!, $base: UpdateTaskBase, $expected: Int) {{
    done: updateTask(id: $id, input: $input, base: $base, expectedVersion: $expected) {{
        task {{ {ROW} }} userErrors {{ code message field }}
    }}
}}"""
UPDATE_LIST = """mutation ($id: ID!, $input: UpdateListInput!, $base: UpdateListBase) {
    done: updateList(id: $id, input: $input, base: $base) {
        list { id name icon version } userErrors { code message field }
    }
}"""
CREATE_LIST = """mutation ($input: CreateListInput!) {
    createList(input: $input) { list { id name version deletedAt } userErrors { code field } }
}"""
CREATE_MANY = f"""mutation ($inputs: [CreateTaskInput!]!) {{
    createTasks(inputs: $inputs) {{ tasks {{ {ROW} }} userErrors {{ code message field }} }}
}}"""
DELETE = "mutation ($id: ID!) { deleteTask(id: $id) { userErrors { code } } }"
DELETE_LIST = "mutation ($id: ID!) { deleteList(id: $id) { userErrors { code } } }"
FIELDS = inputs("UpdateTaskBase")


async def update(user: User, task: Json, changes: Json, base: Json | None, **more: Any) -> Json:
    done: Json = (await user.data(UPDATE, id=task["id"], input=changes, base=base, **more))["done"]
    return done


def codes(payload: Json) -> list[tuple[str, list[str]]]:
    return [(error["code"], error["field"]) for error in payload["userErrors"]]


def shown(task: Json, name: str) -> Any:
    return (task["list"] and task["list"]["id"]) if name == "listId" else task[name]


async def full(user: User) -> Json:
    """A task with the first sample value in each field."""
    for list_id in samples(FIELDS["listId"]):
        await user.data(CREATE_LIST, input={"id": list_id, "name": "A list"})
    task = await user.add("A task")
    return (await update(user, task, {name: samples(type_)[0] for name, type_ in FIELDS.items()}, None))["task"]  # type: ignore[no-any-return]  # JSON


def test_every_field_has_a_base() -> None:
    """A base has exactly the fields that updates replace."""
    assert {snake(name) for name in FIELDS} == TASK.in_updates.keys() - TASK.more_contents.keys()
    assert {snake(name) for name in inputs("UpdateListBase")} == set(LIST.in_updates)
    assert all(str(type_) == str(inputs("UpdateTaskInput")[name]) for name, type_ in FIELDS.items())


@pytest.mark.parametrize("name", FIELDS)
async def test_one_field(alice: User, bob: User, name: str) -> None:
    """A field with its base is written, one with the new value is done, any other is a conflict that writes nothing."""
    task, others = await full(alice), await full(bob)
    first, second = samples(FIELDS[name])

    done = await update(alice, task, {name: second}, {name: first})
    assert (codes(done), shown(done["task"], name)) == ([], second)
    again = await update(alice, task, {name: second}, {name: first})
    assert (codes(again), again["task"]) == ([], done["task"])
    if name != "completed":  # which has but two values
        await update(alice, task, {name: first}, {name: second})
        third = {"title": "Third", "description": None, "priority": "MEDIUM", "dueDate": None, "tags": ["c"]}.get(name)
        refused = await update(
            alice, task, {name: third, **({} if name == "title" else {"title": "X"})}, {name: second}
        )
        assert codes(refused) == [("CONFLICT", ["input", name])]
        assert {**refused["task"], "version": 0, "updatedAt": 0} == {**task, "version": 0, "updatedAt": 0}
    same = await update(bob, others, {}, {})
    assert same["task"] == others


async def test_edits_of_different_fields_merge(alice: User) -> None:
    """Two devices that have seen the same task change different fields; neither undoes the other's."""
    task = await alice.add("Both", priority="LOW")
    await update(alice, task, {"title": "One"}, {"title": "Both"})

    merged = await update(
        alice, task, {"priority": "HIGH", "dueDate": "2026-12-24"}, {"priority": "LOW", "dueDate": None}
    )

    assert codes(merged) == []
    assert [merged["task"][name] for name in ("title", "priority", "dueDate")] == ["One", "HIGH", "2026-12-24"]


async def test_two_queued_edits(alice: User) -> None:
    """The base of the second edit is what the first one wrote, so no answer is needed in between, and both repeat."""
    task = await alice.add("One")
    for _ in range(2):
        first = await update(alice, task, {"title": "Two"}, {"title": "One"})
        if codes(first):  # repeated after the second
            assert codes(first) == [("CONFLICT", ["input", "title"])]
        second = await update(alice, task, {"title": "Three"}, {"title": "Two"})
        assert (codes(second), second["task"]["title"]) == ([], "Three")


async def test_a_field_without_base_is_written(alice: User) -> None:
    """The base of other fields does not matter to it."""
    task = await alice.add("One", priority="LOW")
    await update(alice, task, {"title": "Elsewhere"}, None)

    done = await update(alice, task, {"title": "Mine", "priority": "HIGH"}, {"priority": "LOW"})

    assert (codes(done), done["task"]["title"], done["task"]["priority"]) == ([], "Mine", "HIGH")


@pytest.mark.parametrize(
    ("changes", "base"),
    [
        ({}, {"title": "One"}),
        ({"title": "Two"}, {"description": None}),
        ({"addTags": ["a"]}, {"tags": []}),
        ({"title": "Two"}, {"title": "One", "listId": None}),
    ],
)
async def test_a_base_without_input(alice: User, changes: Json, base: Json) -> None:
    """A base of a field that is not changed is a mistake of the client; nothing is written."""
    task = await alice.add("One")

    (error,) = (await alice.ask(UPDATE, id=task["id"], input=changes, base=base))["errors"]

    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert "needs input." in error["message"]
    assert error["extensions"]["field"].startswith("base.")
    assert (await update(alice, task, {}, {}))["task"]["version"] == task["version"]


@pytest.mark.parametrize("base", [["B", "a"], ["A", "b", "a"], [" b ", "A"]])
async def test_tags_are_compared_as_sets(alice: User, base: list[str]) -> None:
    """Order, case and duplicates do not make a conflict."""
    task = await alice.add("Tagged", tags=["a", "b"])

    done = await update(alice, task, {"tags": ["c"]}, {"tags": base})

    assert (codes(done), done["task"]["tags"]) == ([], ["c"])
    done = await update(alice, task, {"tags": ["C"]}, {"tags": base})
    assert (codes(done), done["task"]["tags"]) == ([], ["c"])
    assert codes(await update(alice, task, {"tags": ["d"]}, {"tags": base})) == [("CONFLICT", ["input", "tags"])]


async def test_null_is_a_value(alice: User) -> None:
    """A cleared field is another value than any text; a null priority is NONE."""
    task = await alice.add("One", description="Text")
    assert codes(await update(alice, task, {"description": "New"}, {"description": None})) == [
        ("CONFLICT", ["input", "description"])
    ]
    assert codes(await update(alice, task, {"description": None}, {"description": "Text"})) == []
    assert codes(await update(alice, task, {"description": "Back"}, {"description": None})) == []
    assert codes(await update(alice, task, {"priority": "LOW"}, {"priority": None})) == []
    assert codes(await update(alice, task, {"title": "Two"}, {"title": None})) == [("CONFLICT", ["input", "title"])]


async def test_all_conflicts_are_named(alice: User, bob: User) -> None:
    """Each conflicting field has its own error; a version that is not expected comes first."""
    task = await alice.add("One", id=str(uuid4()))
    await bob.add("Two", id=task["id"])
    changes, base = (
        {"title": "Two", "description": "D", "priority": "LOW"},
        {"title": "0", "description": "0", "priority": None},
    )

    refused = await update(alice, task, changes, base)
    assert codes(refused) == [("CONFLICT", ["input", "title"]), ("CONFLICT", ["input", "description"])]
    assert refused["task"]["title"] == "One"
    stale = await update(alice, task, changes, base, expected=task["version"] - 1)
    assert codes(stale) == [("VERSION_CONFLICT", ["expectedVersion"])]
    assert codes(await update(bob, task, {"title": "Three"}, {"title": "Two"})) == []


async def test_what_is_refused_with_a_base(alice: User) -> None:
    """A missing task, one in the trash, and a list in the trash are refused as without a base."""
    assert codes(await update(alice, {"id": str(uuid4())}, {"title": "A"}, {"title": "B"})) == [("NOT_FOUND", ["id"])]
    task = await full(alice)
    first, second = samples(FIELDS["listId"])
    await alice.data(DELETE_LIST, id=second)
    assert codes(await update(alice, task, {"listId": second}, {"listId": first})) == [
        ("IN_TRASH", ["input", "listId"])
    ]
    await alice.data(DELETE, id=task["id"])
    assert codes(await update(alice, task, {"title": "A"}, {"title": task["title"]})) == [("IN_TRASH", ["id"])]


async def test_lists(alice: User, bob: User) -> None:
    """The same for the fields of lists."""
    new = {"id": str(uuid4()), "name": "Home", "icon": "x"}
    for user in (alice, bob):
        await user.data(CREATE_LIST, input=new)

    async def renamed(changes: Json, base: Json) -> Json:
        done: Json = (await alice.data(UPDATE_LIST, id=new["id"], input=changes, base=base))["done"]
        return done

    assert codes(await renamed({"name": "House"}, {"name": "Home"})) == []
    assert codes(await renamed({"name": "House"}, {"name": "Home"})) == []
    assert (await renamed({"icon": None}, {"icon": "x"}))["list"]["name"] == "House"
    refused = await renamed({"name": "Flat", "icon": "y"}, {"name": "Home", "icon": None})
    assert (codes(refused), refused["list"]["name"]) == ([("CONFLICT", ["input", "name"])], "House")
    done = (await bob.data(UPDATE_LIST, id=new["id"], input={"name": "Hut"}, base={"name": "Home"}))["done"]
    assert codes(done) == []


# Repeated creates


NEW: Json = {"title": "New", "description": "D", "priority": "LOW", "dueDate": "2026-12-24", "tags": ["Work"]}
CHANGED: Json = {"title": "Other", "description": None, "priority": "HIGH", "tags": ["x"], "completed": True}


async def test_a_create_is_repeatable_after_changes(alice: User, bob: User) -> None:
    """It returns the task as it is, also from the trash, alone and in a batch; other users are not affected."""
    new = NEW | {"id": str(uuid4())}
    await bob.add(**new)
    task = await alice.add(**new)
    changed = (await update(alice, task, CHANGED, None))["task"]
    for trashed in (False, True):
        if trashed:
            await alice.data(DELETE, id=task["id"])
        again = (await alice.data(CREATE, input=new))["createTask"]
        assert (codes(again), again["task"]["title"]) == ([], "Other")
        assert bool(again["task"]["deletedAt"]) is trashed
        many = (await alice.data(CREATE_MANY, inputs=[new, {"title": "Another"}]))["createTasks"]
        assert (codes(many), [one["title"] for one in many["tasks"]]) == ([], ["Other", "Another"])
        assert trashed or again["task"]["version"] == changed["version"]
    # Its present content is not what it was created with.
    for content in ({**new, "title": "Other"}, {**new, "description": None}, {**new, "tags": ["x"]}):
        assert codes((await alice.data(CREATE, input=content))["createTask"]) == [("ID_TAKEN", ["input", "id"])]
        many = (await alice.data(CREATE_MANY, inputs=[content]))["createTasks"]
        assert codes(many) == [("ID_TAKEN", ["inputs", "0", "id"])]
    assert (await bob.data(CREATE, input=new))["createTask"]["task"]["title"] == "New"


@pytest.mark.parametrize("by_many", [False, True])
async def test_omitted_null_and_default_are_equal(alice: User, *, by_many: bool) -> None:
    """Neither the form of values nor the order of members makes another content."""
    task_id = str(uuid4())
    first: Json = {"id": task_id, "title": "New", "tags": ["Work", "home"], "createdAt": "2026-01-01T00:00:00Z"}
    if by_many:
        await alice.data(CREATE_MANY, inputs=[first])
    else:
        await alice.add(**first)
    await update(alice, first, CHANGED, None)

    again = {
        "createdAt": "2026-01-01T01:00:00+01:00",
        "tags": [" WORK", "Home", "work"],
        "completedAt": None,
        "id": task_id.upper(),
        "priority": "NONE",
        "description": None,
        "listId": None,
        "completed": False,
        "title": "New",
    }
    assert codes((await alice.data(CREATE, input=again))["createTask"]) == []
    assert codes((await alice.data(CREATE_MANY, inputs=[again]))["createTasks"]) == []


async def test_rows_without_a_hash_are_compared(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """A task made by SQL, by an earlier version or with an id of the server's choice is compared as it is now."""
    new = NEW | {"id": str(uuid4())}
    await alice.add(**new)
    for unknown in (None, 2):  # 2 is of another format
        await owner.execute("UPDATE tasks SET create_hash = $2 WHERE user_id = $1", alice.id, unknown)
        assert codes((await alice.data(CREATE, input=new))["createTask"]) == []
        assert codes((await alice.data(CREATE_MANY, inputs=[new]))["createTasks"]) == []
        for content in ({**new, "title": "Other"}, {**new, "completed": True}):
            assert codes((await alice.data(CREATE, input=content))["createTask"]) == [("ID_TAKEN", ["input", "id"])]
    task = await alice.add("Of the server")
    assert (
        await owner.fetchval("SELECT create_hash FROM tasks WHERE user_id = $1 AND id = $2", alice.id, task["id"])
        is None
    )
    again = (await alice.data(CREATE, input={"id": task["id"], "title": "Of the server"}))["createTask"]
    assert (codes(again), again["task"]) == ([], task)


async def test_a_list_is_repeatable_after_changes(alice: User) -> None:
    """The same for lists."""
    new = {"id": str(uuid4()), "name": "Home", "icon": "x"}
    await alice.data(CREATE_LIST, input=new)
    await alice.data(UPDATE_LIST, id=new["id"], input={"name": "House", "icon": None})
    await alice.data(DELETE_LIST, id=new["id"])

    again = (await alice.data(CREATE_LIST, input=new))["createList"]
    assert (codes(again), again["list"]["name"], bool(again["list"]["deletedAt"])) == ([], "House", True)
    other = (await alice.data(CREATE_LIST, input=new | {"name": "House"}))["createList"]
    assert codes(other) == [("ID_TAKEN", ["input", "id"])]
