"""Runs statements: a read in one round trip, a write in a transaction."""

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

from app.database import batches, cluster
from app.database.batches import Batch, Result
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

# How long a caller waits at most for other writes, a connection and the result, with all retries, in seconds.
COMMAND_TIMEOUT = 4.3
# Pauses before the second and third attempt of a write that PostgreSQL rolled back, in seconds. A lost connection is
# replaced without a pause.
PAUSES = (0.02, 0.1)

# A session keeps the defaults that it started with, so an old one may be read-only although the database no longer is.
# A session younger than this, in seconds, shows the state of the database.
YOUNG = 5.0

# The settings of every session. Sorting is off so that pages scan an index in order: in a prepared statement, the
# planner does not know how many tasks a user has, and prefers to sort what it expects to be a few rows.
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
    """Charge nothing: commands do not compete with other users."""


class Database:
    """Runs statements, each as one user, on pooled connections.

    `quotas` are the numbers of tasks and of lists that a user may own, including those in the trash. `spend` is called
    with the time that each statement takes.
    """

    def __init__(self, url: DatabaseURL, *, pool_size: int, quotas: Mapping[str, int], spend: Spend = for_free) -> None:
        self.quotas = quotas
        self.engine = _engine(url)
        self._connections = Connections(self.engine, pool_size, spend)
        self._deadlines = Deadlines()
        self._writers = Turns[UUID](math.inf, 1)
        # Behind a transaction pooler no session state needs a reset: the next statement may run in another session.
        self._has_sessions = not url.pooled
        # Whether the tables are distributed over a cluster. Queried once, and again if a write fails as if they were.
        self._is_distributed: bool | None = None
        # The `time.monotonic` of the last failure that is not transient.
        self.last_trouble = -math.inf

    async def read(self, owner: UUID, statement: Statement, values: Values) -> str | None:
        """The first column of the single row, in autocommit. Retried on a new connection if the connection is lost."""
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

    async def write(self, owner: UUID, statement: Statement | Batch, values: Values) -> Row:
        """The single row of a writing statement, in a transaction.

        Each user has one write at a time, so that writes that wait for the user's clock hold no connections. A write
        that PostgreSQL rolled back is retried. After a lost connection it is retried only if nothing was executed yet
        or the statement is idempotent; otherwise the error is raised, and the commit may have happened.
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

    async def write_all(self, owner: UUID, batch: Batch) -> list[Result]:
        """The results of several writes in one transaction. Time limit and retries are those of a single write."""
        results: Any = await self.write(owner, batch, {})
        return list(results)

    async def _write(self, owner: UUID, statement: Statement | Batch, values: Values) -> Row:
        lent = self._connections.idle(owner) or await self._connections.take(owner)
        with lent as connection:
            try:
                if self._is_distributed is None:
                    self._is_distributed = await _is_distributed(connection)
                transaction: Transaction = _once if statement.after_loss else _at_once
                if self._is_distributed:
                    transaction = _in_parts
                row = await transaction(connection, owner, statement, values)
                if row is None:  # rejected; this statement says why
                    row = await _at_once(connection, owner, statement.after_loss or statement, values)
            except LOSSES as error:
                # The backend was terminated before the commit: after a commit, the result would have arrived first.
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

    async def _write_again(self, error: Exception, owner: UUID, statement: Statement | Batch, values: Values) -> Row:
        """Retry after one of the errors in AGAIN."""
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
        """Retry only on a connection that is opened from now on."""
        log.warning("a connection was lost, retrying on another: %s", type(lost.__cause__).__name__)
        self._connections.distrust()

    @asynccontextmanager
    async def session(self, owner: UUID | None) -> AsyncIterator[AsyncSession]:
        """An SQLAlchemy session that acts as a user, or as none, on a connection of the user's share.

        It is committed at the end, or rolled back if the block raises. The whole block has the time limit of one
        statement. Nothing is retried. Raises Unavailable if the database is unreachable or busy.
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
                    except Exception as error:  # noqa: BLE001 - raised again after the connection is cleaned up
                        failed, own = error, isinstance(error, OSError) and not connection.is_closed()
                    await session.close()
                    if self._has_sessions:
                        await connection.reset()
        except FAILURES as error:
            # A failure after the commit only closes the connection.
            failed = failed or (None if committed else error)
        if failed is not None:
            self._end(failed, own=own)

    def _end(self, failed: Exception, *, own: bool) -> NoReturn:
        """Raise the error that ended a session. `own` means that it comes from the block and not from the driver."""
        if isinstance(driver_error(failed), OUTDATED):
            self._connections.distrust()
        if own or is_refusal(failed) or not isinstance(failed, FAILURES):
            raise failed
        self._tell(failed)

    async def notify(self, channel: str) -> None:
        """Send an empty notification on any connection. Raises Unavailable if it cannot be sent."""
        try:
            with Deadline(self._deadlines, COMMAND_TIMEOUT), await self._connections.take(None) as connection:
                await connection.execute(f"NOTIFY {channel}")
        except FAILURES as error:
            self._tell(error)

    def _tell(self, error: Exception) -> NoReturn:
        """Raise the expected failure for an error of the driver or the pool."""
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
    """Run a statement that begins its write itself. It returns no row if it rejects the write.

    It fails if another write was faster, which leaves the clock where it was: see `_changed_at_once` in
    app.entities.writing.
    """
    try:
        row: Row | None = await connection.fetchrow(statement.text, *statement.arguments(values))
    except asyncpg.InvalidTextRepresentationError:
        return None
    return row


async def _at_once(connection: Any, owner: UUID, statement: Statement | Batch, values: Values) -> Row:
    """Begin and write in one round trip: asyncpg sends both executions in one implicit transaction."""
    if isinstance(statement, Batch):
        results: Any = await batches.write(connection, owner, statement, on_cluster=False)
        return results  # type: ignore[no-any-return]  # a list, which only `write_all` receives
    executions = statement.beginning(owner), statement.continuing(values)
    rows: list[Row] = await connection.fetchmany(statement.text, executions)
    return rows[-1]


async def _in_parts(connection: Any, owner: UUID, statement: Statement | Batch, values: Values) -> Row | None:
    """Run a write on a cluster."""
    if isinstance(statement, Batch):
        results: Any = await batches.write(connection, owner, statement, on_cluster=True)
        return results  # type: ignore[no-any-return]  # as above
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
    """The connection was lost, and a retry is safe."""


class Distributed(Unavailable):
    """A write failed without effect, because the tables have been distributed since the server asked."""


# The errors of such a write.
_MISDIRECTED = (asyncpg.InternalServerError, asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError)
# Errors after which a write is retried.
AGAIN = (Lost, Distributed, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


def _doubt(lent: Connection, error: Exception) -> NoReturn:
    """Retry a statement that was rejected as read-only, if the session is old. Nothing was executed."""
    if monotonic() - lent.opened < YOUNG:
        raise error
    raise Lost("The database currently accepts no writes; try again.") from error


def _lose(error: Exception) -> NoReturn:
    """Raise Lost, which allows a retry, unless the error is a timeout or the loss of a worker, which would repeat."""
    if type(error) is TimeoutError or is_of_worker(error):
        raise error
    raise Lost("The database cannot be reached; try again.") from error
