"""Lists of tasks: their mutations and queries, the lists of tasks, and the trash of both."""

from typing import Any
from uuid import uuid4

from conftest import User

Json = dict[str, Any]

LIST = "id name icon position version createdAt updatedAt deletedAt"
PAYLOAD = f"{{ list {{ {LIST} }} userErrors {{ code message field }} token }}"
CREATE = f"mutation ($input: CreateListInput!) {{ done: createList(input: $input) {PAYLOAD} }}"
UPDATE = f"""
    mutation ($id: ID!, $input: UpdateListInput!, $expected: Int) {{
        done: updateList(id: $id, input: $input, expectedVersion: $expected) {PAYLOAD}
    }}
"""
DELETE = f"mutation ($id: ID!, $v: Int) {{ done: deleteList(id: $id, expectedVersion: $v) {PAYLOAD} }}"
RESTORE = f"mutation ($id: ID!) {{ done: restoreList(id: $id) {PAYLOAD} }}"
MOVE = f"mutation ($id: ID!, $to: MoveTarget!) {{ done: moveList(id: $id, to: $to) {PAYLOAD} }}"
ONE = f"query ($id: ID!) {{ list(id: $id) {{ {LIST} }} }}"
ALL = f"""
    query ($filter: TaskListFilter, $orderBy: [TaskListOrder!]) {{
        lists(filter: $filter, orderBy: $orderBy) {{ totalCount nodes {{ {LIST} }} }}
    }}
"""


async def done(user: User, mutation: str, **variables: Any) -> Json:
    """The payload of a mutation."""
    payload: Json = (await user.data(mutation, **variables))["done"]
    return payload


async def created(user: User, name: str = "A list", **more: Any) -> Json:
    """A new list."""
    payload = await done(user, CREATE, input={"name": name, **more})
    assert payload["userErrors"] == []
    made: Json = payload["list"]
    return made


async def names(user: User, **variables: Any) -> list[str]:
    return [node["name"] for node in (await user.data(ALL, **variables))["lists"]["nodes"]]


async def test_a_list_is_created_changed_and_read(alice: User, bob: User) -> None:
    """A list can be created, read, renamed, moved, deleted and restored by its user alone."""
    first, second = await created(alice, "First", icon="🏠"), await created(alice, "second")
    assert (await alice.data(ONE, id=first["id"]))["list"] == first
    assert (await bob.data(ONE, id=first["id"]))["list"] is None
    assert await names(alice) == ["First", "second"]
    assert await names(bob) == []

    changed = (await done(alice, UPDATE, id=first["id"], input={"name": "zoo", "icon": None}))["list"]
    assert (changed["name"], changed["icon"]) == ("zoo", None)
    assert changed["version"] > second["version"]
    assert await names(alice, orderBy=[{"field": "NAME"}]) == ["second", "zoo"]

    assert (await done(alice, MOVE, id=first["id"], to={"after": second["id"]}))["userErrors"] == []
    assert await names(alice) == ["second", "zoo"]
    foreign = await done(bob, UPDATE, id=first["id"], input={"name": "mine"})
    assert [error["code"] for error in foreign["userErrors"]] == ["NOT_FOUND"]
    gone = (await done(alice, DELETE, id=first["id"]))["list"]
    assert gone["deletedAt"]
    assert await names(alice) == ["second"]
    assert await names(alice, filter={"trashed": True}) == ["zoo"]
    assert (await done(alice, RESTORE, id=first["id"]))["list"]["deletedAt"] is None
    assert await names(alice) == ["second", "zoo"]


async def test_a_create_is_safe_to_repeat(alice: User) -> None:
    """The same id with the same content returns the list; with other content the error is ID_TAKEN."""
    fields = {"id": str(uuid4()), "name": "Once", "icon": "#aabbcc"}
    first = await created(alice, **fields)
    assert await created(alice, **fields) == first
    payload = await done(alice, CREATE, input={**fields, "name": "Other"})
    assert [(error["code"], error["field"]) for error in payload["userErrors"]] == [("ID_TAKEN", ["input", "id"])]
    assert payload["list"] == first
