"""Waiting for a connection or for another write of the same user, and connections that no longer respond."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from conftest import ACTIVITY, Server, User, connect, made_settings, running
from patience import PATIENCE_SECONDS
from prometheus_client import REGISTRY
from sqlalchemy import URL

from app.database.url import DatabaseURL
from app.settings import Settings

VIEWER = "{ viewer { id } }"
ONE = 'mutation { createTask(input: {title: "One"}) { token } }'
TWO = 'mutation { a: createTask(input: {title: "A"}) { token } b: createTask(input: {title: "B"}) { token } }'
LOCK = "SELECT version FROM task_clocks WHERE user_id = $1 FOR UPDATE"
WAITING = f"""
    SELECT count(*) FROM {ACTIVITY} WHERE wait_event_type = 'Lock' AND datname = current_database()
"""  # noqa: S608 - constants of this module
POOL = 4

Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """A proxy to a database server whose connections can stop responding without being closed."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._silence, self.swallowed = asyncio.Event(), asyncio.Event()
        self._relays: set[asyncio.Task[None]] = set()

    def silence(self) -> None:
        """Swallow all data on the open connections, and set `swallowed` on the first; later connections work."""
        self._silence.set()
        self._silence = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await self._connected()
        for source, target in ((reader, server), (answers, writer)):
            relay = asyncio.create_task(_relay(source, target, self._silence, self.swallowed))
            self._relays.add(relay)

    async def _connected(self) -> Pipe:
        query: dict[str, Any] = dict(self._url.query)
        host, port = self._url.host or query["host"], self._url.port or query.get("port", 5432)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def ended(self) -> None:
        await asyncio.gather(*self._relays)


async def _relay(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, silence: asyncio.Event, swallowed: asyncio.Event
) -> None:
    while data := await source.read(65536):
        if silence.is_set():
            swallowed.set()
        else:
            target.write(data)
    target.close()


@asynccontextmanager
async def proxied(server: Server, folder: Path) -> AsyncIterator[tuple[Proxy, Server]]:
    """A proxy in front of a server, and the server's URLs through it."""
    proxy = Proxy(DatabaseURL(server.app_url).sqlalchemy)
    listener = await asyncio.start_unix_server(proxy.serve, folder / ".s.PGSQL.5432")
    app_url = f"postgresql://taskql_app@/taskql?host={folder}&port=5432"
    async with listener:
        yield proxy, Server(server.owner_url, app_url)
        await proxy.ended()


async def connected(users: Sequence[User]) -> Sequence[User]:
    """Make each user hold a connection at the same time; one user alone gets only a share of the pool."""
    await asyncio.gather(*(user.data(VIEWER) for user in users))
    return users


class Farewells:
    """The highest number of open connections that the driver closes at once, waiting for a reply on each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self._now = 0
        self._close = asyncpg.Connection.close
        farewells = self

        async def close(connection: "asyncpg.Connection[Any]", *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's signature
            await farewells.count(connection, timeout)

        monkeypatch.setattr(asyncpg.Connection, "close", close)

    async def count(self, connection: "asyncpg.Connection[Any]", seconds: float | None) -> None:
        is_open = not connection.is_closed()
        self._now += is_open
        self.most = max(self.most, self._now)
        try:
            await self._close(connection, timeout=seconds)
        finally:
            self._now -= is_open


@pytest.fixture
def farewells(monkeypatch: pytest.MonkeyPatch) -> Farewells:
    return Farewells(monkeypatch)


async def test_closing_dead_connections_delays_no_request(  # noqa: PLR0913, PLR0917 - a proxy, and two things to observe
    server: Server,
    settings: Settings,
    new_user: Callable[..., Awaitable[User]],
    tmp_path: Path,
    farewells: Farewells,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closing expired connections that the network has dropped does not delay requests."""
    del settings
    async with proxied(server, tmp_path) as (proxy, met), running(made_settings(met, db_pool_size=POOL)) as application:
        alice, *_ = await connected([await new_user(application.http) for _ in range(POOL)])
        proxy.silence()
        monkeypatch.setattr("app.database.connections.RECYCLE_AFTER_SECONDS", 0.0)
        assert (await alice.data(VIEWER))["viewer"]["id"] == str(alice.id)
        assert farewells.most == 0


async def test_dead_connections_are_closed_concurrently(
    server: Server,
    settings: Settings,
    new_user: Callable[..., Awaitable[User]],
    tmp_path: Path,
    farewells: Farewells,
) -> None:
    """At shutdown, connections that no longer respond are closed concurrently."""
    del settings
    async with proxied(server, tmp_path) as (proxy, met), AsyncExitStack() as stack:
        application = await stack.enter_async_context(running(made_settings(met, db_pool_size=POOL)))
        await connected([await new_user(application.http) for _ in range(POOL)])
        proxy.silence()
        await stack.aclose()
        assert farewells.most == POOL


async def test_no_more_sessions_than_slots(
    server: Server,
    settings: Settings,
    new_user: Callable[..., Awaitable[User]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The slot of an abandoned connection is free only once the connection is closed."""
    del settings
    async with proxied(server, tmp_path) as (proxy, met), running(made_settings(met, db_pool_size=1)) as application:
        alice = await new_user(application.http)
        await alice.data(VIEWER)
        proxy.silence()
        left = asyncio.create_task(alice.post(VIEWER))
        await proxy.swallowed.wait()
        left.cancel()
        monkeypatch.setattr("app.database.connections.PATIENCE_SECONDS", 0.2)
        assert (await alice.post(VIEWER)).status_code == 503
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await alice.post(VIEWER)).status_code != 200:
                pass


async def test_a_queued_write_times_out(
    server: Server,
    settings: Settings,
    new_user: Callable[..., Awaitable[User]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A write times out while it waits for an earlier write of its user that has not timed out."""
    del settings
    async with proxied(server, tmp_path) as (proxy, met), running(made_settings(met, db_pool_size=POOL)) as application:
        alice = await new_user(application.http)
        await asyncio.gather(*(alice.data(VIEWER) for _ in range(POOL)))
        proxy.silence()
        first = asyncio.create_task(alice.post(ONE))
        await proxy.swallowed.wait()
        monkeypatch.setattr("app.database.database.COMMAND_TIMEOUT", 0.2)
        assert (await alice.post(ONE)).status_code == 503
        assert not first.done()
        first.cancel()


async def test_the_timeout_includes_the_wait_for_a_connection(
    server: Server,
    settings: Settings,
    new_user: Callable[..., Awaitable[User]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command timeout includes the wait for a connection."""
    del settings
    async with proxied(server, tmp_path) as (proxy, met), running(made_settings(met, db_pool_size=1)) as application:
        alice = await new_user(application.http)
        await alice.data(VIEWER)
        async with asyncio.timeout(PATIENCE_SECONDS):
            with await application.database.connections.take(uuid4()):
                monkeypatch.setattr("app.database.database.COMMAND_TIMEOUT", 1.0)
                late = asyncio.create_task(alice.post(VIEWER))
                while not REGISTRY.get_sample_value("taskql_pool_waiting"):  # noqa: ASYNC110 - there is no event to wait for
                    await asyncio.sleep(0)
                monkeypatch.setattr("app.database.database.COMMAND_TIMEOUT", 2.0 * PATIENCE_SECONDS)
                proxy.silence()
            assert (await late).status_code == 503


async def waiting(connection: "asyncpg.Connection[Any]", count: int) -> None:
    """Wait until this many sessions wait for a lock."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await connection.fetchval(WAITING) < count:  # noqa: ASYNC110 - PostgreSQL sends no event
            await asyncio.sleep(0.01)


async def test_a_second_write_queues_behind_others(
    alice: User, owner: "asyncpg.Connection[Any]", server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operation's second write queues behind other requests' writes, and times out like any write."""
    await alice.add()
    second = await connect(server.owner_url)
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with second.transaction():
            async with owner.transaction():
                await owner.fetchval(LOCK, alice.id)
                two = asyncio.create_task(alice.ask(TWO))
                await waiting(owner, 1)
                one = asyncio.create_task(alice.ask(ONE))
                locking = asyncio.create_task(second.fetchval(LOCK, alice.id))
                await waiting(owner, 2)
                monkeypatch.setattr("app.database.database.COMMAND_TIMEOUT", 0.1)
            await locking
            [error] = (await two)["errors"]
        assert (error["path"], error["extensions"]["code"]) == (["b"], "UNAVAILABLE")
        assert "errors" not in await one
    await second.close()
