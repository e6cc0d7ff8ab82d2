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
    case,
    column,
    func,
    literal_column,
    not_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter, ClauseElement

from app.models import CLOCKS

DIALECT = asyncpg.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves its dialects untyped


ACTOR = "actor"


@dataclass(frozen=True, slots=True)
class Statement:
    """A compiled statement: its text, and the names of $1, $2, … in order.

    One that is `repeatable` does nothing when it has been carried out before: it brings the ids of what it makes.

    A statement that begins its write itself, in its only execution, has another in `after_loss`, for when it may have
    been carried out already, for clusters, and to say why it refused. One that creates has `creation`, which makes what
    does the same on a cluster.
    """

    text: str
    parameters: tuple[str, ...]
    repeatable: bool = False
    after_loss: "Statement | None" = None
    creation: "Callable[[], Creation] | None" = None

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        return list(map(values.__getitem__, self.parameters))

    def beginning(self, owner: UUID) -> list[Any]:
        """The arguments with which a writing statement begins a write, and writes nothing."""
        return list(map({ACTOR: owner}.get, self.parameters))

    def continuing(self, values: Mapping[str, Any]) -> list[Any]:
        """The arguments with which it then writes."""
        return self.arguments({ACTOR: None, **values})


@dataclass(frozen=True, slots=True)
class Creation:
    """The statements of a transaction that creates rows on a cluster, where the clock has counted them already.

    `insert` inserts those that are not there. `look` has the answer, and in `new` how many of them are new, which is 0
    where any is refused. `settle` has the clock count the `known` ones no more. Without it there is one row alone:
    inserted, it is the answer.
    """

    insert: Statement
    look: Statement
    settle: Statement | None = None


def compiled(construct: ClauseElement) -> Statement:
    """The text of a construct for asyncpg; ValueError where a parameter is not bound by a name of ours.

    A statement is executed with other values each time. A value that stands in the construct, such as that of
    `column == 5`, would be left out of them, and a list that SQLAlchemy expands has no text before it is executed.
    """
    result = construct.compile(dialect=DIALECT)
    if not isinstance(result, SQLCompiler):
        raise TypeError("only SQL statements are compiled")
    for parameter, name in result.bind_names.items():
        if name != parameter.key or not parameter.required or parameter.expanding or parameter.literal_execute:
            raise ValueError(f"The parameter {name} is not bound by a name: use bindparam(name), or a literal column.")
    return Statement(result.string, tuple(result.positiontup or ()))


def user_id() -> BindParameter[UUID]:
    """The bound user: the first wall, and what lets a sharded database route the statement."""
    return bindparam("user_id", type_=Uuid)


@dataclass(frozen=True, slots=True)
class Reader:
    """The user whom a read acts as; every table of user data in a read is narrowed by `owns`."""

    row: TableValuedAlias

    def owns(self, table: FromClause) -> ColumnElement[bool]:
        return self._is(table.c.user_id)

    def is_in(self, users: FromClause) -> ColumnElement[bool]:
        """The same for the table of users."""
        return self._is(users.c.id)

    def _is(self, user: ColumnElement[UUID]) -> ColumnElement[bool]:
        return and_(user == user_id(), user == self.row.c.user_id)


def read(body: Callable[[Reader], Select[Any]]) -> Statement:
    """One fenced statement of one row, in which the second wall stands before any data is read."""
    acting = func.act_as(user_id()).table_valued(column("user_id", Uuid), name="me").render_derived()
    answer = body(Reader(acting)).limit(literal_column("1")).lateral("answer")
    return compiled(select(*answer.c).select_from(acting.join(answer, true())))


def write(
    row: Select[Any], changed: ColumnElement[bool], counts: Mapping[str, ColumnElement[int]] | None = None
) -> Statement:
    """A statement that is executed twice in one transaction and one round trip: to begin a write, and to write.

    To begin it gets an actor and no values, without which its parts touch no row; to write, values and no actor: what
    it then sees is all that was committed before the clock's lock was had. If nothing changes, the clock goes back.
    `counts` are the columns of the clock that count rows, for a statement that changes how many there are.
    """
    begun = func.begin_write(bindparam(ACTOR, type_=Uuid)).table_valued(column("actor", Uuid)).render_derived()
    earlier = CLOCKS.c.version - literal_column("1")
    clock = update(CLOCKS).where(CLOCKS.c.user_id == user_id())
    if counts is None:
        clock = clock.values(version=earlier).where(not_(changed))
    else:
        clock = clock.values(version=case((changed, CLOCKS.c.version), else_=earlier), **counts)
    answer = row.subquery("answer")
    return compiled(select(*answer.c).select_from(begun.outerjoin(answer, true())).add_cte(clock.cte("settled")))


def text_literal(value: str) -> ColumnElement[str]:
    """A constant inside the statement's text; for text of ours and GraphQL names, never for input."""
    return literal_column("'" + value.replace("'", "''") + "'", Text)
