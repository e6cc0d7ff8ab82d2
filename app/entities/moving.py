"""Moving a task in the manual order: a key between those of its new neighbours, found and written in one statement."""

from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
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
from app.entities.writing import (
    NOW,
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
from app.models import TASKS

# A key grows by a character with some five moves into the same gap; a longer one has all keys of the user made anew.
LONGEST_KEY = 60

_others = TASKS.alias("others")
_other = and_(_others.c.user_id == user_id(), _others.c.id != bindparam("id", type_=Uuid))
_position = _others.c.position


def move(payload: Selection, change: Change) -> Statement:
    """Put a task before or after another, or at an end; one that stands there already stays as it is."""
    before, now = present(in_trash=False), clock()
    target = _target(change.kind, before, now)
    fits = func.length(target.c.key) <= literal_column(str(LONGEST_KEY))
    written = (
        sql_update(TASKS)
        .values(position=target.c.key, version=select(now.c.version).scalar_subquery(), updated_at=NOW)
        .where(TASKS.c.user_id == user_id(), TASKS.c.id == bindparam("id", type_=Uuid), TASKS.c.deleted_at.is_(None))
        .where(target.c.anchored, ~target.c.settled, fits)
        .returning(*TASKS.c)
        .cte("written")
    )
    refusal = case(
        (before.c.id.is_(None), text_literal("NOT_FOUND")),
        (exists(select(target.c.key).where(~target.c.anchored)), text_literal("ANCHOR_NOT_FOUND")),
        (exists(select(target.c.key).where(~target.c.settled, ~fits)), text_literal("CROWDED")),
        else_=null(),
    )
    return outcome(payload, now, before, written, refusal)


def spread() -> Statement:
    """Give all tasks of the user new keys of the same length, in the order that they have."""
    now = clock()
    rank = func.row_number().over(order_by=(TASKS.c.position, TASKS.c.id)).label("rank")
    ranks = select(TASKS.c.id, rank).where(TASKS.c.user_id == user_id()).cte("ranks")
    version = select(now.c.version).scalar_subquery()
    written = (
        sql_update(TASKS)
        .values(position=ranked_position(version, ranks.c.rank), version=version, updated_at=NOW)
        .where(TASKS.c.user_id == user_id(), TASKS.c.id == ranks.c.id)
        .returning(TASKS.c.id)
        .cte("written")
    )
    changed = is_there(written)
    return write(select(now.c.version, notice(now, changed)), changed)


Place = tuple[ColumnElement[Any], ColumnElement[bool], ColumnElement[bool]]


def _target(kind: str, before: CTE, now: CTE) -> CTE:
    """The key of the place, whether there is such a place, and whether the task stands there already."""
    own = before.c.position
    place: Place
    version = select(now.c.version).scalar_subquery()
    # Also beside the first or last task: what is moved or made there next must come further out.
    key = first_position(version) if kind in {"toStart", "before"} else last_position(version)
    if kind in {"toStart", "toEnd"}:
        passed = _position < own if kind == "toStart" else _position > own
        place = (key, ~exists(select(_others.c.id).where(_other, passed)), true())
    else:
        place = _beside(kind, before, key)
    key, settled, anchored = place
    return (
        select(key.label("key"), settled.label("settled"), anchored.label("anchored")).select_from(before).cte("target")
    )


def _beside(kind: str, before: CTE, outermost: ColumnElement[str]) -> Place:
    anchor_id = bindparam("anchor", type_=Uuid)
    live = and_(TASKS.c.user_id == user_id(), TASKS.c.deleted_at.is_(None), TASKS.c.id == anchor_id)
    anchor = select(TASKS.c.position).where(live).scalar_subquery()
    own, ahead = before.c.position, kind == "before"
    side = _position < anchor if ahead else _position > anchor
    order = _position.desc() if ahead else _position.asc()
    nearest = select(_position).where(_other, side).order_by(order).limit(literal_column("1")).scalar_subquery()
    between = and_(_position > own, _position < anchor) if ahead else and_(_position < own, _position > anchor)
    in_order = own < anchor if ahead else own > anchor
    settled = or_(before.c.id == anchor_id, and_(in_order, ~exists(select(_others.c.id).where(_other, between))))
    ends = (nearest, anchor) if ahead else (anchor, nearest)
    key = case((nearest.is_(None), outermost), else_=func.position_between(*ends, type_=Text))
    return key, func.coalesce(settled, false()), anchor.is_not(None)
