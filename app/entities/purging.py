"""The statements that delete rows in the trash permanently: all selected rows, or none.

Triggers do the rest, once the statement has ended: they advance the clock, leave tombstones, count, and notify. A user
can have as many tombstones as tasks: otherwise, creating and deleting could fill the disk.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    Boolean,
    ColumnElement,
    Integer,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    true,
)

from app.database.rendering import Selection
from app.database.statements import Statement, user_id, write
from app.entities import bulk, tombstones
from app.entities.entity import Entity, Shape
from app.entities.filters import condition
from app.entities.writing import QUOTA, clock, is_there

_ZERO, _ONE = (literal_column(number, Integer) for number in "01")


def purge(entity: Entity, payload: Selection, shape: Shape | None) -> Statement:
    """Delete the selected rows in the trash, unless there are more than `at_most`. None selects by ids.

    The lists show the rows as they were. `is_full` means that the user would have too many tombstones.
    """
    selected = entity.table.c.id == any_(bulk.IDS) if shape is None else condition(entity, shape)
    matched = _trash(entity, "matched", selected)
    now, verdict = clock(), _verdict(matched)
    gone = _deleted(entity, matched, verdict)
    within = select(verdict.c.within).scalar_subquery()
    lists = bulk.lists(entity, payload, matched, matched, matched.c.id, within)
    missing = bulk.missing(matched) if shape is None else null()
    return _purged(now, verdict, [gone], missing.label("places"), *lists)


def empty(members: Entity, containers: Entity) -> Statement:
    """Delete all rows of both entities that are in the trash, unless there are more than `at_most`.

    Members are deleted first, so that they need no change when their containers are deleted.
    """
    first, second = [_trash(entity, f"trashed_{entity.many}") for entity in (members, containers)]
    now, verdict = clock(), _verdict(first, second)
    gone = _deleted(members, first, verdict)
    return _purged(now, verdict, [gone, _deleted(containers, second, verdict, _number(gone) >= _ZERO)])


def _trash(entity: Entity, name: str, *more: ColumnElement[bool]) -> CTE:
    table = entity.table
    return select(table).where(table.c.user_id == user_id(), table.c.deleted_at.is_not(None), *more).cte(name)


def _number(rows: CTE) -> ColumnElement[int]:
    return select(func.count()).select_from(rows).scalar_subquery()


def _verdict(*matched: CTE) -> CTE:
    """One row: the number of matching rows, whether they are too many for the tombstones, may go, and are to go.

    As part of the verdict, `dry_run` is not evaluated by the planner: Citus would not look for the shard of a table
    of which no row can be deleted.
    """
    total: ColumnElement[int] = sum(map(_number, matched), _ZERO)
    counted = select(total.label("affected"), (tombstones.number(QUOTA) + total > QUOTA).label("is_full")).cte(
        "counted"
    )
    within = and_(counted.c.affected <= bindparam("at_most", type_=Integer), not_(counted.c.is_full))
    due = and_(within, not_(bindparam("dry_run", type_=Boolean)))
    return select(*counted.c, within.label("within"), due.label("due")).cte("verdict")


def _deleted(entity: Entity, rows: CTE, verdict: CTE, *after: ColumnElement[bool]) -> CTE:
    """Delete these rows, if they may go. `after` are conditions to be evaluated before."""
    table = entity.table
    ids = func.array(select(rows.c.id).scalar_subquery(), type_=ARRAY(Uuid))
    due = select(verdict.c.due).scalar_subquery()
    gone = delete(table).where(table.c.user_id == user_id(), table.c.id == any_(ids), due, *after)
    return gone.returning(table.c.id).cte(f"gone_{entity.many}")


def _purged(now: CTE, verdict: CTE, gone: Sequence[CTE], *more: ColumnElement[Any]) -> Statement:
    """One row: the user's clock, which each trigger advances, the verdict, and more."""
    changed = or_(*map(is_there, gone))
    each = sum((case((is_there(rows), _ONE), else_=_ZERO) for rows in gone), _ZERO)
    version = now.c.version + case((changed, each), else_=-_ONE)
    columns: Select[Any] = select(version.label("version"), verdict.c.affected, verdict.c.is_full, *more)
    return write(columns.select_from(now.join(verdict, true())), changed)
