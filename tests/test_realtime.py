"""Changes in real time: a subscription that continues after a page of changes or an earlier subscription."""

import asyncio
import gc
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import live
import pytest
from conftest import CREATE, SECRET, Application, Server, User, Wire, made_settings, serving
from live import served
from mirror import FOLLOW, Mirror, stored
from patience import PATIENCE_SECONDS
from prometheus_client import REGISTRY
from sqlalchemy import event
from test_changes import forgotten, purged
from test_faults import Postgres, environment
from test_sockets import PROTOCOLS, Client
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app.database.embedded import EmbeddedPostgres
from app.database.notices import LOCKS, SPACE
from app.database.rendering import Field, Selection
from app.database.url import DatabaseURL
from app.entities.feed import Feed
from app.entities.writing import Change, create_new
from app.identifiers import uuid7
from app.identity.tokens import Signer
from app.live import followers, listener
from app.main import create_app
from app.settings import Settings
from app.tasks.fields import TASK
from app.web import sockets
from migrations.run import migrate
from schema.engine import following as following_module

# A user's advisory lock, and how many sessions share it.
LOCK = f"SELECT abs(uuid_hash($1) % {LOCKS})"
HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND mode = 'ShareLock' AND granted"
PAYLOAD = Selection("TaskPayload", (Field("task", "task", Selection("Task", (Field("id", "id"),))),))
CREATE_MANY = "mutation ($inputs: [CreateTaskInput!]!) { createTasks(inputs: $inputs) { affectedCount } }"
# Events so large that the buffers between server and client hold few of them.
WIDE = f"""
    subscription ($since: SyncToken) {{
        changes(since: $since) {{
            token
            changes {{ ... on TaskUpserted {{ task {{ id {" ".join(f"d{n}: description" for n in range(18))} }} }} }}
        }}
    }}
"""
COMPLETE = "mutation ($id: ID!) { setTaskCompleted(id: $id, completed: true) { task { version } } }"
BRIEF_SINCE = """
    subscription ($since: SyncToken) {
        changes(since: $since) { changes { ... on TaskUpserted { task { id } } ... on TaskRemoved { taskId } } }
    }
"""
BRIEF = """
    subscription ($since: SyncToken) {
        changes(since: $since) { changes { ... on TaskUpserted { task { id title } } ... on TaskRemoved { taskId } } }
    }
"""


class Follower:
    """A user's socket with one subscription."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._received: deque[dict[str, Any]] = deque()

    async def page(self) -> dict[str, Any]:
        message = await self.client.receive()
        assert message["type"] == "next", message
        page: dict[str, Any] = message["payload"]["data"]["changes"]
        return page

    async def change(self) -> dict[str, Any]:
        """The next change of any page."""
        while not self._received:
            self._received += (await self.page())["changes"]
        return self._received.popleft()

    async def error(self) -> dict[str, Any]:
        message = await self.client.receive()
        assert message["type"] == "error", message
        error: dict[str, Any] = message["payload"][0]
        return error

    async def keep(self, mirror: Mirror, upto: int) -> None:
        """Apply changes until the mirror has this version."""
        while mirror.version < upto:
            mirror.change(await self.change())


@pytest.fixture(scope="module")
async def site(settings: Settings) -> AsyncIterator[tuple[str, Wire]]:
    """A server's address, and the SQL that it sends."""
    app = create_app(settings)
    wire = Wire()
    event.listen(app.state.database.engine.sync_engine, "connect", wire.watch)
    async with served(app) as address:
        yield address, wire


Open = Callable[..., Awaitable[Follower]]


@pytest.fixture
async def follow(site: tuple[str, Wire]) -> AsyncIterator[Open]:
    """Open sockets with one subscription each."""
    async with AsyncExitStack() as stack:

        async def make(
            user: User, query: str = FOLLOW, *, at: str = site[0], since: str | None = None, **options: Any
        ) -> Follower:
            connection = connect(
                f"ws://{at}/graphql", open_timeout=PATIENCE_SECONDS, subprotocols=PROTOCOLS, compression=None, **options
            )
            client = Client(await stack.enter_async_context(connection))
            await client.initialise(user)
            await client.subscribe("follow", query, **({"since": since} if "$since" in query else {}))
            return Follower(client)

        yield make


async def now(user: User) -> str | None:
    """The user's current sync token."""
    mirror = Mirror(user)
    await mirror.catch_up()
    return mirror.token


async def test_what_is_written_arrives(alice: User, bob: User, follow: Open) -> None:
    """A change reaches all of its user's subscribers with the selected fields, and no other user."""
    hers, his_own = await now(alice), await now(bob)
    first, second = await follow(alice, since=hers), await follow(alice, BRIEF, since=hers)
    others = await follow(bob, BRIEF, since=his_own)
    task = await alice.add("Seen")
    his = await bob.add("His")
    assert (await first.change())["task"] == task
    assert await second.change() == {"task": {"id": task["id"], "title": "Seen"}}
    assert await others.change() == {"task": {"id": his["id"], "title": "His"}}


WRITES = [
    'updateTask(id: $id, input: { title: "Other" }) { token }',
    "setTaskCompleted(id: $id, completed: true) { token }",
    "moveTask(id: $id, to: { toEnd: true }) { token }",
    "deleteTask(id: $id) { token }",
    "restoreTask(id: $id) { token }",
    "updateTasks(where: { ids: [$id] }, input: { priority: LOW }) { token }",
    "deleteTasks(where: { ids: [$id] }) { token }",
    "restoreTasks(where: { ids: [$id] }) { token }",
]


async def following(user: User, follow: Open) -> tuple[Mirror, Follower]:
    """A complete mirror, and a subscription that continues from it."""
    mirror = Mirror(user)
    await mirror.catch_up()
    return mirror, await follow(user, since=mirror.token)


async def test_every_kind_of_write_arrives(
    alice: User, bob: User, owner: "asyncpg.Connection[Any]", follow: Open
) -> None:
    """A following mirror is exact after each write, and receives no other user's writes."""
    mirror, follower = await following(alice, follow)
    his, other = await following(bob, follow)

    task, _ = [await alice.add(title) for title in ("One", "Two")]
    for _ in range(2):
        mirror.change(await follower.change())
    for write in WRITES:
        await alice.data(f"mutation ($id: ID!) {{ {write} }}", id=task["id"])
        mirror.change(await follower.change())
        assert mirror.tasks == await stored(owner, alice), write

    await bob.add("His")
    his.change(await other.change())
    assert his.tasks == await stored(owner, bob)


WRITES_OF_LISTS = {
    'createList(input: { id: $id, name: "Home" }) { token }': ["ListUpserted"],
    'updateList(id: $id, input: { name: "Work" }) { token }': ["ListUpserted"],
    'createTasks(inputs: [{ title: "a", listId: $id }, { title: "b", listId: $id }]) { token }': ["TaskUpserted"] * 2,
    "deleteList(id: $id) { token }": ["ListRemoved", *["TaskRemoved"] * 2],
    "restoreList(id: $id) { token }": ["ListUpserted", *["TaskUpserted"] * 2],
    "moveList(id: $id, to: { toStart: true }) { token }": ["ListUpserted"],
    "updateTasks(where: { filter: { list: { ids: [$id] } } }, input: { listId: null }) { token }": ["TaskUpserted"] * 2,
}


async def test_every_kind_of_write_of_lists_arrives(
    alice: User, bob: User, owner: "asyncpg.Connection[Any]", follow: Open
) -> None:
    """A list arrives before the tasks of the same write, and only for its user."""
    await alice.data('mutation { createList(input: { name: "Last" }) { token } }')
    (mirror, follower), (his, other) = await following(alice, follow), await following(bob, follow)
    list_id = str(uuid4())

    for write, kinds in WRITES_OF_LISTS.items():
        await alice.data(f"mutation ($id: ID!) {{ {write} }}", id=list_id)
        found = [await follower.change() for _ in kinds]
        assert [change["__typename"] for change in found] == kinds, write
        for change in found:
            mirror.change(change)
        assert await mirror.is_exact(owner), write

    await bob.data('mutation { createList(input: { name: "His" }) { token } }')
    his.change(await other.change())
    assert await his.is_exact(owner)


async def test_a_subscription_continues_between_a_list_and_its_tasks(
    alice: User, owner: "asyncpg.Connection[Any]", follow: Open
) -> None:
    """After a disconnect within one write a subscription continues with the next row of it."""
    list_id = str(uuid4())
    for write in list(WRITES_OF_LISTS)[:3]:
        await alice.data(f"mutation ($id: ID!) {{ {write} }}", id=list_id)
    mirror = Mirror(alice)
    await mirror.catch_up()
    await alice.data("mutation ($id: ID!) { deleteList(id: $id) { token } }", id=list_id)

    kinds = []
    for _ in range(3):
        change = await (await follow(alice, since=mirror.token)).change()
        kinds.append(change["__typename"])
        mirror.change(change)

    assert kinds == ["ListRemoved", "TaskRemoved", "TaskRemoved"]
    assert await mirror.is_exact(owner)


async def test_lists_written_with_sql_arrive(alice: User, owner: "asyncpg.Connection[Any]", follow: Open) -> None:
    """Lists that other programs create, change and delete arrive with the tasks that change with them."""
    mirror, follower = await following(alice, follow)
    insert = "INSERT INTO task_lists (user_id, id, name) VALUES ($1, $2, 'Home')"
    list_id = uuid4()
    await owner.execute(insert, alice.id, list_id)
    mirror.change(await follower.change())
    await owner.execute(
        "INSERT INTO tasks (user_id, id, title, list_id) VALUES ($1, gen_random_uuid(), 'a', $2)", alice.id, list_id
    )
    mirror.change(await follower.change())
    assert await mirror.is_exact(owner)

    await owner.execute("UPDATE task_lists SET deleted_at = now() WHERE user_id = $1", alice.id)
    for _ in range(2):
        mirror.change(await follower.change())

    assert (mirror.lists, mirror.tasks) == ({}, {})


async def test_a_write_of_many_arrives_as_one_page(alice: User, owner: "asyncpg.Connection[Any]", follow: Open) -> None:
    """A write of up to 100 tasks is one message; more are several pages, the last of which is up to date."""
    mirror, follower = await following(alice, follow)
    first = await follower.page()
    assert first == {"changes": [], "token": mirror.token, "upToDate": True, "fullSync": False}
    inputs = [{"title": f"Task {number}"} for number in range(100)]

    await alice.data(CREATE_MANY, inputs=inputs)
    page = await follower.page()
    mirror.apply(page)

    assert (len(page["changes"]), page["upToDate"], page["fullSync"]) == (100, True, False)
    assert mirror.tasks == await stored(owner, alice)
    await alice.data(CREATE_MANY, inputs=inputs)
    mirror.apply(await follower.page())
    change = 'mutation { updateTasks(where: { all: true }, input: { title: "New" }, atMost: 200) { affectedCount } }'
    await alice.data(change)
    pages = [await follower.page(), await follower.page()]
    assert [(len(page["changes"]), page["upToDate"]) for page in pages] == [(100, False), (100, True)]
    for page in pages:
        mirror.apply(page)
    assert mirror.tasks == await stored(owner, alice)


async def test_writes_without_effect_send_no_changes(alice: User, follow: Open) -> None:
    """A rejected write and a write without effect send no change."""
    task = await alice.add("One")
    _, follower = await following(alice, follow)

    await alice.data(
        'mutation ($id: ID!) { updateTask(id: $id, input: { title: "One" }) { task { id } } }', id=task["id"]
    )
    await alice.data("mutation ($id: ID!) { deleteTask(id: $id) { task { id } } }", id=str(uuid4()))
    last = await alice.add("Two")

    assert (await follower.change())["task"] == last


@pytest.mark.parametrize("trash", [False, True])
async def test_without_a_token_only_new_changes_arrive(
    alice: User, bob: User, site: tuple[str, Wire], follow: Open, *, trash: bool
) -> None:
    """Without a token the first page is empty, and nothing that is written after it is missed, on either transport."""
    await alice.add("Before")
    query = FOLLOW.replace("$trash)", f"{json.dumps(trash)})").replace(", $trash: Boolean", "")
    for _ in range(10):
        follower = await follow(alice, query)
        page = await follower.page()
        assert page == {"changes": [], "token": page["token"], "upToDate": True, "fullSync": False}
        await bob.add("His")
        task = await alice.add("After")
        assert [change["task"] for change in (await follower.page())["changes"]] == [task]
        await follower.client.connection.close()
        assert (await (await follow(alice, query, since=page["token"])).change())["task"] == task
    async with streamed(alice, site[0], query) as pages:
        assert (await anext(pages))["changes"] == []
        task = await alice.add("After that")
        assert [change["task"] for change in (await anext(pages))["changes"]] == [task]


@asynccontextmanager
async def streamed(user: User, address: str, query: str, **variables: Any) -> AsyncIterator[AsyncIterator[Any]]:
    """The pages of a subscription over an event stream."""
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {user.token}"}
    body = {"query": query, "variables": variables}
    async with (
        httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE_SECONDS) as http,
        http.stream("POST", "/graphql", json=body, headers=headers) as response,
    ):
        yield (
            json.loads(line.removeprefix("data: "))["data"]["changes"]
            async for line in response.aiter_lines()
            if line.startswith("data: ")
        )


async def test_what_is_written_while_it_starts_arrives(
    alice: User, follow: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written between the start of a subscription without a token and its first page is on that page."""
    start, written = Feed.start, list[dict[str, Any]]()

    async def interrupted(self: Feed, since: str | None, *, trash: bool) -> str:
        token = await start(self, since, trash=trash)
        written.append(await alice.add("Meanwhile"))
        return token

    monkeypatch.setattr(Feed, "start", interrupted)
    page = await (await follow(alice)).page()

    assert [change["task"] for change in page["changes"]] == written


async def test_the_trash_arrives_on_request(alice: User, owner: "asyncpg.Connection[Any]", follow: Open) -> None:
    """With `trash: true` a subscriber follows the trash, too; both kinds of subscribers share no pages."""
    task = await alice.add("One")
    mirrors = [Mirror(alice, trash=trash) for trash in (False, True)]
    for each in mirrors:
        await each.catch_up()
    followers_ = [
        await follow(
            alice,
            FOLLOW.replace(": $trash", f": {json.dumps(each.trash)}").replace(", $trash: Boolean", ""),
            since=each.token,
        )
        for each in mirrors
    ]
    for write in (*WRITES[3:5], WRITES[3], "purgeTasks(where: { ids: [$id] }) { token }"):
        await alice.data(f"mutation ($id: ID!) {{ {write} }}", id=task["id"])
        for each, follower in zip(mirrors, followers_, strict=True):
            while not await each.is_exact(owner):
                each.apply(await follower.page())

    assert [each.tasks for each in mirrors] == [{}, {}]


async def test_a_page_is_rendered_once(alice: User, follow: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscribers with the same selection share what was rendered, whatever their documents and transports."""
    token, rendered = await now(alice), list[str]()
    of_page = following_module.field_of_page

    def counted(entry: Field, selection: Selection, page: followers.Changes) -> Any:
        rendered.append(entry.name)
        return of_page(entry, selection, page)

    monkeypatch.setattr(following_module, "field_of_page", counted)
    monkeypatch.setattr(followers, "KEPT_SECONDS", PATIENCE_SECONDS)
    same = [await follow(alice, BRIEF + " " * number, since=token) for number in range(5)]
    for follower in same:
        await follower.page()
    rendered.clear()
    task = await alice.add("Seen")
    for follower in same:
        assert await follower.change() == {"task": {"id": task["id"], "title": "Seen"}}

    assert rendered == ["changes"]


async def test_it_continues_after_each_change(alice: User, owner: "asyncpg.Connection[Any]", follow: Open) -> None:
    """A subscription continues from any change, page or payload without gaps, during writes."""
    mirror = Mirror(alice)
    writing = asyncio.create_task(write_on(alice, 60))
    await mirror.catch_up(3)
    for number in (1, 5, 11):
        follower = await follow(alice, since=mirror.token)
        for _ in range(number):
            mirror.change(await follower.change())
        await follower.client.connection.close()
        await mirror.pull(2)
    last = await writing
    await (await follow(alice, since=mirror.token)).keep(mirror, last)

    assert mirror.tasks == await stored(owner, alice)
    payload = (await alice.data(CREATE, input={"title": "Mine"}))["createTask"]
    follower = await follow(alice, since=payload["token"])
    task = await alice.add("After my own")
    assert (await follower.change())["task"] == task


async def write_on(user: User, count: int) -> int:
    """Create tasks and change each; returns the last version."""
    version = 0
    for number in range(count):
        task = await user.add(f"Task {number}")
        changed = await user.data(COMPLETE, id=task["id"])
        version = changed["setTaskCompleted"]["task"]["version"]
    return version


async def test_a_burst_is_coalesced(
    alice: User, owner: "asyncpg.Connection[Any]", site: tuple[str, Wire], follow: Open
) -> None:
    """1,000 writes cause fewer reads; the mirror is exact, and the socket stays open."""
    mirror, follower = await following(alice, follow)
    await site[1].statements()

    lasts = await asyncio.gather(*(write_on(alice, 125) for _ in range(4)))
    await follower.keep(mirror, max(lasts))

    assert mirror.tasks == await stored(owner, alice)
    assert len(await site[1].statements()) < 1000


async def test_one_read_serves_all_of_a_user(
    alice: User, bob: User, site: tuple[str, Wire], follow: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change is read once for all sockets of a user; without changes nothing is read."""
    token, his = [(await user.data(CREATE, input={"title": "Before"}))["createTask"]["token"] for user in (alice, bob)]
    monkeypatch.setattr(followers, "KEPT_SECONDS", PATIENCE_SECONDS)
    same = [await follow(alice, since=token) for _ in range(10)]
    others = [
        await follow(alice, BRIEF_SINCE.replace("task {", f"task {{ a{n}: title"), since=token) for n in range(10)
    ]
    idle = await follow(bob, since=his)
    await bob.add("His")
    await alice.add("First")
    for follower in (*same, *others, idle):
        await follower.change()
    await site[1].statements()

    task = await alice.add("Second")
    assert [(await follower.change())["task"] for follower in same] == [task] * 10
    for number, follower in enumerate(others):
        assert await follower.change() == {"task": {f"a{number}": "Second", "id": task["id"]}}

    assert len(reads(await site[1].statements())) == 1
    await asyncio.sleep(0.5)
    assert reads(await site[1].statements()) == []


async def test_what_was_passed_on_is_not_kept(alice: User, follow: Open) -> None:
    """Changes that were delivered are not kept in memory while subscribers wait."""
    token = (await alice.data(CREATE, input={"title": "Before"}))["createTask"]["token"]
    many = "mutation ($inputs: [CreateTaskInput!]!) { createTasks(inputs: $inputs) { token } }"
    for _ in range(3):
        await alice.data(many, inputs=[{"title": f"Task {number}"} for number in range(100)])
    follower = await follow(alice, since=token)
    for _ in range(300):
        await follower.change()

    async with asyncio.timeout(PATIENCE_SECONDS):
        while any(type(held) is followers.Changes and len(held.items) == 100 for held in gc.get_objects()):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.05)


async def test_reads_without_subscribers_are_cancelled(
    alice: User, owner: "asyncpg.Connection[Any]", site: tuple[str, Wire], follow: Open
) -> None:
    """A queued read is cancelled when its last subscriber leaves, so that others need not wait."""
    tokens = [(await alice.data(CREATE, input={"title": "One"}))["createTask"]["token"] for _ in range(30)]
    task = await alice.add("After")
    stays = (await follow(alice, since=tokens[-1])).client
    await stays.receive()
    await site[1].statements()
    unread = tokens[:-1]  # the last read is kept for a short time, and would be delivered

    async with owner.transaction():
        await owner.execute("LOCK TABLE tasks")
        for number, token in enumerate(unread):
            payload = {"query": BRIEF_SINCE, "variables": {"since": token}}
            await stays.send(type="subscribe", id=str(number), payload=payload)
        # In reverse order, because completing an active read would start a queued one.
        for number in reversed(range(len(unread))):
            await stays.send(type="complete", id=str(number))
        await stays.send(type="ping")
        assert await stays.receive() == {"type": "pong"}
    last = await (await follow(alice, BRIEF_SINCE, since=tokens[-1])).change()

    assert last == {"task": {"id": task["id"]}}
    assert len(reads(await site[1].statements())) <= followers.READS_OF_A_USER + 1


def reads(statements: list[str]) -> list[str]:
    """Without the listener's own notifications, which check the connection."""
    return [text for text in statements if not text.startswith("NOTIFY ")]


async def test_changes_arrive_over_event_streams(alice: User, bob: User, site: tuple[str, Wire]) -> None:
    """Changes arrive over server-sent events, and only the user's own."""
    mirror = Mirror(alice)
    await mirror.catch_up()
    async with httpx.AsyncClient(base_url=f"http://{site[0]}", timeout=PATIENCE_SECONDS) as http:
        body = {"query": FOLLOW, "variables": {"since": mirror.token}}
        headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {alice.token}"}
        async with http.stream("POST", "/graphql", json=body, headers=headers) as response:
            await bob.add("His")
            await alice.data('mutation { createList(input: { name: "Home" }) { token } }')
            task = await alice.add("Hers")
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    mirror.apply(json.loads(line.removeprefix("data: "))["data"]["changes"])
                if mirror.tasks:
                    break

    assert mirror.tasks == {task["id"]: task}
    assert [one["name"] for one in mirror.lists.values()] == ["Home"]


async def test_it_continues_with_a_new_access_token(
    alice: User, bob: User, owner: "asyncpg.Connection[Any]", follow: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscription ends when its access token expires; with a new one no change is missed."""
    live.brief(monkeypatch.setattr, until := live.soon(), 1)
    mirror = Mirror(alice)
    await mirror.catch_up()
    short = replace(alice, token=live.expiring(alice.id, until))
    follower = await follow(short, since=mirror.token)
    await alice.add("In time")
    with suppress(ConnectionClosed):
        while True:
            mirror.change(await follower.change())
    assert (await follower.client.closed())[0] == 4403

    await bob.add("His")
    missed = await alice.add("Missed")
    await (await follow(alice, since=mirror.token)).keep(mirror, missed["version"])
    assert mirror.tasks == await stored(owner, alice)


@pytest.mark.parametrize("kind", ["foreign", "garbage", "tampered", "of another kind", "empty"])
async def test_invalid_sync_tokens(  # noqa: PLR0913, PLR0917 - fixtures
    alice: User, bob: User, site: tuple[str, Wire], owner: "asyncpg.Connection[Any]", follow: Open, kind: str
) -> None:
    """With a sync token that cannot be used, a subscription begins anew, and goes on with what is written."""
    own, foreign = [(await user.data(CREATE, input={"title": "T"}))["createTask"]["token"] for user in (alice, bob)]
    since = {
        "foreign": foreign,
        "garbage": "?",
        "tampered": own[:-2] + ("AA" if own[-2:] != "AA" else "BB"),
        "of another kind": (await alice.data("{ changes(trash: true) { token } }"))["changes"]["token"],
        "empty": "",
    }[kind]
    for number in range(2):
        await alice.data(CREATE_MANY, inputs=[{"title": f"Task {number}"}] * 70)
    mirror = Mirror(alice)

    follower = await follow(alice, since=since)
    pages = [await follower.page(), await follower.page()]
    await alice.add("After")
    pages.append(await follower.page())

    for page in pages:
        mirror.apply(page)
    assert [(page["fullSync"], page["upToDate"]) for page in pages] == [(True, False), (False, True), (False, True)]
    assert mirror.tasks == await stored(owner, alice)
    async with streamed(alice, site[0], FOLLOW, since=since) as streamed_pages:
        assert (await anext(streamed_pages))["fullSync"]


async def test_a_purge_reaches_subscribers(
    application: Application, alice: User, owner: "asyncpg.Connection[Any]", follow: Open
) -> None:
    """A running subscription, and one with a token from before, get the removals of a purge, and no full sync."""
    task, stays = [await alice.add(title) for title in ("Gone", "Stays")]
    stale = Mirror(alice)
    await stale.catch_up()
    await alice.data("mutation ($id: ID!) { deleteTask(id: $id) { token } }", id=task["id"])
    with_trash = Mirror(alice, trash=True)
    await with_trash.catch_up()
    running = await follow(
        alice, FOLLOW.replace("trash: $trash", "trash: true").replace(", $trash: Boolean", ""), since=with_trash.token
    )
    with_trash.apply(await running.page())
    await purged(application, owner, alice)

    for each, follower in ((with_trash, running), (stale, await follow(alice, since=stale.token))):
        page = await follower.page()
        each.apply(page)
        assert ([change["taskId"] for change in page["changes"]], page["fullSync"]) == ([task["id"]], False)
        assert list(each.tasks) == [stays["id"]]


async def test_a_token_from_before_a_forgotten_purge(
    application: Application, alice: User, owner: "asyncpg.Connection[Any]", follow: Open
) -> None:
    """A token from before tombstones that are forgotten begins anew; a subscription that was told of them goes on."""
    task = await alice.add("Gone")
    stale = Mirror(alice)
    await stale.catch_up()
    await alice.data("mutation ($id: ID!) { deleteTask(id: $id) { token } }", id=task["id"])
    mirror, running = await following(alice, follow)
    mirror.apply(await running.page())
    await purged(application, owner, alice)
    await forgotten(application, owner, alice)

    page = await (await follow(alice, since=stale.token)).page()
    assert (page["fullSync"], page["upToDate"], page["changes"]) == (True, True, [])
    new = await alice.add("New")
    page = await running.page()
    mirror.apply(page)
    assert (page["fullSync"], mirror.tasks) == (False, {new["id"]: new})


async def test_a_restore_reaches_running_subscriptions(
    alice: User, owner: "asyncpg.Connection[Any]", follow: Open
) -> None:
    """If a running subscription can no longer continue, its next page begins anew."""
    await alice.add("One")
    mirror, follower = await following(alice, follow)
    mirror.apply(await follower.page())
    await owner.execute("DELETE FROM tasks WHERE user_id = $1", alice.id)
    mirror.apply(await follower.page())
    await owner.execute(
        "UPDATE task_clocks SET version = version + 1000, purged_through = version + 1000 WHERE user_id = $1", alice.id
    )
    task = await alice.add("Two")

    page = await follower.page()
    mirror.apply(page)

    assert (page["fullSync"], page["upToDate"], mirror.tasks) == (True, True, {task["id"]: task})


async def no_socket() -> None:
    """Wait until the servers of this process have no open sockets."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while REGISTRY.get_sample_value("taskql_sockets"):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.02)


async def test_a_client_that_stops_reading_is_disconnected_and_continues(
    alice: User, follow: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that does not read is disconnected; a new socket continues without gaps."""
    monkeypatch.setattr(sockets, "WRITE_SECONDS", 0.3)
    token = (await alice.data(CREATE, input={"title": "Before"}))["createTask"]["token"]
    taken: list[str] = []
    await no_socket()
    stalled = await follow(alice, WIDE, since=token, max_queue=1)
    for _ in range(8):
        await alice.data(CREATE_MANY, inputs=[{"title": "T", "description": "x" * 900}] * 100)
    await no_socket()
    with suppress(ConnectionClosed):
        while True:
            page = await stalled.page()
            token = page["token"]
            taken += [change["task"]["id"] for change in page["changes"]]
    before = len(taken)

    again = await follow(alice, WIDE, since=token)
    while len(taken) < 800:
        taken.append((await again.change())["task"]["id"])
    assert 0 < before < 800
    assert len(set(taken)) == 800


BY_SQL = [
    "INSERT INTO tasks (user_id, id, title) VALUES ($1, gen_random_uuid(), 'By SQL')",
    "UPDATE tasks SET title = 'Told' WHERE user_id = $1",
    "UPDATE tasks SET completed = true, completed_at = now() WHERE user_id = $1 AND title = 'Told'",
    "UPDATE tasks SET deleted_at = now() WHERE user_id = $1",
    "UPDATE tasks SET deleted_at = NULL WHERE user_id = $1",
]


@pytest.mark.parametrize("in_turn", range(1, len(BY_SQL) + 1))
async def test_writes_by_sql_arrive(
    alice: User, bob: User, owner: "asyncpg.Connection[Any]", follow: Open, in_turn: int
) -> None:
    """Writes by SQL reach subscribers with a version, but no other user's subscribers."""
    await alice.add("One")
    await bob.add("His")
    mirror, follower = await following(alice, follow)
    _, other = await following(bob, follow)

    for statement in BY_SQL[:in_turn]:
        await owner.execute(statement, alice.id)
    while mirror.tasks != await stored(owner, alice):
        mirror.change(await follower.change())

    his = await bob.add("Also his")
    assert (await other.change())["task"] == his
    # The removal of a task that was deleted before a page had it may still be on its way.
    assert {change["__typename"] for change in (await mirror.pull())["changes"]} <= {"TaskRemoved"}
    assert mirror.tasks == await stored(owner, alice)


async def test_deletes_by_sql_arrive(alice: User, bob: User, owner: "asyncpg.Connection[Any]", follow: Open) -> None:
    """A DELETE by SQL, and an update of a task's user or id, reach all copies, and need no full sync."""
    for number in range(4):
        await alice.add(f"Task {number}")
    await bob.add("His")
    (mirror, follower), (his, other) = await following(alice, follow), await following(bob, follow)
    for statement in (
        "DELETE FROM tasks WHERE user_id = $1 AND title = 'Task 0' AND $1 <> $2",
        "UPDATE tasks SET user_id = $2 WHERE user_id = $1 AND title = 'Task 1'",
        "UPDATE tasks SET id = gen_random_uuid() WHERE user_id = $1 AND title = 'Task 2' AND $1 <> $2",
    ):
        await owner.execute(statement, alice.id, bob.id)
        while mirror.tasks != await stored(owner, alice):
            page = await follower.page()
            assert not page["fullSync"]
            mirror.apply(page)

    assert len(mirror.tasks) == 2
    his.change(await other.change())
    assert his.tasks == await stored(owner, bob)
    assert not any(page["fullSync"] for page in [*await mirror.catch_up(), *await his.catch_up()])


async def test_users_are_deleted_by_a_role_of_their_own(
    alice: User, bob: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """A role with privileges on users only can delete a user with the tasks, and no other's tasks."""
    await alice.add("Hers")
    his = await bob.add("His")
    async with owner.transaction():
        await owner.execute("CREATE ROLE accounts; GRANT SELECT, DELETE ON users TO accounts; SET LOCAL ROLE accounts")
        await owner.execute("DELETE FROM users WHERE id = $1", alice.id)
        await owner.execute("RESET ROLE; DROP OWNED BY accounts; DROP ROLE accounts")

    assert await stored(owner, alice) == {}
    assert await stored(owner, bob) == {his["id"]: his}


LISTENING = "application_name = 'taskql listener' AND datname = current_database()"
LISTENERS = f"SELECT pid FROM pg_stat_activity WHERE {LISTENING}"  # noqa: S608 - a constant above
END_LISTENERS = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {LISTENING}"  # noqa: S608 - a constant above


async def test_the_listening_connection_is_lost(
    alice: User, bob: User, owner: "asyncpg.Connection[Any]", follow: Open
) -> None:
    """Changes written while the listening connection is down arrive, and so do later ones."""
    mirror, follower = await following(alice, follow)
    _, other = await following(bob, follow)

    for number in range(5):
        while not await owner.fetchval(END_LISTENERS):  # noqa: ASYNC110 - PostgreSQL sends no event
            await asyncio.sleep(0.01)
        await alice.add(f"Unheard {number}")
        mirror.change(await follower.change())

    his = await bob.add("His")
    assert (await other.change())["task"] == his
    assert mirror.tasks == await stored(owner, alice)


async def test_one_connection_listens_while_anybody_follows(
    settings: Settings, owner: "asyncpg.Connection[Any]", alice: User, follow: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process listens on one connection while there are subscribers, and on none otherwise."""
    monkeypatch.setattr(followers, "LINGER_SECONDS", 0.0)
    before = len(await owner.fetch(LISTENERS))
    async with served(create_app(settings)) as address:
        assert len(await owner.fetch(LISTENERS)) == before
        following = [await follow(alice, at=address) for _ in range(10)]
        await until(owner, before + 1)
        for follower in following:
            await follower.client.connection.close()
        await until(owner, before)


async def until(owner: "asyncpg.Connection[Any]", listening: int) -> None:
    """Wait until this many connections listen."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(await owner.fetch(LISTENERS)) != listening:  # noqa: ASYNC110 - PostgreSQL sends no event
            await asyncio.sleep(0.02)


@pytest.fixture
async def heard(server: Server) -> AsyncIterator["asyncio.Queue[str]"]:
    """The notifications sent to all listeners."""
    payloads: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(server.owner_url)
    await connection.add_listener("taskql", lambda *sent: payloads.put_nowait(str(sent[3])))
    yield payloads
    await connection.close()


@pytest.fixture
async def apart(owner: "asyncpg.Connection[Any]", new_user: Callable[..., Awaitable[User]], alice: User) -> User:
    """A user who shares no lock with Alice."""
    user = await new_user()
    while await owner.fetchval(LOCK, user.id) == await owner.fetchval(LOCK, alice.id):
        user = await new_user()
    return user


async def held(owner: "asyncpg.Connection[Any]", user: User, times: int) -> None:
    """Wait until this many processes share the user's lock."""
    lock = await owner.fetchval(LOCK, user.id)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await owner.fetchval(HELD, lock) != times:  # noqa: ASYNC110 - PostgreSQL sends no event
            await asyncio.sleep(0.02)


async def test_writes_send_notifications_while_their_user_is_followed(
    alice: User, apart: User, owner: "asyncpg.Connection[Any]", follow: Open, heard: "asyncio.Queue[str]"
) -> None:
    """All writes of a followed user send notifications, and other users' writes do not."""
    first, second = await follow(alice), await follow(alice)
    await held(owner, alice, 1)
    for user in (apart, alice):
        task = await user.add("One")
        await user.data(CREATE_MANY, inputs=[{"title": "Two"}, {"title": "Three"}])
        for write in WRITES:
            await user.data(f"mutation ($id: ID!) {{ {write} }}", id=task["id"])
    told = [await heard.get() for _ in range(2 + len(WRITES))]
    assert {payload.split()[0] for payload in told} == {str(alice.id)}

    await first.client.connection.close()
    await alice.add("Still followed")
    assert (await heard.get()).startswith(str(alice.id))
    await second.client.connection.close()
    await held(owner, alice, 0)
    await alice.add("Not followed")
    await owner.execute("NOTIFY taskql, 'the end'")
    assert await heard.get() == "the end"


async def test_a_write_that_began_before_the_subscription_arrives(  # noqa: PLR0913, PLR0917 - fixtures
    server: Server,
    site: tuple[str, Wire],
    alice: User,
    apart: User,
    follow: Open,
    heard: "asyncio.Queue[str]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A write that began before the subscription sends no notification, but is read after its commit."""
    mirror, (_, other) = Mirror(alice), await following(apart, follow)
    await mirror.catch_up()
    monkeypatch.setattr(followers, "WATCHED_SECONDS", 0.1)
    await site[1].statements()
    create = create_new(TASK, PAYLOAD, Change("create new", ("title",)))
    connection = await asyncpg.connect(server.app_url)
    async with connection.transaction():
        row = await connection.fetchrow(
            create.text, *create.arguments({"user_id": alice.id, "id": uuid7(), "title": "Meanwhile", "quota": 1})
        )
        follower = await follow(alice, since=mirror.token)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not reads(await site[1].statements()):  # noqa: ASYNC110 - until it has read, and found nothing
                await asyncio.sleep(0.01)
    await connection.close()

    mirror.change(await follower.change())
    assert row
    assert mirror.version == row["version"]
    assert heard.empty()
    his = await apart.add("His")
    assert (await other.change())["task"] == his


async def test_a_lock_that_is_never_released(
    alice: User, bob: User, owner: "asyncpg.Connection[Any]", follow: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another session holds a user's lock, changes still arrive, with a delay."""
    monkeypatch.setattr(listener, "ECHO_SECONDS", 0.2)
    (mirror, first), (his, second) = await following(alice, follow), await following(bob, follow)
    await first.client.connection.close()
    await held(owner, alice, 0)
    await owner.execute("SELECT pg_advisory_lock($1, $2)", SPACE, await owner.fetchval(LOCK, alice.id))
    try:
        first = await follow(alice, since=mirror.token)
        tasks = await alice.add("Hers"), await bob.add("His")
        mirror.change(await first.change())
        his.change(await second.change())
    finally:
        await owner.execute("SELECT pg_advisory_unlock_all()")

    assert [list(copy.tasks.values()) for copy in (mirror, his)] == [[task] for task in tasks]


async def test_anything_may_be_sent_to_the_channel(alice: User, owner: "asyncpg.Connection[Any]", follow: Open) -> None:
    """Other notifications on the channel do no harm."""
    mirror, follower = await following(alice, follow)
    for payload in ("", "x", f"{alice.id}", f"{alice.id} x", f"x {alice.id}", f"{uuid4()} 7", f"{alice.id} 99999999"):
        await owner.execute("SELECT pg_notify('taskql', $1)", payload)

    task = await alice.add("After")
    mirror.change(await follower.change())
    assert mirror.tasks == {task["id"]: task}


async def test_two_processes(server: Server, settings: Settings, alice: User, bob: User, follow: Open) -> None:
    """Writes on one server reach the other's sockets; after a crash clients continue on the other server."""
    del settings
    with serving(**environment(server)) as first, serving(**environment(server)) as second:
        mirror = Mirror(alice)
        await mirror.catch_up()
        at_first = await follow(alice, at=first.url.removeprefix("http://"), since=mirror.token)
        other = await follow(bob, at=second.url.removeprefix("http://"), since=await now(bob))
        task = second.ask(CREATE, alice.token, input={"title": "On the other"})["data"]["createTask"]["task"]
        mirror.change(await at_first.change())
        assert mirror.tasks[task["id"]]["title"] == "On the other"

        first.process.kill()
        missed = second.ask(CREATE, alice.token, input={"title": "Meanwhile"})["data"]["createTask"]["task"]
        at_second = await follow(alice, at=second.url.removeprefix("http://"), since=mirror.token)
        mirror.change(await at_second.change())
        assert mirror.tasks[missed["id"]]["title"] == "Meanwhile"
        his = second.ask(CREATE, bob.token, input={"title": "His"})["data"]["createTask"]["task"]
        assert (await other.change())["task"]["id"] == his["id"]


async def test_the_database_restarts(tmp_path: Path, follow: Open) -> None:
    """Subscriptions survive a restart of the database, and receive later writes."""
    with EmbeddedPostgres.start(tmp_path) as embedded:
        postgres = Postgres(embedded)
        await migrate(DatabaseURL(embedded.owner_url), DatabaseURL(embedded.app_url))
        owner = await asyncpg.connect(embedded.owner_url)
        user_id = await owner.fetchval("INSERT INTO users (email) VALUES ('a@example.com') RETURNING id")
        await owner.close()
        app = create_app(made_settings(postgres.server))
        async with (
            served(app) as address,
            httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE_SECONDS) as http,
        ):
            user = User(user_id, "", Signer(SECRET).token(user_id, timedelta(hours=1)), http)
            mirror = Mirror(user)
            await mirror.catch_up()
            follower = await follow(user, at=address, since=mirror.token)
            await user.add("Before")
            mirror.change(await follower.change())
            await asyncio.to_thread(postgres.stop)
            await asyncio.to_thread(postgres.start)
            owner = await asyncpg.connect(embedded.owner_url)
            await owner.execute(
                "INSERT INTO tasks (user_id, id, title) VALUES ($1, gen_random_uuid(), 'Unheard')", user_id
            )
            mirror.change(await follower.change())
            assert mirror.tasks == await stored(owner, user)
            await owner.close()
