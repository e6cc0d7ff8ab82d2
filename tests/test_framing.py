"""HTTP framing: requests that another server could parse differently are rejected."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from conftest import User
from live import protocol, served
from patience import PATIENCE_SECONDS
from raw import exchange, headers, request, statuses
from starlette.types import Receive, Scope, Send

from app.main import create_app
from app.origins import Origins
from app.settings import Settings, load
from app.web import heads, http_protocol

LIVE = request("GET /livez HTTP/1.1")
LAST = request("GET /livez HTTP/1.1", "Connection: close")
JSON = "Content-Type: application/json"
QUERY = b'{"query": "{ __typename }"}'
CHUNKED = "Transfer-Encoding: chunked"
EMPTY = b"0\r\n\r\n"
POST = "POST /graphql HTTP/1.1"
ORIGIN = "https://app.example"
WRONG = {
    "two lengths": request(POST, "Content-Length: 5", "Content-Length: 5") + EMPTY,
    "two lengths that differ": request(POST, "Content-Length: 0", "Content-Length: 5") + EMPTY,
    "a list of lengths": request(POST, "Content-Length: 5, 5") + EMPTY,
    "a signed length": request(POST, "Content-Length: +5") + EMPTY,
    "a length in hexadecimal": request(POST, "Content-Length: 0x5") + EMPTY,
    "no length": request(POST, "Content-Length:") + EMPTY,
    "a length and chunks": request(POST, "Content-Length: 5", CHUNKED) + EMPTY,
    "chunks and a length": request(POST, CHUNKED, "Content-Length: 5") + EMPTY,
    "chunks twice": request(POST, CHUNKED, CHUNKED) + EMPTY,
    "another coding": request(POST, "Transfer-Encoding: gzip") + EMPTY,
    "another coding by GET": request("GET /livez HTTP/1.1", "Transfer-Encoding: gzip") + EMPTY,
    "another coding first": request(POST, "Transfer-Encoding: gzip", CHUNKED) + EMPTY,
    "another coding in the list": request(POST, "Transfer-Encoding: gzip, chunked") + EMPTY,
    "another coding last": request(POST, CHUNKED, "Transfer-Encoding: identity") + EMPTY,
    "identity": request(POST, "Transfer-Encoding: identity", "Content-Length: 5") + EMPTY,
    "nearly chunked": request(POST, "Transfer-Encoding: xchunked") + EMPTY,
    "an empty element": request(POST, "Transfer-Encoding: ,chunked") + EMPTY,
    "chunks by HTTP/1.0": request("POST /graphql HTTP/1.0", CHUNKED) + EMPTY,
    "a space before the colon": request(POST, "Transfer-Encoding : chunked") + EMPTY,
    "a folded line": request(POST, "A: b\r\n c") + EMPTY,
    "a folded coding": request(POST, "Transfer-Encoding:\r\n chunked") + EMPTY,
    "bare LF": LIVE.replace(b"\r\n", b"\n"),
    "a bare LF": request("GET /livez HTTP/1.1", "A: b\nContent-Length: 5") + EMPTY,
    "a bare CR": request("GET /livez HTTP/1.1", "A: b\rContent-Length: 5") + EMPTY,
    "NUL": request("GET /livez HTTP/1.1", "A: b\0c"),
    "a chunk ended by LF": request(POST, CHUNKED) + b"1\n1\r\n" + EMPTY,
    "an extension ended by LF": request(POST, CHUNKED) + b"1;a\n1\r\n" + EMPTY,
    "a chunk too long": request(POST, CHUNKED) + b"1\r\n12\r\n" + EMPTY,
    "a chunk of minus one": request(POST, CHUNKED) + b"-1\r\n1\r\n" + EMPTY,
    "a chunk too large": request(POST, CHUNKED) + b"10000000000000001\r\n1\r\n" + EMPTY,
    "a length among trailers": request(POST, CHUNKED) + b"0\r\nContent-Length: 5\r\n\r\n12345",
    "no host": LIVE.replace(b"Host: x\r\n", b""),
    "two hosts": request("GET /livez HTTP/1.1", "Host: x"),
    "two hosts by HTTP/1.0": request("GET /livez HTTP/1.0", "Host: y"),
    "an empty host": LIVE.replace(b"Host: x", b"Host:"),
    "a host with a space": LIVE.replace(b"Host: x", b"Host: x y"),
    "two hosts in one": LIVE.replace(b"Host: x", b"Host: x, y"),
    "a host with a path": LIVE.replace(b"Host: x", b"Host: x/y"),
    "a host with a user": LIVE.replace(b"Host: x", b"Host: a@x"),
    "a host with a wrong port": LIVE.replace(b"Host: x", b"Host: x:y"),
    "another host in the URL": request("GET http://y/livez HTTP/1.1"),
    "a URL of another scheme": request("GET ftp://y/livez HTTP/1.1"),
    "a URL of a scheme that nobody knows": request("POST x://y/graphql HTTP/1.1") + EMPTY,
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/2": request("GET /livez HTTP/2.0"),
    "HTTP/2 by prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nonsense": b"NONSENSE\r\n\r\n",
}


@pytest.fixture(scope="module")
async def address(settings: Settings) -> AsyncIterator[str]:
    allowed = settings.model_copy(update={"cors_origins": (ORIGIN,)})
    async with served(create_app(allowed), http=protocol(allowed)) as address:
        yield address


@pytest.mark.parametrize("wrong", WRONG)
async def test_ambiguous_requests_are_rejected(address: str, wrong: str) -> None:
    """An ambiguous request is rejected, and nothing after it gets a response, in the same segment or later."""
    assert statuses(await exchange(address, WRONG[wrong] + LIVE)) == [400]
    assert statuses(await exchange(address, WRONG[wrong], LIVE)) == [400]
    assert statuses(await exchange(address, WRONG[wrong] + b" " * 300_000)) == [400]


@pytest.mark.parametrize("wrong", WRONG)
async def test_earlier_requests_are_answered_first(address: str, wrong: str) -> None:
    """The requests before a malformed one are answered in order, then it is rejected."""
    assert statuses(await exchange(address, LIVE + WRONG[wrong] + LIVE)) == [200, 400]
    assert statuses(await exchange(address, LIVE * 3 + WRONG[wrong] + LIVE)) == [200, 200, 200, 400]
    assert statuses(await exchange(address, LIVE, WRONG[wrong], LIVE)) == [200, 400]


@pytest.mark.parametrize("more", [(), ("Connection: Upgrade", "Upgrade: h2c")])
async def test_pipelined_requests(address: str, more: tuple[str, ...]) -> None:
    """100 pipelined requests may wait for the one in progress and are all answered; what follows them is not read."""
    one, last = request("GET /livez HTTP/1.1", *more), request("GET /livez HTTP/1.1", *more, "Connection: close")
    most = http_protocol.MOST_AHEAD
    assert statuses(await exchange(address, one * most + last)) == [200] * (most + 1)
    assert statuses(await exchange(address, one * most + one * 3000)) == [200] * (most + 1) + [400]


async def test_a_slow_response_precedes_the_rejection() -> None:
    """A slow response is complete before a later malformed request is rejected, even if the client keeps sending."""
    began, refused, asked = asyncio.Event(), asyncio.Event(), []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        began.set()
        while (await receive()).get("more_body"):
            pass
        await refused.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async with served(slow, lifespan="off") as address:
        saying = asyncio.create_task(exchange(address, LIVE * 2, WRONG["a chunk too long"], LIVE))
        await began.wait()
        await asyncio.sleep(0.3)  # no event signals that everything has arrived
        refused.set()
        said = await saying

    assert statuses(said) == [200, 200, 400]
    assert asked == ["/livez", "/livez"]


async def test_nothing_after_connection_close_is_answered(address: str) -> None:
    """Nothing after `Connection: close` is read, valid or not."""
    assert statuses(await exchange(address, LAST + LIVE)) == [200]
    assert statuses(await exchange(address, LAST + WRONG["nonsense"])) == [200]
    assert statuses(await exchange(address, request("GET /livez HTTP/1.0") + LIVE)) == [200]
    lines = ("Connection: close", "Connection: keep-alive")
    assert statuses(await exchange(address, request("GET /livez HTTP/1.1", *lines) + LIVE)) == [200]


async def test_trailers_are_not_headers(address: str, alice: User) -> None:
    """Trailers after a chunked body are not used as headers."""
    body = b'{"query": "{ viewer { id } }"}'
    chunks = b"%x\r\n%b\r\n0\r\nAuthorization: Bearer %b\r\n\r\n" % (len(body), body, alice.token.encode())
    said = await exchange(address, request(POST, JSON, CHUNKED, "Connection: close") + chunks)

    assert statuses(said) == [401]


@pytest.mark.parametrize("host", ["x", "x:80", "X.example", "127.0.0.1:8000", "[::1]:80", "my_service", "x:"])
async def test_hosts(address: str, host: str) -> None:
    assert statuses(await exchange(address, LAST.replace(b"Host: x", b"Host: " + host.encode()))) == [200]


async def test_other_forms_of_a_url(address: str) -> None:
    """Absolute URLs are accepted; CONNECT is rejected."""
    assert statuses(await exchange(address, request("GET http://x/livez HTTP/1.1", "Connection: close"))) == [200]
    assert statuses(await exchange(address, request("GET http://X HTTP/1.1", "Connection: close"))) == [307]
    assert statuses(await exchange(address, request("OPTIONS * HTTP/1.1", "Connection: close"))) == [404]
    connects = await exchange(address, request("CONNECT x:80 HTTP/1.1") + LIVE)
    assert statuses(connects) == [405]
    assert headers(connects)["allow"] == "GET, POST"


def head(size: int, start: str = "GET /livez HTTP/1.1") -> bytes:
    """A request whose head has exactly this many bytes."""
    least = len(request(start, "Connection: close", "A: "))
    return request(start, "Connection: close", "A: " + "a" * (size - least))


@pytest.mark.parametrize("before", [b"", LIVE, request(POST, JSON, body=b" " * 90_000)], ids=["first", "next", "body"])
@pytest.mark.parametrize("piece", [None, 7_000, 64_000])
async def test_the_size_limit_of_a_head(address: str, before: bytes, piece: int | None) -> None:
    """The size limit of a head is exact, in one segment or many, on new and reused connections."""
    answered = statuses(before and await exchange(address, before + LAST))[:-1]
    for size, status in ((heads.MOST_BYTES, 200), (heads.MOST_BYTES + 1, 431), (heads.MOST_BYTES + 10_000, 431)):
        sent = before + head(size)
        step = piece or len(sent)
        pieces = [sent[begin : begin + step] for begin in range(0, len(sent), step)]
        assert statuses(await exchange(address, *pieces, pause=0.01)) == [*answered, status]


@pytest.mark.parametrize("length", [65_536, 70_000, 99_000, 101_000, 120_000, 131_000, 200_000])
@pytest.mark.parametrize("start", ["GET /graphql?{} HTTP/1.1", "POST /graphql?{} HTTP/1.1", "GET /{} HTTP/1.1"])
async def test_a_url_that_is_too_long(address: str, start: str, length: int) -> None:
    """A URL that is too long gets its own error, whatever its length."""
    said = await exchange(address, request(start.format("a" * length)) + LIVE)

    assert statuses(said) == [431]
    assert b'"code":"LIMIT_EXCEEDED"' in said


async def test_an_internal_error_gets_a_response(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An internal error while a head is read gives a response and a log line, both without the error's text."""

    def broken(*_args: object) -> bytes:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(heads, "check", broken)
    said = await exchange(address, LIVE)

    assert statuses(said) == [500]
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text + said.decode()


@pytest.mark.parametrize(
    ("start", "rest", "status"),
    [
        ("GET /livez HTTP/1.1", b"", 200),
        ("GET /livez HTTP/1.1\r\nHost: y", b"", 400),
        (f"{POST}\r\n{JSON}\r\nContent-Length: 5", b"1", 408),
        (f"{POST}\r\n{JSON}\r\n{CHUNKED}", b"1\r\n \r\n" * (http_protocol.MOST_PARTS + 1), 413),
        (f"GET /{'a' * 70_000} HTTP/1.1", b"", 431),
        (f"GET / HTTP/1.1\r\nA: {'a' * 120_000}", b"", 431),
    ],
)
async def test_allowed_origins_can_read_rejections(
    address: str, start: str, rest: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejections have CORS headers, so that scripts of allowed origins can read them."""
    monkeypatch.setattr(http_protocol, "LOOK_SECONDS", 0.1 if status == 408 else PATIENCE_SECONDS)
    line, *more = start.split("\r\n")
    allowed, other = [
        await exchange(address, request(line, f"Origin: {origin}", *more, "Connection: close") + rest)
        for origin in (ORIGIN, "https://evil.example")
    ]

    assert statuses(allowed) == statuses(other) == [status]
    if status != 200:
        assert headers(allowed)["access-control-allow-origin"] == ORIGIN
        assert headers(allowed)["access-control-expose-headers"].startswith("x-request-id")
        assert headers(allowed)["vary"] == headers(other)["vary"] == "origin"
    assert "access-control-allow-origin" not in headers(other)


UNFINISHED = {
    "nothing more": (b"", 408),
    "half a line": (b"A: b", 408),
    "a malformed line": (b"A b\r\n", 400),
    "a space before the colon": (b"A : b\r\n\r\n", 400),
    "no version": (b"\0", 400),
    "a long line": (b"A: " + b"a" * 120_000, 431),
}


@pytest.mark.parametrize("kind", UNFINISHED)
@pytest.mark.parametrize("apart", [False, True])
async def test_the_last_line_was_the_origin(
    address: str, kind: str, *, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An incomplete head is rejected with CORS headers if its Origin line is complete."""
    rest, status = UNFINISHED[kind]
    monkeypatch.setattr(http_protocol, "LOOK_SECONDS", 0.1 if status == 408 else PATIENCE_SECONDS)
    start = f"GET /livez HTTP/1.1\r\nHost: x\r\noRigin:  {ORIGIN}".encode()
    pieces = [start, b"\r\n", rest] if apart else [start + b"\r\n" + rest]
    said = await exchange(address, *filter(None, pieces))

    assert statuses(said) == [status]
    assert headers(said)["access-control-allow-origin"] == ORIGIN


async def test_an_incomplete_origin(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incomplete Origin line is not used, since it could have continued."""
    monkeypatch.setattr(http_protocol, "LOOK_SECONDS", 0.1)
    for end in (b"", b"\r"):
        said = await exchange(address, f"GET /livez HTTP/1.1\r\nOrigin: {ORIGIN}".encode() + end)

        assert statuses(said) == [408]
        assert "access-control-allow-origin" not in headers(said)


@pytest.mark.parametrize("size", [160_000, 200_000, 250_000])
@pytest.mark.parametrize("before", [b"", b"1\r\n1\r\n", b"1\r\n1\r\n" + b"f" * 40_000])
async def test_an_overlong_chunk_size_in_one_segment(
    address: str, before: bytes, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An overlong chunk size is rejected at once, even in one segment with a valid head."""
    monkeypatch.setattr(http_protocol, "LOOK_SECONDS", float(PATIENCE_SECONDS))
    said = await exchange(address, request(POST, JSON, CHUNKED) + before + b"1;" + b"a" * size)

    assert statuses(said)[-1] in {400, 413, 431}


@pytest.mark.parametrize("length", [90_000, 99_900])
async def test_a_large_segment(address: str, length: int) -> None:
    """Long heads and bodies in one segment with what follows are parsed correctly."""
    body = QUERY + b" " * (length - len(QUERY))
    one = request(POST, JSON, f"A: {'a' * 60_000}", body=body)
    said = await exchange(address, one + one + LAST)

    assert statuses(said) == [200, 200, 200]


@pytest.mark.parametrize(
    ("allowed", "origin", "told"),
    [
        ((), "https://a.example", []),
        (("https://a.example",), None, ["vary"]),
        (("https://A.example:443",), "https://a.example", ["access-control-allow-origin", "vary"]),
        (("http://a.example",), "http://a.example:80", ["access-control-allow-origin", "vary"]),
        (("http://a.example",), "https://a.example", ["vary"]),
        (("http://a.example",), "http://a.example:443", ["vary"]),
        (("*",), "https://a.example", ["access-control-allow-origin"]),
        (("*",), None, []),
    ],
)
def test_origins(allowed: tuple[str, ...], origin: str | None, told: list[str]) -> None:
    """Origins are compared without regard to case and default ports."""
    given = Origins(allowed).headers_for(origin and origin.encode())  # type: ignore[arg-type]  # None or bytes

    assert [name.decode() for name, _ in given if b"expose" not in name] == told


async def parts(_scope: Scope, receive: Receive, send: Send) -> None:
    """An application whose response has no Content-Length."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"one ", "more_body": True})
    await send({"type": "http.response.body", "body": b"two"})


async def test_http_1_0_gets_no_chunked_encoding() -> None:
    """For HTTP/1.0, closing the connection ends a response of unknown length."""
    async with served(parts, lifespan="off") as address:
        said = await exchange(address, request("POST / HTTP/1.0", "Connection: keep-alive", "Expect: 100-continue"))
        modern = await exchange(address, request("GET / HTTP/1.1", "Connection: close"))

    assert said.endswith(b"\r\n\r\none two")
    assert "transfer-encoding" not in headers(said)
    assert headers(said)["connection"] == "close"
    assert headers(modern)["transfer-encoding"] == "chunked"


async def test_an_event_stream_by_http_1_0(address: str) -> None:
    sent = request("GET /graphql?query={__typename} HTTP/1.0", "Accept: text/event-stream")
    said = await exchange(address, sent)

    assert said.endswith(b"event: complete\ndata:\n\n") or b"event: complete" in said
    assert "transfer-encoding" not in headers(said)


async def endless(_scope: Scope, receive: Receive, send: Send) -> None:
    """An application whose response continues until the client disconnects."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    receiving = asyncio.ensure_future(receive())
    while not (receiving.done() and receiving.result()["type"] == "http.disconnect"):
        if receiving.done():
            receiving = asyncio.ensure_future(receive())
        await send({"type": "http.response.body", "body": b"x", "more_body": True})


async def test_the_answer_to_head_ends() -> None:
    """HEAD ends even if GET would not, and the connection can be reused."""
    async with served(endless, lifespan="off") as address:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        for _ in range(3):
            writer.write(request("HEAD / HTTP/1.1"))
            assert b"HTTP/1.1 200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
        writer.close()
        assert (await exchange(address, request("HEAD / HTTP/1.0"))).endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "path", ["/", "/livez", "/readyz", "/metrics", "/nothing", "/graphql", "/graphql?query={__typename}"]
)
@pytest.mark.parametrize("accept", ["*/*", "text/html", "text/event-stream"])
async def test_head(address: str, path: str, accept: str) -> None:
    """No response to HEAD has a body, whatever its status, and the next response follows."""
    one = request(f"HEAD {path} HTTP/1.1", f"Accept: {accept}")
    said = await exchange(address, one, one + LAST, pause=0.1)

    first, second, third = said.split(b"HTTP/1.1 ")[1:]
    assert first.endswith(b"\r\n\r\n")
    assert second.endswith(b"\r\n\r\n")
    assert third.startswith(b"200 ")


async def test_the_rejection_is_not_lost(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that reads only after sending everything still receives the rejection."""
    monkeypatch.setattr(http_protocol, "DISCARD_SECONDS", PATIENCE_SECONDS)
    reader, writer = await asyncio.open_connection(*address.split(":"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        writer.write(WRONG["nonsense"])
        for _ in range(20):
            await asyncio.sleep(0.01)
            writer.write(b"x" * 10_000)
            await writer.drain()
        assert statuses(await reader.read()) == [400]
    writer.close()


def test_defaults() -> None:
    assert (load().keep_alive_seconds, load().limit_idle_connections) == (75.0, 1000)
    assert http_protocol.LOOK_SECONDS * (http_protocol.LOOKS_FOR_REQUEST + 1) == 9.0
