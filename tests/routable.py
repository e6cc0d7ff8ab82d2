"""Check by its constructs whether a Citus cluster can send a statement to a single worker unchanged.

Each rule is something that Citus has rejected, or has split into parts that reach every worker.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Alias,
    BinaryExpression,
    BindParameter,
    Case,
    Cast,
    Column,
    ColumnClause,
    ColumnElement,
    Delete,
    FromClause,
    Insert,
    Select,
    Table,
    Update,
)
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.expression import CTE
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import ScalarSelect, SelectBase

from app.database.checks import FORCED


@dataclass(frozen=True)
class Functions:
    """Names of functions, from PostgreSQL's catalog."""

    changing: Container[str]
    """Those that are not immutable."""
    void: Container[str]
    """Those that return void."""


def problems(construct: ClauseElement, functions: Functions) -> list[str]:
    """What prevents routing the statement to one worker. Empty for statements without user data."""
    parts = list(_parts(construct))
    if not any(_is_of_users(part) for part in parts):
        return []
    return [
        *(problem for part in parts for problem in _unbound(part)),
        *(problem for part in parts for problem in _inserts(part)),
        *(problem for part in parts for problem in _changing(part, functions)),
        *_void(construct, functions),
        *_unfound(parts),
    ]


def _parts(element: Any) -> Iterator[Any]:
    """All elements of a construct, each once."""
    seen, waiting = set[int](), [element]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += part.get_children()
        waiting += getattr(part, "_independent_ctes", ())  # CTEs that nothing selects from; there is no public name


def _table(source: Any) -> Table | None:
    while isinstance(source, Alias) and not isinstance(source, CTE):
        source = source.element
    return source if isinstance(source, Table) else None


def _is_of_users(source: Any) -> bool:
    table = _table(source)
    return table is not None and table.name in FORCED


def _unbound(part: Any) -> Iterator[str]:
    """References to tables of user data without a condition on the bound user."""
    for source in filter(_is_of_users, _sources(part)):
        if not any(_binds(condition, source) for condition in _conditions(part)):
            yield f"{_name(source)} is not narrowed to $user_id"


def _sources(part: Any) -> list[Any]:
    """The tables that a part reads or changes."""
    if isinstance(part, Select):
        return [leaf for source in part.get_final_froms() for leaf in _leaves(source)]
    return [part.table] if isinstance(part, Update | Delete) else []


def _leaves(source: Any) -> Iterator[FromClause]:
    if hasattr(source, "left") and hasattr(source, "right"):
        yield from _leaves(source.left)
        yield from _leaves(source.right)
    else:
        yield source


def _conditions(part: Any) -> list[ColumnElement[bool]]:
    where = part.whereclause
    return [] if where is None else list(_conjuncts(where))


def _conjuncts(condition: Any) -> Iterator[ColumnElement[bool]]:
    if getattr(condition, "operator", None) is operators.and_:
        for clause in condition.clauses:
            yield from _conjuncts(clause)
    else:
        yield condition


def _binds(condition: Any, source: FromClause) -> bool:
    if not isinstance(condition, BinaryExpression) or condition.operator is not operators.eq:
        return False
    bound = isinstance(condition.right, BindParameter) and condition.right.key == "user_id"
    return bound and condition.left is source.c.user_id


def _unfound(parts: Sequence[Any]) -> Iterator[str]:
    """Tables that only updates and deletes with a constant condition change or read: the planner may drop these parts.

    Citus then looks for no shard, although the statement still names the table. Parameters are constants, too.
    """
    changing = [
        part for part in parts if isinstance(part, Update | Delete) and any(map(_is_constant, _conditions(part)))
    ]
    dropped = [inner for part in changing for inner in _without_ctes(part)]
    constant = [part for part in parts if isinstance(part, Select) and any(map(_is_constant, _conditions(part)))]
    ignored = {id(part) for part in (*dropped, *constant)}
    found = {table for part in parts if id(part) not in ignored for table in _tables(part)}
    unfound = {table for part in dropped for table in _tables(part)} - found
    yield from (f"{table.name} has no shard if nothing can be written" for table in unfound)


def _tables(part: Any) -> set[Table]:
    return {table for source in _sources(part) if _is_of_users(source) and (table := _table(source)) is not None}


def _without_ctes(element: Any) -> Iterator[Any]:
    """All elements of a construct, without what is planned apart from it."""
    yield element
    for child in element.get_children():
        if not isinstance(child, CTE):
            yield from _without_ctes(child)


def _is_constant(condition: ColumnElement[bool]) -> bool:
    """Whether a condition contains neither a column nor a subquery. The planner evaluates such a condition."""
    return not any(
        isinstance(part, SelectBase) or (isinstance(part, ColumnClause) and not part.is_literal)
        for part in _parts(condition)
    )


def _inserts(part: Any) -> Iterator[str]:
    if isinstance(part, CTE) and isinstance(part.element, Insert):
        yield f"{part.name} inserts beside other parts"
    if isinstance(part, Insert) and part.select is not None and _is_of_users(part.table):
        selected: Any = part.select
        (user,) = [
            column for name, column in zip(_names(part), selected.selected_columns, strict=True) if name == "user_id"
        ]
        if not isinstance(user, Column):
            yield f"{_name(part.table)} gets its user_id from no table"


def _names(part: Any) -> list[str]:
    return [getattr(column, "name", column) for column in part._select_names]  # noqa: SLF001 - it has no public name


def _changing(part: Any, functions: Functions) -> Iterator[str]:
    """Non-immutable functions within CASE or coalesce() in what an UPDATE sets, outside of subqueries."""
    if isinstance(part, Update):
        values: Any = part._values or {}  # noqa: SLF001 - as above
        for column, value in values.items():
            for choice in _within(value, (Case, FunctionElement)):
                if isinstance(choice, Case) or choice.name == "coalesce":
                    names = [found.name for found in _within(choice, FunctionElement)]
                    yield from (f"{name}() chooses {column}" for name in names if name in functions.changing)


def _within(value: Any, kind: Any) -> Iterator[Any]:
    """The elements of a kind in a value, outside of subqueries."""
    if isinstance(value, kind):
        yield value
    if not isinstance(value, ScalarSelect):
        for child in value.get_children():
            yield from _within(child, kind)


def _void(construct: ClauseElement, functions: Functions) -> Iterator[str]:
    cast_ = {id(part.clause) for part in _parts(construct) if isinstance(part, Cast)}
    for part in visitors.iterate(construct):
        if isinstance(part, FunctionElement) and part.name in functions.void and id(part) not in cast_:
            yield f"{part.name}() has no type"


def _name(source: Any) -> str:
    return str(getattr(source, "name", source))
