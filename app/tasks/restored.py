"""After a restore: all clocks jump ahead, and all tasks get new versions.

Clients have sync tokens and versions from after the moment that was restored, and the clocks would give them out again
for other writes. A clock that has jumped is beyond all that it has ever shown, and what was purged is moved there too:
so each older token begins anew. Versions change because somebody may have written between the restore and the jump.

The jump is random, within bounds: who restores the same dump twice must not get the same versions twice.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, Integer, Text, Uuid, any_, bindparam, func, literal, literal_column, select, update

from app.database import fingerprint
from app.database.database import Database
from app.database.statements import Statement, user_id, write
from app.entities.writing import clock, is_there, notice
from app.errors import StartupError, Unauthenticated, Unavailable
from app.models import CLOCKS, STATE, TASKS, USERS

SMALLEST_JUMP, LARGEST_JUMP = 50_000_000, 100_000_000
# The last clock from which a jump leaves as much room again for writes.
LAST_START = 2**31 - 1 - 2 * LARGEST_JUMP
BATCH = 1000
TRIES = 10
PAUSE_SECONDS = 1.0
Row = Any


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
    clocks, versions, done = _jump(), _restamp(), Progress(0, 0, 0)
    async for owner in _users(database):
        try:
            through = (await _written(database, owner, clocks, {"user_id": owner, "jump": size}))["version"]
            stamped = 0 if through is None else await _restamped(database, owner, versions, through)
        except Unauthenticated:  # deleted since the ids were read
            continue
        done = Progress(done.users + 1, done.tasks + stamped, done.full + (through is None))
        yield done


async def _restamped(database: Database, owner: UUID, statement: Statement, through: int) -> int:
    """Give all tasks with versions up to this one new ones; how many there were."""
    values, stamped, count = {"user_id": owner, "through": through, "most": BATCH}, 0, BATCH
    while count == BATCH:
        count = (await _written(database, owner, statement, values))["stamped"]
        stamped += count
    return stamped


async def remember(database: Database) -> None:
    """Note which database this is: nobody need be warned any more."""
    async with database.engine.begin() as connection:
        await connection.run_sync(fingerprint.remember)


async def _refuse_blindness(database: Database) -> None:
    """Whoever is shown none of the users would move no clock, and say that all is done."""
    active = select(func.row_security_active(literal("users", Text)))
    async with database.engine.connect() as connection:
        if (await connection.execute(active)).scalar_one():
            raise StartupError(
                "Row security hides the users from this role: name the tables' owner in DATABASE_OWNER_URL."
            )


async def _let_new_users_begin_later(database: Database, size: int) -> None:
    begins = STATE.c.first_version + size
    async with database.engine.begin() as connection:
        await connection.execute(update(STATE).values(first_version=begins).where(STATE.c.first_version <= LAST_START))


async def _users(database: Database) -> AsyncIterator[UUID]:
    page = select(USERS.c.id).where(USERS.c.id > bindparam("last", type_=Uuid)).order_by(USERS.c.id).limit(BATCH)
    last: UUID | None = UUID(int=0)
    while last is not None:
        async with database.engine.connect() as connection:
            ids = list((await connection.execute(page, {"last": last})).scalars())
        for owner in ids:
            yield owner
        last = ids[-1] if len(ids) == BATCH else None


async def _written(database: Database, owner: UUID, statement: Statement, values: dict[str, Any]) -> Row:
    """The row of a write, which is tried again: servers write too, and may hold the user's clock."""
    for _ in range(TRIES - 1):
        try:
            return await database.write(owner, statement, values)
        except Unavailable:
            await asyncio.sleep(PAUSE_SECONDS)
    return await database.write(owner, statement, values)


def _jump() -> Statement:
    """The clock where it then stands; null where it has no room."""
    ahead = CLOCKS.c.version + bindparam("jump", type_=Integer)
    jumped = (
        update(CLOCKS)
        .values(version=ahead, purged_through=ahead)
        .where(CLOCKS.c.user_id == user_id(), CLOCKS.c.version <= literal_column(str(LAST_START)))
        .returning(CLOCKS.c.version)
        .cte("jumped")
    )
    changed = is_there(jumped)
    return write(select(jumped.c.version, notice(jumped, changed)).select_from(jumped), changed)


def _restamp() -> Statement:
    """Give a batch of a user's older tasks, in the trash or not, the version of this write."""
    mine, now = TASKS.c.user_id == user_id(), clock()
    old = select(TASKS.c.id).where(mine, TASKS.c.version <= bindparam("through", type_=Integer))
    some = func.array(old.limit(bindparam("most", type_=Integer)).scalar_subquery(), type_=ARRAY(Uuid))
    stamped = (
        update(TASKS)
        .values(version=select(now.c.version).scalar_subquery())
        .where(mine, TASKS.c.id == any_(some))
        .returning(TASKS.c.id)
        .cte("stamped")
    )
    count = select(func.count()).select_from(stamped).scalar_subquery()
    return write(select(count.label("stamped"), notice(now, is_there(stamped))).select_from(now), is_there(stamped))
