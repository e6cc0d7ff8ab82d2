"""Concurrent clients of two server processes: repeated writes, conflicts, and writes that are rolled back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from conftest import ALL_FIELDS, CREATE, ON_CLUSTER, SECRET, Server, User, connect, serving
from patience import PATIENCE_SECONDS

from app.settings import Settings

Everywhere = list[User]
Payload = dict[str, Any]

ONE = f"{{ task {{ {ALL_FIELDS} }} userErrors {{ code field }} token }}"
MANY = f"{{ tasks {{ {ALL_FIELDS} }} affectedCount userErrors {{ code field }} token }}"
UPDATE = f"""
    mutation ($id: ID!, $title: String, $version: Int) {{
        done: updateTask(id: $id, input: {{ title: $title }}, expectedVersion: $version) {ONE}
    }}
"""
TASK = f"query ($id: ID!) {{ task(id: $id) {{ {ALL_FIELDS} }} }}"
VERSIONS = "SELECT version FROM tasks WHERE user_id = $1 ORDER BY version"
CLOCK = "SELECT version FROM task_clocks WHERE user_id = $1"

NEW_ID = "11111111-1111-4111-8111-111111111111"
LIVE_ID = "22222222-2222-4222-8222-222222222222"
OTHER_ID = "33333333-3333-4333-8333-333333333333"
TRASHED_ID = "44444444-4444-4444-8444-444444444444"
LIVE, TRASHED = f'where: {{ ids: ["{LIVE_ID}", "{OTHER_ID}"] }}', f'where: {{ ids: ["{TRASHED_ID}"] }}'
REPEATED = {
    "createTask": f'createTask(input: {{ id: "{NEW_ID}", title: "New", tags: ["a"] }}) {ONE}',
    "updateTask": f'updateTask(id: "{LIVE_ID}", input: {{ title: "Changed", priority: HIGH, completed: true }}) {ONE}',
    "setTaskCompleted": f'setTaskCompleted(id: "{LIVE_ID}", completed: true) {ONE}',
    "deleteTask": f'deleteTask(id: "{LIVE_ID}") {ONE}',
    "restoreTask": f'restoreTask(id: "{TRASHED_ID}") {ONE}',
    "moveTask to the end": f'moveTask(id: "{LIVE_ID}", to: {{ toEnd: true }}) {ONE}',
    "moveTask to the start": f'moveTask(id: "{OTHER_ID}", to: {{ toStart: true }}) {ONE}',
    "moveTask before": f'moveTask(id: "{OTHER_ID}", to: {{ before: "{LIVE_ID}" }}) {ONE}',
    "moveTask after": f'moveTask(id: "{LIVE_ID}", to: {{ after: "{OTHER_ID}" }}) {ONE}',
    "createTasks": f'createTasks(inputs: [{{ id: "{NEW_ID}", title: "A" }}, {{ id: "{uuid4()}", title: "B" }}]) {MANY}',
    "updateTasks": f"updateTasks({LIVE}, input: {{ completed: true, dueDate: null }}) {MANY}",
    "deleteTasks": f"deleteTasks({LIVE}) {MANY}",
    "restoreTasks": f"restoreTasks({TRASHED}) {MANY}",
}
CONTENDED = {
    "updateTask": 'updateTask(id: "{0}", input: {{ title: "{1}" }}, expectedVersion: {2})',
    "setTaskCompleted": 'setTaskCompleted(id: "{0}", completed: true, expectedVersion: {2})',
    "deleteTask": 'deleteTask(id: "{0}", expectedVersion: {2})',
}


@pytest.fixture(scope="module")
async def clients(server: Server, settings: Settings) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client of each of two server processes on the same database."""
    del settings
    environment = {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url, "AUTH_SECRET": SECRET}
    with serving(**environment) as first, serving(**environment) as second:
        async with AsyncExitStack() as stack:
            made = [httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_SECONDS) for served in (first, second)]
            yield [await stack.enter_async_context(client) for client in made]


@pytest.fixture
async def new_pair(
    new_user: Callable[..., Awaitable[User]], clients: list[httpx.AsyncClient]
) -> Callable[[], Awaitable[Everywhere]]:
    """Create users, each as a client of both processes."""

    async def make() -> Everywhere:
        user = await new_user(clients[0])
        return [user, replace(user, http=clients[1])]

    return make


@pytest.fixture
async def pair(new_pair: Callable[[], Awaitable[Everywhere]]) -> Everywhere:
    return await new_pair()


async def done(user: User, query: str, **variables: Any) -> Payload:
    result: Payload = (await user.data(query, **variables))["done"]
    return result


async def at_once(writes: Sequence[Coroutine[Any, Any, Payload]]) -> list[Payload]:
    return await asyncio.gather(*writes)


async def test_two_processes(pair: Everywhere) -> None:
    """One process reads what the other has written."""
    task = await pair[0].add("Shared")

    assert (await pair[1].data(TASK, id=task["id"]))["task"] == task


@pytest.mark.parametrize("name", REPEATED)
async def test_a_write_repeated_at_once_is_one_write(
    pair: Everywhere, owner: "asyncpg.Connection[Any]", name: str
) -> None:
    """Three concurrent identical mutations advance the clock once, with equal responses."""
    for task_id in (LIVE_ID, TRASHED_ID, OTHER_ID):
        await pair[0].add("Old", id=task_id, dueDate="2026-12-24")
    await pair[0].data(f'mutation {{ deleteTask(id: "{TRASHED_ID}") {{ token }} }}')
    clock = await owner.fetchval(CLOCK, pair[0].id)
    query = f"mutation {{ done: {REPEATED[name]} }}"

    first, second, third = await at_once([done(pair[place % 2], query) for place in range(3)])

    assert first == second == third
    assert first["userErrors"] == []
    tasks = first.get("tasks") or [first["task"]]
    assert {task["version"] for task in tasks} == {clock + 1}
    assert await owner.fetchval(CLOCK, pair[0].id) == clock + 1
    assert await done(pair[1], query) == first
    for task in tasks:
        assert (await pair[1].data(TASK, id=task["id"]))["task"] == task


@pytest.mark.parametrize("name", CONTENDED)
async def test_one_of_two_writers_wins(pair: Everywhere, owner: "asyncpg.Connection[Any]", name: str) -> None:
    """Of two concurrent writes on one version, one succeeds and the other gets the current task."""
    for _ in range(8):
        task = await pair[0].add()
        fields = [CONTENDED[name].format(task["id"], title, task["version"]) for title in ("Left", "Right")]
        writes = [done(user, f"mutation {{ done: {field} {ONE} }}") for user, field in zip(pair, fields, strict=True)]

        won, lost = sorted(await at_once(writes), key=lambda payload: len(payload["userErrors"]))

        assert won["userErrors"] == []
        assert won["task"]["version"] == task["version"] + 1
        assert lost["userErrors"] == [{"code": "VERSION_CONFLICT", "field": ["expectedVersion"]}]
        assert (lost["task"], lost["token"]) == (won["task"], won["token"])
        assert await owner.fetchval(CLOCK, pair[0].id) == task["version"] + 1


async def test_no_update_is_lost(pair: Everywhere, owner: "asyncpg.Connection[Any]") -> None:
    """32 writers increment one title with expected versions and retries: the title is 32."""
    task = await pair[0].add("0")

    async def count(user: User) -> int:
        seen = (await user.data(TASK, id=task["id"]))["task"]
        for conflicts in range(200):
            title = str(int(seen["title"]) + 1)
            payload = await done(user, UPDATE, id=task["id"], title=title, version=seen["version"])
            seen = payload["task"]
            if payload["userErrors"] == []:
                assert seen["title"] == title
                return conflicts
        raise AssertionError("a writer never got its turn")

    conflicts = await asyncio.gather(*(count(pair[place % 2]) for place in range(32)))

    counted = (await pair[0].data(TASK, id=task["id"]))["task"]
    assert (counted["title"], counted["version"]) == ("32", task["version"] + 32)
    assert await owner.fetchval(CLOCK, pair[0].id) == counted["version"]
    assert sum(conflicts) > 0


async def test_versions_are_committed_in_their_order(
    pair: Everywhere, owner: "asyncpg.Connection[Any]", server: Server
) -> None:
    """Concurrent creates get the versions 1 to 200, and readers never see a gap."""
    seen: list[int] = []

    async def watch() -> None:
        watcher = await connect(server.owner_url)
        try:
            while not seen or seen[-1] < 200:
                versions = [row["version"] for row in await watcher.fetch(VERSIONS, pair[0].id)]
                assert versions == list(range(1, len(versions) + 1))
                seen.append(len(versions))
        finally:
            await watcher.close()

    watching = asyncio.create_task(watch())
    turns = asyncio.Semaphore(24)  # the two processes have 30 database connections

    async def create(place: int) -> Payload:
        async with turns:
            payload: Payload = (await pair[place % 2].data(CREATE, input={"title": str(place)}))["createTask"]
            return payload

    created = await at_once([create(place) for place in range(200)])
    await asyncio.wait_for(watching, PATIENCE_SECONDS)

    assert sorted(payload["task"]["version"] for payload in created) == list(range(1, 201))
    assert len({payload["token"] for payload in created}) == 200
    by_version = sorted(created, key=lambda payload: payload["task"]["version"])
    by_position = sorted(created, key=lambda payload: payload["task"]["position"].encode())
    assert by_version == by_position
    assert await owner.fetchval(CLOCK, pair[0].id) == 200
    assert seen == sorted(seen)
    assert len(set(seen)) > 10


async def test_two_users_at_once_do_not_disturb_each_other(
    new_pair: Callable[[], Awaitable[Everywhere]], owner: "asyncpg.Connection[Any]"
) -> None:
    """Two users concurrently create tasks with the same ids, each under their own clock."""
    people = {"Alice": await new_pair(), "Bob": await new_pair()}
    ids = [str(uuid4()) for _ in range(30)]

    async def create(name: str, place: int) -> Payload:
        user, task = people[name][place % 2], {"id": ids[place], "title": f"{name} {place}"}
        payload: Payload = (await user.data(CREATE, input=task))["createTask"]
        assert payload["userErrors"] == []
        return payload

    await at_once([create(name, place) for place in range(30) for name in people])

    for name, (user, _) in people.items():
        rows = await owner.fetch("SELECT id, title, version FROM tasks WHERE user_id = $1", user.id)
        assert {(str(row["id"]), row["title"]) for row in rows} == {
            (task_id, f"{name} {place}") for place, task_id in enumerate(ids)
        }
        assert sorted(row["version"] for row in rows) == list(range(1, 31))


async def test_a_users_write_waits_for_no_other_user(
    new_pair: Callable[[], Awaitable[Everywhere]], owner: "asyncpg.Connection[Any]"
) -> None:
    """While one user's clock is locked, that user's writes wait and another user's do not."""
    hers, his = await new_pair(), await new_pair()
    task = await hers[0].add()
    async with owner.transaction():
        await owner.execute("SELECT FROM task_clocks WHERE user_id = $1 FOR UPDATE", hers[0].id)
        waiting = asyncio.create_task(done(hers[1], UPDATE, id=task["id"], title="Waited"))
        made = [await his[place % 2].add() for place in range(4)]
        assert [other["version"] for other in made] == [1, 2, 3, 4]
        assert not waiting.done()

    assert (await waiting)["task"]["version"] == task["version"] + 1


# Writes that PostgreSQL rolls back


@asynccontextmanager
async def failing(owner: "asyncpg.Connection[Any]", user: User, state: str, times: int) -> AsyncIterator[None]:
    """Let the user's first writes of tasks fail with this SQLSTATE. The sequence is not rolled back."""
    await owner.execute(f"""
        CREATE SEQUENCE test_tries;
        CREATE FUNCTION test_fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
            IF nextval('public.test_tries') <= {times} THEN
                RAISE 'undone by the test' USING ERRCODE = '{state}';
            END IF;
            RETURN NEW;
        END
        $$;
        CREATE TRIGGER test_fail BEFORE INSERT OR UPDATE ON tasks
            FOR EACH ROW WHEN (NEW.user_id = '{user.id}') EXECUTE FUNCTION test_fail();
    """)
    try:
        yield
    finally:
        await owner.execute("DROP TRIGGER test_fail ON tasks; DROP FUNCTION test_fail(); DROP SEQUENCE test_tries")


async def tries(owner: "asyncpg.Connection[Any]") -> int:
    number: int = await owner.fetchval("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM test_tries")
    return number


@pytest.mark.parametrize("state", ["40001", "40P01"])
@pytest.mark.parametrize("place", [0, 1])
async def test_an_undone_write_is_run_again(
    pair: Everywhere, owner: "asyncpg.Connection[Any]", state: str, place: int
) -> None:
    """A write that is rolled back twice succeeds once at the third try, without an error."""
    task = await pair[0].add()
    async with failing(owner, pair[0], state, 2):
        payload = await done(pair[place], UPDATE, id=task["id"], title="Changed", version=task["version"])
        assert await tries(owner) == 3

    assert payload["userErrors"] == []
    assert payload["task"] == {
        **task,
        "title": "Changed",
        "version": task["version"] + 1,
        "updatedAt": payload["task"]["updatedAt"],
    }
    assert (await pair[1 - place].data(TASK, id=task["id"]))["task"] == payload["task"]
    assert await owner.fetchval(CLOCK, pair[0].id) == task["version"] + 1


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_write_that_keeps_being_undone_is_unavailable(
    pair: Everywhere, owner: "asyncpg.Connection[Any]", state: str
) -> None:
    """After three tries the response is UNAVAILABLE, nothing is written, and the server still works."""
    task = await pair[0].add()
    async with failing(owner, pair[0], state, 1000):
        response = await pair[0].post(UPDATE, {"id": task["id"], "title": "Changed"})
        assert await tries(owner) == 3

    assert response.status_code == 503
    assert response.json()["errors"][0]["extensions"]["code"] == "UNAVAILABLE"
    assert (await pair[1].data(TASK, id=task["id"]))["task"] == task
    assert await owner.fetchval(CLOCK, pair[0].id) == task["version"]
    assert (await done(pair[0], UPDATE, id=task["id"], title="Changed"))["task"]["version"] == task["version"] + 1


async def test_other_failures_are_not_tried_again(pair: Everywhere, owner: "asyncpg.Connection[Any]") -> None:
    """A write is not retried if it might have been committed."""
    task = await pair[0].add()
    async with failing(owner, pair[0], "57014", 1000):
        response = await pair[0].post(UPDATE, {"id": task["id"], "title": "Changed"})
        assert await tries(owner) == 1

    assert response.status_code == 503


async def test_a_real_deadlock_is_survived(pair: Everywhere, owner: "asyncpg.Connection[Any]", server: Server) -> None:
    """In a deadlock with another transaction, the server's write is rolled back and retried."""
    task = await pair[0].add()
    foreign = await connect(server.owner_url)
    try:
        await foreign.execute(
            "SET deadlock_timeout = '1min'"
        )  # the server's session detects the deadlock and is rolled back
        holding = foreign.transaction()
        await holding.start()
        await foreign.execute("SELECT FROM tasks WHERE user_id = $1 FOR UPDATE", pair[0].id)
        writing = asyncio.create_task(done(pair[0], UPDATE, id=task["id"], title="Changed"))
        await waited_for(owner, await foreign.fetchval("SELECT pg_backend_pid()"))
        assert not writing.done()
        # Granted only after the server's transaction, which holds the clock and waits for the task, has ended.
        await foreign.execute("SELECT FROM task_clocks WHERE user_id = $1 FOR UPDATE", pair[0].id)
        await holding.commit()
    finally:
        await foreign.close()

    payload = await writing

    assert payload["userErrors"] == []
    assert (payload["task"]["title"], payload["task"]["version"]) == ("Changed", task["version"] + 1)
    assert await owner.fetchval(CLOCK, pair[0].id) == task["version"] + 1


async def waited_for(owner: "asyncpg.Connection[Any]", holder: int) -> None:
    """Wait until a session waits for a lock that this backend holds."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))"
    if ON_CLUSTER:  # where the backends of workers wait, for one another
        waiting = "SELECT count(*) FROM citus_lock_waits WHERE $1 > 0"
    for _ in range(200):
        if await owner.fetchval(waiting, holder):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")
