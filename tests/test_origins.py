"""Cross-origin requests: which are allowed, what pages can read, and what is logged."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Application, User, running

from app.errors import StartupError
from app.origins import MOST_LOGGED, Origins, is_same, normalized
from app.settings import Settings, load

APP = "https://app.example"
PREFLIGHT = {
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}
VIEWER = "{ viewer { id } }"
HTML = {"Accept": "text/html"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://app.example", "HTTPS://App.Example"),
        ("https://app.example", "https://app.example:443"),
        ("http://app.example", "http://app.example:80"),
        ("http://app.example:8080", "http://app.example:08080"),
        ("http://[::1]:3000", "http://[0:0:0:0:0:0:0:1]:3000"),
        ("https://[2001:DB8::1]", "https://[2001:db8:0::1]:443"),
    ],
)
def test_equal_origins(one: str, other: str) -> None:
    """Scheme and host are compared without case, and a default port equals none."""
    assert normalized(one) == normalized(other) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://app.example", "http://app.example"),
        ("https://app.example", "https://app.example:80"),
        ("http://app.example", "http://app.example:8080"),
        ("https://app.example", "https://www.app.example"),
        ("http://[::1]", "http://[::2]"),
    ],
)
def test_different_origins(one: str, other: str) -> None:
    """Another scheme, host or port is another origin."""
    assert normalized(one) != normalized(other)


@pytest.mark.parametrize(
    "text",
    ["", "null", "app.example", "https://", "https://app.example/", "https://a@b", "https://a b", "https://[::1",
     "https://[::g]", "file://x", "https://a:b", "https://a#b", "https://a?b", "https://*"],
)  # fmt: skip
def test_an_invalid_origin(text: str) -> None:
    """An invalid origin is never allowed, and CORS_ORIGINS rejects it."""
    assert normalized(text) is None
    assert not Origins([APP]).is_allowed(text)
    if text:
        with pytest.raises(StartupError, match="CORS_ORIGINS"):
            load(cors_origins=text)


@pytest.mark.parametrize("host", ["app.example", "APP.example:443", "app.example:80"])
def test_the_servers_own_origin(host: str) -> None:
    """The Host header names the server's origin, with or without the default port, also behind a TLS proxy."""
    assert is_same("https://app.example" if "80" not in host else "http://app.example", host)
    assert not is_same("https://app.example:8443", host)


@pytest.fixture
async def shared(settings: Settings) -> AsyncIterator[Application]:
    """An application that allows two other origins."""
    origins = ("https://App.example:443", "http://localhost:3000")
    async with running(settings.model_copy(update={"cors_origins": origins})) as application:
        yield application


def cors(response: httpx.Response) -> list[str]:
    return [name for name in response.headers if name.startswith("access-control")]


async def test_no_other_origin_by_default(http: httpx.AsyncClient) -> None:
    """Without CORS_ORIGINS no page of another origin can read a response."""
    preflight = await http.options("/graphql", headers=PREFLIGHT)
    answer = await http.post("/graphql", json={"query": "{ __typename }"}, headers={"Origin": APP})

    assert preflight.status_code == 405
    assert cors(preflight) == cors(answer) == []


async def test_a_preflight(shared: Application) -> None:
    """Pages of allowed origins may send a token, but no cookies; other origins are rejected."""
    allowed = await shared.http.options("/graphql", headers=PREFLIGHT)
    foreign = await shared.http.options("/graphql", headers={**PREFLIGHT, "Origin": "https://evil.example"})

    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == APP
    assert allowed.headers["access-control-allow-headers"] == "authorization,content-type"
    assert allowed.headers["access-control-allow-methods"] == "GET, POST"
    assert "origin" in allowed.headers["vary"]
    assert "access-control-allow-credentials" not in allowed.headers
    assert foreign.status_code == 403
    assert is_refusal(foreign)
    assert cors(foreign) == []
    assert "CORS_ORIGINS" in foreign.text


async def test_any_origin(settings: Settings) -> None:
    """With * pages of every origin may send requests, including the origin `null`."""
    async with running(settings.model_copy(update={"cors_origins": ("*",)})) as application:
        for origin in (APP, "null"):
            answers = [
                await application.http.options("/graphql", headers={**PREFLIGHT, "Origin": origin}),
                await application.http.get("/nothing", headers={"Origin": origin}),
            ]
            assert [answer.headers["access-control-allow-origin"] for answer in answers] == ["*", "*"]


JSON_BODY = {"Content-Type": "application/json"}
REFUSALS: dict[str, tuple[int, str, str, dict[str, Any]]] = {
    "no JSON": (400, "POST", "/graphql", {"content": "{", "headers": JSON_BODY}),
    "no token": (401, "POST", "/graphql", {"json": {"query": VIEWER}}),
    "no address": (404, "GET", "/nothing", {}),
    "no metrics": (404, "GET", "/metrics", {}),
    "no file": (404, "GET", "/explorer/nothing.js", {}),
    "a folder": (404, "GET", "/explorer/", {}),
    "no name of a file": (404, "GET", "/explorer/%00", {}),
    "a long name of a file": (404, "GET", "/explorer/" + "a" * 5_000, {}),
    "another method": (405, "PUT", "/graphql", {}),
    "another method of a probe": (405, "POST", "/livez", {}),
    "nothing to accept": (406, "POST", "/graphql", {"json": {"query": VIEWER}, "headers": {"Accept": "image/png"}}),
    "too long": (413, "POST", "/graphql", {"content": " " * 200_000, "headers": JSON_BODY}),
    "no media type": (415, "POST", "/graphql", {"content": "{}", "headers": {"Content-Type": "text/plain"}}),
    "compressed": (415, "POST", "/graphql", {"content": "{}", "headers": {**JSON_BODY, "Content-Encoding": "gzip"}}),
    "a probe": (200, "GET", "/livez", {}),
    "a redirect": (307, "GET", "/", {}),
}


def is_refusal(answer: httpx.Response) -> bool:
    """Whether a response has the common form of rejections."""
    (error,) = answer.json()["errors"]
    assert error["extensions"]["code"]
    assert len(error["message"]) > 20
    assert answer.headers["content-type"].startswith("application/")
    assert answer.headers["x-request-id"]
    assert (answer.status_code == 405) == ("allow" in answer.headers)
    return True


@pytest.mark.parametrize("name", REFUSALS)
async def test_rejections_can_be_read(shared: Application, name: str) -> None:
    """Pages of allowed origins can read every rejection, whichever layer sent it; other pages cannot."""
    status, method, path, options = REFUSALS[name]
    options = {**options}
    headers = options.pop("headers", {})
    answers = [
        await shared.http.request(method, path, headers={**headers, **origin}, **options)
        for origin in ({"Origin": APP}, {"Origin": "https://evil.example"}, {})
    ]

    assert {answer.status_code for answer in answers} == {status}
    for answer in answers if status >= 400 else []:
        assert is_refusal(answer)
    assert answers[0].headers["access-control-allow-origin"] == APP
    assert "retry-after" in answers[0].headers["access-control-expose-headers"]
    assert [cors(answer) for answer in answers[1:]] == [[], []]
    assert all("origin" in answer.headers["vary"].lower() for answer in answers)


async def test_a_rejection_is_logged_with_its_id(http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the request's own id if it is valid, or else a new one."""
    caplog.set_level("INFO", "app.web.refusals")
    answers = [await http.get("/nothing", headers={"X-Request-ID": id_}) for id_ in ("mine", "no id")]

    assert answers[0].headers["x-request-id"] == "mine"
    assert answers[1].headers["x-request-id"] != "no id"
    for answer in answers:
        assert f"request {answer.headers['x-request-id']} was rejected with 404" in caplog.text


@pytest.fixture
async def files(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Application]:
    """An application with one explorer file."""
    (tmp_path / "explorer.js").write_text("x" * 1_000)
    monkeypatch.setattr("app.web.explorer.ASSETS", tmp_path)
    async with running(settings) as application:
        yield application


async def test_files_are_only_read(files: Application) -> None:
    """Directories, unusual names and other methods are rejected like everything else."""
    for path in ("", "nothing.js", "%00", "a" * 5_000, "../main.py"):
        answer = await files.http.get(f"/explorer/{path}")
        assert (answer.status_code, is_refusal(answer)) == (404, True)
    answer = await files.http.post("/explorer/explorer.js")

    assert (answer.status_code, is_refusal(answer)) == (405, True)
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("part", ["bytes=0-9", "bytes=x", "bytes=99999999999-", "lines=1-2", "bytes=0-1,5-6"])
async def test_parts_of_files_are_not_served(files: Application, part: str) -> None:
    """Range headers are ignored."""
    for coding in ("gzip", "identity"):
        headers = {"Accept-Encoding": coding, "Range": part}
        answer = await files.http.get("/explorer/explorer.js", headers=headers)

        assert answer.status_code == 200
        assert answer.text == "x" * 1_000
        assert "accept-ranges" not in answer.headers


async def test_a_rate_limited_page(settings: Settings, shared: Application, alice: User) -> None:
    """A page of an allowed origin can read a 429 response."""
    limits = {"cors_origins": (APP,), "rate_limit": "1/hour"}
    del shared
    async with running(settings.model_copy(update=limits)) as application:
        headers = {"Origin": APP, "Authorization": f"Bearer {alice.token}"}
        answer = await application.http.post("/graphql", json={"query": VIEWER}, headers=headers)

    assert answer.status_code == 429
    assert answer.headers["access-control-allow-origin"] == APP


async def test_too_many_requests_at_once(settings: Settings) -> None:
    """A page of an allowed origin can read that the server is busy."""
    async with running(settings.model_copy(update={"cors_origins": (APP,), "limit_concurrency": 1})) as application:
        sent = [application.http.post("/graphql", content=slow(), headers={**JSON_BODY, "Origin": APP}) for _ in "ab"]
        answers = await asyncio.gather(*sent)

    busy = [answer for answer in answers if answer.status_code == 503]
    assert busy
    assert busy[0].headers["access-control-allow-origin"] == APP


async def slow() -> AsyncIterator[bytes]:
    """A body that takes several iterations of the event loop."""
    for part in (b'{"query":', b'"{ __typename }"', b"}"):
        await asyncio.sleep(0)
        yield part


@pytest.mark.parametrize("path", ["/graphql", "/livez"])
async def test_a_bug_can_be_read(shared: Application, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """A page of an allowed origin can read an internal error, without its details."""

    def broken(*_args: object) -> None:
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr("schema.engine.execution.Engine.known", broken)
    monkeypatch.setattr("starlette.routing.Route.handle", broken)
    transport = httpx.ASGITransport(shared.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        method = "POST" if path == "/graphql" else "GET"
        answer = await http.request(method, path, json={"query": VIEWER}, headers={"Origin": APP})

    assert answer.status_code == 500
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.json()["errors"][0]["extensions"]["code"] == "INTERNAL"
    assert answer.headers["x-request-id"]
    assert "secret" not in answer.text


@pytest.mark.parametrize("origins", [(APP,), ("*",)])
async def test_the_explorers_page_is_for_its_own_origin(settings: Settings, origins: tuple[str, ...]) -> None:
    """No page of another origin can read the explorer's page."""
    async with running(settings.model_copy(update={"cors_origins": origins})) as application:
        page = await application.http.get("/graphql", headers={**HTML, "Origin": APP})

    assert page.headers["content-type"].startswith("text/html")
    assert cors(page) == []


async def test_a_refused_preflight_is_logged_once(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """A rejected preflight is logged once per origin and names CORS_ORIGINS."""
    for origins in ((), (APP,)):
        async with running(settings.model_copy(update={"cors_origins": origins})) as application:
            caplog.clear()
            for origin in ("https://evil.example", "https://EVIL.example:443", "https://other.example"):
                await application.http.options("/graphql", headers={**PREFLIGHT, "Origin": origin})
        messages = [record.getMessage() for record in caplog.records if record.name == "app.origins"]

        assert len(messages) == 2
        assert "https://evil.example" in messages[0]
        assert all("CORS_ORIGINS" in message for message in messages)


def test_what_is_logged_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """At most a fixed number of origins is logged, and never text that is not an origin."""
    origins = Origins([])
    with caplog.at_level(logging.WARNING):
        for number in range(2 * MOST_LOGGED):
            origins.log_refused(f"https://a{number}.example")
        Origins([]).log_refused("\x1b[31m" + "x" * 5000)

    assert len(caplog.records) == MOST_LOGGED + 1
    assert "\x1b" not in caplog.text
    assert "x" * 100 not in caplog.text
