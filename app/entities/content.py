"""Checks the input of writes, converts it, and binds it to parameters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Boolean, ColumnElement, bindparam, cast

from app.entities.entity import Content, Entity
from app.entities.naming import api_name
from app.entities.problems import Problem
from app.errors import BadUserInput

# Prefixes of parameters: the value that the caller has seen, and whether a column is written and compared.
SEEN, SETS, COMPARES = "seen_", "sets_", "compares_"


def taken(
    entity: Entity, changes: Mapping[str, Any], path: tuple[str, ...] = ("input",)
) -> tuple[dict[str, Any], list[Problem]]:
    """The values to bind, and the problems of the input, each with the path of its field.

    The values are complete only if there are no problems. A single loop, because it runs for every write. Raises
    BadUserInput with the path of the field for text that cannot be stored, and for malformed ids.
    """
    contents = entity.contents
    bound: dict[str, Any] = {}
    found: list[Problem] = []
    try:
        for column, value in changes.items():
            content = contents[column]
            if content.check and (wrong := content.check(value)):
                found += _placed(wrong, *path, api_name(column))
            else:
                bound[column] = content.stored(value) if content.stored else value
    except BadUserInput as error:
        error.field = ".".join([*path, api_name(column)])
        raise
    conflicts = entity.conflicts(changes)
    return bound, [*found, *_placed(conflicts, *path)] if conflicts else found


def _placed(problems: Sequence[Problem], *path: str) -> list[Problem]:
    return [replace(problem, field=(*path, *(problem.field or ()))) for problem in problems]


def parameters(entity: Entity, columns: Iterable[str]) -> dict[str, ColumnElement[Any]]:
    """The parameters of a statement that writes these columns."""
    return {column: _parameter(column, entity.contents[column]) for column in columns}


def seen(
    entity: Entity, base: Mapping[str, Any], changes: Mapping[str, Any], path: tuple[str, ...] = ("base",)
) -> dict[str, Any]:
    """The values to bind of what a caller has seen. BadUserInput for a field that the caller does not change."""
    bound = {}
    for column, value in base.items():
        name, content = api_name(column), entity.contents[column]
        field = ".".join([*path, name])
        if column not in changes:
            raise BadUserInput(f"{field} needs input.{name}: base has only fields that input replaces.", field)
        try:
            if content.check:
                content.check(value)  # raises for text that cannot be stored; else any value can be compared
            bound[SEEN + column] = content.stored(value) if content.stored else value
        except BadUserInput as error:
            error.field = field
            raise
    return bound


def seen_parameters(entity: Entity, columns: Iterable[str]) -> dict[str, ColumnElement[Any]]:
    """The parameters for what the caller has seen of these columns."""
    return {column: _parameter(SEEN + column, entity.contents[column]) for column in columns}


def sets(column: str) -> ColumnElement[bool]:
    """Whether the values choose to write a column."""
    return bindparam(SETS + column, type_=Boolean)


def compares(column: str) -> ColumnElement[bool]:
    """Whether the values choose to compare a column with what the caller has seen."""
    return bindparam(COMPARES + column, type_=Boolean)


def alike(entity: Entity, column: str, value: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a client takes two values of a column for the same. Null is a value."""
    same = entity.contents[column].alike
    return same(value, other) if same else value.is_not_distinct_from(other)


def differ(entity: Entity, column: str, value: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether two values of a column are different ones. Null is a value."""
    compared = entity.contents[column].compared
    return compared(value).is_distinct_from(compared(other)) if compared else value.is_distinct_from(other)


def _parameter(name: str, content: Content) -> ColumnElement[Any]:
    parameter = bindparam(name, type_=content.bound)
    return parameter if content.cast is None else cast(parameter, content.cast)
