"""The statements that write many tasks at once: all that are selected, or none."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    CTE,
    Boolean,
    ColumnElement,
    Date,
    Integer,
    SmallInteger,
    String,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    column,
    exists,
    false,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy import update as sql_update
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by, insert

from app.database.rendering import Selection, joined, task_json
from app.database.statements import Statement, text_literal, user_id, write
from app.entities.filters import Shape, condition
from app.entities.writing import (
    NOW,
    QUOTA,
    Change,
    clock,
    completion,
    contents,
    is_there,
    notice,
    ranked_position,
    tasks_after,
    version_after,
)
from app.models import CLOCKS, TASKS

_CONTENT = ("title", "description", "priority", "due_date", "tags")
# Lists go over the wire as text[], which the driver knows: others would cost it a look into the catalog.
_IDS = cast(bindparam("ids", type_=ARRAY(Text)), ARRAY(Uuid))


class Many(NamedTuple):
    """The shape of a write of many tasks: what is done, the columns it sets, and the filter; None selects by ids."""

    kind: str
    columns: tuple[str, ...]
    filter: Shape | None


def create(payload: Selection) -> Statement:
    """Insert tasks, all or none.

    None where an id is taken by other content: `places` says which. None where the user would own more than she may:
    `owned` then says how many she has.
    """
    now, given = clock(CLOCKS.c.tasks), _given()
    present = select(TASKS).where(TASKS.c.user_id == user_id(), _is_among(TASKS.c.id, given)).cte("present")
    differs = or_(*(present.c[name].is_distinct_from(given.c[name]) for name in _CONTENT))
    taken = select(given.c.place).join(present, present.c.id == given.c.id).where(differs).cte("taken")
    is_new = given.c.id.not_in(select(present.c.id))
    excess = _excess(now, select(func.count()).select_from(given).where(is_new).scalar_subquery())
    free = not_(or_(is_there(taken), is_there(excess)))
    columns = _inserted(given, now)
    new = select(*columns.values()).select_from(given.join(now, true())).where(free, is_new)
    written = insert(TASKS).from_select(list(columns), new).on_conflict_do_nothing().returning(*TASKS.c).cte("written")
    current = union_all(select(written), select(present)).cte("current")
    places = cast(func.array(select(taken.c.place).order_by(taken.c.place).scalar_subquery()), ARRAY(Text))
    rows = current.join(given, given.c.id == current.c.id)
    lists = [_json_list(entry.inner, current, rows, given.c.place, free) for entry in payload.entries("tasks")]
    affected = select(func.count()).select_from(rows).where(free).scalar_subquery()
    owned = select(excess.c.owned).scalar_subquery()
    return replace(_many(now, written, lists, affected, places, owned=owned), repeatable=True)


def change(payload: Selection, shape: Many) -> Statement:
    """Update, delete or restore what is selected, unless that is more than `at_most`."""
    now, by_ids = clock(), shape.filter is None
    selected = TASKS.c.id == any_(_IDS) if shape.filter is None else condition(shape.filter)
    live = TASKS.c.deleted_at.is_(None) if shape.kind == "update" else true()
    matched = select(TASKS).where(TASKS.c.user_id == user_id(), selected, live).cte("matched")
    within = select(func.count() <= bindparam("at_most", type_=Integer)).select_from(matched).scalar_subquery()
    values, due = _values(shape)
    written = (
        sql_update(TASKS)
        .values(**values, version=select(now.c.version).scalar_subquery(), updated_at=NOW)
        .where(TASKS.c.user_id == user_id(), _is_among(TASKS.c.id, matched), due)
        .where(within, not_(bindparam("dry_run", type_=Boolean)))
        .returning(*TASKS.c)
        .cte("written")
    )
    untouched = select(matched).where(matched.c.id.not_in(select(written.c.id)))
    current = union_all(select(written), untouched).cte("current")
    lists = [_json_list(entry.inner, current, current, current.c.id, within) for entry in payload.entries("tasks")]
    total = select(func.count()).select_from(matched).scalar_subquery()
    return _many(now, written, lists, total, _missing(matched) if by_ids else null())


def _excess(now: CTE, more: ColumnElement[int]) -> CTE:
    """A row with how many tasks the user has, if so many more are too many. None more are never too many."""
    too_many = and_(more > literal_column("0"), now.c.tasks + more > QUOTA)
    return select(now.c.tasks.label("owned")).where(too_many).cte("excess")


def _is_among(task_id: ColumnElement[Any], rows: CTE) -> ColumnElement[bool]:
    """As an array, to look the primary key up by: a join is planned for one row where statistics are missing."""
    return task_id == any_(func.array(select(rows.c.id).scalar_subquery(), type_=ARRAY(Uuid)))


def _given() -> CTE:
    """The tasks to make, as rows, from one JSON array."""
    rows = func.jsonb_to_recordset(cast(bindparam("rows", type_=Text), JSONB)).table_valued(
        column("place", Integer),
        column("id", Uuid),
        column("title", Text),
        column("description", Text),
        column("priority", SmallInteger),
        column("due_date", Date),
        column("tags", ARRAY(String)),
        name="rows",
    )
    return select(rows.render_derived(with_types=True)).cte("given")


def _inserted(given: CTE, now: CTE) -> dict[str, ColumnElement[Any]]:
    return {
        "user_id": user_id(),
        "id": given.c.id,
        "position": ranked_position(now.c.version, given.c.place),
        "version": now.c.version,
        "created_at": NOW,
        "updated_at": NOW,
        **{name: given.c[name] for name in _CONTENT},
    }


def _values(shape: Many) -> tuple[Mapping[str, ColumnElement[Any]], ColumnElement[bool]]:
    """What is set, and which of the selected tasks are not so already."""
    if shape.kind == "delete":
        return {"deleted_at": NOW}, TASKS.c.deleted_at.is_(None)
    if shape.kind == "restore":
        return {"deleted_at": null()}, TASKS.c.deleted_at.is_not(None)
    content = contents(Change(shape.kind, shape.columns))
    differs = or_(false(), *(TASKS.c[name].is_distinct_from(value) for name, value in content.items()))
    return content | completion(content, TASKS.c.completed_at), differs


def _missing(matched: CTE) -> ColumnElement[Any]:
    """The places, from 0, of the ids that select nothing."""
    ids = func.unnest(_IDS).table_valued(column("id", Uuid), with_ordinality="place", name="ids")
    ids = ids.render_derived()
    unknown = select(ids.c.place - literal_column("1")).where(~exists().where(matched.c.id == ids.c.id))
    return cast(func.array(unknown.order_by(ids.c.place).scalar_subquery()), ARRAY(Text))


def _json_list(
    selection: Selection, current: CTE, rows: Any, order: ColumnElement[Any], shown: ColumnElement[bool]
) -> ColumnElement[Any]:
    listed = func.string_agg(task_json(selection, current.c), aggregate_order_by(text_literal(","), order))
    text = joined([text_literal("["), func.coalesce(listed, text_literal(""), type_=Text), text_literal("]")])
    return select(text).select_from(rows).where(shown).scalar_subquery()


def _many(  # noqa: PLR0913 - the parts of a statement
    now: CTE,
    written: CTE,
    lists: list[ColumnElement[Any]],
    affected: ColumnElement[Any],
    places: ColumnElement[Any],
    *,
    owned: ColumnElement[Any] | None = None,
) -> Statement:
    changed = is_there(written)
    columns = [
        version_after(now, changed).label("version"),
        affected.label("affected"),
        places.label("places"),
        notice(now, changed),
    ]
    columns += [entry.label(f"tasks_{place}") for place, entry in enumerate(lists)]
    if owned is None:
        return write(select(*columns).select_from(now), changed)
    return write(select(*columns, owned.label("owned")).select_from(now), changed, tasks_after(written))
