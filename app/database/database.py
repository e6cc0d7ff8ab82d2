"""The database: one round trip for a read, a transaction for a write."""

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, NoReturn
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from app.database import cluster
from app.database.connections import Connection, Connections, Spend
from app.database.deadlines import Deadline, Deadlines
from app.database.failures import (
    FAILURES,
    LOSSES,
    OUTDATED,
    CannotConnect,
    driver_error,
    failure,
    is_lasting,
    is_of_worker,
    sqlstate,
)
from app.database.sessions import acting, is_refusal
from app.database.statements import Statement
from app.database.url import DatabaseURL
from app.errors import Unavailable
from app.sharing.turns import Turns

log = logging.getLogger(__name__)

Values = Mapping[str, Any]
Row = Mapping[str, Any]
Transaction = Callable[..., Awaitable[Row | None]]

# What a caller waits at most, in seconds: for other writes, for a connection and for the answer, twice if one was lost.
COMMAND_TIMEOUT = 4.3
# Before the second and the third try of a write that PostgreSQL has undone, in seconds; after a loss there is none.
PAUSES = (0.02, 0.1)

# A session keeps the default it began with: an old one may be read-only where the database no longer is. One that is
# younger than this, in seconds, tells how the database is.
YOUNG = 5.0

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
        # Behind a transaction pooler there is nothing of a session to reset: the next statement may meet another.
        self._has_sessions = not url.pooled
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
                transaction: Transaction = _once if statement.after_loss else _at_once
                if self._is_distributed:
                    transaction = _in_parts
                row = await transaction(connection, owner, statement, values)
                if row is None:  # one execution has refused, and two say why
                    row = await _at_once(connection, owner, statement.after_loss or statement, values)
            except LOSSES as error:
                # A backend that was ended after the commit would have sent the result instead of its farewell.
                is_undone = isinstance(error, asyncpg.AdminShutdownError) and not self._is_distributed
                if statement.repeatable or is_undone:
                    _lose(error)
                raise
            except asyncpg.ReadOnlySQLTransactionError as error:
                _doubt(lent, error)
            except _MISDIRECTED as error:
                if self._is_distributed or not await _is_distributed(connection):
                    raise
                self._is_distributed = True
                raise Distributed("The tables were just distributed over a cluster; try again.") from error
            return row

    async def _write_again(self, error: Exception, owner: UUID, statement: Statement, values: Values) -> Row:
        """What was lost, and what a deadlock or serialization failure has undone whole."""
        for pause in PAUSES:
            if isinstance(error, Lost):
                self._distrust(error)
                statement = statement.after_loss or statement
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

    @asynccontextmanager
    async def session(self, owner: UUID | None) -> AsyncIterator[AsyncSession]:
        """A session of SQLAlchemy acting as a user, or as none, on a connection of the user's share.

        It is committed at the end, or rolled back if the block raises. All that it does has the time of one statement.
        Nothing is tried again; what the database cannot do now is Unavailable.
        """
        failed, own, committed = None, False, False
        try:
            with Deadline(self._deadlines, COMMAND_TIMEOUT):
                lent = self._connections.idle(owner) or await self._connections.take(owner)
                with lent as connection:
                    session = acting(self.engine, lent.pooled, owner)
                    try:
                        yield session
                        await session.commit()
                        committed = True
                    except Exception as error:  # noqa: BLE001 - raised again when the connection is in order
                        failed, own = error, isinstance(error, OSError) and not connection.is_closed()
                    await session.close()
                    if self._has_sessions:
                        await connection.reset()
        except FAILURES as error:
            # A connection that fails after the commit is thrown away, and that is all.
            failed = failed or (None if committed else error)
        if failed is not None:
            self._end(failed, own=own)

    def _end(self, failed: Exception, *, own: bool) -> NoReturn:
        """Raise what has ended a session; `own` is an error of the block that the driver could have raised, too."""
        if isinstance(driver_error(failed), OUTDATED):
            self._connections.distrust()
        if own or is_refusal(failed) or not isinstance(failed, FAILURES):
            raise failed
        self._tell(failed)

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
        state = sqlstate(cause)
        log.warning("database unavailable: %s", f"{type(cause).__name__} {state}" if state else type(cause).__name__)
        if is_lasting(cause):
            self.last_trouble = monotonic()

    @property
    def connections(self) -> Connections:
        return self._connections

    async def close(self) -> None:
        await self._connections.close()


async def _once(connection: Any, _owner: UUID, statement: Statement, values: Values) -> Row | None:
    """A statement that begins its write itself; no row where it refuses, or where another write was faster."""
    try:
        row: Row | None = await connection.fetchrow(statement.text, *statement.arguments(values))
    except asyncpg.InvalidTextRepresentationError:  # see `_changed_at_once` in app.entities.writing
        return None
    return row


async def _at_once(connection: Any, owner: UUID, statement: Statement, values: Values) -> Row:
    """In one round trip: what is sent together is one transaction."""
    executions = statement.beginning(owner), statement.continuing(values)
    rows: list[Row] = await connection.fetchmany(statement.text, executions)
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
    return create_async_engine(url.sqlalchemy, connect_args=url.connect_arguments(SESSION), poolclass=NullPool)


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
