"""An entity: a table of rows that belong to users, and one declaration of each of its fields.

All reads and writes of an entity derive from these declarations: rendering, single and bulk writes, checks, filters and
orders.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from sqlalchemy import BindParameter, Column, ColumnElement, FromClause, Table, case
from sqlalchemy.types import TypeEngine

from app.database.rendering import TYPE_NAME, Columns, Selection, json_object, quoted
from app.database.rendering import Field as Entry
from app.database.statements import Reader, text_literal
from app.entities.naming import api_name
from app.entities.problems import Problem

Check = Callable[[Any], Sequence[Problem]]
Contents = Mapping[str, ColumnElement[Any]]
Shape = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """How callers write a column.

    `check` returns the problems of a value, with a path within the value if it has parts. `stored` converts a valid
    value into the one to bind, and null into what the column contains instead.
    """

    # The type of the parameter, and the type to cast it to: asyncpg needs a catalog lookup for lists other than text[],
    # and encodes the last representable day as infinity.
    bound: TypeEngine[Any]
    cast: TypeEngine[Any] | None = None
    check: Check | None = None
    stored: Callable[[Any], Any] | None = None
    # Whether creates and updates accept the field.
    at_creation: bool = True
    in_updates: bool = True
    # Whether creates tell apart a field that is given and one that is omitted: `following` sets what is omitted, and
    # an existing row is compared only with what is given.
    optional: bool = False
    # What makes two values the same, if not every difference counts.
    compared: Callable[[ColumnElement[Any]], ColumnElement[Any]] | None = None
    # Whether two values are the same to a client that compares what it has seen, if order makes no difference.
    alike: Callable[[ColumnElement[Any], ColumnElement[Any]], ColumnElement[bool]] | None = None
    # The stored value that a new row has if the field is omitted.
    default: Any = None
    # What the hash of a create contains instead of the stored value.
    canonical: Callable[[Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Nulls:
    """How else a nullable column can be sorted, whose sort key has null above all values."""

    # The sort key with null below all values.
    low: ColumnElement[Any]
    # A sort key with an index, for rows that meet one of these conditions of a filter, which exclude null.
    present: ColumnElement[Any]
    excluded_by: frozenset[str]


@dataclass(frozen=True, slots=True)
class SortKey:
    """A sort key: an expression that is never null, its type, and a function that converts a cursor's JSON value.

    `read` raises ValueError, TypeError, AttributeError or OverflowError for an invalid value.
    """

    expression: ColumnElement[Any]
    type: TypeEngine[Any]
    read: Callable[[Any], object]
    # Whether there is an index on the user and this key.
    indexed: bool = False
    # For nullable columns.
    nulls: Nulls | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a filter: the SQL that compares with a parameter, and the type of that parameter.

    `value` converts the input into the value to bind, and names the input field in its errors. SQL that is null counts
    as false, also within `not`.
    """

    sql: Callable[[BindParameter[Any]], ColumnElement[bool]]
    bound: TypeEngine[Any]
    value: Callable[[str, Any], Any] | None = None
    # Splits the input into values that a row must all match. If there are none, every row matches.
    parts: Callable[[Any], Sequence[Any]] = lambda value: [value]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the API that is a column: its JSON, and whether it can be written, sorted by and filtered by.

    Conditions are named by their path in the filter input, such as `completed` or `due.gte`.
    """

    column: Column[Any]
    # None for a column that is not shown.
    json: Callable[[ColumnElement[Any]], ColumnElement[str]] | None
    content: Content | None = None
    sort: SortKey | None = None
    conditions: Mapping[str, Condition] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return api_name(self.column.name)


class View(Protocol):
    """What a read gives its nested fields: the user as whom it acts. `app.entities.reading` defines the rest."""

    @property
    def me(self) -> Reader: ...


@dataclass(frozen=True, slots=True)
class Related:
    """A field of the API that shows other rows: the column that refers to them, and their JSON.

    If the column is the id of the object shown, `shows` is its entity; the id then needs no other row.
    """

    column: Column[Any]
    json: Callable[[Any, Entry, ColumnElement[Any]], ColumnElement[str]]
    shows: "Entity | None" = None

    def knows(self, entry: Entry) -> bool:
        """Whether the column is enough to render the entry."""
        return self.shows is not None and all(part.name in {"id", TYPE_NAME} for part in entry.inner.fields)

    def of_column(self, entry: Entry, value: ColumnElement[Any]) -> ColumnElement[str]:
        """The JSON of an entry for which the column is enough."""
        return case(
            (value.is_(None), text_literal("null")), else_=json_object(entry.inner, lambda _part: quoted(value))
        )


@dataclass(frozen=True, slots=True)
class Membership:
    """Rows that are members of a row of another entity, or of none: tasks of a list.

    When the container goes to the trash, its live members go with it, and are marked. An id names one row of both.
    """

    members: Table
    containers: Table
    # The columns of members with the id of their container, and with the mark.
    reference: Column[Any]
    mark: Column[bool]


@dataclass(frozen=True, slots=True)
class Few:
    """How a page finds the rows of a selective condition without scanning the index of its order.

    `row` is a subquery with one row, which is evaluated before the page. `few` tells whether the condition matches only
    few rows, and `has` whether a row is one of them.
    """

    row: FromClause
    few: ColumnElement[bool]
    has: ColumnElement[bool]


def _none_follow(_contents: Contents, _row: Columns | None, _at: ColumnElement[Any]) -> Contents:
    return {}


def _no_conflict(_changes: Mapping[str, Any]) -> Sequence[Problem]:
    return ()


def _as_given(contents: Contents, _row: Columns) -> Contents:
    return contents


def _no_refusal(_contents: Contents, _row: Columns) -> Mapping[str, ColumnElement[bool]]:
    return {}


def _no_few(_me: Reader, _filter: Shape) -> Few | None:
    return None


@dataclass(frozen=True, eq=False)
class Entity:
    """Rows that each belong to a user, with a version, a position in the manual order, and a trash.

    The table has the columns `user_id`, `id`, `position`, `version`, `created_at`, `updated_at` and `deleted_at`.
    `counter` is the column of `task_clocks` that counts a user's rows, for the quota.
    """

    type_name: str
    # The singular and plural names in the API: task, tasks.
    one: str
    many: str
    table: Table
    counter: Column[int]
    declared: tuple[Field, ...]
    # Fields that show other rows, by their names in the API. Entities that refer to one another complete them later.
    related: dict[str, Related] = field(default_factory=dict)
    # Conditions that do not belong to a single field.
    more_conditions: Mapping[str, Condition] = field(default_factory=dict)
    # Derived columns, computed from the columns written, the row before an update, and the time.
    following: Callable[[Contents, Columns | None, ColumnElement[Any]], Contents] = _none_follow
    # What updates accept besides columns, and the columns that follow from it and from the row before.
    more_contents: Mapping[str, Content] = field(default_factory=dict)
    merged: Callable[[Contents, Columns], Contents] = _as_given
    # When an update of a row is rejected because of what the row contains, by the error code.
    refused: Callable[[Contents, Columns], Mapping[str, ColumnElement[bool]]] = _no_refusal
    # The problems of these codes.
    refusals: Mapping[str, Problem] = field(default_factory=dict)
    # The order of pages if the caller gives none: the name of a sort key, and whether it is descending.
    order: tuple[str, bool] = ("CREATED_AT", True)
    # The entity whose rows contain these rows, and the entity whose rows are contained in these.
    member: Membership | None = None
    container: Membership | None = None
    # The problems of an input whose fields contradict one another.
    conflicts: Check = _no_conflict
    # For filters with a selective condition that has its own index.
    few: Callable[[Reader, Shape], Few | None] = _no_few

    @cached_property
    def edge(self) -> str:
        """The field of a payload with the row as an edge."""
        return f"{self.one}Edge"

    @cached_property
    def edges(self) -> str:
        """The field of a payload with several rows as edges."""
        return f"{self.one}Edges"

    @cached_property
    def fields(self) -> Mapping[str, Field]:
        """All fields by their names in the API."""
        return {each.name: each for each in self.declared if each.json}

    @cached_property
    def contents(self) -> Mapping[str, Content]:
        """What callers may write: columns, and more."""
        return {
            **{each.column.name: each.content for each in self.declared if each.content},
            **self.more_contents,
        }

    @cached_property
    def at_creation(self) -> Mapping[str, Content]:
        """The columns that creates accept."""
        return {name: content for name, content in self.contents.items() if content.at_creation}

    @cached_property
    def in_updates(self) -> Mapping[str, Content]:
        """The columns that updates accept."""
        return {name: content for name, content in self.contents.items() if content.in_updates}

    @cached_property
    def omitted(self) -> Mapping[str, None]:
        """The content of a new row if its fields are omitted, without those that are optional."""
        return dict.fromkeys(name for name, content in self.at_creation.items() if not content.optional)

    @cached_property
    def sort_keys(self) -> Mapping[str, SortKey]:
        """All sort keys by their names in the API, such as DUE_DATE."""
        return {each.column.name.upper(): each.sort for each in self.declared if each.sort}

    @cached_property
    def conditions(self) -> Mapping[str, Condition]:
        """All conditions by their paths in the filter input."""
        of_fields = {path: condition for each in self.declared for path, condition in each.conditions.items()}
        return {**of_fields, **self.more_conditions}

    def columns(self, selection: Selection) -> list[Column[Any]]:
        """The columns that the JSON of a row needs."""
        known: Mapping[str, Field | Related] = {**self.fields, **self.related}
        return [known[entry.name].column for entry in selection.fields if entry.name in known]

    def knows(self, selection: Selection) -> bool:
        """Whether the columns of a row are enough to render a selection."""
        related = self.related
        return all(related[entry.name].knows(entry) for entry in selection.fields if entry.name in related)

    def json(self, selection: Selection, row: Columns, view: View | None = None) -> ColumnElement[str]:
        """The SQL of a row's JSON. Fields that show other rows need the view of a read."""

        def shown(entry: Entry) -> ColumnElement[str]:
            if (related := self.related.get(entry.name)) is not None:
                value = row[related.column.name]
                return related.of_column(entry, value) if related.knows(entry) else related.json(view, entry, value)
            declared = self.fields[entry.name]
            assert declared.json  # noqa: S101 - only these are among the fields
            return declared.json(row[declared.column.name])

        return json_object(selection, shown)
