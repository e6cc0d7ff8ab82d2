"""The statements that write many rows at once: all selected rows, or none."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    FromClause,
    Integer,
    Interval,
    TableValuedAlias,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
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

from app.database.rendering import Field, Selection, joined
from app.database.statements import Creation, Statement, compiled, text_literal, user_id, write
from app.entities import edges, membership, tombstones
from app.entities.content import parameters
from app.entities.creation import has_hash
from app.entities.entity import Contents, Entity, Shape
from app.entities.filters import condition
from app.entities.writing import (
    NOW,
    QUOTA,
    clock,
    count_after,
    deviates,
    differs,
    is_there,
    notice,
    ranked_position,
    version_after,
)
from app.models import CLOCKS

# Lists are passed as text[]: for other list types, asyncpg needs a catalog lookup.
_MICROSECOND = literal_column("interval '1 microsecond'", Interval)
IDS = cast(bindparam("ids", type_=ARRAY(Text)), ARRAY(Uuid))


class Many(NamedTuple):
    """The shape of a bulk write: its kind, the columns it sets, and the filter; None selects by ids."""

    kind: str
    columns: tuple[str, ...]
    filter: Shape | None


def create(entity: Entity, payload: Selection) -> Statement:
    """Insert rows, all or none.

    Inserts none if an id exists with other content: `places` lists their indexes. Inserts none if the quota would be
    exceeded: `owned` is then the current number of rows, otherwise null. Inserts none if an id was deleted permanently,
    or a container is not found or in the trash: `gone`, `unknown` and `trashed` list the indexes.
    """
    now, given, table = clock(entity.counter), _given(entity), entity.table
    present = _present(entity, given)
    taken = _taken(entity, given, present)
    is_new = given.c.id.not_in(select(present.c.id))
    more = select(func.count()).select_from(given).where(is_new).scalar_subquery()
    excess = _excess(now.c[entity.counter.name], more)
    refused = _refused(entity, given, is_new)
    free = not_(or_(is_there(taken), is_there(excess), *map(is_there, refused.values())))
    columns = _inserted(entity, given, now)
    new = select(*columns.values()).select_from(given.join(now, true())).where(free, is_new)
    inserted = insert(table).from_select(list(columns), new).on_conflict_do_nothing()
    written = inserted.returning(*table.c).cte("written")
    current = union_all(select(written), select(present)).cte("current")
    rows = current.join(given, given.c.id == current.c.id)
    listed = lists(entity, payload, current, rows, given.c.place, free)
    affected = select(func.count()).select_from(rows).where(free).scalar_subquery()
    owned = select(excess.c.owned).scalar_subquery()
    why = [owned.label("owned"), *(_places(rows_).label(name) for name, rows_ in refused.items())]
    made = _many(entity, now, written, listed, affected, _places(taken), new=why)
    return replace(made, repeatable=True, creation=cache(partial(_creation, entity, payload)))


def _creation(entity: Entity, payload: Selection) -> Creation:
    """The equivalent of `create` on a cluster, where the clock has already counted the rows."""
    return Creation(_insert(entity), _look(entity, payload), _settle(entity))


def _insert(entity: Entity) -> Statement:
    given, table = _rows(entity), entity.table
    columns = _inserted(entity, given, CLOCKS)
    has_room = and_(CLOCKS.c.user_id == user_id(), entity.counter <= QUOTA)
    known = select(table.c.id).where(table.c.user_id == user_id())
    is_new = ~exists(known.where(table.c.id == given.c.id))
    is_used = or_(membership.is_namesake(entity, given.c.id), tombstones.is_gone(given.c.id))
    accepted = and_(membership.is_accepted(entity, given.c), not_(is_used))
    rows = select(*columns.values()).select_from(CLOCKS.join(given, true())).where(has_room, is_new, accepted)
    inserted = insert(table).from_select(list(columns), rows).on_conflict_do_nothing()
    return compiled(inserted.returning(table.c.id))


def _look(entity: Entity, payload: Selection) -> Statement:
    """The result of the write. Rows that it has created have the version of the clock."""
    now, given = clock(entity.counter), _given(entity)
    present = _present(entity, given)
    taken = _taken(entity, given, present)
    before = select(present.c.id).where(present.c.version < select(now.c.version).scalar_subquery())
    is_new = given.c.id.not_in(before)
    more = select(func.count()).select_from(given).where(is_new).scalar_subquery()
    excess = _excess(now.c[entity.counter.name] - bindparam("made", type_=Integer), more)
    refused = _refused(entity, given, is_new)
    free = not_(or_(is_there(taken), is_there(excess), *map(is_there, refused.values())))
    rows = present.join(given, given.c.id == present.c.id)
    new = case((free, more), else_=literal_column("0"))
    return compiled(
        select(
            version_after(now, new > literal_column("0")).label("version"),
            new.label("new"),
            select(func.count()).select_from(rows).where(free).scalar_subquery().label("affected"),
            _places(taken).label("places"),
            select(excess.c.owned).scalar_subquery().label("owned"),
            *(_places(rows_).label(name) for name, rows_ in refused.items()),
            *lists(entity, payload, present, rows, given.c.place, free),
        ).select_from(now)
    )


def _settle(entity: Entity) -> Statement:
    fewer = entity.counter - bindparam("known", type_=Integer)
    settled = sql_update(CLOCKS).values({entity.counter.name: fewer}).where(CLOCKS.c.user_id == user_id())
    return compiled(settled)


def _present(entity: Entity, given: CTE) -> CTE:
    """The existing rows with these ids."""
    table = entity.table
    return select(table).where(table.c.user_id == user_id(), _is_among(table.c.id, given)).cte("present")


def _taken(entity: Entity, given: CTE, present: CTE) -> CTE:
    """The indexes of ids that exist with other content, or of another entity's rows."""
    differs = or_(*(deviates(entity, name, present, given.c[name]) for name in entity.at_creation))
    changed = case((has_hash(present.c), present.c.create_hash.is_distinct_from(given.c.create_hash)), else_=differs)
    both = given.outerjoin(present, present.c.id == given.c.id)
    namesake = membership.is_namesake(entity, given.c.id)
    other = or_(and_(present.c.id.is_not(None), changed), and_(present.c.id.is_(None), namesake))
    return select(given.c.place).select_from(both).where(other).cte("taken")


def _refused(entity: Entity, given: CTE, is_new: ColumnElement[bool]) -> dict[str, CTE]:
    """The indexes of new rows whose ids are gone, whose container is not found, and whose container is in the trash."""
    names = ("unknown", "trashed")
    gone = select(given.c.place).where(is_new, tombstones.is_gone(given.c.id)).cte("gone")
    return {"gone": gone} | {
        name: select(given.c.place).where(is_new, condition).cte(name)
        for name, (condition, _) in zip(names, membership.refusals(entity, given.c), strict=False)
    }


def _places(taken: CTE) -> ColumnElement[Any]:
    return cast(func.array(select(taken.c.place).order_by(taken.c.place).scalar_subquery()), ARRAY(Text))


def change(entity: Entity, payload: Selection, shape: Many) -> Statement:
    """Update, delete or restore the selected rows, unless there are more than `at_most`.

    Conditions without a column are in subqueries, which the planner does not evaluate. If it found that neither part
    can have rows, Citus would not look for the shard of the table.
    """
    now, table, by_ids = clock(), entity.table, shape.filter is None
    selected = table.c.id == any_(IDS) if shape.filter is None else condition(entity, shape.filter)
    live = table.c.deleted_at.is_(None) if shape.kind == "update" else true()
    matched = select(table).where(table.c.user_id == user_id(), selected, live).cte("matched")
    are_few = func.count() <= bindparam("at_most", type_=Integer)
    few, wanted = (
        select(condition).select_from(matched).scalar_subquery()
        for condition in (are_few, and_(are_few, not_(bindparam("dry_run", type_=Boolean))))
    )
    content = parameters(entity, shape.columns)
    refused = [*membership.refusals(entity, content), *_overfull(entity, content, matched)]
    accepted = [not_(condition) for condition, _ in refused]
    values, due = _values(entity, shape, now.c.at)
    written = (
        sql_update(table)
        .values(**values, version=now.c.version, updated_at=now.c.at)
        .where(table.c.user_id == user_id(), table.c.user_id == now.c.user_id, _is_among(table.c.id, matched), due)
        .where(wanted, *accepted)
        .returning(*table.c)
        .cte("written")
    )
    untouched = select(matched).where(matched.c.id.not_in(select(written.c.id)))
    current = union_all(select(written), untouched).cte("current")
    listed = lists(entity, payload, current, current, current.c.id, and_(few, *accepted))
    total = select(func.count()).select_from(matched).scalar_subquery()
    code = case(*refused, else_=null()) if refused else null()
    unknown = missing(matched) if by_ids else null()
    ids, only_live = _ids(), by_ids and shape.kind == "update"
    trashed = _unmatched(ids, _is_in_trash(entity, ids.c.id)) if only_live else null()
    more = [code.label("code"), trashed.label("in_trash")]
    return _many(entity, now, written, listed, total, unknown, more=more)


def _overfull(entity: Entity, content: Contents, matched: CTE) -> membership.Refusals:
    """When an update is rejected because of what one of the rows contains, each with its code."""
    return [
        (exists(select(matched.c.id).where(condition)), text_literal(code))
        for code, condition in entity.refused(content, matched.c).items()
    ]


def _excess(count: ColumnElement[int], more: ColumnElement[int]) -> CTE:
    """One row with the number of rows that the user has, if `more` new rows would exceed the quota; else no row."""
    too_many = and_(more > literal_column("0"), count + more > QUOTA)
    return select(count.label("owned")).where(too_many).cte("excess")


def _is_among(row_id: ColumnElement[Any], rows: CTE) -> ColumnElement[bool]:
    """An array for a lookup by primary key: without statistics, a join would be planned for a single row."""
    return row_id == any_(func.array(select(rows.c.id).scalar_subquery(), type_=ARRAY(Uuid)))


def _given(entity: Entity) -> CTE:
    return select(_rows(entity)).cte("given")


def _rows(entity: Entity) -> TableValuedAlias:
    """The rows to create, from one JSON array."""
    rows = func.jsonb_to_recordset(cast(bindparam("rows", type_=Text), JSONB)).table_valued(
        column("place", Integer),
        column("id", Uuid),
        column("create_hash", BigInteger),
        *(column(name, content.cast or content.bound) for name, content in entity.at_creation.items()),
        name="rows",
    )
    return rows.render_derived(with_types=True)


def _inserted(entity: Entity, given: FromClause, now: FromClause) -> dict[str, ColumnElement[Any]]:
    """The columns of new rows. Each row is a microsecond later than the one before, so that they keep their order."""
    at = NOW + given.c.place * _MICROSECOND
    content = {name: given.c[name] for name in entity.at_creation}
    return {
        "user_id": now.c.user_id,
        "id": given.c.id,
        "position": ranked_position(now.c.version, given.c.place),
        "version": now.c.version,
        "updated_at": at,
        "create_hash": given.c.create_hash,
        **content,
        "created_at": func.coalesce(content["created_at"], at) if "created_at" in content else at,
        **entity.following(content, None, at),
    }


def _values(entity: Entity, shape: Many, at: ColumnElement[Any]) -> tuple[Contents, ColumnElement[bool]]:
    """The values to set, and the condition for rows that do not have them yet."""
    row = entity.table.c
    if shape.kind == "delete":
        return membership.deleted(entity, at)
    if shape.kind == "restore":
        return membership.restored(entity)
    content = entity.merged(parameters(entity, shape.columns), row)
    due = differs(entity, content) if content else select(false()).scalar_subquery()
    return {**content, **entity.following(content, row, at)}, due


def _ids() -> TableValuedAlias:
    """The selected ids, with their places from 1."""
    ids = func.unnest(IDS).table_valued(column("id", Uuid), with_ordinality="place", name="ids")
    return ids.render_derived()


def _unmatched(ids: TableValuedAlias, where: ColumnElement[bool]) -> ColumnElement[Any]:
    """The indexes, from 0, of the ids that meet a condition."""
    found = select(ids.c.place - literal_column("1")).where(where).order_by(ids.c.place)
    return cast(func.array(found.scalar_subquery()), ARRAY(Text))


def missing(matched: CTE) -> ColumnElement[Any]:
    """The indexes, from 0, of the ids without a row."""
    ids = _ids()
    return _unmatched(ids, ~exists().where(matched.c.id == ids.c.id))


def _is_in_trash(entity: Entity, row_id: ColumnElement[Any]) -> ColumnElement[bool]:
    row = entity.table.alias("trash")
    # All ids at once, so that the planner looks them up, and does not read the whole trash.
    given = and_(row.c.user_id == user_id(), row.c.id == any_(IDS), row.c.deleted_at.is_not(None))
    return exists(select(row.c.id).where(given, row.c.id == row_id)).correlate_except(row)


def lists(  # noqa: PLR0913, PLR0917 - the parts of a statement
    entity: Entity,
    payload: Selection,
    current: CTE,
    rows: FromClause,
    order: ColumnElement[Any],
    shown: ColumnElement[bool],
) -> list[ColumnElement[Any]]:
    """The rows as a JSON list, for each response key that selects them."""

    def listed(entry: Field) -> ColumnElement[Any]:
        element = edges.shown(entity, entry, current.c)
        elements = func.string_agg(element, aggregate_order_by(text_literal(","), order))
        text = joined([text_literal("["), func.coalesce(elements, text_literal(""), type_=Text), text_literal("]")])
        return select(text).select_from(rows).where(shown).scalar_subquery()

    return [
        listed(entry).label(f"{entity.many}_{place}")
        for place, entry in enumerate(payload.entries(entity.many, entity.edges))
    ]


def _many(  # noqa: PLR0913, PLR0917 - the parts of a statement
    entity: Entity,
    now: CTE,
    written: CTE,
    listed: list[ColumnElement[Any]],
    affected: ColumnElement[Any],
    places: ColumnElement[Any],
    *,
    new: Sequence[ColumnElement[Any]] = (),
    more: Sequence[ColumnElement[Any]] = (),
) -> Statement:
    """One row. `new` are further columns of a statement that inserts rows, `more` those of one that changes rows."""
    changed = is_there(written)
    columns = [
        version_after(now, changed).label("version"),
        affected.label("affected"),
        places.label("places"),
        notice(now, changed),
        *listed,
    ]
    if not new:
        return write(select(*columns, *more).select_from(now), changed)
    return write(select(*columns, *new).select_from(now), changed, count_after(entity, written))
