"""The database: one round trip for a read, a transaction for a write, one map of failures."""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, NoReturn
from uuid import UUID

import asyncpg
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.database import cluster
from app.database.connections import CannotConnect, Connection, Connections, Spend
from app.database.deadlines import Deadline, Deadlines
from app.database.driver import Driver, driver_error, is_of_worker
from app.database.statements import Statement
from app.database.url import DatabaseURL
from app.errors import RequestError, Unauthenticated, Unavailable
from app.sharing.turns import Turns

log = logging.getLogger(__name__)

Values = Mapping[str, Any]
Row = Mapping[str, Any]
Transaction = Callable[..., Awaitable[Row | None]]

# What a caller waits at most, in seconds: for other writes, for a connection and for the answer, twice if one was lost.
COMMAND_TIMEOUT = 4.3
# Before the second and the third try of a write that PostgreSQL has undone, in seconds; after a loss there is none.
PAUSES = (0.02, 0.1)

# What the driver says when the server closes a connection while it is about to be used.
_CONFUSED = asyncpg.InternalClientError
# What it says when the server announces that it closes the connection, or has closed it.
_SHUTDOWN = (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)
LOSSES = (OSError, asyncpg.InterfaceError, _CONFUSED, *_SHUTDOWN)
# All that the driver and the pool raise.
FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, _CONFUSED, exc.SQLAlchemyError, CannotConnect)
_UNREACHABLE = (*(OSError, exc.TimeoutError, exc.DisconnectionError, asyncpg.InterfaceError, _CONFUSED, CannotConnect),)
# A session keeps the default it began with: an old one may be read-only where the database no longer is. One that is
# younger than this, in seconds, tells how the database is.
YOUNG = 5.0

# SQLSTATEs and classes of them. What passes by itself, or when somebody has looked after PostgreSQL:
_PASSING_CLASSES = {"08", "53", "57", "58", "XX"}
_PASSING_STATES = {"25P03", "25P04", "55P03", "40001", "40P01"}
# What keeps a connection from being opened, and happens to no statement of ours: the role or the database is refused.
_REFUSED_CLASSES = {"28", "3D"}
_READ_ONLY = "25006"
# What a statement of ours meets in a database that is not, or not yet again, as `taskql migrate` leaves it: no such
# table, column, function, schema or type, or no right to it.
_UNPREPARED = {"42P01", "42703", "42883", "3F000", "42704", "42501"}
# What a cluster's coordinator says when it has lost a worker.
_WORKER_LOST = {"08000", "08003", "08006", "57P01", "XX000"}

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


def for_free(_payer: str, _seconds: float) -> None:
    """What is not charged: commands have no other users to be fair to."""


class Database:
    """Statements run as one user each, on connections that are lent to them.

    `quota` is how many tasks each user may own, those in the trash included. `spend` is told what time each takes.
    """

    def __init__(self, url: DatabaseURL, *, pool_size: int, quota: int, spend: Spend = for_free) -> None:
        self.quota = quota
        self.engine = _engine(url)
        self._connections = Connections(self.engine, pool_size, spend)
        self._deadlines = Deadlines()
        self._writers = Turns[UUID](math.inf, 1)
        # Whether the tables are distributed over a cluster: asked once, and again when a write fails as if they were.
        self._is_distributed: bool | None = None
        # When something was last found that does not pass by itself, as `time.monotonic` has it.
        self.last_trouble = -math.inf

    async def read(self, owner: UUID, statement: Statement, values: Values) -> str | None:
        """The first column of a statement's one row, in autocommit; tried again on a new connection if one was lost."""
        try:
            with Deadline(self._deadlines, COMMAND_TIMEOUT):
                try:
                    return await self._read(owner, statement, values)
                except Lost as lost:
                    self._distrust(lost)
                    return await self._read(owner, statement, values)
        except FAILURES as error:
            self._tell(error)

    async def _read(self, owner: UUID, statement: Statement, values: Values) -> str | None:
        lent = self._connections.idle(owner) or await self._connections.take(owner)
        with lent as connection:
            try:
                body: str | None = await connection.fetchval(statement.text, *statement.arguments(values))
            except LOSSES as error:
                _lose(error)
            except asyncpg.ReadOnlySQLTransactionError as error:
                _doubt(lent, error)
            return body

    async def write(self, owner: UUID, statement: Statement, values: Values) -> Row:
        """The one row of a writing statement, in a transaction.

        One write of a user at a time: those that wait for the user's clock must not hold connections meanwhile. After a
        failure the commit may have happened, and the caller decides; but not where nothing was done yet, nor where
        doing it again makes no difference.
        """
        try:
            with Deadline(self._deadlines, COMMAND_TIMEOUT):
                if not self._writers.take(owner):
                    await self._writers.wait(owner)
                try:
                    return await self._write(owner, statement, values)
                except AGAIN as error:
                    return await self._write_again(error, owner, statement, values)
                finally:
                    self._writers.give(owner)
        except FAILURES as error:
            self._tell(error)

    async def _write(self, owner: UUID, statement: Statement, values: Values) -> Row:
        lent = self._connections.idle(owner) or await self._connections.take(owner)
        with lent as connection:
            try:
                if self._is_distributed is None:
                    self._is_distributed = await _is_distributed(connection)
                transaction: Transaction = _once if statement.again else _at_once
                if self._is_distributed:
                    transaction = _in_parts
                row = await transaction(connection, owner, statement, values)
                # No row: one execution has refused, and two say why.
                return (
                    row if row is not None else await _at_once(connection, owner, statement.again or statement, values)
                )
            except LOSSES as error:
                if statement.repeatable:
                    _lose(error)
                raise
            except asyncpg.ReadOnlySQLTransactionError as error:
                _doubt(lent, error)
            except _MISDIRECTED as error:
                if self._is_distributed or not await _is_distributed(connection):
                    raise
                self._is_distributed = True
                raise Distributed("The tables were just distributed over a cluster; try again.") from error

    async def _write_again(self, error: Exception, owner: UUID, statement: Statement, values: Values) -> Row:
        """What was lost, and what a deadlock or serialization failure has undone whole."""
        for pause in PAUSES:
            if isinstance(error, Lost):
                self._distrust(error)
                statement = statement.again or statement
            else:
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter keeps no secret
            try:
                return await self._write(owner, statement, values)
            except AGAIN as another:
                error = another
        raise error

    def _distrust(self, lost: "Lost") -> None:
        """Once more is safe, but on a connection that was opened after the loss was noticed."""
        log.warning("a connection was lost, trying another: %s", type(lost.__cause__).__name__)
        self._connections.distrust()

    async def notify(self, channel: str) -> None:
        """Send an empty notification, on whichever connection; Unavailable where it cannot be sent."""
        try:
            with Deadline(self._deadlines, COMMAND_TIMEOUT), await self._connections.take(None) as connection:
                await connection.execute(f"NOTIFY {channel}")
        except FAILURES as error:
            self._tell(error)

    def _tell(self, error: Exception) -> NoReturn:
        """Turn what the driver and the pool raise into the failures that callers know."""
        known = failure(error)
        if known is None:
            raise error
        if isinstance(known, Unavailable):
            self._log(error)
        raise known from error

    def _log(self, error: Exception) -> None:
        cause = error.__cause__ if isinstance(error, CannotConnect) and error.__cause__ else error
        state = getattr(cause, "sqlstate", None)
        log.warning("database unavailable: %s", f"{type(cause).__name__} {state}" if state else type(cause).__name__)
        if state in _UNPREPARED | {_READ_ONLY} or (state in _WORKER_LOST and is_of_worker(cause)):
            self.last_trouble = monotonic()

    @property
    def connections(self) -> Connections:
        return self._connections

    async def close(self) -> None:
        await self._connections.close()


def _once(connection: Any, _owner: UUID, statement: Statement, values: Values) -> Awaitable[Row | None]:
    """A statement that begins its write itself; no row where it refuses."""
    row: Awaitable[Row | None] = connection.fetchrow(statement.text, *statement.arguments(values))
    return row


async def _at_once(connection: Any, owner: UUID, statement: Statement, values: Values) -> Row:
    """In one round trip: what is sent together is one transaction."""
    executions = statement.beginning(owner), statement.continuing(values)
    try:
        rows: list[Row] = await connection.fetchmany(statement.text, executions)
    except asyncpg.AdminShutdownError as error:
        # The farewell of a backend that was ended before the commit: after it, the result would have come instead.
        raise Lost("The database cannot be reached; try again.") from error
    return rows[-1]


async def _in_parts(connection: Any, owner: UUID, statement: Statement, values: Values) -> Row | None:
    """On a cluster."""
    try:
        await cluster.begin(connection, owner, statement, values)
    except LOSSES as error:
        _lose(error)
    row: Row = await cluster.write(connection, owner, statement, values)
    return row


async def _is_distributed(connection: Any) -> bool:
    try:
        return await cluster.is_distributed(connection)
    except LOSSES as error:
        _lose(error)


def _engine(url: DatabaseURL) -> AsyncEngine:
    arguments = url.connect_arguments(SESSION) | {"connection_class": Driver}
    return create_async_engine(url.sqlalchemy, connect_args=arguments, poolclass=NullPool)


class Lost(Unavailable):
    """The connection was lost, and a second try does nothing that was done already."""


class Distributed(Unavailable):
    """A write has failed, with nothing done, because the tables are distributed by now."""


# How it fails.
_MISDIRECTED = (asyncpg.InternalServerError, asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError)
# What is carried out again.
AGAIN = (Lost, Distributed, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


def _doubt(lent: Connection, error: Exception) -> NoReturn:
    """Have a write that was refused as read-only, with nothing done, tried again on a new session if this was old."""
    if monotonic() - lent.opened < YOUNG:
        raise error
    raise Lost("The database takes no writes now; try again.") from error


def _lose(error: Exception) -> NoReturn:
    """Mark that what has failed so may be tried again. The loss of a worker would be met again."""
    if type(error) is TimeoutError or is_of_worker(error):
        raise error
    raise Lost("The database cannot be reached; try again.") from error


def failure(error: BaseException) -> RequestError | None:
    """The expected failure behind an error of the driver or pool; None when it is a bug. TimeoutError is an OSError."""
    error = driver_error(error)
    state = getattr(error, "sqlstate", None) or ""
    if isinstance(error, _UNREACHABLE) or state[:2] in _REFUSED_CLASSES:
        return Unavailable("The database cannot be reached; try again.")
    # A cluster's coordinator passes a worker's message on, but not what the message is about.
    if state == "23503" and "users" in (getattr(error, "constraint_name", None) or str(error)):
        return Unauthenticated("The account of this token no longer exists.")
    if state[:2] in _PASSING_CLASSES or state in _PASSING_STATES:
        return Unavailable("The database is busy or restarting; try again.")
    if state == _READ_ONLY:
        return Unavailable("The database takes no writes now; try again.")
    if state in _UNPREPARED:
        return Unavailable("The database is not ready; try again.")
    return None
