"""Permanently deletes tasks and lists that have been in the trash for some time, user by user."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from sqlalchemy import Uuid, any_, column, delete, func, select
from sqlalchemy.exc import DBAPIError

from app.database.database import Database
from app.database.failures import driver_error
from app.errors import StartupError
from app.models import Task, TaskList
from app.tasks import clocks

BATCH = 1000
# For each list that is deleted, PostgreSQL looks through the user's tasks.
BATCH_OF_LISTS = 50


class Progress(NamedTuple):
    """The number of users seen, and of tasks and lists purged."""

    users: int
    tasks: int
    lists: int


async def purge(database: Database, older_than: timedelta) -> AsyncIterator[Progress]:
    """Purge tasks and lists deleted longer ago than this. Yields after each user.

    Each batch is a transaction, and users are processed by id. So an interrupted run keeps what it has done, and the
    next run passes that quickly. Lists follow their tasks, which then need no change.
    """
    before, done = datetime.now(UTC) - older_than, Progress(0, 0, 0)
    async for owner in each_user(database):
        tasks = await _purged(database, owner, before, Task, BATCH)
        lists = await _purged(database, owner, before, TaskList, BATCH_OF_LISTS)
        done = Progress(done.users + 1, done.tasks + tasks, done.lists + lists)
        yield done


async def _purged(
    database: Database, owner: UUID, before: datetime, kind: type[Task] | type[TaskList], most: int
) -> int:
    """Purge a user's old trash of one kind. Returns the number of rows."""
    removed = 0
    while batch := await _purge(database, owner, before, kind, most):
        removed += batch
    return removed


async def _purge(
    database: Database, owner: UUID, before: datetime, kind: type[Task] | type[TaskList], most: int
) -> int:
    """Purge one batch. A trigger invalidates the sync tokens that would miss these removals."""
    old = select(kind.id).where(kind.deleted_at < before).limit(most)
    async with database.session(owner) as session:
        # Most users have none. This query takes no locks.
        if not await session.scalar(select(old.exists())):
            return 0
        await clocks.locked(session, owner)
        # An array, for lookups in the index: with a subquery on a new table, the planner compares all pairs of rows.
        gone = delete(kind).where(kind.id == any_(func.array(old.scalar_subquery()))).returning(kind.id)
        return len((await session.scalars(gone, execution_options={"synchronize_session": False})).all())


async def each_user(database: Database) -> AsyncIterator[UUID]:
    """All users, ordered by id. Raises StartupError if they cannot be listed."""
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
            # The function has row_security=off: it fails if row-level security would hide users.
            if not isinstance(driver_error(error), asyncpg.InsufficientPrivilegeError):
                raise
            reason = driver_error(error)
    raise StartupError(f"The users cannot be listed: {reason}. Run `taskql doctor`.")
