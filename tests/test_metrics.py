"""What the metrics count, where they are exposed, and that labels are bounded and contain no user data."""

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import live
import psutil
import pytest
from conftest import SECRET, Application, Server, Serving, User, announced, running, serving, taskql
from patience import PATIENCE_SECONDS
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from app.main import create_app
from app.observability import metrics
from app.settings import Settings
from app.web import metrics_port

NAMED = "query {} {{ viewer {{ id }} }}"
VIEWER = "{ viewer { id } }"
PAGE = "query Page { a: tasks { totalCount } b: viewer { id } }"
TICKS = "subscription Ticks { ticks(count: 3) }"
SILENCE = "subscription { silence }"
CREATE = "mutation Make($title: String!) { createTask(input: { title: $title }) { task { id } } }"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
async def scrape(settings: Settings) -> AsyncIterator[Callable[[], Awaitable[Samples]]]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(metrics_port.application(settings)), base_url="http://127.0.0.1"
    ) as http:

        async def read() -> Samples:
            answer = await http.get("/metrics")
            assert answer.status_code == 200
            return samples(answer.text)

        yield read


Scrape = Callable[[], Awaitable[Samples]]


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Poll, as metrics send no events."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await holds():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)


async def is_level(scrape: "Scrape", name: str, expected: int) -> bool:
    return value(await scrape(), name) == expected


async def test_latency_by_operation(alice: User, scrape: Scrape) -> None:
    """Each named operation of an authenticated user has its own latency series."""
    name = f"Named{uuid4().hex}"
    for _ in range(3):
        await alice.data(NAMED.format(name))

    found = await scrape()
    labels = {"operation": name, "type": "query"}
    assert value(found, "taskql_request_seconds_count", **labels) == 3
    assert 0 < value(found, "taskql_request_seconds_sum", **labels) < 60


async def test_operation_names_of_anonymous_callers(http: httpx.AsyncClient, scrape: Scrape) -> None:
    """An anonymous caller's operation counts as `other`: callers without a token create no labels."""
    before, name = await scrape(), f"Strange{uuid4().hex}"
    await http.post("/graphql", json={"query": f"query {name} {{ __typename }}"})

    found = await scrape()
    assert not [labels for _, labels in found if ("operation", name) in labels]
    other = {"operation": "other", "type": "query"}
    assert value(found, "taskql_request_seconds_count", **other) == 1 + value(
        before, "taskql_request_seconds_count", **other
    )


async def test_operation_labels_are_bounded(alice: User, scrape: Scrape, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who invents operation names gets no labels beyond the limit, nor for very long names."""
    monkeypatch.setattr(metrics, "MOST_OPERATIONS", len(metrics._latencies) + 2)  # noqa: SLF001 - labels from other tests
    mine = f"Mine{uuid4().hex}"
    for number in range(10):
        await alice.data(NAMED.format(f"{mine}{number}"))
    await alice.data(NAMED.format("Long" * 100))

    named = {dict(labels)["operation"] for name, labels in await scrape() if name == "taskql_request_seconds_count"}
    assert len([name for name in named if name.startswith(mine)]) == 2
    assert "Long" * 100 not in named


async def test_operations_without_a_name(alice: User, scrape: Scrape) -> None:
    """Unnamed operations share the label `anonymous`."""
    labels, before = {"operation": "anonymous", "type": "query"}, await scrape()
    await alice.data(VIEWER)

    name = "taskql_request_seconds_count"
    assert value(await scrape(), name, **labels) == 1 + value(before, name, **labels)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": VIEWER}, "UNAUTHENTICATED"),
        ({"query": "{ nothing }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "{"}, "GRAPHQL_PARSE_FAILED"),
        ({"query": 1}, "BAD_USER_INPUT"),
    ],
)
async def test_errors_by_code(http: httpx.AsyncClient, scrape: Scrape, body: dict[str, object], code: str) -> None:
    """Each error in a response is counted under its code, whichever layer rejected the request."""
    before = await scrape()
    await http.post("/graphql", json=body)

    assert value(await scrape(), "taskql_errors_total", code=code) == 1 + value(
        before, "taskql_errors_total", code=code
    )


async def test_rate_limited(settings: Settings, new_user: Callable[..., Awaitable[User]], scrape: Scrape) -> None:
    """Rate-limited requests are counted under RATE_LIMITED."""
    before = await scrape()
    async with running(settings.model_copy(update={"rate_limit": "1/hour"})) as application:
        await (await new_user(application.http)).ask(VIEWER)

    name, code = "taskql_errors_total", "RATE_LIMITED"
    assert value(await scrape(), name, code=code) == 1 + value(before, name, code=code)


async def test_statements(alice: User, scrape: Scrape) -> None:
    """Each root field that reads counts as one statement."""
    before = await scrape()
    await alice.data(PAGE)

    assert value(await scrape(), "taskql_statements_total") == 2 + value(before, "taskql_statements_total")


async def test_prepared_operations(alice: User, scrape: Scrape) -> None:
    """The first use of a document is a miss; later ones are hits."""
    before, name = await scrape(), f"Prepared{uuid4().hex}"
    for _ in range(3):
        await alice.data(NAMED.format(name))

    found = await scrape()
    new = {result: value(found, "taskql_operations_total", result=result) for result in ("hit", "miss")}
    old = {result: value(before, "taskql_operations_total", result=result) for result in ("hit", "miss")}
    assert {result: new[result] - old[result] for result in new} == {"hit": 2, "miss": 1}


async def test_the_pool(settings: Settings, new_user: Callable[..., Awaitable[User]], scrape: Scrape) -> None:
    """Gauges show the pool's size, connections in use and waiting requests; a histogram shows waiting times."""
    before = await scrape()
    async with running(settings.model_copy(update={"db_pool_size": 2})) as application:
        connections = application.database.connections
        async with AsyncExitStack() as loans:
            for _ in range(2):
                loans.enter_context(await connections.take(uuid4()))
            asking = asyncio.create_task((await new_user(application.http)).data(VIEWER))
            await until(lambda: is_level(scrape, "taskql_pool_waiting", 1))
            during = await scrape()
        await asking

    after = await scrape()
    assert value(during, "taskql_pool_size") == 2
    assert value(during, "taskql_pool_in_use") - value(before, "taskql_pool_in_use") == 2
    assert (value(after, "taskql_pool_waiting"), value(after, "taskql_pool_in_use")) == (0, 0)
    waits = "taskql_pool_wait_seconds_count"
    assert value(after, waits) == value(before, waits) + 1


@pytest.fixture
async def subscribing(settings: Settings) -> AsyncIterator[str]:
    """The address of a server with subscriptions."""
    async with live.served(create_app(settings, schema=live.schema)) as address:
        yield address


async def test_sockets_and_subscriptions(subscribing: str, alice: User, scrape: Scrape) -> None:
    """Gauges show the open sockets and subscriptions."""
    async with connect(
        f"ws://{subscribing}/graphql",
        open_timeout=PATIENCE_SECONDS,
        subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]  # a NewType
    ) as socket:
        await socket.send(
            json.dumps({"type": "connection_init", "payload": {"Authorization": f"Bearer {alice.token}"}})
        )
        await socket.recv()
        await socket.send(json.dumps({"type": "subscribe", "id": "1", "payload": {"query": SILENCE}}))
        await live.watch.until(1)
        during = await scrape()
    await live.watch.until(0)

    names = ("taskql_sockets", "taskql_subscriptions")
    assert [value(during, name) for name in names] == [1, 1]
    for name in names:
        await until(partial(is_level, scrape, name, 0))


async def test_streams_and_deliveries(subscribing: str, alice: User, scrape: Scrape) -> None:
    """Open event streams are shown, and each event that a subscription sends is counted."""
    before = await scrape()
    headers = {"Authorization": f"Bearer {alice.token}", "Accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(base_url=f"http://{subscribing}", headers=headers, timeout=PATIENCE_SECONDS) as http,
        http.stream("POST", "/graphql", json={"query": SILENCE}),
    ):
        await live.watch.until(1)
        during = await scrape()
        await http.post("/graphql", json={"query": TICKS})

    assert value(during, "taskql_event_streams") == 1
    assert value(await scrape(), "taskql_deliveries_total") == value(before, "taskql_deliveries_total") + 3


async def test_no_data_of_users(alice: User, scrape: Scrape) -> None:
    """Metrics contain no ids, email addresses, tokens or task content."""
    await alice.data(CREATE, title="A private matter")

    text = str(await scrape())
    for private in (str(alice.id), alice.email, alice.token, "private matter", metrics.hashed(alice.id)):
        assert private not in text


async def test_the_port_that_serves_has_none(application: Application) -> None:
    """The API's port exposes no metrics, whatever path a proxy forwards."""
    for path in ("/metrics", "/metrics/", "/graphql/metrics"):
        assert (await application.http.get(path)).status_code == 404


def environment(server: Server, **more: str) -> dict[str, str]:
    urls = {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url}
    return {**urls, "AUTH_SECRET": SECRET, "METRICS_PORT": "0", **more}


def listening(served: Serving) -> set[tuple[str, int]]:
    """The addresses and ports on which a server accepts connections."""
    connections = psutil.Process(served.process.pid).net_connections("tcp")
    return {(one.laddr.ip, one.laddr.port) for one in connections if one.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize(("shown", "address"), [("local", "127.0.0.1"), ("on", "0.0.0.0")])  # noqa: S104 - all addresses
@pytest.mark.usefixtures("settings")
def test_the_port_of_the_metrics(server: Server, shown: str, address: str) -> None:
    """The port is announced, listens on loopback or on the server's address, and serves metrics only."""
    with serving("--host", "0.0.0.0", **environment(server, METRICS=shown)) as served:  # noqa: S104 - all addresses
        taken = listening(served)
        answer = httpx.get(served.metrics, timeout=PATIENCE_SECONDS)
        others = [
            httpx.get(served.metrics.replace("/metrics", path), timeout=PATIENCE_SECONDS)
            for path in ("/", "/graphql", "/livez")
        ]
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        no_socket = httpx.get(served.metrics, headers=upgrade, timeout=PATIENCE_SECONDS)
        assert served.stop() == 0

    assert (address, urlsplit(served.metrics).port) in taken
    assert len(taken) == 2
    assert "taskql_pool_size 15.0" in answer.text
    assert "taskql_pool_size 15.0" in no_socket.text  # would be a handshake on the API's port
    assert {other.status_code for other in others} == {404}


@pytest.mark.parametrize("more", [{"METRICS_PORT": ""}, {"METRICS": "off"}])
@pytest.mark.usefixtures("settings")
def test_no_metrics(server: Server, more: dict[str, str]) -> None:
    """Without METRICS_PORT, or with METRICS=off, the server listens on its own port only."""
    process = taskql("serve", "--port", "0", **environment(server, **more))
    with announced(process, has_demo=False) as served:
        assert [port for _, port in listening(served)] == [urlsplit(served.url).port]


@pytest.mark.parametrize(
    ("more", "words"),
    [({"METRICS": "on"}, "METRICS=on needs METRICS_PORT"), ({"METRICS_PORT": "-1"}, "METRICS_PORT: ")],
)
def test_settings_that_do_not_fit(more: dict[str, str], words: str) -> None:
    """With inconsistent metrics settings the server does not start, and names the setting to change."""
    url = "postgresql://nobody@127.0.0.1:1/none"
    with taskql("serve", "--port", "0", DATABASE_URL=url, AUTH_SECRET=SECRET, **more) as process:
        _, err = process.communicate(timeout=PATIENCE_SECONDS)

    assert process.returncode == 1
    assert err.startswith(f"taskql: {words}")


def test_a_port_of_metrics_in_use(tmp_path: Path) -> None:
    """If the metrics port is in use, the error names the setting, and no database is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with taskql("serve", "--port", "0", "--data-dir", tmp_path, METRICS_PORT=port) as process:
            _, err = process.communicate(timeout=PATIENCE_SECONDS)

    assert process.returncode == 1
    assert f"port {port}" in err
    assert "METRICS_PORT" in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def workers(
    server: Server, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Serving, Path]]:
    """A server with two workers, and its directory for temporary files."""
    del settings
    folder = tmp_path_factory.mktemp("workers")
    with serving("--workers", "2", **environment(server, TMPDIR=str(folder))) as served:
        yield served, folder


def of_workers(served: Serving) -> Samples:
    return samples(httpx.get(served.metrics, timeout=PATIENCE_SECONDS).text)


def pids(folder: Path) -> set[int]:
    """The processes that record metrics."""
    return {int(path.stem.rpartition("_")[2]) for path in folder.glob("*/gauge_livesum_*.db")}


async def has_both(served: Serving) -> bool:
    """Whether the pools of both processes are counted."""
    return value(of_workers(served), "taskql_pool_size") == 30


async def is_replaced(served: Serving, folder: Path, pid: int) -> bool:
    return await has_both(served) and pid not in pids(folder)


async def test_processes_count_together(workers: tuple[Serving, Path], alice: User) -> None:
    """A scrape shows the totals of all processes, whichever one responds."""
    served, _ = workers
    for _ in range(20):
        served.ask(NAMED.format("Together"), alice.token)

    async def are_counted() -> bool:
        labels = {"operation": "Together", "type": "query"}
        return value(of_workers(served), "taskql_request_seconds_count", **labels) == 20

    await until(are_counted)
    for _ in range(10):
        assert await are_counted()


async def test_a_killed_process_has_nothing_open(workers: tuple[Serving, Path]) -> None:
    """The gauges of a killed process disappear, and another process replaces it."""
    served, folder = workers
    await until(lambda: has_both(served))
    os.kill(victim := pids(folder).pop(), signal.SIGKILL)

    await until(lambda: is_replaced(served, folder, victim))


def test_the_directory_goes_with_the_server(server: Server, settings: Settings, tmp_path: Path) -> None:
    """The server deletes its metrics directory when it stops."""
    del settings
    with serving("--workers", "2", **environment(server, TMPDIR=str(tmp_path))) as served:
        of_workers(served)
        assert list(tmp_path.glob("taskql-metrics-*"))
        served.stop()

    assert not list(tmp_path.glob("taskql-metrics-*"))


async def test_what_is_documented(alice: User, scrape: Scrape, repository: Path) -> None:
    """docs/monitoring.md names exactly TaskQL's own metrics."""
    await alice.data(VIEWER)
    documented = set(re.findall(r"`(taskql_\w+)`", (repository / "docs" / "monitoring.md").read_text()))
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name, _ in await scrape() if name.startswith("taskql_")}

    assert documented == families
