"""The statements that write: each changes one task under the user's locked clock and renders what it then is.

The user is acted as and the clock has moved on when such a statement is executed to write (`statements.write`), so its
snapshot holds all earlier writes of the user. Where it changes nothing, it moves the clock back. `create_new` reads
nothing, and does all in one execution.
"""

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

from app.database.rendering import Selection, task_json
from app.database.statements import CHANNEL, Statement, compiled, text_literal, user_id, write
from app.live.watching import nobody_follows
from app.models import CLOCKS, TASKS

# The statement's time and not the transaction's: it begins before the clock is waited for.
NOW = func.statement_timestamp()
# How many tasks a user may own, those in the trash included.
QUOTA: ColumnElement[int] = bindparam("quota", type_=Integer)

_CONTENT: Mapping[str, ColumnElement[Any]] = {
    "title": bindparam("title", type_=Text),
    "description": bindparam("description", type_=Text),
    "completed": bindparam("completed", type_=Boolean),
    "priority": bindparam("priority", type_=SmallInteger),
    "due_date": cast(bindparam("due_date", type_=Text), Date),
    "tags": cast(bindparam("tags", type_=ARRAY(Text)), ARRAY(String)),
}


class Change(NamedTuple):
    """The shape of a write: one compiled statement for each."""

    kind: str
    columns: tuple[str, ...]
    expects_version: bool = False


def create(payload: Selection, change: Change) -> Statement:
    """Insert a task, unless the id is there already: then the same content is the same task, other content refused.

    A user who owns as many tasks as she may gets no other; `owned` says how many she had before.
    """
    before, now = present(), clock(CLOCKS.c.tasks)
    has_room = now.c.tasks < QUOTA
    written = _inserted(change, now, has_room).on_conflict_do_nothing().returning(*TASKS.c).cte("written")
    same = and_(*(before.c[name].is_not_distinct_from(value) for name, value in contents(change).items()))
    refusal = case(
        (is_there(written), null()),
        (same, null()),
        (and_(before.c.id.is_(None), not_(has_room)), text_literal("LIMIT_EXCEEDED")),
        else_=text_literal("ID_TAKEN"),
    )
    owned = now.c.tasks.label("owned")
    return replace(outcome(payload, now, before, written, refusal, owned=owned), repeatable=True)


def create_new(payload: Selection, change: Change) -> Statement:
    """Insert a task with an id that was made for it. It reads nothing, so that its snapshot may be older than its lock.

    The user is acted as before the clock is moved on, and the clock before the task is written: each takes what the one
    before has returned. For a user at her quota the clock stays as it is, and the statement has no row.
    """
    acting = func.act_as(user_id()).table_valued(column("user_id", Uuid), name="me").render_derived()
    one: ColumnElement[int] = literal_column("1")
    first = insert(CLOCKS).from_select(["user_id", "version", "tasks"], select(acting.c.user_id, one, one))
    later = first.on_conflict_do_update(
        index_elements=[CLOCKS.c.user_id],
        set_={"version": CLOCKS.c.version + one, "tasks": CLOCKS.c.tasks + one},
        where=CLOCKS.c.tasks < QUOTA,
    )
    now = later.returning(CLOCKS.c.version).cte("clock")
    written = _inserted(change, now).returning(*TASKS.c).cte("written")
    row = select(null().label("code"), now.c.version, notice(now, true()), *_shown(payload, written))
    made, other = compiled(row.select_from(now.join(written, true()))), create(payload, change)
    return replace(made, repeatable=True, after_loss=other, in_cluster=other)


def _inserted(change: Change, now: CTE, has_room: ColumnElement[bool] | None = None) -> Insert:
    content = contents(change)
    columns = {
        "user_id": user_id(),
        "id": bindparam("id", type_=Uuid),
        "position": last_position(now.c.version),
        "version": now.c.version,
        "created_at": NOW,
        "updated_at": NOW,
        **content,
        **completion(content),
    }
    row = select(*columns.values()).select_from(now)
    return insert(TASKS).from_select(list(columns), row if has_room is None else row.where(has_room))


def update(payload: Selection, change: Change) -> Statement:
    """Set the columns of a task that is not in the trash."""
    content = contents(change)
    differs = or_(false(), *(TASKS.c[name].is_distinct_from(value) for name, value in content.items()))
    return _changed(
        payload,
        change,
        content | completion(content, TASKS.c.completed_at),
        and_(TASKS.c.deleted_at.is_(None), differs),
        in_trash=False,
    )


def delete(payload: Selection, change: Change) -> Statement:
    """Put a task in the trash; one that is there already stays as it is."""
    return _changed(payload, change, {"deleted_at": NOW}, TASKS.c.deleted_at.is_(None), in_trash=True)


def restore(payload: Selection, change: Change) -> Statement:
    """Take a task out of the trash; one that is not there stays as it is."""
    return _changed(payload, change, {"deleted_at": null()}, TASKS.c.deleted_at.is_not(None), in_trash=True)


def last_position(version: ColumnElement[int]) -> ColumnElement[str]:
    """A key after all that were made before it, of fixed width, and with room before it: it does not end in 0."""
    return text_literal("a").concat(_hexadecimal(version, 8)).concat(text_literal("V"))


def first_position(version: ColumnElement[int]) -> ColumnElement[str]:
    """A key before all that were made before it."""
    return text_literal("Z").concat(_hexadecimal(literal_column("2147483647") - version, 8)).concat(text_literal("V"))


def ranked_position(version: ColumnElement[int], rank: ColumnElement[int]) -> ColumnElement[str]:
    """Keys for many tasks of one write, in the order of their rank."""
    key = text_literal("a").concat(_hexadecimal(version, 8)).concat(_hexadecimal(rank, 6))
    return key.concat(text_literal("V"))


def _hexadecimal(number: ColumnElement[Any], digits: int) -> ColumnElement[str]:
    return func.lpad(func.to_hex(cast(number, Integer)), literal_column(str(digits)), text_literal("0"))


def contents(change: Change) -> dict[str, ColumnElement[Any]]:
    return {name: _CONTENT[name] for name in change.columns}


def completion(
    content: Mapping[str, ColumnElement[Any]], since: ColumnElement[Any] | None = None
) -> dict[str, ColumnElement[Any]]:
    """The time that goes with `completed`: now, unless the task was done before."""
    if "completed" not in content:
        return {}
    when = NOW if since is None else func.coalesce(since, NOW)
    return {"completed_at": case((content["completed"], when), else_=null())}


def _changed(
    payload: Selection,
    change: Change,
    values: Mapping[str, ColumnElement[Any]],
    due: ColumnElement[bool],
    *,
    in_trash: bool,
) -> Statement:
    before, now = present(in_trash=in_trash), clock()
    expected = bindparam("expected", type_=Integer)
    written = (
        sql_update(TASKS)
        .values(**values, version=select(now.c.version).scalar_subquery(), updated_at=NOW)
        .where(TASKS.c.user_id == user_id(), TASKS.c.id == bindparam("id", type_=Uuid), due)
        .where(TASKS.c.version == expected if change.expects_version else true())
        .returning(*TASKS.c)
        .cte("written")
    )
    stale = before.c.version != expected if change.expects_version else false()
    refusal = case(
        (before.c.id.is_(None), text_literal("NOT_FOUND")), (stale, text_literal("VERSION_CONFLICT")), else_=null()
    )
    return outcome(payload, now, before, written, refusal)


def present(*, in_trash: bool = True) -> CTE:
    """The task as it was before this statement, also from the trash or not."""
    wanted = TASKS.c.id == bindparam("id", type_=Uuid)
    live = true() if in_trash else TASKS.c.deleted_at.is_(None)
    return select(TASKS).where(TASKS.c.user_id == user_id(), wanted, live).cte("present")


def clock(*more: ColumnElement[Any]) -> CTE:
    return select(CLOCKS.c.version, *more).where(CLOCKS.c.user_id == user_id()).cte("clock")


def version_after(now: CTE, changed: ColumnElement[bool]) -> ColumnElement[Any]:
    """The user's clock when this is done: what changes nothing is rolled back, and the clock with it."""
    return now.c.version - case((changed, literal_column("0")), else_=literal_column("1"))


def notice(now: CTE, changed: ColumnElement[bool]) -> ColumnElement[Any]:
    """Tells those who follow the user of the user's clock, where anything was changed."""
    news = cast(user_id(), Text).concat(text_literal(" ")).concat(cast(now.c.version, Text))
    # One within the other: the lock is not to be tried where nothing was changed.
    told = case((not_(nobody_follows(user_id())), func.pg_notify(text_literal(CHANNEL), news)))
    return case((changed, told)).label("notice")


def is_there(rows: CTE) -> ColumnElement[bool]:
    return exists(select(literal_column("1")).select_from(rows))


def tasks_after(made: CTE) -> ColumnElement[int]:
    """How many tasks the user has when these are made."""
    return CLOCKS.c.tasks + select(func.count()).select_from(made).scalar_subquery()


def outcome(  # noqa: PLR0913 - the parts of a statement
    payload: Selection,
    now: CTE,
    before: CTE,
    written: CTE,
    refusal: ColumnElement[Any],
    *,
    owned: ColumnElement[int] | None = None,
) -> Statement:
    """One row: the refusal's code, the clock, and the task for each key that asks for it.

    A statement that makes tasks also says how many there were before, in `owned`.
    """
    changed = is_there(written)
    current = union_all(select(written), select(before).where(not_(changed))).cte("current")
    version = version_after(now, changed)
    rows = now.outerjoin(current, true()).outerjoin(before, true())
    columns = refusal.label("code"), version.label("version"), notice(now, changed), *_shown(payload, current)
    if owned is None:
        return write(select(*columns).select_from(rows), changed)
    return write(select(*columns, owned).select_from(rows), changed, tasks_after(written))


def _shown(payload: Selection, tasks: CTE) -> list[ColumnElement[Any]]:
    """The task for each key that asks for it."""
    found = tasks.c.id.is_not(None)
    return [
        case((found, task_json(entry.inner, tasks.c)), else_=null()).label(f"task_{place}")
        for place, entry in enumerate(payload.entries("task"))
    ]
