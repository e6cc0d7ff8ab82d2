"""Writes lists and tasks in one write of their user, as the server's bulk creates do, but of any number."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Integer, Text, Uuid
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.transfers import Staging, Types
from app.entities.entity import Entity
from app.entities.kinds import INSTANT
from app.errors import StartupError
from app.tasks import clocks
from app.tasks.fields import TASK
from app.tasks.lists import LIST

# In the order of writing: tasks refer to lists.
KINDS = (LIST, TASK)
BATCH = 1000

Row = Mapping[str, Any]
Rows = Mapping[Entity, Sequence[Row]]
Progress = Callable[[int], None]


async def write(
    session: AsyncSession, owner: UUID, rows: Rows, quotas: Mapping[str, int], progress: Progress = lambda _more: None
) -> None:
    """Insert new rows behind all others of the manual order, in the order given. Their ids must not exist yet.

    Each row has the values of `types`, except for those that this sets. `progress` is called with numbers of tasks.
    Raises StartupError if a quota is exceeded.
    """
    clock = await clocks.locked(session, owner)
    counted = {entity: getattr(clock, entity.counter.name) + len(rows[entity]) for entity in KINDS}
    for entity, owned in counted.items():
        _refuse_too_many(entity, owned, quotas)
    if not any(rows.values()):
        return
    clock.version += 1
    for entity, owned in counted.items():
        setattr(clock, entity.counter.name, owned)
    for entity in KINDS:
        await _insert(
            session, entity, [_placed(owner, clock.version, *each) for each in enumerate(rows[entity])], progress
        )
    await clocks.tell(session, clock)


def _refuse_too_many(entity: Entity, owned: int, quotas: Mapping[str, int]) -> None:
    if owned > quotas[entity.many]:
        raise StartupError(
            f"The user would own {owned:,} {entity.many}, including the trash; LIMIT_{entity.many.upper()} is"
            f" {quotas[entity.many]:,}. Raise it, or write fewer."
        )


def _placed(owner: UUID, version: int, rank: int, row: Row) -> Row:
    # As app.entities.writing.ranked_position: later than every earlier key, and not ending in 0.
    return {**row, "user_id": owner, "version": version, "position": f"a{version:08x}{rank:06x}V"}


async def _insert(session: AsyncSession, entity: Entity, rows: Sequence[Row], progress: Progress) -> None:
    staging = Staging(session, entity.table, types(entity))
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        await staging.insert(batch)
        progress(len(batch) if entity is TASK else 0)


def types(entity: Entity) -> Types:
    """The columns that are written, with their types. Times are bound as text, as in creates."""
    return {
        "user_id": (Uuid(), None),
        "id": (Uuid(), None),
        "position": (Text(), None),
        "version": (Integer(), None),
        **{name: (Text(), INSTANT) for name in ("created_at", "updated_at", "deleted_at")},
        **{name: (content.bound, content.cast) for name, content in entity.at_creation.items()},
        **({entity.member.mark.name: (Boolean(), None)} if entity.member else {}),
    }
