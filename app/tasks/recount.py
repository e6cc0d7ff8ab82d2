"""Compares the counters of tasks and lists with the actual rows, user by user."""

from collections.abc import AsyncGenerator

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.database import Database
from app.models import Task, TaskClock, TaskList
from app.tasks import clocks
from app.tasks.purge import each_user

_TASKS, _LISTS = (select(func.count()).select_from(kind) for kind in (Task, TaskList))
# 0 before the user's first write.
_STORED = [
    select(func.coalesce(func.max(counter), 0)).scalar_subquery() for counter in (TaskClock.tasks, TaskClock.lists)
]


async def recount(database: Database) -> AsyncGenerator[tuple[int, int], None]:
    """Correct wrong counters. Yields, after each user, how many users were checked and how many were wrong.

    The comparison takes no locks. A wrong counter is corrected while holding the lock that the user's writes take.
    """
    users, wrong = 0, 0
    async for owner in each_user(database):
        async with database.session(owner) as session:
            if await _differs(session):
                clock = await clocks.locked(session, owner)
                clock.tasks = (await session.scalars(_TASKS)).one()
                clock.lists = (await session.scalars(_LISTS)).one()
                wrong += 1
        users += 1
        yield users, wrong


async def _differs(session: AsyncSession) -> bool:
    found = select(_TASKS.scalar_subquery(), _LISTS.scalar_subquery(), *_STORED)
    tasks, lists, *stored = (await session.execute(found)).one()
    return bool([tasks, lists] != stored)
