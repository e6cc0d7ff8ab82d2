"""Preparation before the first request: the database is started if it is embedded, migrated and checked."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import TypeVar

import asyncpg
from pydantic import SecretStr
from sqlalchemy.exc import EmulatedDBAPIException, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from app.database import checks
from app.database.checks import Finding
from app.database.database import SESSION, Database
from app.database.failures import FAILURES, CannotConnect, driver_error, failure, is_passing
from app.database.url import DatabaseURL, owner_url, server_url
from app.errors import RequestError, StartupError, Unavailable
from app.identity.key_sets import FetchFailed, fetched
from app.settings import Issuer, Settings
from app.sharing.rate_limits import SharedCounters
from app.tasks.recount import recount
from migrations.run import migrate, missing

T = TypeVar("T")

PATIENCE_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.1
# How long task counters are checked, unless all of them are requested.
RECOUNT_SECONDS = 10.0

Progress = Callable[[int, int], None]


@contextmanager
def database_settings(settings: Settings, *, create: bool = True) -> Iterator[Settings]:
    """Settings with a database: the configured one, or the embedded one, which runs until this context ends.

    Without `create`, a missing embedded database is not created.
    """
    if settings.database_url is not None:
        yield settings
        return
    from app.database.embedded import SECRET_FILE, EmbeddedPostgres, signing_secret  # noqa: PLC0415 - not installed in production

    with EmbeddedPostgres.start(settings.data_dir, create=create) as embedded, embedded.supervised():
        update = {
            "database_url": SecretStr(embedded.app_url),
            "database_owner_url": SecretStr(embedded.owner_url),
        }
        needs_secret = settings.auth_secret is None and settings.auth_jwks_url is None
        if needs_secret and (create or (settings.data_dir / SECRET_FILE).exists()):
            update["auth_secret"] = SecretStr(signing_secret(settings.data_dir))
        yield settings.model_copy(update=update)


async def bring_up_to_date(settings: Settings, *, spread: bool = False) -> list[str]:
    """Migrate as the owner, and with `spread` distribute the tables over a cluster; returns the applied revisions."""
    server, owner = server_url(settings), owner_url(settings)
    if owner.pooled:
        raise StartupError(
            "Migrations cannot go through a pooler: set DATABASE_OWNER_URL to a direct connection as the owner, or set"
            " DATABASE_DIRECT_URL."
        )
    return await _retrying(owner, lambda: migrate(owner, server, spread=spread))


async def findings(settings: Settings) -> list[Finding]:
    """The findings of `checks`, as the server's role."""
    server = server_url(settings)
    return await _retrying(server, lambda: _inspect(server, partial(_checked, server)))


async def report(settings: Settings, progress: Progress | None = None, *, embedded: bool = False) -> list[Finding]:
    """All findings about settings, issuers and database.

    With `progress` the task counters of all users are checked; it is called with the number of users so far, and of
    wrong counters. Otherwise as many as ten seconds allow are checked.
    """
    found = [*await _issuers(settings), *await _shared_counts(settings), *await _database(settings, progress)]
    # The embedded database has no other roles than the owner's and the server's.
    return found if embedded else [*found, *await _open_to_all(settings)]


async def _issuers(settings: Settings) -> list[Finding]:
    try:
        issuers = settings.issuers()
    except StartupError as error:
        return [failed(error)]
    return [await _issuer(issuer) for issuer in issuers]


async def _issuer(issuer: Issuer) -> Finding:
    if issuer.jwks_url is None:
        return Finding("ok", "Tokens are verified with AUTH_SECRET")
    try:
        keys = await fetched(issuer.jwks_url)
    except FetchFailed as error:
        fix = "Check that AUTH_JWKS_URL is correct and reachable from here; Better Auth's ends in /api/auth/jwks."
        return Finding("failure", f"The key set of {issuer.name} cannot be fetched: {error}", fix)
    algorithms = sorted({name for key in keys for name in key.algorithms})
    return Finding("ok", f"The key set of {issuer.name} has {len(keys)} usable keys, for {', '.join(algorithms)}")


async def _shared_counts(settings: Settings) -> list[Finding]:
    if settings.rate_limit_redis_url is None:
        return []
    counters = SharedCounters(settings.rate_limit_redis_url.get_secret_value())
    try:
        if await counters.reachable():
            return [Finding("ok", "All processes share the counts of rate limits")]
    finally:
        await counters.close()
    fix = "Check that RATE_LIMIT_REDIS_URL is correct; until Redis is reachable, each process counts on its own."
    return [Finding("warning", "The Redis of the rate limits cannot be reached", fix)]


async def _database(settings: Settings, progress: Progress | None) -> list[Finding]:
    """The findings about the database, up to the first error that prevents further checks."""
    found: list[Finding] = []
    try:
        server, owner = server_url(settings), owner_url(settings)
        found += [checks.encryption(server), checks.way_around_pooler(server, owner)]
        found += [await _owner(owner, server)] if settings.database_owner_url else []
        found += await findings(settings)
        found += [await _counters(settings, progress)] if checks.worst(found) < checks.FAILURE else []
    except StartupError as error:
        found.append(failed(error))
    return found


async def _counters(settings: Settings, progress: Progress | None) -> Finding:
    """Check the task counters, and correct wrong ones."""
    database = Database(server_url(settings), pool_size=1, quotas=settings.quotas)
    loop = asyncio.get_running_loop()
    users, wrong, whole, deadline = 0, 0, True, loop.time() + RECOUNT_SECONDS
    try:
        async with aclosing(recount(database)) as recounting:
            async for users, wrong in recounting:
                if progress is not None:
                    progress(users, wrong)
                elif loop.time() > deadline:
                    whole = False
                    break
    except Unavailable as error:
        seen = f"Task counters could only be checked for {users} users ({wrong} were wrong and have been corrected)"
        return Finding("warning", f"{seen}: {str(error).rstrip('.')}", "Run `taskql doctor --recount` again.")
    finally:
        await database.close()
    return _counted(users, wrong, whole=whole)


def _counted(users: int, wrong: int, *, whole: bool) -> Finding:
    checked = f"all {users} users" if whole else f"the first {users} users"
    fix = "" if whole else "`taskql doctor --recount` checks all."
    if wrong:
        return Finding("warning", f"The task counters of {wrong} of {checked} were wrong, and have been corrected", fix)
    return Finding("ok", f"The task counters of {checked} are correct", fix)


async def _open_to_all(settings: Settings) -> list[Finding]:
    try:
        server = server_url(settings)
        return [await _retrying(server, lambda: _inspect(server, checks.open_to_all))]
    except StartupError:
        return []  # reported by the other checks


async def _owner(owner: DatabaseURL, server: DatabaseURL) -> Finding:
    """Check that the owner can log in, as `serve` does to find missing migrations, and can do what `migrate` needs."""
    try:
        await _retrying(owner, lambda: _inspect(owner, _missing))
        if server.role and server.role != owner.role:
            return await _inspect(owner, partial(checks.server_role, role=server.role))
    except StartupError as error:
        return failed(error)
    return Finding("ok", "The owner can log in")


def failed(error: StartupError) -> Finding:
    return Finding("failure", str(error).rstrip("."))


async def refuse_failures(settings: Settings) -> list[Finding]:
    """Raise StartupError for the first failure; returns the warnings."""
    if settings.database_owner_url is not None:
        owner = owner_url(settings)
        # The server's role may not exist before the first migration.
        lacking = checks.migrations(await _retrying(owner, lambda: _inspect(owner, _missing)))
        if lacking.level == "failure":
            raise StartupError(str(lacking))
    found = await findings(settings)
    for finding in found:
        if finding.level == "failure":
            raise StartupError(str(finding))
    return [finding for finding in found if finding.level == "warning"]


async def _inspect(url: DatabaseURL, work: Callable[[Session], T]) -> T:
    engine = create_async_engine(url.sqlalchemy, connect_args=url.connect_arguments(SESSION), poolclass=NullPool)
    try:
        async with AsyncSession(engine) as session:
            return await session.run_sync(work)
    finally:
        await engine.dispose()


def _checked(url: DatabaseURL, session: Session) -> list[Finding]:
    return checks.database(session, _missing(session), url)


def _missing(session: Session) -> list[str]:
    return missing(session.connection())


async def _retrying(url: DatabaseURL, work: Callable[[], Awaitable[T]]) -> T:
    """Retry for a few seconds, since the database may still be starting; then raise StartupError."""
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + PATIENCE_SECONDS, FIRST_PAUSE_SECONDS
    while True:
        try:
            return await work()
        except (*FAILURES, EmulatedDBAPIException) as error:
            cause = driver_error(error)
            if isinstance(cause, SQLAlchemyError):
                raise
            if not is_passing(cause):
                problem = f"The database at {url} rejects the connection: {_reason(cause)}."
                raise StartupError(f"{problem}{_hint(url, cause)}") from None
            if loop.time() + pause > deadline:
                raise StartupError(f"The database at {url} cannot be reached: {_reason(cause)}.") from None
        await asyncio.sleep(pause)
        pause *= 2


def interruption(error: Exception) -> StartupError:
    """The error of a command that lost its connection to the database. Any other error is raised again."""
    known = error if isinstance(error, RequestError) else failure(error)
    if known is None:
        raise error
    cause = error.__cause__ or error
    cause = driver_error(cause.__cause__ if isinstance(cause, CannotConnect) and cause.__cause__ else cause)
    reason = "" if cause is known else f" ({_reason(cause)})"
    return StartupError(f"{known}{reason}")


def _reason(error: BaseException) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _hint(url: DatabaseURL, error: BaseException) -> str:
    """What to do about a rejected connection, if the error tells its cause."""
    unknown = isinstance(error, asyncpg.InvalidAuthorizationSpecificationError) and "does not exist" in str(error)
    if unknown or isinstance(error, asyncpg.InvalidPasswordError):
        if url.variable != "DATABASE_URL":
            return f" Check the role and the password in {url.variable}."
        return (
            " `taskql migrate` with DATABASE_OWNER_URL creates the role in DATABASE_URL; an existing role keeps its"
            " password."
        )
    if isinstance(error, asyncpg.InsufficientPrivilegeError) and url.variable == "DATABASE_URL":
        return " `taskql migrate` with DATABASE_OWNER_URL grants the role what it needs."  # as after a restore
    if isinstance(error, ssl.SSLCertVerificationError):
        return " Add the certificate of its authority to the URL: sslmode=verify-full&sslrootcert=FILE."
    # PgBouncer rejects startup parameters.
    if isinstance(error, asyncpg.ProtocolViolationError) and "startup parameter" in str(error):
        return " If it is a transaction pooler, set DB_POOLER=1."
    return ""
