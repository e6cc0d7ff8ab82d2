"""Shared fixtures: a real PostgreSQL, migrated once; an HTTP client of the application; any number of users."""

import asyncio
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import hypothesis
import pytest
from declared import leaves
from partitions import partition
from patience import PATIENCE_SECONDS, relax
from pydantic import SecretStr
from sqlalchemy import event
from starlette.applications import Starlette
from strawberry import Schema

from app.database.database import Database
from app.database.embedded import EmbeddedPostgres
from app.database.url import DatabaseURL
from app.identity.tokens import Signer
from app.main import create_app
from app.settings import Settings
from migrations.run import migrate
from schema import schema as usual

SECRET = "a secret of the tests, long enough for HS256"
IN_PARTS = "TEST_PARTITIONS" in os.environ
# Whether TEST_DATABASE_URL names the coordinator of a Citus cluster: see nodes.py.
ON_CLUSTER = "TEST_CITUS" in os.environ
# The first word of each statement that a write sends; for creating one task, several, or only existing ones.
WRITE = ["BEGIN;", "WITH", "SELECT"] if ON_CLUSTER else ["WITH"]
CREATION = ["BEGIN;", "INSERT", "SELECT"] if ON_CLUSTER else ["WITH"]
CREATIONS = ["BEGIN;", "INSERT", "WITH", "SELECT"] if ON_CLUSTER else ["WITH"]
NO_CREATIONS = ["BEGIN;", "INSERT", "WITH", "ROLLBACK"] if ON_CLUSTER else ["WITH"]
# The sessions of all servers: on a cluster, the sessions that wait for locks are those of the workers.
ACTIVITY = "citus_stat_activity" if ON_CLUSTER else "pg_stat_activity"
# The number of sessions that wait for a lock, asked by the session that holds it.
BLOCKED = (
    "SELECT count(*) FROM citus_lock_waits"
    if ON_CLUSTER
    else "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"
)
# tests/cluster starts a cluster of its own; tests/deployment needs programs that scripts/test-proxies and others name.
collect_ignore = [
    *([] if ON_CLUSTER else ["cluster"]),
    *([] if "TEST_DEPLOYMENT" in os.environ else ["deployment"]),
]
# An example may run many operations: it takes more time and more choices than Hypothesis expects.
NEVER_CHECKED = (
    hypothesis.HealthCheck.too_slow,
    hypothesis.HealthCheck.data_too_large,
    hypothesis.HealthCheck.large_base_example,
)
# The same examples in every run and no deadline: results depend neither on chance nor on the machine's speed.
hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=NEVER_CHECKED,
)
# Used by scripts/oracle: each seed gives different examples.
hypothesis.settings.register_profile("fresh", hypothesis.settings.get_profile("suite"), derandomize=False)
hypothesis.settings.load_profile("suite")


@dataclass
class Server:
    """A test database server: the URLs of the owner and of the server's role."""

    owner_url: str
    app_url: str

    def database(self, name: str) -> "Server":
        """Another database of the same server."""
        return Server(self.owner_url.replace("/taskql?", f"/{name}?"), self.app_url.replace("/taskql?", f"/{name}?"))


@dataclass
class User:
    """A user with an HTTP client."""

    id: UUID
    email: str
    token: str
    http: httpx.AsyncClient

    async def post(self, query: str, variables: dict[str, Any] | None = None, **members: Any) -> httpx.Response:
        body = {"query": query, "variables": variables or {}, **members}
        return await self.http.post("/graphql", json=body, headers={"Authorization": f"Bearer {self.token}"})

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The whole response."""
        answer: dict[str, Any] = (await self.post(query, variables)).json()
        return answer

    async def data(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a response without errors."""
        answer = await self.ask(query, **variables)
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    async def add(self, title: str = "A task", **more: Any) -> dict[str, Any]:
        """Create a task; returns all its scalar fields."""
        payload = (await self.data(CREATE, input={"title": title, **more}))["createTask"]
        assert payload["userErrors"] == []
        task: dict[str, Any] = payload["task"]
        return task


ALL_FIELDS = " ".join(leaves("Task"))
CREATE = f"""
    mutation Create($input: CreateTaskInput!) {{
        createTask(input: $input) {{ task {{ {ALL_FIELDS} }} userErrors {{ code message field }} token }}
    }}
"""


@pytest.fixture(scope="session", autouse=True)
def _generous() -> Iterator[None]:
    """Raise the time limits in this process, so that only tests that set a limit reach one."""
    with pytest.MonkeyPatch.context() as patch:
        relax(patch.setattr)
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The database server: the embedded one, or the one whose superuser TEST_DATABASE_URL names."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield Server(url, url.replace("//postgres@", "//taskql_app@"))
        return
    with EmbeddedPostgres.start(tmp_path_factory.mktemp("data")) as embedded:
        yield Server(embedded.owner_url, embedded.app_url)


@pytest.fixture
async def empty(server: Server) -> AsyncIterator[Server]:
    """An empty database for this test."""
    name = f"test_{uuid4().hex}"
    admin = await connect(server.owner_url)
    await admin.execute(f"CREATE DATABASE {name}")
    yield server.database(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture(scope="session")
async def settings(server: Server) -> Settings:
    """Settings for an application on the migrated database."""
    await migrate(DatabaseURL(server.owner_url), DatabaseURL(server.app_url))
    assert await distributed(server) == ON_CLUSTER
    if IN_PARTS:
        await partition(server.owner_url)
    return made_settings(server)


async def distributed(server: Server) -> bool:
    """Whether the tables are distributed by Citus."""
    owner = await connect(server.owner_url)
    found: bool = await owner.fetchval("SELECT is_distributed()")
    await owner.close()
    return found


def made_settings(server: Server, **more: Any) -> Settings:
    return Settings(
        database_url=SecretStr(server.app_url),
        database_owner_url=SecretStr(server.owner_url),
        auth_secret=SecretStr(SECRET),
        **{"rate_limit": "off", "rate_limit_anonymous": "off", "log_level": "warning", **more},
    )


@dataclass
class Application:
    """A running application: an anonymous client, its database, and the SQL it sends."""

    http: httpx.AsyncClient
    database: Database
    wire: "Wire"
    app: Starlette

    def at(self, address: str) -> httpx.AsyncClient:
        """An anonymous client with another IP address."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app, client=(address, 1)), base_url="http://test")


@asynccontextmanager
async def running(settings: Settings, schema: Schema = usual) -> AsyncIterator[Application]:
    """An application inside its lifespan."""
    app = create_app(settings, schema=schema)
    database: Database = app.state.database
    wire = Wire()
    event.listen(database.engine.sync_engine, "connect", wire.watch)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            yield Application(http, database, wire, app)


@pytest.fixture(scope="session")
async def application(settings: Settings) -> AsyncIterator[Application]:
    async with running(settings) as application:
        yield application


@pytest.fixture(scope="session")
def http(application: Application) -> httpx.AsyncClient:
    """An anonymous client."""
    return application.http


@pytest.fixture
async def owner(server: Server, settings: Settings) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A superuser connection, which bypasses row-level security: for setup and for checking stored rows."""
    del settings
    connection = await connect(server.owner_url)
    yield connection
    await connection.close()


async def connect(url: str) -> "asyncpg.Connection[Any]":
    connection: asyncpg.Connection[Any] = await asyncpg.connect(url, server_settings={"timezone": "UTC"})
    return connection


@pytest.fixture
async def new_user(owner: "asyncpg.Connection[Any]", http: httpx.AsyncClient) -> Callable[..., Awaitable[User]]:
    async def make(client: httpx.AsyncClient = http) -> User:
        email = f"{uuid4()}@example.com"
        user_id = await owner.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", email)
        return User(user_id, email, Signer(SECRET).token(user_id, timedelta(hours=1)), client)

    return make


@pytest.fixture
async def alice(new_user: Callable[..., Awaitable[User]]) -> User:
    return await new_user()


@pytest.fixture
async def bob(new_user: Callable[..., Awaitable[User]]) -> User:
    return await new_user()


class Wire:
    """The SQL statements that the application sends over the wire."""

    def __init__(self) -> None:
        self._sent: list[str] = []

    def watch(self, connection: Any, _entry: object) -> None:
        connection.driver_connection.add_query_logger(self._record)

    async def _record(self, query: Any) -> None:
        self._sent.append(query.query)

    async def statements(self) -> list[str]:
        """The statements sent since the last call."""
        await asyncio.sleep(0)  # the driver logs a statement in the next iteration of the event loop
        sent, self._sent = self._sent, []
        return sent


@asynccontextmanager
async def untold(owner: "asyncpg.Connection[Any]") -> AsyncIterator[None]:
    """Disable triggers for the superuser's writes, which then look like old data."""
    if not ON_CLUSTER:
        await owner.execute("SET session_replication_role = replica")
        yield
        await owner.execute("RESET session_replication_role")
        return
    # On a cluster the setting would not reach the workers.
    await owner.execute("SET citus.enable_unsafe_triggers = on")
    tables = ("tasks", "task_lists")
    for table in tables:
        await owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    yield
    for table in tables:
        await owner.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


@pytest.fixture
async def wire(application: Application) -> Wire:
    """Records the SQL that the application sends from here on."""
    await application.wire.statements()
    return application.wire


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parent.parent


@dataclass
class Serving:
    """A `taskql serve` process and what it printed: its address and, on an embedded database, the demo credentials."""

    process: subprocess.Popen[str]
    url: str
    token: str = ""
    explorer: str = ""
    metrics: str = ""
    curl: str = ""

    def ask(self, query: str, token: str | None = None, **variables: Any) -> dict[str, Any]:
        headers, body = {"Authorization": f"Bearer {token or self.token}"}, {"query": query, "variables": variables}
        answer: dict[str, Any] = httpx.post(
            f"{self.url}/graphql", json=body, headers=headers, timeout=PATIENCE_SECONDS
        ).json()
        return answer

    def stop(self) -> int:
        """Send SIGTERM, as a supervisor does; returns the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_SECONDS)


def taskql(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Run a `taskql` command with only this environment, and a drain time of zero."""
    return python("-m", "app", *arguments, **environment)


def python(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - the arguments come from the tests
        [sys.executable, *arguments],
        # A log line per request would fill the pipe, which is not read.
        env={"PATH": os.environ["PATH"], "DRAIN_SECONDS": "0", "LOG_LEVEL": "warning", **environment},
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    """A free port outside the range from which the kernel assigns ephemeral ports."""
    for port in random.sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


@contextmanager
def serving(*arguments: str | Path, **environment: str) -> Iterator[Serving]:
    """A running server on a free port, with time limits that a busy machine does not reach."""
    process = python(Path(__file__).parent / "patience.py", "serve", "--port", "0", *arguments, **environment)
    has_demo, has_metrics = "DATABASE_URL" not in environment, "METRICS_PORT" in environment
    with announced(process, has_demo=has_demo, has_metrics=has_metrics) as served:
        yield served


@contextmanager
def announced(process: subprocess.Popen[str], *, has_demo: bool, has_metrics: bool = False) -> Iterator[Serving]:
    """Wait until a server process announces its address; terminates it at the end."""
    with process:
        try:
            yield _announced(process, has_demo=has_demo, has_metrics=has_metrics)
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def _announced(process: subprocess.Popen[str], *, has_demo: bool, has_metrics: bool) -> Serving:
    """Parse the server's announcement."""
    assert process.stdout
    assert process.stderr
    first = process.stdout.readline()
    assert first.startswith("TaskQL serves "), process.stderr.read()
    served = Serving(process, first.split()[-1].removesuffix("/graphql"))
    served.metrics = process.stdout.readline().split()[-1] if has_metrics else ""
    while has_demo and not served.curl:
        line = process.stdout.readline().strip()
        served.token = line if line.startswith("ey") else served.token
        served.explorer = line if "#token=" in line else served.explorer
        served.curl = line if line.startswith("curl ") else ""
    return served


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server on an embedded database, as `scripts/serve` starts it."""
    with serving("--data-dir", tmp_path_factory.mktemp("demo")) as served:
        yield served


def run(folder: Path, *command: str | Path, **environment: str) -> str:
    """Run a third-party program in a folder; returns its output, and shows all of it if the program fails."""
    ended = subprocess.run(  # noqa: S603 - the commands come from the tests
        command,
        cwd=folder,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout
