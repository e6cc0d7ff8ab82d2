"""The driver's connection with fewer steps does what the driver's own does."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from conftest import Server

from app.database.driver import Driver

VALUES = "SELECT * FROM driven WHERE number >= $1 ORDER BY number"
CHANGE = "ALTER TABLE driven ADD COLUMN IF NOT EXISTS more text DEFAULT 'more'"


@pytest.fixture(params=[asyncpg.Connection, Driver], ids=["own", "fewer steps"])
async def connection(request: pytest.FixtureRequest, server: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection of either kind, with a table of three rows that nobody else sees."""
    opened = await asyncpg.connect(server.owner_url, connection_class=request.param)
    await opened.execute("CREATE TEMP TABLE driven AS SELECT generate_series(1, 3) AS number")
    yield opened
    await opened.close()


async def test_all_ways_to_rows_give_the_same_each_time(connection: "asyncpg.Connection[Any]") -> None:
    """The first execution of a statement prepares it, and those after it take fewer steps."""
    for _ in range(3):
        assert await connection.fetchval(VALUES, 2) == 2
        assert await connection.fetchval(VALUES, 4) is None
        assert dict(await connection.fetchrow(VALUES, 3) or {}) == {"number": 3}
        assert [row["number"] for row in await connection.fetch(VALUES, 2)] == [2, 3]
        assert [row["number"] for row in await connection.fetchmany("SELECT $1::int AS number", [(1,), (2,)])] == [1, 2]
        assert await connection.execute("DELETE FROM driven WHERE number > $1", 9) == "DELETE 0"
        await connection.executemany("UPDATE driven SET number = $1 WHERE number = $1", [(1,), (2,)])


async def test_a_statement_whose_result_has_changed_is_prepared_anew(connection: "asyncpg.Connection[Any]") -> None:
    """PostgreSQL refuses a prepared statement whose columns are others now; the caller gets rows all the same."""
    ways = (
        lambda: connection.fetchrow(VALUES, 1),
        lambda: connection.fetch(VALUES, 1),
        lambda: connection.fetchmany(VALUES, [(9,), (1,)]),
    )
    for way in ways:
        await way()
        await connection.execute(CHANGE)
        found = await way()
        row = found[0] if isinstance(found, list) else found
        assert row is not None
        assert dict(row) == {"number": 1, "more": "more"}
        await connection.execute("ALTER TABLE driven DROP COLUMN more")


async def test_what_goes_together_is_one_transaction(connection: "asyncpg.Connection[Any]") -> None:
    """Where the second of two executions fails, the first has done nothing, the first time and later."""
    insert = "INSERT INTO driven SELECT 6 / $1::int RETURNING number"
    assert [row["number"] for row in await connection.fetchmany(insert, [(1,), (2,)])] == [6, 3]
    for _ in range(2):
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.fetchmany(insert, [(1,), (0,)])
    assert await connection.fetchval("SELECT count(*) FROM driven") == 5


async def test_options_and_logs_are_heeded(connection: "asyncpg.Connection[Any]") -> None:
    """A class for rows, and a logger that is there for a while, also for statements that were executed before."""

    class Row(asyncpg.Record):
        pass

    seen = []
    await connection.fetchrow(VALUES, 1)
    assert type(await connection.fetchrow(VALUES, 1, record_class=Row)) is Row
    assert [type(row) for row in await connection.fetchmany(VALUES, [(3,)], record_class=Row)] == [Row]
    with connection.query_logger(lambda record: seen.append(record.query)):
        await connection.fetchrow(VALUES, 1)
    await connection.fetchrow(VALUES, 1)
    await asyncio.sleep(0)
    assert seen == [VALUES]


async def test_a_busy_connection_refuses(connection: "asyncpg.Connection[Any]") -> None:
    """Two statements at a time are a bug, which is told; the first is not disturbed."""
    sleep = "SELECT pg_sleep($1)::text"
    await connection.fetchval(sleep, 0)
    sleeping = asyncio.create_task(connection.fetchval(sleep, 0.5))
    await asyncio.sleep(0)
    with pytest.raises(asyncpg.InterfaceError, match="another operation is in progress"):
        await connection.fetchval(sleep, 0)
    assert await sleeping == ""


async def test_a_cancelled_statement_leaves_the_connection_in_order(connection: "asyncpg.Connection[Any]") -> None:
    """The next one waits until the cancelled one has ended in PostgreSQL, and gets its own answer."""
    sleep = "SELECT pg_sleep($1)::text"
    await connection.fetchval(sleep, 0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await connection.fetchval(sleep, 30)
    assert await connection.fetchval("SELECT 1") == 1
