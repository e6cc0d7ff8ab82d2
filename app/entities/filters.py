"""Filters: splits a tree of conditions into a shape, for which a statement is compiled, and the values to bind."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, false, or_, true

from app.entities.entity import Entity, Shape
from app.errors import BadUserInput, LimitExceeded

MOST_CONDITIONS = 50
MOST_VALUES = 1000
_NO_CONDITIONS = {"and", "or", "not", "trashed"}


class Filter:
    """The shape of a filter, and the values to bind as p0, p1 and so on, after a prefix."""

    def __init__(self, entity: Entity, tree: Mapping[str, Any], prefix: str = "") -> None:
        self._prefix = prefix
        self.values: dict[str, Any] = {}
        self._known = entity.conditions
        self._conditions = 0
        rest = dict(tree)
        self.trashed = bool(rest.pop("trashed", False))
        self.shape: Shape = (self.trashed, self._shape(rest))

    def _shape(self, tree: Mapping[str, Any]) -> Shape:
        return tuple(part for name, value in tree.items() for part in self._parts(name, value))

    def _parts(self, name: str, value: Any) -> list[Shape]:
        match name:
            case "and" | "or":
                return [(name, tuple(self._nested(branch) for branch in value))]
            case "not":
                return [(name, self._nested(value))]
        if isinstance(value, dict):
            return [self._leaf(f"{name}.{end}", bound) for end, bound in value.items()]
        parts = self._known[name].parts(value)
        if not parts:
            self._count(1)
        return [self._leaf(name, part) for part in parts]

    def _count(self, conditions: int) -> None:
        self._conditions += conditions
        if self._conditions > MOST_CONDITIONS:
            raise LimitExceeded(f"The filter has more than {MOST_CONDITIONS} conditions; each word of a search is one.")

    def _nested(self, tree: Mapping[str, Any]) -> Shape:
        """A nested filter. One without conditions of its own counts as one condition."""
        self._count(0 if tree.keys() - _NO_CONDITIONS else 1)
        if tree.get("trashed"):
            raise BadUserInput("trashed is allowed only in the outermost filter.")
        return self._shape({name: value for name, value in tree.items() if name != "trashed"})

    def _leaf(self, name: str, value: Any) -> Shape:
        self._count(1)
        if isinstance(value, list) and len(value) > MOST_VALUES:
            raise LimitExceeded(f"filter.{name} lists {len(value)} values; the maximum is {MOST_VALUES}.")
        parameter, convert = f"{self._prefix}p{len(self.values)}", self._known[name].value
        self.values[parameter] = convert(f"filter.{name}", value) if convert else value
        return (name, parameter)


def required(shape: Shape) -> frozenset[str]:
    """The conditions that all rows meet, by their paths: those that are not nested."""
    trashed, parts = shape
    return frozenset([*(name for name, _ in parts if name not in _NO_CONDITIONS), *(["trashed"] if trashed else [])])


def condition(entity: Entity, shape: Shape) -> ColumnElement[bool]:
    """The SQL of a filter's shape."""
    trashed, parts = shape
    deleted_at = entity.table.c.deleted_at
    return and_(deleted_at.is_not(None) if trashed else deleted_at.is_(None), _all(entity, parts))


def _all(entity: Entity, parts: Sequence[Shape]) -> ColumnElement[bool]:
    return and_(true(), *(_part(entity, name, rest) for name, rest in parts))


def _part(entity: Entity, name: str, rest: Any) -> ColumnElement[bool]:
    match name:
        case "and":
            return and_(true(), *(_all(entity, parts) for parts in rest))
        case "or":
            return or_(false(), *(_all(entity, parts) for parts in rest))
        case "not":
            # IS NOT TRUE instead of NOT: a condition on a null column is null, and so would be its negation.
            return _all(entity, rest).self_group().is_not(true())
    known = entity.conditions[name]
    return known.sql(bindparam(rest, type_=known.bound))
