"""The connection pool of one process: connections are opened on demand, kept, and shared fairly between users."""

import asyncio
import math
import random
import select
from collections.abc import Callable
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from app.database.failures import CONNECT_ERRORS, CannotConnect, driver_error, is_passing
from app.observability.metrics import POOL_WAIT, POOL_WAITING, Record, count_statement, tally
from app.shapes import require
from app.sharing.turns import Turns

PATIENCE_SECONDS = 1.5
RECYCLE_AFTER_SECONDS = 300.0
# A user gets at most a third of all connections.
SHARE = 3
# After a statement that takes longer, a user has fewer connections for a while: a few slow statements can use all CPUs
# of the database, however many connections are free.
SLOW_SECONDS, SLOW_FOR_SECONDS = 0.25, 10.0
SLOW_OF_A_USER = 2
# Pauses before a second and a third attempt to open a connection, in seconds.
CONNECT_PAUSES = (0.02, 0.1)

require(hasattr(asyncpg.Connection, "_transport"), "asyncpg's connection had its transport in _transport.")

# The user whose statements run on a connection; None for the server's own.
Owner = UUID | None
Spend = Callable[[str, float], None]


class Connections:
    """A pool of at most `most` connections, which SQLAlchemy opens and closes.

    Unlike SQLAlchemy's pools, it shares connections fairly between users, and lends an idle one without an `await`.
    `spend` is called with the seconds for which a user had a connection.
    """

    def __init__(self, engine: AsyncEngine, most: int, spend: Spend) -> None:
        self._engine, self.spend = engine, spend
        share = max(1, most // SHARE)
        self._turns, self._slow_turns = Turns[Owner](most, share), Turns[Owner](share, min(share, SLOW_OF_A_USER))
        # Until when users count as slow.
        self._slow: dict[Owner, float] = {}
        self._idle: list[Connection] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._trusted_since = -math.inf
        self.last_lent = -math.inf

    @property
    def are_all_lent(self) -> bool:
        """Whether all connections are in use."""
        return self._turns.are_all_taken

    def idle(self, owner: Owner) -> "Connection | None":
        """An idle connection, or None. The fast path, without an `await`."""
        now = monotonic()
        if self._slow and owner in self._slow:
            return None
        if not (self._idle and self._is_usable(self._idle[-1], now) and self._turns.take(owner)):
            return None
        self.last_lent = now
        tally.connections += 1
        return self._idle.pop().lent(owner, now)

    async def take(self, owner: Owner) -> "Connection":
        """A connection that seems open, without a check on the server. Raises TimeoutError after PATIENCE_SECONDS."""
        self.last_lent = now = monotonic()
        if not self._is_slow(owner, now):
            return await self._lend(owner, now)
        if not self._slow_turns.take(owner):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._slow_turns.wait(owner)
        try:
            connection = await self._lend(owner, now)
        except BaseException:
            self._slow_turns.give(owner)
            raise
        connection.is_slow = True
        return connection

    async def _lend(self, owner: Owner, now: float) -> "Connection":
        if not self._turns.take(owner):
            await self._turn(owner)
        tally.connections += 1
        try:
            while self._idle:
                connection = self._idle.pop()
                if self._is_usable(connection, now):
                    return connection.lent(owner, monotonic())
                # terminate() instead of close(), which takes two seconds if the server does not respond.
                connection.driver.terminate()
                await _close(connection)
            return Connection(self, await self._open()).lent(owner, monotonic())
        except BaseException:
            self._release(owner)
            raise

    async def _open(self) -> PoolProxiedConnection:
        """Open a connection, with retries after transient errors. Raises CannotConnect with the driver's error."""
        pauses = iter(CONNECT_PAUSES)
        while True:
            try:
                return await self._engine.raw_connection()
            except CONNECT_ERRORS as error:
                cause = driver_error(error)
                may_pass = is_passing(cause) and not isinstance(cause, TimeoutError)
                pause = next(pauses, None) if may_pass else None
                if pause is None:
                    raise CannotConnect from cause
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter keeps no secret

    async def _turn(self, owner: Owner) -> None:
        with POOL_WAITING.track_inprogress(), POOL_WAIT.time():
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._turns.wait(owner)

    def _release(self, owner: Owner) -> None:
        self._turns.give(owner)
        tally.connections -= 1

    def _is_slow(self, owner: Owner, now: float) -> bool:
        until = self._slow.get(owner)
        if until is not None and until <= now:
            del self._slow[owner]
            return False
        return until is not None

    def was_slow(self, connection: "Connection", seconds: float) -> None:
        """Handle the return of a connection that was used for long, or by a user who counts as slow."""
        owner = connection.owner
        if seconds > SLOW_SECONDS:
            now = monotonic()
            self._slow = {one: until for one, until in self._slow.items() if until > now}
            self._slow[owner] = now + SLOW_FOR_SECONDS
        if connection.is_slow:
            connection.is_slow = False
            self._slow_turns.give(owner)

    def distrust(self) -> None:
        """Discard all connections opened until now, because the server has closed one of them."""
        self._trusted_since = monotonic()

    def _is_usable(self, connection: "Connection", now: float) -> bool:
        since = max(self._trusted_since, now - RECYCLE_AFTER_SECONDS)
        if connection.opened <= since or connection.driver.is_closed():
            return False
        # PostgreSQL sends nothing unprompted except when it closes the connection, which the event loop may not have
        # read yet. A write on such a connection would fail, and could not be distinguished from one that was executed.
        return not connection.socket.poll(0)

    def give_back(self, connection: "Connection") -> None:
        self._idle.append(connection)
        self._release(connection.owner)

    def throw_away(self, connection: "Connection") -> None:
        """Close a connection in the background. Its place is given back afterwards, so that sessions stay limited.

        asyncpg cancels a statement that is still running when the connection is closed.
        """
        closing = asyncio.create_task(_close(connection))
        self._closing.add(closing)
        closing.add_done_callback(partial(self._closed, connection.owner))

    def _closed(self, owner: Owner, closing: asyncio.Task[None]) -> None:
        self._closing.discard(closing)
        self._release(owner)

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(_close, idle), *self._closing)
        await self._engine.dispose()


class Connection:
    """A connection, lent in a `with` block, which returns asyncpg's connection in autocommit mode.

    Afterwards it is given back, or closed if its state is unknown, and its user is charged for the time.
    """

    __slots__ = ("_connections", "_record", "_since", "driver", "is_slow", "opened", "owner", "pooled", "socket")

    _record: Record | None
    _since: float
    owner: Owner

    def __init__(self, connections: Connections, pooled: PoolProxiedConnection) -> None:
        self._connections, self.pooled, self.opened, self.is_slow = connections, pooled, monotonic(), False
        driver: Any = pooled.driver_connection
        self.driver, self.socket = driver, select.poll()
        self.socket.register(driver._transport.get_extra_info("socket"), select.POLLIN)  # noqa: SLF001 - not available otherwise

    def lent(self, owner: Owner, now: float) -> "Connection":
        """Lend this connection to a user."""
        self.owner, self._since = owner, now
        return self

    def __enter__(self) -> Any:
        self._record = count_statement()
        return self.driver

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = monotonic() - self._since
        if self.owner is not None:
            self._connections.spend(str(self.owner), seconds)
            if seconds > SLOW_SECONDS or self.is_slow:
                self._connections.was_slow(self, seconds)
        if self._record is not None:
            self._record.database_seconds += seconds
        # After an error of PostgreSQL the connection is usable. It needs no reset, since each use ends its transaction.
        if error is None or isinstance(error, asyncpg.PostgresError):
            self._connections.give_back(self)
        else:
            self._connections.throw_away(self)


async def _close(connection: Connection) -> None:
    if connection.pooled.is_valid:  # otherwise SQLAlchemy has closed it, after a session lost it
        await greenlet_spawn(connection.pooled.invalidate)
    await greenlet_spawn(connection.pooled.close)
