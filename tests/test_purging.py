"""purgeTasks, purgeLists and emptyTrash delete what is in the trash permanently, and an id is not used again."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import WRITE, Application, User, Wire, running
from mirror import Mirror
from test_changes import DELETE, DELETE_LIST, DELETE_MANY, RESTORE, done, filled, forgotten, listed, purged

from app.settings import Settings

Json = dict[str, Any]

PAYLOAD = "affectedCount userErrors { code message field } token"
PURGE_TASKS = f"""
    mutation ($where: TaskSelector!, $atMost: Int, $dryRun: Boolean) {{
        purge: purgeTasks(where: $where, atMost: $atMost, dryRun: $dryRun) {{
            tasks {{ id title deletedAt version }} {PAYLOAD}
        }}
    }}
"""
PURGE_LISTS = f"""
    mutation ($where: TaskListSelector!, $atMost: Int, $dryRun: Boolean) {{
        purge: purgeLists(where: $where, atMost: $atMost, dryRun: $dryRun) {{ lists {{ id name }} {PAYLOAD} }}
    }}
"""
EMPTY = f"""
    mutation ($atMost: Int, $dryRun: Boolean) {{ purge: emptyTrash(atMost: $atMost, dryRun: $dryRun) {{ {PAYLOAD} }} }}
"""
CREATE = """
    mutation ($input: CreateTaskInput!) { createTask(input: $input) { task { id } userErrors { code field } token } }
"""
CREATE_MANY = """
    mutation ($inputs: [CreateTaskInput!]!) {
        createTasks(inputs: $inputs) { affectedCount userErrors { code field } token }
    }
"""
CREATE_LIST = """
    mutation ($input: CreateListInput!) { createList(input: $input) { list { id } userErrors { code field } } }
"""
ALL = """{
    trash: tasks(filter: { trashed: true }, first: 100) { nodes { id } } tasks(first: 100) { nodes { id } }
    trashedLists: lists(filter: { trashed: true }) { nodes { id } } lists { nodes { id } }
}"""


async def purge(user: User, query: str, **variables: Any) -> Json:
    payload: Json = (await user.data(query, **variables))["purge"]
    return payload


async def left(user: User) -> Json:
    """The ids of live tasks, tasks in the trash, lists and lists in the trash."""
    return {name: sorted(row["id"] for row in page["nodes"]) for name, page in (await user.data(ALL)).items()}


async def counted(owner: "asyncpg.Connection[Any]", user: User) -> tuple[int, ...]:
    """The clock's counters, which must be right, and the number of tombstones."""
    row = await owner.fetchrow(
        """SELECT clock.tasks, clock.lists, (SELECT count(*) FROM tasks WHERE user_id = $1) AS t,
           (SELECT count(*) FROM task_lists WHERE user_id = $1) AS l,
           (SELECT count(*) FROM tombstones WHERE user_id = $1) AS stones
           FROM task_clocks AS clock WHERE user_id = $1""",
        user.id,
    )
    assert row
    assert (row["tasks"], row["lists"]) == (row["t"], row["l"])
    return row["tasks"], row["lists"], row["stones"]


def problems(payload: Json) -> list[tuple[str, list[str] | None]]:
    return [(error["code"], error["field"]) for error in payload["userErrors"]]


@pytest.mark.parametrize("by", ["ids", "filter"])
async def test_only_the_trash_is_purged(
    alice: User, bob: User, owner: "asyncpg.Connection[Any]", wire: Wire, by: str
) -> None:
    """Tasks in the trash are purged in one write; live, unknown and other users' tasks stay, and ids name these."""
    a, b, live = await filled(alice, 3)
    (his,) = await filled(bob, 1)
    await done(alice, DELETE_MANY, where={"ids": [a, b]})
    await done(bob, DELETE, id=his)
    where = {"ids": [live, a, his, str(uuid4()), b]} if by == "ids" else {"filter": {"search": "task"}}
    await wire.statements()

    payload = await purge(alice, PURGE_TASKS, where=where)

    assert len(await wire.statements()) == len(WRITE)
    assert sorted(task["id"] for task in payload["tasks"]) == sorted([a, b])
    assert all(task["deletedAt"] for task in payload["tasks"])
    assert payload["affectedCount"] == 2
    missing = [("NOT_FOUND", ["where", "ids", str(place)]) for place in (0, 2, 3)]
    assert problems(payload) == (missing if by == "ids" else [])
    assert await left(alice) == {"trash": [], "tasks": [live], "lists": [], "trashedLists": []}
    assert (await left(bob))["trash"] == [his]
    assert await counted(owner, alice) == (1, 0, 2)
    again = await purge(alice, PURGE_TASKS, where={"ids": [a]})
    assert (again["affectedCount"], problems(again)) == (0, [("NOT_FOUND", ["where", "ids", "0"])])


async def test_lists_are_purged(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Lists in the trash are purged; their tasks stay in the trash, in no list, with the version of the purge."""
    (home, tasks), (live, _), (his, _) = await listed(alice, 2), await listed(alice, 1), await listed(bob)
    mirrors = [Mirror(alice), Mirror(alice, trash=True)]
    for user, one in ((alice, home), (bob, his)):
        await done(user, DELETE_LIST, id=one)
    for mirror in mirrors:
        await mirror.catch_up()

    payload = await purge(alice, PURGE_LISTS, where={"ids": [home, live, his]})

    assert [one["id"] for one in payload["lists"]] == [home]
    assert problems(payload) == [("NOT_FOUND", ["where", "ids", str(place)]) for place in (1, 2)]
    assert (await left(alice))["trash"] == tasks
    assert (await left(bob))["trashedLists"] == [his]
    assert await counted(owner, alice) == (3, 1, 1)
    versions = await owner.fetch(
        """SELECT version FROM tombstones WHERE user_id = $1 UNION SELECT version FROM task_clocks WHERE user_id = $1
           UNION SELECT version FROM tasks WHERE user_id = $1 AND deleted_at IS NOT NULL""",
        alice.id,
    )
    assert len(versions) == 1
    for mirror in mirrors:
        await mirror.catch_up(1)
        assert await mirror.is_exact(owner)
    by_filter = await purge(bob, PURGE_LISTS, where={"all": True})
    assert (by_filter["affectedCount"], await counted(owner, bob)) == (1, (0, 0, 1))


async def test_the_trash_is_emptied(alice: User, bob: User, owner: "asyncpg.Connection[Any]", wire: Wire) -> None:
    """Lists and tasks go in one statement, whichever way they came to the trash; nothing else goes."""
    (home, _), (stays, inside) = await listed(alice, 3), await listed(alice, 1)
    alone, live = await filled(alice, 2)
    mirrors = [Mirror(alice), Mirror(alice, trash=True)]
    for mirror in mirrors:
        await mirror.catch_up()
    await done(alice, DELETE_LIST, id=home)
    await done(alice, DELETE, id=alone)
    his = await bob.add()
    await done(bob, DELETE, id=his["id"])
    await wire.statements()

    payload = await purge(alice, EMPTY)

    assert len(await wire.statements()) == len(WRITE)
    assert (payload["affectedCount"], payload["userErrors"]) == (5, [])
    expected = {"trash": [], "tasks": sorted([live, *inside]), "lists": [stays], "trashedLists": []}
    assert await left(alice) == expected
    assert (await left(bob))["trash"] == [his["id"]]
    assert await counted(owner, alice) == (2, 1, 5)
    for mirror in mirrors:
        (page,) = await mirror.catch_up()
        assert len(page["changes"]) == 5
        assert page["token"] == (payload["token"] if not mirror.trash else page["token"])
        assert await mirror.is_exact(owner)
    assert (await purge(alice, EMPTY))["affectedCount"] == 0


@pytest.mark.parametrize("query", [PURGE_TASKS, PURGE_LISTS, EMPTY])
async def test_limits_and_dry_runs(alice: User, owner: "asyncpg.Connection[Any]", query: str) -> None:
    """A dry run and a purge of more than `atMost` change nothing, and leave the clock where it was."""
    tasks = await filled(alice, 2)
    lists = [(await listed(alice))[0] for _ in range(2)]
    await done(alice, DELETE_MANY, where={"ids": tasks})
    for one in lists:
        await done(alice, DELETE_LIST, id=one)
    where: Json = {} if query == EMPTY else {"where": {"all": True}}
    before = await left(alice)
    clock = await owner.fetchval("SELECT version FROM task_clocks WHERE user_id = $1", alice.id)

    dry = await purge(alice, query, dryRun=True, **where)
    refused = await purge(alice, query, atMost=1, **where)

    assert (dry["affectedCount"], dry["userErrors"]) == (4 if query == EMPTY else 2, [])
    assert (refused["affectedCount"], problems(refused)) == (0, [("LIMIT_EXCEEDED", ["atMost"])])
    assert "nothing was deleted" in refused["userErrors"][0]["message"]
    assert await left(alice) == before
    assert await owner.fetchval("SELECT version FROM task_clocks WHERE user_id = $1", alice.id) == clock
    for wrong in (0, -1, 1001):
        answer = await alice.ask(query, atMost=wrong, **where)
        assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    assert (await purge(alice, query, atMost=4, **where))["affectedCount"] == dry["affectedCount"]


async def test_the_payload_shows_what_was(alice: User) -> None:
    """A payload shows tasks and lists as they were, also what other rows contribute."""
    home, tasks = await listed(alice, 2)
    await done(alice, DELETE_MANY, where={"ids": tasks})
    of_tasks = "mutation { purgeTasks(where: { all: true }) { tasks { title list { name } } affectedCount } }"
    of_lists = """mutation {
        purgeLists(where: { all: true }) { lists { name tasks(first: 1) { totalCount } } affectedCount }
    }"""

    purged_tasks = (await alice.data(of_tasks))["purgeTasks"]
    await done(alice, DELETE_LIST, id=home)
    purged_lists = (await alice.data(of_lists))["purgeLists"]

    assert sorted(task["title"] for task in purged_tasks["tasks"]) == ["Task 0", "Task 1"]
    assert [task["list"] for task in purged_tasks["tasks"]] == [{"name": "Home"}] * 2
    assert purged_lists == {"lists": [{"name": "Home", "tasks": {"totalCount": 0}}], "affectedCount": 1}


@pytest.mark.parametrize("way", ["mutation", "command", "sql"])
async def test_an_id_is_not_used_again(
    application: Application, alice: User, bob: User, owner: "asyncpg.Connection[Any]", way: str
) -> None:
    """A create with the id of what was purged is GONE, alone and in bulk, as a task and as a list."""
    (task,), (home, _) = await filled(alice, 1), await listed(alice)
    await done(alice, DELETE, id=task)
    await done(alice, DELETE_LIST, id=home)
    if way == "mutation":
        await purge(alice, EMPTY)
    elif way == "command":
        await purged(application, owner, alice)
    else:
        for table in ("tasks", "task_lists"):
            await owner.execute(f"DELETE FROM {table} WHERE user_id = $1", alice.id)  # noqa: S608 - constants
    gone = [{"code": "GONE", "field": ["input", "id"]}]
    clock = await owner.fetchval("SELECT version FROM task_clocks WHERE user_id = $1", alice.id)

    for row_id in (task, home):
        for content in ({"title": "Task 0"}, {"title": "Other"}, {"title": "x", "listId": str(uuid4())}):
            made = (await alice.data(CREATE, input={"id": row_id, **content}))["createTask"]
            assert (made["task"], made["userErrors"]) == (None, gone)
        made = (await alice.data(CREATE_LIST, input={"id": row_id, "name": "Home"}))["createList"]
        assert (made["list"], made["userErrors"]) == (None, gone)
        inputs = [{"title": "New"}, {"id": row_id, "title": "Task 0"}, {"id": str(uuid4()), "title": "Newer"}]
        many = (await alice.data(CREATE_MANY, inputs=inputs))["createTasks"]
        assert (many["affectedCount"], problems(many)) == (0, [("GONE", ["inputs", "1", "id"])])
        assert (await alice.data(RESTORE, id=row_id))["restoreTask"]["userErrors"] == [{"code": "NOT_FOUND"}]
        assert (await bob.data(CREATE, input={"id": row_id, "title": "His"}))["createTask"]["userErrors"] == []
    assert await owner.fetchval("SELECT version FROM task_clocks WHERE user_id = $1", alice.id) == clock
    assert await counted(owner, alice) == (0, 0, 2)

    await forgotten(application, owner, alice)
    assert (await alice.data(CREATE, input={"id": task, "title": "Again"}))["createTask"]["userErrors"] == []
    assert await counted(owner, alice) == (1, 0, 0)


async def test_the_number_of_tombstones_is_limited(
    settings: Settings, new_user: Callable[..., Any], owner: "asyncpg.Connection[Any]"
) -> None:
    """A user cannot have more tombstones than tasks; the trash then stays, and other users can purge."""
    async with running(settings.model_copy(update={"limit_tasks": 5})) as application:
        alice, bob = [await new_user(application.http) for _ in range(2)]
        for _ in range(2):
            await done(alice, DELETE_MANY, where={"ids": await filled(alice, 3)})
            last = await purge(alice, EMPTY)
        await done(bob, DELETE_MANY, where={"ids": await filled(bob, 5)})
        assert (last["affectedCount"], problems(last)) == (0, [("LIMIT_EXCEEDED", None)])
        assert (await purge(bob, EMPTY))["affectedCount"] == 5
        assert await counted(owner, alice) == (3, 0, 3)
        (one, *_) = (await left(alice))["trash"]
        assert (await purge(alice, PURGE_TASKS, where={"ids": [one]}))["affectedCount"] == 1
        assert (await purge(alice, PURGE_TASKS, where={"ids": [one]}))["affectedCount"] == 0


async def test_a_task_that_comes_back_by_sql(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """A row with the id of a tombstone, inserted by another program, is a row like others, and can be purged again."""
    (task,) = await filled(alice, 1)
    mirrors = [Mirror(alice), Mirror(alice, trash=True)]
    for mirror in mirrors:
        await mirror.catch_up()
    for _ in range(2):
        await done(alice, DELETE, id=task)
        await purge(alice, EMPTY)
        await owner.execute("INSERT INTO tasks (user_id, id, title) VALUES ($1, $2, 'Back')", alice.id, UUID(task))
        same = (await alice.data(CREATE, input={"id": task, "title": "Back"}))["createTask"]
        assert (same["task"], same["userErrors"]) == ({"id": task}, [])
        for mirror in mirrors:
            await mirror.catch_up(1)
            assert await mirror.is_exact(owner)


async def test_concurrent_purges(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """Of several purges at a time, each task is purged by one, and what is restored meanwhile is not."""
    ids = await filled(alice, 20)
    await done(alice, DELETE_MANY, where={"ids": ids})
    asked = [purge(alice, PURGE_TASKS, where={"ids": ids[:15]}) for _ in range(3)]
    restored = [alice.data(RESTORE, id=one) for one in ids[10:]]

    results = await asyncio.gather(*asked, *restored)

    live = sum(not each["restoreTask"]["userErrors"] for each in results[3:])
    assert sum(each["affectedCount"] for each in results[:3]) == 20 - live
    assert len((await left(alice))["tasks"]) == live
    assert await counted(owner, alice) == (live, 0, 20 - live)


async def test_an_account_is_deleted_with_its_tombstones(
    alice: User, bob: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """A deleted user leaves no tombstones, neither old ones nor of what is deleted with the user."""
    for user in (alice, bob):
        await done(user, DELETE_MANY, where={"ids": await filled(user, 2)})
        await purge(user, EMPTY)
        await listed(user, 2)

    await owner.execute("DELETE FROM users WHERE id = $1", alice.id)

    assert await owner.fetchval("SELECT count(*) FROM tombstones WHERE user_id = $1", alice.id) == 0
    assert await counted(owner, bob) == (2, 1, 2)


async def test_a_nightly_purge_transfers_only_removals(
    application: Application, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """Of three synchronised devices only the one with the trash gets removals, and none starts again."""
    phone, laptop, tablet = Mirror(alice), Mirror(alice), Mirror(alice, trash=True)
    for _ in range(5):
        await filled(alice, 100, description="A task with some words to describe it.")
    home, _ = await listed(alice, 50)
    trash = [task["id"] for task in (await alice.data("{ tasks(first: 100) { nodes { id } } }"))["tasks"]["nodes"]]
    await done(alice, DELETE_LIST, id=home)
    await done(alice, DELETE_MANY, where={"ids": trash})
    size = dict[str, tuple[int, int]]()
    for name, device in (("phone", phone), ("laptop", laptop), ("tablet", tablet)):
        size[name] = (await transferred(device), 0)
    await purged(application, owner, alice)

    for name, device in (("phone", phone), ("laptop", laptop), ("tablet", tablet)):
        known = dict(device.tasks)
        size[name] = size[name][0], await transferred(device)
        assert await device.is_exact(owner)
        assert device.tasks.items() <= known.items(), "a task was sent again"
    print({name: f"first sync {first:,} bytes, after the purge {then:,}" for name, (first, then) in size.items()})  # noqa: T201 - read with pytest -s
    assert [then < 500 for _, then in size.values()] == [True, True, False]
    assert size["tablet"][1] < size["tablet"][0] / 3


async def transferred(device: Mirror) -> int:
    """Bring a device up to date; returns the bytes of all answers. After the first sync, it must not start again."""
    begins, total = device.token is None, 0
    pages = await device.catch_up()
    for page in pages:
        total += len(json.dumps(page, separators=(",", ":")))
    assert [page["fullSync"] for page in pages] == [begins] + [False] * (len(pages) - 1)
    if not begins:
        assert {change["__typename"] for page in pages for change in page["changes"]} <= {"TaskRemoved", "ListRemoved"}
    return total
