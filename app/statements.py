"""SQL as SQLAlchemy constructs: compiled once, and the one builder of statements that read a user's data.

Row security needs the user's id set in the transaction that reads. `act_as($1)` sets it and returns it in the
same statement, so a read costs one round trip. That holds only while the data is read after the function ran:
the lateral part depends on the function's output, and its LIMIT keeps the planner from lifting the policy
above the join. Without that fence a lookup finds nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    TableValuedAlias,
    Text,
    Uuid,
    and_,
    bindparam,
    column,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import asyncpg, insert
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter, ClauseElement

from app.models import CLOCKS

DIALECT = asyncpg.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves its dialects untyped


@dataclass(frozen=True, slots=True)
class Statement:
    """A compiled statement: its text, and the names of $1, $2, … in order."""

    text: str
    parameters: tuple[str, ...]

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        return [values[name] for name in self.parameters]


def compiled(construct: ClauseElement) -> Statement:
    """The text of a construct for asyncpg; every bound parameter must be named."""
    result = construct.compile(dialect=DIALECT)
    if not isinstance(result, SQLCompiler):
        raise TypeError("only SQL statements are compiled")
    return Statement(result.string, tuple(result.positiontup or ()))


def user_id() -> BindParameter[UUID]:
    """The bound user: the first wall, and what lets a sharded database route the statement."""
    return bindparam("user_id", type_=Uuid)


@dataclass(frozen=True, slots=True)
class Reader:
    """The user whom a read acts as; every table of user data in a read is narrowed by `owns`."""

    row: TableValuedAlias

    def owns(self, table: FromClause) -> ColumnElement[bool]:
        return and_(table.c.user_id == user_id(), table.c.user_id == self.row.c.user_id)


def read(body: Callable[[Reader], Select[Any]]) -> Statement:
    """One fenced statement of one row, in which the second wall stands before any data is read."""
    acting = func.act_as(user_id()).table_valued(column("user_id", Uuid), name="me").render_derived()
    answer = body(Reader(acting)).limit(literal_column("1")).lateral("answer")
    return compiled(select(*answer.c).select_from(acting.join(answer, true())))


_NOBODY = UUID(int=0)
_BUMP = (
    insert(CLOCKS)
    .values(user_id=_NOBODY, version=1)
    .on_conflict_do_update(index_elements=[CLOCKS.c.user_id], set_={"version": CLOCKS.c.version + 1})
)
_BEGIN = "BEGIN; SET LOCAL app.user_id = '{}'; {}".format(
    _NOBODY, _BUMP.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True})
)


def begin(owner: UUID) -> str:
    """What starts a write, in one round trip: the transaction, its user, and the user's clock moved on.

    The clock's row lock puts the writes of a user one behind the other, and it is taken before the statement
    that follows takes its snapshot: that one sees all that was committed before it.
    """
    return _BEGIN.replace(str(_NOBODY), str(owner))


def text_literal(value: str) -> ColumnElement[str]:
    """A constant inside the statement's text; for text of ours and GraphQL names, never for input."""
    return literal_column("'" + value.replace("'", "''") + "'", Text)
