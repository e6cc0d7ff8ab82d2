"""Checks the input of writes, converts it, and binds it to parameters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, bindparam, cast

from app.entities.entity import Content, Entity
from app.entities.naming import api_name
from app.entities.problems import Problem
from app.errors import BadUserInput


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


def differ(entity: Entity, column: str, value: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether two values of a column are different ones. Null is a value."""
    compared = entity.contents[column].compared
    return compared(value).is_distinct_from(compared(other)) if compared else value.is_distinct_from(other)


def _parameter(column: str, content: Content) -> ColumnElement[Any]:
    parameter = bindparam(column, type_=content.bound)
    return parameter if content.cast is None else cast(parameter, content.cast)
