"""Renders a selection as SQL that builds exactly its JSON.

JSON text is concatenated with `||`, which unlike json_build_object() has no limit of 100 arguments, and is faster.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    CompoundSelect,
    Select,
    Subquery,
    Text,
    cast,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.elements import Grouping, KeyedColumnElement, OperatorExpression
from sqlalchemy.sql.operators import concat_op, custom_op

from app.database.statements import Statement, text_literal

TYPE_NAME = "__typename"
# SQLAlchemy flattens its own concatenation into a chain, and drops parentheses.
_JOIN = custom_op[str]("||", return_type=Text())

Columns = ReadOnlyColumnCollection[str, KeyedColumnElement[Any]]


@dataclass(frozen=True, slots=True)
class Field:
    """One entry of a response: its response key, the field's name, and the selection of an object field.

    A field of a union type has a selection for each member. `arguments` are those of a field below a root field; they
    are equal if they are written alike.
    """

    key: str
    name: str
    selection: "Selection | None" = None
    members: "tuple[Selection, ...]" = ()
    arguments: Hashable = None

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
    """The fields that operations select of one object, and the statements compiled for it, by shape of arguments.

    `nested` are the fields with arguments anywhere below, each once.
    """

    typename: str
    fields: tuple[Field, ...]
    statements: dict[Hashable, Statement] = field(default_factory=dict)
    nested: tuple[Field, ...] = ()
    _entries: dict[tuple[str, ...], list[Field]] = field(default_factory=dict)

    def entries(self, *names: str) -> list[Field]:
        """The entries of these fields: none, one, or several, also with aliases."""
        if names not in self._entries:
            self._entries[names] = [entry for entry in self.fields if entry.name in names]
        return self._entries[names]


class Selections:
    """Deduplicates equal selections, so that different operations share statements."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[str, tuple[Field, ...]], Selection] = WeakValueDictionary()

    def of(self, typename: str, fields: tuple[Field, ...]) -> Selection:
        return self._known.setdefault((typename, fields), Selection(typename, fields, nested=_nested(fields)))


def _nested(fields: tuple[Field, ...]) -> tuple[Field, ...]:
    found = dict[Field, None]()
    for entry in fields:
        inner = entry.members if entry.selection is None else (entry.selection,)
        found |= dict.fromkeys(one for selection in inner for one in selection.nested)
        if entry.arguments is not None:
            found[entry] = None
    return tuple(found)


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
    """The concatenated pieces, with adjacent constants merged, as a balanced tree.

    Each `||` copies its operands: in a chain, the first pieces would be copied again for every later one.
    """
    pieces = _merged([part for piece in pieces for part in _parts(piece)])
    while len(pieces) > 1:
        pairs = [first.operate(_JOIN, second) for first, second in zip(pieces[::2], pieces[1::2], strict=False)]
        pieces = pairs + ([pieces[-1]] if len(pieces) % 2 else [])
    return pieces[0]


def _parts(piece: Any) -> list[ColumnElement[str]]:
    """The operands of a piece that is itself a concatenation."""
    inner = piece.element if isinstance(piece, Grouping) else piece
    if isinstance(inner, OperatorExpression) and inner.operator in {concat_op, _JOIN}:
        return [part for child in inner.get_children() for part in _parts(child)]
    return [piece]


def _merged(pieces: list[ColumnElement[str]]) -> list[ColumnElement[str]]:
    merged = pieces[:1]
    for piece in pieces[1:]:
        before, after = _constant(merged[-1]), _constant(piece)
        if before and after:
            merged[-1] = literal_column(before[:-1] + after[1:], Text)
        else:
            merged.append(piece)
    return merged


def _constant(piece: ColumnElement[str]) -> str | None:
    """The SQL of a text literal; None for any other expression."""
    is_constant = isinstance(piece, ColumnClause) and piece.is_literal and piece.name.startswith("'")
    return piece.name if is_constant else None


def numbered(rows: Select[Any] | CompoundSelect[Any]) -> Subquery:
    """Rows with their `place`, from 1, in the order of the subquery."""
    inner = rows.subquery("rows")
    return select(*inner.c, func.row_number().over().label("place")).subquery("page")


def gathered(values: ColumnElement[Any], shown: ColumnElement[bool]) -> Grouping[Sequence[Any]]:
    """The values of the shown rows as an array, in the order of the rows."""
    return Grouping(func.array_agg(values, type_=ARRAY(values.type)).filter(shown))


def json_list(element: ColumnElement[str], shown: ColumnElement[bool]) -> ColumnElement[str]:
    """The JSON texts of the shown rows as a JSON list, in the order of the rows: ORDER BY would sort the texts."""
    elements = func.string_agg(element, text_literal(",")).filter(shown)
    return joined([text_literal("["), func.coalesce(elements, text_literal(""), type_=Text), text_literal("]")])


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
