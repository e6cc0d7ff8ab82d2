"""Checks the input of writes, converts it, and binds it to parameters."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, bindparam, cast

from app.entities.entity import Content, Entity
from app.entities.problems import Problem


def problems(entity: Entity, changes: Mapping[str, Any], path: tuple[str, ...] = ("input",)) -> list[Problem]:
    """The problems of the input, each with the path of its field; empty if the input is valid."""
    found: list[Problem] = []
    for column, (name, check) in entity.checks.items():
        if column in changes and (wrong := check(changes[column])):
            found += [replace(problem, field=(*path, name, *(problem.field or ()))) for problem in wrong]
    return found


def stored(entity: Entity, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Convert valid input to the values to bind."""
    result = dict(changes)
    for column, convert in entity.conversions.items():
        if column in result:
            result[column] = convert(result[column])
    return result


def parameters(entity: Entity, columns: Iterable[str]) -> dict[str, ColumnElement[Any]]:
    """The parameters of a statement that writes these columns."""
    return {column: _parameter(column, entity.contents[column]) for column in columns}


def _parameter(column: str, content: Content) -> ColumnElement[Any]:
    parameter = bindparam(column, type_=content.bound)
    return parameter if content.cast is None else cast(parameter, content.cast)
