"""Faults of a real database, which these tests own, behind a real server process."""

import asyncio
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID, uuid4

import asyncpg
import httpx
import psutil
import pytest
from conftest import SECRET, Server, Serving, User, announced, connect, python, serving, taskql
from patience import PATIENCE_SECONDS, PROMISED
from pydantic import SecretStr

from app import startup
from app.database.embedded import EmbeddedPostgres
from app.database.url import DatabaseURL
from app.errors import StartupError
from app.settings import Settings
from migrations import run
from migrations.run import migrate

VIEWER = "{ viewer { id } }"
TITLES = "{ tasks(first: 100) { totalCount nodes { title } } }"
CREATE = """
    mutation ($id: ID!, $title: String!) {
        createTask(input: { id: $id, title: $title }) { task { id } userErrors { code } }
    }
"""
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'taskql_app'"
IDLE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE state = 'idle' AND usename = 'taskql_app'"
UNAVAILABLE = {"code": "UNAVAILABLE", "retryAfter": 1}
PAGE = """
    query ($after: String) {
        tasks(first: 100, after: $after) { nodes { title } pageInfo { hasNextPage endCursor } }
    }
"""
CREATES = 1000
CLIENTS = 20


class Postgres:
    """A database server that can be stopped in several ways."""

    def __init__(self, embedded: EmbeddedPostgres) -> None:
        self._cluster = embedded._cluster  # noqa: SLF001 - tests use what callers may not
        self.server = Server(embedded.owner_url, embedded.app_url)

    def signal(self, number: int) -> None:
        for process in _processes(self._cluster.data):
            process.send_signal(number)

    def stop(self) -> None:
        self._cluster.stop()

    def start(self) -> None:
        self._cluster.ensure_running()


def _processes(data: Path) -> list[psutil.Process]:
    postmaster = psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
    return [postmaster, *postmaster.children(recursive=True)]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with EmbeddedPostgres.start(tmp_path_factory.mktemp("faults")) as embedded:
        yield Postgres(embedded)


@pytest.fixture(scope="module")
def served(postgres: Postgres) -> Iterator[Serving]:
    """A server on that database, which must log no traceback."""
    process = taskql("serve", "--port", "0", "--migrate", **environment(postgres.server))
    with announced(process, has_demo=False) as served:
        yield served
        served.stop()
        assert served.process.stderr
        said = served.process.stderr.read()
    assert "Traceback" not in said, said


def environment(server: Server, **more: str) -> dict[str, str]:
    urls = {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url}
    return {**urls, "AUTH_SECRET": SECRET, "RATE_LIMIT": "off", "RATE_LIMIT_ANONYMOUS": "off", **more}


@pytest.fixture
async def http(served: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_SECONDS) as http:
        yield http


@pytest.fixture
async def owner(postgres: Postgres, served: Serving) -> AsyncIterator["asyncpg.Connection[Any]"]:
    del served
    connection = await connect(postgres.server.owner_url)
    yield connection
    await connection.close()


async def create(user: User, task_id: UUID, title: str) -> httpx.Response:
    return await user.post(CREATE, {"id": str(task_id), "title": title})


async def settled(user: User, task_id: UUID, title: str) -> None:
    """Retry a write with its idempotency key until it is acknowledged."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            response = await create(user, task_id, title)
            if response.status_code == 200:
                assert response.json()["data"]["createTask"] == {"task": {"id": str(task_id)}, "userErrors": []}
                return
            assert response.json()["errors"][0]["extensions"] == UNAVAILABLE


async def titles(user: User) -> list[str]:
    page = (await user.data(TITLES))["tasks"]
    assert page["totalCount"] == len(page["nodes"])
    return sorted(node["title"] for node in page["nodes"])


async def busy(owner: "asyncpg.Connection[Any]") -> int:
    """The server's session that waits for a lock, once one does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (pid := await owner.fetchval(WAITING)) is None:  # noqa: ASYNC110 - PostgreSQL sends no event
            await asyncio.sleep(0.01)
    assert isinstance(pid, int)
    return pid


async def test_idle_connections_are_closed(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Reads and writes right after idle connections were closed all succeed."""
    for number in range(5):
        await asyncio.gather(*(user.data(VIEWER) for user in (alice, bob) for _ in range(5)))
        assert await owner.fetchval(IDLE) > 0
        writes = [user.add(f"{number}") for user in (alice, bob)]
        await asyncio.gather(*(user.data(VIEWER) for user in (alice, bob) for _ in range(5)), *writes)

    assert await titles(alice) == await titles(bob) == [str(number) for number in range(5)]


@asynccontextmanager
async def locked(postgres: Postgres, statement: str, *arguments: object) -> AsyncIterator[None]:
    """A lock held by another session."""
    connection = await connect(postgres.server.owner_url)
    async with connection.transaction():
        await connection.execute(statement, *arguments)
        yield
    await connection.close()


async def test_a_read_whose_connection_is_closed_is_retried(
    postgres: Postgres, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """The read is retried, and the caller sees no error."""
    await alice.add("Read")
    async with locked(postgres, "LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE"):
        reading = asyncio.create_task(titles(alice))
        await owner.fetchval("SELECT pg_terminate_backend($1, 5000)", await busy(owner))

    assert await reading == ["Read"]


async def test_a_write_whose_connection_is_closed_has_one_effect(
    postgres: Postgres, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """The write succeeds or is UNAVAILABLE; replayed with its key it takes effect once."""
    await alice.add("First")
    task_id = uuid4()
    async with locked(postgres, "SELECT FROM task_clocks WHERE user_id = $1 FOR UPDATE", alice.id):
        writing = asyncio.create_task(create(alice, task_id, "Once"))
        await owner.fetchval("SELECT pg_terminate_backend($1, 5000)", await busy(owner))
    response = await writing
    assert response.status_code == 200 or response.json()["errors"][0]["extensions"] == UNAVAILABLE
    await settled(alice, task_id, "Once")

    assert await titles(alice) == ["First", "Once"]


async def test_a_database_that_stops_responding(postgres: Postgres, new_user: Callable[..., Awaitable[User]]) -> None:
    """Every request eventually gets 503; when the database continues, all requests succeed again."""
    assert PROMISED["app.database.database.COMMAND_TIMEOUT"] < 5
    users = [await new_user() for _ in range(8)]
    await asyncio.gather(*(user.add("Before") for user in users))
    postgres.signal(signal.SIGSTOP)
    try:
        for _ in range(2):
            async with asyncio.timeout(PATIENCE_SECONDS):
                asked = [user.post(query) for user in users for query in (VIEWER, TITLES, ADD)]
                answers = await asyncio.gather(*asked)
            assert {answer.status_code for answer in answers} == {503}
            assert (await users[0].http.get("/livez")).status_code == 200
    finally:
        postgres.signal(signal.SIGCONT)

    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(until_it_works(user) for user in users))
    for user in users:
        assert set(await titles(user)) <= {"Before", "Meanwhile"}


ADD = 'mutation { createTask(input: { title: "Meanwhile" }) { token } }'


async def until_it_works(user: User) -> None:
    while (await user.post(VIEWER)).status_code != 200:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.05)


async def test_a_database_that_stops_and_starts(postgres: Postgres, served: Serving, alice: User) -> None:
    """While the database is down the server is live, not ready, and returns 503; then the same process serves again."""
    await alice.add("Kept")
    postgres.stop()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await alice.http.get("/readyz")).status_code == 503
        async with asyncio.timeout(PATIENCE_SECONDS):
            answers = await asyncio.gather(*(alice.post(query) for query in (VIEWER, TITLES, ADD)))
        assert {answer.status_code for answer in answers} == {503}
        assert [answer.headers["retry-after"] for answer in answers] == ["1"] * 3
        assert (await alice.http.get("/livez")).status_code == 200
    finally:
        postgres.start()

    async with asyncio.timeout(PATIENCE_SECONDS):
        await until_it_works(alice)
        while (await alice.http.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.05)
    assert await titles(alice) == ["Kept"]
    assert served.process.poll() is None


async def test_a_column_is_added_while_it_serves(
    new_user: Callable[..., Awaitable[User]], owner: "asyncpg.Connection[Any]"
) -> None:
    """No request fails, whether its statements were prepared before the change or not."""
    users = [await new_user() for _ in range(6)]
    counts = [0 for _ in users]
    altering = asyncio.create_task(altered(owner, counts))

    async def work(place: int, user: User) -> None:
        while not altering.done():
            await user.add(str(counts[place]))
            counts[place] += 1
            assert len(await titles(user)) == min(counts[place], 100)

    await asyncio.gather(*(work(*each) for each in enumerate(users)))


async def altered(owner: "asyncpg.Connection[Any]", counts: list[int]) -> None:
    """Add and drop a column repeatedly, until each user has done several operations."""
    number = 0
    while number < 5 or min(counts) < 2:
        number += 1
        await owner.execute(f"ALTER TABLE tasks ADD COLUMN extra{number} text NOT NULL DEFAULT ''")
        await asyncio.sleep(0.05)
        await owner.execute(f"ALTER TABLE tasks DROP COLUMN extra{number}")


OLD = "0001"


@pytest.fixture
async def old(empty: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A database at the first revision; migrations have a short lock timeout and few retries."""
    monkeypatch.setattr(run, "LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(run, "PAUSES", (0.05, 0.1))
    await migrate(DatabaseURL(empty.owner_url), None, OLD)
    return empty


async def test_a_migration_does_not_block_readers(old: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration behind a long transaction does not block readers; it retries and succeeds once that has ended."""
    reader, other = await connect(old.owner_url), await connect(old.owner_url)
    async with reader.transaction():
        await reader.fetch("SELECT FROM tasks")
        with pytest.raises(StartupError, match="long transaction"):
            await migrate(DatabaseURL(old.owner_url), None)
        monkeypatch.setattr(run, "PAUSES", [0.05] * 1000)
        migrating = asyncio.create_task(migrate(DatabaseURL(old.owner_url), None))
        await waits_for_lock(other)
        await other.fetch("SELECT FROM tasks", timeout=PATIENCE_SECONDS)
    assert (await migrating)[0] != OLD
    await reader.close()
    await other.close()


async def waits_for_lock(connection: "asyncpg.Connection[Any]") -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'relation' AND datname = current_database()"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await connection.fetchval(query):  # noqa: ASYNC110 - PostgreSQL sends no event
            await asyncio.sleep(0.001)


PATIENT = f"from app import cli, startup; startup.PATIENCE_SECONDS = {PATIENCE_SECONDS}; cli.main()"


async def test_a_server_waits_for_its_database(postgres: Postgres, served: Serving, tmp_path: Path) -> None:
    """A server that starts before its database retries for some time, and then serves."""
    del served  # its migration is all that is needed
    address, asked = tmp_path / ".s.PGSQL.5432", asyncio.Event()

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        asked.set()

    folder, port = re.findall(r"host=([^&]+)&port=(\d+)", postgres.server.app_url)[0]
    urls = [re.sub(r"host=.*", f"host={tmp_path}&port=5432", url) for url in astuple(postgres.server)]
    async with await asyncio.start_unix_server(hang_up, address):
        process = python("-c", PATIENT, "serve", "--port", "0", **environment(Server(*urls)))
        await asked.wait()
    address.unlink()
    address.symlink_to(f"{unquote(folder)}/.s.PGSQL.{port}")
    with announced(process, has_demo=False) as served:
        async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_SECONDS) as http:
            assert (await http.get("/readyz")).status_code == 200


async def test_a_database_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is retried; then the error names the host and the cause, such as no DNS entry or missing TLS."""
    monkeypatch.setattr(startup, "PATIENCE_SECONDS", 0.5)
    asked = 0

    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read(8)
        writer.write(b"N")
        writer.close()

    async with await asyncio.start_server(no_tls, "127.0.0.1", 0) as listener:
        there = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        with pytest.raises(StartupError, match=f"database at .*@{there}/db cannot be .*rejected SSL upgrade"):
            await startup.findings(at(f"postgresql://u:p@{there}/db?sslmode=require"))
    with pytest.raises(StartupError, match=r"database at .*nowhere\.invalid.* cannot be reached: .*(not known|resol)"):
        await startup.findings(at("postgresql://u:p@nowhere.invalid/db"))
    assert asked > 2


def at(url: str) -> Settings:
    return Settings(database_url=SecretStr(url), auth_secret=SecretStr(SECRET))


async def test_everything_is_killed(tmp_path: Path) -> None:
    """After SIGKILL of server and database every acknowledged create is stored once, and the counters are correct."""
    tasks = {str(uuid4()): str(number) for number in range(CREATES)}
    with serving("--data-dir", tmp_path, RATE_LIMIT="off") as first:

        def kill(acknowledged: int) -> None:
            if acknowledged == CREATES // 2:
                # All at once: a backend that waits for a killed one's lock would not notice that the others are gone.
                for victim in [psutil.Process(first.process.pid), *_processes(tmp_path / "postgres")]:
                    victim.kill()

        acknowledged = await created(first, tasks, kill)
        first.process.wait(PATIENCE_SECONDS)
    with serving("--data-dir", tmp_path, RATE_LIMIT="off") as second:
        assert acknowledged <= Counter(stored(second)).keys()
        assert await created(second, tasks, lambda _: None) == set(tasks.values())
        assert Counter(stored(second)) == Counter(tasks.values())
    with taskql("doctor", "--data-dir", tmp_path) as doctor:
        assert "The task counters of all 1 users are correct" in doctor.communicate(timeout=PATIENCE_SECONDS)[0]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_embedded_database_is_killed(tmp_path: Path, workers: str) -> None:
    """The embedded database is restarted while the server runs; meanwhile responses are data or 503."""
    quiet = {"RATE_LIMIT": "off", "LOG_LEVEL": "error"}
    with serving("--data-dir", tmp_path, "--workers", workers, **quiet) as served:
        headers = {"Authorization": f"Bearer {served.token}"}
        async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=PATIENCE_SECONDS) as requests:
            # Workers are ready some time after the address is announced.
            assert (await requests.post("/graphql", json={"query": VIEWER})).status_code == 200
            killed = _processes(tmp_path / "postgres")[0]
            killed.kill()
            assert set(await statuses_until(requests, 200)) == {200, 503}
        assert _processes(tmp_path / "postgres")[0] != killed
        assert served.stop() == 0
        assert not (tmp_path / "postgres/postmaster.pid").exists()
        assert served.process.stderr
        said = served.process.stderr.read()
    assert said.count("the embedded PostgreSQL stopped: it was restarted") == 1
    assert "Traceback" not in said, said


async def statuses_until(requests: httpx.AsyncClient, wanted: int) -> list[int]:
    """The statuses of reads and writes until both have failed once and have the expected status again."""
    statuses: list[int] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(set(statuses)) < 2 or set(statuses[-2:]) != {wanted}:
            for query in (VIEWER, ADD):
                answer = await requests.post("/graphql", json={"query": query})
                assert [error["extensions"] for error in answer.json().get("errors", [])] in ([], [UNAVAILABLE])
                statuses.append(answer.status_code)
    return statuses


async def created(served: Serving, tasks: dict[str, str], then: Callable[[int], None]) -> set[str]:
    """The acknowledged titles; `then` is called with their number. Clients end when their server does."""
    acknowledged: set[str] = set()
    remaining, headers = list(tasks.items()), {"Authorization": f"Bearer {served.token}"}

    async def client(requests: httpx.AsyncClient) -> None:
        while remaining:
            task_id, title = remaining.pop()
            body = {"query": CREATE, "variables": {"id": task_id, "title": title}}
            answer = (await requests.post("/graphql", json=body)).json()
            assert answer["data"]["createTask"] == {"task": {"id": task_id}, "userErrors": []}
            acknowledged.add(title)
            then(len(acknowledged))

    async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=PATIENCE_SECONDS) as requests:
        ends = await asyncio.gather(*(client(requests) for _ in range(CLIENTS)), return_exceptions=True)
    assert all(end is None or isinstance(end, httpx.TransportError) for end in ends), ends
    return acknowledged


def stored(served: Serving) -> list[str]:
    """The titles of the demo user's tasks, without the initial ones."""
    found, after = [], None
    while True:
        page = served.ask(PAGE, after=after)["data"]["tasks"]
        found += [node["title"] for node in page["nodes"] if node["title"].isdecimal()]
        if not page["pageInfo"]["hasNextPage"]:
            return found
        after = page["pageInfo"]["endCursor"]
