"""The one listening connection of a process, on which PostgreSQL notifies of each write when it commits."""

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import greenlet_spawn

from app.database.failures import driver_error
from app.database.notices import CHANNEL
from app.database.url import DatabaseURL
from app.errors import Unavailable
from app.live.watching import UNWATCH, WATCH

log = logging.getLogger(__name__)

# The process sends itself a notification at this interval, to detect a connection that looks open but is dead.
HEARTBEAT_SECONDS = 15.0
ECHO_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0

Heard = Callable[[UUID, int], None]
Missed = Callable[[Iterable[UUID]], None]
Notify = Callable[[str], Awaitable[None]]


class NoEcho(Exception):
    """The connection is open, but notifications do not arrive: a transaction pooler, or a dead connection."""


class Listener:
    """Listens for writes of the `followed` users until it is cancelled. Reconnects when the connection is lost.

    `heard` is called with the user and the user's clock for each write. `missed` is called with users whose writes are
    heard from now on, but may have been missed before. `notify` notifies a channel on another connection.
    """

    def __init__(
        self, url: DatabaseURL, notify: Notify, followed: Mapping[UUID, object], heard: Heard, missed: Missed
    ) -> None:
        # Without the pooler: LISTEN needs a session of its own.
        self._url, self._notify, self._heard, self._missed = url.direct, notify, heard, missed
        self._followed = followed
        self._own = f"{CHANNEL}_{secrets.token_hex(8)}"
        self._pause = FIRST_PAUSE_SECONDS
        self._echoed, self._stirred = asyncio.Event(), asyncio.Event()

    def look(self) -> None:
        """React to a change of the followed users."""
        self._stirred.set()

    async def run(self) -> None:
        arguments = self._url.connect_arguments({})
        arguments["server_settings"]["application_name"] += " listener"
        engine = create_async_engine(self._url.sqlalchemy, connect_args=arguments, poolclass=NullPool)
        while True:
            try:
                pooled = await engine.raw_connection()
                try:
                    await self._listen(pooled.driver_connection)
                finally:
                    # terminate() instead of close(), which would wait for a server that may not respond.
                    pooled.driver_connection.terminate()  # type: ignore[union-attr]  # it is there while it is open
                    await greenlet_spawn(pooled.invalidate)
            except Exception as error:  # noqa: BLE001 - followers depend on it, so every failure is retried
                log.warning("listening for changes failed, retrying: %s", type(driver_error(error)).__name__)
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter keeps no secret
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    async def _listen(self, connection: Any) -> None:
        """Listen on a connection until it is lost."""

        def end(_connection: object) -> None:
            self._echoed.set()
            self._stirred.set()

        connection.add_termination_listener(end)
        await connection.add_listener(CHANNEL, self._told)
        await connection.add_listener(self._own, lambda *_: self._echoed.set())
        watched, next_echo = set[UUID](), 0.0
        while not connection.is_closed():
            self._stirred.clear()
            async with self._answering():
                if monotonic() >= next_echo:
                    await self._echo()
                    next_echo, self._pause = monotonic() + HEARTBEAT_SECONDS, FIRST_PAUSE_SECONDS
                await self._watch(connection, watched)
            with suppress(TimeoutError):
                async with asyncio.timeout(next_echo - monotonic()):
                    await self._stirred.wait()

    async def _watch(self, connection: Any, watched: set[UUID]) -> None:
        """Update the locks that make writers notify, to match the users that are followed now."""
        if left := watched - self._followed.keys():
            watched -= left
            await connection.execute(UNWATCH, left)
        if new := self._followed.keys() - watched:
            watched |= new
            await connection.execute(WATCH, new)
            self._missed(new)

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Raise NoEcho on a timeout, and have followers read: notifications may have been missed until then."""
        try:
            async with asyncio.timeout(ECHO_SECONDS):
                yield
        except TimeoutError:
            self._missed(self._followed.keys())
            raise NoEcho from None

    async def _echo(self) -> None:
        """Send a notification to this process, and wait for it."""
        self._echoed.clear()
        with suppress(Unavailable):  # it could not be sent, which says nothing about this connection
            await self._notify(self._own)
            await self._echoed.wait()

    def _told(self, _connection: object, _process: int, _channel: str, payload: object) -> None:
        """Handle a notification. Any SQL client can send one, so malformed payloads are ignored."""
        user, _, version = str(payload).partition(" ")
        with suppress(ValueError):
            self._heard(UUID(user), int(version))
