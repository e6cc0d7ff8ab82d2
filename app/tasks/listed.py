"""Finds the tasks of a list, or of the inbox, by the index of counts.

As with tags (`app.tasks.tags`), a page looks up all tasks of a small list and sorts them, and scans the index of its
order for a large one.
"""

from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.selectable import LateralFromClause

from app.database.statements import Reader
from app.entities.entity import Few, Shape
from app.models import TASKS
from app.tasks.tags import FEW, is_among


def listed(me: Reader, shape: Shape) -> Few | None:
    """The tasks of the lists of a filter, or None if the filter does not require lists. The index has no trash."""
    trashed, parts = shape
    wanted = dict(part for part in parts if part[0] in {"list.ids", "list.isNull"})
    if trashed or not wanted:
        return None
    if "list.ids" in wanted:
        ids = cast(bindparam(wanted["list.ids"], type_=ARRAY(Text)), ARRAY(Uuid))
        return _few(me, TASKS.c.list_id == any_(ids))
    # With `isNull: false` nothing is looked up, and the page scans the index of its order.
    inbox = cast(bindparam(wanted["list.isNull"], type_=Boolean), Boolean)
    return _few(me, and_(TASKS.c.list_id.is_(None), inbox), inbox)


def of_list(me: Reader, shape: Shape, own: LateralFromClause) -> Few | None:
    """The tasks of the list whose id is in the row `own`."""
    trashed, _ = shape
    return None if trashed else _few(me, TASKS.c.list_id == own.c.id, outer=own)


def _few(
    me: Reader,
    condition: ColumnElement[bool],
    applies: ColumnElement[bool] | None = None,
    outer: LateralFromClause | None = None,
) -> Few:
    most: ColumnElement[Any] = literal_column(str(FEW + 1))
    ids = select(TASKS.c.id).where(me.owns(TASKS), TASKS.c.deleted_at.is_(None), condition)
    found = ids.correlate(me.row, *([] if outer is None else [outer])).limit(most).subquery("ids")
    row = select(func.count().label("count"), func.array_agg(found.c.id).label("ids")).lateral("listed")
    few = and_(row.c.count <= literal_column(str(FEW)), true() if applies is None else applies)
    return Few(row, few, is_among(row))
