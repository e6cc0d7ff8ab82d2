"""The statements that write: each changes one row while it holds the lock of the user's clock, and renders the row.

When such a statement writes (`statements.write`), the transaction acts as the user and has advanced the clock. So its
snapshot contains all earlier writes of the user. If it changes nothing, it sets the clock back. `create_new` reads
nothing, and does everything in one execution.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    Integer,
    Uuid,
    and_,
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
from sqlalchemy import (
    update as sql_update,
)
from sqlalchemy.dialects.postgresql import Insert, insert

from app.database import notices
from app.database.rendering import Columns, Selection
from app.database.statements import Creation, Statement, compiled, text_literal, user_id, write
from app.entities import edges, membership, tombstones
from app.entities.content import alike, compares, differ, parameters, seen_parameters, sets
from app.entities.creation import HASH, has_hash
from app.entities.entity import Contents, Entity
from app.models import CLOCKS

# statement_timestamp() instead of now(): the transaction begins before it waits for the lock of the clock. Updates read
# it from the CTE of the clock, because Citus rejects a function within CASE in an update.
NOW = func.statement_timestamp()
# How many rows a user may own, including those in the trash.
QUOTA: ColumnElement[int] = bindparam("quota", type_=Integer)
# The code of a row that cannot be changed because it is in the trash.
IN_TRASH = "IN_TRASH"
_EXPECTED: ColumnElement[int] = bindparam("expected", type_=Integer)
CONFLICT = "CONFLICT"
# The place of a write in its batch, from FIRST_RANK: so that keys of a batch differ from those of bulk writes.
RANK: ColumnElement[int] = bindparam("rank", type_=Integer)
FIRST_RANK = 0x800000


class Change(NamedTuple):
    """The shape of a write. Each shape has its own compiled statement.

    The columns in `seen` are written only if they have the value that the caller has seen, or already the new one.

    In a batch, one statement serves all writes of a kind: parameters say which columns an update writes and compares,
    and have the rank of the write in the batch.
    """

    kind: str
    columns: tuple[str, ...]
    expects_version: bool = False
    seen: tuple[str, ...] = ()
    in_batch: bool = False


def create(entity: Entity, payload: Selection, change: Change) -> Statement:
    """Insert a row, unless the id exists. Then equal content succeeds without a write, and other content is rejected.

    Rejected if the user has reached the quota; `owned` is the number of rows before. Rejected if a row with this id was
    deleted permanently, or if its container does not exist or is in the trash.
    """
    before, now = present(entity), clock(entity.counter)
    count = now.c[entity.counter.name]
    has_room = count < QUOTA
    content, wanted = parameters(entity, change.columns), bindparam("id", type_=Uuid)
    is_used = or_(membership.is_namesake(entity, wanted), tombstones.is_gone(wanted))
    accepted = and_(not_(is_used), membership.is_accepted(entity, content))
    # Not left to the conflict alone: triggers run before it is found, and would keep the tags of a rejected task.
    is_new = not_(is_there(before))
    inserted = _inserted(entity, change, now, and_(has_room, is_new, accepted)).on_conflict_do_nothing()
    written = inserted.returning(*entity.table.c).cte("written")
    refusal = case(
        (is_there(written), null()),
        (_is_same(entity, before, change), null()),
        (before.c.id.is_not(None), text_literal("ID_TAKEN")),
        (tombstones.is_gone(wanted), text_literal("GONE")),
        (not_(has_room), text_literal("LIMIT_EXCEEDED")),
        *membership.refusals(entity, content),
        else_=text_literal("ID_TAKEN"),
    )
    made = outcome(entity, payload, change, now, before, written, refusal, owned=count.label("owned"))
    return replace(made, repeatable=True, creation=cache(partial(_creation, entity, payload, change)))


def create_new(entity: Entity, payload: Selection, change: Change) -> Statement:
    """Insert a row with a new id made by the server. It reads nothing, so its snapshot may be older than its lock.

    The parts run in this order, because each uses the output of the one before: act as the user, advance the clock,
    insert the row. The insert itself returns the result, which saves the plan two scans and a join. If the user has
    reached the quota, the clock stays and the statement returns no row.
    """
    acting = func.act_as(user_id()).table_valued(column("user_id", Uuid), name="me").render_derived()
    one: ColumnElement[int] = literal_column("1", Integer)
    counter, table = entity.counter, entity.table
    first = insert(CLOCKS).from_select(["user_id", "version", counter.name], select(acting.c.user_id, one, one))
    later = first.on_conflict_do_update(
        index_elements=[CLOCKS.c.user_id],
        set_={"version": CLOCKS.c.version + one, counter.name: counter + one},
        where=counter < QUOTA,
    )
    now = later.returning(CLOCKS.c.user_id, CLOCKS.c.version).cte("clock")
    result = null().label("code"), table.c.version, notice(table, true()), *_shown(entity, payload, table)
    other = create(entity, payload, change)
    made = compiled(_inserted(entity, change, now).returning(*result))
    return replace(made, repeatable=True, after_loss=other, creation=other.creation)


def _creation(entity: Entity, payload: Selection, change: Change) -> Creation:
    """The equivalent of `create` on a cluster, where the clock has already counted the row."""
    now, before = clock(entity.counter), present(entity)
    content, wanted = parameters(entity, change.columns), bindparam("id", type_=Uuid)
    is_used = or_(membership.is_namesake(entity, wanted), tombstones.is_gone(wanted))
    accepted = and_(not_(is_used), membership.is_accepted(entity, content))
    row, has_room = entity.table.c, entity.counter <= QUOTA
    same = exists(select(row.id).where(row.user_id == user_id(), row.id == wanted))
    rows = _inserted(entity, change, CLOCKS, and_(CLOCKS.c.user_id == user_id(), has_room, not_(same), accepted))
    shown = _shown(entity, payload, entity.table)
    insert_ = rows.on_conflict_do_nothing().returning(null().label("code"), entity.table.c.version, *shown)
    refusal = case(
        (_is_same(entity, before, change), null()),
        (before.c.id.is_not(None), text_literal("ID_TAKEN")),
        (tombstones.is_gone(wanted), text_literal("GONE")),
        (now.c[entity.counter.name] > QUOTA, text_literal("LIMIT_EXCEEDED")),
        *membership.refusals(entity, content),
        else_=text_literal("ID_TAKEN"),
    )
    one: ColumnElement[int] = literal_column("1")
    look = select(
        refusal.label("code"),
        (now.c.version - one).label("version"),
        (now.c[entity.counter.name] - one).label("owned"),
        literal_column("0").label("new"),
        *_shown(entity, payload, before),
    )
    return Creation(compiled(insert_), compiled(look.select_from(now.outerjoin(before, true()))))


def _is_same(entity: Entity, before: CTE, change: Change) -> ColumnElement[bool]:
    """Whether the existing row was created with the content of the row to create, or if unknown, has it now."""
    given = parameters(entity, change.columns)
    same = and_(true(), *(not_(deviates(entity, name, before, value)) for name, value in given.items()))
    return case((has_hash(before.c), before.c.create_hash == HASH), else_=same)


def deviates(entity: Entity, name: str, before: CTE, value: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether an existing row differs from the content of a row to create. What creates may omit is then null."""
    other = differ(entity, name, before.c[name], value)
    return and_(value.is_not(None), other) if entity.contents[name].optional else other


def _inserted(entity: Entity, change: Change, now: FromClause, where: ColumnElement[bool] | None = None) -> Insert:
    content = parameters(entity, change.columns)
    columns = {
        "user_id": now.c.user_id,
        "id": bindparam("id", type_=Uuid),
        "position": last_position(now.c.version, in_batch=change.in_batch),
        "version": now.c.version,
        "updated_at": NOW,
        **content,
        "created_at": func.coalesce(content["created_at"], NOW) if "created_at" in content else NOW,
        **entity.following(content, None, NOW),
    }
    if change.kind == "create":
        columns["create_hash"] = HASH
    row = select(*columns.values()).select_from(now)
    return insert(entity.table).from_select(list(columns), row if where is None else row.where(where))


def update(entity: Entity, payload: Selection, change: Change) -> Statement:
    """Update columns of a row. Rejected if it is in the trash."""
    row = entity.table.c
    given = _given(entity, change, row)
    content = entity.merged(given, row)
    refused = *entity.refused(given, row).values(), *_conflicts(entity, change, row).values()
    due = and_(row.deleted_at.is_(None), differs(entity, content), *map(not_, refused))

    def values(at: ColumnElement[Any]) -> Contents:
        return {**content, **entity.following(content, row, at)}

    return _changed(entity, payload, change, values, due, live_only=True)


def _given(entity: Entity, change: Change, row: Columns) -> Contents:
    """What an update sets. A column that the values do not choose keeps its value."""
    given = parameters(entity, change.columns)
    if not change.in_batch:
        return given
    kept = {name: row[name] for name in given if name not in entity.more_contents}
    return given | {name: case((sets(name), given[name]), else_=value) for name, value in kept.items()}


def _conflicts(entity: Entity, change: Change, row: Columns) -> dict[str, ColumnElement[bool]]:
    """When a column has neither the value that the caller has seen nor the new one."""
    given, seen = parameters(entity, change.columns), seen_parameters(entity, change.seen)
    return {
        name: and_(
            compares(name) if change.in_batch else true(),
            not_(alike(entity, name, row[name], value)),
            not_(alike(entity, name, row[name], given[name])),
        )
        for name, value in seen.items()
    }


def _conflict(conflicts: Mapping[str, ColumnElement[bool]]) -> ColumnElement[str]:
    """The error code, followed by the columns."""
    code: ColumnElement[str] = text_literal(CONFLICT)
    for name, condition in conflicts.items():
        code = code.concat(case((condition, text_literal(f" {name}")), else_=text_literal("")))
    return code


def delete(entity: Entity, payload: Selection, change: Change) -> Statement:
    """Move a row to the trash, and with it what it contains. Changes nothing if it is already there."""
    _, due = membership.deleted(entity, null())
    return _changed(entity, payload, change, lambda at: membership.deleted(entity, at)[0], due)


def restore(entity: Entity, payload: Selection, change: Change) -> Statement:
    """Take a row out of the trash, and with it what went there with it. Changes nothing if it is not there."""
    content, due = membership.restored(entity)
    return _changed(entity, payload, change, lambda _at: content, due)


def last_position(version: ColumnElement[int], *, in_batch: bool = False) -> ColumnElement[str]:
    """A key after all earlier ones, of fixed width. It does not end in 0, so that other keys fit before it.

    The writes of a batch have one version, and are told apart by their ranks.
    """
    if in_batch:
        return ranked_position(version, RANK)
    return text_literal("a").concat(_hexadecimal(version, 8)).concat(text_literal("V"))


def first_position(version: ColumnElement[int], *, in_batch: bool = False) -> ColumnElement[str]:
    """A key before all earlier ones."""
    key = text_literal("Z").concat(_hexadecimal(literal_column("2147483647") - version, 8))
    if in_batch:
        key = key.concat(_hexadecimal(literal_column(str(0xFFFFFF)) - RANK, 6))
    return key.concat(text_literal("V"))


def ranked_position(version: ColumnElement[int], rank: ColumnElement[int]) -> ColumnElement[str]:
    """Keys for the rows of one bulk write, in the order of their rank."""
    key = text_literal("a").concat(_hexadecimal(version, 8)).concat(_hexadecimal(rank, 6))
    return key.concat(text_literal("V"))


def _hexadecimal(number: ColumnElement[Any], digits: int) -> ColumnElement[str]:
    return func.lpad(func.to_hex(cast(number, Integer)), literal_column(str(digits)), text_literal("0"))


def differs(entity: Entity, content: Contents) -> ColumnElement[bool]:
    """Whether a row differs from the content."""
    row = entity.table.c
    return or_(false(), *(differ(entity, name, row[name], value) for name, value in content.items()))


def _changed(  # noqa: PLR0913 - the parts of a statement
    entity: Entity,
    payload: Selection,
    change: Change,
    values: Callable[[ColumnElement[Any]], Contents],
    due: ColumnElement[bool],
    *,
    live_only: bool = False,
) -> Statement:
    """Set what `values` returns for the time of the write, if the row is `due`; with `live_only` not in the trash."""
    before, now, table = present(entity), clock(), entity.table
    refused = membership.refusals(entity, parameters(entity, change.columns))
    overfull = entity.refused(_given(entity, change, before.c), before.c).items()
    conflicts = _conflicts(entity, change, before.c)
    written = (
        sql_update(table)
        .values(**values(now.c.at), version=now.c.version, updated_at=now.c.at)
        .where(table.c.user_id == user_id(), table.c.user_id == now.c.user_id)
        .where(table.c.id == bindparam("id", type_=Uuid), due, _is_expected(table.c, change))
        .where(*(not_(condition) for condition, _ in refused))
        .returning(*table.c)
        .cte("written")
    )
    refusal = case(
        (before.c.id.is_(None), text_literal("NOT_FOUND")),
        # Before the version, because moving it to the trash has changed that, too.
        *([is_trashed(before)] if live_only else []),
        (not_(_is_expected(before.c, change)), text_literal("VERSION_CONFLICT")),
        (or_(false(), *conflicts.values()), _conflict(conflicts)),
        *refused,
        *((condition, text_literal(code)) for code, condition in overfull),
        else_=null(),
    )
    follow = entity.container if change.kind in {"delete", "restore"} else None
    with_it = [membership.following(follow, written, now, change.kind).cte("following")] if follow else []
    other = outcome(entity, payload, change, now, before, written, refusal, with_it=with_it)
    # These read other rows, and the snapshot of a statement that locks the clock itself may be older than the lock.
    if change.in_batch or with_it or refused or (entity.member and change.kind == "restore"):
        return other
    return replace(_changed_at_once(entity, payload, change, values, due), after_loss=other)


def _changed_at_once(
    entity: Entity,
    payload: Selection,
    change: Change,
    values: Callable[[ColumnElement[Any]], Contents],
    due: ColumnElement[bool],
) -> Statement:
    """The same in one execution. It returns no row if nothing is due; then `after_loss` says why.

    Each part reads what the previous one returned, so the transaction acts as the user before it reads anything, and
    the clock is locked before the row is written. Whether the change is due is checked twice: in the snapshot, so that
    the clock does not advance without a change, and in the row once the clock is locked, because it may be newer.
    """
    table, one = entity.table, literal_column("1", Integer)
    is_due = and_(due, _is_expected(table.c, change))
    seen = _seen(table, is_due)
    first = select(seen.c.user_id, one)
    moved = insert(CLOCKS).from_select(["user_id", "version"], first)
    moved = moved.on_conflict_do_update(index_elements=[CLOCKS.c.user_id], set_={"version": CLOCKS.c.version + one})
    now = moved.returning(CLOCKS.c.user_id, CLOCKS.c.version).cte("clock")
    written = (
        sql_update(table)
        .values(**values(NOW), version=now.c.version, updated_at=NOW)
        .where(table.c.user_id == now.c.user_id, _place(table) == seen.c.place, is_due)
        .returning(*table.c)
        .cte("written")
    )
    # Fails, and rolls back, if another write was faster: the clock must not advance without a change.
    kept = case((written.c.id.is_(None), text_literal("another write has changed the row")), else_=text_literal("0"))
    version = (now.c.version + cast(kept, Integer)).label("version")
    row = select(null().label("code"), version, notice(now, true()), *_shown(entity, payload, written))
    return compiled(row.select_from(now.outerjoin(written, true())))


def _seen(table: FromClause, is_due: ColumnElement[bool]) -> CTE:
    """The user and the place of the row, if the change is due in the snapshot. The transaction then acts as the user.

    The update finds the row by its place: the planner does not know that one row is wanted, and with the id it may scan
    all rows of the user in whatever index it believes to be small.
    """
    one: ColumnElement[int] = literal_column("1", Integer)
    me = func.act_as(user_id()).table_valued(column("user_id", Uuid), name="me").render_derived()
    wanted = and_(table.c.user_id == me.c.user_id, table.c.id == bindparam("id", type_=Uuid), is_due)
    found = select(_place(table).label("place")).select_from(table).where(wanted).limit(one).lateral("found")
    return select(me.c.user_id, found.c.place).select_from(me.join(found, true())).cte("seen")


def _place(table: FromClause) -> ColumnElement[Any]:
    """The physical place of a row version. It is valid within a statement: no row version moves."""
    return literal_column(f"{table.description}.ctid")


def _is_expected(row: Columns, change: Change) -> ColumnElement[bool]:
    if not change.expects_version:
        return true()
    same = row.version == _EXPECTED
    return or_(_EXPECTED.is_(None), same) if change.in_batch else same


def present(entity: Entity) -> CTE:
    """The row before this statement, also if it is in the trash."""
    table = entity.table
    wanted = table.c.id == bindparam("id", type_=Uuid)
    return select(table).where(table.c.user_id == user_id(), wanted).cte("present")


def is_trashed(before: CTE) -> tuple[ColumnElement[bool], ColumnElement[str]]:
    """When the row itself is in the trash, with the code of that."""
    return before.c.deleted_at.is_not(None), text_literal(IN_TRASH)


def clock(*more: ColumnElement[Any]) -> CTE:
    """The user's clock, as advanced by this write, and the time of the write."""
    columns = CLOCKS.c.user_id, CLOCKS.c.version, NOW.label("at"), *more
    return select(*columns).where(CLOCKS.c.user_id == user_id()).cte("clock")


def version_after(now: CTE, changed: ColumnElement[bool]) -> ColumnElement[Any]:
    """The user's clock after this statement, which sets it back by one if nothing changed."""
    return now.c.version - case((changed, literal_column("0")), else_=literal_column("1"))


def notice(now: FromClause, changed: ColumnElement[bool]) -> ColumnElement[Any]:
    """Notify the user's followers of the user's clock, if anything changed."""
    # Nested CASE: the lock must not be tried if nothing changed.
    return case((changed, notices.notice(user_id(), now.c.version))).label("notice")


def is_there(rows: CTE) -> ColumnElement[bool]:
    return exists(select(literal_column("1")).select_from(rows))


def count_after(entity: Entity, made: CTE) -> dict[str, ColumnElement[int]]:
    """The user's counter after these rows are inserted."""
    return {entity.counter.name: entity.counter + select(func.count()).select_from(made).scalar_subquery()}


def outcome(  # noqa: PLR0913, PLR0917 - the parts of a statement
    entity: Entity,
    payload: Selection,
    change: Change,
    now: CTE,
    before: CTE,
    written: CTE,
    refusal: ColumnElement[Any],
    *,
    owned: ColumnElement[int] | None = None,
    with_it: Sequence[CTE] = (),
) -> Statement:
    """One row: the error code, the clock, and the JSON for each response key.

    A statement that inserts a row also returns how many there were before, as `owned`. `with_it` are further changes.
    """
    changed = is_there(written)
    current = union_all(select(written), select(before).where(not_(changed))).cte("current")
    version = version_after(now, changed)
    rows = now.outerjoin(current, true()).outerjoin(before, true())
    columns = refusal.label("code"), version.label("version"), notice(now, changed), *_shown(entity, payload, current)
    if owned is None:
        return write(select(*columns).select_from(rows).add_cte(*with_it), changed, in_batch=change.in_batch)
    counts = count_after(entity, written)
    return write(select(*columns, owned).select_from(rows), changed, counts, in_batch=change.in_batch)


def _shown(entity: Entity, payload: Selection, rows: FromClause) -> list[ColumnElement[Any]]:
    """The row as JSON, for each response key that selects it."""
    found = rows.c.id.is_not(None)
    return [
        case((found, edges.shown(entity, entry, rows.c)), else_=null()).label(f"{entity.one}_{place}")
        for place, entry in enumerate(payload.entries(entity.one, entity.edge))
    ]
