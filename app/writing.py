"""The statements that write: each changes one task under the user's locked clock and renders what it then is.

The user is acted as and the clock has moved on when such a statement starts (`statements.begin`), so its snapshot
holds all earlier writes of the user. Where it changes nothing, the caller rolls back, and the clock with it.
"""

from collections.abc import Mapping
from datetime import date
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
from sqlalchemy.dialects.postgresql import insert

from app.models import CLOCKS, TASKS
from app.rendering import Selection, task_json
from app.statements import Statement, compiled, text_literal, user_id

# The statement's time and not the transaction's: it begins before the clock is waited for.
NOW = func.statement_timestamp()

_CONTENT: Mapping[str, ColumnElement[Any]] = {
    "title": bindparam("title", type_=Text),
    "description": bindparam("description", type_=Text),
    "completed": bindparam("completed", type_=Boolean),
    "priority": bindparam("priority", type_=SmallInteger),
    # As text: the driver would read 9999-12-31 as infinity.
    "due_date": cast(bindparam("due_date", type_=Text), Date),
    "tags": cast(bindparam("tags", type_=ARRAY(Text)), ARRAY(String)),
}


class Change(NamedTuple):
    """The shape of a write: one compiled statement for each."""

    kind: str
    columns: tuple[str, ...]
    expects_version: bool = False


def bound(content: Mapping[str, Any]) -> dict[str, Any]:
    """Cleaned content as the driver takes it."""
    return {name: value.isoformat() if isinstance(value, date) else value for name, value in content.items()}


def create(payload: Selection, change: Change) -> Statement:
    """Insert a task, unless the id is there already: then the same content is the same task, other content refused."""
    present, clock = _present(), _clock()
    content = _content(change)
    columns = {
        "user_id": user_id(),
        "id": bindparam("id", type_=Uuid),
        "position": last_position(clock.c.version),
        "version": clock.c.version,
        "created_at": NOW,
        "updated_at": NOW,
        **content,
        **_completion(content),
    }
    row = select(*columns.values()).select_from(clock)
    written = insert(TASKS).from_select(list(columns), row).on_conflict_do_nothing().returning(*TASKS.c).cte("written")
    same = and_(*(present.c[name].is_not_distinct_from(value) for name, value in content.items()))
    refusal = case((_is_there(written), null()), (same, null()), else_=text_literal("ID_TAKEN"))
    return _outcome(payload, clock, present, written, refusal)


def update(payload: Selection, change: Change) -> Statement:
    """Set the columns of a task that is not in the trash."""
    content = _content(change)
    differs = or_(false(), *(TASKS.c[name].is_distinct_from(value) for name, value in content.items()))
    return _changed(
        payload,
        change,
        content | _completion(content, TASKS.c.completed_at),
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
    """A key after all that were made before it: a letter and the clock in hexadecimal digits of fixed width."""
    digits = func.lpad(func.to_hex(version), literal_column("8"), text_literal("0"))
    return text_literal("a").concat(digits)


def _content(change: Change) -> dict[str, ColumnElement[Any]]:
    return {name: _CONTENT[name] for name in change.columns}


def _completion(
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
    present, clock = _present(in_trash=in_trash), _clock()
    expected = bindparam("expected", type_=Integer)
    written = (
        sql_update(TASKS)
        .values(**values, version=select(clock.c.version).scalar_subquery(), updated_at=NOW)
        .where(TASKS.c.user_id == user_id(), TASKS.c.id == bindparam("id", type_=Uuid), due)
        .where(TASKS.c.version == expected if change.expects_version else true())
        .returning(*TASKS.c)
        .cte("written")
    )
    stale = present.c.version != expected if change.expects_version else false()
    refusal = case(
        (present.c.id.is_(None), text_literal("NOT_FOUND")), (stale, text_literal("VERSION_CONFLICT")), else_=null()
    )
    return _outcome(payload, clock, present, written, refusal)


def _present(*, in_trash: bool = True) -> CTE:
    """The task as it was before this statement, also from the trash or not."""
    wanted = TASKS.c.id == bindparam("id", type_=Uuid)
    live = true() if in_trash else TASKS.c.deleted_at.is_(None)
    return select(TASKS).where(TASKS.c.user_id == user_id(), wanted, live).cte("present")


def _clock() -> CTE:
    return select(CLOCKS.c.version).where(CLOCKS.c.user_id == user_id()).cte("clock")


def _is_there(rows: CTE) -> ColumnElement[bool]:
    return exists(select(literal_column("1")).select_from(rows))


def _outcome(payload: Selection, clock: CTE, present: CTE, written: CTE, refusal: ColumnElement[Any]) -> Statement:
    """One row: whether anything changed, the refusal's code, the clock, the task for each key that asks for it."""
    changed = _is_there(written)
    current = union_all(select(written), select(present).where(not_(changed))).cte("current")
    version = clock.c.version - case((changed, literal_column("0")), else_=literal_column("1"))
    found = current.c.id.is_not(None)
    tasks = [
        case((found, task_json(entry.inner, current.c)), else_=null()).label(f"task_{place}")
        for place, entry in enumerate(payload.entries("task"))
    ]
    rows = clock.outerjoin(current, true()).outerjoin(present, true())
    return compiled(
        select(changed.label("changed"), refusal.label("code"), version.label("version"), *tasks).select_from(rows)
    )
