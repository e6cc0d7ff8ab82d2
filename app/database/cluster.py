"""Writes on a Citus cluster, whose coordinator routes each statement to the worker with the user's data.

A write is a transaction of three messages: begin, statement, end. Each involves only one worker, so that a user does
not depend on other users' workers. A function that begins the write within the statement, as without a cluster, does
not work: its settings stay on the machine where it runs, and on a worker it cannot access distributed tables.

Rows are created by separate statements (`Creation`): an insert combined with other parts would go to all workers.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import Integer, Uuid, bindparam, func, literal, select, update

from app.database.notices import notice
from app.database.statements import Creation, Statement, compiled, literal_text, user_id
from app.models import CLOCKS

Values = Mapping[str, Any]

_IS_DISTRIBUTED = compiled(select(func.is_distributed()))


async def is_distributed(connection: Any) -> bool:
    """Whether the database's tables are distributed."""
    distributed: bool = await connection.fetchval(_IS_DISTRIBUTED.text)
    return distributed


async def begin(connection: Any, owner: UUID, statement: Statement, values: Values) -> None:
    """Begin a write. Nothing else is written yet."""
    made = {values["counter"]: values["made"]} if statement.creation else {}
    more = [literal(made.get(counter, 0), Integer) for counter in ("tasks", "lists")]
    begun = func.begin_distributed_write(literal(owner, Uuid), *more)
    async with _undone(connection):
        await connection.execute(f"BEGIN; {literal_text(select(begun))}")


async def write(connection: Any, owner: UUID, statement: Statement, values: Values) -> Any:
    """Run a writing statement in its transaction and end that. Returns the single row."""
    async with _undone(connection):
        if statement.creation:
            row = await _created(connection, statement.creation(), values)
        else:
            statement = statement.after_loss or statement
            row = await connection.fetchrow(statement.text, *statement.continuing(values))
        await connection.execute(_end(owner, row))
    return row


@asynccontextmanager
async def _undone(connection: Any) -> AsyncIterator[None]:
    """Roll back on an error of PostgreSQL."""
    try:
        yield
    except asyncpg.PostgresError:
        await connection.execute("ROLLBACK")
        raise


async def _created(connection: Any, creation: Creation, values: Values) -> Any:
    """The row of a creation. `new` is 0 if nothing is new or anything was rejected."""
    inserted = await _fetch(connection, creation.insert, values)
    if inserted and creation.settle is None:
        return inserted[0]
    (row,) = await _fetch(connection, creation.look, values)
    if creation.settle is None or not row["new"] or len(inserted) == values["made"]:
        return row
    # Some rows existed before. Without counting them, the others may fit the quota.
    await _fetch(connection, creation.settle, {**values, "known": values["made"] - row["new"]})
    if not inserted:
        values = {**values, "made": row["new"]}
        await _fetch(connection, creation.insert, values)
        (row,) = await _fetch(connection, creation.look, values)
    return row


async def _fetch(connection: Any, statement: Statement, values: Values) -> list[Any]:
    rows: list[Any] = await connection.fetch(statement.text, *statement.arguments(values))
    return rows


async def write_in_batch(connection: Any, statement: Statement, values: Values) -> Mapping[str, Any]:
    """Run a write of a batch in its transaction, whose clock has not counted the rows that it creates."""
    if statement.creation is None:
        row: Mapping[str, Any] = await connection.fetchrow(statement.text, *statement.continuing(values))
        return row
    creation, counting = statement.creation(), _counting(values["counter"])
    await connection.fetch(counting.text, *counting.arguments({**values, "more": 1}))
    inserted = await _fetch(connection, creation.insert, values)
    if inserted:
        return {**inserted[0], "changed": True}
    (found,) = await _fetch(connection, creation.look, values)
    await connection.fetch(counting.text, *counting.arguments({**values, "more": -1}))
    return {**found, "changed": False}


@cache
def _counting(counter: str) -> Statement:
    column = CLOCKS.c[counter]
    more = bindparam("more", type_=Integer)
    return compiled(update(CLOCKS).values({counter: column + more}).where(CLOCKS.c.user_id == user_id()))


def _end(owner: UUID, row: Mapping[str, Any]) -> str:
    """SQL that ends a write."""
    if row.get("new") == 0:
        return "ROLLBACK"
    version = row.get("version")
    return "COMMIT" if version is None else end(owner, version)


def end(owner: UUID, version: int) -> str:
    """SQL that commits. It notifies here on the coordinator, because servers do not listen on workers."""
    return f"{literal_text(select(notice(literal(owner, Uuid), literal(version, Integer))))}; COMMIT"
