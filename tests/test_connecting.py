"""Any error while a connection is opened, and any write to a read-only database, is UNAVAILABLE."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import psutil
import pytest
from conftest import SECRET, Application, Server, User, connect, made_settings, running, taskql
from live import served
from patience import PATIENCE_SECONDS
from sqlalchemy.ext.asyncio import AsyncEngine
from test_sockets import PROTOCOLS, Client
from websockets.asyncio.client import connect as websocket

from app.database.embedded import EmbeddedPostgres
from app.database.url import DatabaseURL
from app.identity.tokens import Signer
from app.main import create_app
from migrations.run import migrate

VIEWER = "{ viewer { id } }"
ADD = 'mutation { createTask(input: { title: "One" }) { token } }'
UPDATE = 'mutation ($id: ID!) { updateTask(id: $id, input: { title: "Two" }) { userErrors { code } } }'
FOLLOW = """
    subscription ($since: SyncToken) { changes(since: $since) { changes { ... on TaskUpserted { task { title } } } } }
"""
UNAVAILABLE = {"code": "UNAVAILABLE", "retryAfter": 1}
END = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usename = 'taskql_app'"
WORKERS = 8


class Postgres:
    """A database server for these tests only."""

    def __init__(self, embedded: EmbeddedPostgres) -> None:
        self._cluster = embedded._cluster  # noqa: SLF001 - tests use what callers may not
        self.server = Server(embedded.owner_url, embedded.app_url)

    def kill(self) -> None:
        """Send SIGKILL to the postmaster; its children exit by themselves."""
        psutil.Process(int((self._cluster.data / "postmaster.pid").read_text().split()[0])).send_signal(signal.SIGKILL)

    def start(self) -> None:
        self._cluster.ensure_running()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with EmbeddedPostgres.start(tmp_path_factory.mktemp("connecting")) as embedded:
        yield Postgres(embedded)


@pytest.fixture
async def owner(postgres: Postgres) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A superuser connection, which is never refused."""
    await migrate(DatabaseURL(postgres.server.owner_url), DatabaseURL(postgres.server.app_url))
    connection = await connect(postgres.server.owner_url.replace("/taskql?", "/postgres?"))
    yield connection
    await connection.close()


@pytest.fixture
async def application(postgres: Postgres, owner: "asyncpg.Connection[Any]") -> AsyncIterator[Application]:
    del owner
    async with running(made_settings(postgres.server, db_pool_size=3)) as application:
        yield application


@pytest.fixture
async def alice(postgres: Postgres, application: Application) -> User:
    return await new_user(postgres, application.http)


async def new_user(postgres: Postgres, http: httpx.AsyncClient) -> User:
    connection = await connect(postgres.server.owner_url)
    email = f"{uuid4()}@example.com"
    user_id = await connection.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", email)
    await connection.close()
    return User(user_id, email, Signer(SECRET).token(user_id, timedelta(hours=1)), http)


# Each fault, and the statement that undoes it.
REFUSALS = {
    "53300, of a role": ("ALTER ROLE taskql_app CONNECTION LIMIT 0", "ALTER ROLE taskql_app CONNECTION LIMIT -1"),
    "53300, of a database": (
        "ALTER DATABASE taskql CONNECTION LIMIT 0",
        "ALTER DATABASE taskql CONNECTION LIMIT -1",
    ),
    "28000": ("ALTER ROLE taskql_app NOLOGIN", "ALTER ROLE taskql_app LOGIN"),
    "28000, no such role": ("ALTER ROLE taskql_app RENAME TO gone", "ALTER ROLE gone RENAME TO taskql_app"),
    "42501": (
        "REVOKE CONNECT ON DATABASE taskql FROM PUBLIC, taskql_app",
        "GRANT CONNECT ON DATABASE taskql TO PUBLIC, taskql_app",
    ),
    "55000": ("ALTER DATABASE taskql ALLOW_CONNECTIONS false", "ALTER DATABASE taskql ALLOW_CONNECTIONS true"),
    "3D000": ("ALTER DATABASE taskql RENAME TO gone", "ALTER DATABASE gone RENAME TO taskql"),
}


@pytest.mark.parametrize("fault", REFUSALS)
async def test_a_connection_is_refused(alice: User, owner: "asyncpg.Connection[Any]", fault: str) -> None:
    """Reads and writes get 503 with Retry-After while the fault lasts, and succeed afterwards."""
    task = await alice.add()
    do, undo = REFUSALS[fault]
    await owner.execute(END)
    await owner.execute(do)
    try:
        await owner.execute(END)
        answers = [
            await alice.post(query, variables)
            for query, variables in ((VIEWER, None), (ADD, None), (UPDATE, {"id": task["id"]}))
        ]
        ready = await alice.http.get("/readyz")
    finally:
        await owner.execute(undo)

    for answer in answers:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
        assert [error["extensions"] for error in answer.json()["errors"]] == [UNAVAILABLE]
    assert (ready.status_code, ready.json()["checks"]["database"]) == (503, "unreachable")
    await alice.data(VIEWER)
    await alice.add()


async def test_subscriptions_survive_refused_connections(
    postgres: Postgres, owner: "asyncpg.Connection[Any]", caplog: pytest.LogCaptureFixture
) -> None:
    """Subscriptions survive a time in which no connection can be opened, and then deliver the writes made meanwhile."""
    app = create_app(made_settings(postgres.server))
    async with (
        served(app) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE_SECONDS) as http,
    ):
        alice = await new_user(postgres, http)
        await alice.add("Before")
        token = (await alice.data("{ changes { token } }"))["changes"]["token"]
        async with websocket(f"ws://{address}/graphql", subprotocols=PROTOCOLS) as connection:
            client = Client(connection)
            await client.initialise(alice)
            await client.subscribe("follow", FOLLOW, since=token)
            await client.receive()
            await alice.add("First")
            first = await client.receive()
            await owner.execute("ALTER ROLE taskql_app NOLOGIN")
            await owner.execute(END)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while "retrying: InvalidAuth" not in caplog.text:  # noqa: ASYNC110 - there is no event to wait for
                    await asyncio.sleep(0.05)
            await owner.execute("ALTER ROLE taskql_app LOGIN")
            await alice.add("Second")
            second = await client.receive()

    pages = [message["payload"]["data"]["changes"]["changes"] for message in (first, second)]
    assert [change["task"]["title"] for changes in pages for change in changes] == ["First", "Second"]
    assert "listening for changes failed, retrying: InvalidAuthorizationSpecificationError" in caplog.text


def purging(postgres: Postgres) -> tuple[int, str]:
    urls = {"DATABASE_URL": postgres.server.app_url, "AUTH_SECRET": SECRET}
    with taskql("purge", **urls) as process:
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, said


async def test_a_command_is_refused(postgres: Postgres, owner: "asyncpg.Connection[Any]") -> None:
    """A command that cannot connect reports the reason in one line."""
    await owner.execute("ALTER ROLE taskql_app NOLOGIN")
    code, said = await asyncio.to_thread(purging, postgres)
    await owner.execute("ALTER ROLE taskql_app LOGIN")

    assert (code, said.count("\n")) == (1, 1), said
    assert "not permitted to log in" in said


async def test_a_brief_refusal_is_retried(
    alice: User, owner: "asyncpg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A briefly rejected connection is retried, and the caller sees no error."""
    await owner.execute("ALTER ROLE taskql_app CONNECTION LIMIT 0")
    await owner.execute(END)
    refused, opened = [], AsyncEngine.raw_connection

    async def raw_connection(engine: AsyncEngine) -> Any:
        try:
            return await opened(engine)
        except Exception as error:
            refused.append(error)
            await owner.execute("ALTER ROLE taskql_app CONNECTION LIMIT -1")
            raise

    monkeypatch.setattr(AsyncEngine, "raw_connection", raw_connection)
    await alice.data(VIEWER)

    assert len(refused) == 1


async def test_all_connections_of_the_server_are_taken(
    postgres: Postgres, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """While other sessions use all of the server's connections, requests get 503; they succeed once one is free."""
    await owner.execute("ALTER ROLE taskql_app CONNECTION LIMIT 2")
    await owner.execute(END)
    others = [await connect(postgres.server.app_url) for _ in range(2)]
    answers = await asyncio.gather(*(alice.post(query) for query in (VIEWER, ADD) for _ in range(3)))
    await owner.execute("ALTER ROLE taskql_app CONNECTION LIMIT -1")
    for other in others:
        await other.close()

    assert {answer.status_code for answer in answers} == {503}
    await alice.add()


READ_ONLY = {
    "a database": ("ALTER DATABASE taskql SET default_transaction_read_only = on", "ALTER DATABASE taskql RESET ALL"),
    "a role": (
        "ALTER ROLE taskql_app SET default_transaction_read_only = true",
        "ALTER ROLE taskql_app RESET default_transaction_read_only",
    ),
}


@pytest.mark.parametrize("what", READ_ONLY)
async def test_a_read_only_database(alice: User, owner: "asyncpg.Connection[Any]", what: str) -> None:
    """While the database is read-only, reads succeed, writes get 503 and /readyz reports it; then writes succeed."""
    await alice.add()
    assert (await alice.http.get("/readyz")).status_code == 200
    do, undo = READ_ONLY[what]
    await owner.execute(do)
    await owner.execute(END)
    try:
        written = await asyncio.gather(*(alice.post(ADD) for _ in range(3)))
        seen = await alice.data(VIEWER)
        ready = await settled(alice, 503)
    finally:
        await owner.execute(undo)

    assert {answer.status_code for answer in written} == {503}
    assert [error["extensions"] for error in written[0].json()["errors"]] == [UNAVAILABLE]
    assert seen["viewer"]["id"] == str(alice.id)
    assert ready["database"] == "read-only"
    await settled(alice, 200)


async def settled(user: User, status: int) -> dict[str, str]:
    """The checks of /readyz, once it returns this status; its result is cached for a second."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (answer := await user.http.get("/readyz")).status_code != status:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.05)
    checks: dict[str, str] = answer.json()["checks"]
    return checks


async def test_sessions_that_were_read_only(
    alice: User, owner: "asyncpg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session keeps the read-only default it started with: a write that fails on one is retried on a new session."""
    task = await alice.add()
    await owner.execute("ALTER DATABASE taskql SET default_transaction_read_only = on")
    await owner.execute(END)
    await asyncio.gather(*(alice.data(VIEWER) for _ in range(3)))
    await owner.execute("ALTER DATABASE taskql RESET ALL")
    monkeypatch.setattr("app.database.database.YOUNG", 0.0)

    for query in (ADD, UPDATE):
        assert "errors" not in await alice.ask(query, **({"id": task["id"]} if query is UPDATE else {}))


BROKEN = {
    "XX000": "RAISE 'cache lookup failed' USING ERRCODE = 'XX000'",
    "08006, of a worker": "RAISE 'connection to the remote node failed' USING ERRCODE = '08006'",
    "58030": "RAISE 'could not read block' USING ERRCODE = '58030'",
    "25P03": "RAISE 'terminated' USING ERRCODE = '25P03'",
}


@pytest.mark.parametrize("state", BROKEN)
async def test_what_fails_within_the_database(postgres: Postgres, alice: User, state: str) -> None:
    """Internal failures of PostgreSQL, or of a cluster's workers, are UNAVAILABLE."""
    connection = await connect(postgres.server.owner_url)
    await connection.execute(
        f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {BROKEN[state]}; END $$;"
        "CREATE TRIGGER fail BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION fail()"
    )
    answer = await alice.post(ADD)
    await connection.execute("DROP FUNCTION fail() CASCADE")
    await connection.close()

    assert answer.status_code == 503
    assert [error["extensions"] for error in answer.json()["errors"]] == [UNAVAILABLE]


UNPREPARED = {
    "no rights": ("REVOKE SELECT ON tasks FROM taskql_app", "GRANT SELECT ON tasks TO taskql_app"),
    "no function": (
        "ALTER FUNCTION act_as(uuid) RENAME TO gone; ALTER FUNCTION begin_write(uuid) RENAME TO gone_too",
        "ALTER FUNCTION gone(uuid) RENAME TO act_as; ALTER FUNCTION gone_too(uuid) RENAME TO begin_write",
    ),
    "no table": ("ALTER TABLE tasks RENAME TO gone", "ALTER TABLE gone RENAME TO tasks"),
    "no column": ("ALTER TABLE tasks RENAME title TO gone", "ALTER TABLE tasks RENAME gone TO title"),
}


@pytest.mark.parametrize("what", UNPREPARED)
async def test_a_database_that_is_not_ready(
    postgres: Postgres, alice: User, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """During a restore requests get 503; /readyz fails too if privileges are missing."""
    await alice.add()
    assert (await alice.http.get("/readyz")).status_code == 200
    do, undo = UNPREPARED[what]
    connection = await connect(postgres.server.owner_url)
    await connection.execute(do)
    try:
        answers = [await alice.post(query) for query in ("{ tasks { nodes { title } } }", ADD)]
        ready = await settled(alice, 503) if what.startswith("no rights") else {}
    finally:
        await connection.execute(undo)
        await connection.close()

    assert {answer.status_code for answer in answers} == {503}, [answer.text for answer in answers]
    assert ready.get("row_security", "failed; the log says how to fix it") == "failed; the log says how to fix it"
    assert "Traceback" not in caplog.text
    await alice.add()
    await settled(alice, 200)


async def test_the_postmaster_is_killed_under_load(postgres: Postgres, alice: User) -> None:
    """Through a crash and recovery under load every response is 200 with data or 503, for reads and writes."""
    seen: set[tuple[int, str]] = set()
    stopped = asyncio.Event()

    async def work(query: str) -> None:
        while not stopped.is_set():
            answer = await alice.post(query)
            codes = [error["extensions"]["code"] for error in answer.json().get("errors", [])]
            seen.add((answer.status_code, *codes))

    working = [asyncio.create_task(work(query)) for query in (VIEWER, ADD) for _ in range(WORKERS)]
    await alice.data(VIEWER)
    postgres.kill()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (503, "UNAVAILABLE") not in seen:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
        await asyncio.to_thread(postgres.start)
        while (await alice.post(VIEWER)).status_code != 200:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    stopped.set()
    await asyncio.gather(*working)

    assert seen == {(200,), (503, "UNAVAILABLE")}
