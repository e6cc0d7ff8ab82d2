"""The database: the engine and its pool, one round trip for a read, a transaction for a write, one map of failures."""

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

import asyncpg
from sqlalchemy import event, exc, literal_column, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from app.errors import RequestError, Unauthenticated, Unavailable
from app.statements import Statement, begin, compiled
from app.url import DatabaseURL

log = logging.getLogger(__name__)

T = TypeVar("T")

ONE = compiled(select(literal_column("1")))
COMMAND_TIMEOUT = 5.0
POOL_TIMEOUT = 2.0
RECYCLE_AFTER = 300
# Before the second and the third try of a write that PostgreSQL has undone, in seconds.
PAUSES = (0.02, 0.1)

# What the driver says when the server closes a connection while it is about to be used.
_CONFUSED = asyncpg.InternalClientError
# What it says when the server announces that it closes the connection, or has closed it.
_SHUTDOWN = (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)
_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, _CONFUSED)

# What every session of the server runs with. Pages walk an index in its order: the planner of a prepared
# statement does not know how many tasks a user has, and would rather sort what it takes for a few rows.
SESSION = {
    "timezone": "UTC",
    "statement_timeout": "4s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "enable_sort": "off",
    "jit": "off",
}


class Database:
    """A pool of connections on which statements run as one user each."""

    def __init__(self, url: DatabaseURL, *, pool_size: int, max_overflow: int) -> None:
        self.engine = _engine(url, pool_size, max_overflow)
        # The pool lets whoever comes by take what a waiter was woken for; this queue is first come, first served.
        self._turns = asyncio.Semaphore(pool_size + max_overflow)
        self._writers: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()
        # Connections from before this moment are not trusted: the server has closed one of them.
        self._trusted_since = -math.inf
        event.listen(self.engine.sync_engine, "checkout", self._refuse_lost)

    async def read(self, statement: Statement, values: Mapping[str, Any]) -> str | None:
        """The first column of a statement's one row, in autocommit; tried again on a new connection if one was lost."""
        return await self._again_if_lost(partial(self._read, statement.text, statement.arguments(values)))

    async def _read(self, text: str, arguments: list[Any]) -> str | None:
        async with self._connection() as connection:
            with losing():
                body: str | None = await connection.fetchval(text, *arguments)
            return body

    async def write(self, owner: UUID, statement: Statement, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The one row of a writing statement, in a transaction kept only when the row says it changed anything.

        A deadlock or serialization failure has undone the whole transaction, so it is safe to run it again. After any
        other failure the commit may have happened: the caller decides. Not where the connection was lost before the
        transaction began.
        """
        async with self._alone(owner):
            return await self._again_if_lost(partial(self._write, owner, statement.text, statement.arguments(values)))

    async def _write(self, owner: UUID, text: str, arguments: list[Any]) -> Mapping[str, Any]:
        async with self._connection() as connection:
            for pause in PAUSES:
                try:
                    return await _transaction(connection, owner, text, arguments)
                except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
                    await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter keeps no secret
            return await _transaction(connection, owner, text, arguments)

    async def _again_if_lost(self, work: Callable[[], Awaitable[T]]) -> T:
        """Once more where nothing was done, on a connection that was opened after the loss was noticed."""
        try:
            return await work()
        except Lost as lost:
            log.warning("a connection was lost, trying another: %s", type(lost.__cause__).__name__)
            self._trusted_since = time.monotonic()
            return await work()

    def _refuse_lost(self, connection: DBAPIConnection, entry: ConnectionPoolEntry, _: PoolProxiedConnection) -> None:
        """Let the pool replace a connection that the server has closed, or may have, at no round trip."""
        if connection.driver_connection.is_closed() or entry.info["opened_at"] < self._trusted_since:
            raise exc.DisconnectionError

    @asynccontextmanager
    async def _alone(self, owner: UUID) -> AsyncIterator[None]:
        """One write of a user at a time: those that wait for the user's clock must not hold connections meanwhile."""
        lock = self._writers.setdefault(owner, asyncio.Lock())
        with expected():
            async with asyncio.timeout(COMMAND_TIMEOUT):
                await lock.acquire()
        try:
            yield
        finally:
            lock.release()

    async def check(self) -> None:
        """One round trip; Unavailable where the database does not answer."""
        async with self._connection() as connection:
            await connection.fetchval(ONE.text)

    async def close(self) -> None:
        await self.engine.dispose()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """A connection of the pool, in autocommit. One whose state is unknown does not go back."""
        with expected():
            async with self._turn(), self._pooled() as connection:
                yield connection

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One of as many uses at once as there are connections; TimeoutError after two seconds in the queue."""
        async with asyncio.timeout(POOL_TIMEOUT):
            await self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release()

    @asynccontextmanager
    async def _pooled(self) -> AsyncIterator[Any]:
        pooled = await self.engine.raw_connection()
        try:
            yield pooled.driver_connection
        except asyncpg.PostgresError:
            raise
        except BaseException:
            await greenlet_spawn(pooled.invalidate)
            raise
        finally:
            # Without a reset: a statement leaves its connection outside a transaction, or it is thrown away.
            await greenlet_spawn(pooled.close)


async def _transaction(connection: Any, owner: UUID, text: str, arguments: list[Any]) -> Mapping[str, Any]:
    with losing():
        await _begin(connection, owner)
    try:
        row = await connection.fetchrow(text, *arguments)
        await connection.execute("COMMIT" if row["changed"] else "ROLLBACK")
    except asyncpg.PostgresError:
        await connection.execute("ROLLBACK")
        raise
    return dict(row)


async def _begin(connection: Any, owner: UUID) -> None:
    try:
        await connection.execute(begin(owner))
    except asyncpg.PostgresError:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")
        raise


def _engine(url: DatabaseURL, pool_size: int, max_overflow: int) -> AsyncEngine:
    engine = create_async_engine(
        url.sqlalchemy,
        connect_args=url.connect_arguments(SESSION) | {"command_timeout": COMMAND_TIMEOUT},
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=POOL_TIMEOUT,
        pool_recycle=RECYCLE_AFTER,
        pool_reset_on_return=None,
    )
    event.listen(engine.sync_engine, "connect", _note_opening)
    return engine


def _note_opening(_connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    entry.info["opened_at"] = time.monotonic()


class Lost(Unavailable):
    """The connection was lost before anything was done that a second try would repeat."""


@contextmanager
def losing() -> Iterator[None]:
    """Mark what may be tried again when the connection is lost in it."""
    try:
        yield
    except TimeoutError:
        raise
    except (OSError, asyncpg.InterfaceError, _CONFUSED, *_SHUTDOWN) as error:
        raise Lost("The database cannot be reached; try again.") from error


@contextmanager
def expected() -> Iterator[None]:
    """Turn what the driver and the pool raise into the failures that callers know."""
    try:
        yield
    except (OSError, *_DRIVER_ERRORS, exc.SQLAlchemyError) as error:
        known = failure(error)
        if known is None:
            raise
        if isinstance(known, Unavailable):
            log.warning("database unavailable: %s", type(error).__name__)
        raise known from error


def driver_error(error: BaseException) -> BaseException:
    """What asyncpg raised, where SQLAlchemy has wrapped it."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def failure(error: BaseException) -> RequestError | None:
    """The expected failure behind an error of the driver or pool; None when it is a bug. TimeoutError is an OSError."""
    error = driver_error(error)
    if isinstance(error, OSError | exc.TimeoutError | exc.DisconnectionError | asyncpg.InterfaceError | _CONFUSED):
        return Unavailable("The database cannot be reached; try again.")
    state = getattr(error, "sqlstate", None) or ""
    if state == "23503" and "users" in (getattr(error, "constraint_name", None) or ""):
        return Unauthenticated("The account of this token no longer exists.")
    if state[:2] in {"08", "53", "57"} or state in {"55P03", "40001", "40P01"}:
        return Unavailable("The database is busy or restarting; try again.")
    return None
