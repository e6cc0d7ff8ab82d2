"""The recipes for reverse proxies in deploy, run in front of a server, with and without a path prefix."""

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from ssl import CERT_NONE, SSLContext, create_default_context
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import SECRET, Server, Serving, User, free_port, run, serving
from patience import PATIENCE_SECONDS
from websockets.sync.client import connect

from app.settings import Settings

HOST = "tasks.example.com"
VIEWER = "{ viewer { id } }"
TOKEN = "{ changes { token } }"
CHANGES = "subscription ($since: SyncToken) { changes(since: $since) { changes { __typename } } }"
PROTOCOLS: Any = ["graphql-transport-ws"]
# In place of KEEP_ALIVE_SECONDS and of the recipes' shorter times, so that idle connections end within the test.
SERVER_IDLE, PROXY_IDLE = 4, 2
ANONYMOUS_ROWS = 30


@dataclass
class Proxy:
    """A running proxy: the base URL that it publishes, and the server behind it."""

    url: str
    behind: Serving

    def client(self, address: str = "127.0.0.1") -> httpx.Client:
        """A client with this address, which accepts the tests' certificate."""
        transport = httpx.HTTPTransport(verify=insecure(), local_address=address)
        return httpx.Client(transport=transport, timeout=PATIENCE_SECONDS)

    def post(
        self, client: httpx.Client, query: str, user: User | None = None, forwarded_for: str = ""
    ) -> httpx.Response:
        credentials = {"Authorization": f"Bearer {user.token}"} if user else {}
        forwarded = {"X-Forwarded-For": forwarded_for} if forwarded_for else {}
        return client.post(f"{self.url}/graphql", json={"query": query}, headers={**credentials, **forwarded})


def insecure() -> SSLContext:
    context = create_default_context()
    context.check_hostname, context.verify_mode = False, CERT_NONE
    return context


def edited(recipe: Path, **replacements: str) -> str:
    """A recipe with these texts replaced. Each must occur."""
    text = recipe.read_text()
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificate.pem, key.pem, and both in taskql.pem."""
    folder = tmp_path_factory.mktemp("certificate")
    files = ("-keyout", "key.pem", "-out", "certificate.pem")
    run(folder, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, "-subj", f"/CN={HOST}")
    (folder / "taskql.pem").write_text((folder / "certificate.pem").read_text() + (folder / "key.pem").read_text())
    return folder


@pytest.fixture(scope="module", params=["/tasks", ""], ids=["below a prefix", "at the root"])
def behind(request: pytest.FixtureRequest, server: Server, settings: Settings) -> Iterator[tuple[str, Serving]]:
    """A server with or without a prefix, whose idle connections end early."""
    del settings  # migrates the database
    environment = {
        "DATABASE_URL": server.app_url,
        "AUTH_SECRET": SECRET,
        "ROOT_PATH": request.param,
        "KEEP_ALIVE_SECONDS": str(SERVER_IDLE),
        "RATE_LIMIT_ANONYMOUS": f"{ANONYMOUS_ROWS}/minute",
        "METRICS_PORT": "0",
    }
    with serving(**environment) as served:
        yield request.param, served


def nginx(folder: Path, recipe: Path, to: str, port: int, certificate: Path) -> list[str]:
    """Include the recipe in a configuration without Debian's paths."""
    site = edited(
        recipe,
        **{
            "listen 80;": f"listen 127.0.0.1:{free_port()};",
            "    listen [::]:80;\n": "",
            "listen 443": f"listen 127.0.0.1:{port}",
            "    listen [::]:443 ssl http2;\n": "",
            "/etc/ssl/taskql": str(certificate),
            "127.0.0.1:8000": to,
            "keepalive_timeout 60s": f"keepalive_timeout {PROXY_IDLE}s",
        },
    )
    (folder / "site.conf").write_text(site)
    temporary = "".join(f"{kind}_temp_path {folder}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary} include {folder}/site.conf; }}\n"
    )
    return ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, recipe: Path, to: str, port: int, _certificate: Path) -> list[str]:
    """Without TLS: the certificate that Caddy would obtain is not available here."""
    site = edited(
        recipe,
        **{
            HOST + " {": f"http://127.0.0.1:{port} {{",
            "127.0.0.1:8000": to,
            "keepalive 60s": f"keepalive {PROXY_IDLE}s",
        },
    )
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n\tauto_https off\n}}\n{site}")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


def haproxy(folder: Path, recipe: Path, to: str, port: int, certificate: Path) -> list[str]:
    site = edited(
        recipe,
        **{
            "bind :80": f"bind 127.0.0.1:{free_port()}",
            "bind :443": f"bind 127.0.0.1:{port}",
            "/etc/haproxy/taskql.pem": str(certificate / "taskql.pem"),
            "127.0.0.1:8000": to,
            "pool-purge-delay 30s": f"pool-purge-delay {PROXY_IDLE // 2}s",
        },
    )
    (folder / "haproxy.cfg").write_text(site)
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


Prepare = Callable[[Path, Path, str, int, Path], list[str]]
RECIPES: dict[str, tuple[str, Prepare]] = {
    "nginx": ("nginx.conf", nginx),
    "caddy": ("Caddyfile", caddy),
    "haproxy": ("haproxy.cfg", haproxy),
}


@pytest.fixture(scope="module", params=RECIPES)
def proxy(
    request: pytest.FixtureRequest,
    behind: tuple[str, Serving],
    certificate: Path,
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    """Each recipe, in front of each server."""
    name, prepare = RECIPES[request.param]
    prefix, served = behind
    folder, port = tmp_path_factory.mktemp(request.param), free_port()
    recipe = folder / f"recipe-{name}"
    recipe.write_text((repository / "deploy" / name).read_text().replace("/tasks", prefix))
    command = prepare(folder, recipe, urlsplit(served.url).netloc, port, certificate)
    with started(command, folder, port):
        scheme = "http" if prepare is caddy else "https"
        yield Proxy(f"{scheme}://127.0.0.1:{port}{prefix}", served)


@contextmanager
def started(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """Run a proxy until the block ends."""
    home = {"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=home, stdout=log, stderr=log)  # noqa: S603 - the proxies above
        try:
            wait_for(port, process, folder / "log")
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the proxy listens."""
    end = monotonic() + PATIENCE_SECONDS
    while monotonic() < end and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        sleep(0.05)  # a proxy does not tell when it listens
    raise AssertionError(log.read_text())


def test_the_programs_accept_the_recipes(repository: Path) -> None:
    """All of the recipes are here, and so are their programs."""
    for program, (name, _) in RECIPES.items():
        assert (repository / "deploy" / name).exists()
        assert shutil.which(program)


def test_operations(proxy: Proxy, alice: User) -> None:
    with proxy.client() as client:
        assert proxy.post(client, VIEWER, alice).json() == {"data": {"viewer": {"id": str(alice.id)}}}


def test_the_explorer(proxy: Proxy) -> None:
    """The page, what it loads, and the way to it."""
    with proxy.client() as client:
        start = client.get(f"{proxy.url}/")
        page = client.get(f"{proxy.url}/graphql", headers={"Accept": "text/html"})
        script = client.get(f"{proxy.url}/explorer/explorer.js")

    assert start.status_code == 307
    assert proxy.url.endswith(start.headers["location"].removesuffix("/graphql"))
    assert "explorer/explorer.js" in page.text
    assert script.status_code == 200


def test_web_sockets(proxy: Proxy, alice: User) -> None:
    """A WebSocket from a page of the same site: the Host header reaches the server."""
    url = f"{proxy.url.replace('http', 'ws', 1)}/graphql"
    tls = insecure() if url.startswith("wss") else None
    origin: Any = proxy.url.removesuffix("/tasks")
    with connect(url, ssl=tls, origin=origin, subprotocols=PROTOCOLS, open_timeout=PATIENCE_SECONDS) as web_socket:
        web_socket.send(f'{{"type": "connection_init", "payload": {{"Authorization": "Bearer {alice.token}"}}}}')
        assert web_socket.recv(PATIENCE_SECONDS) == '{"type":"connection_ack"}'
        web_socket.send('{"type": "subscribe", "id": "a", "payload": {"query": "{ viewer { id } }"}}')
        assert (
            web_socket.recv(PATIENCE_SECONDS)
            == f'{{"id":"a","type":"next","payload":{{"data":{{"viewer":{{"id":"{alice.id}"}}}}}}}}'
        )


async def test_event_streams_are_not_held_back(proxy: Proxy, alice: User) -> None:
    """An event arrives while its stream stays open."""
    headers = {"Authorization": f"Bearer {alice.token}", "Accept": "text/event-stream"}
    since = (await alice.data(TOKEN))["changes"]["token"]
    body = {"query": CHANGES, "variables": {"since": since}}
    async with (
        httpx.AsyncClient(verify=insecure(), timeout=PATIENCE_SECONDS) as client,
        client.stream("POST", f"{proxy.url}/graphql", json=body, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        await alice.add()
        async for line in answer.aiter_lines():
            if "TaskUpserted" in line:
                break
        else:
            raise AssertionError("the stream ended")


@pytest.mark.parametrize(
    "path",
    [
        "/readyz",
        "/livez",
        "/metrics",
        "//readyz",
        "/%72eadyz",
        "/./readyz",
        "/explorer/../readyz",
        "/explorer/..%2freadyz",
    ],
)
def test_only_the_api_is_public(proxy: Proxy, path: str) -> None:
    """Neither probes nor metrics can be reached, below the prefix or at the root, however the path is written."""
    target = urlsplit(proxy.url)
    with proxy.client() as client:
        for prefix in {"", target.path}:
            request = client.build_request("GET", f"{target.scheme}://{target.netloc}/")
            request.url = request.url.copy_with(raw_path=(prefix + path).encode())
            answer = client.send(request)
            assert answer.status_code in {301, 308, 400, 404}, path
            assert "database" not in answer.text
            assert "taskql_" not in answer.text


def test_idle_connections_cost_no_request(proxy: Proxy, alice: User) -> None:
    """Around the times after which proxy and server close idle connections, no request gets an error."""
    # Four requests at each pause, on connections that the proxy may keep or have closed.
    pauses = [tenth / 10 for tenth in range(10 * PROXY_IDLE - 8, 10 * SERVER_IDLE + 8, 2) for _ in range(4)]

    def twice(pause: float) -> list[int]:
        with proxy.client() as client:
            first = proxy.post(client, VIEWER, alice).status_code
            sleep(pause)  # the time is what is tested
            return [first, proxy.post(client, VIEWER, alice).status_code]

    with ThreadPoolExecutor(len(pauses)) as pool:
        assert set(map(tuple, pool.map(twice, pauses))) == {(200, 200)}


def test_clients_are_told_apart(proxy: Proxy, request: pytest.FixtureRequest) -> None:
    """Anonymous clients are charged by their own address, which they cannot forge."""
    number = 2 * request.session.items.index(request.node)
    one, other = (f"127.0.{number // 200 + 1}.{number % 200 + 10 + more}" for more in (0, 1))

    def forged(client: httpx.Client) -> int:
        return proxy.post(client, VIEWER, forwarded_for="203.0.113.9").status_code

    with proxy.client(one) as client:
        seen = [forged(client) for _ in range(ANONYMOUS_ROWS + 1)]
        assert seen[-1] == 429, seen
        assert proxy.post(client, VIEWER).status_code == 429
    with proxy.client(other) as client:
        assert forged(client) != 429
