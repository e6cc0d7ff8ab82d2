"""Rows that were written, as edges of the page that shows them: clients insert these into their copies of the page.

The cursor is that of the default order, which tasks and lists have if a page gives none.
"""

from collections.abc import Mapping, Sequence

import orjson
from sqlalchemy import Column, ColumnElement

from app.database.rendering import TYPE_NAME, Columns, Field, Selection, json_object, quoted
from app.entities import cursors
from app.entities.entity import Entity
from app.entities.ordering import ordered

# What the edge of a row that is read after the write contains.
_NAMED = (Field("cursor", "cursor"), Field("id", "id"))


def shown(entity: Entity, entry: Field, row: Columns) -> ColumnElement[str]:
    """The JSON of a row for an entry of a payload: of the row itself, or of its edge."""
    if entry.name not in {entity.edge, entity.edges}:
        return entity.json(entry.inner, row)

    def part(inner: Field) -> ColumnElement[str]:
        if inner.name == "cursor":
            return quoted(cursors.sealed(_content(entity, row)))
        return quoted(row["id"]) if inner.name == "id" else entity.json(inner.inner, row)

    return json_object(entry.inner, part)


def _content(entity: Entity, row: Columns) -> ColumnElement[str]:
    order = ordered(entity, ())
    columns = [key.expression for key in order.keys]
    assert all(isinstance(column, Column) for column in columns)  # noqa: S101 - the default orders are of columns
    return order.content([row[column.key] for column in columns if column.key])


def nodes(entity: Entity, entry: Field) -> Sequence[Field]:
    """The entries of an entry of a payload that show the row."""
    return entry.inner.entries("node") if entry.name in {entity.edge, entity.edges} else [entry]


def naming(entity: Entity, entry: Field) -> Selection:
    """What is enough of a row, or of its edge, to read it after the write."""
    fields = _NAMED if entry.name in {entity.edge, entity.edges} else _NAMED[1:]
    return Selection(entity.type_name, fields)


def completed(entry: Field, named: Mapping[str, str], read: Mapping[str, str | None]) -> str:
    """The JSON of an edge whose rows were read after the write, by the response key of the node."""
    values = {
        part.key: orjson.Fragment(read[part.key] or "null")
        if part.name == "node"
        else entry.inner.typename
        if part.name == TYPE_NAME
        else named["cursor"]
        for part in entry.inner.fields
    }
    return orjson.dumps(values).decode()
