"""After a restore: all clocks jump ahead, and all tasks get new versions.

Clients have sync tokens and versions from after the moment that was restored, and the clocks would give them out again
for other writes. A clock that has jumped is beyond all that it has ever shown, and what was purged is moved there too:
so each older token begins anew. Versions change because somebody may have written between the restore and the jump.

The jump is random, within bounds: who restores the same dump twice must not get the same versions twice.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import Text, any_, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import fingerprint
from app.database.database import Database
from app.errors import StartupError, Unauthenticated, Unavailable
from app.models import State, Task, User
from app.tasks import clocks

T = TypeVar("T")

SMALLEST_JUMP, LARGEST_JUMP = 50_000_000, 100_000_000
# The last clock from which a jump leaves as much room again for writes.
LAST_START = 2**31 - 1 - 2 * LARGEST_JUMP
BATCH = 1000
TRIES = 10
PAUSE_SECONDS = 1.0
Work = Callable[[AsyncSession, UUID], Awaitable[T]]


class Progress(NamedTuple):
    """How many users were seen, tasks given new versions, and users left alone whose clocks have no room."""

    users: int
    tasks: int
    full: int


async def jump(database: Database) -> AsyncIterator[Progress]:
    """Move the clocks of all users ahead, as the tables' owner, who acts as one user after the other.

    May be interrupted and run again: what has jumped jumps once more.
    """
    await _refuse_blindness(database)
    size = random.randint(SMALLEST_JUMP, LARGEST_JUMP)  # noqa: S311 - it keeps no secret
    await _let_new_users_begin_later(database, size)
    done = Progress(0, 0, 0)
    async for owner in _users(database):
        try:
            through = await _patiently(database, owner, partial(_jump, size=size))
            stamped = 0 if through is None else await _restamped(database, owner, through)
        except Unauthenticated:  # deleted since the ids were read
            continue
        done = Progress(done.users + 1, done.tasks + stamped, done.full + (through is None))
        yield done


async def _restamped(database: Database, owner: UUID, through: int) -> int:
    """Give all tasks with versions up to this one new ones; how many there were."""
    stamped, count = 0, BATCH
    while count == BATCH:
        count = await _patiently(database, owner, partial(_restamp, through=through))
        stamped += count
    return stamped


async def remember(database: Database) -> None:
    """Note which database this is: nobody need be warned any more."""
    async with database.session(None) as session:
        await session.run_sync(fingerprint.remember)


async def _refuse_blindness(database: Database) -> None:
    """Whoever is shown none of the users would move no clock, and say that all is done."""
    async with database.session(None) as session:
        if await session.scalar(select(func.row_security_active(literal("users", Text)))):
            raise StartupError(
                "Row security hides the users from this role: name the tables' owner in DATABASE_OWNER_URL."
            )


async def _let_new_users_begin_later(database: Database, size: int) -> None:
    begins = State.first_version + size
    async with database.session(None) as session:
        await session.execute(update(State).values(first_version=begins).where(State.first_version <= LAST_START))


async def _users(database: Database) -> AsyncIterator[UUID]:
    last: UUID | None = UUID(int=0)
    while last is not None:
        async with database.session(None) as session:
            page = select(User.id).where(User.id > last).order_by(User.id).limit(BATCH)
            ids = (await session.scalars(page)).all()
        for owner in ids:
            yield owner
        last = ids[-1] if len(ids) == BATCH else None


async def _patiently(database: Database, owner: UUID, work: Work[T]) -> T:
    """What a transaction of a user gives. It is tried again: servers write too, and may hold the user's clock."""
    for _ in range(TRIES - 1):
        try:
            async with database.session(owner) as session:
                return await work(session, owner)
        except Unavailable:
            await asyncio.sleep(PAUSE_SECONDS)
    async with database.session(owner) as session:
        return await work(session, owner)


async def _jump(session: AsyncSession, owner: UUID, *, size: int) -> int | None:
    """The clock where it then stands; None where it has no room."""
    clock = await clocks.locked(session, owner)
    if clock.version >= LAST_START:
        return None
    clock.version = clock.purged_through = clock.version + 1 + size
    await clocks.tell(session, clock)
    return clock.version


async def _restamp(session: AsyncSession, owner: UUID, *, through: int) -> int:
    """Give a batch of a user's older tasks, in the trash or not, the version of this write; how many these are."""
    clock = await clocks.locked(session, owner)
    some = func.array(select(Task.id).where(Task.version <= through).limit(BATCH).scalar_subquery())
    stamp = update(Task).values(version=clock.version + 1).where(Task.id == any_(some)).returning(Task.id)
    stamped = (await session.scalars(stamp, execution_options={"synchronize_session": False})).all()
    if stamped:
        clock.version += 1
        await clocks.tell(session, clock)
    return len(stamped)
