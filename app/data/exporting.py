"""Exports the data of one user as JSON Lines: see `lines`."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.data.lines import FORMAT
from app.data.rows import KINDS
from app.database.rendering import TYPE_NAME, Field, Selection, json_object, json_or_null, plain
from app.database.transfers import Transfers
from app.entities.entity import Entity
from app.models import TASKS, USERS

# The order of the lines replaces the position, and an import is a new version.
LEFT_OUT = {"position", "version"}
BATCH = 1000
# What only exports contain of tasks.
_MORE = {"listId": json_or_null(TASKS.c.list_id), "trashedWithList": plain(TASKS.c.trashed_with_list)}


class Exported(NamedTuple):
    """The size of an export, known before its first line."""

    lists: int
    tasks: int


async def export(transfers: Transfers, owner: UUID) -> AsyncIterator[Exported | bytes]:
    """First the size, then the lines, from one snapshot of the data."""
    async with transfers.session(owner, reading=True) as session:
        counts = [await session.scalar(_count(entity, owner)) or 0 for entity in KINDS]
        size = Exported(*counts)
        yield size
        yield orjson.dumps({"type": "Export", "format": FORMAT, **size._asdict(), "user": await _user(session, owner)})
        for entity in KINDS:
            row = entity.table.c
            ordered = lines(entity, owner).order_by(row.position, row.id)
            async for line in await session.stream_scalars(ordered, execution_options={"yield_per": BATCH}):
                yield line.encode()


def _count(entity: Entity, owner: UUID) -> Select[Any]:
    return select(func.count()).select_from(entity.table).where(entity.table.c.user_id == owner)


async def _user(session: AsyncSession, owner: UUID) -> dict[str, Any]:
    row = USERS.c
    found = await session.execute(select(row.id, row.email, row.name, row.created_at).where(row.id == owner))
    user_id, email, name, created = found.one()
    return {"id": str(user_id), "email": email, "name": name, "createdAt": created}


def lines(entity: Entity, owner: UUID) -> Select[Any]:
    """The lines of a user's rows, without an order."""
    return select(line(entity)).where(entity.table.c.user_id == owner)


def line(entity: Entity) -> ColumnElement[str]:
    """The JSON of a row: the fields of the API, and those of exports."""
    more = _MORE if entity.member else {}
    names = [name for name in entity.fields if name not in LEFT_OUT]
    fields = (Field("type", TYPE_NAME), *(Field(name, name) for name in (*names, *more)))

    def shown(entry: Field) -> ColumnElement[str]:
        if entry.name in more:
            return more[entry.name]
        declared = entity.fields[entry.name]
        assert declared.json  # noqa: S101 - only these are among the fields
        return declared.json(declared.column)

    return json_object(Selection(entity.type_name, fields), shown)
