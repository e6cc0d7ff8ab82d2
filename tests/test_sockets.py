"""GraphQL over WebSocket, on a real server and with a real client."""

import asyncio
import base64
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
from app.web.sockets import SocketEndpoint

VIEWER = "{ viewer { id } }"
TICKS = "subscription Ticks($count: Int!) { ticks(count: $count) }"
SILENCE = "subscription { silence }"
FLOOD = "subscription { flood }"
TASK = "subscription Task($id: ID!) { task(id: $id) { __typename id title } }"
TITLES = "{ tasks { nodes { title } } }"
PROTOCOLS: Any = [sockets.SUBPROTOCOL]


class Client:
    """A socket, spoken to in messages."""

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
        """What one operation answers, and that it completes."""
        await self.subscribe("one", query, **variables)
        answer = await self.receive()
        assert (answer["type"], answer["id"]) == ("next", "one"), answer
        assert await self.receive() == {"type": "complete", "id": "one"}
        return answer["payload"]

    async def closed(self) -> tuple[int, str]:
        """The code and the reason with which the server ends the socket, whatever it says before."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.connection.wait_closed()
        assert self.connection.close_code
        return self.connection.close_code, self.connection.close_reason or ""

    async def read_to_the_end(self) -> int:
        """How many characters still come before the connection ends."""
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
    """Opens sockets. Whatever happens to them, the server has nothing to log."""
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
    """A socket that is open and no more."""
    return await opened()


@pytest.fixture
async def client(fresh: Client, alice: User) -> Client:
    """A socket of Alice's, acknowledged."""
    await fresh.initialise(alice)
    return fresh


async def test_a_subscription_sends_each_event_and_completes(client: Client) -> None:
    """Events come in order as `next`, then `complete`."""
    await client.subscribe("a", TICKS, count=2)

    assert [await client.receive() for _ in range(3)] == [
        {"id": "a", "type": "next", "payload": {"data": {"ticks": 1}}},
        {"id": "a", "type": "next", "payload": {"data": {"ticks": 2}}},
        {"id": "a", "type": "complete"},
    ]


async def test_queries_and_mutations_go_over_the_socket_too(client: Client, alice: User) -> None:
    """Both answer as over HTTP, with one `next` and `complete`."""
    created = await client.data(CREATE, input={"title": "By socket"})
    read = await client.data(VIEWER)

    assert created["data"]["createTask"]["task"]["title"] == "By socket"
    assert read == {"data": {"viewer": {"id": str(alice.id)}}}


async def test_two_users_on_two_sockets_see_their_own(
    opened: Callable[..., Awaitable[Client]], alice: User, bob: User
) -> None:
    """Each socket speaks for the user of its token, in queries and in what PostgreSQL rendered for events."""
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
    """At the top of the payload or among its headers, and the name in any case."""
    await fresh.send(type="connection_init", payload=payload(f"Bearer {alice.token}"))

    assert await fresh.receive() == {"type": "connection_ack"}
    assert await fresh.data(VIEWER) == {"data": {"viewer": {"id": str(alice.id)}}}


async def test_the_token_may_come_with_the_handshake(opened: Callable[..., Awaitable[Client]], alice: User) -> None:
    """Clients that are no browsers can send the header of the handshake instead."""
    client = await opened(additional_headers={"Authorization": f"Bearer {alice.token}"})
    await client.send(type="connection_init")

    assert await client.receive() == {"type": "connection_ack"}


@pytest.mark.parametrize(
    "payload", [None, {}, {"Authorization": "Bearer a.b.c"}, {"Authorization": 1}, {"headers": []}]
)
async def test_a_token_that_does_not_hold_is_forbidden(fresh: Client, payload: dict[str, Any] | None) -> None:
    """Without a good token the socket ends with 4403: there is nothing to do here without one."""
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
    """By its first word; an expired token is never acknowledged."""
    token = jwt.encode({"sub": str(alice.id), "iat": 1, "exp": 4_000_000_000, **claims}, SECRET)
    await fresh.send(type="connection_init", payload={"Authorization": f"Bearer {token}"})
    with pytest.raises(ConnectionClosed):
        await fresh.receive()
    code, reason = await fresh.closed()

    assert code == 4403
    assert reason.startswith(f"{word}: ")


async def test_two_tokens_in_one_handshake(opened: Callable[..., Awaitable[Client]], alice: User) -> None:
    """Nobody guesses which one counts: 4400."""
    client = await opened(
        additional_headers=[("Authorization", f"Bearer {alice.token}"), ("Authorization", "Bearer x")]
    )
    code, reason = await client.closed()

    assert code == 4400
    assert "Authorization" in reason


async def test_two_origins_in_one_handshake(opened: Callable[..., Awaitable[Client]]) -> None:
    """Nobody guesses which one counts: 400."""
    for origins in (["https://app.example", "https://evil.example"], ["https://evil.example", "https://app.example"]):
        with pytest.raises(InvalidStatus) as refused:
            await opened(additional_headers=[("Origin", origin) for origin in origins])
        assert refused.value.response.status_code == 400


async def test_a_socket_ends_with_its_token(fresh: Client, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the token is no longer accepted, the socket ends with 4403, upon which clients return with a new one."""
    live.brief(monkeypatch.setattr, until := live.soon(), 2)
    token = live.expiring(alice.id, until)
    await fresh.send(type="connection_init", payload={"Authorization": f"Bearer {token}"})
    await fresh.subscribe("a", SILENCE)
    await watch.until(1)

    assert await fresh.closed() == (4403, "Expired: The token has expired; get a new one.")
    await watch.until(0)


@pytest.mark.parametrize(("failure", "code"), [(Unavailable("No keys."), 1013), (ZeroDivisionError("secret"), 1011)])
async def test_a_token_that_cannot_be_verified(failure: Exception, code: int, caplog: pytest.LogCaptureFixture) -> None:
    """Where the keys are not to be had, clients shall come again: 1013. A bug is masked, and logged once."""

    async def verify(_authorization: str | None, _address: str) -> Principal:
        raise failure

    async with served(SocketEndpoint(refuse, verify, Origins(()), 1)) as address:
        client = Client(await connect(f"ws://{address}/graphql", open_timeout=PATIENCE_SECONDS, subprotocols=PROTOCOLS))
        await client.send(type="connection_init")
        assert (await client.closed())[0] == code
    assert len(caplog.records) == (code == 1011)
    assert "secret" not in caplog.text


async def test_a_bug_in_an_operation_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    """It is an error of that operation; the socket goes on, and the log has it once."""

    async def verify(_authorization: str | None, _address: str) -> Principal:
        return Principal(UUID(int=1), time.time() + 60)

    async with served(SocketEndpoint(refuse, verify, Origins(()), 1)) as address:
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
    """A socket that says nothing is not kept: 4408."""
    monkeypatch.setattr(sockets, "INIT_SECONDS", 0.1)
    client = await opened()

    assert (await client.closed())[0] == 4408


@pytest.fixture
async def crowded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A server where two sockets of a network may wait for connection_init, and three in all."""
    monkeypatch.setattr(sockets, "UNKNOWN_OF_A_NETWORK", 2)
    monkeypatch.setattr(sockets, "MOST_UNKNOWN", 3)
    async with served(create_app(settings, schema=live.schema)) as address:
        yield address


async def test_a_network_has_few_sockets_without_a_token(
    crowded: str, opened: Callable[..., Awaitable[Client]], alice: User, bob: User
) -> None:
    """The oldest of a network gives way: 1013. Those of another network stay, and so do those with a token."""
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
    """However many networks they come from, the oldest of all gives way: 1013, and clients come again."""
    silent = [await opened(at=crowded, local_addr=(f"127.0.0.{n}", 0)) for n in range(2, 7)]

    for client in silent[:2]:
        code, reason = await client.closed()
        assert (code, reason.split(";")[0]) == (1013, "Too many sockets have not sent connection_init")
    for client in silent[2:]:
        await client.initialise(alice)


async def test_a_peer_that_does_not_answer_a_close(crowded: str) -> None:
    """Its connection ends all the same, soon after the close frame."""
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
    """A second one ends the socket: 4429."""
    await client.send(type="connection_init")

    assert (await client.closed())[0] == 4429


async def test_nothing_runs_before_connection_init(fresh: Client) -> None:
    """An operation before the acknowledgement ends the socket: 4401."""
    await fresh.subscribe("a", VIEWER)

    assert await fresh.closed() == (4401, "Unauthorized")


async def test_an_id_names_one_operation_at_a_time(client: Client) -> None:
    """A second operation under an id in use ends the socket, and the first with it: 4409."""
    await client.subscribe("a", SILENCE)
    await watch.until(1)
    await client.subscribe("a", VIEWER)

    assert await client.closed() == (4409, "Subscriber for a already exists")
    await watch.until(0)


async def test_an_id_is_free_again_after_its_operation(client: Client) -> None:
    """Complete, and the same id may be used anew."""
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
    """Whatever is no message of the protocol: 4400, and nothing in the log."""
    await client.connection.send(frame)

    assert (await client.closed())[0] == 4400


async def test_a_payload_of_connection_init_is_an_object(fresh: Client) -> None:
    """A list, for instance, ends the socket: 4400."""
    await fresh.send(type="connection_init", payload=[1])

    assert (await fresh.closed())[0] == 4400


async def test_a_malformed_message_harms_no_other_socket(
    opened: Callable[..., Awaitable[Client]], client: Client, alice: User
) -> None:
    """The neighbour goes on."""
    other = await opened()
    await other.initialise(alice)
    await other.connection.send("[]")
    await other.closed()

    assert await client.data(VIEWER) == {"data": {"viewer": {"id": str(alice.id)}}}


async def test_a_huge_frame_is_not_read(client: Client) -> None:
    """A frame of more than a megabyte is refused by its first bytes: 1009."""
    with suppress(ConnectionClosed):
        await client.connection.send("x" * 1_000_001)

    # The client may still be sending when the connection ends, and then never reads why.
    assert (await client.closed())[0] in {1009, 1006}


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
    """One `error` for that id, no `complete`, and the socket goes on."""
    await client.subscribe("bad", query)
    refused = await client.receive()

    assert (refused["id"], refused["type"]) == ("bad", "error")
    assert [error["extensions"]["code"] for error in refused["payload"]] == [code]
    assert "data" in await client.data(VIEWER)


async def test_an_error_while_running_comes_with_the_answer(client: Client) -> None:
    """A field's error is part of `next`, as it is part of an answer over HTTP."""
    answer = await client.data('{ task(id: "x") { id } }')

    assert answer["data"] == {"task": None}
    assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_a_source_that_breaks_off_is_an_error(client: Client) -> None:
    """What came before stands; then an `error` says why it ended."""
    await client.subscribe("a", "subscription { outage }")

    assert (await client.receive())["payload"] == {"data": {"outage": 1}}
    refused = await client.receive()
    assert refused["type"] == "error"
    assert refused["payload"][0]["extensions"]["code"] == "UNAVAILABLE"
    assert "data" in await client.data(VIEWER)


async def test_a_bug_in_a_source_is_masked(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets an id to name; the fault itself stands in the log alone, once."""
    await client.subscribe("a", "subscription { bug }")
    await client.receive()
    refused = await client.receive()

    assert refused["payload"][0]["extensions"]["code"] == "INTERNAL"
    assert "secret" not in str(refused)
    [record] = caplog.records
    assert refused["payload"][0]["extensions"]["requestId"] in record.getMessage()
    caplog.clear()


async def test_a_ping_is_answered(fresh: Client, alice: User) -> None:
    """With its payload, before and after the acknowledgement."""
    await fresh.send(type="ping", payload={"at": 1})
    assert await fresh.receive() == {"type": "pong", "payload": {"at": 1}}

    await fresh.initialise(alice)
    await fresh.send(type="ping")
    assert await fresh.receive() == {"type": "pong"}


async def test_a_pong_needs_no_answer(client: Client) -> None:
    """A client may say that it is there."""
    await client.send(type="pong", payload={"at": 1})

    assert "data" in await client.data(VIEWER)


async def test_complete_ends_an_operation_and_frees_its_id(client: Client) -> None:
    """The source is closed, nothing more is sent for it, and the id may be used anew."""
    await client.subscribe("one", SILENCE)
    await watch.until(1)
    await client.send(type="complete", id="one")
    await client.send(type="complete", id="unknown")

    assert "data" in await client.data(VIEWER)
    await watch.until(0)


async def test_a_client_that_leaves_ends_its_operations(client: Client) -> None:
    """Closing the socket closes the sources."""
    for id_ in "ab":
        await client.subscribe(id_, SILENCE)
    await watch.until(2)
    await client.connection.close()

    await watch.until(0)


async def test_a_socket_runs_so_many_operations_at_a_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more gets an error, the others and the socket go on, and the place of one that ends is free."""
    monkeypatch.setattr(sockets, "MOST_OPERATIONS", 2)
    for id_ in "abc":
        await client.subscribe(id_, SILENCE)
    refused = await client.receive()

    assert (refused["id"], refused["type"]) == ("c", "error")
    assert refused["payload"][0]["extensions"]["code"] == "LIMIT_EXCEEDED"
    await watch.until(2)
    await client.send(type="complete", id="a")
    assert "data" in await client.data(VIEWER)


async def test_only_this_subprotocol_is_spoken(opened: Callable[..., Awaitable[Client]]) -> None:
    """The legacy graphql-ws, or none: 4406."""
    for protocols in (["graphql-ws"], None):
        client = await opened(protocols)

        assert client.connection.subprotocol is None
        assert (await client.closed())[0] == 4406


async def test_the_subprotocol_is_found_among_others(opened: Callable[..., Awaitable[Client]]) -> None:
    """A client may offer several."""
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
    """403 at the handshake; the log names the setting."""
    with pytest.raises(InvalidStatus) as refused:
        await opened(additional_headers={"Origin": origin})

    assert refused.value.response.status_code == 403
    assert all("CORS_ORIGINS" in record.getMessage() for record in caplog.records if record.name == "app.origins")
    caplog.clear()


async def test_pages_of_the_server_and_of_allowed_origins_are_served(
    opened: Callable[..., Awaitable[Client]], address: str
) -> None:
    """The explorer's own origin, behind TLS or not, and those that are named, however they are written."""
    named = ("https://app.example", "https://APP.example", "HTTPS://app.example:443")
    for origin in (f"http://{address}", f"https://{address}", *named):
        client = await opened(origin=origin)

        assert client.connection.subprotocol == sockets.SUBPROTOCOL


async def test_other_addresses_have_no_sockets(address: str) -> None:
    """404 at the handshake."""
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://{address}/livez", open_timeout=PATIENCE_SECONDS, subprotocols=PROTOCOLS)

    assert refused.value.response.status_code == 404


async def test_a_client_that_stops_reading_is_dropped(
    opened: Callable[..., Awaitable[Client]], alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is not asked for more than fits on the way, and is closed soon after."""
    monkeypatch.setattr(sockets, "WRITE_SECONDS", 0.2)
    client = await opened(max_queue=1)
    await client.initialise(alice)
    await client.subscribe("a", FLOOD)
    await watch.until(1)

    await watch.until(0)
    assert await client.read_to_the_end() < 20_000_000


async def test_what_nobody_reads_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops a closed connection whose last bytes the peer does not take."""
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
    """Whoever does not answer a ping is closed."""
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
    """Clients know by the code that they shall come again."""
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
    """One more is told to try again later; another user has as many, and a socket that closes makes room."""
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


async def test_messages_that_are_not_charged_have_a_pace(
    opened: Callable[..., Awaitable[Client]], alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each counts, on all sockets of a user together; operations that run do not, and no other user's messages."""
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
