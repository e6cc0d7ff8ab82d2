"""Devices that write offline, through a proxy that drops responses, to a server and a database that are killed."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from random import Random
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from conftest import SECRET, Serving, User, announced, connect, taskql
from outbox import Device, History, check, purge
from patience import PATIENCE_SECONDS
from test_faults import Postgres, environment

from app.database.embedded import EmbeddedPostgres
from app.identity.tokens import Signer

ROUNDS, KILLS = 9, 3


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with EmbeddedPostgres.start(tmp_path_factory.mktemp("outbox")) as embedded:
        yield Postgres(embedded)


class Servers:
    """A server process that can be killed and started again, at another address."""

    def __init__(self, postgres: Postgres) -> None:
        self._environment = environment(postgres.server)
        self._stack = ExitStack()
        self._served: Serving | None = None

    @property
    def url(self) -> str:
        assert self._served
        return self._served.url

    def start(self) -> None:
        process = taskql("serve", "--port", "0", "--migrate", **self._environment)
        self._served = self._stack.enter_context(announced(process, has_demo=False))

    def kill(self) -> None:
        assert self._served
        self._served.process.kill()
        self._served.process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        self._stack.close()


class Proxy:
    """Passes requests on, one on each connection, and drops some of the responses."""

    def __init__(self, servers: Servers, random: Random) -> None:
        self._servers, self._random, self.drops = servers, random, True

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            response = await self._answered(head + await reader.readexactly(int(length[1]) if length else 0))
            if not self.drops or self._random.random() > 0.3:
                writer.write(response)
                await writer.drain()
        writer.close()

    async def _answered(self, request: bytes) -> bytes:
        server = urlsplit(self._servers.url)
        reader, writer = await asyncio.open_connection(server.hostname, server.port)
        try:
            writer.write(re.sub(rb"(?i)connection: keep-alive", b"Connection: close", request))
            return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def proxied(servers: Servers, random: Random) -> AsyncIterator[tuple[Proxy, httpx.AsyncClient]]:
    proxy = Proxy(servers, random)
    listening = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    url = "http://127.0.0.1:{1}".format(*listening.sockets[0].getsockname())
    async with listening, httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        yield proxy, client


async def new_user(postgres: Postgres, client: httpx.AsyncClient) -> User:
    owner = await connect(postgres.server.owner_url)
    email = f"{uuid4()}@example.com"
    user_id = await owner.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", email)
    await owner.close()
    return User(user_id, email, Signer(SECRET).token(user_id, timedelta(hours=1)), client)


async def kill(postgres: Postgres, servers: Servers, random: Random) -> None:
    """Kill the server, or all processes of the database, while requests are on their way; then start it again."""
    for _ in range(random.randrange(20)):
        await asyncio.sleep(0)
    if random.random() < 0.5:
        servers.kill()
        await asyncio.to_thread(servers.start)
    else:
        postgres.signal(signal.SIGKILL)
        await asyncio.to_thread(postgres.start)


async def one_round(devices: list[Device], random: Random, *more: Any) -> None:
    for _ in range(8):
        random.choice(devices).act()
    met = [device.meet() for device in devices if random.random() < 0.7]
    await asyncio.gather(*met, *more)


@pytest.mark.parametrize("seed", range(3))
async def test_three_devices_and_kills(postgres: Postgres, seed: int) -> None:
    """What was acknowledged survives, nothing happens twice, and at the end all devices equal the database."""
    random = Random(seed)  # noqa: S311 - must be repeatable
    servers = Servers(postgres)
    try:
        await asyncio.to_thread(servers.start)
        async with proxied(servers, random) as (proxy, client):
            user, history = await new_user(postgres, client), History(random)
            devices = [Device(user, history) for _ in range(3)]
            for number in range(ROUNDS):
                is_killed = number % (ROUNDS // KILLS) == 1
                await one_round(devices, random, *([kill(postgres, servers, random)] if is_killed else []))
            owner = await connect(postgres.server.owner_url)
            await purge(owner, user, history)
            for device in devices:
                await device.finish()
            proxy.drops = False
            for device in devices:
                await device.finish()
            await check(owner, user, devices, history)
            await owner.close()
    finally:
        servers.close()
