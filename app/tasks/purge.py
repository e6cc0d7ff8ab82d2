"""Removing what has been in the trash for long, user by user."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import Uuid, any_, column, delete, func, select
from sqlalchemy.exc import DBAPIError

from app.database.database import Database
from app.database.failures import driver_error
from app.errors import StartupError
from app.models import Task
from app.tasks import clocks

BATCH = 1000


async def purge(database: Database, older_than: timedelta) -> AsyncIterator[tuple[int, int]]:
    """Remove tasks that were deleted before then; yields, a user at a time, how many users were seen and tasks removed.

    Each batch is a transaction, and users come in the order of their ids: whatever was done before an interruption
    stays done, and the next run goes through it quickly.
    """
    before, users, removed = datetime.now(UTC) - older_than, 0, 0
    async for owner in each_user(database):
        while batch := await _purge(database, owner, before):
            removed += batch
        users += 1
        yield users, removed


async def _purge(database: Database, owner: UUID, before: datetime) -> int:
    """Remove one batch of a user's old trash; a trigger notes which sync tokens no longer tell the whole story."""
    old = select(Task.id).where(Task.deleted_at < before).limit(BATCH)
    async with database.session(owner) as session:
        # Most users have none, and looking locks nothing.
        if not await session.scalar(select(old.exists())):
            return 0
        await clocks.locked(session, owner)
        # An array is looked up in the index. With a sub-select the planner of a new table compares all with all.
        gone = delete(Task).where(Task.id == any_(func.array(old.scalar_subquery()))).returning(Task.id)
        return len((await session.scalars(gone, execution_options={"synchronize_session": False})).all())


async def each_user(database: Database) -> AsyncIterator[UUID]:
    """All users, in the order of their ids; StartupError where they cannot be listed."""
    last: Any = UUID(int=0)
    while last is not None:
        ids = await _users_after(database, last)
        for owner in ids:
            yield owner
        last = ids[-1] if len(ids) == BATCH else None


async def _users_after(database: Database, last: UUID) -> Sequence[UUID]:
    page = func.users_after(last, BATCH).table_valued(column("id", Uuid)).render_derived()
    async with database.session(None) as session:
        try:
            return (await session.scalars(select(page.c.id))).all()
        except DBAPIError as error:
            # The function reads with row_security off: where row security would hide users it fails.
            if not isinstance(driver_error(error), asyncpg.InsufficientPrivilegeError):
                raise
            reason = driver_error(error)
    raise StartupError(f"The users cannot be listed: {reason}. `taskql doctor` says more.")
