"""Lists of tasks: their mutations and queries, the lists of tasks, and the trash of both."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import CREATION, Application, User, Wire, running

from app.database.compiling import Statements
from app.entities.feed import Feed
from app.settings import Settings
from app.tasks.feed import FEED

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


async def test_names_and_icons_are_checked(alice: User) -> None:
    """A name or an icon that is blank, too long or has more than one line is a user error at its field."""
    cases: list[tuple[Json, str, str]] = [
        ({"name": ""}, "BLANK", "name"),
        ({"name": " \t"}, "BLANK", "name"),
        ({"name": "x" * 101}, "TOO_LONG", "name"),
        *(({"name": f"a{mark}b"}, "INVALID", "name") for mark in "\n\r\t\x01\x7f\x85\u2028\u2029"),
        ({"name": "x", "icon": ""}, "BLANK", "icon"),
        ({"name": "x", "icon": "🏠" * 33}, "TOO_LONG", "icon"),
        ({"name": "x", "icon": "a\nb"}, "INVALID", "icon"),
    ]
    kept = await created(alice, "kept")
    for fields, code, name in cases:
        for payload in (
            await done(alice, CREATE, input=fields),
            await done(alice, UPDATE, id=kept["id"], input=fields),
        ):
            assert [(error["code"], error["field"]) for error in payload["userErrors"]] == [(code, ["input", name])]
            assert (payload["list"], payload["token"]) == (None, None)
    assert await names(alice) == ["kept"]
    for name in ("x" * 100, "家 👩‍👩‍👧", " padded "):
        assert (await created(alice, name, icon="👩‍👩‍👧"))["name"] == name


async def test_a_null_name_is_blank(alice: User) -> None:
    """A name cannot be cleared; an icon can."""
    made = await created(alice, "Name", icon="x")
    payload = await done(alice, UPDATE, id=made["id"], input={"name": None})
    assert codes(payload) == [("BLANK", ["input", "name"])]
    assert (await done(alice, UPDATE, id=made["id"], input={"icon": None}))["list"]["icon"] is None


async def test_versions_of_lists(alice: User) -> None:
    """A stale version is a conflict with the current list; an equal update changes nothing."""
    made = await created(alice, "Name")
    same = await done(alice, UPDATE, id=made["id"], input={"name": "Name"})
    assert same["list"] == made
    payload = await done(alice, UPDATE, id=made["id"], input={"name": "No"}, expected=made["version"] + 1)
    assert codes(payload) == [("VERSION_CONFLICT", ["expectedVersion"])]
    assert payload["list"] == made
    payload = await done(alice, DELETE, id=made["id"], v=made["version"] + 1)
    assert codes(payload) == [("VERSION_CONFLICT", ["expectedVersion"])]
    assert (await done(alice, DELETE, id=made["id"], v=made["version"]))["list"]["deletedAt"]


async def test_pages_of_lists(alice: User) -> None:
    """Lists are paged in both orders and directions, and a cursor of tasks is rejected."""
    query = """
        query ($first: Int, $after: String, $last: Int, $before: String, $order: [TaskListOrder!]) {
            lists(first: $first, after: $after, last: $last, before: $before, orderBy: $order) {
                nodes { name } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
            }
            tasks(first: 1) { pageInfo { endCursor } }
        }
    """
    await alice.add("A task")
    for name in ("b", "Ä", "c", "a"):
        await created(alice, name)
    for order, expected in (([], "bÄca"), ([{"field": "NAME"}], None)):
        whole = await alice.data(query, order=order)
        everything = [node["name"] for node in whole["lists"]["nodes"]]
        assert expected is None or everything == [*expected]
        assert expected or everything in (["a", "Ä", "b", "c"], ["Ä", "a", "b", "c"])
        seen, after = [], None
        for _ in everything:
            page = (await alice.data(query, first=1, after=after, order=order))["lists"]
            seen += [node["name"] for node in page["nodes"]]
            after = page["pageInfo"]["endCursor"]
        assert seen == everything
        last = (await alice.data(query, last=2, before=after, order=order))["lists"]
        assert [node["name"] for node in last["nodes"]] == everything[1:3]
        assert last["pageInfo"]["hasPreviousPage"]
    foreign = whole["tasks"]["pageInfo"]["endCursor"]
    answer = await alice.ask(query, after=foreign)
    assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


# The tasks of lists

TASK = "id title version deletedAt list { id }"
SINGLE = f"{{ task {{ {TASK} }} userErrors {{ code field }} }}"
SEVERAL = f"{{ tasks {{ {TASK} }} userErrors {{ code field }} }}"
ADD = f"mutation ($input: CreateTaskInput!) {{ done: createTask(input: $input) {SINGLE} }}"
ADD_MANY = f"mutation ($inputs: [CreateTaskInput!]!) {{ done: createTasks(inputs: $inputs) {SEVERAL} }}"
CHANGE = f"mutation ($id: ID!, $input: UpdateTaskInput!) {{ done: updateTask(id: $id, input: $input) {SINGLE} }}"
CHANGE_MANY = f"""
    mutation ($ids: [ID!]!, $input: UpdateTaskInput!) {{
        done: updateTasks(where: {{ ids: $ids }}, input: $input) {SEVERAL}
    }}
"""
DELETE_TASK = f"mutation ($id: ID!) {{ done: deleteTask(id: $id) {SINGLE} }}"
RESTORE_TASK = f"mutation ($id: ID!) {{ done: restoreTask(id: $id) {SINGLE} }}"
DELETE_TASKS = "mutation ($ids: [ID!]!) { done: deleteTasks(where: { ids: $ids }) { affectedCount } }"
RESTORE_TASKS = f"mutation ($ids: [ID!]!) {{ done: restoreTasks(where: {{ ids: $ids }}) {SEVERAL} }}"
COMPLETE = "mutation ($id: ID!) { setTaskCompleted(id: $id, completed: true) { token } }"
STATE = f"""
    {{
        live: tasks(first: 100, orderBy: [{{ field: POSITION }}]) {{ nodes {{ {TASK} }} }}
        gone: tasks(first: 100, orderBy: [{{ field: POSITION }}], filter: {{ trashed: true }}) {{ nodes {{ {TASK} }} }}
    }}
"""


def codes(payload: Json) -> list[tuple[str, list[str] | None]]:
    return [(error["code"], error["field"]) for error in payload["userErrors"]]


async def added(user: User, title: str, list_id: str | None = None) -> str:
    """The id of a new task."""
    payload = await done(user, ADD, input={"title": title, "listId": list_id})
    assert payload["userErrors"] == []
    task_id: str = payload["task"]["id"]
    return task_id


async def where(user: User) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """The lists of live tasks and of those in the trash, by title."""
    state = await user.data(STATE)

    def lists(nodes: list[Json]) -> dict[str, str | None]:
        return {task["title"]: task["list"] and task["list"]["id"] for task in nodes}

    return lists(state["live"]["nodes"]), lists(state["gone"]["nodes"])


async def test_tasks_are_in_a_list_or_in_the_inbox(alice: User, bob: User) -> None:
    """Each mutation of tasks puts them into a list; moving a task leaves it there."""
    one, other = (await created(alice, "One"))["id"], (await created(alice, "Other"))["id"]
    a, b = await added(alice, "a", one), await added(alice, "b")
    payload = await done(alice, ADD_MANY, inputs=[{"title": "c", "listId": one}, {"title": "d"}])
    c, d = (task["id"] for task in payload["tasks"])
    assert (await where(alice))[0] == {"a": one, "b": None, "c": one, "d": None}

    assert (await done(alice, CHANGE, id=b, input={"listId": other}))["task"]["list"] == {"id": other}
    assert (await done(alice, CHANGE, id=a, input={"title": "a"}))["task"]["list"] == {"id": one}
    assert codes(await done(alice, CHANGE_MANY, ids=[c, d], input={"listId": other})) == []
    await alice.data("mutation ($id: ID!) { moveTask(id: $id, to: { toStart: true }) { token } }", id=d)
    assert list((await where(alice))[0].items()) == [("d", other), ("a", one), ("b", other), ("c", other)]
    assert (await done(alice, CHANGE, id=b, input={"listId": None}))["task"]["list"] is None
    assert await where(bob) == ({}, {})


async def test_lists_that_tasks_cannot_be_in(alice: User, bob: User) -> None:
    """An unknown list, another user's and one in the trash are user errors at `listId`, and nothing is written."""
    foreign, gone = (await created(bob))["id"], (await created(alice))["id"]
    await done(alice, DELETE, id=gone)
    task = await added(alice, "kept")
    for list_id, code in ((str(uuid4()), "NOT_FOUND"), (foreign, "NOT_FOUND"), (gone, "IN_TRASH")):
        before = await alice.data(STATE)
        for id_ in (None, str(uuid4())):
            payload = await done(alice, ADD, input={"id": id_, "title": "x", "listId": list_id})
            assert (payload["task"], codes(payload)) == (None, [(code, ["input", "listId"])])
        inputs = [{"title": "fine"}, {"title": "x", "listId": list_id}]
        payload = await done(alice, ADD_MANY, inputs=inputs)
        assert (payload["tasks"], codes(payload)) == ([], [(code, ["inputs", "1", "listId"])])
        payload = await done(alice, CHANGE, id=task, input={"title": "no", "listId": list_id})
        assert codes(payload) == [(code, ["input", "listId"])]
        payload = await done(alice, CHANGE_MANY, ids=[task], input={"title": "no", "listId": list_id})
        assert (payload["tasks"], codes(payload)) == ([], [(code, ["input", "listId"])])
        assert await alice.data(STATE) == before
    answer = await alice.ask(ADD, input={"title": "x", "listId": "no UUID"})
    assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_an_id_names_one_thing(alice: User, bob: User) -> None:
    """A list cannot have the id of a task of the same user, nor the reverse; other users are not affected."""
    list_id, task_id = (await created(alice))["id"], await added(alice, "A task")
    taken = [("ID_TAKEN", ["input", "id"])]
    payload = await done(alice, ADD, input={"id": list_id, "title": "x"})
    assert (payload["task"], codes(payload)) == (None, taken)
    payload = await done(alice, ADD_MANY, inputs=[{"id": list_id, "title": "x"}])
    assert (payload["tasks"], codes(payload)) == ([], [("ID_TAKEN", ["inputs", "0", "id"])])
    payload = await done(alice, CREATE, input={"id": task_id, "name": "x"})
    assert (payload["list"], codes(payload)) == (None, taken)
    payload = await done(alice, CREATE, input={"id": str(alice.id), "name": "x"})
    assert codes(payload) == [("INVALID", ["input", "id"])]
    assert codes(await done(bob, ADD, input={"id": list_id, "title": "x"})) == []
    assert (await created(bob, id=task_id))["id"] == task_id
    node = "query ($id: ID!) { node(id: $id) { __typename id } }"
    assert (await alice.data(node, id=list_id))["node"] == {"__typename": "TaskList", "id": list_id}
    assert (await bob.data(node, id=list_id))["node"] == {"__typename": "Task", "id": list_id}


# The trash


async def test_a_list_goes_to_the_trash_with_its_tasks(alice: User) -> None:
    """Deleting a list moves its live tasks along, in one write; restoring it brings back exactly these."""
    home, work = (await created(alice, "Home"))["id"], (await created(alice, "Work"))["id"]
    tasks = {title: await added(alice, title, home) for title in ("a", "b", "c", "earlier")}
    await added(alice, "w", work)
    await added(alice, "i")
    await done(alice, DELETE_TASK, id=tasks["earlier"])

    gone = (await done(alice, DELETE, id=home))["list"]
    state = await alice.data(STATE)
    assert {task["title"] for task in state["live"]["nodes"]} == {"w", "i"}
    with_it = [task for task in state["gone"]["nodes"] if task["title"] != "earlier"]
    assert {(task["version"], task["deletedAt"]) for task in with_it} == {(gone["version"], gone["deletedAt"])}
    assert (await done(alice, DELETE, id=home))["list"] == gone

    assert (await done(alice, RESTORE, id=home))["list"]["deletedAt"] is None
    assert await where(alice) == ({"a": home, "b": home, "c": home, "w": work, "i": None}, {"earlier": home})
    again = await alice.data(STATE)
    await done(alice, RESTORE, id=home)
    assert await alice.data(STATE) == again


async def test_a_task_that_is_restored_or_deleted_alone(alice: User) -> None:
    """A task restored alone is in the inbox; one deleted again stays in the trash when its list is restored."""
    home = (await created(alice, "Home"))["id"]
    tasks = {title: await added(alice, title, home) for title in "abcdef"}
    await done(alice, DELETE, id=home)
    assert (await done(alice, RESTORE_TASK, id=tasks["a"]))["task"]["list"] is None
    restored = await done(alice, RESTORE_TASKS, ids=[tasks["b"]])
    assert [task["list"] for task in restored["tasks"]] == [None]
    before = (await alice.data(STATE))["gone"]["nodes"]
    deleted = (await done(alice, DELETE_TASK, id=tasks["c"]))["task"]
    assert deleted["deletedAt"] == next(task["deletedAt"] for task in before if task["id"] == tasks["c"])
    assert (await done(alice, DELETE_TASK, id=tasks["c"]))["task"] == deleted
    await done(alice, DELETE_TASKS, ids=[tasks["d"]])

    await done(alice, RESTORE, id=home)

    assert await where(alice) == ({"a": None, "b": None, "e": home, "f": home}, {"c": home, "d": home})
    assert (await done(alice, RESTORE_TASK, id=tasks["c"]))["task"]["list"] == {"id": home}


async def test_a_task_cannot_slip_into_a_list_in_the_trash(alice: User) -> None:
    """Of concurrent deletions of a list, and tasks that are put into it, none leaves a live task in the trash."""
    for _ in range(5):
        home = (await created(alice, "Home"))["id"]
        inbox = await added(alice, "moved")
        trashed = await added(alice, "restored", home)
        await done(alice, DELETE_TASK, id=trashed)
        await asyncio.gather(
            done(alice, DELETE, id=home),
            *(done(alice, ADD, input={"title": f"n{n}", "listId": home}) for n in range(3)),
            done(alice, ADD_MANY, inputs=[{"title": "m", "listId": home}]),
            done(alice, CHANGE, id=inbox, input={"listId": home}),
            done(alice, RESTORE_TASK, id=trashed),
        )
        live, _ = await where(alice)
        assert home not in live.values()


# Below lists

NESTED = """
    query ($first: Int, $after: String, $last: Int, $filter: TaskFilter, $order: [TaskOrder!]) {
        lists {
            nodes {
                name
                taskStats { total open completed overdue }
                tasks(first: $first, after: $after, last: $last, filter: $filter, orderBy: $order) {
                    totalCount pageInfo { hasNextPage hasPreviousPage endCursor } nodes { title list { name } }
                    edges { cursor node { title } }
                }
            }
        }
    }
"""


def titles(connection: Json) -> list[str]:
    return [node["title"] for node in connection["nodes"]]


async def test_lists_show_their_tasks(alice: User, bob: User, wire: Wire) -> None:
    """A page of lists shows the counts and a page of tasks of each, in one statement."""
    home, work = (await created(alice, "Home"))["id"], (await created(alice, "Work"))["id"]
    await created(alice, "Empty")
    await added(bob, "bob's", (await created(bob, "Home"))["id"])
    for number in range(5):
        await added(alice, f"h{number}", home)
    await alice.data(COMPLETE, id=await added(alice, "w0", work))
    await added(alice, "inbox")
    await wire.statements()

    shown = (await alice.data(NESTED, first=2, order=[{"field": "TITLE", "direction": "DESC"}]))["lists"]["nodes"]

    assert len(await wire.statements()) == 1
    assert [one["name"] for one in shown] == ["Home", "Work", "Empty"]
    assert [one["taskStats"]["open"] for one in shown] == [5, 0, 0]
    assert [one["taskStats"]["total"] for one in shown] == [5, 1, 0]
    assert [titles(one["tasks"]) for one in shown] == [["h4", "h3"], ["w0"], []]
    assert [one["tasks"]["totalCount"] for one in shown] == [5, 1, 0]
    assert [one["tasks"]["pageInfo"]["hasNextPage"] for one in shown] == [True, False, False]
    assert shown[0]["tasks"]["nodes"][0]["list"] == {"name": "Home"}
    after = shown[0]["tasks"]["pageInfo"]["endCursor"]
    rest = (await alice.data(NESTED, after=after, order=[{"field": "TITLE", "direction": "DESC"}]))["lists"]["nodes"]
    assert titles(rest[0]["tasks"]) == ["h2", "h1", "h0"]
    assert rest[0]["tasks"]["pageInfo"]["hasPreviousPage"]
    done_ = (await alice.data(NESTED, filter={"completed": True}, last=3))["lists"]["nodes"]
    assert [titles(one["tasks"]) for one in done_] == [[], ["w0"], []]
    trashed = (await alice.data(NESTED, filter={"trashed": True}))["lists"]["nodes"]
    assert [titles(one["tasks"]) for one in trashed] == [[], [], []]


async def test_a_list_within_a_task_within_a_list(alice: User) -> None:
    """Lists and tasks show one another at any depth, each connection with its own arguments."""
    query = """
        query ($id: ID!, $n: Int) {
            list(id: $id) {
                a: tasks(first: 1, orderBy: [{ field: POSITION }]) { nodes { title list { name
                    tasks(last: $n, orderBy: [{ field: POSITION }]) {
                        totalCount nodes { title list { id taskStats { total } } }
                    }
                } } }
                b: tasks(first: $n, filter: { list: { isNull: true } }) { totalCount }
            }
            node(id: $id) { ... on TaskList { name tasks(first: $n, orderBy: [{ field: TITLE }]) { nodes { title } } } }
            tasks(first: 2, orderBy: [{ field: POSITION }], filter: { list: { isNull: false } }) {
                totalCount nodes { title list { name taskStats { open } tasks(first: 1) { nodes { title } } } }
            }
        }
    """
    home = (await created(alice, "Home"))["id"]
    await added(alice, "inbox")
    for title in "cab":
        await added(alice, title, home)

    found = await alice.data(query, id=home, n=2)

    inner = {"totalCount": 3, "nodes": [{"title": t, "list": {"id": home, "taskStats": {"total": 3}}} for t in "ab"]}
    assert found["list"] == {
        "a": {"nodes": [{"title": "c", "list": {"name": "Home", "tasks": inner}}]},
        "b": {"totalCount": 0},
    }
    assert found["node"] == {"name": "Home", "tasks": {"nodes": [{"title": "a"}, {"title": "b"}]}}
    shown = {"name": "Home", "taskStats": {"open": 3}, "tasks": {"nodes": [{"title": "b"}]}}
    assert found["tasks"] == {"totalCount": 3, "nodes": [{"title": title, "list": shown} for title in "ca"]}


async def test_payloads_show_the_state_after_the_write(alice: User, wire: Wire) -> None:
    """What a payload shows of other rows includes the write; the id of a task's list needs no second statement."""
    shown = "list { name taskStats { total } tasks(first: 5) { nodes { title } } }"
    home = (await created(alice, "Home"))["id"]
    query = f"""mutation ($id: ID!) {{
        done: createTask(input: {{ title: "New", listId: $id }}) {{ task {{ title {shown} }} }}
    }}"""
    task = (await done(alice, query, id=home))["task"]
    tasks = {"nodes": [{"title": "New"}]}
    assert task == {"title": "New", "list": {"name": "Home", "taskStats": {"total": 1}, "tasks": tasks}}
    query = f"""mutation ($id: ID!) {{
        done: createTasks(inputs: [{{ title: "b", listId: $id }}, {{ title: "a" }}]) {{ tasks {{ title {shown} }} }}
    }}"""
    b, a = (await done(alice, query, id=home))["tasks"]
    assert (b["title"], b["list"]["taskStats"]["total"], a) == ("b", 2, {"title": "a", "list": None})
    query = f"mutation ($id: ID!) {{ done: deleteList(id: $id) {{ {shown} }} }}"
    gone = (await done(alice, query, id=home))["list"]
    assert gone == {"name": "Home", "taskStats": {"total": 0}, "tasks": {"nodes": []}}
    await wire.statements()
    await added(alice, "one more")
    assert len(await wire.statements()) == len(CREATION)


async def test_tasks_are_filtered_by_list(alice: User) -> None:
    """The filter `list` selects lists or the inbox, also in the trash and for bulk writes."""
    one, other = (await created(alice, "One"))["id"], (await created(alice, "Other"))["id"]
    for title, list_id in (("a", one), ("b", other), ("c", None), ("d", one)):
        await added(alice, title, list_id)
    query = """
        query ($f: TaskFilter, $o: TaskOrderField!) {
            tasks(filter: $f, orderBy: { field: $o }) { totalCount nodes { title } }
        }
    """
    cases: list[tuple[Json, str]] = [
        ({"list": {"ids": [one]}}, "ad"),
        ({"list": {"ids": [one, other]}}, "abd"),
        ({"list": {"ids": []}}, ""),
        ({"list": {"isNull": True}}, "c"),
        ({"list": {"isNull": False}}, "abd"),
        ({"list": {"ids": [one], "isNull": True}}, ""),
        ({"not": {"list": {"ids": [one]}}}, "bc"),
        ({"or": [{"list": {"isNull": True}}, {"list": {"ids": [other]}}]}, "bc"),
        ({"list": {"ids": [one]}, "search": "a"}, "a"),
        ({"list": {}}, "abcd"),
    ]
    for wanted, expected in cases:
        for order in ("POSITION", "TITLE", "CREATED_AT", "DUE_DATE", "PRIORITY"):
            page = (await alice.data(query, f=wanted, o=order))["tasks"]
            assert (page["totalCount"], sorted(titles(page))) == (len(expected), list(expected)), (wanted, order)
    await done(alice, DELETE, id=one)
    page = (await alice.data(query, f={"trashed": True, "list": {"ids": [one]}}, o="POSITION"))["tasks"]
    assert titles(page) == ["a", "d"]


# Costs, quotas and the database


async def test_what_lists_cost(alice: User) -> None:
    """The first screen is cheap; a count below each task of a page is not."""

    async def cost(query: str, **variables: Any) -> int:
        answer = (await alice.post(query, variables, extensions={"cost": True})).json()
        assert "errors" not in answer, answer
        found: int = answer["extensions"]["cost"]["rows"]
        return found

    assert await cost("{ lists(first: 50) { nodes { name taskStats { open } } } }") == 150
    assert await cost("query ($n: Int) { lists(first: 10) { nodes { tasks(first: $n) { nodes { id } } } } }", n=3) == 40
    assert await cost("{ lists(first: 10) { nodes { tasks(first: 3) { totalCount nodes { id } } } } }") == 140
    repeated = "{ tasks(first: 5) { nodes { list { taskStats { open } } } } }"
    assert await cost(repeated) == 5 * (1 + 1 + 100)
    assert await cost("{ tasks(first: 50) { nodes { list { id } } } }") == 50
    assert await cost("{ tasks(first: 50) { nodes { list { name } } } }") == 100
    for mutation in ("deleteList", "restoreList"):
        query = f"mutation ($id: ID!) {{ {mutation}(id: $id) {{ list {{ id }} }} }}"
        assert await cost(query, id=str(uuid4())) == 101


async def test_the_quota_of_lists(settings: Settings, new_user: Callable[..., Awaitable[User]]) -> None:
    """A user can own LIMIT_LISTS lists, including the trash; repeated creates still succeed."""
    async with running(settings.model_copy(update={"limit_lists": 2})) as application:
        user = await new_user(application.http)
        first = await created(user, "First", id=str(uuid4()))
        await done(user, DELETE, id=(await created(user, "Second"))["id"])
        payload = await done(user, CREATE, input={"name": "Third"})
        assert codes(payload) == [("LIMIT_EXCEEDED", ["input"])]
        assert "own 2 lists" in payload["userErrors"][0]["message"]
        assert await created(user, "First", id=first["id"]) == first
        assert await added(user, "Tasks have their own quota", first["id"])


async def test_the_database_keeps_the_rules(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Writes by SQL cannot break what lists promise: triggers and constraints apply to them, too."""
    home, foreign = (await created(alice, "Home"))["id"], (await created(bob, "Bob's"))["id"]
    insert = "INSERT INTO tasks (user_id, id, title, list_id) VALUES ($1, $2, 'by SQL', $3)"
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await owner.execute(insert, alice.id, uuid4(), UUID(foreign))
    with pytest.raises(asyncpg.UniqueViolationError):
        await owner.execute(insert, alice.id, UUID(home), None)
    task = uuid4()
    await owner.execute(insert, alice.id, task, UUID(home))
    with pytest.raises(asyncpg.UniqueViolationError):
        await owner.execute("INSERT INTO task_lists (user_id, id, name) VALUES ($1, $2, 'x')", alice.id, task)
    for wrong in ("", "a\nb"):
        with pytest.raises(asyncpg.CheckViolationError):
            await owner.execute("UPDATE task_lists SET name = $2 WHERE user_id = $1", alice.id, wrong)

    await owner.execute("UPDATE task_lists SET deleted_at = now() WHERE user_id = $1", alice.id)
    assert await where(alice) == ({}, {"by SQL": home})
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute(insert, alice.id, uuid4(), UUID(home))
    await owner.execute("UPDATE task_lists SET deleted_at = NULL WHERE user_id = $1", alice.id)
    assert await where(alice) == ({"by SQL": home}, {})
    await owner.execute("UPDATE task_lists SET deleted_at = now() WHERE user_id = $1", alice.id)
    await owner.execute("UPDATE tasks SET deleted_at = NULL WHERE user_id = $1", alice.id)
    assert await where(alice) == ({"by SQL": None}, {})
    assert await names(bob) == ["Bob's"]


async def test_a_list_that_is_deleted_permanently(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """Its tasks stay, with no list and one new version; counters and clock follow."""
    home = (await created(alice, "Home"))["id"]
    for title in "ab":
        await added(alice, title, home)
    await done(alice, DELETE_TASK, id=await added(alice, "gone", home))
    clock = "SELECT version, purged_through, tasks, lists FROM task_clocks WHERE user_id = $1"
    before = await owner.fetchrow(clock, alice.id)
    await owner.execute("DELETE FROM task_lists WHERE user_id = $1", alice.id)

    assert await where(alice) == ({"a": None, "b": None}, {"gone": None})
    after = await owner.fetchrow(clock, alice.id)
    assert before
    assert after
    assert (after["tasks"], after["lists"]) == (3, 0)
    assert after["version"] > before["version"]
    assert after["purged_through"] == 0
    assert await owner.fetchval("SELECT version FROM tombstones WHERE user_id = $1", alice.id) == after["version"]


async def test_an_account_is_deleted_with_its_lists(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Deleting a user deletes lists and tasks, in whichever order the foreign keys fire."""
    await added(bob, "kept", (await created(bob))["id"])
    await added(alice, "a", (await created(alice))["id"])
    # As after a restore of a dump, which adds constraints in the order of their tables' names.
    name = "fk_tasks_user_id_users"
    async with owner.transaction():
        await owner.execute(f"ALTER TABLE tasks DROP CONSTRAINT {name}")
        await owner.execute(
            f"ALTER TABLE tasks ADD CONSTRAINT {name} FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE"
        )
    await owner.execute("DELETE FROM users WHERE id = $1", alice.id)
    for table in ("tasks", "task_lists", "task_clocks", "tombstones"):
        assert await owner.fetchval(f"SELECT count(*) FROM {table} WHERE user_id = $1", alice.id) == 0  # noqa: S608 - constants
    assert len((await where(bob))[0]) == 1


async def test_what_a_subscription_cannot_show(alice: User) -> None:
    """What changes do not contain is refused before the subscription begins."""
    query = """subscription {
        changes { changes { ... on TaskUpserted { task { list { tasks(first: 1) { nodes { id } } } } } } }
    }"""
    headers = {"Authorization": f"Bearer {alice.token}", "Accept": "text/event-stream"}
    response = await alice.http.post("/graphql", json={"query": query}, headers=headers)
    assert "BAD_USER_INPUT" in response.text
    assert "`tasks` is not available in a subscription" in response.text


async def test_changes_of_tasks_show_their_list(alice: User, application: Application) -> None:
    """The list of a changed task is part of the feed, for queries and for subscribers."""
    home = await created(alice, "Home", icon="🏠")
    await added(alice, "a", home["id"])
    query = """{ changes(first: 5) { changes { ... on TaskUpserted { task {
        title list { name taskStats { open } tasks(first: 1) { nodes { title } } }
    } } } } }"""
    change = (await alice.data(query))["changes"]["changes"][-1]
    shown = {"name": "Home", "taskStats": {"open": 1}, "tasks": {"nodes": [{"title": "a"}]}}
    assert change["task"] == {"title": "a", "list": shown}
    page = await Feed(FEED, application.database, alice.id, Statements()).since("")
    assert page.items[-1]["task"]["list"] == {"__typename": "TaskList", **home}
