"""Permanently deletes tasks and lists that have been in the trash for some time, user by user.

Triggers leave tombstones of them. It also deletes old tombstones, which invalidates the sync tokens from before them.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from sqlalchemy import Uuid, any_, column, delete, func, or_, select
from sqlalchemy.exc import DBAPIError

from app.database.database import Database
from app.database.failures import driver_error
from app.errors import StartupError
from app.models import Task, TaskList, Tombstone
from app.tasks import clocks

BATCH = 1000
# For each list that is deleted, PostgreSQL looks through the user's tasks.
BATCH_OF_LISTS = 50


class Progress(NamedTuple):
    """The number of users seen, and of tasks and lists purged."""

    users: int
    tasks: int
    lists: int


async def purge(database: Database, older_than: timedelta, remembered: timedelta) -> AsyncIterator[Progress]:
    """Purge tasks and lists deleted longer ago than this, and tombstones that are older than they are remembered.

    Yields after each user.

    Each batch is a transaction, and users are processed by id. So an interrupted run keeps what it has done, and the
    next run passes that quickly. Lists follow their tasks, which then need no change.
    """
    now, done = datetime.now(UTC), Progress(0, 0, 0)
    before, forgotten = now - older_than, now - remembered
    async for owner in each_user(database):
        tasks = lists = 0
        if await _has_work(database, owner, before, forgotten):
            tasks = await _purged(database, owner, before, Task, BATCH)
            lists = await _purged(database, owner, before, TaskList, BATCH_OF_LISTS)
            await _forget(database, owner, forgotten)
        done = Progress(done.users + 1, done.tasks + tasks, done.lists + lists)
        yield done


async def _has_work(database: Database, owner: UUID, before: datetime, forgotten: datetime) -> bool:
    """Whether a user has anything to delete. Most have not. This query takes no locks."""
    # It selects no entity, so the session adds no condition on the user.
    old = [select(kind.id).where(kind.user_id == owner, kind.deleted_at < before).exists() for kind in (Task, TaskList)]
    stones = select(Tombstone.id).where(Tombstone.user_id == owner, Tombstone.purged_at < forgotten).exists()
    async with database.session(owner) as session:
        return bool(await session.scalar(select(or_(*old, stones))))


async def _purged(
    database: Database, owner: UUID, before: datetime, kind: type[Task] | type[TaskList], most: int
) -> int:
    """Purge a user's old trash of one kind. Returns the number of rows."""
    removed, batch = 0, most
    while batch == most:
        batch = await _purge(database, owner, before, kind, most)
        removed += batch
    return removed


async def _purge(
    database: Database, owner: UUID, before: datetime, kind: type[Task] | type[TaskList], most: int
) -> int:
    """Purge one batch. A trigger leaves tombstones, and advances the clock."""
    old = select(kind.id).where(kind.deleted_at < before).limit(most)
    async with database.session(owner) as session:
        clock = await clocks.locked(session, owner)
        # An array, for lookups in the index: with a subquery on a new table, the planner compares all pairs of rows.
        gone = delete(kind).where(kind.id == any_(func.array(old.scalar_subquery()))).returning(kind.id)
        removed = (await session.scalars(gone, execution_options={"synchronize_session": False})).all()
        if removed:
            # On a cluster triggers do not notify; elsewhere PostgreSQL sends equal notifications once.
            await session.refresh(clock)
            await clocks.tell(session, clock)
        return len(removed)


async def _forget(database: Database, owner: UUID, before: datetime) -> None:
    """Delete old tombstones. Clients that have not received them must sync from the beginning."""
    old, count = select(Tombstone.id).where(Tombstone.purged_at < before).limit(BATCH), BATCH
    while count == BATCH:
        async with database.session(owner) as session:
            clock = await clocks.locked(session, owner)
            some = Tombstone.id == any_(func.array(old.scalar_subquery()))
            forgotten = delete(Tombstone).where(some).returning(Tombstone.version)
            versions = (await session.scalars(forgotten, execution_options={"synchronize_session": False})).all()
            clock.purged_through = max([clock.purged_through, *versions])
            count = len(versions)


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
