"""Filters of tasks: a tree of conditions becomes a shape, which a statement is compiled for, and bound values."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    Boolean,
    ColumnElement,
    Date,
    DateTime,
    SmallInteger,
    String,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY

from app.errors import BadUserInput, LimitExceeded
from app.identifiers import identifier
from app.models import PRIORITIES, TASKS, due_sort
from app.tasks.problems import storable, utc

MOST_CONDITIONS = 50
MOST_VALUES = 1000
_NO_CONDITIONS = {"and", "or", "not", "trashed"}

Shape = tuple[Any, ...]
Bind = BindParameter[Any]

_infinity = literal_column("'infinity'::date", Date)


def _is_due(bind: Bind, *, until: bool) -> ColumnElement[bool]:
    bound = cast(bind, Date)
    return due_sort < bound if until else and_(due_sort >= bound, due_sort < _infinity)


def _found(bind: Bind) -> ColumnElement[bool]:
    """Without regard to case and accents: the words are brought into the form that the column has."""
    key = select(func.search_key(bind)).scalar_subquery()  # once, and not for each task
    return func.strpos(TASKS.c.search, key) > literal_column("0")


_timestamp = DateTime(timezone=True)
_tags = ARRAY(String)  # of any length: a cast to varchar(50) would cut a longer one to fit

CONDITIONS: Mapping[str, Callable[[Bind], ColumnElement[bool]]] = {
    "ids": lambda bind: TASKS.c.id == any_(cast(bind, ARRAY(Uuid))),
    "completed": lambda bind: TASKS.c.completed == cast(bind, Boolean),
    "search": _found,
    "priority": lambda bind: TASKS.c.priority == any_(cast(bind, ARRAY(SmallInteger))),
    "tagsAll": lambda bind: TASKS.c.tags.contains(cast(bind, _tags)),
    "tagsAny": lambda bind: TASKS.c.tags.overlap(cast(bind, _tags)),
    "due.gte": lambda bind: _is_due(bind, until=False),
    "due.lt": lambda bind: _is_due(bind, until=True),
    "due.isNull": lambda bind: TASKS.c.due_date.is_(None) == cast(bind, Boolean),
    "created.gte": lambda bind: TASKS.c.created_at >= cast(bind, _timestamp),
    "created.lt": lambda bind: TASKS.c.created_at < cast(bind, _timestamp),
    "updated.gte": lambda bind: TASKS.c.updated_at >= cast(bind, _timestamp),
    "updated.lt": lambda bind: TASKS.c.updated_at < cast(bind, _timestamp),
}


def _values(name: str, value: Any) -> Any:
    """A value as the driver takes it; BadUserInput for one that PostgreSQL would refuse."""
    if isinstance(value, list) and len(value) > MOST_VALUES:
        raise LimitExceeded(f"filter.{name} lists {len(value)} values; the most is {MOST_VALUES}.")
    match name:
        case "ids":
            return [str(identifier(item, "filter.ids")) for item in value]
        case "priority":
            return [str(PRIORITIES.index(item)) for item in value]
        case "tagsAll" | "tagsAny":
            return [storable(item, f"filter.{name}") for item in value]
        case "search":
            return storable(value, "filter.search")
    return _moment(name, value) if isinstance(value, date) else value


def _moment(name: str, value: date) -> str:
    """A day or a time as text: the driver would read the last day there is as infinity."""
    try:
        return utc(value) if isinstance(value, datetime) else value.isoformat()
    except OverflowError:
        raise BadUserInput(f"filter.{name} is out of range; years go from 1 to 9999, in UTC.") from None


class Filter:
    """The shape of a filter and the values to bind, under the names p0, p1 and so on."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self.values: dict[str, Any] = {}
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
            case "due" | "created" | "updated":
                return [self._leaf(f"{name}.{end}", bound) for end, bound in value.items()]
            case "tagsAll" if not value:
                self._count(1)
                return []  # every task has all of no tags
        return [self._leaf(name, value)]

    def _count(self, conditions: int) -> None:
        self._conditions += conditions
        if self._conditions > MOST_CONDITIONS:
            raise LimitExceeded(f"The filter has more than {MOST_CONDITIONS} conditions.")

    def _nested(self, tree: Mapping[str, Any]) -> Shape:
        """A filter within the filter. One without conditions of its own counts as one, whatever it nests."""
        self._count(0 if tree.keys() - _NO_CONDITIONS else 1)
        if tree.get("trashed"):
            raise BadUserInput("trashed belongs on the outermost filter.")
        return self._shape({name: value for name, value in tree.items() if name != "trashed"})

    def _leaf(self, name: str, value: Any) -> Shape:
        self._count(1)
        parameter = f"p{len(self.values)}"
        self.values[parameter] = _values(name, value)
        return (name, parameter)


def condition(shape: Shape) -> ColumnElement[bool]:
    """The SQL of a filter's shape."""
    trashed, parts = shape
    return and_(TASKS.c.deleted_at.is_not(None) if trashed else TASKS.c.deleted_at.is_(None), _all(parts))


def _all(parts: Sequence[Shape]) -> ColumnElement[bool]:
    return and_(true(), *(_part(name, rest) for name, rest in parts))


def _part(name: str, rest: Any) -> ColumnElement[bool]:
    match name:
        case "and":
            return and_(true(), *(_all(parts) for parts in rest))
        case "or":
            return or_(false(), *(_all(parts) for parts in rest))
        case "not":
            return not_(_all(rest).self_group())
    return CONDITIONS[name](bindparam(rest, type_=_bind_type(name)))


def _bind_type(name: str) -> Any:
    """What the driver is given; the condition casts it to what it compares with."""
    match name:
        case "completed" | "due.isNull":
            return Boolean
        case "ids" | "priority" | "tagsAll" | "tagsAny":
            # As text[], which the driver knows: other lists would cost it a look into the catalog.
            return ARRAY(Text)
    return Text
