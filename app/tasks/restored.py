"""After a restore: advances all clocks, and gives all tasks and lists new versions.

Clients have sync tokens and versions from after the restored backup, which the clocks would issue again for other
writes. So each clock jumps beyond all values that it has ever had, and `purged_through` with it, which makes older
tokens invalid. Tasks and lists get new versions because there may have been writes between the restore and the jump.

The size of the jump is random, within bounds, so that restoring the same dump twice does not give the same versions
twice.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import any_, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import fingerprint
from app.database.database import Database
from app.database.sessions import refuse_hidden_users
from app.errors import Unauthenticated, Unavailable
from app.models import State, Task, TaskList, User
from app.tasks import clocks

T = TypeVar("T")

SMALLEST_JUMP, LARGEST_JUMP = 50_000_000, 100_000_000
# The highest clock from which a jump leaves room for another jump.
LAST_START = 2**31 - 1 - 2 * LARGEST_JUMP
BATCH = 1000
TRIES = 10
PAUSE_SECONDS = 1.0
Kind = type[Task] | type[TaskList]
Work = Callable[[AsyncSession, UUID], Awaitable[T]]


class Progress(NamedTuple):
    """The number of users seen, of tasks and lists with new versions, and of users whose clocks have no room."""

    users: int
    rows: int
    full: int


async def jump(database: Database) -> AsyncIterator[Progress]:
    """Advance the clocks of all users, as the tables' owner, which acts as each user in turn.

    May be interrupted and run again; clocks then jump again.
    """
    async with database.session(None) as session:
        await refuse_hidden_users(session)
    size = random.randint(SMALLEST_JUMP, LARGEST_JUMP)  # noqa: S311 - not a secret
    await _advance_new_users(database, size)
    done = Progress(0, 0, 0)
    async for owner in _users(database):
        try:
            through = await _patiently(database, owner, partial(_jump, size=size))
            stamped = 0 if through is None else await _restamped(database, owner, through, Task)
            stamped += 0 if through is None else await _restamped(database, owner, through, TaskList)
        except Unauthenticated:  # deleted since the ids were read
            continue
        done = Progress(done.users + 1, done.rows + stamped, done.full + (through is None))
        yield done


async def _restamped(database: Database, owner: UUID, through: int, kind: Kind) -> int:
    """Give new versions to all rows of a kind with versions up to `through`. Returns their number."""
    stamped, count = 0, BATCH
    while count == BATCH:
        count = await _patiently(database, owner, partial(_restamp, through=through, kind=kind))
        stamped += count
    return stamped


async def remember(database: Database) -> None:
    """Store the fingerprint of the database, which ends the warning of `taskql doctor`."""
    async with database.session(None) as session:
        await session.run_sync(fingerprint.remember)


async def _advance_new_users(database: Database, size: int) -> None:
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
    """Run work in a transaction of a user. Retried, because servers may hold the user's clock."""
    for _ in range(TRIES - 1):
        try:
            async with database.session(owner) as session:
                return await work(session, owner)
        except Unavailable:
            await asyncio.sleep(PAUSE_SECONDS)
    async with database.session(owner) as session:
        return await work(session, owner)


async def _jump(session: AsyncSession, owner: UUID, *, size: int) -> int | None:
    """Advance the clock. Returns its new version, or None if it has no room."""
    clock = await clocks.locked(session, owner)
    if clock.version >= LAST_START:
        return None
    clock.version = clock.purged_through = clock.version + 1 + size
    await clocks.tell(session, clock)
    return clock.version


async def _restamp(session: AsyncSession, owner: UUID, *, through: int, kind: Kind) -> int:
    """Give the version of this write to a batch of a user's older rows, including the trash. Returns their number."""
    clock = await clocks.locked(session, owner)
    some = func.array(select(kind.id).where(kind.version <= through).limit(BATCH).scalar_subquery())
    stamp = update(kind).values(version=clock.version + 1).where(kind.id == any_(some)).returning(kind.id)
    stamped = (await session.scalars(stamp, execution_options={"synchronize_session": False})).all()
    if stamped:
        clock.version += 1
        await clocks.tell(session, clock)
    return len(stamped)
