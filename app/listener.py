"""The one connection of a process that listens: there PostgreSQL tells of each write, when it commits."""

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import greenlet_spawn

from app.database import driver_error
from app.errors import Unavailable
from app.statements import CHANNEL
from app.url import DatabaseURL

log = logging.getLogger(__name__)

# A connection that looks open and carries nothing any more is found out by an echo that does not come.
HEARTBEAT_SECONDS = 15.0
ECHO_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0

Heard = Callable[[UUID, int], None]
Notify = Callable[[str], Awaitable[None]]


class Deaf(Exception):
    """The connection is open, and what is sent to it does not arrive: a transaction pooler, or a dead line."""


class Listener:
    """Listens until it is cancelled, on one connection after the other.

    `heard` gets a user and the user's clock for each write. `missed` is called whenever a connection begins to listen:
    what was sent until then may have been missed. `notify` sends to a channel as writes do, on another connection.
    """

    def __init__(self, url: DatabaseURL, notify: Notify, heard: Heard, missed: Callable[[], None]) -> None:
        # Around a pooler: LISTEN needs a session of its own.
        self._url, self._notify, self._heard, self._missed = url.direct, notify, heard, missed
        self._own = f"{CHANNEL}_{secrets.token_hex(8)}"
        self._pause = FIRST_PAUSE_SECONDS
        self._echoed = asyncio.Event()

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
                    # Not the driver's farewell: nobody may be there to answer it.
                    pooled.driver_connection.terminate()  # type: ignore[union-attr]  # it is there while it is open
                    await greenlet_spawn(pooled.invalidate)
            except Exception as error:  # noqa: BLE001 - whatever it is, followers must not be left alone with it
                log.warning("listening for changes failed, trying again: %s", type(driver_error(error)).__name__)
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter keeps no secret
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    async def _listen(self, connection: Any) -> None:
        """Listen on a connection until it is lost."""
        ended = asyncio.Event()

        def end(_connection: object) -> None:
            ended.set()
            self._echoed.set()

        connection.add_termination_listener(end)
        await connection.add_listener(CHANNEL, self._told)
        await connection.add_listener(self._own, lambda *_: self._echoed.set())
        self._missed()
        while not ended.is_set():
            await self._echo()
            self._pause = FIRST_PAUSE_SECONDS
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), HEARTBEAT_SECONDS)

    async def _echo(self) -> None:
        """Deaf where a notification to this process does not arrive."""
        self._echoed.clear()
        try:
            async with asyncio.timeout(ECHO_SECONDS):
                await self._notify(self._own)
                await self._echoed.wait()
        except TimeoutError:
            raise Deaf from None
        except Unavailable:
            # It could not be sent: that tells nothing of this connection.
            return

    def _told(self, _connection: object, _process: int, _channel: str, payload: object) -> None:
        """Anybody with SQL can send anything here; what is no user and clock is not ours."""
        user, _, version = str(payload).partition(" ")
        with suppress(ValueError):
            self._heard(UUID(user), int(version))
