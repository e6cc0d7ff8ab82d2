"""Limits of one user's subscriptions in favour of others: their number, reads, rows and event loop steps."""

import asyncio
import gc
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import httpx
import live
import pytest
from conftest import ALL_FIELDS, CREATE, Server, User
from live import served
from mirror import FOLLOW, LIST_FIELDS
from patience import PATIENCE_SECONDS
from test_realtime import BRIEF, BRIEF_SINCE, CREATE_MANY, Follower, now
from test_sockets import PROTOCOLS, Client
from websockets.asyncio.client import connect

from app.database.url import DatabaseURL
from app.errors import LimitExceeded
from app.live import followers
from app.live.followers import Changes, Realtime
from app.main import create_app
from app.settings import Settings
from app.sharing import rate_limits
from app.sharing.rate_limits import Rates, Windows
from app.sharing.steps import Steps

DELETE = "mutation ($id: ID!) { deleteTask(id: $id) { token } }"
NO_RATES = Rates(None, None)


class Site:
    """A server, and the subscriptions that a test opens on it."""

    def __init__(self, address: str, stack: AsyncExitStack) -> None:
        self.address, self._stack = address, stack

    async def socket(self, user: User) -> Client:
        connection = connect(
            f"ws://{self.address}/graphql", open_timeout=PATIENCE_SECONDS, subprotocols=PROTOCOLS, compression=None
        )
        client = Client(await self._stack.enter_async_context(connection))
        await client.initialise(user)
        return client

    async def follow(self, user: User, query: str = FOLLOW, **variables: Any) -> Follower:
        client = await self.socket(user)
        await client.subscribe("follow", query, **variables)
        return Follower(client)

    async def stream(self, user: User, query: str = FOLLOW, **variables: Any) -> "Stream":
        http = await self._stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{self.address}", timeout=PATIENCE_SECONDS)
        )
        headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {user.token}"}
        asked = http.stream("POST", "/graphql", json={"query": query, "variables": variables}, headers=headers)
        return Stream(await self._stack.enter_async_context(asked))


class Stream:
    def __init__(self, response: httpx.Response) -> None:
        self.response, self._lines = response, response.aiter_lines()

    async def change(self) -> Any:
        """The next change, in a page of its own."""
        while not (changes := (await self.answer())["data"]["changes"]["changes"]):
            pass
        (change,) = changes
        return change

    async def answer(self) -> Any:
        """The GraphQL response in the next event."""
        async for line in self._lines:
            if line.startswith("data: "):
                return json.loads(line.removeprefix("data: "))
        return None


@asynccontextmanager
async def site(settings: Settings, **more: Any) -> AsyncIterator[Site]:
    """A server with its own settings."""
    async with served(create_app(settings.model_copy(update=more))) as address, AsyncExitStack() as stack:
        yield Site(address, stack)


@pytest.fixture
async def narrow(settings: Settings) -> AsyncIterator[Site]:
    """A server with a limit of two subscriptions per user."""
    async with site(settings, limit_subscriptions=2) as narrow:
        yield narrow


# Number of subscriptions


async def test_the_limit_counts_both_transports(narrow: Site, alice: User, bob: User) -> None:
    """The limit counts WebSockets and event streams together; others continue, and another user has her own limit."""
    since = await now(alice)
    first, second = await narrow.follow(alice, since=since), await narrow.stream(alice, since=since)
    task = await alice.add("Seen by both")
    assert (await first.change())["task"] == task
    assert (await second.change())["task"] == task

    third, fourth = await narrow.follow(alice), await narrow.stream(alice)
    errors = [await third.error(), *(await fourth.answer())["errors"]]
    his = await narrow.follow(bob, since=await now(bob))
    tasks = await alice.add("Also seen"), await bob.add("His")

    assert [error["extensions"]["code"] for error in errors] == ["LIMIT_EXCEEDED"] * 2
    assert all("2 live subscriptions" in error["message"] and "end one" in error["message"] for error in errors)
    assert "data" in await third.client.data("{ viewer { id } }")
    assert (await first.change())["task"] == tasks[0]
    assert (await second.change())["task"] == tasks[0]
    assert (await his.change())["task"] == tasks[1]


async def test_operations_of_one_socket_count_each(narrow: Site, alice: User) -> None:
    """A socket's third subscription is rejected, its queries are not."""
    client = await narrow.socket(alice)
    for id_ in "ab":
        await client.subscribe(id_, FOLLOW)
        assert (await client.receive())["type"] == "next"
    await client.subscribe("c", FOLLOW)
    refused = await client.receive()

    assert (refused["type"], refused["payload"][0]["extensions"]["code"]) == ("error", "LIMIT_EXCEEDED")
    assert "data" in await client.data("{ viewer { id } }")


async def fills(narrow: Site, user: User) -> None:
    """A user's two slots are free again, and there is no third."""
    for _ in range(2):
        since = await now(user)
        while True:  # a closed subscription is noticed a moment later
            follower = await narrow.follow(user, since=since)
            await user.add("One")
            message = await follower.client.receive()
            if message["type"] == "next":
                break
    assert (await (await narrow.follow(user)).error())["extensions"]["code"] == "LIMIT_EXCEEDED"


async def test_complete_frees_the_slot(narrow: Site, alice: User) -> None:
    """A client's `complete` frees the slot."""
    client = await narrow.socket(alice)
    for id_ in "ab":
        await client.subscribe(id_, FOLLOW)
        await client.send(type="complete", id=id_)

    await fills(narrow, alice)


async def test_closing_the_connection_frees_the_slot(narrow: Site, alice: User) -> None:
    """Closing the socket or stream frees the slot."""
    since = await now(alice)
    first, second = await narrow.follow(alice, since=since), await narrow.stream(alice, since=since)
    await alice.add("One")
    await first.change()
    await second.answer()
    await first.client.connection.close()
    await second.response.aclose()

    await fills(narrow, alice)


async def test_token_expiry_frees_the_slot(narrow: Site, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token expiry ends sockets and streams and frees their slots."""
    live.brief(monkeypatch.setattr, until := live.soon(), 1)
    brief = User(alice.id, alice.email, live.expiring(alice.id, until), alice.http)
    follower, stream = await narrow.follow(brief), await narrow.stream(brief)
    await follower.page()
    await stream.answer()

    assert await stream.answer() is None
    assert (await follower.client.closed())[0] == 4403
    await fills(narrow, alice)


async def test_the_limit_applies_before_any_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscription over the limit is rejected before any read."""
    monkeypatch.setattr(followers, "WATCHED_SECONDS", 0.0)
    live = Realtime(DatabaseURL(server.app_url), nothing, NO_RATES, 1)
    user, begun = uuid4(), list[str]()

    async def start() -> str:
        begun.append("read")
        return "0"

    async with (
        aclosing(live.follow(user, start, idle, as_it_is)) as first,
        aclosing(live.follow(user, start, idle, as_it_is)) as second,
    ):
        waiting = asyncio.create_task(anext(first))
        while not begun:  # noqa: ASYNC110 - the first subscription waits for the listener
            await asyncio.sleep(0)
        with pytest.raises(LimitExceeded):
            await anext(second)
        waiting.cancel()
        await asyncio.wait({waiting})
    await live.close()

    assert begun == ["read"]


async def nothing(_channel: str) -> None:
    """Takes a notification and does nothing."""


def as_it_is(page: Changes) -> list[Changes]:
    return [page]


async def idle(token: str) -> Changes:
    """An empty page."""
    return Changes([], token, int(token), more=False, full=False)


# Reads


class Reads:
    """Page reads that block until the test releases them."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_go = asyncio.Event()

    async def read(self, token: str) -> Changes:
        self.begun.append(token)
        await self.may_go.wait()
        return Changes([{"token": token}], token, int(token), more=False, full=False)


def following(live: Realtime, user: UUID, token: str, reads: Reads) -> AsyncGenerator[Changes, None]:
    async def start() -> str:
        return token

    return live.follow(user, start, reads.read, as_it_is)


async def test_reads_take_turns_by_user(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one user's reads use up that user's share, another user's read is executed."""
    monkeypatch.setattr(followers, "WATCHED_SECONDS", 0.0)
    live = Realtime(DatabaseURL(server.app_url), nothing, NO_RATES, 100)
    attacker, victim, held, free = uuid4(), uuid4(), Reads(), Reads()
    free.may_go.set()
    async with AsyncExitStack() as stack:
        flood = [following(live, attacker, str(number), held) for number in range(100)]
        waiting = [asyncio.create_task(anext(await stack.enter_async_context(aclosing(one)))) for one in flood]
        while len(held.begun) < followers.READS_OF_A_USER:  # noqa: ASYNC110 - a read sends no event
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)

        page = await anext(await stack.enter_async_context(aclosing(following(live, victim, "7", free))))

        assert page.items == [{"token": "7"}]
        assert len(held.begun) == followers.READS_OF_A_USER
        held.may_go.set()
        assert [page.items for page in await asyncio.gather(*waiting)] == [[{"token": str(n)}] for n in range(100)]
    await live.close()


async def test_a_page_is_read_once_for_a_user_and_a_token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two subscriptions at the same token share a read; another user has another."""
    monkeypatch.setattr(followers, "WATCHED_SECONDS", 0.0)
    live, reads = Realtime(DatabaseURL(server.app_url), nothing, NO_RATES, 100), Reads()
    reads.may_go.set()
    one, other = uuid4(), uuid4()
    async with AsyncExitStack() as stack:
        opening = [following(live, user, "7", reads) for user in (one, one, other)]
        opened = [await stack.enter_async_context(aclosing(follower)) for follower in opening]
        await asyncio.gather(*map(anext, opened))
    await live.close()

    assert reads.begun == ["7", "7"]


async def test_few_pages_are_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast catch-up keeps only the last few pages in memory, whatever their lifetime."""
    monkeypatch.setattr(followers, "KEPT_SECONDS", 3600.0)
    monkeypatch.setattr(followers, "WATCHED_SECONDS", 0.0)
    live = Realtime(DatabaseURL(server.app_url), nothing, NO_RATES, 1)

    async def read(token: str) -> Changes:
        page = int(token) + 1
        return Changes([{"page": page}] * 7, str(page), page, more=True, full=False)

    async def start() -> str:
        return "0"

    async with aclosing(live.follow(uuid4(), start, read, as_it_is)) as given:
        async for page in given:
            if page.items[0]["page"] == 5 * followers.MOST_KEPT:
                break
        gc.collect()
        pages = [held for held in gc.get_objects() if type(held) is Changes and len(held.items) == 7]
        assert len(pages) <= followers.MOST_KEPT + 2
    await live.close()


# Charged rows


class Paced:
    """Records all charges, and can block subscriptions that are behind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.charges: list[tuple[str, int, bool]] = []
        self.waiting = asyncio.Event()
        self.may_go = asyncio.Event()
        self.may_go.set()
        charge = Rates.pace

        async def pace(rates: Rates, payer: str, rows: int, *, is_behind: bool) -> None:
            self.charges.append((payer, rows, is_behind))
            if is_behind:
                self.waiting.set()
                await self.may_go.wait()
            await charge(rates, payer, rows, is_behind=is_behind)

        monkeypatch.setattr(Rates, "pace", pace)


async def with_tasks(user: User, hundreds: int) -> str:
    """Create hundreds of tasks for a user; returns the sync token from before."""
    token: str = (await user.data(CREATE, input={"title": "Before"}))["createTask"]["token"]
    for _ in range(hundreds):
        await user.data(CREATE_MANY, inputs=[{"title": f"Task {number}"} for number in range(100)])
    return token


async def test_each_page_is_charged(
    settings: Settings, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each subscription's pages are charged to its user by row count, on either transport, except the first page."""
    paced = Paced(monkeypatch)
    since = await with_tasks(alice, 3)
    async with site(settings) as here:
        follower, stream = await here.follow(alice, since=since), await here.stream(alice, since=since)
        his = await here.follow(bob, since=await now(bob))
        for _ in range(3):
            await follower.page()
            await stream.answer()
        await bob.add("His")
        await his.change()
        await alice.add("Hers")
        await follower.change()
        await stream.answer()

    hers, others = (sorted(each[1:] for each in paced.charges if each[0] == str(user.id)) for user in (alice, bob))
    assert hers == [(1, False)] * 2 + [(100, False)] * 2 + [(100, True)] * 2
    assert others == [(1, False)]


async def test_a_catch_up_is_throttled(
    settings: Settings, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catch-up pauses, but is not ended, once half of the rate is used; live subscriptions do not wait."""
    paced = Paced(monkeypatch)
    since = await with_tasks(alice, 15)
    async with site(settings, rate_limit="2000/hour") as here:
        live = await here.follow(alice, BRIEF, since=await now(alice))
        behind = await here.follow(alice, BRIEF_SINCE, since=since)
        his = await here.follow(bob, since=await now(bob))
        for _ in range(1100):
            await behind.change()
        while len(paced.charges) < 11:  # noqa: ASYNC110 - a charge sends no event
            await asyncio.sleep(0)

        tasks = await alice.add("Hers"), await bob.add("His")

        assert await live.change() == {"task": {"id": tasks[0]["id"], "title": "Hers"}}
        assert (await his.change())["task"] == tasks[1]
        await behind.client.send(type="ping")
        assert await behind.client.receive() == {"type": "pong"}


async def test_a_paused_one_delays_no_other(settings: Settings, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused subscription continues where it stopped; the user's others receive changes meanwhile."""
    paced = Paced(monkeypatch)
    paced.may_go.clear()
    since = await with_tasks(alice, 3)
    async with site(settings) as here:
        behind, live = await here.follow(alice, since=since), await here.follow(alice, since=await now(alice))
        await paced.waiting.wait()
        task = await alice.add("Now")
        assert (await live.change())["task"] == task

        paced.may_go.set()
        found = [(await behind.change())["task"]["version"] for _ in range(301)]

    assert found == sorted(found)
    assert found[-1] == task["version"]


class Clock:
    """A clock that advances only while a caller sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limits, "sleep", clock.sleep)
    return clock


def rates(users: str | None, clock: Clock) -> Rates:
    return Rates(users, None, None, Windows(lambda: clock.now))


async def test_a_catch_up_gets_half_of_the_rate(clock: Clock) -> None:
    """Catching up uses half of the rate; a subscription that keeps up does not wait."""
    paced = rates("2000/minute", clock)
    for _ in range(1000):
        await paced.pace("a", 100, is_behind=True)
        before = clock.now
        await paced.pace("b", 1, is_behind=False)
        assert clock.now == before
        if clock.now // 60 == before // 60:
            await paced.pace("a", 1, is_behind=False)
            assert clock.now == before

    assert clock.now == 99 * 60


async def test_a_live_subscription_is_charged_too(clock: Clock) -> None:
    """A subscription that keeps up is charged to the same rate as requests."""
    paced = rates("10/minute", clock)
    for _ in range(25):
        await paced.pace("a", 1, is_behind=False)

    assert clock.now == 120


async def test_a_page_may_be_larger_than_the_rate(clock: Clock) -> None:
    """A page larger than the rate takes a window of its own, and does not wait forever."""
    paced = rates("10/minute", clock)
    for _ in range(3):
        await paced.pace("a", 100, is_behind=True)

    assert clock.now == 120


async def test_without_a_rate_nothing_waits(clock: Clock) -> None:
    """With RATE_LIMIT=off nothing waits."""
    for is_behind in (True, False):
        await rates(None, clock).pace("a", 1_000_000, is_behind=is_behind)

    assert clock.now == 0


# Steps of the event loop


async def test_steps_per_iteration_are_limited() -> None:
    """Each iteration of the event loop runs a few steps, in order of arrival; cancelled ones are skipped."""
    steps, done = Steps(3), list[int]()

    async def go(number: int) -> None:
        await steps.step()
        done.append(number)

    tasks = [asyncio.create_task(go(number)) for number in range(20)]
    counts = [0]
    while len(done) < 19:
        await asyncio.sleep(0)
        if counts[-1] == 3:
            tasks[19].cancel()
        counts.append(len(done))

    assert max(after - before for before, after in pairwise(counts)) <= 3
    assert done == list(range(19))


async def test_a_long_page_does_not_block_the_loop(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a user's subscriptions together wait an iteration of the event loop for every few changes."""
    monkeypatch.setattr(followers, "WATCHED_SECONDS", 0.0)
    live = Realtime(DatabaseURL(server.app_url), nothing, NO_RATES, 20)
    ends, iterations = 0, 0

    async def read(token: str) -> Changes:
        return Changes([{"n": number} for number in range(50)], token, int(token), more=False, full=False)

    async def start() -> str:
        return "1"

    async def take(pages: AsyncGenerator[Changes, None]) -> None:
        nonlocal ends
        async with aclosing(pages):
            assert len((await anext(pages)).items) == 50
        ends += 1

    user = uuid4()
    tasks = [asyncio.create_task(take(live.follow(user, start, read, as_it_is))) for _ in range(20)]
    while ends < 20:
        await asyncio.sleep(0)
        iterations += 1
    await asyncio.gather(*tasks)
    await live.close()

    assert iterations >= 20 * 50 / followers.STEPS_OF_A_USER


# Selections

VARIANTS = [
    "__typename",
    "... on TaskRemoved { taskId }",
    "... on TaskUpserted { token task { version title id } } ... on TaskRemoved { token taskId }",
    "... on TaskUpserted { b: task { z: id a: title id: tags } a: task { id } __typename kind: __typename }",
    "... on TaskUpserted { task { id title id } token task { title dueDate __typename } }",
    "... on TaskUpserted { task { id title @include(if: $yes) tags @skip(if: $yes) } token @include(if: $no) }",
    "... on TaskUpserted @include(if: $no) { token } ... { ...Whole } ... on TaskRemoved { gone: taskId }",
    "...Whole ... on TaskUpserted { task { only: version } }",
    "... on TaskUpserted { task { list { id name kind: __typename } } } ... on ListRemoved { gone: listId token }",
    "... on ListUpserted { it: list { name id again: name icon } token } ... on TaskUpserted { task { title } }",
    "... on TaskUpserted { of: task { list { id } } } ... on ListUpserted @include(if: $no) { token } ...Whole",
]
WHOLE = f"""
    fragment Whole on Change {{
        __typename
        ... on TaskUpserted {{ task {{ kind: __typename {ALL_FIELDS} }} }}
        ... on ListUpserted {{ list {{ kind: __typename {LIST_FIELDS} }} }} ... on ListRemoved {{ lost: listId }}
    }}
"""
CREATE_LIST = "mutation ($id: ID!, $name: String!) { createList(input: { id: $id, name: $name }) { token } }"
DELETE_LIST = "mutation ($id: ID!) { deleteList(id: $id) { token } }"


@pytest.mark.parametrize("variant", VARIANTS)
async def test_each_subscription_gets_its_selection(site_of_all: Site, alice: User, bob: User, variant: str) -> None:
    """Each subscription gets what it selects, as PostgreSQL renders it for queries: values and the order of keys."""
    since = await now(alice)
    text = '"quotes", \\, \U0001f600'
    await alice.add(text, description=f"{text}\n\t\r", tags=["a", text], priority="HIGH", dueDate="2026-01-31")
    gone, done = [(await alice.add(title))["id"] for title in ("Gone", "Done")]
    await alice.data(DELETE, id=gone)
    await alice.data("mutation ($id: ID!) { setTaskCompleted(id: $id, completed: true) { token } }", id=done)
    home, away = str(uuid4()), str(uuid4())
    for list_id in (home, away):
        await alice.data(CREATE_LIST, id=list_id, name='"quotes", \\, \U0001f600')
        await alice.add("In a list", listId=list_id)
    await alice.data(DELETE_LIST, id=away)
    await bob.add("His")
    fragment = WHOLE if "...Whole" in variant else ""
    unused = "@skip(if: $no) @include(if: $yes)"
    variables = {"since": since, "yes": True, "no": False}
    head = "($since: SyncToken, $yes: Boolean!, $no: Boolean!)"
    query = f"query {head} {{ changes(since: $since) {{ changes {{ {variant} }} token {unused} }} }} {fragment}"
    shown = (await alice.data(query, **variables))["changes"]["changes"]

    follow = f"subscription {head} {{ changes(since: $since) {{ changes {{ {variant} ...Used }} }} }} {fragment}"
    follow += f" fragment Used on Change {{ ... on TaskRemoved {unused} {{ used: token }} }}"
    follower = await site_of_all.follow(alice, follow, **variables)
    found = [await follower.change() for _ in shown]

    for change in found:
        change.pop("used", None)
    assert len(shown) == 7
    assert [json.dumps(change) for change in found] == [json.dumps(change) for change in shown]


@pytest.fixture(scope="module")
async def site_of_all(settings: Settings) -> AsyncIterator[Site]:
    async with site(settings) as here:
        yield here
