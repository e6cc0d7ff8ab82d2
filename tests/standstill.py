"""Block statements for as long as a test needs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from conftest import ACTIVITY, Server, connect
from patience import PATIENCE_SECONDS

WAITING = f"""
    SELECT count(*) FROM {ACTIVITY} WHERE wait_event_type = 'Lock' AND usename = 'taskql_app'
"""  # noqa: S608 - a constant


@asynccontextmanager
async def standstill(server: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """Block reads of tasks and yield a connection that observes them."""
    blocker, watcher = await connect(server.owner_url), await connect(server.owner_url)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        yield watcher
    await blocker.close()
    await watcher.close()


async def waiting(watcher: "asyncpg.Connection[Any]", count: int) -> None:
    """Wait until at least this many of the server's statements wait for a lock."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await watcher.fetchval(WAITING) < count:  # noqa: ASYNC110 - PostgreSQL sends no event
            await asyncio.sleep(0.01)
