"""Removing what has been in the trash for long, user by user."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import DateTime, Integer, Select, Text, Uuid, any_, bindparam, cast, column, func, select
from sqlalchemy import delete as sql_delete
from sqlalchemy.exc import DBAPIError

from app.database.database import Database
from app.database.driver import driver_error
from app.database.statements import Reader, Statement, read, text_literal, user_id, write
from app.entities.writing import is_there
from app.errors import StartupError
from app.models import TASKS

BATCH = 1000
_AFTER = func.users_after(bindparam("last", type_=Uuid), bindparam("most", type_=Integer))
_PAGE = select(_AFTER.table_valued(column("id", Uuid)).render_derived().c.id)
_BEFORE = cast(bindparam("before", type_=Text), DateTime(timezone=True))


async def purge(database: Database, older_than: timedelta) -> AsyncIterator[tuple[int, int]]:
    """Remove tasks that were deleted before then; yields, a user at a time, how many users were seen and tasks removed.

    Each batch is a transaction, and users come in the order of their ids: whatever was done before an interruption
    stays done, and the next run goes through it quickly.
    """
    before = (datetime.now(UTC) - older_than).isoformat()
    old, oldest, users, removed = _has_old(), _purge(), 0, 0
    async for owner in each_user(database):
        values = {"user_id": owner, "before": before, "most": BATCH}
        while await database.read(owner, old, values):
            removed += (await database.write(owner, oldest, values))["removed"]
        users += 1
        yield users, removed


async def each_user(database: Database) -> AsyncIterator[UUID]:
    """All users, in the order of their ids; StartupError where they cannot be listed."""
    last: Any = UUID(int=0)
    while last is not None:
        ids = await _users_after(database, last)
        for owner in ids:
            yield owner
        last = ids[-1] if len(ids) == BATCH else None


async def _users_after(database: Database, last: UUID) -> Sequence[UUID]:
    try:
        async with database.engine.connect() as connection:
            return (await connection.execute(_PAGE, {"last": last, "most": BATCH})).scalars().all()
    except DBAPIError as error:
        # The function reads with row_security off: where row security would hide users it fails.
        if not isinstance(driver_error(error), asyncpg.InsufficientPrivilegeError):
            raise
        raise StartupError(f"The users cannot be listed: {driver_error(error)}. `taskql doctor` says more.") from None


def _has_old() -> Statement:
    """Whether a user has old trash: most have none, and looking is cheaper than a write that changes nothing."""

    def body(reader: Reader) -> Select[Any]:
        return (
            select(text_literal("yes").label("has_old"))
            .select_from(TASKS)
            .where(reader.owns(TASKS), TASKS.c.deleted_at < _BEFORE)
        )

    return read(body)


def _purge() -> Statement:
    """Remove one batch of a user's old trash; a trigger notes which sync tokens no longer tell the whole story."""
    mine = TASKS.c.user_id == user_id()
    old = select(TASKS.c.id).where(mine, TASKS.c.deleted_at < _BEFORE).limit(bindparam("most", type_=Integer))
    # An array is looked up in the index. Of a sub-select the planner of a new table compares each task with each row.
    ids = any_(func.array(old.scalar_subquery()))
    gone = sql_delete(TASKS).where(mine, TASKS.c.id == ids).returning(TASKS.c.id).cte("gone")
    return write(select(func.count().label("removed")).select_from(gone), is_there(gone))
