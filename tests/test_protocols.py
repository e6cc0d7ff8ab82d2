"""Endless input on a real server, backpressure, and invalid or late responses."""

import asyncio
import gc
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import live
import pytest
from conftest import User
from live import served
from patience import PATIENCE_SECONDS
from starlette.types import Receive, Scope, Send

from app.main import create_app
from app.settings import Settings
from app.web import event_streams, heads, http_protocol, socket_protocol

CHUNKED = (
    "POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    "Expect: 100-continue\r\n\r\n"
)
HANDSHAKE = (
    b"GET /graphql HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
)
PONG = b"\x8a\x80\0\0\0\0"
PING = b"\x89\xfd\0\0\0\0" + b"x" * 125


@pytest.fixture(scope="module")
async def address(settings: Settings) -> AsyncIterator[str]:
    async with served(create_app(settings)) as address:
        yield address


async def said(address: str, head: str, rest: str) -> str:
    """The server's output until it closes the connection. A complete head is answered with 100 Continue."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            writer.write(head.encode())
            if head:
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(rest.encode())
            return (await reader.read()).decode()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("head", "start", "more"),
    [
        ("", "GET /graphql?query=", ","),
        ("", "GET /livez HTTP/1.1\r\nA: ", "a"),
        ("", "GET /livez HTTP/1.1\r\n", "a:b\r\n"),
        (CHUNKED, "0\r\n", "a:b\r\n"),
        (CHUNKED, "2;", "a"),
    ],
    ids=["a URL", "a header", "headers", "trailers", "a chunk's extension"],
)
async def test_without_end(address: str, head: str, start: str, more: str) -> None:
    """Endless heads, trailers and chunk extensions are rejected, and the connection is closed."""
    answer = await said(address, head, start + more * (heads.MOST_BYTES // len(more) + 1))

    assert answer.startswith("HTTP/1.1 431 ")
    assert '"code":"LIMIT_EXCEEDED"' in answer


async def test_a_long_url(address: str) -> None:
    """A URL near the HTTP parser's limit is accepted, and the connection stays open."""
    url = f"http://{address}/graphql?query=%7B__typename%7D" + "," * 65_000
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=1), timeout=PATIENCE_SECONDS) as http:
        answers = [(await http.get(url)).json() for _ in range(3)]

    assert answers == [{"data": {"__typename": "Query"}}] * 3


async def test_pings_without_end(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends pings without reading pongs is disconnected, even before it authenticates."""
    monkeypatch.setattr(socket_protocol, "MOST_UNSENT", 100_000)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)  # noqa: FBT003 - the only signature
        host, port = address.split(":")
        await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
        await sent(client, HANDSHAKE)
        assert (await asyncio.get_running_loop().sock_recv(client, 1000)).startswith(b"HTTP/1.1 101 ")
        with pytest.raises(ConnectionError):
            await sent(client, PING * 300_000)


async def test_a_flood_of_frames_takes_turns(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a large read the server pauses to let other connections run, and loses no data."""
    turns: list[object] = []
    read_on = socket_protocol.BoundedSockets._read_on  # noqa: SLF001 - the pause is not visible otherwise

    def counted(socket: socket_protocol.BoundedSockets) -> None:
        turns.append(socket)
        read_on(socket)

    monkeypatch.setattr(socket_protocol, "LARGE_READ", 1000)
    monkeypatch.setattr(socket_protocol.BoundedSockets, "_read_on", counted)
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(HANDSHAKE)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(PONG * 20_000 + PING)
        assert await reader.readexactly(127) == b"\x8a\x7d" + b"x" * 125
    writer.close()

    assert len(turns) > 1


async def sent(client: socket.socket, data: bytes) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.get_running_loop().sock_sendall(client, data)


QUERY = "GET /graphql?query=%7B__typename%7D HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n{}\r\n"
CLOSE = "Connection: close\r\n"


async def test_a_response_to_head_is_sent_at_once(address: str) -> None:
    """The response to HEAD is its head only, and the connection stays usable."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
    writer.write(QUERY.format(CLOSE).encode())
    answer = await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
    writer.close()

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"content-length" in head
    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_a_stream_begins_at_once(settings: Settings, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of an event stream is sent before the first event and the first comment."""
    monkeypatch.setattr(event_streams, "KEEP_ALIVE_SECONDS", 2.0 * PATIENCE_SECONDS)
    async with served(create_app(settings, schema=live.schema)) as address:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(
            "GET /graphql?query=subscription%7Bsilence%7D HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {alice.token}\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
        writer.close()

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"text/event-stream" in head


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\rb", b"a\nb"])
async def test_headers_with_line_breaks_are_not_sent(value: bytes) -> None:
    """A response with a line break in a header is not sent."""

    async def wrong(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"2"), (b"x-bad", value)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    async with served(wrong, lifespan="off") as address, httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http:
        with pytest.raises(httpx.RemoteProtocolError, match="disconnected without sending"):
            await http.get(f"http://{address}/")


async def test_a_response_to_a_closed_connection(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that closes before its response is sent causes no error in the log."""
    transports: list[asyncio.Transport] = []
    made = http_protocol.BoundedRequests.connection_made

    def noted(protocol: http_protocol.BoundedRequests, transport: asyncio.Transport) -> None:
        transports.append(transport)
        made(protocol, transport)

    async def late(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        transports[-1].close()
        await send({"type": "http.response.body", "body": b"ok"})

    monkeypatch.setattr(http_protocol.BoundedRequests, "connection_made", noted)
    async with served(late, lifespan="off") as address, httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(f"http://{address}/")

    assert not caplog.records


SOCKET = HANDSHAKE.decode()
ENDING = {
    "a request": QUERY.format(""),
    "a rejected request": "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    "an event stream": QUERY.format("").replace("application/json", "text/event-stream"),
    "malformed HTTP": "GET /livez HTTP/1.1\r\n\r\n",
    "an incomplete head": "GET /livez HT",
    "an incomplete body": CHUNKED.replace("Expect: 100-continue\r\n", "") + "9\r\n{",
    "a socket": SOCKET,
    "a rejected socket": SOCKET.replace("/graphql", "/nothing"),
    "a malformed handshake": SOCKET.replace("Sec-WebSocket-Key", "Other"),
    "a malformed frame": SOCKET + "\x01\x02",
    "a long frame": SOCKET + "\x01\x7f" + "\x7f" * 8 + "\0" * 4,
}


@pytest.mark.parametrize("kind", ENDING)
async def test_a_connection_is_freed_when_it_ends(address: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a connection occupied waits for a full garbage collection, which is rare on a server."""
    made: list[str] = []
    freed = asyncio.Semaphore(0)

    def watch(protocol: type[Any]) -> None:
        begin = protocol.connection_made

        def connection_made(self: Any, transport: asyncio.Transport) -> None:
            made.append(protocol.__name__)
            weakref.finalize(self, freed.release)
            begin(self, transport)

        monkeypatch.setattr(protocol, "connection_made", connection_made)

    watch(http_protocol.BoundedRequests)
    watch(socket_protocol.BoundedSockets)
    gc.disable()
    try:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(ENDING[kind].encode())
        if "incomplete" not in kind:
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await freed.acquire()
            for _ in made[1:]:
                await freed.acquire()
    finally:
        gc.enable()
    assert ("BoundedSockets" in made) == (
        kind in {"a socket", "a rejected socket", "a malformed frame", "a long frame"}
    )
