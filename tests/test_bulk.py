"""Bulk writes: atomicity, selection by ids or filter, limits, dry runs, replays and concurrency."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from conftest import ALL_FIELDS, CREATE, CREATIONS, NO_CREATIONS, WRITE, Server, User, Wire, made_settings, running

PAYLOAD = f"{{ tasks {{ {ALL_FIELDS} }} affectedCount userErrors {{ code message field }} token }}"
CREATE_MANY = f"mutation ($inputs: [CreateTaskInput!]!) {{ createTasks(inputs: $inputs) {PAYLOAD} }}"
UPDATE_MANY = f"""
    mutation ($where: TaskSelector!, $input: UpdateTaskInput!, $atMost: Int, $dryRun: Boolean) {{
        updateTasks(where: $where, input: $input, atMost: $atMost, dryRun: $dryRun) {PAYLOAD}
    }}
"""
DELETE_MANY = f"""
    mutation ($where: TaskSelector!, $atMost: Int, $dryRun: Boolean) {{
        deleteTasks(where: $where, atMost: $atMost, dryRun: $dryRun) {PAYLOAD}
    }}
"""
RESTORE_MANY = DELETE_MANY.replace("deleteTasks", "restoreTasks")
DOCUMENTS = {"updateTasks": UPDATE_MANY, "deleteTasks": DELETE_MANY, "restoreTasks": RESTORE_MANY}
KINDS = list(DOCUMENTS)
EVERYTHING = f"""{{
    live: tasks(orderBy: {{field: POSITION}}, first: 100) {{ nodes {{ {ALL_FIELDS} }} totalCount }}
    trash: tasks(filter: {{trashed: true}}, orderBy: {{field: POSITION}}, first: 100) {{
        nodes {{ {ALL_FIELDS} }} totalCount
    }}
}}"""
TOKEN = 'mutation { deleteTask(id: "00000000-0000-4000-8000-000000000000") { token } }'

FULL: dict[str, Any] = {
    "description": "With \"quotes\", a \\ and\na new line, {braces} & 'more'",
    "priority": "HIGH",
    "dueDate": "9999-12-31",
    "tags": ['"quoted"', "comma, comma", "back\\slash", "{brace}", "日本語 🎉", "NULL", "it's", "é"],
}
EMPTY: dict[str, Any] = {"description": None, "priority": "NONE", "dueDate": None, "tags": []}
CHANGE: dict[str, Any] = {"title": "Changed", "completed": True, "priority": "URGENT", "tags": ['new, "tag"']}

Task = dict[str, Any]


def inputs(count: int, **more: Any) -> list[Task]:
    """Inputs of new tasks with client-generated ids."""
    return [{"id": str(uuid4()), "title": f"Task {n}", **more} for n in range(count)]


async def create(user: User, new: list[Task]) -> dict[str, Any]:
    payload: dict[str, Any] = (await user.data(CREATE_MANY, inputs=new))["createTasks"]
    return payload


async def made(user: User, new: list[Task]) -> list[Task]:
    payload = await create(user, new)
    assert payload["userErrors"] == []
    tasks: list[Task] = payload["tasks"]
    return tasks


async def change(user: User, kind: str, where: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Run a bulk mutation; updateTasks applies CHANGE by default."""
    variables = {"where": where} | ({"input": CHANGE} if kind == "updateTasks" else {}) | more
    payload: dict[str, Any] = (await user.data(DOCUMENTS[kind], **variables))[kind]
    return payload


async def error_of(user: User, kind: str, **variables: Any) -> tuple[str, str]:
    """The code and message of the top-level error of a bulk mutation."""
    given = ({"input": CHANGE} if kind == "updateTasks" else {}) | variables
    error = (await user.ask(DOCUMENTS[kind], **given))["errors"][0]
    return error["extensions"]["code"], error["message"]


async def everything(user: User) -> dict[str, Any]:
    """All tasks of a user, including the trash, and the clock."""
    return await user.data(EVERYTHING) | (await user.data(TOKEN))


async def two_with(alice: User, bob: User, count: int, kind: str = "updateTasks", **more: Any) -> list[str]:
    """The ids of tasks that both users have; in the trash if the mutation restores."""
    new = inputs(count, **more)
    ids = [task["id"] for task in new]
    for user in (alice, bob):
        await made(user, new)
        if kind == "restoreTasks":
            await change(user, "deleteTasks", {"ids": ids})
    return ids


def done(kind: str, task: Task) -> bool:
    """Whether a task is in the state that a bulk mutation should leave."""
    if kind == "updateTasks":
        return {name: task[name] for name in CHANGE} == CHANGE and task["completedAt"] is not None
    return (task["deletedAt"] is not None) == (kind == "deleteTasks")


def problems(payload: dict[str, Any]) -> list[tuple[str, list[str] | None]]:
    return [(error["code"], error["field"]) for error in payload["userErrors"]]


def kinds(statements: list[str]) -> list[str]:
    return [sent.split()[0] for sent in statements]


def by_id(tasks: list[Task]) -> dict[str, Task]:
    return {task["id"]: task for task in tasks}


async def test_a_hundred_tasks_cost_one_statement(alice: User, bob: User, wire: Wire) -> None:
    """100 tasks are created by one statement, returned and positioned in input order."""
    new = inputs(100)
    await bob.add()
    await wire.statements()

    payload = await create(alice, new)

    assert kinds(await wire.statements()) == CREATIONS
    assert (payload["affectedCount"], payload["userErrors"]) == (100, [])
    assert [task["id"] for task in payload["tasks"]] == [task["id"] for task in new]
    assert {task["version"] for task in payload["tasks"]} == {1}
    assert (await alice.data(EVERYTHING))["live"] == {"nodes": payload["tasks"], "totalCount": 100}


async def test_a_fresh_connection_costs_no_more(server: Server, new_user: Callable[..., Awaitable[User]]) -> None:
    """The driver knows all types on the wire: the first bulk write on a connection sends no query for types."""
    new, sent = inputs(3), []
    selectors: list[dict[str, Any]] = [{"ids": [task["id"] for task in new]}]
    selectors += [{"filter": matching} for matching in ({"ids": [new[0]["id"]]}, {"priority": ["HIGH"]})]
    async with running(made_settings(server, db_pool_size=1)) as fresh:
        user = await new_user(fresh.http)
        await user.add()
        await fresh.wire.statements()
        await create(user, new)
        sent.append(kinds(await fresh.wire.statements()))
        for where in selectors:
            await change(user, "updateTasks", where, dryRun=True)
            sent.append(kinds(await fresh.wire.statements()))

    assert sent == [CREATIONS, *[WRITE] * 3]


async def test_created_tasks_read_back_as_given(alice: User) -> None:
    """Tasks read back as created, with any characters; null equals omitted."""
    full = {"title": 'All "of" it \\ 🎉', **FULL}
    nulls = dict.fromkeys(("id", "description", "priority", "dueDate", "tags"))
    longest = {"title": "🎉" * 200, "description": "ü" * 4000, "tags": [f"{n:02}" + "ß" * 48 for n in range(20)]}
    first_day = {"title": "Day one", "dueDate": "0001-01-01", "tags": [" b ", "a", "b"], "description": ""}

    tasks = await made(alice, [full, {"title": "Bare"}, {"title": "Null", **nulls}, longest, first_day])

    for task, given in zip(tasks, (full, EMPTY, EMPTY, longest, {**first_day, "tags": ["b", "a"]}), strict=True):
        assert {name: task[name] for name in given} == given
        assert (task["completed"], task["completedAt"], task["deletedAt"]) == (False, None, None)
        assert task["createdAt"] == task["updatedAt"]
    assert (await alice.data(EVERYTHING))["live"]["nodes"] == tasks


async def test_bulk_and_single_creates_replay_each_other(alice: User) -> None:
    """A task created in bulk can be replayed alone, and vice versa."""
    new = {"id": str(uuid4()), "title": "One", **FULL}
    (many,) = await made(alice, [new])
    alone = (await alice.data(CREATE, input=new))["createTask"]

    assert (alone["task"], alone["userErrors"]) == (many, [])
    other = {"id": str(uuid4()), "title": "Two", **FULL}
    single = await alice.add(**other)
    assert await made(alice, [other, new]) == [single, many]


async def test_new_tasks_are_appended(alice: User) -> None:
    """Tasks created singly and in bulk are listed in order of creation."""
    titles = [(await alice.add("First"))["title"]]
    titles += [task["title"] for task in await made(alice, inputs(3))]
    titles += [(await alice.add("Then"))["title"]]
    titles += [task["title"] for task in await made(alice, inputs(2))]

    assert [task["title"] for task in (await alice.data(EVERYTHING))["live"]["nodes"]] == titles


async def test_create_may_be_repeated(alice: User, bob: User, wire: Wire) -> None:
    """Replaying the same ids and content returns the same response and writes nothing; ids are unique per user only."""
    new = [*inputs(3, **FULL), *inputs(2)]
    first = await create(alice, new)
    await wire.statements()

    assert await create(alice, new) == first
    assert kinds(await wire.statements()) == NO_CREATIONS
    before = await everything(alice)
    bobs = await create(bob, [{**task, "title": "Bob's"} for task in new])
    assert (bobs["affectedCount"], bobs["userErrors"]) == (5, [])
    assert await everything(alice) == before


async def test_a_replay_with_new_ids_creates_those(alice: User) -> None:
    """If only some of the ids exist, the missing tasks are created; the response has all, in input order."""
    old, new = inputs(2), inputs(2)
    there = await made(alice, old)

    tasks = await made(alice, [new[0], old[1], new[1], old[0]])

    assert [task["id"] for task in tasks] == [new[0]["id"], old[1]["id"], new[1]["id"], old[0]["id"]]
    assert (tasks[1], tasks[3]) == (there[1], there[0])


@pytest.mark.parametrize(
    "other",
    [
        {"title": "Other"},
        {"title": "Task 1", "description": None},
        {"title": "Task 1", "priority": "LOW"},
        {"title": "Task 1", "dueDate": None},
        {"title": "Task 1", "tags": FULL["tags"][::-1]},
    ],
)
async def test_one_taken_id_rejects_all(alice: User, other: Task) -> None:
    """An id with different content is ID_TAKEN at its index, and nothing is written."""
    old = inputs(2, **FULL)
    await made(alice, old)
    before = await everything(alice)

    refused = await create(alice, [*inputs(2), old[0], {**old[1], **other}, *inputs(1)])

    assert problems(refused) == [("ID_TAKEN", ["inputs", "3", "id"])]
    assert (refused["tasks"], refused["affectedCount"]) == ([], 0)
    assert refused["token"] == before["deleteTask"]["token"]
    assert await everything(alice) == before


async def test_a_duplicate_id_is_taken(alice: User, wire: Wire) -> None:
    """A duplicate id among the inputs is ID_TAKEN, even with equal content; no SQL is sent."""
    new = inputs(4)
    again = {**new[1], "id": new[1]["id"].upper()}

    refused = await create(alice, [*new, again, {**new[3], "title": "Other"}])

    assert problems(refused) == [("ID_TAKEN", ["inputs", "4", "id"]), ("ID_TAKEN", ["inputs", "5", "id"])]
    assert await wire.statements() == []


async def test_the_users_id_cannot_be_a_task_id(alice: User) -> None:
    """The user's own id is rejected, so that node ids stay unique."""
    refused = await create(alice, [*inputs(1), {"id": str(alice.id), "title": "Me"}])

    assert [field for _, field in problems(refused)] == [["inputs", "1", "id"]]
    assert refused["tasks"] == []


@pytest.mark.parametrize("count", [0, 101])
async def test_create_takes_1_to_100(alice: User, wire: Wire, count: int) -> None:
    """An empty list and more than 100 inputs are a user error for `inputs`; no SQL is sent."""
    refused = await create(alice, inputs(count))

    assert problems(refused) == [("LIMIT_EXCEEDED", ["inputs"])]
    assert (refused["tasks"], refused["affectedCount"]) == ([], 0)
    assert str(count) in refused["userErrors"][0]["message"]
    assert await wire.statements() == []


async def test_problems_name_the_input(alice: User, wire: Wire) -> None:
    """Every invalid field of every task is reported with its index, and no SQL is sent."""
    new = inputs(6)
    new[3]["title"] = " "
    new[4] |= {"description": "x" * 4001, "tags": ["fine", "é" * 51, " "]}
    new[5]["tags"] = [str(n) for n in range(21)]

    refused = await create(alice, new)

    assert sorted(problems(refused), key=str) == sorted(
        [
            ("BLANK", ["inputs", "3", "title"]),
            ("TOO_LONG", ["inputs", "4", "description"]),
            ("TOO_LONG", ["inputs", "4", "tags", "1"]),
            ("BLANK", ["inputs", "4", "tags", "2"]),
            ("LIMIT_EXCEEDED", ["inputs", "5", "tags"]),
        ],
        key=str,
    )
    assert (refused["tasks"], refused["affectedCount"], refused["token"]) == ([], 0, None)
    assert await wire.statements() == []


@pytest.mark.parametrize(
    "bad",
    [
        {"id": "no-uuid"},
        {"id": ""},
        {"title": "a\u0000b"},
        {"tags": ["\u0000"]},
        {"description": "\u0000"},
        {"dueDate": "2026-02-30"},
        {"done": True},
    ],
)
async def test_malformed_inputs_are_rejected(alice: User, wire: Wire, bad: Task) -> None:
    """One malformed input is a top-level BAD_USER_INPUT, and no SQL is sent."""
    answer = await alice.ask(CREATE_MANY, inputs=[*inputs(2), {"title": "t", **bad}])

    assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT", answer
    assert await wire.statements() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_by_ids(alice: User, bob: User, wire: Wire, kind: str) -> None:
    """One statement changes the tasks with these ids and no others; a replay returns the same response."""
    chosen = (await two_with(alice, bob, 7, kind, **FULL))[:5]
    before, bobs = await everything(alice), await everything(bob)
    await wire.statements()

    payload = await change(alice, kind, {"ids": chosen})

    assert kinds(await wire.statements()) == WRITE
    assert (payload["affectedCount"], payload["userErrors"]) == (5, [])
    assert {task["id"] for task in payload["tasks"]} == set(chosen)
    assert all(done(kind, task) for task in payload["tasks"])
    assert await change(alice, kind, {"ids": chosen}) == payload
    assert kinds(await wire.statements()) == WRITE
    after = await everything(alice)
    old, now = (by_id(one["live"]["nodes"] + one["trash"]["nodes"]) for one in (before, after))
    assert now == old | by_id(payload["tasks"])
    touched = {"updateTasks": {*CHANGE, "completedAt"}}.get(kind, {"deletedAt"}) | {"version", "updatedAt"}
    for task in payload["tasks"]:
        assert {name for name in task if task[name] != old[task["id"]][name]} == touched
    assert after["deleteTask"]["token"] == payload["token"] != before["deleteTask"]["token"]
    assert await everything(bob) == bobs


@pytest.mark.parametrize("kind", KINDS)
async def test_by_filter(alice: User, bob: User, wire: Wire, kind: str) -> None:
    """One statement changes the tasks that match and no others."""
    ids = await two_with(alice, bob, 4, kind, tags=["chosen"])
    others = await two_with(alice, bob, 3, kind, tags=["other"])
    before, bobs = await everything(alice), await everything(bob)
    await wire.statements()

    payload = await change(alice, kind, {"filter": {"tagsAll": ["chosen"], "not": {"ids": [ids[0]]}}})

    assert kinds(await wire.statements()) == WRITE
    assert payload["affectedCount"] == 3
    assert {task["id"] for task in payload["tasks"]} == set(ids[1:])
    assert all(done(kind, task) for task in payload["tasks"])
    after = await everything(alice)
    old, now = (by_id(one["live"]["nodes"] + one["trash"]["nodes"]) for one in (before, after))
    assert [now[task] for task in (ids[0], *others)] == [old[task] for task in (ids[0], *others)]
    assert await everything(bob) == bobs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["ids", "filter"])
async def test_a_dry_run_changes_nothing(alice: User, bob: User, wire: Wire, kind: str, by: str) -> None:
    """A dry run returns the tasks that would be changed, as they are, and their number; versions and the clock stay."""
    ids = await two_with(alice, bob, 4, kind, tags=["chosen"])
    await two_with(alice, bob, 1, kind)
    where: dict[str, Any] = {"ids": ids} if by == "ids" else {"filter": {"tagsAny": ["chosen"]}}
    before, bobs = await everything(alice), await everything(bob)
    await wire.statements()

    payload = await change(alice, kind, where, dryRun=True)

    assert kinds(await wire.statements()) == WRITE
    assert (payload["affectedCount"], payload["userErrors"]) == (4, [])
    old = by_id(before["live"]["nodes"] + before["trash"]["nodes"])
    assert by_id(payload["tasks"]) == {task: old[task] for task in ids}
    assert payload["token"] == before["deleteTask"]["token"]
    assert await everything(alice) == before
    real = await change(alice, kind, where, dryRun=False)
    assert real["affectedCount"] == 4
    assert {task["id"] for task in real["tasks"]} == set(ids)
    assert await everything(bob) == bobs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["ids", "filter"])
@pytest.mark.parametrize("dry", [True, False])
async def test_more_than_at_most(alice: User, bob: User, kind: str, by: str, *, dry: bool) -> None:
    """One task more than atMost changes nothing and reports the number; exactly atMost tasks succeed."""
    ids = await two_with(alice, bob, 5, kind, tags=["chosen"])
    where: dict[str, Any] = {"ids": ids} if by == "ids" else {"filter": {"tagsAny": ["chosen"]}}
    before, bobs = await everything(alice), await everything(bob)

    refused = await change(alice, kind, where, atMost=4, dryRun=dry)

    assert problems(refused) == [("LIMIT_EXCEEDED", ["atMost"])]
    assert "5" in refused["userErrors"][0]["message"]
    assert (refused["tasks"], refused["affectedCount"]) == ([], 0)
    assert refused["token"] == before["deleteTask"]["token"]
    assert await everything(alice) == before
    assert (await change(alice, kind, where, atMost=5, dryRun=dry))["affectedCount"] == 5
    assert await everything(bob) == bobs


async def test_the_default_limit_is_100(alice: User) -> None:
    """Without atMost, or with null, the limit is 100 tasks; up to 1,000 can be requested."""
    for _ in range(2):
        await made(alice, inputs(100))
    await made(alice, inputs(1))

    for omitted in ({}, {"atMost": None}):
        refused = await change(alice, "deleteTasks", {"all": True}, **omitted)
        assert problems(refused) == [("LIMIT_EXCEEDED", ["atMost"])]
        assert "201" in refused["userErrors"][0]["message"]
    assert (await change(alice, "updateTasks", {"all": True}, atMost=1000))["affectedCount"] == 201
    assert (await change(alice, "deleteTasks", {"all": True}, atMost=201))["affectedCount"] == 201
    assert len((await change(alice, "restoreTasks", {"all": True}, atMost=201))["tasks"]) == 201


@pytest.mark.parametrize("kind", KINDS)
async def test_unknown_and_foreign_ids_are_not_found(alice: User, bob: User, kind: str) -> None:
    """Missing ids and another user's are NOT_FOUND at their indexes; the others are changed."""
    first, second = await two_with(alice, bob, 2, kind)
    (bobs_own,) = (task["id"] for task in await made(bob, inputs(1)))
    bobs = await everything(bob)
    where = {"ids": [str(uuid4()), first, bobs_own, second, str(uuid4())]}

    payload = await change(alice, kind, where)

    assert problems(payload) == [("NOT_FOUND", ["where", "ids", place]) for place in "024"]
    assert payload["affectedCount"] == 2
    assert {task["id"] for task in payload["tasks"]} == {first, second}
    assert all(done(kind, task) for task in payload["tasks"])
    assert await change(alice, kind, where) == payload
    nothing = await change(alice, kind, {"ids": [bobs_own]})
    assert (nothing["tasks"], nothing["affectedCount"]) == ([], 0)
    assert await everything(bob) == bobs


@pytest.mark.parametrize("kind", KINDS)
async def test_a_duplicate_id_is_one_task(alice: User, bob: User, kind: str) -> None:
    """A duplicate id counts and appears once, and an empty list changes nothing."""
    first, second = await two_with(alice, bob, 2, kind)

    payload = await change(alice, kind, {"ids": [first, second, first]}, atMost=2)

    assert (payload["affectedCount"], len(payload["tasks"]), payload["userErrors"]) == (2, 2, [])
    before = await everything(alice)
    nothing = await change(alice, kind, {"ids": []})
    assert (nothing["tasks"], nothing["affectedCount"], nothing["userErrors"]) == ([], 0, [])
    assert await everything(alice) == before


async def test_restore_undoes_a_bulk_delete(alice: User, bob: User) -> None:
    """Restoring brings tasks back in the same order; only version and updatedAt differ."""
    await two_with(alice, bob, 4, **FULL)
    ids = await two_with(alice, bob, 2)
    await change(alice, "updateTasks", {"ids": ids})
    before, bobs = await everything(alice), await everything(bob)

    deleted = await change(alice, "deleteTasks", {"all": True})
    assert (await alice.data(EVERYTHING))["live"]["totalCount"] == 0
    restored = await change(alice, "restoreTasks", {"ids": [task["id"] for task in deleted["tasks"]]})

    after = await everything(alice)
    for old, now in zip(before["live"]["nodes"], after["live"]["nodes"], strict=True):
        assert now["version"] > old["version"]
        assert now["updatedAt"] > old["updatedAt"]
        assert now == {**old, "version": now["version"], "updatedAt": now["updatedAt"]}
    assert by_id(restored["tasks"]) == by_id(after["live"]["nodes"])
    assert after["trash"]["nodes"] == []
    assert await everything(bob) == bobs


async def test_update_leaves_the_trash(alice: User) -> None:
    """Tasks in the trash are IN_TRASH by id and match no filter."""
    tasks = await made(alice, inputs(3))
    ids = [task["id"] for task in tasks]
    (trashed,) = (await change(alice, "deleteTasks", {"ids": ids[:1]}))["tasks"]

    payload = await change(alice, "updateTasks", {"ids": ids})
    assert problems(payload) == [("IN_TRASH", ["where", "ids", "0"])]
    assert payload["affectedCount"] == 2
    assert (await change(alice, "updateTasks", {"filter": {"ids": ids}}))["affectedCount"] == 2
    assert (await change(alice, "updateTasks", {"all": True}))["affectedCount"] == 2
    missing = str(uuid4())
    payload = await change(alice, "updateTasks", {"ids": [missing, *ids[:2], ids[0]]})
    places = [("NOT_FOUND", "0"), ("IN_TRASH", "1"), ("IN_TRASH", "3")]
    assert problems(payload) == [(code, ["where", "ids", place]) for code, place in places]
    code, _ = await error_of(alice, "updateTasks", where={"filter": {"trashed": True}})
    assert code == "BAD_USER_INPUT"
    assert (await alice.data(EVERYTHING))["trash"]["nodes"] == [trashed]


async def test_delete_refuses_the_trash_and_restore_looks_there(alice: User, wire: Wire) -> None:
    """For deleteTasks a filter with `trashed` is BAD_USER_INPUT; for restoreTasks it is implied."""
    ids = [task["id"] for task in await made(alice, inputs(4))]
    await change(alice, "deleteTasks", {"ids": ids[:3]})
    await wire.statements()
    assert (await error_of(alice, "deleteTasks", where={"filter": {"trashed": True}}))[0] == "BAD_USER_INPUT"
    assert await wire.statements() == []

    named: list[dict[str, Any]] = [{}, {"trashed": True}, {"trashed": False}]
    for trashed, task_id in zip(named, ids[:3], strict=True):
        payload = await change(alice, "restoreTasks", {"filter": {"ids": [task_id, ids[3]], **trashed}})
        assert [task["id"] for task in payload["tasks"]] == [task_id]
        assert payload["affectedCount"] == 1
    assert (await alice.data(EVERYTHING))["live"]["totalCount"] == 4


async def test_update_writes_only_what_differs(alice: User) -> None:
    """Tasks that already have the values keep their versions; all are returned and counted."""
    ids = [task["id"] for task in await made(alice, inputs(3))]
    (changed,) = (await change(alice, "updateTasks", {"ids": ids[:1]}))["tasks"]

    payload = await change(alice, "updateTasks", {"ids": ids})

    versions = {task["id"]: task["version"] for task in payload["tasks"]}
    assert versions == {ids[0]: changed["version"], ids[1]: 3, ids[2]: 3}
    assert by_id(payload["tasks"])[ids[0]] == changed
    before = await everything(alice)
    empty = await change(alice, "updateTasks", {"ids": ids}, input={})
    assert (empty["affectedCount"], by_id(empty["tasks"])) == (3, by_id(before["live"]["nodes"]))
    assert await everything(alice) == before


async def test_update_clears_what_is_null(alice: User) -> None:
    """Null clears every nullable field, and omitted fields stay."""
    ids = [task["id"] for task in await made(alice, inputs(2, **FULL))]

    payload = await change(
        alice, "updateTasks", {"ids": ids}, input=dict.fromkeys(("description", "priority", "dueDate", "tags"))
    )

    for task in payload["tasks"]:
        assert {name: task[name] for name in EMPTY} == EMPTY
        assert task["title"].startswith("Task ")


@pytest.mark.parametrize(
    ("changes", "code", "path"),
    [
        ({"title": ""}, "BLANK", ["title"]),
        ({"title": None}, "BLANK", ["title"]),
        ({"title": "x" * 201}, "TOO_LONG", ["title"]),
        ({"completed": None}, "INVALID", ["completed"]),
        ({"description": "x" * 4001}, "TOO_LONG", ["description"]),
        ({"tags": [str(n) for n in range(21)]}, "LIMIT_EXCEEDED", ["tags"]),
        ({"tags": ["a", " "]}, "BLANK", ["tags", "1"]),
    ],
)
async def test_bad_changes(alice: User, wire: Wire, changes: Task, code: str, path: list[str]) -> None:
    """An invalid field is a user error with its path, and no SQL is sent."""
    selectors: list[dict[str, Any]] = [{"ids": [str(uuid4())]}, {"all": True}]
    for where in selectors:
        payload = await change(alice, "updateTasks", where, input=changes)
        assert problems(payload) == [(code, ["input", *path])]
        assert (payload["tasks"], payload["affectedCount"], payload["token"]) == ([], 0, None)
    assert await wire.statements() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "variables",
    [
        {"where": {}},
        {"where": {"ids": [], "all": True}},
        {"where": {"ids": None}},
        {"where": {"filter": None}},
        {"where": {"ids": [str(uuid4())], "filter": None}},
        {"where": {"ids": [str(uuid4())], "filter": {"completed": True}}},
        {"where": None},
        {},
        {"where": {"ids": [str(uuid4()), "no-uuid"]}},
        {"where": {"ids": [""]}},
        {"where": {"ids": [None]}},
        {"where": {"filter": {"ids": ["no-uuid"]}}},
        {"where": {"filter": {"search": "\u0000"}}},
        {"where": {"filter": {"and": [{"trashed": True}]}}},
        {"where": {"ids": [str(uuid4())]}, "atMost": 0},
        {"where": {"ids": [str(uuid4())]}, "atMost": -1},
        {"where": {"all": True}, "atMost": 1001},
        {"where": {"all": True}, "dryRun": "yes"},
    ],
)
async def test_malformed_arguments_are_rejected(alice: User, wire: Wire, kind: str, variables: dict[str, Any]) -> None:
    """Zero or two selectors, invalid ids and invalid limits are a top-level BAD_USER_INPUT, and no SQL is sent."""
    assert (await error_of(alice, kind, **variables))[0] == "BAD_USER_INPUT"
    assert await wire.statements() == []


@pytest.mark.parametrize(
    "where",
    ["{}", "{ids: [], all: true}", "{ids: null}", "{filter: null}", "{ids: [], filter: null}"],
)
async def test_a_literal_without_one_selector_is_invalid(alice: User, wire: Wire, where: str) -> None:
    """Zero or two selectors written as literals make the document invalid; no SQL is sent."""
    error, *_ = (await alice.ask(f"mutation {{ some: deleteTasks(where: {where}) {{ affectedCount }} }}"))["errors"]
    assert error["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    assert await wire.statements() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_too_many_ids(alice: User, wire: Wire, kind: str) -> None:
    """More than 1,000 ids exceed the limit."""
    ids = [str(uuid4())] * 1001
    assert (await error_of(alice, kind, where={"ids": ids}))[0] == "LIMIT_EXCEEDED"
    assert await wire.statements() == []
    assert len((await change(alice, kind, {"ids": ids[:1000]}))["userErrors"]) == 1000


async def test_three_clients_create_the_same_at_once(alice: User, bob: User) -> None:
    """Three concurrent replays have one effect and equal responses."""
    new = inputs(20, **FULL)
    await made(bob, new)
    bobs = await everything(bob)

    first, second, third = await asyncio.gather(*(create(alice, new) for _ in range(3)))

    assert first == second == third
    assert (first["affectedCount"], first["userErrors"]) == (20, [])
    assert {task["version"] for task in first["tasks"]} == {1}
    after = await everything(alice)
    assert after["live"]["nodes"] == first["tasks"]
    assert after["deleteTask"]["token"] == first["token"]
    assert await everything(bob) == bobs


@pytest.mark.parametrize("kind", KINDS)
async def test_three_clients_change_the_same_at_once(alice: User, bob: User, kind: str) -> None:
    """Three concurrent replays by ids have one effect and equal responses."""
    ids = await two_with(alice, bob, 20, kind)
    bobs = await everything(bob)
    clock = max(task["version"] for task in (await change(alice, kind, {"ids": ids}, dryRun=True))["tasks"])

    first, second, third = await asyncio.gather(*(change(alice, kind, {"ids": ids}) for _ in range(3)))

    assert first == second == third
    assert (first["affectedCount"], first["userErrors"]) == (20, [])
    assert {task["version"] for task in first["tasks"]} == {clock + 1}
    assert all(done(kind, task) for task in first["tasks"])
    assert (await everything(alice))["deleteTask"]["token"] == first["token"]
    assert await everything(bob) == bobs


async def test_two_clients_create_other_content_at_once(alice: User) -> None:
    """Of two concurrent calls that share an id with different content, one succeeds and the other writes nothing."""
    shared = str(uuid4())
    calls = [[*inputs(3), {"id": shared, "title": title}] for title in ("One", "Two")]

    payloads = await asyncio.gather(*(create(alice, new) for new in calls))

    won, lost = sorted(payloads, key=lambda payload: len(payload["userErrors"]))
    assert problems(lost) == [("ID_TAKEN", ["inputs", "3", "id"])]
    assert lost["tasks"] == []
    assert (await alice.data(EVERYTHING))["live"]["nodes"] == won["tasks"]


async def test_the_answer_is_as_selected(alice: User) -> None:
    """Aliases, several lists, __typename and no list at all are returned as selected."""
    ids = [task["id"] for task in await made(alice, inputs(2))]
    document = """mutation ($ids: [ID!]!) {
        a: deleteTasks(where: {ids: $ids}) { __typename n: affectedCount x: tasks { id } y: tasks { t: title } }
        b: restoreTasks(where: {ids: $ids}) { userErrors { code } }
        c: updateTasks(where: {all: true}, input: {title: "New"}) { tasks { __typename title } tasks { version } }
    }"""

    data = await alice.data(document, ids=ids)

    assert data["a"]["__typename"] == "TasksPayload"
    assert data["a"]["n"] == 2
    assert {task["id"] for task in data["a"]["x"]} == set(ids)
    assert {task["t"] for task in data["a"]["y"]} == {"Task 0", "Task 1"}
    assert data["b"] == {"userErrors": []}
    assert data["c"] == {"tasks": [{"__typename": "Task", "title": "New", "version": 4}] * 2}


@pytest.mark.parametrize("where", ["{}", "{ filter: null, ids: [] }", "{ all: true, ids: [] }", "{ ids: null }"])
async def test_an_invalid_literal_selector_sends_no_sql(alice: User, wire: Wire, where: str) -> None:
    """An invalid literal selector is rejected without SQL."""
    error = (await alice.ask(f"mutation {{ deleteTasks(where: {where}) {{ affectedCount }} }}"))["errors"][0]

    assert error["extensions"]["code"] in {"BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED"}
    assert await wire.statements() == []
