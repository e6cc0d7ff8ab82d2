"""Moves a row in the manual order: one statement computes a key between its new neighbors and writes it."""

from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Exists,
    Integer,
    ScalarSelect,
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
    union_all,
)
from sqlalchemy import update as sql_update

from app.database.rendering import Selection
from app.database.statements import Statement, text_literal, user_id
from app.entities import membership
from app.entities.entity import Entity
from app.entities.writing import (
    Change,
    clock,
    first_position,
    is_trashed,
    last_position,
    outcome,
    present,
)

# A key grows by a character with about six moves into the same gap. If it would be longer, the rows around the gap get
# new keys, unless these would hardly be shorter: at least so many characters.
LONGEST_KEY, LEAST_GAIN = 60, 6
# How many rows on each side of a gap get new keys.
NEIGHBORS = 25
PLACES = ("toStart", "toEnd", "before", "after")
# The kind of the moves of a batch: a parameter has the place.
ANY_PLACE = "move"
# What the kind of a move ends with if it may give new keys to the rows around.
APART = " apart"


class Place(NamedTuple):
    """A place in the manual order: its key, whether the row is there already, and whether the place exists."""

    key: ColumnElement[Any]
    settled: ColumnElement[bool]
    anchored: ColumnElement[bool]


def move(entity: Entity, payload: Selection, change: Change) -> Statement:
    """Move a row before or after another one, or to an end. Changes nothing if it is already there.

    Rejected as CROWDED if its key would be too long: then `move_apart` makes room. In a batch it fails instead.
    """
    before, now, table = present(entity), clock(), entity.table
    target = _target(table, change, change.kind, before, now)
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
    crowded = is_crowded, _failing(is_crowded) if change.in_batch else text_literal("CROWDED")
    refusal = case(*_refusals(entity, change.kind, before, target), crowded, else_=null())
    return outcome(entity, payload, change, now, before, written, refusal)


def _failing(is_crowded: ColumnElement[bool]) -> ColumnElement[str]:
    """Fails, and rolls the batch back: other writes follow in the same message. They are then run one by one.

    The condition keeps the planner from evaluating it.
    """
    number = case((is_crowded, text_literal("a key would be too long")), else_=text_literal("0"))
    return cast(cast(number, Integer), Text)


def move_apart(entity: Entity, payload: Selection, change: Change) -> Statement:
    """Like `move`, but gives new keys to the rows around a crowded gap: their position and version change, alone.

    Their keys come close to those of the rows beyond, so that the gap is wide. Spread evenly, the keys would grow
    without end while rows are moved to both sides of a gap in turn.
    """
    kind = change.kind.removesuffix(APART)
    before, now, table = present(entity), clock(), entity.table
    target = _target(table, change, kind, before, now)
    sides = [_neighbors(table, kind, ahead=ahead) for ahead in (True, False)]
    room = _room(change, before, now, target, *sides)
    ranks = _ranks(before, *sides)
    own = table.c.id == bindparam("id", type_=Uuid)
    written = (
        sql_update(table)
        .values(
            position=case((room.c.crowded, room.c.renewed[ranks.c.rank]), else_=room.c.key),
            version=now.c.version,
            updated_at=case((own, now.c.at), else_=table.c.updated_at),
        )
        .where(table.c.user_id == user_id(), table.c.user_id == now.c.user_id, table.c.id == ranks.c.id)
        .where(or_(own, room.c.crowded))
        .returning(*table.c)
        .cte("written")
    )
    moved = select(written).where(written.c.id == bindparam("id", type_=Uuid)).cte("moved")
    refusal = case(*_refusals(entity, kind, before, target), else_=null())
    return outcome(entity, payload, change, now, before, moved, refusal)


def _refusals(entity: Entity, kind: str, before: CTE, target: CTE) -> membership.Refusals:
    """When a row is not moved, with the codes."""
    row = entity.table.alias("anchors")
    astray = exists(select(target.c.key).where(~target.c.anchored))
    found = [(before.c.id.is_(None), text_literal("NOT_FOUND")), is_trashed(before)]
    if kind in {"before", "after", ANY_PLACE}:
        mine = and_(row.c.user_id == user_id(), row.c.id == bindparam("anchor", type_=Uuid))
        in_trash = exists(select(row.c.id).where(mine, row.c.deleted_at.is_not(None)))
        found += [(and_(astray, in_trash), text_literal("ANCHOR_IN_TRASH"))]
    return [*found, (astray, text_literal("ANCHOR_NOT_FOUND"))]


def _neighbors(table: Table, kind: str, *, ahead: bool) -> CTE:
    """The nearest rows on one side of the gap, those ahead of it or those behind, and the one beyond, by distance."""
    others, anchor = _Others(table), _position_of_anchor(table)
    if ahead:
        side = others.position < anchor if kind == "before" else others.position <= anchor
        order = others.position.desc(), others.id.desc()
    else:
        side = others.position >= anchor if kind == "before" else others.position > anchor
        order = others.position.asc(), others.id.asc()
    distance = func.row_number().over(order_by=order).label("distance")
    nearest = select(others.id, others.position, distance).where(others.owned, side).order_by(*order)
    return nearest.limit(literal_column(str(NEIGHBORS + 1))).cte("ahead" if ahead else "behind")


def _room(change: Change, before: CTE, now: CTE, target: CTE, *sides: CTE) -> CTE:
    """One row if the row is to be moved: its key, whether the gap is crowded, and new keys for the rows around it."""
    version = select(now.c.version).scalar_subquery()
    outermost = [end(version, in_batch=change.in_batch) for end in (first_position, last_position)]
    low, high = (func.coalesce(_beyond(side), end, type_=Text) for side, end in zip(sides, outermost, strict=True))
    best = func.length(func.position_between(low, high, type_=Text)) + literal_column(str(LEAST_GAIN))
    crowded = func.length(target.c.key) > func.greatest(literal_column(str(LONGEST_KEY)), best)
    due = and_(before.c.deleted_at.is_(None), target.c.anchored, ~target.c.settled)
    keys = func.positions_around(low, high, *map(_number, sides), type_=ARRAY(Text))
    return select(target.c.key, crowded.label("crowded"), keys.label("renewed")).where(due).cte("room")


def _beyond(side: CTE) -> ColumnElement[str]:
    """The key of the first row that keeps its key; null if there is none."""
    return select(side.c.position).where(side.c.distance > literal_column(str(NEIGHBORS))).scalar_subquery()


def _number(side: CTE) -> ColumnElement[int]:
    """How many rows of a side may get new keys."""
    within = side.c.distance <= literal_column(str(NEIGHBORS))
    return select(cast(func.count(), Integer)).select_from(side).where(within).scalar_subquery()


def _ranks(before: CTE, ahead: CTE, behind: CTE) -> CTE:
    """The row and those around it, with the places of their new keys, from 1."""
    most: ColumnElement[int] = literal_column(str(NEIGHBORS))
    own = _number(ahead) + literal_column("1")
    return union_all(
        select(before.c.id, own.label("rank")),
        select(ahead.c.id, own - ahead.c.distance).where(ahead.c.distance <= most),
        select(behind.c.id, own + behind.c.distance).where(behind.c.distance <= most),
    ).cte("ranks")


class _Others:
    """The other rows of the user, including those in the trash."""

    def __init__(self, table: Table) -> None:
        self._rows = table.alias("others")
        self.id, self.position = self._rows.c.id, self._rows.c.position
        self.owned = and_(self._rows.c.user_id == user_id(), self._rows.c.id != bindparam("id", type_=Uuid))

    def exist(self, where: ColumnElement[bool]) -> Exists:
        return exists(select(self._rows.c.id).where(self.owned, where))


def _target(table: Table, change: Change, kind: str, before: CTE, now: CTE) -> CTE:
    """The new place. The moves of a batch have one statement, in which a parameter says which kind of place it is."""
    if kind == ANY_PLACE:
        places = [_place(table, change, kind, before, now) for kind in PLACES]
        chosen = [bindparam("place", type_=Text) == text_literal(kind) for kind in PLACES]
        place = Place(*(case(*zip(chosen, values, strict=True)) for values in zip(*places, strict=True)))
    else:
        place = _place(table, change, kind, before, now)
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


def _position_of_anchor(table: Table) -> ScalarSelect[str]:
    """The key of the row to move to; null if there is none, or if it is in the trash."""
    live = and_(table.c.user_id == user_id(), table.c.deleted_at.is_(None))
    return select(table.c.position).where(live, table.c.id == bindparam("anchor", type_=Uuid)).scalar_subquery()


def _beside(table: Table, kind: str, before: CTE, outermost: ColumnElement[str]) -> Place:
    anchor_id, others, anchor = bindparam("anchor", type_=Uuid), _Others(table), _position_of_anchor(table)
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
