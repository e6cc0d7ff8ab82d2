"""Fills a database for development: users with lists and tasks that look real, the same for the same seed and day."""

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Text, Uuid, column, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.data import phrases
from app.data.phrases import AREAS, Area
from app.data.rows import Progress, Row, write
from app.database.transfers import Transfers, act
from app.entities.problems import utc
from app.identifiers import uuid7_of
from app.tasks.fields import TASK
from app.tasks.lists import LIST

# A user has tasks of this time, more of its end than of its beginning.
DAYS = 400
# How many of the tasks are such.
COMPLETED, DUE, DESCRIBED, LISTED, TRASHED = 0.55, 0.6, 0.25, 0.8, 0.03
FUTURE_DAYS = 60
# How often tasks have each priority, and each number of tags.
PRIORITIES, TAGS = (50, 15, 20, 10, 5), (30, 40, 20, 10)


class Plan(NamedTuple):
    """What to create. `today` is the day relative to which all times are chosen."""

    users: int
    tasks: int
    seed: int
    today: date


class Seeded(NamedTuple):
    """The numbers of users that were created, and of those that were there already."""

    created: int
    present: int


async def seed(transfers: Transfers, plan: Plan, quotas: Mapping[str, int], progress: Progress) -> Seeded:
    """Create the users, each with all tasks in one transaction. Users with lists or tasks are left as they are.

    On a Citus cluster, the user has a transaction of its own: the function that creates users has the owner's rights,
    and each role has its own connections to workers, where references to the user are checked.
    """
    present = 0
    for number in range(1, plan.users + 1):
        rng = random.Random(f"{plan.seed} {number}")  # noqa: S311 - not a secret
        async with transfers.session(None) as session:
            owner = await _user(session, phrases.address(rng, plan.seed, number))
            await act(session, owner)
            if await _has_rows(session, owner):
                present += 1
                progress(plan.tasks)
                continue
            rows, is_alone = _rows(rng, plan), await session.scalar(select(func.is_distributed()))
            if not is_alone:
                await write(session, owner, rows, quotas, progress)
        if is_alone:
            async with transfers.session(owner) as session:
                await write(session, owner, rows, quotas, progress)
    return Seeded(plan.users - present, present)


async def _user(session: AsyncSession, email: str) -> UUID:
    """The user with this address, who is created if there is none."""
    found = func.user_with_email(literal(email, Text)).table_valued(column("user_id", Uuid))
    user_id: UUID = (await session.scalars(select(found.c.user_id))).one()
    return user_id


async def _has_rows(session: AsyncSession, owner: UUID) -> bool:
    exist = [select(entity.table.c.id).where(entity.table.c.user_id == owner).exists() for entity in (LIST, TASK)]
    return bool(await session.scalar(select(or_(*exist))))


def _rows(rng: random.Random, plan: Plan) -> Mapping[Any, Sequence[Row]]:
    now = datetime.combine(plan.today, time(), UTC)
    areas = rng.sample(AREAS, rng.randint(4, len(AREAS)))
    lists = [_list(rng, area, now - timedelta(days=DAYS + 1)) for area in areas]
    ages = sorted((rng.random() ** 2 for _ in range(plan.tasks)), reverse=True)
    tasks = list(_tasks(rng, areas, lists, [now - timedelta(days=DAYS) * age for age in ages]))
    return {LIST: lists, TASK: tasks}


def _list(rng: random.Random, area: Area, created: datetime) -> Row:
    return {**_new(rng, created), "name": area.name, "icon": area.icon}


def _new(rng: random.Random, created: datetime) -> dict[str, Any]:
    """The id and the times of a new row."""
    return {
        "id": uuid7_of(int(created.timestamp() * 1000), rng.getrandbits(80)),
        "created_at": utc(created),
        "updated_at": utc(created),
        "deleted_at": None,
    }


def _tasks(rng: random.Random, areas: Sequence[Area], lists: Sequence[Row], times: Sequence[datetime]) -> Iterator[Row]:
    latest = times[-1] if times else None
    for created in times:
        place = rng.randrange(len(areas))
        content = _content(rng, areas[place], created)
        list_id = str(lists[place]["id"]) if rng.random() < LISTED else None
        yield {**_new(rng, created), **content, "list_id": list_id, **_state(rng, created, latest or created)}


def _content(rng: random.Random, area: Area, created: datetime) -> dict[str, Any]:
    tags = rng.choices(range(len(TAGS)), TAGS)[0]
    due = created.date() + timedelta(days=rng.randint(0, FUTURE_DAYS)) if rng.random() < DUE else None
    return {
        "title": phrases.title(rng, area),
        "description": phrases.description(rng) if rng.random() < DESCRIBED else None,
        "priority": rng.choices(range(len(PRIORITIES)), PRIORITIES)[0],
        "due_date": due and due.isoformat(),
        "tags": rng.sample(area.tags, tags),
    }


def _state(rng: random.Random, created: datetime, latest: datetime) -> dict[str, Any]:
    """Whether a task is completed, and in the trash, and since when: after it was created, and not in the future."""
    age = latest - created
    done = created + age * rng.random() ** 3 if rng.random() < COMPLETED else None
    gone = (done or created) + (latest - (done or created)) * rng.random() if rng.random() < TRASHED else None
    return {
        "completed": done is not None,
        "completed_at": done and utc(done),
        "deleted_at": gone and utc(gone),
        "updated_at": utc(gone or done or created),
        "trashed_with_list": False,
    }
