"""GraphQL over WebSocket, with a real server and a real client."""

import asyncio
import base64
import gc
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import jwt
import live
import orjson
import pytest
from conftest import CREATE, SECRET, Server, User
from live import served, watch
from patience import PATIENCE_SECONDS
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_in_thread

from app import cli
from app.errors import Unavailable
from app.identity.tokens import LEEWAY_SECONDS, Principal
from app.main import create_app
from app.operations import GraphQLRequest, GraphQLResponse
from app.origins import Origins
from app.settings import Settings, load
from app.sharing.rate_limits import Pace
from app.web import sockets
from app.web.long_messages import LongMessages
from app.web.sockets import SocketEndpoint

VIEWER = "{ viewer { id } }"
TICKS = "subscription Ticks($count: Int!) { ticks(count: $count) }"
SILENCE = "subscription { silence }"
FLOOD = "subscription { flood }"
TASK = "subscription Task($id: ID!) { task(id: $id) { __typename id title } }"
TITLES = "{ tasks { nodes { title } } }"
PROTOCOLS: Any = [sockets.SUBPROTOCOL]


class Client:
    """A socket that sends and receives JSON messages."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **message: Any) -> None:
        await self.connection.send(orjson.dumps(message).decode())

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            message: dict[str, Any] = orjson.loads(await self.connection.recv())
        return message

    async def initialise(self, user: User) -> None:
        await self.send(type="connection_init", payload={"Authorization": f"Bearer {user.token}"})
        assert await self.receive() == {"type": "connection_ack"}

    async def subscribe(self, id_: str, query: str, **variables: Any) -> None:
        await self.send(type="subscribe", id=id_, payload={"query": query, "variables": variables})

    async def data(self, query: str, **variables: Any) -> Any:
        """Run one operation, check that it completes, and return its result."""
        await self.subscribe("one", query, **variables)
        answer = await self.receive()
        assert (answer["type"], answer["id"]) == ("next", "one"), answer
        assert await self.receive() == {"type": "complete", "id": "one"}
        return answer["payload"]

    async def closed(self) -> tuple[int, str]:
        """The close code and reason from the server; earlier messages are ignored."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.connection.wait_closed()
        assert self.connection.close_code
        return self.connection.close_code, self.connection.close_reason or ""

    async def read_to_the_end(self) -> int:
        """The number of characters that arrive before the connection ends."""
        read = 0
        with suppress(ConnectionClosed):
            async for message in self.connection:
                read += len(message)
        return read


@pytest.fixture(scope="session")
async def address(settings: Settings) -> AsyncIterator[str]:
    settings = settings.model_copy(update={"cors_origins": ("https://app.example",)})
    async with served(create_app(settings, schema=live.schema)) as address:
        yield address


@pytest.fixture
async def opened(address: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Callable[..., Awaitable[Client]]]:
    """Open sockets, and check that the server logs no warnings."""
    clients = []

    async def make(protocols: Any = PROTOCOLS, at: str = address, **options: Any) -> Client:
        options = {"compression": None, **options}
        clients.append(
            await connect(f"ws://{at}/graphql", open_timeout=PATIENCE_SECONDS, subprotocols=protocols, **options)
        )
        return Client(clients[-1])

    yield make
    for client in clients:
        await client.close()
    records = caplog.get_records("call")
    assert [record.getMessage() for record in records if record.levelno >= logging.WARNING] == []


@pytest.fixture
async def fresh(opened: Callable[..., Awaitable[Client]]) -> Client:
    """An open socket before connection_init."""
    return await opened()


@pytest.fixture
async def client(fresh: Client, alice: User) -> Client:
    """Alice's socket after connection_ack."""
    await fresh.initialise(alice)
    return fresh


async def test_a_subscription_sends_each_event_and_completes(client: Client) -> None:
    """Events arrive in order as `next`, followed by `complete`."""
    await client.subscribe("a", TICKS, count=2)

    assert [await client.receive() for _ in range(3)] == [
        {"id": "a", "type": "next", "payload": {"data": {"ticks": 1}}},
        {"id": "a", "type": "next", "payload": {"data": {"ticks": 2}}},
        {"id": "a", "type": "complete"},
    ]


async def test_queries_and_mutations_go_over_the_socket_too(client: Client, alice: User) -> None:
    """Queries and mutations respond as over HTTP, with one `next` and `complete`."""
    created = await client.data(CREATE, input={"title": "By socket"})
    read = await client.data(VIEWER)

    assert created["data"]["createTask"]["task"]["title"] == "By socket"
    assert read == {"data": {"viewer": {"id": str(alice.id)}}}


async def test_two_users_on_two_sockets_see_their_own(
    opened: Callable[..., Awaitable[Client]], alice: User, bob: User
) -> None:
    """Each socket acts as the user of its token."""
    task = await alice.add("Alice's")
    hers, his = await opened(), await opened()
    await hers.initialise(alice)
    await his.initialise(bob)

    seen = {"data": {"task": {"__typename": "Task", "id": task["id"], "title": "Alice's"}}}
    assert await hers.data(TASK, id=task["id"]) == seen
    assert await his.data(TASK, id=task["id"]) == {"data": {"task": None}}
    assert await hers.data(TITLES) == {"data": {"tasks": {"nodes": [{"title": "Alice's"}]}}}
    assert await his.data(TITLES) == {"data": {"tasks": {"nodes": []}}}


@pytest.mark.parametrize(
    "payload",
    [
        lambda token: {"Authorization": token},
        lambda token: {"authorization": token},
        lambda token: {"headers": {"Authorization": token}},
        lambda token: {"headers": {"authorization": token}},
    ],
)
async def test_the_token_comes_with_connection_init(
    fresh: Client, alice: User, payload: Callable[[str], dict[str, Any]]
) -> None:
    """The token is at the top of the payload or in its headers, with any case of the name."""
    await fresh.send(type="connection_init", payload=payload(f"Bearer {alice.token}"))

    assert await fresh.receive() == {"type": "connection_ack"}
    assert await fresh.data(VIEWER) == {"data": {"viewer": {"id": str(alice.id)}}}


async def test_the_token_may_come_with_the_handshake(opened: Callable[..., Awaitable[Client]], alice: User) -> None:
    """Clients other than browsers can send the token in the handshake's header instead."""
    client = await opened(additional_headers={"Authorization": f"Bearer {alice.token}"})
    await client.send(type="connection_init")

    assert await client.receive() == {"type": "connection_ack"}


@pytest.mark.parametrize(
    "payload", [None, {}, {"Authorization": "Bearer a.b.c"}, {"Authorization": 1}, {"headers": []}]
)
async def test_an_invalid_token_is_forbidden(fresh: Client, payload: dict[str, Any] | None) -> None:
    """Without a valid token the socket closes with 4403."""
    await fresh.send(type="connection_init", payload=payload)
    code, reason = await fresh.closed()

    assert code == 4403
    assert reason.startswith("Forbidden: ")


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({"exp": 1}, "Expired"),
        ({"exp": int(time.time()) - LEEWAY_SECONDS - 1}, "Expired"),
        ({"nbf": 4_000_000_000}, "Not yet valid"),
        ({"sub": "x"}, "Forbidden"),
    ],
)
async def test_the_reason_says_whether_a_new_token_helps(
    fresh: Client, alice: User, claims: dict[str, Any], word: str
) -> None:
    """The reason starts with Expired, Not yet valid or Forbidden; the token is not acknowledged."""
    token = jwt.encode({"sub": str(alice.id), "iat": 1, "exp": 4_000_000_000, **claims}, SECRET)
    await fresh.send(type="connection_init", payload={"Authorization": f"Bearer {token}"})
    with pytest.raises(ConnectionClosed):
        await fresh.receive()
    code, reason = await fresh.closed()

    assert code == 4403
    assert reason.startswith(f"{word}: ")


async def test_two_tokens_in_one_handshake(opened: Callable[..., Awaitable[Client]], alice: User) -> None:
    """Two Authorization headers are ambiguous: 4400."""
    client = await opened(
        additional_headers=[("Authorization", f"Bearer {alice.token}"), ("Authorization", "Bearer x")]
    )
    code, reason = await client.closed()

    assert code == 4400
    assert "Authorization" in reason


async def test_two_origins_in_one_handshake(opened: Callable[..., Awaitable[Client]]) -> None:
    """Two Origin headers are ambiguous: 400."""
    for origins in (["https://app.example", "https://evil.example"], ["https://evil.example", "https://app.example"]):
        with pytest.raises(InvalidStatus) as refused:
            await opened(additional_headers=[("Origin", origin) for origin in origins])
        assert refused.value.response.status_code == 400


async def test_a_socket_ends_with_its_token(fresh: Client, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket closes with 4403 when its token expires, so that clients reconnect with a new one."""
    live.brief(monkeypatch.setattr, until := live.soon(), 2)
    token = live.expiring(alice.id, until)
    await fresh.send(type="connection_init", payload={"Authorization": f"Bearer {token}"})
    await fresh.subscribe("a", SILENCE)
    await watch.until(1)

    assert await fresh.closed() == (4403, "Expired: The token has expired; get a new one.")
    await watch.until(0)


@pytest.mark.parametrize(("failure", "code"), [(Unavailable("No keys."), 1013), (ZeroDivisionError("secret"), 1011)])
async def test_a_token_that_cannot_be_verified(failure: Exception, code: int, caplog: pytest.LogCaptureFixture) -> None:
    """If no keys are available, the code is 1013: retry. A bug is masked and logged once."""

    async def verify(_authorization: str | None, _address: str) -> Principal:
        raise failure

    async with served(SocketEndpoint(refuse, verify, Origins(()), 1, LongMessages(verify))) as address:
        client = Client(await connect(f"ws://{address}/graphql", open_timeout=PATIENCE_SECONDS, subprotocols=PROTOCOLS))
        await client.send(type="connection_init")
        assert (await client.closed())[0] == code
    assert len(caplog.records) == (code == 1011)
    assert "secret" not in caplog.text


async def test_a_bug_in_an_operation_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    """A bug is a masked error of its operation, logged once; the socket stays open."""

    async def verify(_authorization: str | None, _address: str) -> Principal:
        return Principal(UUID(int=1), time.time() + 60)

    async with served(SocketEndpoint(refuse, verify, Origins(()), 1, LongMessages(verify))) as address:
        client = Client(await connect(f"ws://{address}/graphql", open_timeout=PATIENCE_SECONDS, subprotocols=PROTOCOLS))
        await client.send(type="connection_init")
        assert await client.receive() == {"type": "connection_ack"}
        await client.subscribe("a", VIEWER)
        refused = await client.receive()
        await client.send(type="ping")
        assert await client.receive() == {"type": "pong"}
        await client.connection.close()
    assert (refused["type"], refused["payload"][0]["extensions"]["code"]) == ("error", "INTERNAL")
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text


async def refuse(_request: GraphQLRequest) -> GraphQLResponse:
    raise ZeroDivisionError("secret")


async def test_connection_init_must_come_in_time(
    opened: Callable[..., Awaitable[Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket without connection_init is closed after a time: 4408."""
    monkeypatch.setattr(sockets, "INIT_SECONDS", 0.1)
    client = await opened()

    assert (await client.closed())[0] == 4408


@pytest.fixture
async def crowded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A server that allows two sockets without connection_init per network, and three in total."""
    monkeypatch.setattr(sockets, "UNKNOWN_OF_A_NETWORK", 2)
    monkeypatch.setattr(sockets, "MOST_UNKNOWN", 3)
    async with served(create_app(settings, schema=live.schema)) as address:
        yield address


async def test_a_network_has_few_sockets_without_a_token(
    crowded: str, opened: Callable[..., Awaitable[Client]], alice: User, bob: User
) -> None:
    """Over the limit the network's oldest unauthenticated socket closes with 1013; all others stay."""
    hers, his = await opened(at=crowded), await opened(at=crowded, local_addr=("127.0.0.2", 0))
    await hers.initialise(alice)
    silent = [await opened(at=crowded) for _ in range(5)]

    assert [(await client.closed())[0] for client in silent[:3]] == [1013] * 3
    await his.initialise(bob)
    for client in silent[3:]:
        await client.initialise(bob)
    assert await hers.data(VIEWER) == {"data": {"viewer": {"id": str(alice.id)}}}


async def test_there_are_few_sockets_without_a_token(
    crowded: str, opened: Callable[..., Awaitable[Client]], alice: User
) -> None:
    """Over the total limit the oldest unauthenticated socket closes with 1013, which tells clients to retry."""
    silent = [await opened(at=crowded, local_addr=(f"127.0.0.{n}", 0)) for n in range(2, 7)]

    for client in silent[:2]:
        code, reason = await client.closed()
        assert (code, reason.split(";")[0]) == (1013, "Too many sockets have not sent connection_init")
    for client in silent[2:]:
        await client.initialise(alice)


async def test_a_peer_that_does_not_answer_a_close(crowded: str) -> None:
    """If the client does not respond to a close frame, the connection ends soon after it."""
    reader, writer = await asyncio.open_connection(*crowded.split(":"))
    key = base64.b64encode(bytes(16)).decode()
    writer.write(
        f"GET /graphql HTTP/1.1\r\nHost: {crowded}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {sockets.SUBPROTOCOL}\r\n\r\n".encode()
    )
    clients = [
        await connect(f"ws://{crowded}/graphql", open_timeout=PATIENCE_SECONDS, subprotocols=PROTOCOLS)
        for _ in range(2)
    ]
    async with asyncio.timeout(PATIENCE_SECONDS):
        said = await reader.read()
    writer.close()
    for client in clients:
        await client.close()

    assert (1013).to_bytes(2, "big") in said.partition(b"\r\n\r\n")[2]


async def test_connection_init_comes_once(client: Client) -> None:
    """A second connection_init closes the socket: 4429."""
    await client.send(type="connection_init")

    assert (await client.closed())[0] == 4429


async def test_nothing_runs_before_connection_init(fresh: Client) -> None:
    """An operation before connection_ack closes the socket: 4401."""
    await fresh.subscribe("a", VIEWER)

    assert await fresh.closed() == (4401, "Unauthorized")


async def test_an_id_names_one_operation_at_a_time(client: Client) -> None:
    """An operation with an id in use closes the socket and ends the first operation: 4409."""
    await client.subscribe("a", SILENCE)
    await watch.until(1)
    await client.subscribe("a", VIEWER)

    assert await client.closed() == (4409, "Subscriber for a already exists")
    await watch.until(0)


async def test_an_id_is_free_again_after_its_operation(client: Client) -> None:
    """An id can be reused after its operation completed."""
    assert await client.data(VIEWER) == await client.data(VIEWER)


@pytest.mark.parametrize(
    "frame",
    [
        b'{"type": "ping"}',
        "no JSON",
        "",
        "[]",
        '"ping"',
        "null",
        "1",
        "{}",
        '{"type": null}',
        '{"type": ["ping"]}',
        '{"type": "start"}',
        '{"type": "connection_ack"}',
        '{"type": "ping", "payload": []}',
        '{"type": "pong", "payload": "x"}',
        '{"type": "complete"}',
        '{"type": "complete", "id": ["a"]}',
        '{"type": "subscribe", "id": "a"}',
        '{"type": "subscribe", "id": "a", "payload": null}',
        '{"type": "subscribe", "id": "a", "payload": "{ viewer { id } }"}',
        '{"type": "subscribe", "id": "a", "payload": {}}',
        '{"type": "subscribe", "id": "a", "payload": {"query": null}}',
        '{"type": "subscribe", "id": "a", "payload": {"query": ["a"]}}',
        '{"type": "subscribe", "id": "a", "payload": {"query": "{ a }", "variables": []}}',
        '{"type": "subscribe", "id": "a", "payload": {"query": "{ a }", "operationName": 1}}',
        '{"type": "subscribe", "payload": {"query": "{ a }"}}',
        '{"type": "subscribe", "id": null, "payload": {"query": "{ a }"}}',
        '{"type": "subscribe", "id": ["a"], "payload": {"query": "{ a }"}}',
        '{"type": "subscribe", "id": "", "payload": {"query": "{ a }"}}',
        "[" * 50_000,
        '{"type": "\\ud800"}',
        '{"type": "ping", "payload": {"x": "' + "x" * 100_000 + '"}}',
        '{"type": "ping", "payload": {"x": ' + "[" * 1000 + "]" * 1000 + "}}",
    ],
    ids=lambda frame: repr(frame[:60]),
)
async def test_a_malformed_message_ends_the_socket(client: Client, frame: str | bytes) -> None:
    """A malformed message closes the socket: 4400. Nothing is logged."""
    await client.connection.send(frame)

    assert (await client.closed())[0] == 4400


async def test_a_payload_of_connection_init_is_an_object(fresh: Client) -> None:
    """A connection_init payload that is not an object closes the socket: 4400."""
    await fresh.send(type="connection_init", payload=[1])

    assert (await fresh.closed())[0] == 4400


async def test_a_malformed_message_does_not_affect_other_sockets(
    opened: Callable[..., Awaitable[Client]], client: Client, alice: User
) -> None:
    other = await opened()
    await other.initialise(alice)
    await other.connection.send("[]")
    await other.closed()

    assert await client.data(VIEWER) == {"data": {"viewer": {"id": str(alice.id)}}}


async def test_a_huge_frame_is_not_read(client: Client) -> None:
    """A frame of more than 1,100,000 bytes is rejected by its header: 1009, also for a client that still sends."""
    with suppress(ConnectionClosed):
        await client.connection.send("x" * 2_000_000)

    assert (await client.closed())[0] == 1009


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{ viewer", "GRAPHQL_PARSE_FAILED"),
        ("{ nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ " + "".join(f"a{n}: viewer {{ id }} " for n in range(21)) + "}", "LIMIT_EXCEEDED"),
        ("subscription { ticks(count: 1) silence }", "GRAPHQL_VALIDATION_FAILED"),
        (TICKS, "BAD_USER_INPUT"),
    ],
)
async def test_an_operation_that_cannot_run_gets_an_error_of_its_own(client: Client, query: str, code: str) -> None:
    """A rejected operation gets one `error` and no `complete`; the socket stays open."""
    await client.subscribe("bad", query)
    refused = await client.receive()

    assert (refused["id"], refused["type"]) == ("bad", "error")
    assert [error["extensions"]["code"] for error in refused["payload"]] == [code]
    assert "data" in await client.data(VIEWER)


async def test_an_error_while_running_comes_with_the_answer(client: Client) -> None:
    """A field error is part of `next`, like in a response over HTTP."""
    answer = await client.data('{ task(id: "x") { id } }')

    assert answer["data"] == {"task": None}
    assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_a_source_that_breaks_off_is_an_error(client: Client) -> None:
    """If a source fails, its events so far arrive, followed by an `error` with the reason."""
    await client.subscribe("a", "subscription { outage }")

    assert (await client.receive())["payload"] == {"data": {"outage": 1}}
    refused = await client.receive()
    assert refused["type"] == "error"
    assert refused["payload"][0]["extensions"]["code"] == "UNAVAILABLE"
    assert "data" in await client.data(VIEWER)


async def test_a_bug_in_a_source_is_masked(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets a request id; the bug itself is only in the log, once."""
    await client.subscribe("a", "subscription { bug }")
    await client.receive()
    refused = await client.receive()

    assert refused["payload"][0]["extensions"]["code"] == "INTERNAL"
    assert "secret" not in str(refused)
    [record] = caplog.records
    assert refused["payload"][0]["extensions"]["requestId"] in record.getMessage()
    caplog.clear()


async def test_a_ping_is_answered(fresh: Client, alice: User) -> None:
    """A pong with the same payload is sent, before and after connection_ack."""
    await fresh.send(type="ping", payload={"at": 1})
    assert await fresh.receive() == {"type": "pong", "payload": {"at": 1}}

    await fresh.initialise(alice)
    await fresh.send(type="ping")
    assert await fresh.receive() == {"type": "pong"}


async def test_a_pong_needs_no_answer(client: Client) -> None:
    """An unsolicited pong is accepted."""
    await client.send(type="pong", payload={"at": 1})

    assert "data" in await client.data(VIEWER)


async def test_complete_ends_an_operation_and_frees_its_id(client: Client) -> None:
    """`complete` closes the source; no more is sent, and the id can be reused."""
    await client.subscribe("one", SILENCE)
    await watch.until(1)
    await client.send(type="complete", id="one")
    await client.send(type="complete", id="unknown")

    assert "data" in await client.data(VIEWER)
    await watch.until(0)


async def test_a_client_that_leaves_ends_its_operations(client: Client) -> None:
    """Closing the socket closes its sources."""
    for id_ in "ab":
        await client.subscribe(id_, SILENCE)
    await watch.until(2)
    await client.connection.close()

    await watch.until(0)


async def test_a_socket_runs_so_many_operations_at_a_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation over the limit gets an error; the others continue, and one that ends makes room."""
    monkeypatch.setattr(sockets, "MOST_OPERATIONS", 2)
    for id_ in "abc":
        await client.subscribe(id_, SILENCE)
    refused = await client.receive()

    assert (refused["id"], refused["type"]) == ("c", "error")
    assert refused["payload"][0]["extensions"]["code"] == "LIMIT_EXCEEDED"
    await watch.until(2)
    await client.send(type="complete", id="a")
    assert "data" in await client.data(VIEWER)


async def test_other_subprotocols_are_rejected(opened: Callable[..., Awaitable[Client]]) -> None:
    """The legacy graphql-ws, or no subprotocol, closes the socket: 4406."""
    for protocols in (["graphql-ws"], None):
        client = await opened(protocols)

        assert client.connection.subprotocol is None
        assert (await client.closed())[0] == 4406


async def test_a_client_may_offer_several_subprotocols(opened: Callable[..., Awaitable[Client]]) -> None:
    client = await opened(["graphql-ws", sockets.SUBPROTOCOL])

    assert client.connection.subprotocol == sockets.SUBPROTOCOL


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://127.0.0.1",
        "null",
        "",
        "http://[::1",
        "https://app.example:8443",
        "http://app.example",
        "https://app.example/",
        "https://app.example.evil.example",
        "https://app.example@evil.example",
    ],
)
async def test_pages_of_other_origins_are_refused(
    opened: Callable[..., Awaitable[Client]], caplog: pytest.LogCaptureFixture, origin: Any
) -> None:
    """Pages of other origins get 403 at the handshake; the log names the setting."""
    with pytest.raises(InvalidStatus) as refused:
        await opened(additional_headers={"Origin": origin})

    assert refused.value.response.status_code == 403
    assert all("CORS_ORIGINS" in record.getMessage() for record in caplog.records if record.name == "app.origins")
    caplog.clear()


async def test_pages_of_the_server_and_of_allowed_origins_are_served(
    opened: Callable[..., Awaitable[Client]], address: str
) -> None:
    """The server's own origin, also behind TLS, and allowed origins in any spelling are accepted."""
    named = ("https://app.example", "https://APP.example", "HTTPS://app.example:443")
    for origin in (f"http://{address}", f"https://{address}", *named):
        client = await opened(origin=origin)

        assert client.connection.subprotocol == sockets.SUBPROTOCOL


async def test_other_addresses_have_no_sockets(address: str) -> None:
    """Other paths get 404 at the handshake."""
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://{address}/livez", open_timeout=PATIENCE_SECONDS, subprotocols=PROTOCOLS)

    assert refused.value.response.status_code == 404


async def test_a_client_that_stops_reading_is_dropped(
    opened: Callable[..., Awaitable[Client]], alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is closed soon, after no more events than fit the buffers."""
    monkeypatch.setattr(sockets, "WRITE_SECONDS", 0.2)
    client = await opened(max_queue=1)
    await client.initialise(alice)
    await client.subscribe("a", FLOOD)
    await watch.until(1)

    await watch.until(0)
    assert await client.read_to_the_end() < 20_000_000


async def test_what_nobody_reads_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops a closed connection if the peer does not read its last bytes."""
    monkeypatch.setattr(cli, "UNREAD_MILLISECONDS", 500)
    lost = asyncio.get_running_loop().create_future()

    class Flood(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.WriteTransport)
            transport.write(b"x" * 20_000_000)
            transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            lost.set_result(exc)

    with cli.listening(load(port=0)) as listener:
        async with await asyncio.get_running_loop().create_server(Flood, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname(), limit=1)
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert isinstance(await lost, TimeoutError)
            writer.transport.abort()


async def test_a_client_that_is_silent_is_found_by_ping(settings: Settings) -> None:
    """A client that does not respond to pings is disconnected."""
    pings = {"ws_ping_interval": 0.05, "ws_ping_timeout": 0.05}
    async with served(create_app(settings, schema=live.schema), **pings) as address:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        key = base64.b64encode(bytes(16)).decode()
        writer.write(
            f"GET /graphql HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {sockets.SUBPROTOCOL}\r\n\r\n".encode()
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            said = await reader.read()
        writer.close()

    assert (1011).to_bytes(2, "big") in said.partition(b"\r\n\r\n")[2]


def test_sigterm_closes_sockets_with_1012(server: Server, alice: User) -> None:
    """The code tells clients to reconnect."""
    with live.process(server) as process:
        address = process.url.replace("http", "ws") + "/graphql"
        with connect_in_thread(address, open_timeout=PATIENCE_SECONDS, subprotocols=PROTOCOLS) as connection:
            connection.send(f'{{"type": "connection_init", "payload": {{"Authorization": "Bearer {alice.token}"}}}}')
            assert connection.recv(PATIENCE_SECONDS) == '{"type":"connection_ack"}'
            assert process.stop() == 0
            with pytest.raises(ConnectionClosed) as end:
                connection.recv(PATIENCE_SECONDS)

    assert end.value.rcvd
    assert end.value.rcvd.code == 1012


async def test_a_user_has_so_many_sockets(
    settings: Settings, opened: Callable[..., Awaitable[Client]], alice: User, bob: User
) -> None:
    """A socket over a user's limit closes with 1013; other users are not affected, and closing one makes room."""
    async with served(create_app(settings.model_copy(update={"limit_sockets": 2}), schema=live.schema)) as address:
        clients = [await opened(at=address) for _ in range(4)]
        for client, user in zip(clients, (alice, bob, alice), strict=False):
            await client.initialise(user)
        await clients[3].send(type="connection_init", payload={"Authorization": f"Bearer {alice.token}"})
        code, reason = await clients[3].closed()
        await clients[0].connection.close()
        while True:
            client = await opened(at=address)
            await client.send(type="connection_init", payload={"Authorization": f"Bearer {alice.token}"})
            with suppress(ConnectionClosed):
                assert await client.receive() == {"type": "connection_ack"}
                break

    assert (code, reason) == (1013, "A user may have 2 sockets here; close others, or retry later.")


async def test_messages_without_a_charge_are_paced(
    opened: Callable[..., Awaitable[Client]], alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages other than executed operations count, per user over all sockets."""
    counted: list[object] = []

    def delay(pace: Pace) -> float:
        counted.append(pace)
        return 0.0

    monkeypatch.setattr(Pace, "delay", delay)
    first, second, other = [await opened() for _ in range(3)]
    for client, user in ((first, alice), (second, alice), (other, bob)):
        await client.initialise(user)
    await first.send(type="pong")
    await first.send(type="complete", id="none")
    await second.send(type="ping")
    assert await second.receive() == {"type": "pong"}
    await second.subscribe("one", "{ nothing }")
    assert (await second.receive())["type"] == "error"
    assert await first.data(VIEWER) == {"data": {"viewer": {"id": str(alice.id)}}}
    hers = list(counted)
    await other.send(type="ping")
    assert await other.receive() == {"type": "pong"}
    await other.data(VIEWER)

    assert (len(hers), len(set(hers))) == (4, 1)
    assert len(counted) == len(hers) + 1
    assert counted[-1] is not hers[0]


WAITING: dict[str, tuple[dict[str, Any], str]] = {
    "ping": ({"type": "ping"}, "pong"),
    "complete": ({"type": "complete", "id": "none"}, ""),
    "a rejected operation": ({"type": "subscribe", "id": "bad", "payload": {"query": "{ nothing }"}}, ""),
    "too many operations": ({"type": "subscribe", "id": "b", "payload": {"query": SILENCE}}, ""),
}


@pytest.mark.parametrize("kind", WAITING)
@pytest.mark.parametrize("leaves", [True, False], ids=["the client leaves", "the server stops"])
async def test_a_message_that_waits_ends_with_its_socket(
    settings: Settings,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    leaves: bool,  # noqa: FBT001 - a test parameter
) -> None:
    """A message that waits because of its pace keeps neither the server nor the socket."""
    delayed = asyncio.Event()

    def delay(_pace: Pace) -> float:
        delayed.set()
        return 10.0 * PATIENCE_SECONDS

    monkeypatch.setattr(Pace, "delay", delay)
    monkeypatch.setattr(sockets, "MOST_OPERATIONS", 1)
    message, answer = WAITING[kind]
    async with asyncio.timeout(PATIENCE_SECONDS), served(create_app(settings, schema=live.schema)) as address:
        connection = await connect(f"ws://{address}/graphql", open_timeout=PATIENCE_SECONDS, subprotocols=PROTOCOLS)
        client = Client(connection)
        await client.initialise(alice)
        if kind == "too many operations":
            await client.subscribe("a", SILENCE)
        await client.send(**message)
        if answer:
            assert (await client.receive())["type"] == answer
        await delayed.wait()
        if leaves:
            await connection.close()
        else:
            for _ in range(3):
                await client.send(type="pong")
    if not leaves:
        assert (await client.closed())[0] == 1012


async def test_an_idle_socket_keeps_no_message(client: Client) -> None:
    """Neither the last message nor a rejected operation stays in memory."""
    kept = "x" * 9000
    await client.send(type="pong", payload={"x": kept})
    await client.subscribe("bad", "{ nothing }", x=kept)
    assert (await client.receive())["type"] == "error"
    await client.data(VIEWER)
    await client.send(type="pong", payload={"x": kept})
    await client.send(type="ping")
    await client.receive()

    assert [one for one in gc.get_objects() if type(one) is dict and one.get("x") == kept] == []


async def test_a_waiting_error_keeps_no_text(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rejected operation whose error is delayed keeps no place, document or variables."""
    left: list[GraphQLRequest] = []
    leave = GraphQLRequest.leave

    def noted(request: GraphQLRequest) -> None:
        leave(request)
        left.append(request)

    def delay(_pace: Pace) -> float:
        assert [(one.query, one.variables, one.extensions, one.places) for one in left] == [(None,) * 4]
        return 0.0

    monkeypatch.setattr(GraphQLRequest, "leave", noted)
    monkeypatch.setattr(Pace, "delay", delay)
    await client.subscribe("bad", "{ nothing }", x="x")

    assert (await client.receive())["type"] == "error"
