"""Definitions shared by fields: the fields that every entity has, range conditions, and values in cursors."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, DateTime, Table, Text, Uuid, any_, case, cast, literal_column
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from app.database.rendering import json_or_null, json_text, plain, quoted
from app.entities.entity import Condition, Content, Field, Nulls, SortKey
from app.entities.naming import api_name
from app.entities.problems import Problem, storable, utc
from app.errors import BadUserInput
from app.identifiers import identifier

INSTANT = DateTime(timezone=True)
# Lists are passed as text[], the only list type that asyncpg knows without a catalog lookup.
TEXTS = ARRAY(Text)
# How far the clocks of clients may be ahead, as for tokens.
CLOCK_SKEW = timedelta(seconds=30)
# Above and below all dates and times.
ENDS = ("infinity", "-infinity")


def fields_of_rows(
    table: Table, *, by_time: bool = True, by_deletion: bool = False, imported: bool = False
) -> tuple[Field, ...]:
    """The fields that every entity has. Callers cannot write them, but for the time of creation of `imported` rows.

    With `by_time`, indexes serve orders by times; with `by_deletion`, one serves the order of the trash.
    """
    row = table.c
    ids = Condition(lambda bind: row.id == any_(cast(bind, ARRAY(Uuid))), TEXTS, _ids)
    return (
        Field(row.id, quoted, conditions={"ids": ids}),
        Field(row.position, json_text, sort=SortKey(row.position, Text(collation="C"), text_value, indexed=True)),
        Field(row.version, plain),
        _moment_field(row.created_at, "created", past_moment("createdAt") if imported else None, sorted_=by_time),
        _moment_field(row.updated_at, "updated", sorted_=by_time),
        optional_moment_field(row.deleted_at, "trashed") if by_deletion else Field(row.deleted_at, json_or_null),
        Field(row.create_hash, None),
    )


def _moment_field(column: Any, condition: str, content: Content | None = None, *, sorted_: bool) -> Field:
    sort = SortKey(column, INSTANT, _instant_value, indexed=True) if sorted_ else None
    return Field(column, json_text, content, sort, span(condition, column, INSTANT, Text(), moment))


def past_moment(name: str) -> Content:
    """A time in the past that a create may set, for rows that come from elsewhere."""
    return Content(
        Text(),
        cast=INSTANT,
        check=lambda value: _not_past(name, value),
        stored=utc,
        in_updates=False,
        optional=True,
    )


def _not_past(name: str, value: datetime) -> Sequence[Problem]:
    try:
        is_past = value.astimezone(UTC) <= datetime.now(UTC) + CLOCK_SKEW
    except OverflowError:
        return [Problem("INVALID", f"{name} is out of range; the year must be from 1 to 9999, in UTC.")]
    return () if is_past else [Problem("INVALID", f"{name} must not be in the future.")]


def optional_moment_field(column: Any, *excluding: str, content: Content | None = None) -> Field:
    """A field with a time or null, with an index of the user, the time and the id where the time is not null.

    `excluding` are conditions that exclude null, besides those of the field itself.
    """
    name = api_name(column.name)
    conditions = span(name, column, INSTANT, Text(), moment)
    high, low = (case((column.is_(None), literal_column(f"'{end}'::timestamptz")), else_=column) for end in ENDS)
    nulls = Nulls(low, column, frozenset([*conditions, *excluding]))
    sort = SortKey(high, INSTANT, _instant_or_end, nulls=nulls)
    return Field(column, json_or_null, content, sort, conditions)


def span(
    name: str,
    value: ColumnElement[Any],
    type_: TypeEngine[Any],
    bound: TypeEngine[Any],
    convert: Callable[[str, Any], Any] | None = None,
) -> Mapping[str, Condition]:
    """The conditions of an input type with the fields `gte` and `lt`."""
    return {
        f"{name}.gte": Condition(lambda bind: value >= cast(bind, type_), bound, convert),
        f"{name}.lt": Condition(lambda bind: value < cast(bind, type_), bound, convert),
    }


def moment(name: str, value: date) -> str:
    """A date or a time as text: asyncpg would encode the last day, 9999-12-31, as infinity."""
    try:
        return utc(value) if isinstance(value, datetime) else value.isoformat()
    except OverflowError:
        raise BadUserInput(f"{name} is out of range; the year must be from 1 to 9999, in UTC.", name) from None


def text_value(value: Any) -> str:
    """Text in a cursor."""
    if not isinstance(value, str):
        raise TypeError
    return storable(value, "The cursor")


def id_value(value: Any) -> str:
    """A UUID in a cursor."""
    return str(UUID(value))


def _instant_value(value: Any) -> str:
    return utc(datetime.fromisoformat(value))


def _instant_or_end(value: Any) -> str:
    return str(value) if value in ENDS else _instant_value(value)


def _ids(name: str, value: list[str]) -> list[str]:
    return [str(identifier(item, f"{name}.{place}")) for place, item in enumerate(value)]
