"""Orders, and the keyset conditions that continue them. The id ends every order, so that no two rows tie."""

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Text, Uuid, and_, bindparam, cast, or_, tuple_
from sqlalchemy.types import TypeEngine

from app.entities import cursors
from app.entities.entity import Entity, SortKey
from app.entities.kinds import id_value
from app.errors import BadUserInput

Keys = Sequence[ColumnElement[Any]]


class OrderBy(NamedTuple):
    """One term of an order."""

    field: str
    descending: bool


NEWEST_FIRST = (OrderBy("CREATED_AT", descending=True),)


@lru_cache(128)
def ordered(entity: Entity, terms: tuple[OrderBy, ...]) -> "Order":
    """The order of these terms, the same one each time: statements are kept by it."""
    return Order(entity, terms)


class Order:
    """A total order: the terms asked for, then the id in the last term's direction."""

    def __init__(self, entity: Entity, terms: tuple[OrderBy, ...]) -> None:
        if len({term.field for term in terms}) < len(terms):
            raise BadUserInput("orderBy names a field twice.")
        terms = terms or NEWEST_FIRST
        self.terms = (*terms, OrderBy("ID", terms[-1].descending))
        # Cursors hold it: one list's cursor leads nowhere in another list, nor in another order.
        self.name = " ".join([entity.many, *(("-" if term.descending else "+") + term.field for term in self.terms)])
        self.keys = [entity.sort_keys[term.field] for term in terms] + [_id_key(entity)]

    @property
    def has_index(self) -> bool:
        return len(self.keys) == 2 and self.keys[0].indexed  # noqa: PLR2004 - the field and the id

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
        """The rows after the keys bound as prefix_0, prefix_1, … (before them when backward)."""
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


def _id_key(entity: Entity) -> SortKey:
    return SortKey(entity.table.c.id, Uuid(), id_value)


def _bound(name: str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """A bound key. Dates travel as text: the driver would read 9999-12-31 as infinity."""
    if isinstance(type_, Integer):
        return bindparam(name, type_=type_)
    return cast(bindparam(name, type_=Text), type_)
