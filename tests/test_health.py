"""Health probes: a server is ready if it can serve, and probes send the database few queries."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from conftest import ON_CLUSTER, Application, Server, User, Wire, connect, made_settings, running
from issuer import AUDIENCE, NAME, made_key, published
from patience import PROMISED
from pydantic import SecretStr
from sqlalchemy import event

from app.database.url import DatabaseURL
from app.settings import Settings
from app.web import health, probe
from app.web.probe import AWAKE, DEEP, FRESH, Probe
from migrations.run import migrate

VIEWER = "{ viewer { id } }"
ALL_WELL = {"database": "ok", "migrations": "ok", "row_security": "ok", "key_sets": "ok", "pool": "ok"}
# The same of the database that tests share, which may be a cluster's.
READY = ALL_WELL | ({"workers": "ok"} if ON_CLUSTER else {})
FAILED = "failed; the log says how to fix it"
SILENT = {"database": "unreachable", "migrations": "unknown", "row_security": "unknown"}
ADDRESS = "postgresql://taskql@127.0.0.1:{}/taskql"


@pytest.fixture
async def migrated(empty: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A migrated database for this test, with a connection of its owner."""
    await migrate(DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url))
    owner = await connect(empty.owner_url)
    yield owner
    await owner.close()


async def readiness(application: Application) -> tuple[int, dict[str, str]]:
    answer = await application.http.get("/readyz")
    return answer.status_code, answer.json().get("checks")


async def test_live(application: Application) -> None:
    """/livez succeeds while the process responds."""
    assert (await application.http.get("/livez")).status_code == 200


async def test_ready(application: Application) -> None:
    """The response names each check and must not be cached."""
    answer = await application.http.get("/readyz")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "checks": READY})
    assert answer.headers["cache-control"] == "no-store"


async def test_all_connections_in_use(settings: Settings) -> None:
    """A full pool is reported, but the server stays ready, since it still responds."""
    async with running(settings.model_copy(update={"db_pool_size": 2})) as application, AsyncExitStack() as loans:
        for _ in range(2):
            loans.enter_context(await application.database.connections.take(uuid4()))

        assert await readiness(application) == (200, {**READY, "pool": "all connections are in use"})


async def test_many_probes_at_once_are_one(settings: Settings) -> None:
    """A hundred concurrent probes share one check of the database."""
    async with running(settings) as application:
        statements = statements_of(application.app.state.probe)
        answers = await asyncio.gather(*(readiness(application) for _ in range(100)))

    assert {status for status, _ in answers} == {200}
    assert len([text for text in statements if "FROM alembic_version" in text]) == 1


def statements_of(asking: Probe) -> list[str]:
    """The probe's statements through SQLAlchemy, whose prepared statements the driver does not report."""
    statements: list[str] = []
    event.listen(asking.engine.sync_engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    return statements


class Clock:
    """A clock that a test advances, and the time at which a request last used the database."""

    def __init__(self) -> None:
        self.now, self.last_used = 1000.0, 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def probing(clock: Clock, settings: Settings) -> AsyncIterator[Callable[[], Awaitable[list[str]]]]:
    """Runs a probe; returns the statements that it sends."""
    assert settings.database_url
    asking, wire = Probe(DatabaseURL(settings.database_url.get_secret_value()), lambda: clock.last_used, clock), Wire()
    event.listen(asking.engine.sync_engine, "connect", wire.watch)
    prepared = statements_of(asking)

    async def ask() -> list[str]:
        prepared.clear()
        assert set((await asking.states()).values()) == {"ok"}
        return [*prepared, *await wire.statements()]

    yield ask
    await asking.close()


Asking = Callable[[], Awaitable[list[str]]]


async def test_an_answer_holds_for_a_moment(probing: Asking, clock: Clock) -> None:
    """Two balancers that probe at the same time share one result."""
    assert await probing()
    clock.now += 0.9 * FRESH

    assert await probing() == []


async def test_a_later_probe_sends_one_statement(probing: Asking, clock: Clock) -> None:
    """A later probe checks with one statement only whether the database responds and accepts writes."""
    await probing()
    clock.now = clock.last_used = clock.now + 2 * FRESH
    read = [text for text in await probing() if text not in {"BEGIN;", ";", "ROLLBACK;"}]

    assert len(read) == 1
    assert "pg_is_in_recovery" in read[0]


async def test_a_full_check_after_a_minute(probing: Asking, clock: Clock) -> None:
    """Migrations and row-level security are checked again after a minute."""
    await probing()
    clock.now = clock.last_used = clock.now + 2 * DEEP

    assert [text for text in await probing() if "FROM alembic_version" in text]


async def test_an_idle_database_is_not_queried(probing: Asking, clock: Clock) -> None:
    """Without requests, probes send the database nothing, even for hours, so that it can suspend."""
    await probing()
    clock.now += AWAKE
    for _ in range(100):
        clock.now += 10

        assert await probing() == []


async def test_a_request_resumes_the_probe(probing: Asking, clock: Clock) -> None:
    """Once a request uses the database, probes query it again."""
    await probing()
    clock.now = clock.last_used = clock.now + 100 * AWAKE

    assert await probing()


async def test_requests_are_what_counts_as_use(settings: Settings, new_user: Callable[..., Awaitable[User]]) -> None:
    """The application's probe uses the time of the last request."""
    async with running(settings) as application:
        before = application.database.connections.last_lent
        await (await new_user(application.http)).data(VIEWER)

        assert application.database.connections.last_lent > before


def unreachable(settings: Settings, port: int) -> Settings:
    return settings.model_copy(update={"database_url": SecretStr(ADDRESS.format(port))})


async def test_no_database(settings: Settings) -> None:
    """An unreachable database gives 503."""
    async with running(unreachable(settings, 9)) as application:
        assert await readiness(application) == (503, {**ALL_WELL, **SILENT})


def test_a_supervisor_is_answered_within_two_seconds() -> None:
    """The timeouts of the database and key set checks, which run concurrently, are below two seconds."""
    assert max(PROMISED["app.web.probe.PATIENCE"], PROMISED["app.web.health.PATIENCE_SECONDS"]) < 2


async def test_a_silent_database(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that accepts connections but does not respond gives 503 after the probe's timeout."""
    monkeypatch.setattr(probe, "PATIENCE", 0.2)

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        async with running(unreachable(settings, port)) as application:
            found = await readiness(application)
            silent.close()

    assert found == (503, {**ALL_WELL, **SILENT})


async def test_a_database_that_comes_back(
    migrated: "asyncpg.Connection[Any]", empty: Server, owner: "asyncpg.Connection[Any]", clock: Clock
) -> None:
    """While the database is down it is checked even without requests; the server becomes ready without a restart."""
    name = await migrated.fetchval("SELECT current_database()")
    asking = Probe(DatabaseURL(empty.app_url), lambda: clock.last_used, clock)
    await owner.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    away = await asking.states()
    await owner.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    clock.now += 100 * AWAKE
    back = await asking.states()
    await asking.close()

    assert (away["database"], set(back.values())) == ("unreachable", {"ok"})


async def test_connections_that_the_database_closed(
    settings: Settings, owner: "asyncpg.Connection[Any]", clock: Clock
) -> None:
    """A connection that the database closed is replaced without a failed probe."""
    assert settings.database_url
    asking = Probe(DatabaseURL(settings.database_url.get_secret_value()), lambda: clock.last_used, clock)
    await asking.states()
    async with asking.engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        pid = driver.get_server_pid()
    await owner.execute("SELECT pg_terminate_backend($1::integer, 5000)", pid)
    clock.now = clock.last_used = clock.now + 2 * FRESH
    states = await asking.states()
    await asking.close()

    assert set(states.values()) == {"ok"}


BREACHES = {
    "ALTER TABLE tasks NO FORCE ROW LEVEL SECURITY": ("ok", FAILED),
    "DROP POLICY tasks_of_user ON tasks": ("ok", FAILED),
    "DELETE FROM alembic_version": (FAILED, "unknown"),
    # The next version has migrated the database; this one keeps serving until it is replaced.
    "UPDATE alembic_version SET version_num = 'of the next version'": ("ok", "ok"),
}


@pytest.mark.parametrize("breach", BREACHES)
async def test_migrations_and_row_security(migrated: "asyncpg.Connection[Any]", empty: Server, breach: str) -> None:
    """Missing migrations or row-level security make the server not ready, even if the database responds."""
    migrations, row_security = BREACHES[breach]
    await migrated.execute(breach)

    async with running(made_settings(empty)) as application:
        status, found = await readiness(application)

    assert found == {**ALL_WELL, "migrations": migrations, "row_security": row_security}
    assert status == (200 if migrations == row_security == "ok" else 503)


async def test_the_fix_is_logged(
    migrated: "asyncpg.Connection[Any]", empty: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The fix is logged once, since the response does not contain it."""
    await migrated.execute("ALTER TABLE tasks NO FORCE ROW LEVEL SECURITY")

    async with running(made_settings(empty)) as application:
        with caplog.at_level(logging.WARNING, "app.web.probe"):
            await readiness(application)
            application.app.state.probe._asked_at = 0.0  # noqa: SLF001 - as if a moment had passed
            await readiness(application)

    (line,) = caplog.messages
    assert "Row-level security of tasks is not enabled and forced. As its owner: ALTER TABLE tasks" in line


def of_issuer(server: Server, url: str) -> Settings:
    return Settings(database_url=SecretStr(server.app_url), auth_jwks_url=url, auth_issuer=NAME, auth_audience=AUDIENCE)


async def test_no_key_set(server: Server, settings: Settings) -> None:
    """Until the issuer's keys were fetched once the server is not ready, as it cannot verify tokens."""
    del settings
    async with published() as issuer:
        issuer.status = "500 Oops"
        async with running(of_issuer(server, issuer.url)) as application:
            assert await readiness(application) == (503, {**READY, "key_sets": "cannot be fetched"})


async def test_an_issuer_that_does_not_answer(
    server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe does not wait for an issuer that does not respond."""
    del settings
    monkeypatch.setattr(health, "PATIENCE_SECONDS", 0.2)
    async with published() as issuer:
        issuer.answers.clear()
        async with running(of_issuer(server, issuer.url)) as application:
            assert (await readiness(application))[1]["key_sets"] == "cannot be fetched"


async def test_fetched_keys_suffice(server: Server, settings: Settings) -> None:
    """Fetched keys suffice, even if the issuer fails later; they are fetched once."""
    del settings
    async with published(made_key("ES256")) as issuer, running(of_issuer(server, issuer.url)) as application:
        assert await readiness(application) == (200, READY)
        issuer.status = "500 Oops"

        assert await readiness(application) == (200, READY)
        assert issuer.fetches == 1


async def test_stopping(settings: Settings) -> None:
    """A server that is stopping is not ready, but live."""
    async with running(settings) as application:
        application.app.state.readiness.stopping()
        answer = await application.http.get("/readyz")

        assert (answer.status_code, answer.json()) == (503, {"status": "stopping"})
        assert (await application.http.get("/livez")).status_code == 200
