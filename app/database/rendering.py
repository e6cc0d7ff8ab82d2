"""Renders a selection as SQL that builds exactly its JSON.

JSON text is concatenated with `||`, which unlike json_build_object() has no limit of 100 arguments, and is a little
faster.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy import ColumnElement, Text, cast, func
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.elements import KeyedColumnElement

from app.database.statements import Statement, text_literal

TYPE_NAME = "__typename"

Columns = ReadOnlyColumnCollection[str, KeyedColumnElement[Any]]


@dataclass(frozen=True, slots=True)
class Field:
    """One entry of a response: its response key, the field's name, and the selection of an object field.

    A field of a union type has a selection for each member.
    """

    key: str
    name: str
    selection: "Selection | None" = None
    members: "tuple[Selection, ...]" = ()

    @property
    def inner(self) -> "Selection":
        if self.selection is None:
            raise TypeError(f"{self.name} is a leaf")
        return self.selection

    def member(self, typename: str) -> "Selection":
        """The selection for a member of the union."""
        return next(selection for selection in self.members if selection.typename == typename)


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Selection:
    """The fields that operations select of one object, and the statements compiled for it, by shape of arguments."""

    typename: str
    fields: tuple[Field, ...]
    statements: dict[Hashable, Statement] = field(default_factory=dict)
    _entries: dict[str, list[Field]] = field(default_factory=dict)

    def entries(self, name: str) -> list[Field]:
        """The entries of a field: none, one, or several with aliases."""
        if name not in self._entries:
            self._entries[name] = [entry for entry in self.fields if entry.name == name]
        return self._entries[name]


class Selections:
    """Deduplicates equal selections, so that different operations share statements."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[str, tuple[Field, ...]], Selection] = WeakValueDictionary()

    def of(self, typename: str, fields: tuple[Field, ...]) -> Selection:
        return self._known.setdefault((typename, fields), Selection(typename, fields))


def json_object(selection: Selection, render: Callable[[Field], ColumnElement[str]]) -> ColumnElement[str]:
    """The JSON text of one object. `render` returns the text of each field."""
    pieces: list[ColumnElement[str]] = []
    opening = "{"
    for entry in selection.fields:
        if entry.name == TYPE_NAME:
            opening += f'"{entry.key}":"{selection.typename}",'
            continue
        pieces += [text_literal(f'{opening}"{entry.key}":'), render(entry)]
        opening = ","
    closing = "}" if opening == "," else opening.rstrip(",") + "}"
    return joined([*pieces, text_literal(closing)])


def joined(pieces: list[ColumnElement[str]]) -> ColumnElement[str]:
    """The concatenated pieces, as a balanced tree: a chain of hundreds would exhaust the compiler's stack."""
    while len(pieces) > 1:
        pairs = [first.concat(second).self_group() for first, second in zip(pieces[::2], pieces[1::2], strict=False)]
        pieces = pairs + ([pieces[-1]] if len(pieces) % 2 else [])
    return pieces[0]


def json_text(value: ColumnElement[Any]) -> ColumnElement[str]:
    """A value that is never null, as JSON."""
    return cast(func.to_json(value), Text)


def json_or_null(value: ColumnElement[Any]) -> ColumnElement[str]:
    return func.coalesce(json_text(value), text_literal("null"))


def plain(value: ColumnElement[Any]) -> ColumnElement[str]:
    """A number or a Boolean: its SQL text is its JSON."""
    return cast(value, Text)


def quoted(value: ColumnElement[Any]) -> ColumnElement[str]:
    """Text that needs no escaping, such as ids and our own names, as JSON."""
    return text_literal('"').concat(cast(value, Text)).concat(text_literal('"')).self_group()
