"""Orders, and the keyset conditions that continue them. Every order ends with the id, so that it is total."""

import json
import operator
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Text, Uuid, and_, bindparam, cast, or_, tuple_
from sqlalchemy.types import TypeEngine

from app.database.rendering import joined, json_text
from app.database.statements import text_literal
from app.entities import cursors
from app.entities.entity import Entity, SortKey
from app.entities.kinds import id_value
from app.errors import BadUserInput

Keys = Sequence[ColumnElement[Any]]


FIRST, LAST = "FIRST", "LAST"


class OrderBy(NamedTuple):
    """One term of an order. `nulls` is where null comes: by default LAST if ascending, and FIRST if descending."""

    field: str
    descending: bool
    nulls: str | None = None

    @property
    def nulls_are_low(self) -> bool:
        """Whether null comes before all values in ascending order."""
        return self.nulls == (LAST if self.descending else FIRST)

    def __str__(self) -> str:
        placement = f":{self.nulls}" if self.nulls_are_low else ""
        return ("-" if self.descending else "+") + self.field + placement


@lru_cache(128)
def ordered(entity: Entity, terms: tuple[OrderBy, ...]) -> "Order":
    """The order of these terms. Cached, because statements are cached by order."""
    return Order(entity, terms)


class Order:
    """A total order: the requested terms, then the id in the direction of the last term."""

    def __init__(self, entity: Entity, terms: tuple[OrderBy, ...]) -> None:
        if len({term.field for term in terms}) < len(terms):
            raise BadUserInput("orderBy names a field twice.", "orderBy")
        terms = terms or (OrderBy(*entity.order),)
        self.terms = (*terms, OrderBy("ID", terms[-1].descending))
        # Part of each cursor, so that a cursor is rejected in another list or order.
        self.name = " ".join([entity.many, *map(str, self.terms)])
        self.keys = [_key(entity, term) for term in terms] + [_id_key(entity)]

    def among(self, conditions: AbstractSet[str]) -> "Order":
        """The same order, for rows that meet these conditions of a filter: an index may serve it if none are null."""
        made = copy(self)
        made.keys = [_present(key, conditions) for key in self.keys]
        return made

    @property
    def has_index(self) -> bool:
        return len(self.keys) == 2 and self.keys[0].indexed  # noqa: PLR2004 - the field and the id

    @property
    def expressions(self) -> list[ColumnElement[Any]]:
        return [key.expression for key in self.keys]

    def clauses(self, *, backward: bool, keys: Keys | None = None) -> list[ColumnElement[Any]]:
        """The terms of ORDER BY, from either end. `keys` replace the expressions if a subquery has selected them."""
        return [
            key.desc() if term.descending != backward else key.asc()
            for term, key in zip(self.terms, keys or self.expressions, strict=True)
        ]

    def content(self, keys: Keys) -> ColumnElement[str]:
        """The content of the cursor of a row with these keys; null if one of them is null."""
        parts: list[ColumnElement[str]] = [text_literal("[" + json.dumps(self.name))]
        for key in keys:
            parts += [text_literal(","), json_text(key)]
        return joined([*parts, text_literal("]")])

    def bound(self, prefix: str, mark: str | None, owner: UUID) -> dict[str, Any]:
        """The values of a cursor, to bind as prefix_0, prefix_1, …; empty without a cursor."""
        if mark is None:
            return {}
        try:
            values = cursors.decoded(mark, self.name, owner)
            bounds = [key.read(value) for key, value in zip(self.keys, values, strict=True)]
        except BadUserInput as error:
            error.field = _argument(prefix)
            raise
        except (ValueError, TypeError, AttributeError, OverflowError):
            raise BadUserInput("The cursor is damaged.", _argument(prefix)) from None
        return {f"{prefix}_{place}": bound for place, bound in enumerate(bounds)}

    def beyond(
        self, prefix: str, *, backward: bool, inclusive: bool = False, keys: Keys | None = None
    ) -> ColumnElement[bool]:
        """The condition for rows after the keys bound as prefix_0, prefix_1, … (before them if `backward`)."""
        expressions = keys or self.expressions
        bounds = [_bound(f"{prefix}_{place}", key.type) for place, key in enumerate(self.keys)]
        falling = [term.descending != backward for term in self.terms]
        if len(set(falling)) == 1:
            return _ahead(tuple_(*expressions), tuple_(*bounds), falling=falling[0], inclusive=inclusive)
        return _mixed(expressions, bounds, falling, inclusive=inclusive)


def _argument(prefix: str) -> str:
    """The argument of a cursor, from the prefix of its parameters."""
    return prefix.rpartition("_")[2]


def _mixed(expressions: Keys, bounds: Keys, falling: list[bool], *, inclusive: bool) -> ColumnElement[bool]:
    """The condition for mixed directions, which row comparison cannot express: equal keys, then one that is beyond."""
    ways = [
        and_(
            *(expressions[i] == bounds[i] for i in range(place)),
            _ahead(expressions[place], bounds[place], falling=falling[place], inclusive=False),
        )
        for place in range(len(bounds))
    ]
    same = [and_(*(key == bound for key, bound in zip(expressions, bounds, strict=True)))]
    # Implied by the rest, but the only part for which an index can be used.
    leading = _ahead(expressions[0], bounds[0], falling=falling[0], inclusive=True)
    return and_(leading, or_(*ways, *(same if inclusive else [])))


def _ahead(key: Any, bound: Any, *, falling: bool, inclusive: bool) -> ColumnElement[bool]:
    compare = (operator.le if falling else operator.ge) if inclusive else (operator.lt if falling else operator.gt)
    result: ColumnElement[bool] = compare(key, bound)
    return result


def _key(entity: Entity, term: OrderBy) -> SortKey:
    key = entity.sort_keys[term.field]
    if term.nulls is not None and key.nulls is None:
        nullable = [name for name, each in entity.sort_keys.items() if each.nulls]
        known = ", ".join(nullable) or "none of its fields"
        raise BadUserInput(
            f"orderBy.nulls does not apply to {term.field}, which is never null, only to: {known}.", "orderBy"
        )
    return replace(key, expression=key.nulls.low, indexed=False) if key.nulls and term.nulls_are_low else key


def _present(key: SortKey, conditions: AbstractSet[str]) -> SortKey:
    if key.nulls is None or key.nulls.excluded_by.isdisjoint(conditions):
        return key
    return replace(key, expression=key.nulls.present, indexed=True)


def _id_key(entity: Entity) -> SortKey:
    return SortKey(entity.table.c.id, Uuid(), id_value)


def _bound(name: str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """A bound key. Dates are passed as text: asyncpg would encode 9999-12-31 as infinity."""
    if isinstance(type_, Integer):
        return bindparam(name, type_=type_)
    return cast(bindparam(name, type_=Text), type_)
