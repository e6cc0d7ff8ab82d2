"""Changes since a token: every kind of write, any page size, and any write between two pages."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import hypothesis
import hypothesis.strategies as st
import pytest
from conftest import SECRET, Application, Server, User, Wire, connect
from mirror import CHANGES, Json, Mirror

from app.entities.cursors import sync_token
from app.identity.tokens import Signer
from app.tasks.purge import purge

CREATE_MANY = """
    mutation ($inputs: [CreateTaskInput!]!) { createTasks(inputs: $inputs) { tasks { id } userErrors { code } token } }
"""
UPDATE = """
    mutation ($id: ID!, $input: UpdateTaskInput!) {
        updateTask(id: $id, input: $input) { userErrors { code } token }
    }
"""
COMPLETE = "mutation ($id: ID!) { setTaskCompleted(id: $id, completed: true) { userErrors { code } } }"
MOVE = "mutation ($id: ID!, $to: MoveTarget!) { moveTask(id: $id, to: $to) { userErrors { code } } }"
DELETE = "mutation ($id: ID!) { deleteTask(id: $id) { userErrors { code } token } }"
RESTORE = "mutation ($id: ID!) { restoreTask(id: $id) { userErrors { code } } }"
PURGE_MANY = "mutation ($where: TaskSelector!) { purgeTasks(where: $where) { userErrors { code } } }"
PURGE_LISTS = "mutation ($where: TaskListSelector!) { purgeLists(where: $where) { userErrors { code } } }"
EMPTY_TRASH = "mutation { emptyTrash { userErrors { code } } }"
UPDATE_MANY = """
    mutation ($where: TaskSelector!, $input: UpdateTaskInput!) {
        updateTasks(where: $where, input: $input, atMost: 1000) { affectedCount userErrors { code } }
    }
"""
DELETE_MANY = "mutation ($where: TaskSelector!) { deleteTasks(where: $where, atMost: 1000) { userErrors { code } } }"
RESTORE_MANY = "mutation ($where: TaskSelector!) { restoreTasks(where: $where, atMost: 1000) { userErrors { code } } }"
CURSOR = "{ tasks(first: 1) { edges { cursor } } }"
CREATE_LIST = """
    mutation ($id: ID, $name: String!) {
        createList(input: { id: $id, name: $name }) { list { id } userErrors { code } }
    }
"""
UPDATE_LIST = """
    mutation ($id: ID!, $name: String!) { updateList(id: $id, input: { name: $name }) { userErrors { code } token } }
"""
MOVE_LIST = "mutation ($id: ID!, $to: MoveTarget!) { moveList(id: $id, to: $to) { userErrors { code } } }"
DELETE_LIST = "mutation ($id: ID!) { deleteList(id: $id) { userErrors { code } token } }"
RESTORE_LIST = "mutation ($id: ID!) { restoreList(id: $id) { userErrors { code } } }"


async def filled(user: User, count: int, **more: Any) -> list[str]:
    """Create this many tasks in one write; returns their ids."""
    inputs = [{"title": f"Task {n}", **more} for n in range(count)]
    return [task["id"] for task in (await user.data(CREATE_MANY, inputs=inputs))["createTasks"]["tasks"]]


async def listed(user: User, count: int = 0, name: str = "Home") -> tuple[str, list[str]]:
    """Create a list, and this many tasks in it; returns their ids."""
    list_id = (await user.data(CREATE_LIST, name=name))["createList"]["list"]["id"]
    return list_id, sorted(await filled(user, count, listId=list_id)) if count else []


async def done(user: User, query: str, **variables: Any) -> None:
    """Run a mutation that must have no user errors."""
    (payload,) = (await user.data(query, **variables)).values()
    assert payload["userErrors"] == []


def told(pages: list[Json]) -> list[tuple[str, str]]:
    """The kinds and ids of the changes, in order."""
    return [(change["__typename"], id_of(change)) for page in pages for change in page["changes"]]


def id_of(change: Json) -> str:
    one = "list" if change["__typename"].startswith("List") else "task"
    found: str = change[one]["id"] if one in change else change[f"{one}Id"]
    return found


def upserted(*ids: str, kind: str = "Task") -> list[tuple[str, str]]:
    return [(f"{kind}Upserted", row_id) for row_id in ids]


def removed(*ids: str, kind: str = "Task") -> list[tuple[str, str]]:
    return [(f"{kind}Removed", row_id) for row_id in ids]


def list_upserted(list_id: str) -> list[tuple[str, str]]:
    return upserted(list_id, kind="List")


def list_removed(list_id: str) -> list[tuple[str, str]]:
    return removed(list_id, kind="List")


CROWD = """
    UPDATE tasks SET position = CASE
        WHEN id = $2 THEN 'a' WHEN id = $3 THEN 'a' || repeat('0', 59) || '1' ELSE 'b'
    END WHERE user_id = $1
"""

# Each mutation on two listed tasks and one in the trash, and the expected changes.
Write = tuple[str, dict[str, Any], Callable[..., list[tuple[str, str]]]]
NEW = str(uuid4())
WRITES: dict[str, Callable[[str, str, str], Write]] = {
    "create": lambda _a, _b, _t: (
        "mutation ($input: CreateTaskInput!) { createTask(input: $input) { userErrors { code } } }",
        {"input": {"id": NEW, "title": "New"}},
        lambda: upserted(NEW),
    ),
    "create many": lambda _a, _b, _t: (
        CREATE_MANY,
        {"inputs": [{"id": NEW, "title": "New"}]},
        lambda: upserted(NEW),
    ),
    "update": lambda a, _b, _t: (UPDATE, {"id": a, "input": {"title": "Other"}}, lambda: upserted(a)),
    "update with nothing new": lambda a, _b, _t: (UPDATE, {"id": a, "input": {"title": "Task 0"}}, list),
    "complete": lambda a, _b, _t: (COMPLETE, {"id": a}, lambda: upserted(a)),
    "move": lambda a, _b, _t: (MOVE, {"id": a, "to": {"toEnd": True}}, lambda: upserted(a)),
    "delete": lambda a, _b, _t: (DELETE, {"id": a}, lambda: removed(a)),
    "delete again": lambda _a, _b, t: (DELETE, {"id": t}, list),
    "restore": lambda _a, _b, t: (RESTORE, {"id": t}, lambda: upserted(t)),
    "update many": lambda a, b, _t: (
        UPDATE_MANY,
        {"where": {"ids": [a, b]}, "input": {"title": "Both"}},
        lambda: upserted(*sorted([a, b])),
    ),
    "delete many": lambda a, b, t: (DELETE_MANY, {"where": {"ids": [a, b, t]}}, lambda: removed(*sorted([a, b]))),
    "restore many": lambda a, _b, t: (RESTORE_MANY, {"where": {"ids": [a, t]}}, lambda: upserted(t)),
}


@pytest.mark.parametrize("kind", WRITES)
async def test_each_kind_of_write(alice: User, owner: "asyncpg.Connection[Any]", kind: str) -> None:
    """A write's changes are reported once and nothing else; then the mirror is exact and no page is left."""
    a, b, trash = await filled(alice, 3)
    await done(alice, DELETE, id=trash)
    mirror = Mirror(alice)
    await mirror.catch_up()
    query, variables, expected = WRITES[kind](a, b, trash)

    await done(alice, query, **variables)
    pages = await mirror.catch_up()

    assert told(pages) == expected()
    assert pages[0]["fullSync"] is False
    assert await mirror.is_exact(owner)
    assert told(await mirror.catch_up()) == []


IN_TRASH = str(uuid4())
# The same for two lists, of which the second is in the trash with its task, and the two tasks of the first.
WRITES_OF_LISTS: dict[str, Callable[[str, str, list[str]], Write]] = {
    "create": lambda _a, _t, _tasks: (CREATE_LIST, {"id": NEW, "name": "New"}, lambda: list_upserted(NEW)),
    "update": lambda a, _t, _tasks: (UPDATE_LIST, {"id": a, "name": "Other"}, lambda: list_upserted(a)),
    "update with nothing new": lambda a, _t, _tasks: (UPDATE_LIST, {"id": a, "name": "Home"}, list),
    "move": lambda a, _t, _tasks: (MOVE_LIST, {"id": a, "to": {"toEnd": True}}, lambda: list_upserted(a)),
    "delete": lambda a, _t, tasks: (DELETE_LIST, {"id": a}, lambda: list_removed(a) + removed(*tasks)),
    "delete again": lambda _a, t, _tasks: (DELETE_LIST, {"id": t}, list),
    "restore": lambda _a, t, _tasks: (RESTORE_LIST, {"id": t}, lambda: list_upserted(t) + upserted(IN_TRASH)),
    "restore its task": lambda _a, _t, _tasks: (RESTORE, {"id": IN_TRASH}, lambda: upserted(IN_TRASH)),
    "put a task into a list": lambda a, _t, _tasks: (
        "mutation ($input: CreateTaskInput!) { createTask(input: $input) { userErrors { code } } }",
        {"input": {"id": NEW, "title": "New", "listId": a}},
        lambda: upserted(NEW),
    ),
    "take tasks out of a list": lambda _a, _t, tasks: (
        UPDATE_MANY,
        {"where": {"ids": tasks}, "input": {"listId": None}},
        lambda: upserted(*tasks),
    ),
}


@pytest.mark.parametrize("kind", WRITES_OF_LISTS)
async def test_each_kind_of_write_of_lists(alice: User, bob: User, owner: "asyncpg.Connection[Any]", kind: str) -> None:
    """A write's changes of lists and tasks are reported once, the list first, and only to its user."""
    a, tasks = await listed(alice, 2)
    trash, _ = await listed(alice)
    await listed(alice, 1, "Last")
    await alice.add("In the trash", id=IN_TRASH, listId=trash)
    await done(alice, DELETE_LIST, id=trash)
    mirror, other = Mirror(alice), Mirror(bob)
    await mirror.catch_up()
    await other.catch_up()
    query, variables, expected = WRITES_OF_LISTS[kind](a, trash, tasks)

    await done(alice, query, **variables)
    pages = await mirror.catch_up()

    assert told(pages) == expected()
    assert pages[0]["fullSync"] is False
    assert await mirror.is_exact(owner)
    assert told(await mirror.catch_up()) == told(await other.catch_up()) == []


async def test_reassigned_positions_are_reported(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """A move into an exhausted gap reassigns all positions, so every task is reported as changed."""
    ids = await filled(alice, 5)
    await owner.execute(CROWD, alice.id, UUID(ids[0]), UUID(ids[1]))
    mirror = Mirror(alice)
    await mirror.catch_up()

    await done(alice, MOVE, id=ids[2], to={"before": ids[1]})

    assert sorted(told(await mirror.catch_up(2))) == sorted(upserted(*ids))
    assert await mirror.is_exact(owner)


async def test_a_task_comes_once_in_its_latest_state(alice: User) -> None:
    """A task written several times is reported once; tasks come in the order of their last writes."""
    first, second, third = [(await alice.add(name))["id"] for name in ("One", "Two", "Three")]
    mirror = Mirror(alice)
    await mirror.catch_up()
    for title in ("a", "b", "c"):
        await done(alice, UPDATE, id=first, input={"title": title})
        await done(alice, UPDATE, id=third, input={"title": title})
    await done(alice, DELETE, id=second)
    await done(alice, UPDATE, id=first, input={"title": "d"})

    (page,) = await mirror.catch_up()

    assert told([page]) == upserted(third) + removed(second) + upserted(first)
    assert [change["task"]["title"] for change in page["changes"] if "task" in change] == ["c", "d"]


@pytest.mark.parametrize("size", [1, 7, 10, 29, 30, 31])
async def test_pages_within_one_write(alice: User, owner: "asyncpg.Connection[Any]", size: int) -> None:
    """30 tasks of one write come in pages of any size, each once."""
    mirror = Mirror(alice)
    ids = await filled(alice, 30)
    await mirror.catch_up()
    await done(alice, UPDATE_MANY, where={"ids": ids}, input={"priority": "HIGH"})

    pages = await mirror.catch_up(size)

    assert told(pages) == upserted(*sorted(ids))
    assert [len(page["changes"]) for page in pages[:-1]] == [size] * (len(pages) - 1)
    assert await mirror.is_exact(owner)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 12, 13])
@pytest.mark.parametrize("query", [DELETE_LIST, RESTORE_LIST])
async def test_pages_within_a_write_of_a_list(
    alice: User, owner: "asyncpg.Connection[Any]", size: int, query: str
) -> None:
    """A list and its 12 tasks come in one order, in pages of any size, each once, also from each change's token."""
    home, tasks = await listed(alice, 12)
    await listed(alice, 1, "Other")
    if query == RESTORE_LIST:
        await done(alice, DELETE_LIST, id=home)
    before = Mirror(alice)
    await before.catch_up()
    await done(alice, query, id=home)
    kind = "Upserted" if query == RESTORE_LIST else "Removed"
    expected = [(f"List{kind}", home), *((f"Task{kind}", task) for task in tasks)]

    mirror = Mirror(alice).copy_of(before)
    pages = await mirror.catch_up(size)

    assert told(pages) == expected
    assert [len(page["changes"]) for page in pages[:-1]] == [size] * (len(pages) - 1)
    assert await mirror.is_exact(owner)
    (page,) = await Mirror(alice).copy_of(before).catch_up()
    for place, change in enumerate(page["changes"], 1):
        since = (await alice.data(CHANGES, since=change["token"], first=size))["changes"]
        assert told([since]) == expected[place : place + size]
        assert since["fullSync"] is False


async def test_positions_of_lists_are_reported(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """A move into an exhausted gap reassigns the positions of all lists in one write, and no task is reported."""
    ids = [(await listed(alice, 1))[0] for _ in range(4)]
    await owner.execute(CROWD.replace("tasks", "task_lists"), alice.id, UUID(ids[0]), UUID(ids[1]))
    mirror = Mirror(alice)
    await mirror.catch_up()

    await done(alice, MOVE_LIST, id=ids[2], to={"before": ids[1]})

    assert sorted(told(await mirror.catch_up(3))) == sorted(upserted(*ids, kind="List"))
    assert await mirror.is_exact(owner)


async def test_a_task_may_come_before_its_list(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """A list that was written after its tasks comes after them; the copy is consistent when no page is left."""
    home, tasks = await listed(alice, 2)
    await done(alice, UPDATE_LIST, id=home, name="Changed afterwards")
    mirror = Mirror(alice)

    page = await mirror.pull(2)

    assert (told([page]), page["hasMore"]) == (upserted(*tasks), True)
    assert (mirror.lists, set(mirror.listed.values())) == ({}, {home})
    assert told(await mirror.catch_up(2)) == list_upserted(home)
    assert await mirror.is_exact(owner)


async def test_lists_and_tasks_come_in_the_order_of_their_writes(alice: User) -> None:
    """Lists and tasks of different writes alternate, in pages of any size."""
    expected = []
    for _ in range(4):
        home, tasks = await listed(alice, 2)
        expected += list_upserted(home) + upserted(*tasks)
    for size in range(1, 14):
        assert told(await Mirror(alice).catch_up(size)) == expected


async def test_the_default_page(alice: User) -> None:
    """Without `first`, and with null, a page has up to 100 changes."""
    await filled(alice, 100)
    await alice.add()
    for query in (
        "{ changes { changes { __typename } } }",
        "{ changes(first: null) { changes { __typename } } }",
    ):
        assert len((await alice.data(query))["changes"]["changes"]) == 100


async def test_what_changes_between_pages(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """In a full sync, a task written after it was shown is reported again, and a deleted one is removed."""
    told_before, deleted, *rest = [(await alice.add(f"Task {n}"))["id"] for n in range(6)]
    trash = rest.pop()
    await done(alice, DELETE, id=trash)
    mirror = Mirror(alice)
    first = await mirror.pull(3)
    await done(alice, UPDATE, id=told_before, input={"title": "Other"})
    await done(alice, DELETE, id=deleted)
    await done(alice, DELETE, id=rest[-1])

    pages = await mirror.catch_up(2)

    assert told([first]) == upserted(told_before, deleted, rest[0])
    assert told(pages) == upserted(rest[1], told_before) + removed(deleted, rest[-1])
    assert [page["fullSync"] for page in (first, *pages)] == [True, *[False] * len(pages)]
    assert await mirror.is_exact(owner)


async def test_any_change_token_continues_a_sync(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """The token of any change in a page continues the sync, and the mirror becomes exact."""
    await done(alice, DELETE_MANY, where={"ids": (await filled(alice, 4))[:2]})
    (home, _), (other, _) = await listed(alice, 2), await listed(alice, 2)
    before = Mirror(alice)
    await before.catch_up()
    await done(alice, UPDATE_MANY, where={"all": True}, input={"title": "Other"})
    await done(alice, DELETE_LIST, id=home)
    await done(alice, UPDATE_LIST, id=other, name="Other")
    await done(alice, RESTORE_MANY, where={"all": True})
    page = (await alice.data(CHANGES, since=before.token))["changes"]

    for place, change in enumerate(page["changes"], 1):
        mirror = Mirror(alice).copy_of(before)
        for one in page["changes"][:place]:
            mirror.change(one)
        assert mirror.token == change["token"]
        assert told(await mirror.catch_up()) == told([page])[place:]
        assert await mirror.is_exact(owner)


async def test_the_token_of_a_write(alice: User) -> None:
    """The token of a mutation's payload covers all writes up to and including that one."""
    task = await alice.add()
    payload = (await alice.data(UPDATE, id=task["id"], input={"title": "Other"}))["updateTask"]
    assert (await alice.data(CHANGES, since=payload["token"]))["changes"] == {
        "changes": [],
        "token": payload["token"],
        "hasMore": False,
        "fullSync": False,
    }

    other = await alice.add()

    assert told([(await alice.data(CHANGES, since=payload["token"]))["changes"]]) == upserted(other["id"])


async def test_a_user_without_tasks(alice: User) -> None:
    """For a user without tasks a full sync is empty, and its token works for later changes."""
    mirror = Mirror(alice)
    (page,) = await mirror.catch_up()
    assert (page["changes"], page["fullSync"]) == ([], True)

    task = await alice.add()

    assert told(await mirror.catch_up()) == upserted(task["id"])


# Ten thousand tasks

TEN_THOUSAND = """
    INSERT INTO tasks (user_id, id, title, position, version)
    SELECT $1, gen_random_uuid(), 'Task ' || n, 'a' || lpad(to_hex(n), 8, '0') || 'V', n
    FROM generate_series(1, 10000) AS n RETURNING id::text
"""
CLOCK = "INSERT INTO task_clocks (user_id, version) VALUES ($1, 10000)"


class Writer:
    """Another client of the user, which makes random writes."""

    def __init__(self, user: User, ids: list[str]) -> None:
        self.writes = 0
        self._user, self._ids = user, ids
        self._random = Random(7)  # noqa: S311 - a fixed seed, the same writes in every run

    async def until(self, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            await self._write()
            self.writes += 1

    async def _write(self) -> None:
        task_id, some = self._random.choice(self._ids), self._random.sample(self._ids, 20)
        title = {"title": f"Written {self.writes}"}
        writes: list[tuple[str, dict[str, Any]]] = [
            (UPDATE, {"id": task_id, "input": title}),
            (COMPLETE, {"id": task_id}),
            (MOVE, {"id": task_id, "to": {"toStart": True}}),
            (DELETE, {"id": task_id}),
            (RESTORE, {"id": task_id}),
            (CREATE_MANY, {"inputs": [title, title]}),
            (UPDATE_MANY, {"where": {"ids": some}, "input": title}),
            (DELETE_MANY, {"where": {"ids": some}}),
            (RESTORE_MANY, {"where": {"ids": some}}),
        ]
        query, variables = self._random.choice(writes)
        await self._user.data(query, **variables)


@pytest.mark.parametrize("size", [97, 600])
async def test_ten_thousand_changes_while_others_write(
    alice: User, bob: User, owner: "asyncpg.Connection[Any]", size: int
) -> None:
    """A mirror that syncs 10,000 tasks, and then 10,000 changes, while another client writes, becomes exact."""
    ids = [row[0] for row in await owner.fetch(TEN_THOUSAND, alice.id)]
    await owner.execute(CLOCK, alice.id)
    await owner.execute("ANALYZE tasks")
    await bob.add("Bob's")
    mirror = Mirror(alice)

    begun = await followed(alice, mirror, ids, size)
    for n in range(0, len(ids), 1000):
        await done(alice, UPDATE_MANY, where={"filter": {"ids": ids[n : n + 1000]}}, input={"priority": "LOW"})
    caught_up = await followed(alice, mirror, ids, size)

    assert begun > 0 < caught_up
    assert await mirror.is_exact(owner)
    assert len(mirror.tasks) > 5000


async def followed(user: User, mirror: Mirror, ids: list[str], size: int) -> int:
    """Sync a mirror while another client writes, and again afterwards; returns the number of writes."""
    stopped, writer = asyncio.Event(), Writer(user, ids)
    writing = asyncio.create_task(writer.until(stopped))
    pages = await mirror.catch_up(size)
    stopped.set()
    await writing
    assert len(pages) >= 9000 // size
    await mirror.catch_up(size)
    return writer.writes


# Purges


async def purged(application: Application, owner: "asyncpg.Connection[Any]", user: User) -> None:
    """Purge the trash of all users."""
    async for _ in purge(application.database, timedelta(0), timedelta(days=30)):
        pass
    assert not await owner.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1 AND deleted_at IS NOT NULL", user.id)


async def forgotten(application: Application, owner: "asyncpg.Connection[Any]", user: User) -> None:
    """Let the user's tombstones grow old, and purge them."""
    await owner.execute("UPDATE tombstones SET purged_at = '2000-01-01' WHERE user_id = $1", user.id)
    await purged(application, owner, user)


async def test_a_purge_is_reported(application: Application, alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """A purge is reported only to copies that may contain the task: those with the trash, and those not told before."""
    gone, stays = await filled(alice, 2)
    stale, told_in_time, with_trash = Mirror(alice), Mirror(alice), Mirror(alice, trash=True)
    for each in (stale, told_in_time, with_trash):
        await each.catch_up()
    await done(alice, DELETE, id=gone)
    for each in (told_in_time, with_trash):
        await each.catch_up()
    assert with_trash.tasks[gone]["deletedAt"]
    await purged(application, owner, alice)

    pages = [await each.catch_up() for each in (stale, told_in_time, with_trash)]

    assert [told(each) for each in pages] == [removed(gone), [], removed(gone)]
    assert [page["fullSync"] for each in pages for page in each] == [False] * 3
    assert list(stale.tasks) == list(told_in_time.tasks) == list(with_trash.tasks) == [stays]
    version = await owner.fetchval("SELECT version FROM task_clocks WHERE user_id = $1", alice.id)
    assert {page["changes"][0]["version"] for page in (*pages[0], *pages[2])} == {version}


async def test_forgotten_tombstones_require_a_full_sync(
    application: Application, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """Only a copy that may contain a row whose tombstone is gone needs a full sync."""
    gone, stays = await filled(alice, 2)
    stale, late, current = Mirror(alice), Mirror(alice, trash=True), Mirror(alice, trash=True)
    for each in (stale, late, current):
        await each.catch_up()
    await done(alice, DELETE, id=gone)
    await late.catch_up()
    await purged(application, owner, alice)
    await current.catch_up()
    await forgotten(application, owner, alice)

    pages = [await each.catch_up() for each in (stale, late, current)]

    assert [page["fullSync"] for each in pages for page in each] == [True, True, False]
    assert list(stale.tasks) == list(late.tasks) == list(current.tasks) == [stays]
    assert [page["fullSync"] for page in await stale.catch_up()] == [False]


async def test_a_first_sync_after_a_purge(
    application: Application, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """What was purged before a full sync began is not reported on any page, also once it is forgotten."""
    ids = await filled(alice, 6)
    await done(alice, DELETE_MANY, where={"ids": ids[:2]})
    await purged(application, owner, alice)
    for trash in (False, True):
        mirror = Mirror(alice, trash=trash)
        pages = [await mirror.pull(1)]
        if trash:
            await forgotten(application, owner, alice)
        pages += await mirror.catch_up(1)

        assert told(pages) == upserted(*sorted(ids[2:]))
        assert [page["fullSync"] for page in pages] == [True, False, False, False]


async def test_a_purge_between_pages(application: Application, alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """If a task that a full sync has shown is deleted and purged, it is removed; the others come once."""
    ids = sorted(await filled(alice, 4))
    mirror = Mirror(alice)
    await mirror.pull(2)
    await done(alice, DELETE, id=ids[0])
    await purged(application, owner, alice)

    pages = await mirror.catch_up(2)

    assert told(pages) == upserted(*ids[2:]) + removed(ids[0])
    assert [page["fullSync"] for page in pages] == [False, False]
    assert await mirror.is_exact(owner)


async def test_a_purge_of_tasks_after_a_page_break(
    application: Application, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """If tasks of a bulk delete are purged before the next page shows them, that page removes them."""
    ids = await filled(alice, 4)
    mirror = Mirror(alice)
    await mirror.catch_up()
    await done(alice, DELETE_MANY, where={"ids": ids})
    await mirror.pull(2)
    await purged(application, owner, alice)

    pages = await mirror.catch_up(3)

    assert told(pages) == removed(*sorted(ids))
    assert not any(page["fullSync"] for page in pages)
    assert await mirror.is_exact(owner)


async def test_a_purged_list_is_reported(
    application: Application, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """A purged list and its tasks are removed in pages of any size, also after a page with only the list."""
    home, tasks = await listed(alice, 4)
    await alice.add()
    mirrors = [Mirror(alice, trash=trash) for trash in (False, False, True, True)]
    for each in mirrors:
        await each.catch_up()
    await done(alice, DELETE_LIST, id=home)
    for each in mirrors[1::2]:
        assert len(told([await each.pull(1)])) == 1
    await purged(application, owner, alice)

    for size, each in enumerate(mirrors, 1):
        pages = await each.catch_up(size)
        assert sorted(told(pages)) == list_removed(home) + removed(*tasks), size
        assert not any(page["fullSync"] for page in pages)
        assert await each.is_exact(owner)


@pytest.mark.parametrize("trash", [False, True])
async def test_the_trash_is_shown_on_request(alice: User, owner: "asyncpg.Connection[Any]", *, trash: bool) -> None:
    """With `trash: true`, what is in the trash is shown like everything else; otherwise it is removed or not shown."""
    home, tasks = await listed(alice, 2)
    early, late = Mirror(alice, trash=trash), Mirror(alice, trash=trash)
    await early.catch_up()
    await done(alice, DELETE_LIST, id=home)
    kind = "Upserted" if trash else "Removed"
    expected = [(f"List{kind}", home), *((f"Task{kind}", task) for task in tasks)]

    assert told(await early.catch_up(1)) == expected
    assert told(await late.catch_up(1)) == (expected if trash else [])
    await done(alice, RESTORE, id=tasks[0])
    assert told(await early.catch_up()) == told(await late.catch_up()) == upserted(tasks[0])
    for each in (early, late):
        assert await each.is_exact(owner)


async def test_tokens_of_copies_with_and_without_the_trash(alice: User) -> None:
    """A token of a copy without the trash causes a full sync with it, and the other way round, on any page."""
    ids = sorted(await filled(alice, 3))
    await done(alice, DELETE, id=ids[1])
    for trash in (False, True):
        for size in (1, 3):
            page = (await alice.data(CHANGES, first=size, trash=trash))["changes"]
            other = (await alice.data(CHANGES, since=page["token"], trash=not trash))["changes"]
            assert (other["fullSync"], len(other["changes"])) == (True, 2 if trash else 3)
            same = (await alice.data(CHANGES, since=page["token"], trash=trash))["changes"]
            assert same["fullSync"] is False
            for change in page["changes"]:
                other = (await alice.data(CHANGES, since=change["token"], trash=not trash))["changes"]
                assert other["fullSync"] is True


async def test_lists_in_the_trash_before_a_first_sync_are_not_reported(
    application: Application, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """A first sync has no rows that were in the trash when it began, and a purge of these does not restart it."""
    (home, _), (stays, tasks) = await listed(alice, 2), await listed(alice, 2)
    await done(alice, DELETE_LIST, id=home)
    mirror = Mirror(alice)
    first = await mirror.pull(1)
    await purged(application, owner, alice)

    pages = [first, *await mirror.catch_up(1)]

    assert told(pages) == list_upserted(stays) + upserted(*tasks)
    assert [page["fullSync"] for page in pages] == [True, False, False]
    assert await mirror.is_exact(owner)


async def test_a_token_newer_than_the_database(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """A token newer than a restored database requires a full sync."""
    await alice.add("One")
    mirror = Mirror(alice)
    await mirror.catch_up()
    await alice.add("Two")
    await mirror.catch_up()
    await owner.execute("DELETE FROM tasks WHERE user_id = $1 AND version = 2", alice.id)
    await owner.execute("UPDATE task_clocks SET version = 1 WHERE user_id = $1", alice.id)

    assert [page["fullSync"] for page in await mirror.catch_up()] == [True]
    assert await mirror.is_exact(owner)


# Arguments


def sealed(user: User, content: bytes) -> str:
    """A token with a valid checksum and any content."""
    seal = hashlib.sha256(user.id.bytes + content).digest()[:6]
    return base64.urlsafe_b64encode(seal + content).decode().rstrip("=")


UNKNOWN = [
    b"",
    b"-1",
    b"x",
    b"2147483648",
    b"99999999999",
    b"1",
    b"1 2",
    b"1 all 1",
    b"1 trash",
    b"1 all  trash",
    b"1 all trash trash",
    b"2147483648 all",
    b"1 task not-a-uuid 1",
    f"1 {uuid4()} 1".encode(),
    f"1 task {uuid4()}".encode(),
    f"1 list {uuid4()} 2147483648".encode(),
    f"1 tag {uuid4()} 1".encode(),
    f"1 Task {uuid4()} 1".encode(),
    "\N{ARABIC-INDIC DIGIT ONE}".encode(),
    b"\xff",
    b'["+POSITION +ID", "a", "b"]',
]


TOKEN = "query ($since: SyncToken, $first: Int) { changes(since: $since, first: $first) { token } }"


async def refused(user: User, wire: Wire, name: str, **arguments: Any) -> None:
    """An invalid argument is rejected with its name, and no SQL is sent."""
    await wire.statements()
    answer = await user.ask(TOKEN, **arguments)
    assert [error["extensions"]["code"] for error in answer.get("errors", [])] == ["BAD_USER_INPUT"], answer
    assert name in answer["errors"][0]["message"]
    assert await wire.statements() == []


async def begins_anew(user: User, token: str, count: int) -> None:
    """Such a token causes a full sync with all of the user's tasks."""
    page = (await user.data(CHANGES, since=token))["changes"]
    assert (page["fullSync"], page["hasMore"], len(page["changes"])) == (True, False, count), token


async def test_invalid_tokens_cause_a_full_sync(alice: User, bob: User) -> None:
    """Another user's tokens, damaged tokens, cursors and garbage cause a full sync."""
    await filled(alice, 3)
    complete, between = [(await alice.data(CHANGES, first=size))["changes"]["token"] for size in (3, 1)]
    await begins_anew(bob, complete, 0)
    await begins_anew(bob, between, 0)
    for token in (complete, between):
        for place in range(len(token)):
            other = "A" if token[place] != "A" else "B"
            await begins_anew(alice, token[:place] + other + token[place + 1 :], 3)
        for wrong in (token[:-1], token + "A", token + "=", token + "\n", " " + token):
            await begins_anew(alice, wrong, 3)
    for wrong in ("", "garbage", "\0", "😀", "A" * 10_000):
        await begins_anew(alice, wrong, 3)
    cursor = (await alice.data(CURSOR))["tasks"]["edges"][0]["cursor"]
    await begins_anew(alice, cursor, 3)
    for content in UNKNOWN:
        await begins_anew(alice, sealed(alice, content), 3)


async def test_a_token_must_be_a_string(alice: User, wire: Wire) -> None:
    """A token must be a string."""
    wrong: Any
    for wrong in (5, True, ["x"], {"a": 1}):
        await refused(alice, wire, "since", since=wrong)


async def test_a_token_is_no_cursor(alice: User) -> None:
    """The token of a page of changes is rejected as a cursor."""
    await filled(alice, 2)
    for size in (1, 2):
        token = (await alice.data(CHANGES, first=size))["changes"]["token"]
        answer = await alice.ask("query ($after: String) { tasks(after: $after) { totalCount } }", after=token)
        assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


@pytest.mark.parametrize("size", [0, -1, 1001, 2**31 - 1])
async def test_sizes_out_of_range(alice: User, wire: Wire, size: int) -> None:
    """A page has 1 to 1,000 changes."""
    await refused(alice, wire, "first", first=size)


async def test_a_page_is_one_statement(alice: User, wire: Wire) -> None:
    """A page costs one statement, wherever it starts."""
    await filled(alice, 3)
    mirror = Mirror(alice)
    await wire.statements()
    for count in (1, 2, 3):
        await mirror.pull(1)
        assert len(await wire.statements()) == 1, count


# Selections

TASK = "task { id title }"
SELECTIONS = {
    "fragments": """{
        kind: __typename changes { ...Change } again: changes { __typename ... on TaskRemoved { gone: taskId } }
    }""",
    "nothing of the one": "{ changes { ... on TaskRemoved { taskId } } }",
    "merged": "{ changes { ... on TaskUpserted { task { id } } ... on TaskUpserted { task { title } } } }",
    "left out": """{
        changes { ... on TaskUpserted { task @skip(if: true) { id } __typename } ...Change @include(if: false) }
    }""",
    "tokens alone": "{ changes { ... on TaskUpserted { a: token b: token } } }",
    "no changes": "{ token hasMore fullSync }",
}
EXPECTED: dict[str, Any] = {
    "fragments": {
        "kind": "ChangePage",
        "changes": [
            {"__typename": "TaskUpserted", "task": {"id": "$0", "title": "Task 0"}},
            {"__typename": "TaskRemoved", "taskId": "$1"},
        ],
        "again": [{"__typename": "TaskUpserted"}, {"__typename": "TaskRemoved", "gone": "$1"}],
    },
    "nothing of the one": {"changes": [{}, {"taskId": "$1"}]},
    "merged": {"changes": [{"task": {"id": "$0", "title": "Task 0"}}, {}]},
    "left out": {"changes": [{"__typename": "TaskUpserted"}, {}]},
    "tokens alone": {"changes": [{"a": "$token", "b": "$token"}, {}]},
    "no changes": {"token": "$end", "hasMore": False, "fullSync": False},
}
FRAGMENT = f"""
    fragment Change on Change {{
        __typename ... on TaskUpserted {{ {TASK} }} ... on TaskRemoved {{ taskId }}
    }}
"""


@pytest.mark.parametrize("name", SELECTIONS)
async def test_selections(alice: User, name: str) -> None:
    """Exactly the selected fields are returned, whichever way the operation is executed."""
    begun = (await alice.data(CHANGES))["changes"]["token"]
    first, second = await filled(alice, 2)
    await done(alice, DELETE, id=second)
    text = json.dumps(EXPECTED[name]).replace("$0", first).replace("$1", second)
    point = f"1 task {first} 0".encode()
    text = text.replace("$token", sealed(alice, point)).replace("$end", sync_token(2, alice.id))
    fragment = FRAGMENT if "...Change" in SELECTIONS[name] else ""

    queries = [
        f"query ($since: SyncToken) {{ changes(since: $since) {SELECTIONS[name]} }} {fragment}",
        f"query ($since: SyncToken = null) {{ changes(since: $since) {SELECTIONS[name]} }} {fragment}",
        f'{{ changes(since: "{begun}") {SELECTIONS[name]} }} {fragment}',
        f'{{ ... on Query {{ changes(since: "{begun}") {SELECTIONS[name]} }} }} {fragment}',
    ]
    for query in queries:
        variables = {"since": begun} if "$since" in query else {}
        found = (await alice.data(query, **variables))["changes"]
        assert json.dumps(found) == text, query


async def test_conditions_of_variables(alice: User) -> None:
    """@skip and @include inside a change are evaluated for each request."""
    await alice.add()
    query = """
        query ($title: Boolean!) {
            changes { changes { ... on TaskUpserted { task { version title @include(if: $title) } } } }
        }
    """
    for title in (True, False, True):
        (change,) = (await alice.data(query, title=title))["changes"]["changes"]
        assert change["task"] == {"version": 1} | ({"title": "A task"} if title else {})


async def test_what_changes_cost(alice: User) -> None:
    """The cost is one row for each change requested, up to the largest page; two of these exhaust a request's limit."""
    page = "changes(first: {}) {{ changes {{ ... on TaskUpserted {{ task {{ id }} }} }} }}"
    large, small = page.format(1000), page.format(100)
    for query in (f"{{ a: {large} b: {large} }}", f"{{ a: {large} b: {small} c: {small} }}"):
        assert "errors" not in await alice.ask(query)

    answer = await alice.ask(f"{{ a: {large} b: {large} c: changes {{ token }} }}")

    assert [error["extensions"]["code"] for error in answer["errors"]] == ["LIMIT_EXCEEDED"]


# Random sequences of writes and reads

IDS = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(7)] + ["ffffffff-ffff-ffff-ffff-ffffffffffff"]
TASK_ID = st.sampled_from(IDS)
SOME = st.lists(TASK_ID, min_size=1, max_size=8, unique=True)
TITLE = st.sampled_from(["a", "b", "c"])
# Among them are the first and the last id, and ids between those of tasks.
LIST_IDS = [
    "00000000-0000-0000-0000-000000000000",
    *(f"00000000-0000-4000-8000-0000000000{n}0" for n in range(1, 3)),
    "ffffffff-ffff-ffff-ffff-fffffffffffe",
]
LIST_ID = st.sampled_from(LIST_IDS)
Step = tuple[str, Any, Any]
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("create"), SOME, TITLE),
    st.tuples(st.just("create"), SOME, TITLE),
    st.tuples(st.just("update"), TASK_ID, TITLE),
    st.tuples(st.just("update many"), SOME, TITLE),
    st.tuples(st.just("move"), TASK_ID, st.sampled_from(["toStart", "toEnd"])),
    st.tuples(st.just("delete many"), SOME, st.none()),
    st.tuples(st.just("delete many"), SOME, st.none()),
    st.tuples(st.just("restore many"), SOME, st.none()),
    st.tuples(st.just("create list"), LIST_ID, TITLE),
    st.tuples(st.just("create list"), LIST_ID, TITLE),
    st.tuples(st.just("update list"), LIST_ID, TITLE),
    st.tuples(st.just("move list"), LIST_ID, st.sampled_from(["toStart", "toEnd"])),
    st.tuples(st.just("put into a list"), SOME, LIST_ID),
    st.tuples(st.just("put into a list"), SOME, LIST_ID),
    st.tuples(st.just("put into a list"), SOME, st.none()),
    st.tuples(st.just("delete list"), LIST_ID, st.none()),
    st.tuples(st.just("restore list"), LIST_ID, st.none()),
    st.tuples(st.just("sql"), st.sampled_from([["purge tasks", "purge lists"], ["purge lists"]]), st.none()),
    st.tuples(st.just("sql"), st.sampled_from([["delete"], ["insert"], ["forget"]]), st.none()),
    st.tuples(st.just("purge many"), SOME, st.none()),
    st.tuples(st.just("purge list"), LIST_ID, st.none()),
    st.tuples(st.just("empty"), st.none(), st.none()),
    st.tuples(st.just("begin anew"), st.integers(0, 2), st.none()),
    *[st.tuples(st.just("pull"), st.integers(0, 2), st.integers(1, 5))] * 6,
)
STORY_WRITES: dict[str, tuple[str, Callable[[Any, Any], dict[str, Any]]]] = {
    "create": (CREATE_MANY, lambda ids, title: {"inputs": [{"id": one, "title": title} for one in ids]}),
    "update": (UPDATE, lambda one, title: {"id": one, "input": {"title": title}}),
    "move": (MOVE, lambda one, place: {"id": one, "to": {place: True}}),
    "update many": (UPDATE_MANY, lambda ids, title: {"where": {"ids": ids}, "input": {"title": title}}),
    "delete many": (DELETE_MANY, lambda ids, _: {"where": {"ids": ids}}),
    "restore many": (RESTORE_MANY, lambda ids, _: {"where": {"ids": ids}}),
    "create list": (CREATE_LIST, lambda one, name: {"id": one, "name": name}),
    "update list": (UPDATE_LIST, lambda one, name: {"id": one, "name": name}),
    "move list": (MOVE_LIST, lambda one, place: {"id": one, "to": {place: True}}),
    "put into a list": (UPDATE_MANY, lambda ids, one: {"where": {"ids": ids}, "input": {"listId": one}}),
    "delete list": (DELETE_LIST, lambda one, _: {"id": one}),
    "restore list": (RESTORE_LIST, lambda one, _: {"id": one}),
    "purge many": (PURGE_MANY, lambda ids, _: {"where": {"ids": ids}}),
    "purge list": (PURGE_LISTS, lambda one, _: {"where": {"ids": [one]}}),
    "empty": (EMPTY_TRASH, lambda _what, _how: {}),
}
# Two lists of four tasks each, so that many sequences change several rows in one write.
FILLED: list[Step] = [
    ("create", IDS, "a"),
    *[("create list", list_id, "a") for list_id in LIST_IDS[1:3]],
    *[("put into a list", IDS[4 * n : 4 * n + 4], LIST_IDS[1 + n]) for n in range(2)],
    *[("pull", mirror, 100) for mirror in range(3)],
]
# As app.tasks.purge does for one user, and what other programs do, with the triggers of the tables.
BY_SQL = {
    "purge tasks": "DELETE FROM tasks WHERE user_id = $1 AND deleted_at IS NOT NULL",
    "purge lists": "DELETE FROM task_lists WHERE user_id = $1 AND deleted_at IS NOT NULL",
    "delete": "DELETE FROM tasks WHERE user_id = $1 AND title = 'b'",
    "insert": f"""
        INSERT INTO tasks (user_id, id, title) SELECT $1, id::uuid, 'sql' FROM unnest(ARRAY{IDS[:3]}) AS id
        ON CONFLICT DO NOTHING
    """,  # noqa: S608 - constants of this module
    "forget": """
        WITH gone AS (DELETE FROM tombstones WHERE user_id = $1 RETURNING version)
        UPDATE task_clocks SET purged_through = greatest(purged_through, (SELECT max(version) FROM gone))
        WHERE user_id = $1
    """,
}


class Story:
    """A user who writes, and mirrors that sync independently, one of them with the trash."""

    def __init__(self, user: User, owner: "asyncpg.Connection[Any]") -> None:
        self.user, self.owner = user, owner
        self.mirrors = [Mirror(user), Mirror(user), Mirror(user, trash=True)]

    async def step(self, kind: str, what: Any, how: Any) -> None:
        if kind == "sql":
            for statement in what:
                await self.owner.execute(BY_SQL[statement], self.user.id)
        elif kind == "begin anew":
            self.mirrors[what] = Mirror(self.user, trash=self.mirrors[what].trash)
        elif kind == "pull":
            page = await self.mirrors[what].pull(how)
            assert page["hasMore"] or await self.mirrors[what].is_exact(self.owner)
        else:
            query, variables = STORY_WRITES[kind]
            await self.user.data(query, **variables(what, how))


@pytest.fixture(scope="module")
async def carol(server: Server, application: Application) -> AsyncIterator[Story]:
    connection = await connect(server.owner_url)
    email = f"{uuid4()}@example.com"
    user_id = await connection.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", email)
    token = Signer(SECRET).token(user_id, timedelta(hours=1))
    yield Story(User(user_id, email, token, application.http), connection)
    await connection.close()


@hypothesis.settings(max_examples=200, phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink])
@hypothesis.given(begun=st.sampled_from([[], FILLED]), steps=st.lists(STEPS, min_size=8, max_size=50))
async def test_mirrors_become_exact_after_any_sequence(carol: Story, begun: list[Step], steps: list[Step]) -> None:
    """After any writes, purges and pages of any size, a mirror without further pages is exact."""
    for table in ("tasks", "task_lists", "task_clocks", "tombstones"):
        await carol.owner.execute(f"DELETE FROM {table} WHERE user_id = $1", carol.user.id)  # noqa: S608 - test tables
    story = Story(carol.user, carol.owner)
    for step in begun + steps:
        await story.step(*step)
    for mirror in story.mirrors:
        await mirror.catch_up(2)
        assert await mirror.is_exact(story.owner)
