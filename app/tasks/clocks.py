"""The clock of a user in a session: its lock puts the writes of a user one behind the other."""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.notices import CHANNEL
from app.models import TaskClock


async def locked(session: AsyncSession, owner: UUID) -> TaskClock:
    """The user's clock, made if there is none, and locked until the transaction ends.

    Lock it before the tasks, as the server's writes do, or two writes may wait for each other.
    """
    await session.execute(insert(TaskClock).values(user_id=owner).on_conflict_do_nothing())
    return (await session.scalars(select(TaskClock).where(TaskClock.user_id == owner).with_for_update())).one()


async def tell(session: AsyncSession, clock: TaskClock) -> None:
    """Tell the servers that the clock has moved, when the transaction is committed."""
    await session.execute(select(func.pg_notify(CHANNEL, f"{clock.user_id} {clock.version}")))
