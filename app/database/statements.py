"""Compiles SQLAlchemy constructs to statements, and builds all statements that read or write a user's data.

Row-level security needs the user's id to be set in the transaction that reads. `act_as($1)` sets it and returns it in
the same statement, so a read takes one round trip. The data must be read after the function has run: the lateral
subquery depends on the function's output, and its LIMIT keeps the planner from evaluating the policy before the join.
Without this optimization fence a lookup finds nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    ColumnElement,
    FromClause,
    Select,
    Table,
    TableValuedAlias,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    column,
    exists,
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

from app.models import CLOCKS, LISTS, TASKS

DIALECT = asyncpg.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves its dialects untyped


ACTOR, LAST = "actor", "last"


@dataclass(frozen=True, slots=True)
class Statement:
    """A compiled statement: its text, and the names of $1, $2, … in order.

    A `repeatable` statement is idempotent, because its arguments contain the ids of the rows that it creates.

    A statement that begins its write itself, in a single execution, has an alternative in `after_loss`: for a retry
    after a lost connection, for clusters, and to find out why it rejected a write. A statement that creates rows has
    `creation`, which returns the equivalent for clusters. If the payload shows what other rows contribute, a statement
    that writes `names_only` the rows, and a read follows: it sees the state before its own changes.
    """

    text: str
    parameters: tuple[str, ...]
    repeatable: bool = False
    after_loss: "Statement | None" = None
    creation: "Callable[[], Creation] | None" = None
    names_only: bool = False

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        return list(map(values.__getitem__, self.parameters))

    def beginning(self, owner: UUID) -> list[Any]:
        """The arguments of the first execution, which begins a write and writes nothing."""
        return list(map({ACTOR: owner}.get, self.parameters))

    def continuing(self, values: Mapping[str, Any]) -> list[Any]:
        """The arguments of the second execution, which writes."""
        return self.arguments({ACTOR: None, **values})


@dataclass(frozen=True, slots=True)
class Creation:
    """The statements of a transaction that creates rows on a cluster, where the clock has already counted them.

    `insert` inserts rows that do not exist. `look` returns the result, with the number of new rows in `new`, which is 0
    if any row is rejected. `settle` subtracts the `known` rows from the counter. Without `settle` there is a single
    row, and if `insert` inserts it, that is the result.
    """

    insert: Statement
    look: Statement
    settle: Statement | None = None


def compiled(construct: ClauseElement) -> Statement:
    """Compile a construct for asyncpg. Raises ValueError if a parameter is not bound by an explicit name.

    A statement is executed with different values each time. A value in the construct, such as in `column == 5`, would
    be missing from them, and a list that SQLAlchemy expands has no text before execution.
    """
    result = construct.compile(dialect=DIALECT)
    if not isinstance(result, SQLCompiler):
        raise TypeError("only SQL statements are compiled")
    for parameter, name in result.bind_names.items():
        if name != parameter.key or not parameter.required or parameter.expanding or parameter.literal_execute:
            raise ValueError(f"The parameter {name} is not bound by a name: use bindparam(name), or a literal column.")
    return Statement(result.string, tuple(result.positiontup or ()))


def user_id() -> BindParameter[UUID]:
    """The bound user id. The explicit filter by user, by which a sharded database also routes the statement."""
    return bindparam("user_id", type_=Uuid)


@dataclass(frozen=True, slots=True)
class Reader:
    """The user as whom a read acts. Every table of user data in a read is filtered by `owns`."""

    row: TableValuedAlias

    def owns(self, table: FromClause) -> ColumnElement[bool]:
        return self._is(table.c.user_id)

    def is_in(self, users: FromClause) -> ColumnElement[bool]:
        """The same for the table of users."""
        return self._is(users.c.id)

    def _is(self, user: ColumnElement[UUID]) -> ColumnElement[bool]:
        return and_(user == user_id(), user == self.row.c.user_id)


def read(body: Callable[[Reader], Select[Any]]) -> Statement:
    """A statement with one row, which sets the user for row-level security before it reads any data."""
    acting = func.act_as(user_id()).table_valued(column("user_id", Uuid), name="me").render_derived()
    answer = body(Reader(acting)).limit(literal_column("1")).lateral("answer")
    return compiled(select(*answer.c).select_from(acting.join(answer, true())))


def write(
    row: Select[Any],
    changed: ColumnElement[bool],
    counts: Mapping[str, ColumnElement[int]] | None = None,
    *,
    in_batch: bool = False,
) -> Statement:
    """A statement that is executed twice in one transaction and one round trip: to begin a write, and to write.

    The first execution gets an actor and no values, so that it only locks and advances the clock. The second gets
    values and no actor, and sees everything that was committed before the lock was acquired. If nothing changes, it
    sets the clock back. `counts` are the counters of the clock, for a statement that changes the number of rows.

    In a batch, such statements follow one another in one transaction with one version. The row tells whether it has
    `changed` anything, and only the `last` one sets the clock back, if none of them has.
    """
    begin = func.begin_writes if in_batch else func.begin_write
    begun = begin(bindparam(ACTOR, type_=Uuid)).table_valued(column("actor", Uuid)).render_derived()
    earlier = CLOCKS.c.version - literal_column("1")
    clock = update(CLOCKS).where(CLOCKS.c.user_id == user_id())
    unchanged = not_(changed)
    if in_batch:
        # In a subquery, which the planner does not evaluate early: Citus does not look for the shards of tables in
        # conditions that it drops.
        is_last = select(bindparam(LAST, type_=Boolean)).scalar_subquery()
        unchanged = and_(is_last, unchanged, *(not_(_has_now(table)) for table in (TASKS, LISTS)))
        row = row.add_columns(changed.label("changed"))
    if counts is None:
        clock = clock.values(version=earlier).where(unchanged)
    else:
        clock = clock.values(version=case((unchanged, earlier), else_=CLOCKS.c.version), **counts)
    answer = row.subquery("answer")
    return compiled(select(*answer.c).select_from(begun.outerjoin(answer, true())).add_cte(clock.cte("settled")))


def _has_now(table: Table) -> ColumnElement[bool]:
    """Whether a row of the user has the version of the clock: an earlier write of the transaction has written it."""
    now = CLOCKS.alias("now")
    version = select(now.c.version).where(now.c.user_id == user_id()).scalar_subquery()
    return exists(select(literal_column("1")).where(table.c.user_id == user_id(), table.c.version == version))


def literal_text(construct: ClauseElement) -> str:
    """A construct with literal values: several statements in one message cannot have parameters."""
    return str(construct.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))


def text_literal(value: str) -> ColumnElement[str]:
    """A constant in the statement's text. Only for our own text and GraphQL names, never for input."""
    return literal_column("'" + value.replace("'", "''") + "'", Text)
