"""PgBouncer in transaction mode, and connections that the database server closes."""

import asyncio
import itertools
import math
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import pytest
from conftest import CREATE, SECRET, Application, Server, Serving, User, free_port, made_settings, running, serving
from issuer import self_signed
from patience import PATIENCE_SECONDS
from pydantic import SecretStr
from sqlalchemy import func, select
from test_data import exported, file, imported, task

from app.database.database import Database
from app.database.embedded import _account
from app.database.transfers import Transfers
from app.database.url import DatabaseURL
from app.errors import StartupError
from app.identifiers import uuid7
from app.identity.tokens import Signer
from app.live import listener
from app.live.listener import Listener
from app.models import Task
from app.settings import Settings
from app.startup import bring_up_to_date, findings
from app.web.probe import DEEP, Probe

VIEWER = "{ viewer { id } }"
TITLES = "{ tasks(first: 100) { totalCount nodes { title } } }"
FOREIGN = "query ($id: ID!) { task(id: $id) { id } }"
UPDATE = 'mutation ($id: ID!) { updateTask(id: $id, input: { title: "Taken" }) { task { id } userErrors { code } } }'
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pooled'"
TERMINATE = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE usename = 'taskql_app' AND datname = current_database()
"""
TERMINATE_WAITING = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE NOT granted"

CONFIGURATION = """
[databases]
taskql = host={host} port={port} dbname=taskql
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = 2
max_client_conn = 500
server_round_robin = 1
client_tls_sslmode = allow
client_tls_key_file = {certificate}
client_tls_cert_file = {certificate}
"""


@pytest.fixture(scope="module")
def pooler(
    server: Server, settings: Settings, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a PgBouncer with two server connections, which it uses in turn."""
    del settings
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "pgbouncer is missing; on Debian: apt-get install pgbouncer"
    given = urlsplit(server.app_url)
    query = {name: values[0] for name, values in parse_qs(given.query).items()}
    directory = tmp_path_factory.mktemp("pgbouncer")
    listen = free_port()
    (directory / "users").write_text('"taskql_app" ""\n')
    host, port = given.hostname or query["host"], given.port or query.get("port", 5432)
    text = CONFIGURATION.format(host=host, port=port, listen=listen, users=directory / "users", certificate=certificate)
    (directory / "ini").write_text(text)
    yield from run(program, directory, listen)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pooler's TLS certificate."""
    return self_signed(tmp_path_factory.mktemp("certificate"))


def run(program: str, directory: Path, listen: int) -> Iterator[str]:
    # PgBouncer refuses to run as root, as PostgreSQL does, and needs access to the same directories.
    command = [*_account().prefix, program, str(directory / "ini")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - Debian's program
        try:
            assert process.stderr
            said = list(iter_until(process.stderr, "process up"))
            assert "process up" in "".join(said), said
            yield f"postgresql://taskql_app@localhost:{listen}/taskql?sslmode=disable&application_name=pooled"
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def iter_until(lines: Iterable[str], words: str) -> Iterator[str]:
    """The lines up to the first that contains the words."""
    for line in lines:
        yield line
        if words in line:
            return


@pytest.fixture(scope="module")
def served(server: Server, pooler: str) -> Iterator[Serving]:
    """A server of eight processes behind the pooler's two connections."""
    environment = {"DATABASE_URL": pooler, "DATABASE_OWNER_URL": server.owner_url, "AUTH_SECRET": SECRET}
    with serving("--workers", "8", DB_POOLER="1", **environment) as served:
        yield served


@pytest.fixture
async def client(served: Serving) -> AsyncIterator[httpx.AsyncClient]:
    """A client that opens a connection for each request, so that all eight processes get some."""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_SECONDS, limits=limits) as client:
        yield client


@pytest.mark.pgbouncer
async def test_eight_processes_on_two_connections(
    client: httpx.AsyncClient, new_user: Callable[..., Awaitable[User]], owner: "asyncpg.Connection[Any]"
) -> None:
    """Concurrent reads and writes of many users succeed and stay separate, on two connections in total."""
    users = [await new_user(client) for _ in range(8)]

    async def work(user: User) -> None:
        other = users[users.index(user) - 1]
        for number in range(12):
            task = await user.add(f"{user.email} {number}")
            page = (await user.data(TITLES))["tasks"]
            assert page["totalCount"] == number + 1
            assert {node["title"].split()[0] for node in page["nodes"]} == {user.email}
            assert (await other.data(FOREIGN, id=task["id"]))["task"] is None
            refused = (await other.data(UPDATE, id=task["id"]))["updateTask"]
            assert refused == {"task": None, "userErrors": [{"code": "NOT_FOUND"}]}

    counts = []
    working = asyncio.gather(*(work(user) for user in users))
    while not working.done():
        counts.append(await owner.fetchval(COUNT))
        await asyncio.sleep(0.01)
    await working

    assert 0 < max(counts) <= 2


ACTING = """
    SELECT count(*) FROM act_as($1) AS me,
    LATERAL (SELECT 1 FROM tasks WHERE user_id = $1 AND user_id = me LIMIT 1) AS found
"""


@pytest.mark.pgbouncer
async def test_the_second_wall_stands_behind_a_pooler(pooler: str, alice: User, bob: User) -> None:
    """The current user of a transaction is reset when the connection serves another one."""
    await alice.add("Hers")
    connections = [await asyncpg.connect(pooler, statement_cache_size=0) for _ in range(4)]
    try:
        for user in (alice, bob, alice):
            for connection in connections:
                assert await connection.fetchval(ACTING, user.id) == (user is alice)
                assert await connection.fetchval("SELECT count(*) FROM tasks") == 0
    finally:
        for connection in connections:
            await connection.close()


@pytest.mark.pgbouncer
async def test_doctor_behind_a_pooler(server: Server, pooler: str) -> None:
    """A configured pooler passes; an undeclared one is detected, and the fix is named."""
    known = made_settings(Server(server.owner_url, pooler), db_pooler=True)
    assert {finding.level for finding in await findings(known)} == {"ok"}

    with pytest.raises(StartupError, match="DB_POOLER=1"):
        await findings(made_settings(Server(server.owner_url, pooler)))


def at(server: Server, url: str, *, tls: str) -> Settings:
    """Settings for a pooler's URL with another sslmode and its parameters."""
    return made_settings(Server(server.owner_url, url.replace("sslmode=disable", tls)), db_pooler=True)


@pytest.mark.pgbouncer
@pytest.mark.parametrize(
    "tls",
    [
        "sslmode=require",
        "sslmode=require&sslrootcert={}",
        "sslmode=verify-ca&sslrootcert={}",
        "sslmode=verify-full&sslrootcert={}",
    ],
)
async def test_an_encrypted_line(server: Server, pooler: str, certificate: Path, alice: User, tls: str) -> None:
    """Requests are served over TLS in each sslmode that hosting providers use."""
    async with running(at(server, pooler, tls=tls.format(certificate))) as application:
        user = replace(alice, http=application.http)
        assert (await user.data(VIEWER))["viewer"] == {"id": str(user.id)}
        assert await user.add("Over TLS")


@pytest.mark.pgbouncer
@pytest.mark.parametrize(
    ("host", "tls"), [("localhost", "sslmode=verify-full"), ("127.0.0.1", "sslmode=verify-full&sslrootcert={}")]
)
async def test_an_untrusted_certificate(server: Server, pooler: str, certificate: Path, host: str, tls: str) -> None:
    """A certificate of an unknown authority or for another name is rejected at once, and the fix is named."""
    with pytest.raises(StartupError, match=r"rejects the connection: .*certificate verify failed.*sslrootcert=FILE"):
        await findings(at(server, pooler.replace("localhost", host), tls=tls.format(certificate)))


@pytest.mark.pgbouncer
async def test_listening_through_a_pooler(
    application: Application, pooler: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler delivers no notifications: the listener detects this, logs it and retries."""
    monkeypatch.setattr(listener, "ECHO_SECONDS", 0.2)
    begun: asyncio.Queue[object] = asyncio.Queue()
    notify, heard = application.database.notify, lambda *_: None
    deaf = Listener(DatabaseURL(pooler, pooled=True), notify, {}, heard, begun.put_nowait)
    listening = asyncio.create_task(deaf.run())
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(3):
            await begun.get()
    listening.cancel()
    await asyncio.wait({listening})

    assert "listening for changes failed, retrying: NoEcho" in caplog.text


@pytest.mark.pgbouncer
async def test_migrations_go_around_a_pooler(server: Server, pooler: str) -> None:
    """Migrations refuse to use a pooler, and use the direct URL if there is one."""
    pooled = Settings(database_url=SecretStr(pooler), auth_secret=SecretStr(SECRET), db_pooler=True)
    with pytest.raises(StartupError, match="DATABASE_DIRECT_URL"):
        await bring_up_to_date(pooled)

    around = pooled.model_copy(update={"database_direct_url": SecretStr(server.owner_url)})
    assert await bring_up_to_date(around) == []


@pytest.fixture
async def apart(empty: Server) -> AsyncIterator[tuple[Application, Server]]:
    """An application on the test's own database, whose connections may be closed."""
    settings = made_settings(empty)
    await bring_up_to_date(settings)
    async with running(settings) as application:
        yield application, empty


@pytest.fixture
async def somebody(apart: tuple[Application, Server]) -> AsyncIterator[tuple[User, "asyncpg.Connection[Any]"]]:
    """A user of that application, and a superuser's connection."""
    application, server = apart
    owner = await asyncpg.connect(server.owner_url)
    user_id = await owner.fetchval("INSERT INTO users (email) VALUES ('a@example.com') RETURNING id")
    yield User(user_id, "", Signer(SECRET).token(user_id, timedelta(hours=1)), application.http), owner
    await owner.close()


async def test_the_first_requests_after_the_server_closed_everything(
    somebody: tuple[User, "asyncpg.Connection[Any]"],
) -> None:
    """After PostgreSQL closed all connections, the next concurrent reads and writes succeed."""
    user, owner = somebody
    for number in range(10):
        await asyncio.gather(*(user.post(VIEWER) for _ in range(12)))
        assert await owner.fetchval(TERMINATE) > 0

        # The event loop has not run since: the pool does not know of it yet.
        reads = [user.post(VIEWER) for _ in range(12)]
        writes = [user.post(CREATE, {"input": {"title": f"{number} {place}"}}) for place in range(4)]
        answers = [response.json() for response in await asyncio.gather(*reads, *writes)]

        assert [answer for answer in answers if "errors" in answer] == []
    assert (await user.data(TITLES))["tasks"]["totalCount"] == 40


async def test_a_write_whose_fate_is_unknown_is_not_repeated(
    somebody: tuple[User, "asyncpg.Connection[Any]"],
) -> None:
    """If a connection is lost after a write was sent, the response is UNAVAILABLE; the caller must retry."""
    user, owner = somebody
    await user.add("Before")
    async with owner.transaction():
        await owner.execute("UPDATE task_clocks SET version = version WHERE user_id = $1", user.id)
        writing = asyncio.create_task(user.post(CREATE, {"input": {"title": "Once"}}))
        while not writing.done():  # also after a retry, when PostgreSQL said that nothing was done
            await owner.fetchval(TERMINATE_WAITING)
            await asyncio.sleep(0.01)
        response = await writing

    assert response.status_code == 503
    assert (await user.data(TITLES))["tasks"]["totalCount"] == 1


@pytest.mark.pgbouncer
async def test_readiness_behind_a_pooler(pooler: str) -> None:
    """Repeated probes succeed, whichever server connection the pooler assigns."""
    now = itertools.count(step=2 * DEEP)
    probes = [Probe(DatabaseURL(pooler, pooled=True), lambda: math.inf, lambda: next(now)) for _ in range(3)]
    for _ in range(5):
        looked = await asyncio.gather(*(probe.states() for probe in probes))
        assert [set(states.values()) for states in looked] == [{"ok"}] * 3
    for probe in probes:
        await probe.close()


async def test_sessions_behind_a_pooler(pooler: str, alice: User, bob: User) -> None:
    """Each transaction of a session may use another server connection, and acts as the session's user there."""
    database = Database(DatabaseURL(pooler, pooled=True), pool_size=6, quotas={"tasks": 1000})

    async def seen(user: User, title: str) -> set[str]:
        async with database.session(user.id) as session:
            session.add(Task(id=uuid7(), title=title))
            await session.commit()
            return set(await session.scalars(select(Task.title)))

    for _ in range(10):
        found = await asyncio.gather(*(seen(user, user.email) for user in (alice, bob) for _ in range(3)))
        assert found == [{alice.email}] * 3 + [{bob.email}] * 3
    await database.close()


@pytest.mark.pgbouncer
async def test_data_commands(pooler: str, alice: User, bob: User) -> None:
    """Each transaction of a command works on whichever connection of the pooler it gets."""
    url, backends = DatabaseURL(pooler, pooled=True), set[Any]()
    other = await asyncpg.connect(pooler, statement_cache_size=0)
    async with Transfers(url) as transfers:
        for user in (alice, bob) * 4:
            async with other.transaction():  # holds one of the two connections, in turn, and for any time
                await other.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                await imported(transfers, user.id, file(*(task(f"Task {number}") for number in range(10))))
                await exported(transfers, user.id)
                async with transfers.session(user.id) as session:
                    backends.add(await session.scalar(select(func.pg_backend_pid())))
        sizes = [len(await exported(transfers, user.id)) for user in (alice, bob)]
    await other.close()
    assert sizes == [41, 41]
    assert len(backends) == 2
