"""Removing what has been in the trash for long, user by user."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, Integer, Text, Uuid, bindparam, cast, func, literal_column, select
from sqlalchemy import delete as sql_delete
from sqlalchemy import update as sql_update

from app.database import Database
from app.models import CLOCKS, TASKS, USERS
from app.statements import Statement, compiled, user_id

BATCH = 1000


async def purge(database: Database, older_than: timedelta) -> AsyncIterator[tuple[int, int]]:
    """Remove tasks that were deleted before then; yields, a user at a time, how many users were seen and tasks removed.

    Each batch is a transaction, and users come in the order of their ids: whatever was done before an interruption
    stays done, and the next run goes through it quickly.
    """
    before = (datetime.now(UTC) - older_than).isoformat()
    statement, users, removed = _purge(), 0, 0
    async for owner in _users(database):
        values = {"user_id": owner, "before": before, "most": BATCH}
        while gone := (await database.write(owner, statement, values))["removed"]:
            removed += gone
        users += 1
        yield users, removed


async def _users(database: Database) -> AsyncIterator[UUID]:
    page = select(USERS.c.id).where(USERS.c.id > bindparam("last", type_=Uuid)).order_by(USERS.c.id).limit(BATCH)
    last: Any = UUID(int=0)
    while last is not None:
        async with database.engine.connect() as connection:
            ids = list((await connection.execute(page, {"last": last})).scalars())
        for owner in ids:
            yield owner
        last = ids[-1] if len(ids) == BATCH else None


def _purge() -> Statement:
    """Remove one batch of a user's old trash; sync tokens from before the last of it no longer tell the whole story."""
    mine = TASKS.c.user_id == user_id()
    before = cast(bindparam("before", type_=Text), DateTime(timezone=True))
    old = select(TASKS.c.id).where(mine, TASKS.c.deleted_at < before).limit(bindparam("most", type_=Integer))
    gone = sql_delete(TASKS).where(mine, TASKS.c.id.in_(old)).returning(TASKS.c.version).cte("gone")
    through = func.greatest(CLOCKS.c.purged_through, select(func.max(gone.c.version)).scalar_subquery())
    moved = (
        sql_update(CLOCKS)
        .values(purged_through=through)
        .where(CLOCKS.c.user_id == user_id())
        .returning(CLOCKS.c.user_id)
        .cte("moved")
    )
    count = select(func.count()).select_from(gone).scalar_subquery()
    return compiled(select((count > literal_column("0")).label("changed"), count.label("removed")).select_from(moved))
