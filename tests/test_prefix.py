"""A server below a proxy's path prefix, as set by ROOT_PATH, whether or not the proxy strips the prefix."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import httpx
import live
import pytest
from conftest import SECRET, Server, Serving, User, announced, python
from patience import PATIENCE_SECONDS
from proxy import proxied
from websockets.sync.client import connect

from app.errors import StartupError
from app.settings import Settings, load

PREFIX = "/team/tasks"
HTML = {"Accept": "text/html"}
VIEWER = "{ viewer { id } }"
PROTOCOLS: Any = ["graphql-transport-ws"]


@pytest.fixture(scope="module")
def prefixed(server: Server, settings: Settings) -> Iterator[Serving]:
    """A server with a prefix, on the tests' database."""
    del settings  # migrates the database
    environment = {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url, "AUTH_SECRET": SECRET}
    arguments = ("serve", "--port", "0")
    with announced(python(live.__file__, *arguments, ROOT_PATH=PREFIX, **environment), has_demo=False) as served:
        yield served


@pytest.fixture(params=["strips", "keeps", "direct", "direct, with the prefix"])
def base(request: pytest.FixtureRequest, prefixed: Serving) -> Iterator[str]:
    """The server's base URL: through a proxy of either kind, or direct."""
    if request.param.startswith("direct"):
        yield prefixed.url + (PREFIX if "prefix" in request.param else "")
        return
    with proxied(prefixed.url, PREFIX, strips=request.param == "strips") as url:
        yield url + PREFIX


def test_what_the_page_loads(base: str) -> None:
    """The page's files are relative to its URL, and exist."""
    page = httpx.get(f"{base}/graphql", headers=HTML, timeout=PATIENCE_SECONDS)
    files = re.findall(r'(?:src|href)="((?!data:)[^"]+)"', page.text)

    assert page.status_code == 200
    for file in files:
        assert httpx.get(urljoin(f"{base}/graphql", file), timeout=PATIENCE_SECONDS).status_code == 200


@pytest.mark.parametrize("path", ["", "/"])
def test_the_way_to_the_page(base: str, path: str) -> None:
    """The root redirects to the page below the prefix."""
    answer = httpx.get(base + path, headers=HTML, timeout=PATIENCE_SECONDS)

    assert answer.status_code == 307
    assert answer.headers["location"] == f"{PREFIX}/graphql"


def test_operations(base: str, alice: User) -> None:
    """Operations run by POST and by GET."""
    headers = {"Authorization": f"Bearer {alice.token}"}
    answers = [
        httpx.post(f"{base}/graphql", json={"query": VIEWER}, headers=headers, timeout=PATIENCE_SECONDS),
        httpx.get(f"{base}/graphql", params={"query": VIEWER}, headers=headers, timeout=PATIENCE_SECONDS),
    ]

    assert [answer.json() for answer in answers] == 2 * [{"data": {"viewer": {"id": str(alice.id)}}}]


def test_sockets(base: str, alice: User) -> None:
    """A subscription runs over WebSocket."""
    with connect(
        f"{base.replace('http', 'ws', 1)}/graphql", open_timeout=PATIENCE_SECONDS, subprotocols=PROTOCOLS
    ) as socket:
        socket.send(f'{{"type": "connection_init", "payload": {{"Authorization": "Bearer {alice.token}"}}}}')
        assert socket.recv(PATIENCE_SECONDS) == '{"type":"connection_ack"}'
        socket.send('{"type": "subscribe", "id": "a", "payload": {"query": "subscription { ticks(count: 1) }"}}')
        assert socket.recv(PATIENCE_SECONDS) == '{"id":"a","type":"next","payload":{"data":{"ticks":1}}}'


def test_event_streams(base: str, alice: User) -> None:
    """A subscription runs over server-sent events."""
    headers = {"Authorization": f"Bearer {alice.token}", "Accept": "text/event-stream"}
    answer = httpx.post(
        f"{base}/graphql", json={"query": "subscription { ticks(count: 1) }"}, headers=headers, timeout=PATIENCE_SECONDS
    )

    assert '{"data":{"ticks":1}}' in answer.text


def test_probes_and_unknown_paths(base: str) -> None:
    """Probes are below the prefix, and unknown paths are 404."""
    assert httpx.get(f"{base}/livez", timeout=PATIENCE_SECONDS).json() == {"status": "ok"}
    assert httpx.get(f"{base}/nothing", timeout=PATIENCE_SECONDS).status_code == 404
    assert httpx.get(f"{base}/graphql/graphql", timeout=PATIENCE_SECONDS).status_code == 404


def test_a_prefix_of_a_prefix(prefixed: Serving) -> None:
    """A path that merely starts with the prefix's characters is 404."""
    assert httpx.get(f"{prefixed.url}{PREFIX}s/graphql", timeout=PATIENCE_SECONDS).status_code == 404


@pytest.mark.parametrize(
    ("given", "root_path"), [("", ""), ("/", ""), ("/tasks", "/tasks"), ("/a/b-c.d~e/", "/a/b-c.d~e")]
)
def test_prefixes(given: str, root_path: str) -> None:
    """A trailing slash is ignored."""
    assert load(root_path=given).root_path == root_path


@pytest.mark.parametrize("given", ["tasks", "//", "/a?b", "/a b", "https://a.example/tasks", "/a//b", "/a\n"])
def test_invalid_prefixes(given: str) -> None:
    """An invalid prefix is rejected with an error that names ROOT_PATH."""
    with pytest.raises(StartupError, match="ROOT_PATH"):
        load(root_path=given)
