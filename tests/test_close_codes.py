"""The tables of close codes and of the ends of event streams in docs/realtime.md: each row is made to happen."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import live
import orjson
import pytest
from conftest import SECRET, User
from live import served
from patience import PATIENCE_SECONDS
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.errors import Unavailable
from app.identity import key_sets
from app.identity.tokens import Authenticator
from app.main import create_app
from app.settings import Settings
from app.web import sockets

SILENCE = "subscription { silence }"
PROTOCOLS: Any = [sockets.SUBPROTOCOL]
PING_SECONDS = 0.05


@dataclass
class Place:
    """A server, a user, and everything that ends with the test."""

    address: str
    user: User
    patch: pytest.MonkeyPatch
    stack: AsyncExitStack

    async def open(self, protocols: Any = PROTOCOLS, **options: Any) -> ClientConnection:
        at = f"ws://{self.address}/graphql"
        return await connect(at, open_timeout=PATIENCE_SECONDS, subprotocols=protocols, **options)

    async def initialised(self, token: str | None = None, **options: Any) -> ClientConnection:
        connection = await self.open(**options)
        await say(connection, type="connection_init", payload={"Authorization": f"Bearer {token or self.user.token}"})
        with suppress(ConnectionClosed):
            assert await asyncio.wait_for(connection.recv(), PATIENCE_SECONDS) == '{"type":"connection_ack"}'
        return connection

    def token(self, **claims: Any) -> str:
        return jwt.encode({"sub": str(self.user.id), "iat": 1, "exp": 4_000_000_000, **claims}, SECRET)


Scenario = Callable[[Place], Awaitable[ClientConnection]]


async def say(connection: ClientConnection, **message: Any) -> None:
    await connection.send(orjson.dumps(message).decode())


def opening(**claims: Any) -> Scenario:
    """Open a socket with a token that has these claims."""
    return lambda place: place.initialised(place.token(**claims))


def messages(*sent: dict[str, Any], is_initialised: bool = True) -> Scenario:
    async def scenario(place: Place) -> ClientConnection:
        connection = await (place.initialised() if is_initialised else place.open())
        for message in sent:
            await say(connection, **message)
        return connection

    return scenario


def data(text: str | bytes, *, is_text: bool | None = None) -> Scenario:
    async def scenario(place: Place) -> ClientConnection:
        connection = await place.initialised()
        with suppress(ConnectionClosed):
            await connection.send(text, text=is_text)
        return connection

    return scenario


def failing(error: Exception) -> Scenario:
    """Open a socket while tokens cannot be verified."""

    async def verify(*_: object) -> Any:
        raise error

    async def scenario(place: Place) -> ClientConnection:
        place.patch.setattr(Authenticator, "_verify", verify)
        return await place.initialised(place.token(jti="new"))

    return scenario


async def silent(place: Place) -> ClientConnection:
    place.patch.setattr(sockets, "INIT_SECONDS", 0.1)
    return await place.open()


async def two_tokens(place: Place) -> ClientConnection:
    tokens = [("Authorization", f"Bearer {place.user.token}"), ("Authorization", "Bearer x")]
    return await place.open(additional_headers=tokens)


async def beyond_the_users_limit(place: Place) -> ClientConnection:
    first = await place.initialised()
    place.stack.push_async_callback(first.close)
    return await place.initialised()


async def crowded(place: Place) -> ClientConnection:
    oldest = await place.open()
    for _ in range(2):
        place.stack.push_async_callback((await place.open()).close)
    return oldest


async def stopping(place: Place) -> ClientConnection:
    connection = await place.initialised()
    await place.stack.aclose()
    return connection


async def not_answering(place: Place) -> ClientConnection:
    """A client that ignores pings."""
    connection = await place.open()
    place.patch.setattr(connection.protocol, "recv_frame", ignoring_pings(connection))
    return connection


def ignoring_pings(connection: ClientConnection) -> Callable[[Any], None]:
    received = connection.protocol.recv_frame

    def recv_frame(frame: Any) -> None:
        if frame.opcode.name != "PING":
            received(frame)

    return recv_frame


async def violating(place: Place) -> ClientConnection:
    """Send a frame with an opcode that does not exist."""
    connection = await place.initialised()
    connection.transport.write(b"\x83\x80\0\0\0\0")
    return connection


async def not_reading(place: Place) -> ClientConnection:
    place.patch.setattr(sockets, "WRITE_SECONDS", 0.2)
    connection = await place.initialised(max_queue=1)
    await say(connection, type="subscribe", id="a", payload={"query": "subscription { flood }"})
    await live.watch.until(1)
    await live.watch.until(0)
    with suppress(ConnectionClosed):
        async for _ in connection:
            pass
    return connection


SUBSCRIBE = {"type": "subscribe", "id": "a", "payload": {"query": SILENCE}}
SCENARIOS: dict[tuple[int, str], list[Scenario]] = {
    (4403, "Expired"): [opening(exp=1), opening(exp=1, sub="x")],
    (4403, "Not yet valid"): [opening(nbf=4_000_000_000)],
    (4403, "Forbidden"): [opening(sub="x"), messages({"type": "connection_init"}, is_initialised=False)],
    (4401, "Unauthorized"): [messages(SUBSCRIBE, is_initialised=False)],
    (4408, "Connection initialisation timeout"): [silent],
    (4429, "Too many initialisation requests"): [messages({"type": "connection_init"})],
    (4409, "Subscriber for"): [messages(SUBSCRIBE, SUBSCRIBE)],
    (4400, "The message"): [data("{"), data('{"type":"ping","payload":{"x":[' + "[]," * 1000 + "0]}}")],
    (4400, "A message must be text"): [data("é" * 500_001), data(b"{}")],
    (4400, "The payload"): [messages({"type": "pong", "payload": 1})],
    (4400, "The request has"): [two_tokens],
    (4406, "Subprotocol not acceptable"): [lambda place: place.open(["graphql-ws"])],
    (1013, "A user may have"): [beyond_the_users_limit],
    (1013, "Too many sockets"): [crowded],
    (1013, "The keys of"): [failing(Unavailable(key_sets._NO_KEYS))],  # noqa: SLF001 - the message of a real failure
    (1012, ""): [stopping],
    (1011, "Something went wrong"): [failing(ZeroDivisionError())],
    (1011, "keepalive ping timeout"): [not_answering],
    (1009, ""): [data("x" * 1_100_001), data("x" * 2_000_000)],
    (1007, ""): [data(b'"\xff"', is_text=True)],
    (1002, ""): [violating],
    (1006, ""): [not_reading],
}


def rows(repository: Path, head: str) -> list[list[str]]:
    """The cells of a table in docs/realtime.md, by the start of its head."""
    text = (repository / "docs" / "realtime.md").read_text()
    lines = text[text.index(head) :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_has_all_codes(repository: Path) -> None:
    """The table has a row for each scenario, and only those."""
    table = rows(repository, "| Code | Reason")

    assert [(int(code), reason.strip("`")) for code, reason, *_ in table] == list(SCENARIOS)
    assert all(when and advice for *_, when, advice in table)


@pytest.fixture
async def place(
    settings: Settings, alice: User, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Place]:
    monkeypatch.setattr(sockets, "UNKNOWN_OF_A_NETWORK", 2)
    pings = {"ws_ping_interval": PING_SECONDS, "ws_ping_timeout": PING_SECONDS}
    options = pings if "keepalive" in request.node.name else {}
    async with AsyncExitStack() as stack:
        app = create_app(settings.model_copy(update={"limit_sockets": 1}), schema=live.schema)
        address = await stack.enter_async_context(served(app, **options))
        yield Place(address, alice, monkeypatch, stack)


CASES = [(code, reason, scenario) for (code, reason), scenarios in SCENARIOS.items() for scenario in scenarios]


@pytest.mark.parametrize(("code", "reason", "scenario"), CASES, ids=[f"{code} {reason}" for code, reason, _ in CASES])
async def test_a_socket_closes_as_the_table_says(
    place: Place, code: int, reason: str, scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets the code and the reason, and only a bug is logged as an error."""
    connection = await scenario(place)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await connection.wait_closed()

    assert (connection.close_code, (connection.close_reason or "")[: len(reason)]) == (code, reason)
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == (reason == "Something went wrong")
    caplog.clear()


async def expired(place: Place) -> str:
    live.brief(place.patch.setattr, until := live.soon(), 1)
    return await streamed(place, SILENCE, live.expiring(place.user.id, until))


async def streamed(place: Place, query: str, token: str = "") -> str:
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {token or place.user.token}"}
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http:
        response = await http.post(f"http://{place.address}/graphql", json={"query": query}, headers=headers)
    return response.text


ENDS: dict[str, tuple[Callable[[Place], Awaitable[str]], str]] = {
    "`complete`": (
        lambda place: streamed(place, "subscription { ticks(count: 1) }"),
        r'event: next\ndata: \{"data".*\n\nevent: complete\ndata:\n\n',
    ),
    "`next` with `errors` and without `data`, then `complete`": (
        lambda place: streamed(place, "subscription { nothing }"),
        r'event: next\ndata: \{"errors".*\n\nevent: complete\ndata:\n\n',
    ),
    "no `complete`": (expired, ""),
}


@pytest.mark.parametrize("end", ENDS)
async def test_an_event_stream_ends_as_the_table_says(place: Place, repository: Path, end: str) -> None:
    """Each row of the table of event streams happens."""
    scenario, pattern = ENDS[end]

    assert [row[0] for row in rows(repository, "| End of the stream")] == list(ENDS)
    assert re.fullmatch(pattern, await scenario(place))


async def test_an_expired_token_of_an_event_stream(place: Place) -> None:
    """A client that reconnects with its expired token is told so by the first event."""
    said = await streamed(place, SILENCE, place.token(exp=1))

    assert '"reason":"EXPIRED"' in said
    assert said.endswith("event: complete\ndata:\n\n")
