"""The database: one round trip for a read, a transaction for a write, one map of failures."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
from sqlalchemy import exc, func, select, true
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.connections import Connections
from app.deadlines import Deadline, Deadlines
from app.errors import RequestError, Unauthenticated, Unavailable
from app.statements import Statement, begin, commit, compiled, text_literal
from app.turns import Turns
from app.url import DatabaseURL

log = logging.getLogger(__name__)

T = TypeVar("T")
Row = Mapping[str, Any]
Transaction = Callable[..., Awaitable[Row]]

# As `taskql migrate --citus` gives it to the server's role.
SHARDED = compiled(select(func.current_setting(text_literal("citus.propagate_set_commands"), true()).is_not(None)))
# What a caller waits at most, in seconds: for other writes, for a connection and for the answer, twice if one was lost.
COMMAND_TIMEOUT = 4.5
# Before the second and the third try of a write that PostgreSQL has undone, in seconds.
PAUSES = (0.02, 0.1)

# What the driver says when the server closes a connection while it is about to be used.
_CONFUSED = asyncpg.InternalClientError
# What it says when the server announces that it closes the connection, or has closed it.
_SHUTDOWN = asyncpg.PostgresConnectionError | asyncpg.AdminShutdownError | asyncpg.CrashShutdownError
DriverError = asyncpg.PostgresError | asyncpg.InterfaceError | _CONFUSED

# What every session of the server runs with. Pages walk an index in its order: the planner of a prepared
# statement does not know how many tasks a user has, and would rather sort what it takes for a few rows.
SESSION = {
    "timezone": "UTC",
    "statement_timeout": "4s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "enable_sort": "off",
    "enable_seqscan": "off",
    "jit": "off",
}


class Database:
    """Statements run as one user each, on connections that are lent to them."""

    def __init__(self, url: DatabaseURL, *, pool_size: int) -> None:
        self.engine = _engine(url)
        self._connections = Connections(self.engine, pool_size)
        self._deadlines = Deadlines()
        self._writers = Turns[UUID](1)
        # Whether a cluster carries the writes out, which takes their user from SET LOCAL alone; asked once.
        self._sharded: bool | None = None

    async def read(self, statement: Statement, values: Mapping[str, Any]) -> str | None:
        """The first column of a statement's one row, in autocommit; tried again on a new connection if one was lost."""
        with expected, Deadline(self._deadlines, COMMAND_TIMEOUT):
            return await self._again_if_lost(self._read, statement, values)

    async def _read(self, statement: Statement, values: Mapping[str, Any]) -> str | None:
        async with self._connections.lend() as connection:
            with losing:
                body: str | None = await connection.fetchval(statement.text, *statement.arguments(values))
            return body

    async def write(self, owner: UUID, statement: Statement, values: Mapping[str, Any]) -> Row:
        """The one row of a writing statement, in a transaction.

        One write of a user at a time: those that wait for the user's clock must not hold connections meanwhile. After a
        failure the commit may have happened, and the caller decides; but not where nothing was done yet, nor where
        doing it again makes no difference.
        """
        with expected, Deadline(self._deadlines, COMMAND_TIMEOUT):
            if not self._writers.take(owner):
                await self._writers.wait(owner)
            try:
                return await self._again_if_lost(self._write, statement, values, owner)
            finally:
                self._writers.give(owner)

    async def _write(self, statement: Statement, values: Mapping[str, Any], owner: UUID) -> Row:
        async with self._connections.lend() as connection:
            if self._sharded is None:
                with losing:
                    self._sharded = await connection.fetchval(SHARDED.text)
            transaction: Transaction = _once if statement.again else _at_once
            if self._sharded:
                transaction, statement = _in_parts, statement.again or statement
            with losing if statement.repeatable else _unmarked:
                return await _done(transaction, connection, owner, statement, values)

    async def _again_if_lost(self, work: Callable[..., Awaitable[T]], statement: Statement, *arguments: Any) -> T:
        """Once more where that is safe, on a connection that was opened after the loss was noticed."""
        try:
            return await work(statement, *arguments)
        except Lost as lost:
            log.warning("a connection was lost, trying another: %s", type(lost.__cause__).__name__)
            self._connections.distrust()
            return await work(statement.again or statement, *arguments)

    async def notify(self, channel: str) -> None:
        """Send an empty notification, on whichever connection; Unavailable where it cannot be sent."""
        with expected, Deadline(self._deadlines, COMMAND_TIMEOUT):
            async with self._connections.lend() as connection:
                await connection.execute(f"NOTIFY {channel}")

    @property
    def connections(self) -> Connections:
        return self._connections

    async def close(self) -> None:
        await self._connections.close()


async def _done(transaction: Transaction, *arguments: Any) -> Row:
    """The row of a transaction that is run again where a deadlock or serialization failure has undone it whole."""
    for pause in PAUSES:
        try:
            return await transaction(*arguments)
        except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter keeps no secret
    return await transaction(*arguments)


async def _once(connection: Any, _owner: UUID, statement: Statement, values: Mapping[str, Any]) -> Row:
    """A statement that begins its write itself."""
    row: Row = await connection.fetchrow(statement.text, *statement.arguments(values))
    return row


async def _at_once(connection: Any, owner: UUID, statement: Statement, values: Mapping[str, Any]) -> Row:
    """In one round trip: what is sent together is one transaction."""
    executions = statement.beginning(owner), statement.arguments(values)
    try:
        rows: list[Row] = await connection.fetchmany(statement.text, executions)
    except asyncpg.AdminShutdownError as error:
        # The farewell of a backend that was ended before the commit: after it, the result would have come instead.
        raise Lost("The database cannot be reached; try again.") from error
    return rows[-1]


async def _in_parts(connection: Any, owner: UUID, statement: Statement, values: Mapping[str, Any]) -> Row:
    try:
        await _begin(connection, owner)
        row: Row = await connection.fetchrow(statement.text, *statement.arguments(values))
        await connection.execute(commit(owner, row.get("version")))
    except asyncpg.PostgresError:
        await connection.execute("ROLLBACK")
        raise
    return row


async def _begin(connection: Any, owner: UUID) -> None:
    with losing:
        await connection.execute(begin(owner))


def _engine(url: DatabaseURL) -> AsyncEngine:
    return create_async_engine(url.sqlalchemy, connect_args=url.connect_arguments(SESSION), poolclass=NullPool)


class Lost(Unavailable):
    """The connection was lost, and a second try does nothing that was done already."""


class _Losing:
    """Marks what may be tried again when the connection is lost in it."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError | asyncpg.InterfaceError | _CONFUSED | _SHUTDOWN) and kind is not TimeoutError:
            raise Lost("The database cannot be reached; try again.") from error


losing = _Losing()
_unmarked = nullcontext()


class _Expected:
    """Turns what the driver and the pool raise into the failures that callers know."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        known = failure(error) if isinstance(error, OSError | DriverError | exc.SQLAlchemyError) else None
        if known is None:
            return
        if isinstance(known, Unavailable):
            log.warning("database unavailable: %s", type(error).__name__)
        raise known from error


expected = _Expected()


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
