"""Orders of tasks and the keyset conditions that continue them. The id ends every order, so that no two tasks tie."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Date,
    DateTime,
    SmallInteger,
    Text,
    Uuid,
    and_,
    bindparam,
    cast,
    func,
    or_,
    tuple_,
)
from sqlalchemy.types import TypeEngine

from app.entities import cursors
from app.entities.problems import storable, utc
from app.errors import BadUserInput
from app.models import TASKS, due_sort


class OrderBy(NamedTuple):
    """One term of an order."""

    field: str
    descending: bool


NEWEST_FIRST = (OrderBy("CREATED_AT", descending=True),)


@dataclass(frozen=True, slots=True)
class SortKey:
    """What a term sorts by, its SQL type, and how its value is read from a cursor."""

    expression: ColumnElement[Any]
    type: TypeEngine[Any]
    read: Callable[[Any], object]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return storable(value, "The cursor")


def _small_integer(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**15:
        raise ValueError
    return value


def _due(value: Any) -> str:
    return value if value == "infinity" else date.fromisoformat(value).isoformat()


def _instant(value: Any) -> str:
    return utc(datetime.fromisoformat(value))


SORT_KEYS = {
    "CREATED_AT": SortKey(TASKS.c.created_at, DateTime(timezone=True), _instant),
    "UPDATED_AT": SortKey(TASKS.c.updated_at, DateTime(timezone=True), _instant),
    "DUE_DATE": SortKey(due_sort, Date(), _due),
    "PRIORITY": SortKey(TASKS.c.priority, SmallInteger(), _small_integer),
    "POSITION": SortKey(TASKS.c.position, Text(collation="C"), _text),
    "TITLE": SortKey(func.lower(TASKS.c.title), Text(), _text),
    "ID": SortKey(TASKS.c.id, Uuid(), lambda value: str(UUID(value))),
}


Keys = Sequence[ColumnElement[Any]]

INDEXED = {"CREATED_AT", "UPDATED_AT", "DUE_DATE", "POSITION"}


@lru_cache(128)
def ordered(terms: tuple[OrderBy, ...]) -> "Order":
    """The order of these terms, the same one each time: statements are kept by it."""
    return Order(terms)


class Order:
    """A total order: the terms asked for, then the id in the last term's direction."""

    def __init__(self, terms: tuple[OrderBy, ...]) -> None:
        if len({term.field for term in terms}) < len(terms):
            raise BadUserInput("orderBy names a field twice.")
        terms = terms or NEWEST_FIRST
        self.terms = (*terms, OrderBy("ID", terms[-1].descending))
        self.name = " ".join(("-" if term.descending else "+") + term.field for term in self.terms)
        self.keys = [SORT_KEYS[term.field] for term in self.terms]

    @property
    def has_index(self) -> bool:
        return len(self.terms) == 2 and self.terms[0].field in INDEXED  # noqa: PLR2004 - the field and the id

    @property
    def expressions(self) -> list[ColumnElement[Any]]:
        return [key.expression for key in self.keys]

    def clauses(self, *, backward: bool, keys: Keys | None = None) -> list[ColumnElement[Any]]:
        """ORDER BY, walked from either end; `keys` stand for the expressions where these were selected before."""
        return [
            key.desc() if term.descending != backward else key.asc()
            for term, key in zip(self.terms, keys or self.expressions, strict=True)
        ]

    def bound(self, prefix: str, mark: str | None, owner: UUID) -> dict[str, Any]:
        """The keys of a cursor as prefix_0, prefix_1, …; none without a cursor."""
        if mark is None:
            return {}
        values = cursors.decoded(mark, self.name, owner)
        try:
            bounds = [key.read(value) for key, value in zip(self.keys, values, strict=True)]
        except (ValueError, TypeError, AttributeError, OverflowError):
            raise BadUserInput("The cursor is damaged.") from None
        return {f"{prefix}_{place}": bound for place, bound in enumerate(bounds)}

    def beyond(
        self, prefix: str, *, backward: bool, inclusive: bool = False, keys: Keys | None = None
    ) -> ColumnElement[bool]:
        """The tasks after the keys bound as prefix_0, prefix_1, … (before them when backward)."""
        expressions = keys or self.expressions
        bounds = [_bound(f"{prefix}_{place}", key.type) for place, key in enumerate(self.keys)]
        falling = [term.descending != backward for term in self.terms]
        if len(set(falling)) == 1:
            return _ahead(tuple_(*expressions), tuple_(*bounds), falling=falling[0], inclusive=inclusive)
        return _mixed(expressions, bounds, falling, inclusive=inclusive)


def _mixed(expressions: Keys, bounds: Keys, falling: list[bool], *, inclusive: bool) -> ColumnElement[bool]:
    """Directions that differ have no row comparison: ahead in one key, and equal in all before it."""
    ways = [
        and_(
            *(expressions[i] == bounds[i] for i in range(place)),
            _ahead(expressions[place], bounds[place], falling=falling[place], inclusive=False),
        )
        for place in range(len(bounds))
    ]
    same = [and_(*(key == bound for key, bound in zip(expressions, bounds, strict=True)))]
    # Implied by the rest, and the only part that an index can start from.
    leading = _ahead(expressions[0], bounds[0], falling=falling[0], inclusive=True)
    return and_(leading, or_(*ways, *(same if inclusive else [])))


def _ahead(key: Any, bound: Any, *, falling: bool, inclusive: bool) -> ColumnElement[bool]:
    compare = (operator.le if falling else operator.ge) if inclusive else (operator.lt if falling else operator.gt)
    result: ColumnElement[bool] = compare(key, bound)
    return result


def _bound(name: str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """A bound key. Dates travel as text: the driver would read 9999-12-31 as infinity."""
    if isinstance(type_, SmallInteger):
        return bindparam(name, type_=type_)
    return cast(text_parameter(name), type_)


def text_parameter(name: str) -> BindParameter[str]:
    return bindparam(name, type_=Text)
