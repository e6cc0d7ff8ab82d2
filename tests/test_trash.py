"""Writes of what is in the trash: refused with its current state, for tasks and for lists."""

from typing import Any

import pytest
from conftest import ALL_FIELDS, CREATION, WRITE, User, Wire
from declared import leaves

LIST_FIELDS = " ".join(leaves("TaskList"))
SHOWN = {
    "task": f"{{ task {{ {ALL_FIELDS} }} userErrors {{ code message field }} token }}",
    "list": f"{{ list {{ {LIST_FIELDS} }} userErrors {{ code message field }} token }}",
}
# The mutations of a task or a list that must not be in the trash, with their other arguments.
WRITES = {
    "updateTask": ("task", 'input: { title: "Late" }'),
    "updateTask with a version": ("task", 'input: { title: "Late" }, expectedVersion: 1'),
    "updateTask without changes": ("task", "input: {}"),
    "updateTask to a list": ("task", 'input: { listId: "01890a5d-ac96-774b-bcce-b302099a8057" }'),
    "updateTask with tags": ("task", 'input: { addTags: ["a"] }'),
    "setTaskCompleted": ("task", "completed: true"),
    "setTaskCompleted with a version": ("task", "completed: false, expectedVersion: 1"),
    "moveTask": ("task", "to: { toStart: true }"),
    "moveTask beside itself": ("task", "to: { after: $id }"),
    "updateList": ("list", 'input: { name: "Late" }'),
    "updateList with a version": ("list", 'input: { name: "Late" }, expectedVersion: 1'),
    "moveList": ("list", "to: { toEnd: true }"),
}
CREATE_LIST = f'mutation {{ createList(input: {{ name: "Home" }}) {SHOWN["list"]} }}'
DELETE = {
    "task": f"mutation ($id: ID!) {{ deleteTask(id: $id) {SHOWN['task']} }}",
    "list": f"mutation ($id: ID!) {{ deleteList(id: $id) {SHOWN['list']} }}",
}
FIND = {
    "task": f"query ($id: ID!) {{ task(id: $id) {{ {ALL_FIELDS} }} }}",
    "list": f"query ($id: ID!) {{ list(id: $id) {{ {LIST_FIELDS} }} }}",
}


async def trashed(user: User, kind: str) -> dict[str, Any]:
    """A new task or list that was moved to the trash."""
    row = await user.add() if kind == "task" else (await user.data(CREATE_LIST))["createList"]["list"]
    (payload,) = (await user.data(DELETE[kind], id=row["id"])).values()
    gone: dict[str, Any] = payload[kind]
    return gone


@pytest.mark.parametrize("name", WRITES)
async def test_writes_return_what_is_in_the_trash(alice: User, bob: User, wire: Wire, name: str) -> None:
    """The code is IN_TRASH at the id, with the row and its deletedAt, in one statement, and nothing changes."""
    kind, arguments = WRITES[name]
    gone, others = await trashed(alice, kind), await trashed(bob, kind)
    query = f"mutation ($id: ID!) {{ {name.split(maxsplit=1)[0]}(id: $id, {arguments}) {SHOWN[kind]} }}"
    await wire.statements()

    (payload,) = (await alice.data(query, id=gone["id"])).values()
    sent = await wire.statements()
    (hidden,) = (await alice.data(query, id=others["id"])).values()

    assert payload[kind] == gone
    assert gone["deletedAt"] is not None
    message = f"The {kind} is in the trash; restore it first."
    assert payload["userErrors"] == [{"code": "IN_TRASH", "message": message, "field": ["id"]}]
    assert payload["token"] is not None
    assert {statement.split()[0] for statement in sent} <= {*WRITE, *CREATION}
    assert (hidden[kind], [error["code"] for error in hidden["userErrors"]]) == (None, ["NOT_FOUND"])
    assert (await alice.data(FIND[kind], id=gone["id"]))[kind] == gone
    assert (await bob.data(FIND[kind], id=others["id"]))[kind] == others


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", ["task", "list"])
async def test_an_anchor_in_the_trash(alice: User, kind: str, place: str) -> None:
    """Moving something beside what is in the trash is IN_TRASH at the target."""
    gone = await trashed(alice, kind)
    row = await alice.add() if kind == "task" else (await alice.data(CREATE_LIST))["createList"]["list"]
    field = "moveTask" if kind == "task" else "moveList"
    query = f"mutation ($id: ID!, $to: MoveTarget!) {{ {field}(id: $id, to: $to) {SHOWN[kind]} }}"

    payload = (await alice.data(query, id=row["id"], to={place: gone["id"]}))[field]

    assert payload[kind] == row
    assert [(error["code"], error["field"]) for error in payload["userErrors"]] == [("IN_TRASH", ["to"])]
