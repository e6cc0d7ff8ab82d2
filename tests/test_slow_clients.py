"""Slow, silent and disconnected clients: their resources are released, and other clients are not affected."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import live
import orjson
import pytest
from conftest import ACTIVITY, Server, User, made_settings
from conftest import connect as connect_as
from live import served
from patience import PATIENCE_SECONDS
from prometheus_client import REGISTRY
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect

from app.main import create_app
from app.settings import Settings
from app.web import event_streams, http_protocol, sockets

VIEWER = "{ viewer { id } }"
TITLES = "{ tasks { nodes { title } } }"
LATE = "HTTP/1.1 408 Request Timeout"
HEAD = "POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LENGTH = "Content-Length: 40\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"
WHOLE = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
REFUSED = "PUT /graphql HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
HALVES = {
    "nothing": ("", ""),
    "half a head": ("POST /graphql HTTP/1.1\r\nHos", LATE),
    "half a body": (f'{HEAD}{LENGTH}{{"query"', LATE),
    "half a chunk": (f'{HEAD}{CHUNKED}10\r\n{{"query"', LATE),
    "half a second request": (f"{WHOLE}GET /li", "HTTP/1.1 200 OK"),
    "empty lines": (f"{WHOLE}\r\n", "HTTP/1.1 200 OK"),
    "a body that was refused": (f"{REFUSED}x", "HTTP/1.1 405 Method Not Allowed"),
}


@pytest.fixture(scope="module")
async def address(settings: Settings) -> AsyncIterator[str]:
    async with served(create_app(settings, schema=live.schema)) as address:
        yield address


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that checks its connections continuously."""
    monkeypatch.setattr(http_protocol, "LOOK_SECONDS", 0.01)


@pytest.fixture
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The server logs no warnings and no errors."""
    yield
    records = caplog.get_records("call")  # in a fixture, caplog.records has those of the fixture's own phase
    assert [record for record in records if record.levelname in {"WARNING", "ERROR"}] == []


async def last_word(address: str, start: str, more: str = "", pause: float = 0.0) -> str:
    """The server's output until it closes the connection; meanwhile `more` is sent repeatedly."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(start.encode())
    reading = asyncio.ensure_future(reader.read())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while more and not reading.done():
                writer.write(more.encode())
                await asyncio.wait({reading}, timeout=pause)
            return (await reading).decode()
    except ConnectionError:
        return ""
    finally:
        writer.close()


async def test_silent_clients_of_a_real_server(server: Server, settings: Settings) -> None:
    """`taskql serve` closes connections that send nothing, partial requests, or a byte now and then."""
    del settings
    with live.process(server, KEEP_ALIVE_SECONDS="3") as process:
        address = process.url.removeprefix("http://")
        silent = [last_word(address, start) for start, _ in HALVES.values()]
        dribbling = [
            last_word(address, "GET /livez HTTP/1.1\r\nA: ", "a", 0.1),
            last_word(address, f"{HEAD}{LENGTH.replace('40', '4000')}", " ", 0.1),
            last_word(address, f"{HEAD}{CHUNKED}", "1\r\n \r\n", 0.1),
        ]
        words = await asyncio.gather(*silent, *dribbling)

    assert [said.partition("\r\n")[0] for said in words] == [
        *(status for _, status in HALVES.values()),
        LATE,
        LATE,
        LATE,
    ]


@pytest.mark.usefixtures("impatient")
async def test_a_late_request_gets_an_error(address: str) -> None:
    """A late request gets a GraphQL error with 408, and the connection closes."""
    head, _, body = (await last_word(address, HALVES["half a body"][0])).partition("\r\n\r\n")

    assert head.startswith(LATE)
    assert "connection: close" in head
    assert orjson.loads(body)["errors"][0]["extensions"] == {"code": "BAD_USER_INPUT"}


@pytest.mark.parametrize(
    ("start", "code", "look"),
    [
        (f"{HEAD}X-Request-ID: mine\r\n{LENGTH}{{", "BAD_USER_INPUT", 0.01),
        (
            f"{HEAD}X-Request-ID: mine\r\n{CHUNKED}" + "1\r\n \r\n" * (http_protocol.MOST_PARTS + 1),
            "LIMIT_EXCEEDED",
            PATIENCE_SECONDS,
        ),
        ("NONSENSE\r\n\r\n", "BAD_USER_INPUT", PATIENCE_SECONDS),
    ],
    ids=["late", "crumbs", "malformed"],
)
async def test_rejections_of_the_protocol_are_recorded(  # noqa: PLR0913, PLR0917 - parameters and fixtures
    address: str,
    start: str,
    code: str,
    look: float,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rejection by the protocol counts as an error, and its request id is in the response and the log."""
    monkeypatch.setattr(http_protocol, "LOOK_SECONDS", look)
    caplog.set_level("INFO", "app.web.refusals")
    before = REGISTRY.get_sample_value("taskql_errors_total", {"code": code}) or 0
    head, _, _ = (await last_word(address, start)).partition("\r\n\r\n")

    assert REGISTRY.get_sample_value("taskql_errors_total", {"code": code}) == before + 1
    request_id = head.partition("x-request-id: ")[2].partition("\r\n")[0]
    assert request_id == "mine" if "mine" in start else request_id
    assert [request_id in record.getMessage() for record in caplog.records if record.name == "app.web.refusals"] == [
        True
    ]


@pytest.mark.usefixtures("impatient")
async def test_long_operations_are_not_interrupted(
    address: str, alice: User, owner: "asyncpg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiting statement, an event stream and a socket survive the checks of connections."""
    monkeypatch.setattr(event_streams, "KEEP_ALIVE_SECONDS", 0.2)
    headers = {"Authorization": f"Bearer {alice.token}", "Accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE_SECONDS) as http,
        connect(
            f"ws://{address}/graphql",
            open_timeout=PATIENCE_SECONDS,
            subprotocols=[sockets.SUBPROTOCOL],  # type: ignore[list-item]
        ) as socket_,
        http.stream("POST", "/graphql", json={"query": "subscription { silence }"}, headers=headers) as stream,
    ):
        await socket_.send(f'{{"type": "connection_init", "payload": {{"Authorization": "Bearer {alice.token}"}}}}')
        alice.http = http
        await alice.add("First")
        async with owner.transaction():
            await owner.execute("SELECT FROM task_clocks WHERE user_id = $1 FOR UPDATE", alice.id)
            writing = asyncio.create_task(alice.add("Waits"))
            lines = stream.aiter_lines()
            assert [await anext(lines) for _ in range(4)] == [":", "", ":", ""]
            assert not writing.done()
        assert (await writing)["title"] == "Waits"
        await socket_.send('{"type": "ping"}')
        assert [await socket_.recv() for _ in range(2)] == ['{"type":"connection_ack"}', '{"type":"pong"}']


LARGE = 20_000_000


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """An application with a response that is larger than the kernel's buffers."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
    await send({"type": "http.response.body", "body": b"x" * LARGE})


@pytest.mark.usefixtures("impatient", "_quiet")
@pytest.mark.parametrize("requests", [1, 3])
@pytest.mark.parametrize(("pause", "whole"), [(0.02, True), (1.0, False)])
async def test_a_response_must_be_read(pause: float, whole: bool, requests: int) -> None:  # noqa: FBT001 - a test parameter
    """A slow reader gets the whole response; a client that reads nothing for long is disconnected."""
    loop = asyncio.get_running_loop()
    async with served(large) as address:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)  # noqa: FBT003 - the only signature
            host, port = address.split(":")
            await loop.sock_connect(client, (host, int(port)))
            last = WHOLE.replace("Host", "Connection: close\r\nHost")
            await loop.sock_sendall(client, (WHOLE * (requests - 1) + last).encode())
            assert await _taken(client, pause) is whole


async def _taken(client: socket.socket, pause: float) -> bool:
    """Whether a client that pauses after each megabyte gets the whole response."""
    taken, rested = 0, 0
    try:
        while part := await asyncio.get_running_loop().sock_recv(client, 1_000_000):
            taken += len(part)
            if taken > LARGE:
                return True
            if taken - rested > LARGE / 20:
                rested = taken
                await asyncio.sleep(pause)
    except ConnectionResetError:
        pass
    return False


@pytest.mark.parametrize(
    "request_",
    ["NONSENSE\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", f"{HEAD}Content-Length: x\r\n\r\n", f"{HEAD}{CHUNKED}zz\r\n"],
)
async def test_malformed_http(address: str, request_: str) -> None:
    """Malformed HTTP gets a GraphQL error."""
    head, _, body = (await last_word(address, request_)).partition("\r\n\r\n")

    assert head.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert "content-type: application/json; charset=utf-8" in head
    assert orjson.loads(body)["errors"][0]["extensions"] == {"code": "BAD_USER_INPUT"}


async def test_a_body_of_tiny_chunks(address: str, alice: User) -> None:
    """A body in about a thousand chunks is read; one with too many chunks is rejected early."""
    body = orjson.dumps({"query": VIEWER + " " * 1000}).decode()
    crumbs = "".join(f"1\r\n{byte}\r\n" for byte in body)
    head = f"{HEAD}Connection: close\r\nAuthorization: Bearer {alice.token}\r\n{CHUNKED}"

    assert str(alice.id) in await last_word(address, f"{head}{crumbs}0\r\n\r\n")
    said = await last_word(address, head + "1\r\n \r\n" * (http_protocol.MOST_PARTS + 1))
    assert said.startswith("HTTP/1.1 413 ")
    assert '"code":"LIMIT_EXCEEDED"' in said


POOL = 1
WAITING = f"""
    SELECT count(*) FROM {ACTIVITY}
    WHERE wait_event_type = 'Lock' AND usename = 'taskql_app' AND datname = current_database()
"""  # noqa: S608 - a constant


@pytest.fixture(scope="module")
async def narrow(server: Server, settings: Settings) -> AsyncIterator[str]:
    """A server with one connection and without a short statement timeout."""
    del settings
    app = create_app(made_settings(server, db_pool_size=POOL), schema=live.schema)
    async with served(app) as address:
        yield address


@pytest.fixture
async def watcher(server: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A separate connection, because within a transaction pg_stat_activity does not change."""
    connection = await connect_as(server.owner_url)
    yield connection
    await connection.close()


async def waiting(watcher: "asyncpg.Connection[Any]", count: int) -> None:
    """Wait until this many of the server's statements wait for a lock."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await watcher.fetchval(WAITING) != count:  # noqa: ASYNC110 - PostgreSQL sends no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def posted(address: str, user: User, query: str, more: str = "") -> AsyncIterator[None]:
    """Send a request; its client disconnects at the end."""
    _, writer = await asyncio.open_connection(*address.split(":"))
    body = orjson.dumps({"query": query}).decode()
    writer.write(
        f"{HEAD}{more}Authorization: Bearer {user.token}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    yield
    writer.close()


@asynccontextmanager
async def streamed(address: str, user: User, query: str) -> AsyncIterator[None]:
    async with posted(address, user, query, "Accept: text/event-stream\r\n"):
        yield


@asynccontextmanager
async def by_socket(address: str, user: User, query: str) -> AsyncIterator[None]:
    """Start an operation on a socket that closes at the end."""
    async with connect(
        f"ws://{address}/graphql",
        open_timeout=PATIENCE_SECONDS,
        subprotocols=[sockets.SUBPROTOCOL],  # type: ignore[list-item]
    ) as client:
        await client.send(f'{{"type": "connection_init", "payload": {{"Authorization": "Bearer {user.token}"}}}}')
        await client.send(orjson.dumps({"type": "subscribe", "id": "1", "payload": {"query": query}}).decode())
        yield


@asynccontextmanager
async def completed(address: str, user: User, query: str) -> AsyncIterator[None]:
    """Start an operation on a socket, and complete it at the end."""
    async with connect(
        f"ws://{address}/graphql",
        open_timeout=PATIENCE_SECONDS,
        subprotocols=[sockets.SUBPROTOCOL],  # type: ignore[list-item]
    ) as client:
        await client.send(f'{{"type": "connection_init", "payload": {{"Authorization": "Bearer {user.token}"}}}}')
        await client.send(orjson.dumps({"type": "subscribe", "id": "1", "payload": {"query": query}}).decode())
        yield
        await client.send('{"type": "complete", "id": "1"}')
        await client.send('{"type": "ping"}')
        while await client.recv() != '{"type":"pong"}':
            pass


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("way", [posted, streamed, by_socket, completed])
async def test_a_client_that_leaves_takes_its_read_along(
    narrow: str, alice: User, owner: "asyncpg.Connection[Any]", watcher: "asyncpg.Connection[Any]", way: Any
) -> None:
    """When a client leaves, its query is cancelled and the only connection serves the next request."""
    await alice.add("Read")
    async with owner.transaction():
        await owner.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        async with way(narrow, alice, TITLES):
            await waiting(watcher, 1)
        await waiting(watcher, 0)
    async with httpx.AsyncClient(base_url=f"http://{narrow}", timeout=PATIENCE_SECONDS) as alice.http:
        assert (await alice.data(TITLES))["tasks"]["nodes"] == [{"title": "Read"}]


@pytest.mark.parametrize("way", [posted, by_socket, completed])
async def test_a_client_that_leaves_takes_its_write_along(
    narrow: str, alice: User, owner: "asyncpg.Connection[Any]", watcher: "asyncpg.Connection[Any]", way: Any
) -> None:
    """When a client leaves, its waiting write is cancelled, and the user's next write does not wait."""
    await alice.add("First")
    async with owner.transaction():
        await owner.execute("SELECT FROM task_clocks WHERE user_id = $1 FOR UPDATE", alice.id)
        async with way(narrow, alice, 'mutation { createTask(input: { title: "Left" }) { token } }'):
            await waiting(watcher, 1)
        await waiting(watcher, 0)
    async with httpx.AsyncClient(base_url=f"http://{narrow}", timeout=PATIENCE_SECONDS) as alice.http:
        await alice.add("Second")
        assert {node["title"] for node in (await alice.data(TITLES))["tasks"]["nodes"]} == {"First", "Second"}
