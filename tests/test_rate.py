"""Rate limits: by user, by address, by cost, per process or shared."""

import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
import limits
import pytest
from conftest import SECRET, Application, Server, Serving, User, running, serving
from fakeredis import TcpFakeServer
from patience import PATIENCE_SECONDS
from pydantic import SecretStr

from app import settings as configuration
from app.errors import RateLimited, StartupError
from app.settings import Settings
from app.sharing import rate_limits
from app.sharing.rate_limits import Rate, Windows

VIEWER = "{ viewer { id } }"
PAGE = "query ($first: Int) { tasks(first: $first) { nodes { id } } }"
MANY = " ".join(f"t{n}: tasks(first: $first) {{ nodes {{ id }} more: nodes {{ id }} }}" for n in range(20))
PAGES = f"query ($first: Int) {{ {MANY} }}"
UNTOLD = "query ($first: Int, $skip: Boolean = false) { tasks(first: $first) { nodes { id @skip(if: $skip) } } }"
GRAPHQL_JSON = "application/graphql-response+json"

NewUser = Callable[..., Awaitable[User]]


def limited(response: httpx.Response) -> bool:
    """Whether a response is a complete RATE_LIMITED rejection."""
    if response.status_code != 429:
        return False
    (error,) = response.json()["errors"]
    assert "data" not in response.json()
    assert error["extensions"]["code"] == "RATE_LIMITED"
    assert 1 <= error["extensions"]["retryAfter"] <= 60
    assert response.headers["retry-after"] == str(error["extensions"]["retryAfter"])
    return True


async def anonymous(http: httpx.AsyncClient, query: str = VIEWER) -> httpx.Response:
    return await http.post("/graphql", json={"query": query})


@pytest.fixture
async def strict(settings: Settings) -> AsyncIterator[Application]:
    """An application with 300 rows a minute per user and 150 per address; a new document costs 100."""
    update = {"rate_limit": "300/minute", "rate_limit_anonymous": "150/minute"}
    async with running(settings.model_copy(update=update)) as application:
        yield application


async def test_a_user_is_charged_for_rows(strict: Application, new_user: NewUser) -> None:
    """Pages are charged by size; over the limit there is a 429 before any SQL, and other users go on."""
    alice, bob = await new_user(strict.http), await new_user(strict.http)
    answers = [await alice.post(PAGE, {"first": 100}) for _ in range(2)]
    await strict.wire.statements()

    assert [answer.status_code for answer in answers] == [200, 200]
    assert limited(await alice.post(PAGE, {"first": 1}))
    assert limited(await alice.post(PAGE, {"first": 1}))
    assert await strict.wire.statements() == []
    assert not limited(await bob.post(PAGE, {"first": 100}))


async def test_either_media_type_says_429(strict: Application, new_user: NewUser) -> None:
    """Both media types have status 429, as proxies and clients rely on it."""
    alice = await new_user(strict.http)
    headers = {"Authorization": f"Bearer {alice.token}"}
    for _ in range(3):
        await alice.post(PAGE, {"first": 100})

    for accept in (GRAPHQL_JSON, "application/json"):
        answer = await strict.http.post("/graphql", json={"query": VIEWER}, headers={**headers, "Accept": accept})
        assert limited(answer)
        assert answer.headers["content-type"].startswith(accept)


async def test_a_new_document_is_charged_for(strict: Application, new_user: NewUser) -> None:
    """New documents, also invalid ones, are charged for parsing."""
    alice = await new_user(strict.http)

    broken = [await alice.post(f"{{ {uuid4().hex} ") for _ in range(4)]

    assert [limited(answer) for answer in broken] == [False, False, False, True]


async def test_what_is_refused_for_its_cost_is_not_charged(settings: Settings, new_user: NewUser) -> None:
    """Operations rejected for their cost are not charged."""
    async with running(settings.model_copy(update={"rate_limit": "2000/minute"})) as application:
        alice = await new_user(application.http)
        small = await alice.post(PAGES, {"first": 1})
        large = [await alice.post(PAGES, {"first": 100}) for _ in range(10)]

        assert small.status_code == 200
        assert {answer.json()["errors"][0]["extensions"]["code"] for answer in large} == {"LIMIT_EXCEEDED"}
        assert not limited(await alice.post(PAGES, {"first": 1}))


async def test_anonymous_callers_are_charged_by_their_address(strict: Application) -> None:
    """Anonymous callers share the limit of their address; other addresses are not affected."""
    async with strict.at("192.0.2.1") as here, strict.at("192.0.2.2") as there:
        first = [limited(await anonymous(here)) for _ in range(200)]

        assert first.index(True) in {50, 51, 150}
        assert not limited(await anonymous(there))


async def test_a_network_of_ipv6_is_one_address(strict: Application) -> None:
    """An IPv6 network of 64 bits has one limit, as a household has 2^64 addresses."""
    async with (
        strict.at("2001:db8::1") as here,
        strict.at("2001:db8::ffff:2") as beside,
        strict.at("2001:db8:0:1::1") as there,
    ):
        for _ in range(151):
            await anonymous(here)

        assert limited(await anonymous(beside))
        assert not limited(await anonymous(there))


@pytest.mark.parametrize(
    ("address", "payer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::ffff", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_who_pays_for_an_address(address: str, payer: str) -> None:
    """IPv4 is charged by address, also when mapped to IPv6, which is charged by /64; other values stay."""
    assert rate_limits.network(address) == payer


async def test_requests_with_an_invalid_token_are_charged_to_the_address(strict: Application) -> None:
    """Requests with an invalid token are charged to the caller's address."""
    async with strict.at("192.0.2.3") as here:
        for number in range(151):
            headers = {"Authorization": f"Bearer a.{number}.c"}
            await here.post("/graphql", json={"query": VIEWER}, headers=headers)

        assert limited(await anonymous(here))


class Clock:
    """A clock that tests set."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def charged(limit: Rate, caller: str, rows: int = 1) -> int:
    """0 if the charge is accepted, or else the seconds to wait."""
    try:
        if waits := limit.charge(caller, rows):
            await waits
    except RateLimited as refused:
        seconds: int = refused.extensions["retryAfter"]
        return seconds
    return 0


async def test_a_new_window_starts_empty() -> None:
    """After the returned seconds the full limit is available again."""
    clock = Clock()
    limit = Rate(limits.parse("10/minute"), Windows(clock), "rows")

    assert await charged(limit, "a", 10) == 0
    clock.now += 18.5
    assert await charged(limit, "a") == 42
    clock.now += 42
    assert await charged(limit, "a", 10) == 0


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the maximum number of callers, further ones share one count."""
    monkeypatch.setattr(rate_limits, "MOST_CALLERS", 3)
    limit = Rate(limits.parse("10/minute"), Windows(), "rows")

    assert [await charged(limit, name, 6) > 0 for name in "abcdea"] == [False, False, False, False, True, True]


async def test_a_low_limit_of_time_has_no_slack() -> None:
    """Only time limits that allow one request at all times get slack for the previous window."""
    for text, seconds, refused in (("1/minute", 2.0, True), ("60/minute", 62.0, False), ("60/minute", 71.0, True)):
        rates = rate_limits.Rates(None, None, text)
        rates.spend("a", seconds)
        waits = rates.charge("a", 1, is_user=True)
        if refused:
            assert waits
            with pytest.raises(RateLimited):
                await waits
        else:
            assert waits is None


async def test_no_limit(settings: Settings, new_user: NewUser) -> None:
    """`off` disables the limit of users or of anonymous callers, independently."""
    for users, strangers in (("off", "1/minute"), ("1/minute", "off")):
        update = {"rate_limit": users, "rate_limit_anonymous": strangers}
        async with running(settings.model_copy(update=update)) as application:
            alice = await new_user(application.http)
            assert limited(await alice.post(VIEWER)) == (users != "off")
            assert limited(await anonymous(application.http, "{ __typename }")) == (strangers != "off")


@pytest.mark.parametrize("text", ["", "many", "10", "10/blink", "10/minute; 5/second", "-1/minute"])
def test_an_invalid_limit(text: str) -> None:
    """An invalid limit is an error that names the setting and an example."""
    with pytest.raises(StartupError, match=r"RATE_LIMIT: .*1000/minute"):
        configuration.load(rate_limit=text)


@pytest.mark.parametrize("url", ["http://:hidden@host", "redis://host:hidden", "redis://[hidden"])
def test_an_invalid_redis_url(url: str) -> None:
    """An invalid URL is an error that names the setting, without the URL, which may contain a password."""
    with pytest.raises(StartupError, match=r"RATE_LIMIT_REDIS_URL: .*redis://host") as refused:
        configuration.load(rate_limit_redis_url=SecretStr(url))

    assert "hidden" not in str(refused.value)


@contextmanager
def redis_server(port: int = 0) -> Iterator[int]:
    """Run a server with Redis' protocol and yield its port."""
    server = TcpFakeServer(("127.0.0.1", port), server_type="redis")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sharing(settings: Settings, port: int) -> Settings:
    update = {"rate_limit": "300/minute", "rate_limit_redis_url": SecretStr(f"redis://127.0.0.1:{port}")}
    return settings.model_copy(update=update)


async def test_processes_share_their_counts_in_redis(settings: Settings, new_user: NewUser) -> None:
    """Servers with the same Redis share their counts."""
    with redis_server() as port:
        shared = sharing(settings, port)
        async with running(shared) as one, running(shared) as other:
            alice = await new_user(one.http)
            assert [limited(await alice.post(PAGE, {"first": 100})) for _ in range(3)] == [False, False, True]
            alice.http = other.http
            assert limited(await alice.post(UNTOLD, {"first": 1}))
            assert not limited(await (await new_user(other.http)).post(PAGE, {"first": 1}))


async def test_each_counts_for_itself_while_redis_is_down(
    settings: Settings, new_user: NewUser, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its Redis a server still limits, and logs the outage once, without the URL's password."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        url = SecretStr(f"redis://:hidden@127.0.0.1:{port}")
        gone = sharing(settings, port).model_copy(update={"rate_limit_redis_url": url})
        async with running(gone) as application:
            alice = await new_user(application.http)
            answers = [limited(await alice.post(PAGE, {"first": 100})) for _ in range(3)]

    assert answers == [False, False, True]
    (record,) = [record for record in caplog.records if record.name == "app.sharing.rate_limits"]
    assert "Redis" in record.getMessage()
    assert "hidden" not in caplog.text


@pytest.fixture
def proxied(server: Server, settings: Settings) -> Callable[..., Any]:
    """Run a server process that trusts the named proxies."""
    del settings
    environment = {
        "DATABASE_URL": server.app_url,
        "DATABASE_OWNER_URL": server.owner_url,
        "AUTH_SECRET": SECRET,
        "RATE_LIMIT_ANONYMOUS": "150/minute",
    }

    @contextmanager
    def serve(proxies: str) -> Iterator[Serving]:
        with serving(**environment, FORWARDED_ALLOW_IPS=proxies) as served:
            yield served

    return serve


@pytest.mark.parametrize(("proxies", "told_apart"), [("127.0.0.1", True), ("192.0.2.1", False)])
def test_the_address_behind_a_proxy(proxied: Callable[..., Any], proxies: str, told_apart: bool) -> None:  # noqa: FBT001 - a test parameter
    """X-Forwarded-For is used if it comes from a trusted proxy, and ignored otherwise."""
    with proxied(proxies) as served, httpx.Client(base_url=served.url, timeout=PATIENCE_SECONDS) as http:

        def ask(address: str) -> bool:
            return limited(http.post("/graphql", json={"query": VIEWER}, headers={"X-Forwarded-For": address}))

        assert any(ask("198.51.100.1") for _ in range(160))
        assert ask("198.51.100.2") != told_apart
