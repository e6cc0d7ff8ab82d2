"""Forms can trust the answers: errors name their fields, and bulk writes select no more than a filter says."""

from typing import Any

import pytest
from conftest import User, Wire
from test_bulk import KINDS, change, error_of, everything, inputs, made, two_with

from app.identifiers import uuid7

Json = dict[str, Any]
CREATE = "mutation ($input: CreateTaskInput!) { createTask(input: $input) { task { id } } }"
CREATE_MANY = "mutation ($inputs: [CreateTaskInput!]!) { createTasks(inputs: $inputs) { affectedCount } }"
CREATE_LIST = "mutation ($input: CreateListInput!) { createList(input: $input) { list { id } } }"
UPDATE = "mutation ($id: ID!, $input: UpdateTaskInput!) { updateTask(id: $id, input: $input) { task { id } } }"
DELETE_MANY = "mutation ($where: TaskSelector!) { deleteTasks(where: $where) { affectedCount } }"
PAGE = """query ($filter: TaskFilter, $order: [TaskOrder!], $first: Int, $after: String) {
    tasks(filter: $filter, orderBy: $order, first: $first, after: $after) { nodes { id } }
}"""
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
DEEP: Any = None
for _ in range(300):
    DEEP = {"not": DEEP}

# A document, its variables, and the fields that its errors name.
WRONG: dict[str, tuple[str, Json, list[str | None]]] = {
    "a wrong value": (CREATE, {"input": {"title": 5}}, ["input.title"]),
    "a null": (CREATE, {"input": {"title": None}}, ["input.title"]),
    "a missing field": (CREATE, {"input": {}}, ["input.title"]),
    "an unknown field": (CREATE, {"input": {"title": "x", "colour": "red"}}, ["input.colour"]),
    "an unknown field with quotes": (CREATE, {"input": {"title": "x", "a', 'b": 1}}, ["input.a"]),
    "a missing variable": (CREATE, {}, ["input"]),
    "a null variable": (CREATE, {"input": None}, ["input"]),
    "no object": (CREATE, {"input": "x"}, ["input"]),
    "an enum": (CREATE, {"input": {"title": "x", "priority": "SOON"}}, ["input.priority"]),
    "a date": (CREATE, {"input": {"title": "x", "dueDate": "2026-02-30"}}, ["input.dueDate"]),
    "a time": (CREATE, {"input": {"title": "x", "completedAt": "noon"}}, ["input.completedAt"]),
    "an item of a list": (CREATE, {"input": {"title": "x", "tags": ["a", 1, None]}}, ["input.tags.1", "input.tags.2"]),
    "several": (CREATE, {"input": {"title": 1, "dueDate": 2}}, ["input.title", "input.dueDate"]),
    "a field of an item": (
        CREATE_MANY,
        {"inputs": [*[{"title": "x"}] * 3, {"title": 5}, {}]},
        ["inputs.3.title", "inputs.4.title"],
    ),
    "an item instead of a list": (CREATE_MANY, {"inputs": {"title": 5}}, ["inputs.title"]),
    "a list's name": (CREATE_LIST, {"input": {"name": []}}, ["input.name"]),
    "an update": (UPDATE, {"id": 1.5, "input": {"completed": "yes"}}, ["id", "input.completed"]),
    "two ways of selecting": (DELETE_MANY, {"where": {"ids": [], "all": True}}, ["where"]),
    "no way of selecting": (DELETE_MANY, {"where": {}}, ["where"]),
    "a null way of selecting": (DELETE_MANY, {"where": {"ids": None}}, ["where.ids"]),
    "a nested filter": (PAGE, {"filter": {"or": [{}, {"due": {"gte": True}}]}}, ["filter.or.1.due.gte"]),
    "too deep": (PAGE, {"filter": DEEP}, ["filter"]),
    "an order": (PAGE, {"order": [{"field": "COLOUR"}]}, ["orderBy.0.field"]),
    "another name of the variable": (
        "mutation ($new: CreateTaskInput!) { createTask(input: $new) { task { id } } }",
        {"new": {"title": 5}},
        ["input.title"],
    ),
    "a variable in an object": (
        "mutation ($what: String!) { createTask(input: { title: $what }) { task { id } } }",
        {"what": 5},
        ["input.title"],
    ),
    "a variable in a list": (
        """mutation ($due: Date) {
            createTasks(inputs: [{ title: "x" }, { title: "y", dueDate: $due }]) { affectedCount }
        }""",
        {"due": 5},
        ["inputs.1.dueDate"],
    ),
    "a variable in a fragment": (
        "query ($n: Int) { ...F } fragment F on Query { lists { nodes { tasks(first: $n) { nodes { id } } } } }",
        {"n": "many"},
        ["first"],
    ),
    "a variable of a directive": (
        "query ($with: Boolean!) { viewer @include(if: $with) { id } }",
        {"with": 5},
        ["with"],
    ),
    "several root fields": (
        """mutation ($a: CreateTaskInput!, $b: String) {
            one: createTask(input: $a) { task { id } } two: createTask(input: { title: "x", description: $b }) {
                task { id }
            }
        }""",
        {"a": {}, "b": 5},
        ["input.title", "input.description"],
    ),
    # Found when the operation runs.
    "an id of a new task": (CREATE, {"input": {"title": "x", "id": "1"}}, ["input.id"]),
    "an id of new tasks": (CREATE_MANY, {"inputs": [{"title": "x"}, {"title": "x", "id": "1"}]}, ["inputs.1.id"]),
    "an id": (UPDATE, {"id": "1", "input": {}}, ["id"]),
    "the id of a list": (UPDATE, {"id": ID, "input": {"listId": "1"}}, ["input.listId"]),
    "the id of a list of a new task": (
        CREATE_MANY,
        {"inputs": [{"title": "x"}, {"title": "x", "listId": "1"}]},
        ["inputs.1.listId"],
    ),
    "text that cannot be stored": (CREATE, {"input": {"title": "\0"}}, ["input.title"]),
    "ids to select": (DELETE_MANY, {"where": {"ids": [ID, "1"]}}, ["where.ids.1"]),
    "ids of a filter": (PAGE, {"filter": {"not": {"ids": [ID, "1"]}}}, ["filter.not.ids.1"]),
    "a filter's text": (PAGE, {"filter": {"and": [{"search": "\0"}]}}, ["filter.and.0.search"]),
    "a page's size": (PAGE, {"first": 0}, ["first"]),
    "a cursor": (PAGE, {"after": "x"}, ["after"]),
    "an order twice": (PAGE, {"order": [{"field": "TITLE"}] * 2}, ["orderBy"]),
}


@pytest.mark.parametrize("name", WRONG)
async def test_errors_name_their_field(alice: User, wire: Wire, name: str) -> None:
    """Each error about a variable names the argument and the path in it, and nothing is sent to the database."""
    query, variables, fields = WRONG[name]

    errors = (await alice.ask(query, **variables))["errors"]

    assert [error["extensions"].get("field") for error in errors] == fields
    assert {error["extensions"]["code"] for error in errors} == {"BAD_USER_INPUT"}
    assert await wire.statements() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "nothing",
    [{"or": []}, {"ids": []}, {"and": [{"or": []}]}, {"completed": False, "or": []}, {"tagsAny": []}],
    ids=str,
)
async def test_filters_that_match_nothing(alice: User, bob: User, kind: str, nothing: Json) -> None:
    """A filter that no task meets selects nothing, and changes nothing of anybody."""
    await two_with(alice, bob, 3, kind)
    before = await everything(alice), await everything(bob)

    payload = await change(alice, kind, {"filter": nothing})

    assert (payload["tasks"], payload["affectedCount"], payload["userErrors"]) == ([], 0, [])
    assert (await everything(alice), await everything(bob)) == before


@pytest.mark.parametrize("kind", KINDS)
async def test_no_ids_select_nothing(alice: User, bob: User, kind: str) -> None:
    """An empty list of ids changes nothing."""
    await two_with(alice, bob, 3, kind)
    before = await everything(alice), await everything(bob)

    payload = await change(alice, kind, {"ids": []})

    assert (payload["tasks"], payload["affectedCount"], payload["userErrors"]) == ([], 0, [])
    assert (await everything(alice), await everything(bob)) == before


WITHOUT_CONDITION: list[tuple[Json, str]] = [
    ({}, ""),
    ({"trashed": False}, ""),
    ({"and": []}, ""),
    ({"and": [{}]}, ".and.0"),
    ({"or": [{}]}, ".or.0"),
    ({"not": {}}, ".not"),
    ({"not": {"not": {}}}, ".not.not"),
    ({"tagsAll": []}, ""),
    ({"due": {}}, ""),
    ({"list": {}}, ""),
    ({"completed": False, "and": [{}]}, ".and.0"),
    ({"completed": False, "not": {"due": {}}}, ".not"),
    ({"or": [{"completed": False}, {}]}, ".or.1"),
    ({"or": [{"completed": False}, {"tagsAll": []}]}, ".or.1"),
    ({"not": {"ids": []}}, ""),
    ({"not": {"or": []}}, ""),
    ({"not": {"list": {"ids": []}}}, ""),
    ({"or": [{"completed": False}, {"not": {"priority": []}}]}, ".or.1"),
]
NULLS: list[tuple[Json, str]] = [
    ({"ids": None}, ".ids"),
    ({"completed": None}, ".completed"),
    ({"search": None}, ".search"),
    ({"trashed": None, "completed": True}, ".trashed"),
    ({"completed": False, "due": None}, ".due"),
    ({"completed": False, "due": {"gte": None}}, ".due.gte"),
    ({"completed": False, "list": {"isNull": None}}, ".list.isNull"),
    ({"completed": False, "and": None}, ".and"),
    ({"or": [{"completed": False}, {"tagsAny": None, "completed": True}]}, ".or.1.tagsAny"),
    ({"not": {"completedAt": {"lt": None}}}, ".not.completedAt.lt"),
]
BLANK: list[tuple[Json, str]] = [
    ({"search": ""}, ".search"),
    ({"search": " \t"}, ".search"),
    ({"completed": False, "not": {"search": ""}}, ".not.search"),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_filters_without_a_condition(alice: User, bob: User, wire: Wire, kind: str) -> None:
    """A filter that excludes no task, anywhere in the filter, is refused with its path, and so are null conditions."""
    await two_with(alice, bob, 5, kind)
    before = await everything(alice), await everything(bob)
    await wire.statements()

    for wrong, path in [*WITHOUT_CONDITION, *NULLS, *BLANK]:
        code, message = await error_of(alice, kind, where={"filter": wrong})
        assert (code, f"`where.filter{path}`" in message) == ("BAD_USER_INPUT", True), (wrong, message)

    assert await wire.statements() == []
    assert (await everything(alice), await everything(bob)) == before


@pytest.mark.parametrize("kind", KINDS)
async def test_a_variable_without_a_value_selects_nothing(alice: User, bob: User, kind: str) -> None:
    """A filter whose only variable is omitted or null is refused, and names the condition."""
    await two_with(alice, bob, 5, kind)
    before = await everything(alice), await everything(bob)
    changes = ', input: { title: "Changed" }' if kind == "updateTasks" else ""
    query = f"mutation ($ids: [ID!]) {{ {kind}(where: {{ filter: {{ ids: $ids }} }}{changes}) {{ affectedCount }} }}"

    omitted, null = await alice.ask(query), await alice.ask(query, ids=None)

    for answer, field in ((omitted, "where.filter"), (null, "where.filter.ids")):
        (error,) = answer["errors"]
        assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": field}
    assert (await everything(alice), await everything(bob)) == before
    assert (await alice.data(query, ids=[]))[kind]["affectedCount"] == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_all_selects_everything(alice: User, bob: User, kind: str) -> None:
    """`all` selects all tasks that the mutation can change, of this user, and at most `atMost`."""
    ids = await two_with(alice, bob, 5, kind)
    bobs = await everything(bob)

    payload = await change(alice, kind, {"all": True}, atMost=4)
    assert [error["code"] for error in payload["userErrors"]] == ["LIMIT_EXCEEDED"]
    assert (await change(alice, kind, {"all": True}, dryRun=True))["affectedCount"] == 5
    payload = await change(alice, kind, {"all": True}, atMost=5)

    assert sorted(task["id"] for task in payload["tasks"]) == sorted(ids)
    assert await everything(bob) == bobs


@pytest.mark.parametrize("wrong", [{"all": False}, {"all": None}, {"all": True, "ids": []}], ids=str)
async def test_all_must_be_true(alice: User, wrong: Json) -> None:
    """`all: false` would be read as nothing or as everything: it is refused."""
    await alice.add()

    assert (await error_of(alice, "deleteTasks", where=wrong))[0] == "BAD_USER_INPUT"
    assert len((await everything(alice))["live"]["nodes"]) == 1


async def test_queries_ignore_null_conditions(alice: User) -> None:
    """A page shows all tasks if its conditions are null, as optional variables are."""
    ids = [task["id"] for task in await made(alice, inputs(3))]

    nothing: Json
    for nothing in ({}, {"ids": None}, {"due": {"gte": None}}, {"and": [{}]}, {"search": None}):
        page = (await alice.data(PAGE, filter=nothing))["tasks"]["nodes"]
        assert sorted(task["id"] for task in page) == sorted(ids)


async def test_another_users_ids_select_nothing(alice: User, bob: User) -> None:
    """Ids of another user are NOT_FOUND, also with a filter beside them."""
    (theirs,) = await made(bob, inputs(1))
    before = await everything(bob)

    for where in ({"ids": [theirs["id"], str(uuid7())]}, {"filter": {"ids": [theirs["id"]]}}, {"all": True}):
        assert (await change(alice, "deleteTasks", where))["affectedCount"] == 0

    assert await everything(bob) == before
