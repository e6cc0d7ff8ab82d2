"""WebSocket handshakes that fail get a response, are closed, logged and counted, on any path and for any reason."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import orjson
import pytest
from conftest import User
from live import protocol, served
from patience import PATIENCE_SECONDS
from prometheus_client import REGISTRY
from raw import exchange, headers, request, statuses
from starlette.types import ASGIApp, Receive, Scope, Send
from websockets.asyncio.client import connect

from app.main import create_app
from app.settings import Settings
from app.web import heads, socket_protocol, sockets

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
ASKED = (*UPGRADE, KEY, "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Protocol: {sockets.SUBPROTOCOL}")
JSON = "Content-Type: application/json"
QUERY = b'{"query": "{ __typename }"}'
WRONG = {
    "a long line": (request("GET /graphql HTTP/1.1", *ASKED, "Cookie: " + "a" * heads.MOST_BYTES), 431),
    "many lines": (request("GET /graphql HTTP/1.1", *ASKED, *["a: b"] * 20_000), 431),
    "a long URL": (request(f"GET /graphql?{'a' * 70_000} HTTP/1.1", *ASKED), 431),
    "a very long URL": (request(f"GET /graphql?{'a' * 120_000} HTTP/1.1", *ASKED), 431),
    "POST": (request("POST /graphql HTTP/1.1", *ASKED), 405),
    "PUT": (request("PUT /livez HTTP/1.1", *ASKED), 405),
    "HEAD": (request("HEAD /graphql HTTP/1.1", *ASKED), 405),
    "a body": (request("GET /graphql HTTP/1.1", *ASKED, body=b"12345"), 400),
    "a POST with a body": (request("POST /graphql HTTP/1.1", *UPGRADE, JSON, body=QUERY), 400),
    "chunks": (request("GET /nothing HTTP/1.1", *ASKED, "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "no key": (request("GET /graphql HTTP/1.1", *UPGRADE, "Sec-WebSocket-Version: 13"), 400),
    "another key": (request("GET /graphql HTTP/1.1", *UPGRADE, "Sec-WebSocket-Key: a"), 400),
    "no version": (request("GET /graphql HTTP/1.1", *UPGRADE, KEY), 400),
    "another version": (request("GET /graphql HTTP/1.1", *UPGRADE, KEY, "Sec-WebSocket-Version: 8"), 400),
    "two origins": (request("GET /graphql HTTP/1.1", *ASKED, "Origin: http://a", "Origin: http://b"), 400),
    "no host": (request("GET /graphql HTTP/1.1", *ASKED).replace(b"Host: x\r\n", b""), 400),
    "two hosts": (request("GET /graphql HTTP/1.1", *ASKED, "Host: y"), 400),
    "after a request": (request("GET /livez HTTP/1.1") + request("GET /graphql HTTP/1.1", *ASKED), 400),
}


APP = "https://app.example"


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    """Log rejections at INFO."""
    caplog.set_level("INFO", "app.web.refusals")


@pytest.fixture(scope="module")
async def address(settings: Settings) -> AsyncIterator[str]:
    async with served(create_app(settings)) as address:
        yield address


async def silent(_scope: Scope, receive: Receive, _send: Send) -> None:
    """An application that neither accepts nor rejects a socket."""
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """An application that raises an error."""
    raise ZeroDivisionError


async def idle(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """An application that returns without an answer."""


# An application (None for ours), and the path, origin, status and code.
REFUSED: dict[str, tuple[ASGIApp | None, str, str, int, str]] = {
    "another origin": (None, "/graphql", "https://evil.example", 403, "BAD_USER_INPUT"),
    "an origin that is none": (None, "/graphql", "null", 403, "BAD_USER_INPUT"),
    "a path": (None, "/nothing", APP, 404, "BAD_USER_INPUT"),
    "a path of HTTP": (None, "/livez", APP, 404, "BAD_USER_INPUT"),
    "a path of files": (None, "/explorer/explorer.js", APP, 404, "BAD_USER_INPUT"),
    "an unknown path and another origin": (None, "/nothing", "https://evil.example", 404, "BAD_USER_INPUT"),
    "a body": (None, "/graphql", APP, 400, "BAD_USER_INPUT"),
    "no answer": (silent, "/graphql", APP, 503, "UNAVAILABLE"),
    "a fault": (broken, "/graphql", APP, 500, "INTERNAL"),
    "an early end": (idle, "/graphql", APP, 500, "INTERNAL"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_rejected_handshake_is_answered_like_a_request(
    settings: Settings, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rejection by any layer has a GraphQL error, the request id and CORS headers; client errors log at INFO only."""
    other, path, origin, status, code = REFUSED[kind]
    shared = settings.model_copy(update={"cors_origins": (APP,)})
    if status == 503:
        monkeypatch.setattr(socket_protocol, "HANDSHAKE_SECONDS", 0.1)
    lines = (*ASKED, "X-Request-ID: mine", f"Origin: {origin}", *(["Content-Length: 5"] if kind == "a body" else []))
    before = _counted()
    async with served(other or create_app(shared), http=protocol(shared), lifespan="off" if other else "on") as address:
        said = await exchange(address, request(f"GET {path} HTTP/1.1", *lines))

    head, _, body = said.partition(b"\r\n\r\n")
    told, (error,) = {name.lower(): value for name, value in headers(head).items()}, orjson.loads(body)["errors"]
    assert statuses(said) == [status]
    assert error["extensions"] == {"code": code}
    assert len(error["message"]) > 20
    assert told["content-type"] == "application/json; charset=utf-8"
    assert (told["x-request-id"], told["connection"], told["vary"]) == ("mine", "close", "origin")
    assert told.get("access-control-allow-origin") == (APP if origin == APP else None)
    assert int(told["content-length"]) == len(body)
    assert _counted() == before + 1
    refused = [record.getMessage() for record in caplog.records if record.name == "app.web.refusals"]
    assert len([message for message in refused if f"request mine was rejected with {status}" in message]) == 1
    if status < 500:
        assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    warned = [record.getMessage() for record in caplog.records if record.name == "app.origins"]
    assert len(warned) == (status == 403)
    assert all("CORS_ORIGINS" in message for message in warned)
    caplog.clear()


async def test_a_handshake_that_is_open_when_the_server_stops() -> None:
    """A handshake in progress at shutdown is rejected, and the client told to retry."""
    begun = asyncio.Event()

    async def slow(_scope: Scope, receive: Receive, _send: Send) -> None:
        begun.set()
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async with served(slow, lifespan="off") as address:
        said = asyncio.create_task(exchange(address, request("GET /graphql HTTP/1.1", *ASKED)))
        await begun.wait()

    assert statuses(await said) == [503]
    assert orjson.loads((await said).partition(b"\r\n\r\n")[2])["errors"][0]["extensions"]["code"] == "UNAVAILABLE"


@pytest.mark.parametrize("wrong", WRONG)
async def test_an_invalid_handshake_is_answered_and_closed(
    address: str, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An invalid handshake is counted as an error and logged once with its request id."""
    sent, status = WRONG[wrong]
    before = _counted()
    said = await exchange(address, sent.replace(b"Host: x", b"X-Request-ID: mine\r\nHost: x"))

    assert statuses(said)[-1] == status
    head, _, body = said[said.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    assert headers(head)["connection"] == "close"
    assert _counted() == before + 1
    assert [record.levelname for record in caplog.records if record.name == "app.web.refusals"] == ["INFO"]
    if wrong == "HEAD":
        assert body == b""
    else:
        assert orjson.loads(body)["errors"][0]["extensions"]["code"]
    if status == 405:
        assert headers(head)["allow"] == "GET"


def _counted() -> float:
    samples = (metric.samples for metric in REGISTRY.collect() if metric.name == "taskql_errors")
    return sum(sample.value for found in samples for sample in found)


async def test_a_handshake_may_be_as_long_as_a_request(address: str, alice: User) -> None:
    """Only the total size of a handshake's head is limited, not its number of lines."""
    more = [("Cookie", "a" * 60_000), *[(f"X-{number}", "b") for number in range(2_000)]]
    uri = f"ws://{address}/graphql?{'a' * 10_000}"
    async with connect(
        uri,
        open_timeout=PATIENCE_SECONDS,
        subprotocols=[sockets.SUBPROTOCOL],  # type: ignore[list-item]  # a NewType
        additional_headers=more,
    ) as client:
        await client.send(f'{{"type": "connection_init", "payload": {{"Authorization": "Bearer {alice.token}"}}}}')
        assert await client.recv() == '{"type":"connection_ack"}'


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "websocket,", ", websocket"])
async def test_what_is_a_handshake(address: str, upgrade: str) -> None:
    """Protocol names are case-insensitive; Connection may have several lines and elements."""
    lines = ("Connection: keep-alive", "Connection: foo, UPGRADE", f"Upgrade: {upgrade}", *ASKED[2:])
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(request("GET /graphql HTTP/1.1", *lines, "Content-Length: 0"))
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)).startswith(b"HTTP/1.1 101 ")
    writer.close()


async def test_frames_that_come_with_the_handshake(address: str) -> None:
    """Frames in the same segment as the head reach the socket."""
    said = await exchange(address, request("GET /graphql HTTP/1.1", *ASKED) + b"\x88\x80\0\0\0\0")

    assert statuses(said) == [101]
    assert b"\x88" in said.partition(b"\r\n\r\n")[2]


async def test_a_request_after_a_handshake_is_not_answered(address: str) -> None:
    """An HTTP request after a handshake is not answered: the connection belongs to the socket."""
    said = await exchange(address, request("GET /graphql HTTP/1.1", *ASKED) + request("GET /livez HTTP/1.1"))

    assert statuses(said) == [101]


async def test_a_handshake_on_a_connection_that_was_used(address: str) -> None:
    """An idle HTTP connection can be upgraded, and is no longer counted as idle."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(request("GET /livez HTTP/1.1"))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
    writer.write(request("GET /graphql HTTP/1.1", *ASKED))
    said = await asyncio.wait_for(reader.readuntil(b"101 Switching Protocols\r\n"), PATIENCE_SECONDS)
    writer.close()

    assert said.endswith(b"HTTP/1.1 101 Switching Protocols\r\n")


async def test_a_handshake_that_the_application_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake that the application does not answer ends with 503 after a timeout."""
    ended = asyncio.Event()

    async def silent(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass
        ended.set()

    monkeypatch.setattr(socket_protocol, "HANDSHAKE_SECONDS", 0.1)
    async with served(silent, lifespan="off") as address:
        said = await exchange(address, request("GET /graphql HTTP/1.1", *ASKED))
        await asyncio.wait_for(ended.wait(), PATIENCE_SECONDS)

    assert statuses(said) == [503]


@pytest.mark.parametrize(
    "upgrade", ["h2c", "h2c, websocket", "websocket, h2c", "websocket/13", "TLS/1.2", '"websocket"']
)
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
async def test_other_upgrades_are_ignored(address: str, upgrade: str, *, apart: bool, chunked: bool) -> None:
    """Other upgrades are ignored: the request is served with its body, which is not parsed as a request."""
    smuggled = request("GET /graphql?query={smuggled:__typename} HTTP/1.1", "Accept: application/json")
    body = QUERY + b" " * 10 + smuggled
    coding = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    lines = ("Connection: Upgrade, HTTP2-Settings, close", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMA", JSON, coding)
    content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    head = request("POST /graphql HTTP/1.1", *lines)
    malformed = await exchange(address, head, content) if apart else await exchange(address, head + content)
    good = request("POST /graphql HTTP/1.1", *lines[:-1], body=QUERY)

    assert statuses(malformed) == [400]
    assert b"is not valid JSON" in malformed
    assert (await exchange(address, good)).endswith(b'{"data":{"__typename":"Query"}}')


@pytest.mark.parametrize(
    "upgrades", [["Upgrade: websocket", "Upgrade: websocket"], ["Upgrade: h2c", "Upgrade: websocket"]]
)
async def test_upgrades_on_several_lines(address: str, upgrades: list[str]) -> None:
    """Several Upgrade lines form one list; if it names more than WebSocket, the request is served as plain HTTP."""
    lines = ("Connection: close", "Connection: upgrade", *upgrades, *ASKED[2:])

    assert statuses(await exchange(address, request("GET /livez HTTP/1.1", *lines))) == [200]


async def test_an_upgrade_by_http_1_0_is_ignored(address: str) -> None:
    sent = request("POST /graphql HTTP/1.0", *ASKED, JSON, body=QUERY)

    assert (await exchange(address, sent[:-10], sent[-10:])).endswith(b'{"data":{"__typename":"Query"}}')


async def test_many_requests_with_upgrades_in_one_segment(address: str) -> None:
    """Requests with and without Upgrade in one segment are answered in order."""
    one = request("POST /graphql HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", JSON, body=QUERY)
    other = request("POST /graphql HTTP/1.1", JSON, body=QUERY)
    last = request("GET /livez HTTP/1.1", "Connection: close, upgrade", "Upgrade: h2c")
    said = await exchange(address, (one + other) * 50 + last)

    assert statuses(said) == [200] * 101
    assert said.count(b'{"data":{"__typename":"Query"}}') == 100


async def test_failed_handshakes_leak_nothing(address: str) -> None:
    """After any number of failed handshakes the server works as before."""
    await asyncio.gather(*(exchange(address, WRONG["a POST with a body"][0]) for _ in range(100)))
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE_SECONDS) as http:
        assert (await http.get("/livez")).status_code == 200
