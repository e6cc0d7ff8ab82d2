"""Idle connections and incomplete requests: timeouts, limits, and which connections are closed first."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import live
import pytest
from conftest import User, made_settings
from live import protocol, served
from patience import PATIENCE_SECONDS
from raw import headers, request, statuses
from starlette.types import Receive, Scope, Send

from app.main import create_app
from app.settings import Settings
from app.web import connections, http_protocol

LIVE = request("GET /livez HTTP/1.1")
HALF = b"GET /livez HTTP/1.1\r\nHos"
HALF_A_BODY = request("POST /graphql HTTP/1.1", "Content-Type: application/json", "Content-Length: 99") + b"{"
MOST = 3


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, sent: bytes = LIVE) -> None:
        """Send a request and read its response, which is that of /livez."""
        self._writer.write(sent)
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
        assert statuses(head) == [200]
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await self._reader.readexactly(length)

    async def send(self, sent: bytes) -> None:
        self._writer.write(sent)
        await self._writer.drain()

    async def rest(self) -> bytes:
        """All remaining output, once the server has closed the connection."""
        return await asyncio.wait_for(self._reader.read(), PATIENCE_SECONDS)

    def close(self) -> None:
        self._writer.close()


class Clients:
    def __init__(self, address: str) -> None:
        self.address, self._all = address, list[Client]()

    async def new(self) -> Client:
        client = Client(*await asyncio.open_connection(*self.address.split(":")))
        self._all.append(client)
        return client

    async def idle(self) -> Client:
        """A connection with a completed request."""
        client = await self.new()
        await client.ask()
        return client

    async def sent(self, sent: bytes) -> Client:
        """A connection on which the server has read these bytes."""
        client = await self.new()
        await client.send(sent)
        await (await self.new()).ask(
            request("GET /livez HTTP/1.1", "Connection: close")
        )  # now the server has read the bytes
        return client

    def close(self) -> None:
        for client in self._all:
            client.close()


@asynccontextmanager
async def clients(settings: Settings, **changes: Any) -> AsyncIterator[Clients]:
    """Clients of a server with these settings."""
    changed = settings.model_copy(update=changes)
    async with served(create_app(changed, schema=live.schema), http=protocol(changed)) as address:
        found = Clients(address)
        try:
            yield found
        finally:
            found.close()


async def test_the_connection_idle_longest_gives_way(settings: Settings) -> None:
    """Over the limit the connection with the oldest last response is closed, without a response."""
    async with clients(settings, limit_idle_connections=MOST) as made:
        first, second, third = [await made.idle() for _ in range(MOST)]
        await first.ask()
        fourth = await made.idle()
        assert await second.rest() == b""
        await first.ask()
        await fourth.ask()
        fifth = await made.idle()
        assert await third.rest() == b""
        for client in (first, fourth, fifth):
            await client.ask()


async def test_only_idle_connections_give_way(settings: Settings, alice: User) -> None:
    """Event streams, sockets and incomplete requests do not count as idle."""
    token = f"Authorization: Bearer {alice.token}"
    stream = request("GET /graphql?query=subscription{silence} HTTP/1.1", "Accept: text/event-stream", token)
    shake = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    more = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: graphql-transport-ws")
    async with clients(settings, limit_idle_connections=MOST) as made:
        streaming, socket = await made.idle(), await made.idle()
        await streaming.send(stream)
        await live.watch.until(1)
        await socket.send(request("GET /graphql HTTP/1.1", *shake, *more))
        half = await made.sent(HALF)
        for _ in range(3 * MOST):
            await made.idle()
        await half.ask(b"t: x\r\n\r\n")
        assert live.watch.open == 1
        streaming.close()
        await live.watch.until(0)
        await socket.send(b"\x88\x80\0\0\0\0")
        assert (await socket.rest()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("part", [b"", HALF, HALF_A_BODY], ids=["nothing", "half a head", "half a body"])
async def test_the_oldest_incomplete_request_gives_way(settings: Settings, part: bytes) -> None:
    """Over the limit the oldest incomplete request gets 408, and idle connections stay."""
    async with clients(settings, limit_idle_connections=MOST) as made:
        idle = [await made.idle() for _ in range(MOST)]
        first = await made.new()
        await first.send(part)
        others = [await made.new() for _ in range(MOST)]
        for other in others:
            await other.send(HALF)
        assert statuses(await first.rest()) == ([408] if part else [])
        for client in idle:
            await client.ask()
        for other in others:
            await other.ask(b"t: x\r\n\r\n")


@pytest.mark.parametrize("part", [HALF, HALF_A_BODY, LIVE + HALF], ids=["half a head", "half a body", "more"])
async def test_a_request_in_progress_does_not_give_way(settings: Settings, part: bytes) -> None:
    """A request in progress is not closed, even if a part of the next request has arrived."""
    began, answer = asyncio.Event(), asyncio.Event()

    async def slow(_scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        while (await receive()).get("more_body"):
            pass
        await answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    changed = settings.model_copy(update={"limit_idle_connections": MOST})
    async with served(slow, http=protocol(changed), lifespan="off") as address:
        made = Clients(address)
        busy = await made.new()
        await busy.send(LIVE)
        await began.wait()
        await busy.send(part)
        try:
            halves = [await made.new() for _ in range(MOST + 1)]
            for half in halves[1:]:
                await half.send(HALF)
            assert await halves[0].rest() == b""
        finally:
            answer.set()
        for _ in range(MOST + 1):
            await (await made.new()).send(HALF)
        answered = [200] * (2 if part.startswith(LIVE) else 1)
        assert statuses(await busy.rest()) == [*answered, 408]
        made.close()


async def test_incomplete_requests_leave_room(settings: Settings) -> None:
    """However many incomplete requests there are, others are answered."""
    async with clients(settings, limit_idle_connections=50) as made:
        halves = [await made.new() for _ in range(200)]
        for half in halves:
            await half.send(HALF)
        await (await made.new()).ask()
        assert {tuple(statuses(await half.rest())) for half in halves[:100]} <= {(408,), ()}


@pytest.mark.parametrize("between", [b"", b"\r\n"], ids=["nothing", "an empty line"])
async def test_idle_connections_are_kept_alive(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, between: bytes
) -> None:
    """Idle connections stay longer than incomplete requests, but not for ever."""
    monkeypatch.setattr(http_protocol, "LOOK_SECONDS", 0.05)
    async with clients(settings, keep_alive_seconds=1.5) as made:
        started = asyncio.get_running_loop().time()
        idle, silent, half = await made.idle(), await made.new(), await made.sent(LIVE + HALF)
        refused = await made.sent(request("PUT /livez HTTP/1.1", "Content-Length: 10") + b"1")
        await idle.send(between)
        assert await silent.rest() == b""
        assert statuses(await half.rest()) == [200, 408]
        assert statuses(await refused.rest()) == [405]
        assert await idle.rest() == b""
        assert asyncio.get_running_loop().time() - started > 1.5


async def test_a_chunked_request_leaves_its_connection_idle(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A last chunk after the response is no new request, and gets no rejection."""
    monkeypatch.setattr(http_protocol, "LOOK_SECONDS", 0.02)
    async with clients(settings, keep_alive_seconds=0.5) as made:
        for status in (415, 405):
            method = "POST" if status == 415 else "PUT"
            client = await made.sent(
                request(f"{method} /graphql HTTP/1.1", "Transfer-Encoding: chunked") + b"1\r\nx\r\n"
            )
            await client.send(b"0\r\n\r\n")
            assert statuses(await client.rest()) == [status]


def test_descriptors_bound_the_connections(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A low limit of file descriptors lowers the number of connections."""
    for descriptors, most in ((200, 50), (10**6, 1000), (resource.RLIM_INFINITY, 1000)):
        monkeypatch.setattr("resource.getrlimit", lambda _kind, most=descriptors: (most, most))
        assert connections.Connections(made_settings(server)).idle.most == most


async def test_connections_with_long_heads_are_limited(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit the connection whose last long head is the oldest is closed, even if it is idle."""
    monkeypatch.setattr(connections, "MOST_LONG", 2)
    head = request("GET /livez HTTP/1.1", f"Padding: {'x' * http_protocol.LONG_BYTES}")
    async with clients(settings) as made:
        idle, short, half = await made.idle(), await made.idle(), await made.sent(head[:-10])
        await idle.ask(head)
        await half.ask(head[-10:])
        await idle.ask(head)
        await idle.ask(head)
        cut = await made.sent(head[:-10])
        assert await half.rest() == b""
        await idle.ask(head)
        last = await made.idle()
        await last.ask(head)
        refused = await cut.rest()
        for client in (idle, short, last):
            await client.ask()

    assert statuses(refused) == [503]
    assert headers(refused)["retry-after"] == "1"
    assert b"long URLs or headers" in refused
