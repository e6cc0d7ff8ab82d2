"""Filters: splits a tree of conditions into a shape, for which a statement is compiled, and the values to bind."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Boolean, ColumnElement, and_, bindparam, literal_column, or_, true

from app.entities.entity import Entity, Shape
from app.errors import BadUserInput, LimitExceeded

MOST_CONDITIONS = 50
MOST_VALUES = 1000
_NO_CONDITIONS = {"and", "or", "not", "trashed"}
# A literal instead of false(), with which SQLAlchemy would drop the rest of the statement's condition, also the user's
# id by which a cluster routes it.
_FALSE: ColumnElement[bool] = literal_column("false", Boolean)


class Filter:
    """The shape of a filter, and the values to bind as p0, p1 and so on, after a prefix.

    `path` is the filter's place in the arguments, for errors. A `strict` filter selects rows to change: it and each
    filter in it needs a condition that excludes rows, so that no value left out by a client selects all rows.
    """

    def __init__(
        self, entity: Entity, tree: Mapping[str, Any], prefix: str = "", path: str = "filter", *, strict: bool = False
    ) -> None:
        self._prefix, self._strict = prefix, strict
        self.values: dict[str, Any] = {}
        self._known = entity.conditions
        self._conditions = 0
        rest = dict(tree)
        self.trashed = bool(rest.pop("trashed", False))
        self.shape: Shape = (self.trashed, self._shape(rest, path))

    def _shape(self, tree: Mapping[str, Any], path: str) -> Shape:
        parts = tuple(part for name, value in tree.items() for part in self._parts(name, value, f"{path}.{name}"))
        if self._strict and self._is_met("", tree):
            raise BadUserInput(f"`{path}` has no condition that excludes a task; use `all: true` to select all.", path)
        return parts

    def _parts(self, name: str, value: Any, path: str) -> list[Shape]:
        match name:
            case "and" | "or":
                return [(name, tuple(self._nested(each, f"{path}.{place}") for place, each in enumerate(value)))]
            case "not":
                return [(name, self._nested(value, path))]
        if isinstance(value, dict):
            return [self._leaf(f"{name}.{end}", bound, f"{path}.{end}") for end, bound in value.items()]
        parts = self._known[name].parts(value)
        if not parts:
            self._count(1)
        if self._strict and not parts and isinstance(value, str):
            raise BadUserInput(f"`{path}` is blank; omit the condition, or give it text.", path)
        return [self._leaf(name, part, path) for part in parts]

    def _is_met(self, name: str, value: Any) -> bool | None:
        """Whether a condition is met by every row, or by none, whatever they contain; None if it depends on the row."""
        match name:
            case "and":
                return _all_of([self._is_met("", each) for each in value])
            case "or":
                return _negated(_all_of([_negated(self._is_met("", each)) for each in value]))
            case "not":
                return _negated(self._is_met("", value))
            case "":
                return _all_of([self._is_met(*each) for each in value.items() if each[0] != "trashed"])
        if isinstance(value, dict):
            return _all_of([self._is_met(f"{name}.{end}", bound) for end, bound in value.items()])
        return (False if value == [] else None) if self._known[name].parts(value) else True

    def _count(self, conditions: int) -> None:
        self._conditions += conditions
        if self._conditions > MOST_CONDITIONS:
            raise LimitExceeded(f"The filter has more than {MOST_CONDITIONS} conditions; each word of a search is one.")

    def _nested(self, tree: Mapping[str, Any], path: str) -> Shape:
        """A nested filter. One without conditions of its own counts as one condition."""
        self._count(0 if tree.keys() - _NO_CONDITIONS else 1)
        if tree.get("trashed"):
            raise BadUserInput("trashed is allowed only in the outermost filter.", f"{path}.trashed")
        return self._shape({name: value for name, value in tree.items() if name != "trashed"}, path)

    def _leaf(self, name: str, value: Any, path: str) -> Shape:
        self._count(1)
        if isinstance(value, list) and len(value) > MOST_VALUES:
            raise LimitExceeded(f"{path} lists {len(value)} values; the maximum is {MOST_VALUES}.")
        parameter, convert = f"{self._prefix}p{len(self.values)}", self._known[name].value
        self.values[parameter] = convert(path, value) if convert else value
        return (name, parameter)


def _all_of(met: list[bool | None]) -> bool | None:
    return False if False in met else None if None in met else True


def _negated(met: bool | None) -> bool | None:  # noqa: FBT001 - a value of three
    return None if met is None else not met


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
            return or_(_FALSE, *(_all(entity, parts) for parts in rest))
        case "not":
            # IS NOT TRUE instead of NOT: a condition on a null column is null, and so would be its negation.
            return _all(entity, rest).self_group().is_not(true())
    known = entity.conditions[name]
    return known.sql(bindparam(rest, type_=known.bound))
