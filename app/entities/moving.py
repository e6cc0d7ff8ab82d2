"""Moves a row in the manual order: one statement computes a key between its new neighbors and writes it."""

from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    ColumnElement,
    Exists,
    Integer,
    Table,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    exists,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
)
from sqlalchemy import update as sql_update

from app.database.rendering import Selection
from app.database.statements import Statement, text_literal, user_id, write
from app.entities.entity import Entity
from app.entities.writing import (
    Change,
    clock,
    first_position,
    is_there,
    last_position,
    notice,
    outcome,
    present,
    ranked_position,
)

# A key grows by a character with about five moves into the same gap. A longer key makes `spread` renew all keys.
LONGEST_KEY = 60
PLACES = ("toStart", "toEnd", "before", "after")


class Place(NamedTuple):
    """A place in the manual order: its key, whether the row is there already, and whether the place exists."""

    key: ColumnElement[Any]
    settled: ColumnElement[bool]
    anchored: ColumnElement[bool]


def move(entity: Entity, payload: Selection, change: Change) -> Statement:
    """Move a row before or after another one, or to an end. Changes nothing if it is already there."""
    before, now, table = present(entity, in_trash=False), clock(), entity.table
    target = _target(table, change, before, now)
    fits = func.length(target.c.key) <= literal_column(str(LONGEST_KEY))
    written = (
        sql_update(table)
        .values(position=target.c.key, version=now.c.version, updated_at=now.c.at)
        .where(
            table.c.user_id == user_id(),
            table.c.user_id == now.c.user_id,
            table.c.id == bindparam("id", type_=Uuid),
            table.c.deleted_at.is_(None),
        )
        .where(target.c.anchored, ~target.c.settled, fits)
        .returning(*table.c)
        .cte("written")
    )
    is_crowded = exists(select(target.c.key).where(~target.c.settled, ~fits))
    refusal = case(
        (before.c.id.is_(None), text_literal("NOT_FOUND")),
        (exists(select(target.c.key).where(~target.c.anchored)), text_literal("ANCHOR_NOT_FOUND")),
        (is_crowded, _failing(is_crowded) if change.in_batch else text_literal("CROWDED")),
        else_=null(),
    )
    return outcome(entity, payload, change, now, before, written, refusal)


def _failing(is_crowded: ColumnElement[bool]) -> ColumnElement[str]:
    """Fails, and rolls the batch back: other writes follow in the same message. They are then run one by one.

    The condition keeps the planner from evaluating it.
    """
    number = case((is_crowded, text_literal("a key would be too long")), else_=text_literal("0"))
    return cast(cast(number, Integer), Text)


def spread(entity: Entity, *, in_batch: bool = False) -> Statement:
    """Give all rows of the user new keys of equal length, in their current order."""
    now, table = clock(), entity.table
    rank = func.row_number().over(order_by=(table.c.position, table.c.id)).label("rank")
    ranks = select(table.c.id, rank).where(table.c.user_id == user_id()).cte("ranks")
    key = ranked_position(now.c.version, ranks.c.rank)
    written = (
        sql_update(table)
        .values(position=key, version=now.c.version, updated_at=now.c.at)
        .where(table.c.user_id == user_id(), table.c.user_id == now.c.user_id, table.c.id == ranks.c.id)
        .returning(table.c.id)
        .cte("written")
    )
    changed = is_there(written)
    return write(select(now.c.version, notice(now, changed)), changed, in_batch=in_batch)


class _Others:
    """The other rows of the user, including those in the trash."""

    def __init__(self, table: Table) -> None:
        self._rows = table.alias("others")
        self.position = self._rows.c.position
        self.owned = and_(self._rows.c.user_id == user_id(), self._rows.c.id != bindparam("id", type_=Uuid))

    def exist(self, where: ColumnElement[bool]) -> Exists:
        return exists(select(self._rows.c.id).where(self.owned, where))


def _target(table: Table, change: Change, before: CTE, now: CTE) -> CTE:
    """The new place. In a batch, a parameter says which kind of place it is."""
    if change.in_batch:
        places = [_place(table, change, kind, before, now) for kind in PLACES]
        chosen = [bindparam("place", type_=Text) == text_literal(kind) for kind in PLACES]
        place = Place(*(case(*zip(chosen, values, strict=True)) for values in zip(*places, strict=True)))
    else:
        place = _place(table, change, change.kind, before, now)
    columns = (value.label(name) for name, value in place._asdict().items())
    return select(*columns).select_from(before).cte("target")


def _place(table: Table, change: Change, kind: str, before: CTE, now: CTE) -> Place:
    own, others = before.c.position, _Others(table)
    version = select(now.c.version).scalar_subquery()
    # Also next to the first or last row: a row that is moved or created there later must come further out.
    outermost = first_position if kind in {"toStart", "before"} else last_position
    key = outermost(version, in_batch=change.in_batch)
    if kind in {"toStart", "toEnd"}:
        passed = others.position < own if kind == "toStart" else others.position > own
        return Place(key, ~others.exist(passed), true())
    return _beside(table, kind, before, key)


def _beside(table: Table, kind: str, before: CTE, outermost: ColumnElement[str]) -> Place:
    anchor_id, others = bindparam("anchor", type_=Uuid), _Others(table)
    live = and_(table.c.user_id == user_id(), table.c.deleted_at.is_(None), table.c.id == anchor_id)
    anchor = select(table.c.position).where(live).scalar_subquery()
    own, ahead = before.c.position, kind == "before"
    position = others.position
    side = position < anchor if ahead else position > anchor
    order = position.desc() if ahead else position.asc()
    nearest = select(position).where(others.owned, side).order_by(order).limit(literal_column("1")).scalar_subquery()
    between = and_(position > own, position < anchor) if ahead else and_(position < own, position > anchor)
    in_order = own < anchor if ahead else own > anchor
    settled = or_(before.c.id == anchor_id, and_(in_order, ~others.exist(between)))
    ends = (nearest, anchor) if ahead else (anchor, nearest)
    key = case((nearest.is_(None), outermost), else_=func.position_between(*ends, type_=Text))
    return Place(key, func.coalesce(settled, false()), anchor.is_not(None))
