"""Definitions shared by fields: the fields that every entity has, range conditions, and values in cursors."""

from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, DateTime, Table, Text, Uuid, any_, cast
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from app.database.rendering import json_or_null, json_text, plain, quoted
from app.entities.entity import Condition, Field, SortKey
from app.entities.problems import storable, utc
from app.errors import BadUserInput
from app.identifiers import identifier

INSTANT = DateTime(timezone=True)
# Lists are passed as text[], the only list type that asyncpg knows without a catalog lookup.
TEXTS = ARRAY(Text)


def fields_of_rows(table: Table, *, by_time: bool = True) -> tuple[Field, ...]:
    """The fields that every entity has. Callers cannot write them. With `by_time`, indexes serve orders by times."""
    row = table.c
    ids = Condition(lambda bind: row.id == any_(cast(bind, ARRAY(Uuid))), TEXTS, _ids)
    return (
        Field(row.id, quoted, conditions={"ids": ids}),
        Field(row.position, json_text, sort=SortKey(row.position, Text(collation="C"), text_value, indexed=True)),
        Field(row.version, plain),
        _moment_field(row.created_at, "created", sorted_=by_time),
        _moment_field(row.updated_at, "updated", sorted_=by_time),
        Field(row.deleted_at, json_or_null),
    )


def _moment_field(column: Any, condition: str, *, sorted_: bool) -> Field:
    sort = SortKey(column, INSTANT, _instant_value, indexed=True) if sorted_ else None
    return Field(column, json_text, sort=sort, conditions=span(condition, column, INSTANT, Text(), moment))


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
        raise BadUserInput(f"{name} is out of range; the year must be from 1 to 9999, in UTC.") from None


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


def _ids(name: str, value: list[str]) -> list[str]:
    return [str(identifier(item, name)) for item in value]
