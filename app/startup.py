"""What happens between the command and the first request: the database is found, brought up to date and checked."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import asyncpg
from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app import checks
from app.checks import Finding
from app.database import driver_error
from app.errors import StartupError
from app.settings import Settings
from app.url import DatabaseURL
from migrations.run import migrate, missing

T = TypeVar("T")

_PASSING = (OSError, asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError)
PATIENCE_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.1


@contextmanager
def database_settings(settings: Settings) -> Iterator[Settings]:
    """Settings with a database: the one that is named, or the embedded one for as long as this lasts."""
    if settings.database_url is not None:
        yield settings
        return
    from app.embedded import EmbeddedPostgres, signing_secret  # noqa: PLC0415 - not installed in production

    with EmbeddedPostgres.start(settings.data_dir) as embedded:
        secret = settings.auth_secret or SecretStr(signing_secret(settings.data_dir))
        update = {
            "database_url": SecretStr(embedded.app_url),
            "database_owner_url": SecretStr(embedded.owner_url),
            "auth_secret": secret,
        }
        yield settings.model_copy(update=update)


def urls(settings: Settings) -> tuple[DatabaseURL, DatabaseURL]:
    """The server's database and the same as its owner."""
    if settings.database_url is None:
        raise StartupError("DATABASE_URL is not set.")
    server = DatabaseURL(settings.database_url.get_secret_value())
    owner = settings.database_owner_url
    return server, DatabaseURL(owner.get_secret_value()) if owner else server


async def bring_up_to_date(settings: Settings) -> list[str]:
    """Migrate as the owner; the revisions that were applied."""
    server, owner = urls(settings)
    return await _patiently(owner, lambda: migrate(owner, server))


async def findings(settings: Settings) -> list[Finding]:
    """What `checks` finds, as the role that serves."""
    server, _ = urls(settings)
    return await _patiently(server, lambda: _inspect(server, _checked))


async def refuse_failures(settings: Settings) -> None:
    """StartupError with the first thing that must not be."""
    server, owner = urls(settings)
    if owner is not server:
        # The server's role may not be there before the first migration.
        lacking = checks.migrations(await _patiently(owner, lambda: _inspect(owner, missing)))
        if lacking.level == "failure":
            raise StartupError(str(lacking))
    for finding in await findings(settings):
        if finding.level == "failure":
            raise StartupError(str(finding))


async def _inspect(url: DatabaseURL, work: Callable[[Connection], T]) -> T:
    engine = create_async_engine(url.sqlalchemy, connect_args=url.connect_arguments({}), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _checked(connection: Connection) -> list[Finding]:
    return checks.database(connection, missing(connection))


async def _patiently(url: DatabaseURL, work: Callable[[], Awaitable[T]]) -> T:
    """Try for a few seconds where the database may still be starting; StartupError where it cannot be reached."""
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + PATIENCE_SECONDS, FIRST_PAUSE_SECONDS
    while True:
        try:
            return await work()
        except (OSError, asyncpg.PostgresError, DBAPIError) as error:
            cause = driver_error(error)
            if not isinstance(cause, _PASSING):
                raise StartupError(f"The database at {url} refuses: {_reason(cause)}.") from None
            if loop.time() + pause > deadline:
                raise StartupError(f"No database answers at {url}: {_reason(cause)}.") from None
        await asyncio.sleep(pause)
        pause *= 2


def _reason(error: BaseException) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
