"""No caller can starve the others: shares of every resource, fair queues, and charges for the cost caused."""

import asyncio
import gc
import socket
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from conftest import Application, Server, User, made_settings, running
from live import served
from patience import PATIENCE_SECONDS
from standstill import WAITING, standstill, waiting
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app import cli, origins
from app.database import connections
from app.errors import RateLimited, Unavailable
from app.main import create_app
from app.operations import GraphQLRequest
from app.settings import Settings, load
from app.sharing import preparing, rate_limits
from app.sharing.places import LARGE_BYTES, LARGE_OF_A_CALLER, MOST_LARGE, Places
from app.sharing.rate_limits import Pace
from app.web import endpoint as http_module
from app.web import other_requests, requests, sockets
from app.web.arrivals import Arrivals
from app.web.long_messages import LONGEST_BYTES
from schema.engine.execution import Engine

VIEWER = "{ viewer { id } }"
TITLES = "{ tasks { nodes { title } } }"
FILTERED = "query ($filter: TaskFilter) { tasks(first: 1, filter: $filter) { nodes { id } } }"
ORDERED = "query ($by: [TaskOrder!]) { tasks(first: 1, orderBy: $by) { nodes { id } } }"

NewUser = Callable[..., Awaitable[User]]


def code(answer: dict[str, Any]) -> str:
    """The code of the first error of a response."""
    found: str = answer["errors"][0]["extensions"]["code"]
    return found


async def rows(user: User, query: str, **variables: Any) -> int:
    """The cost of a query in rows."""
    cost: int = (await user.post(query, variables, extensions={"cost": True})).json()["extensions"]["cost"]["rows"]
    return cost


# Connections


@pytest.mark.parametrize("kind", ["reads", "writes", "other lists"])
async def test_a_flood_takes_a_third_of_the_connections(
    server: Server, settings: Settings, alice: User, bob: User, kind: str
) -> None:
    """However many requests a user sends at once, others get connections."""
    del settings
    queries = {
        "reads": TITLES,
        "writes": 'mutation { createTask(input: { title: "Mine" }) { token } }',
        "other lists": "{ a: tasks { totalCount } b: tasks(first: 3) { nodes { id } } c: changes { token } }",
    }
    async with running(made_settings(server, db_pool_size=6)) as application:
        alice.http = bob.http = application.http
        await bob.data(VIEWER)
        async with standstill(server) as watcher:
            flood = [asyncio.create_task(alice.ask(queries[kind])) for _ in range(20)]
            await waiting(watcher, 1 if kind == "writes" else 2)
            assert [await bob.data(VIEWER) for _ in range(20)] == [{"viewer": {"id": str(bob.id)}}] * 20
            assert await watcher.fetchval(WAITING) <= 2
            for task in flood:
                task.cancel()
        await asyncio.wait(flood)


async def test_a_user_of_slow_statements_has_fewer_connections(
    server: Server, settings: Settings, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a slow statement, its user has only two connections for a while; others keep their full share."""
    del settings
    monkeypatch.setattr(connections, "SLOW_SECONDS", 0.0)
    async with running(made_settings(server, db_pool_size=12)) as application:
        alice.http = bob.http = application.http
        await alice.data(TITLES)
        monkeypatch.setattr(connections, "SLOW_SECONDS", 3600.0)
        async with standstill(server) as watcher:
            flood = [asyncio.create_task(user.ask(TITLES)) for user in (alice, bob) for _ in range(4)]
            await waiting(watcher, 2 + 4)
            assert (await application.http.get("/livez")).status_code == 200
            assert not any(task.done() for task in flood)
            assert await watcher.fetchval(WAITING) == 2 + 4
        await asyncio.gather(*flood)
        monkeypatch.setattr("app.database.connections.monotonic", lambda: time.monotonic() + 11)
        async with standstill(server) as watcher:
            flood = [asyncio.create_task(alice.ask(TITLES)) for _ in range(4)]
            await waiting(watcher, 4)
        await asyncio.gather(*flood)


# Time


@pytest.fixture
async def timed(settings: Settings) -> AsyncIterator[Application]:
    """An application whose time limits a test can change."""
    async with running(settings) as application:
        yield application


def allow_nothing(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the time limit of callers to a microsecond per minute."""
    limit = application.app.state.rates._time  # noqa: SLF001 - no setting is so small
    monkeypatch.setattr(rate_limits, "LEAST_SECONDS", 1e-9)
    monkeypatch.setattr(limit._rate, "_most", 1)  # noqa: SLF001 - as above
    limit._rate._counters._windows.clear()  # noqa: SLF001 - as above
    limit.owed.clear()


async def test_the_time_of_statements_is_charged(
    timed: Application, new_user: NewUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request's time in the database is charged to its user's next request, and to no other."""
    alice, bob = await new_user(timed.http), await new_user(timed.http)
    await alice.data(VIEWER)
    allow_nothing(timed, monkeypatch)
    assert "errors" not in await alice.ask(VIEWER)

    refused = await alice.post(VIEWER)
    assert (refused.status_code, code(refused.json())) == (429, "RATE_LIMITED")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "seconds of database and server time" in refused.json()["errors"][0]["message"]
    assert (await bob.data(VIEWER))["viewer"] == {"id": str(bob.id)}


@pytest.mark.parametrize(
    "query", ["{", "{ nothing }", "{ viewer }", "query A { viewer { id } } query B { viewer { id } }"]
)
async def test_the_time_of_documents_is_charged(
    timed: Application, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    """The time to parse an invalid document is charged to the next request from its address."""
    allow_nothing(timed, monkeypatch)
    async with timed.at("192.0.2.1") as here, timed.at("192.0.2.2") as there:
        clients = (here, here, there)
        statuses = [(await client.post("/graphql", json={"query": query})).status_code for client in clients]

    assert statuses == [200, 429, 200]


async def test_one_request_at_a_time_is_never_refused() -> None:
    """Sequential requests that use exactly the time available are not rejected, even after one that overran."""
    limit = rate_limits.Rates(None, None, "60/minute")
    limit.spend("alice", 4.3)
    for _ in range(60):
        limit.spend("alice", 1)
        assert limit.charge("alice", 1, is_user=True) is None

    limit.spend("alice", 60)
    with pytest.raises(RateLimited):
        await (limit.charge("alice", 1, is_user=True) or asyncio.sleep(0))


async def test_windows_use_a_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows use a monotonic clock."""
    limit = rate_limits.Rates("10/minute", None)
    assert limit.charge("alice", 10, is_user=True) is None
    monkeypatch.setattr(time, "time", lambda now=time.time: now() - 3600)

    with pytest.raises(RateLimited) as refused:
        await (limit.charge("alice", 1, is_user=True) or asyncio.sleep(0))
    assert refused.value.seconds <= 60


# Estimates


async def test_filters_and_orders_have_a_cost(alice: User) -> None:
    """Every filter node costs a row; searches, tags, alternatives and sorting cost the rows they may scan."""
    plain = await rows(alice, FILTERED)
    search = await rows(alice, FILTERED, filter={"search": "a"})
    tags = await rows(alice, FILTERED, filter={"tagsAny": ["a", "b"]})
    nested = await rows(alice, FILTERED, filter={"or": [{"search": "a"}, {"search": "b"}, {"not": {"and": []}}]})

    assert (plain, search, tags, nested) == (1, 102, 22, 1 + 1 + 20 + 101 + 101 + 2)
    assert await rows(alice, FILTERED, filter={"search": " one two\u200b  one three "}) == 102 + 2 * 20
    assert await rows(alice, ORDERED, by={"field": "TITLE"}) == 101
    assert await rows(alice, ORDERED, by=[{"field": "DUE_DATE"}, {"field": "PRIORITY"}]) == 101
    assert await rows(alice, ORDERED, by={"field": "DUE_DATE"}) == 1


FILTERED_AND_ORDERED = """
    query ($filter: TaskFilter, $by: [TaskOrder!]) { tasks(first: 1, filter: $filter, orderBy: $by) { nodes { id } } }
"""
# An order, a filter beside it, and whether an index serves the order.
NULLABLE_ORDERS: list[tuple[dict[str, Any], dict[str, Any] | None, bool]] = [
    ({"field": "COMPLETED_AT"}, None, False),
    ({"field": "COMPLETED_AT"}, {"completed": True}, False),
    ({"field": "COMPLETED_AT"}, {"completedAt": {"gte": None}}, False),
    ({"field": "COMPLETED_AT"}, {"and": [{"completedAt": {"gte": "2026-01-01T00:00:00Z"}}]}, False),
    ({"field": "COMPLETED_AT"}, {"completedAt": {"gte": "2026-01-01T00:00:00Z"}}, True),
    ({"field": "COMPLETED_AT", "nulls": "FIRST"}, {"completedAt": {"lt": "2026-01-01T00:00:00Z"}}, True),
    ({"field": "DELETED_AT"}, {"trashed": False}, False),
    ({"field": "DELETED_AT", "direction": "DESC"}, {"trashed": True}, True),
    ({"field": "DUE_DATE", "nulls": "LAST"}, None, True),
    ({"field": "DUE_DATE", "nulls": "FIRST"}, None, False),
    ({"field": "DUE_DATE", "nulls": "FIRST", "direction": "DESC"}, None, True),
    ({"field": "DUE_DATE", "nulls": "LAST", "direction": "DESC"}, {"due": {"isNull": False}}, False),
    ({"field": "DUE_DATE", "nulls": "LAST", "direction": "DESC"}, {"due": {"lt": "2026-01-01"}}, True),
]


@pytest.mark.parametrize(("order", "beside", "has_index"), NULLABLE_ORDERS)
async def test_orders_with_nulls_cost_a_sort_unless_an_index_serves_them(
    alice: User, order: dict[str, Any], beside: dict[str, Any] | None, *, has_index: bool
) -> None:
    """A filter that excludes null gives them an index, as a variable beside the order and as a literal."""
    filtering = await rows(alice, FILTERED, filter=beside)
    expected = filtering + (0 if has_index else 100)
    literal = ", ".join(f"{name}: {value}" for name, value in order.items())
    given = f"first: 1, filter: $filter, orderBy: {{ {literal} }}"
    fixed = f"query ($filter: TaskFilter) {{ tasks({given}) {{ nodes {{ id }} }} }}"

    assert await rows(alice, FILTERED_AND_ORDERED, filter=beside, by=order) == expected
    assert await rows(alice, fixed, filter=beside) == expected


async def test_literals_cost_what_variables_cost(alice: User) -> None:
    """A condition costs the same as a literal and as a variable."""
    assert (
        await rows(alice, '{ tasks(first: 1, filter: { search: "a" }, orderBy: { field: TITLE }) { nodes { id } } }')
        == 202
    )
    inner = "query ($s: String) { tasks(first: 1, filter: { or: [{ search: $s }, { search: $s }] }) { nodes { id } } }"
    assert await rows(alice, inner, s="a") == 1 + 21 + 202
    assert await rows(alice, inner, s="a b") == 1 + 21 + 242
    bulk = "mutation ($where: TaskSelector!) { deleteTasks(where: $where, atMost: 1) { affectedCount } }"
    assert await rows(alice, bulk, where={"filter": {"search": "a"}}) == 102


@pytest.mark.parametrize(
    "tree",
    [
        {"or": [{"or": []}] * 2400},
        {"and": [{}] * 51},
        {"not": {"not": {"or": [{"and": []}] * 50}}},
        {"or": [{"trashed": False}] * 51},
        {"or": [{"search": "a"}] * 45},
    ],
    ids=["empty alternatives", "empty filters", "deep", "trashed", "searches"],
)
async def test_every_node_of_a_filter_counts(alice: User, tree: dict[str, Any]) -> None:
    """A filter with too many nodes is rejected, even if the nodes are empty."""
    many = "query ($filter: TaskFilter) {" + " ".join(
        f"a{number}: tasks(first: 1, filter: $filter) {{ nodes {{ id }} }}" for number in range(20)
    )
    for query in (FILTERED, many + "}"):
        answer = await alice.ask(query, filter=tree)
        if query == FILTERED and tree == {"or": [{"search": "a"}] * 45}:
            continue  # fits 50 nodes, but not twenty times in one request
        assert code(answer) == "LIMIT_EXCEEDED"


# The event loop


@pytest.mark.parametrize("query", [TITLES + " #%s", '{ tasks(filter: { search: "%s" }) { nodes { title } } }'])
async def test_documents_and_statements_are_prepared_off_the_loop(
    alice: User, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    """Slow first-time work on documents and statements runs in another thread and does not block the loop."""
    seen = set[str]()
    prepared = Engine.prepared

    def watched(self: Engine, *arguments: Any) -> Any:
        seen.add(threading.current_thread().name)
        return prepared(self, *arguments)

    monkeypatch.setattr(Engine, "prepared", watched)
    await alice.data(query % uuid4())

    assert len(seen) == 1
    assert seen.pop().startswith("preparing")


async def test_callers_take_turns_at_preparing() -> None:
    """A flood of one caller delays another by one task at most; abandoned work is charged too."""
    spent = list[str]()
    done = list[str]()
    preparation = preparing.Preparation(lambda payer, _seconds: spent.append(payer))
    gate = threading.Event()

    async def prepare(payer: str, *, is_user: bool = True) -> None:
        await preparation.run(payer, gate.wait, is_user=is_user)
        done.append(payer)

    flood = [asyncio.create_task(prepare("mallory")) for _ in range(5)]
    strangers = [asyncio.create_task(prepare(f"192.0.2.{place}", is_user=False)) for place in range(3)]
    await asyncio.sleep(0)
    victim = asyncio.create_task(prepare("alice"))
    await asyncio.sleep(0)
    flood[0].cancel()
    gate.set()
    await asyncio.wait([*flood, *strangers, victim])

    assert done.index("alice") <= 1
    assert spent[0] == "mallory"
    assert sorted(set(spent)) == ["192.0.2.0", "192.0.2.1", "192.0.2.2", "alice", "mallory"]
    await preparation.close()


async def test_introspection_is_cached(alice: User, http: httpx.AsyncClient) -> None:
    """An introspection query is executed once, off the loop, and its cached result costs little."""
    query = "{ __schema { types { name fields { name args { name } type { name } } } } }" + f"# {uuid4()}"
    first = await http.post("/graphql", json={"query": query})
    again = (await alice.post(query, extensions={"cost": True})).json()

    cost = again.pop("extensions")["cost"]
    assert again == first.json()
    assert cost["serverMs"] == 0
    assert cost["rows"] <= 20
    mixed = (await alice.ask("{ viewer { id } __schema { queryType { name } } }"))["data"]
    assert mixed == {"viewer": {"id": str(alice.id)}, "__schema": {"queryType": {"name": "Query"}}}


async def test_large_variables_are_read_off_the_loop(alice: User) -> None:
    """Variables with many values are coerced in the preparation thread, and charged."""
    query = "query ($ids: [ID!]) { tasks(filter: { ids: $ids }) { nodes { id } } }"
    small = (await alice.post(query, {"ids": [str(uuid4())]}, extensions={"cost": True})).json()
    small = (await alice.post(query, {"ids": [str(uuid4())]}, extensions={"cost": True})).json()
    large = (await alice.post(query, {"ids": [str(uuid4())] * 900}, extensions={"cost": True})).json()

    assert small["extensions"]["cost"]["serverMs"] == 0
    assert large["extensions"]["cost"]["serverMs"] > 0


# Concurrency and incomplete requests


async def test_concurrent_requests_are_shared(server: Server, settings: Settings, alice: User, bob: User) -> None:
    """A user over her share of concurrent requests gets 429; others are served, and so is she once some have ended."""
    del settings
    async with running(made_settings(server, limit_concurrency=8)) as application:
        alice.http = bob.http = application.http
        async with standstill(server) as watcher:
            flood = [asyncio.create_task(alice.ask(TITLES)) for _ in range(2)]
            await waiting(watcher, 2)
            refused = await alice.post(VIEWER)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert "2 requests in progress" in refused.json()["errors"][0]["message"]
            assert (await bob.data(VIEWER))["viewer"] == {"id": str(bob.id)}
        await asyncio.gather(*flood)
        assert (await alice.data(VIEWER))["viewer"] == {"id": str(alice.id)}


async def test_a_disconnected_request_frees_its_slot(server: Server, settings: Settings, alice: User) -> None:
    """A request whose client disconnects frees its slot."""
    del settings
    async with running(made_settings(server, limit_concurrency=4)) as application:
        alice.http = application.http
        for _ in range(3):
            async with standstill(server) as watcher:
                asking = asyncio.create_task(alice.ask(TITLES))
                await waiting(watcher, 1)
                asking.cancel()
                await asyncio.wait([asking])
        assert (await alice.data(VIEWER))["viewer"] == {"id": str(alice.id)}


async def arrive(arrivals: Arrivals, address: str, ends: asyncio.Event) -> str:
    try:
        async with arrivals.place(address):
            await ends.wait()
    except TimeoutError:
        return "gave way"
    return "came"


async def test_incomplete_requests_are_evicted() -> None:
    """An address over its share of incomplete requests loses the oldest; without free slots the largest holder does."""
    arrivals, ends = Arrivals(6, 4), asyncio.Event()
    mallory = [asyncio.create_task(arrive(arrivals, "mallory", ends)) for _ in range(10)]
    await asyncio.sleep(0)
    alice = [asyncio.create_task(arrive(arrivals, "alice", ends)) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    ends.set()

    assert await asyncio.gather(*alice) == ["came"] * 3
    assert await asyncio.gather(*mallory) == ["gave way"] * 7 + ["came"] * 3
    assert await arrive(arrivals, "mallory", ends) == "came"


async def test_an_evicted_incomplete_body_gets_a_response(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evicted client gets 503 with Retry-After, and the connection closes."""
    monkeypatch.setattr(http_module, "MOST_ARRIVALS", 1)
    async with running(settings) as application:
        never = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b"{"
            await never.wait()

        headers = {"Content-Type": "application/json"}
        first = asyncio.create_task(application.http.post("/graphql", content=body(), headers=headers))
        for _ in range(10):
            await asyncio.sleep(0)

        async def parts() -> AsyncIterator[bytes]:
            yield b'{"query":'
            yield b'"{ __typename }"}'

        second = await application.http.post("/graphql", content=parts(), headers=headers)
        refused = await first

    assert second.json() == {"data": {"__typename": "Query"}}
    assert (refused.status_code, code(refused.json()), refused.headers["retry-after"]) == (503, "UNAVAILABLE", "1")
    assert refused.headers["connection"] == "close"


# Memory


async def test_large_bodies_are_read_by_turns() -> None:
    """Bodies are parsed one at a time, and an address with many large ones does not delay another."""
    arrivals, read = Arrivals(10, 10), list[str]()

    async def reading(address: str) -> None:
        async with arrivals.place(address):
            assert await arrivals.json(address, b"[1]") == ([1], 3)
            read.append(address)

    await asyncio.gather(*map(reading, ["mallory"] * 4 + ["alice"]))

    assert read == ["mallory", "alice", *["mallory"] * 3]


@pytest.mark.parametrize("size", [1, requests.SMALL_BYTES + 1])
@pytest.mark.parametrize("limit", ["1/minute", "off"])
async def test_an_invalid_body_is_freed_before_the_response(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, limit: str, size: int
) -> None:
    """The parsed body of an invalid request is freed before the response is sent."""

    class Read(list[Any]):
        """A list that supports weak references."""

    known: list[weakref.ref[Any]] = []
    kept: list[bool] = []

    def loads(_: object) -> Read:
        read = Read()
        known.append(weakref.ref(read))
        return read

    async def respond(*given: Any) -> None:
        kept.extend(one() is not None for one in known)
        await answered(*given)

    answered = http_module._respond  # noqa: SLF001 - what is kept meanwhile is visible only from within
    async with running(settings.model_copy(update={"rate_limit_anonymous": limit})) as application:
        monkeypatch.setattr(orjson, "loads", loads)
        monkeypatch.setattr(http_module, "_respond", respond)
        headers = {"Content-Type": "application/json"}
        answer = await application.http.post("/graphql", content=b"[" + b" " * size + b"]", headers=headers)
        monkeypatch.undo()

    assert answer.status_code == (400 if limit == "off" else 429)
    assert kept == [False]


@pytest.mark.parametrize("query", [VIEWER, "{ nothing }"])
@pytest.mark.parametrize("known", [True, False])
async def test_variables_are_freed_after_the_response(
    settings: Settings,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    known: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Variables are freed with the response, without garbage collection, even if an error's traceback exists."""

    class Read(list[Any]):
        """A list that supports weak references."""

    watched: list[weakref.ref[Any]] = []

    def loads(_: object) -> Any:
        read = Read()
        watched.append(weakref.ref(read))
        return {"query": query, "variables": {"unused": read}}

    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {alice.token}"} if known else {})}
    async with running(settings) as application:
        gc.disable()
        try:
            with monkeypatch.context() as patched:
                patched.setattr(orjson, "loads", loads)
                await application.http.post("/graphql", content=b"{}", headers=headers)
            kept = [one() is not None for one in watched]
        finally:
            gc.enable()

    assert kept == [False]


def large(payer: str) -> GraphQLRequest:
    """A large request of a caller."""
    return GraphQLRequest("{a}", None, None, None, None, None, "1", size=LARGE_BYTES + 1, payer=payer)


def test_a_caller_has_few_large_requests_under_way() -> None:
    """A caller has a share of the slots for large requests; small ones need none, and a finished one frees its own."""
    places = Places(1000)
    hers = [large("mallory") for _ in range(LARGE_OF_A_CALLER + 1)]
    for request in hers[:-1]:
        places.take(request, is_user=True)
    with pytest.raises(RateLimited, match=f"You have {LARGE_OF_A_CALLER} large requests in"):
        places.take(hers[-1], is_user=True)
    hers[-1].leave()
    small = large("mallory")
    small.size = LARGE_BYTES
    places.take(small, is_user=True)
    hers[0].leave()
    places.take(hers[-1], is_user=True)
    for number in range(MOST_LARGE - LARGE_OF_A_CALLER):
        places.take(large(str(number)), is_user=True)
    with pytest.raises(Unavailable, match="too many large requests"):
        places.take(large("alice"), is_user=True)


async def test_many_lists_make_a_request_large(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists and objects count more than their bytes, in a body, in a URL and in a message of a socket."""
    sizes: list[float] = []
    take = Places.take

    def noted(places: Places, request: GraphQLRequest, *, is_user: bool) -> None:
        sizes.append(request.size)
        take(places, request, is_user=is_user)

    monkeypatch.setattr(Places, "take", noted)
    few, many = {"a": "x" * 3000}, {"a": [{"b": 1}] * 500}
    for variables in (few, many):
        await alice.post("{ viewer { id } }", variables)
        given = {"query": "{ viewer { id } }", "variables": orjson.dumps(variables).decode()}
        await alice.http.get("/graphql", params=given, headers={"Authorization": f"Bearer {alice.token}"})

    assert [size > LARGE_BYTES for size in sizes] == [False, False, True, True]
    event = {"text": orjson.dumps(many).decode()}
    assert sockets._message(event, LONGEST_BYTES)[1] > LARGE_BYTES  # noqa: SLF001 - not visible outside


def test_the_receive_buffer_is_limited() -> None:
    """The kernel's receive buffer is limited; Linux reports twice the size set."""
    with cli.listening(load(port=0)) as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 2 * cli.UNREAD_BYTES


# Caches


async def test_anonymous_callers_evict_nothing_of_users(settings: Settings, new_user: NewUser) -> None:
    """A flood of anonymous documents, padded or not, does not evict users' prepared operations."""
    async with running(settings) as application:
        alice = await new_user(application.http)
        await alice.data(TITLES)
        for number in range(120):
            leaves = " ".join(f"a{leaf}: __typename" for leaf in range(80)) if number % 2 else "__typename"
            query = f"{{ {leaves} }} # {number} " + "x" * (0 if number % 2 else 20_000)
            await application.http.post("/graphql", json={"query": query})
        cost = (await alice.post(TITLES, extensions={"cost": True})).json()["extensions"]["cost"]

    assert cost["serverMs"] == 0


async def test_a_user_evicts_her_own(
    server: Server, settings: Settings, new_user: NewUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who sends ever new documents and shapes evicts her own entries first."""
    del settings
    monkeypatch.setattr("schema.engine.execution.MOST_TOKENS", 500)
    monkeypatch.setattr("app.database.compiling.MOST_TEXT", 20_000)
    async with running(made_settings(server)) as application:
        alice, mallory = await new_user(application.http), await new_user(application.http)
        await alice.data(FILTERED, filter={"completed": True})
        for number in range(40):
            conditions = [{"completed": True}] * (number % 20 + 1)
            await mallory.data(FILTERED + f"#{number}", filter={"and": conditions})
        cost = (await alice.post(FILTERED, {"filter": {"completed": True}}, extensions={"cost": True})).json()

    assert cost["extensions"]["cost"]["serverMs"] == 0


async def test_anonymous_persisted_documents_are_stored_separately(settings: Settings, new_user: NewUser) -> None:
    """Persisted documents of anonymous callers have a separate store."""

    def persisted(query: str) -> dict[str, Any]:
        return {"persistedQuery": {"version": 1, "sha256Hash": sha256(query.encode()).hexdigest()}}

    async with running(settings) as application:
        alice = await new_user(application.http)
        await alice.post(TITLES, extensions=persisted(TITLES))
        for number in range(400):
            query = "{ " + " ".join(f"a{leaf}: __typename" for leaf in range(90)) + f" }} # {number}"
            await application.http.post("/graphql", json={"query": query, "extensions": persisted(query)})
        headers = {"Authorization": f"Bearer {alice.token}"}
        answer = await application.http.post("/graphql", json={"extensions": persisted(TITLES)}, headers=headers)

    assert answer.json() == {"data": {"tasks": {"nodes": []}}}


@pytest.mark.parametrize(
    "query",
    ["{}", "query {}", "mutation {}", "{ viewer {} }", "{ viewer { ...{} } }", "{ ...F } fragment F on Query {}"],
)
async def test_an_empty_selection_is_a_syntax_error(alice: User, query: str) -> None:
    """An empty selection set is a syntax error."""
    answer = await alice.post(query)

    assert (answer.status_code, code(answer.json())) == (200, "GRAPHQL_PARSE_FAILED")


# Rejected requests


async def test_unreadable_requests_are_charged(settings: Settings) -> None:
    """An anonymous caller that sends only unreadable requests is soon rate limited; other addresses are not."""
    async with (
        running(settings.model_copy(update={"rate_limit_anonymous": "50/minute"})) as application,
        application.at("192.0.2.1") as here,
        application.at("192.0.2.2") as there,
    ):
        rubbish = [await here.post("/graphql", content=b"{", headers={"Content-Type": "application/json"})]
        rubbish += [await here.post("/graphql", content=b"{") for _ in range(10)]
        rubbish.append(await here.post("/graphql", json={"query": 1}))
        other = await there.post("/graphql", content=b"{")

    statuses = [answer.status_code for answer in rubbish]
    assert statuses == [400, *[415] * 9, 429, 429]
    assert code(rubbish[-1].json()) == "RATE_LIMITED"
    assert 1 <= int(rubbish[-1].headers["retry-after"]) <= 60
    assert other.status_code == 415


async def test_other_addresses_have_a_limit(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests without an operation are rate limited per client; health probes are counted separately."""
    monkeypatch.setattr(rate_limits, "OTHER_REQUESTS", "3/10 minutes")
    monkeypatch.setattr(other_requests, "PAUSE_SECONDS", 0)
    async with (
        running(settings) as application,
        application.at("192.0.2.1") as here,
        application.at("192.0.2.2") as there,
    ):
        asked = [await here.get(path) for path in ("/", "/", "/nothing", "/nothing", "/")]
        probes = [await here.get(path) for path in ("/livez", "/readyz", "/livez", "/livez")]
        other = await there.get("/livez")
        answer = await here.post("/graphql", json={"query": "{ __typename }"})

    assert [one.status_code for one in asked] == [307, 307, 404, 429, 429]
    assert [one.status_code for one in probes] == [200, 200, 200, 429]
    refused = asked[-1].json()["errors"][0]
    assert refused["message"].startswith("You have used more than 3 requests that run no operation in 10 minutes; try")
    assert refused["extensions"]["code"] == "RATE_LIMITED"
    assert asked[-1].headers["retry-after"] == str(refused["extensions"]["retryAfter"])
    assert other.status_code == 200
    assert answer.json() == {"data": {"__typename": "Query"}}


PREFLIGHT = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}


async def test_preflight_requests_have_a_limit(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preflight requests are charged like other requests without an operation, at every path, and so is the page."""
    monkeypatch.setattr(rate_limits, "OTHER_REQUESTS", "3/10 minutes")
    monkeypatch.setattr(other_requests, "PAUSE_SECONDS", 0)
    changed = {"cors_origins": ("https://app.example",), "rate_limit_anonymous": "12/hour"}
    async with (
        running(settings.model_copy(update=changed)) as application,
        application.at("192.0.2.1") as here,
        application.at("192.0.2.2") as there,
    ):
        paths = ("/graphql", "/", "/graphql", "/graphql", "/nothing")
        asked = [await here.options(path, headers=PREFLIGHT) for path in paths]
        other = await there.options("/graphql", headers=PREFLIGHT)
        pages = [await here.get("/graphql", headers={"Accept": "text/html"}) for _ in range(4)]

    assert [one.status_code for one in asked] == [200, 200, 200, 429, 429]
    assert {one.headers["access-control-allow-origin"] for one in asked} == {"https://app.example"}
    assert other.status_code == 200
    assert [one.status_code for one in pages] == [200, 200, 429, 429]


async def test_handshakes_have_a_limit(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handshakes are charged to their address, whatever becomes of them; other addresses are not affected."""
    monkeypatch.setattr(rate_limits, "OTHER_REQUESTS", "3/10 minutes")
    monkeypatch.setattr(other_requests, "PAUSE_SECONDS", 0)
    protocols: Any = [sockets.SUBPROTOCOL]

    async def status(path: str, source: str, **options: Any) -> int:
        try:
            async with connect(
                f"ws://{address}{path}", open_timeout=PATIENCE_SECONDS, local_addr=(source, 0), **options
            ) as socket_:
                return socket_.response.status_code if socket_.response else 0
        except InvalidStatus as refused:
            return refused.response.status_code

    async with served(create_app(settings)) as address:
        opened = [
            await status("/graphql", "127.0.0.1", subprotocols=protocols),
            await status("/graphql", "127.0.0.1", origin="https://evil.example"),
            await status("/nothing", "127.0.0.1"),
            await status("/graphql", "127.0.0.1", subprotocols=protocols),
            await status("/nothing", "127.0.0.1"),
        ]
        other = await status("/graphql", "127.0.0.2", subprotocols=protocols)

    assert opened == [101, 403, 404, 429, 429]
    assert other == 101


async def test_a_refusal_leaves_no_garbage() -> None:
    """An error of an exceeded rate is freed at once, without a garbage collection, and so is its request."""
    rates = rate_limits.Rates("1/minute", None, "1/minute")
    rates.spend("mallory", 100)

    async def refused() -> "weakref.ref[RateLimited]":
        try:
            if waits := rates.charge("mallory", 2, is_user=True):
                await waits
        except RateLimited as error:
            return weakref.ref(error)
        raise AssertionError

    gc.disable()
    try:
        left = await refused()
        await asyncio.sleep(0)  # its tasks end
    finally:
        gc.enable()
    assert left() is None


def test_long_origins_are_not_kept() -> None:
    """An origin or a host of any length takes no memory after its request."""
    before = origins._normalized.cache_info().currsize  # noqa: SLF001 - the cache is not visible otherwise
    allowed = origins.Origins(["https://app.example"])
    for number in range(5):
        assert not allowed.is_allowed(f"https://{number}{'x' * 400}.example")
        assert not origins.is_same("https://app.example", f"{number}{'x' * 400}.example")

    assert origins._normalized.cache_info().currsize <= before + 1  # noqa: SLF001 - the same


def test_a_pace_allows_a_burst() -> None:
    """A pace allows a burst and then one call per interval; a pause restores the burst, but no larger one."""
    now = 1000.0
    pace = Pace(0.5, 2, lambda: now)

    assert [pace.delay() for _ in range(4)] == [0, 0, 0.5, 1.0]
    now += 1.0
    assert pace.delay() == 0.5
    now += 3600
    assert [pace.delay() for _ in range(3)] == [0, 0, 0.5]
