"""A user's clock in a session. Its lock serializes the writes of the user."""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.notices import CHANNEL
from app.models import TaskClock


async def locked(session: AsyncSession, owner: UUID) -> TaskClock:
    """The user's clock, created if there is none, and locked until the transaction ends.

    Lock it before tasks, as the server's writes do, to avoid deadlocks.
    """
    await session.execute(insert(TaskClock).values(user_id=owner).on_conflict_do_nothing())
    return (await session.scalars(select(TaskClock).where(TaskClock.user_id == owner).with_for_update())).one()


async def tell(session: AsyncSession, clock: TaskClock) -> None:
    """Notify servers of the clock when the transaction commits."""
    await session.execute(select(func.pg_notify(CHANNEL, f"{clock.user_id} {clock.version}")))
