"""The change feed: one page of rows in the order of their last writes, after a sync point, as JSON.

A row's `version` is the user's clock at its last write, and a user's writes commit in clock order: a snapshot with
the clock at N contains all writes up to N. A row that is written again moves to the end. One write may set the version
of many rows, and a page may end between them, so they are also ordered by id.

A purge deletes rows in the trash, and with them the information that they were removed. If a client's copy may contain
such a row, the client must sync from the beginning. That is not the case for rows whose removal it has already
received, or that were removed before its sync began.
"""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Subquery,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)

from app.database.rendering import (
    TYPE_NAME,
    Field,
    Selection,
    gathered,
    joined,
    json_list,
    json_object,
    numbered,
    plain,
    quoted,
)
from app.database.statements import Reader, Statement, read, text_literal
from app.entities.cursors import sealed
from app.entities.entity import Entity
from app.entities.reading import Pages, View
from app.models import CLOCKS

LARGEST_CHANGE_PAGE = 1000

# A page reads one row more than it shows.
_MOST: ColumnElement[int] = literal_column(str(LARGEST_CHANGE_PAGE + 1), Integer)
_ZERO: ColumnElement[int] = literal_column("0")
_NIL = literal_column(f"'{UUID(int=0)}'::uuid", Uuid)


def page(entity: Entity, selection: Selection, pages: Pages = MappingProxyType({})) -> Statement:
    """A page of at most `size` changes after the point `version`, `row_id`, `base`; see `cursors.SyncPoint`."""
    return read(lambda me: _Page(entity, selection, View(me, pages)).body())


def whole(entity: Entity) -> Selection:
    """A selection of everything that subscribers can request of a page, so that one read serves all of them."""
    name, one = entity.type_name, entity.one
    row = Selection(name, (*_leaves(TYPE_NAME, *entity.fields), *_shown(entity)))
    upserted = Selection(f"{name}Upserted", (*_leaves(TYPE_NAME, "token"), Field(one, one, row)))
    removed = Selection(f"{name}Removed", _leaves(TYPE_NAME, "token", f"{one}Id"))
    changes = Field("changes", "changes", None, (upserted, removed))
    return Selection(f"{name}ChangePage", (*_leaves("token", "hasMore", "fullSync"), changes))


def _shown(entity: Entity) -> Iterator[Field]:
    """The objects that rows refer to, without what these show of other rows."""
    for name, related in entity.related.items():
        if related.shows is not None:
            fields = _leaves(TYPE_NAME, *related.shows.fields)
            yield Field(name, name, Selection(related.shows.type_name, fields))


def _leaves(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, name) for name in names)


def clock() -> Statement:
    """The sync token of the user's current clock."""

    def body(me: Reader) -> Select[Any]:
        version = func.coalesce(func.max(CLOCKS.c.version), _ZERO)
        return select(sealed(cast(version, Text)).label("token")).where(me.owns(CLOCKS)).correlate(me.row)

    return read(body)


class _Page:
    """The parts of a page's SQL. `start` is the point where it starts, `rows` has one row more than the page shows."""

    def __init__(self, entity: Entity, selection: Selection, view: View) -> None:
        self.entity, self.selection, self.view, me = entity, selection, view, view.me
        self.size = bindparam("size", type_=Integer)
        self.start = _start(me)
        self.rows = self._rows(me)
        self.shown = self.rows.c.place <= self.size
        self.listed = self._listed(me)

    def body(self) -> Select[Any]:
        return select(json_object(self.selection, self._field).label("body")).select_from(
            self.start.join(self.listed, true())
        )

    def _rows(self, me: Reader) -> Subquery:
        """The page in the order of the index. More than one LIMIT is for the planner, as in app.entities.reading."""
        table = self.entity.table
        order = (table.c.version, table.c.id)
        beyond = tuple_(*order) > tuple_(self.start.c.version, self.start.c.row_id)
        known = or_(table.c.deleted_at.is_(None), table.c.version > self.start.c.base)
        walk = select(*self._needed()).where(me.owns(table), beyond, known).order_by(*order).limit(_MOST)
        rows = walk.correlate(me.row, self.start).subquery("walk")
        within = select(*rows.c).limit(self.size + literal_column("1")).subquery("within")
        return numbered(select(*within.c).limit(self.size + literal_column("1")))

    def _needed(self) -> list[ColumnElement[Any]]:
        """The selected columns and those of the page itself."""
        table, members = self.entity.table, [member for entry in self._entries() for member in self._members(entry)]
        rows = [entry.inner for member in members for entry in member.fields if entry.selection is not None]
        columns = {table.c.id, table.c.version, table.c.deleted_at}
        columns |= {column for row in rows for column in self.entity.columns(row)}
        return [column for column in table.c if column in columns]

    def _listed(self, me: Reader) -> FromClause:
        """The list for each selected entry, the number of rows found, and the sync point after the last row shown."""
        lists = [self._list(entry).label(f"changes_{at}") for at, entry in enumerate(self._entries())]
        last = self._content(
            *(gathered(column, self.shown)[self.size] for column in (self.rows.c.version, self.rows.c.id))
        )
        listed = select(*lists, func.count().label("found"), last.label("last")).select_from(self.rows)
        return listed.correlate(me.row, self.start).lateral("listed")

    def _entries(self) -> list[Field]:
        return self.selection.entries("changes")

    def _members(self, entry: Field) -> list[Selection]:
        """The selections for a row that exists and for one that was removed."""
        return [entry.member(f"{self.entity.type_name}{what}") for what in ("Upserted", "Removed")]

    def _list(self, entry: Field) -> ColumnElement[str]:
        upserted, removed = (json_object(member, self._change_field) for member in self._members(entry))
        change = case((self.rows.c.deleted_at.is_(None), upserted), else_=removed)
        return json_list(change, self.shown)

    def _change_field(self, entry: Field) -> ColumnElement[str]:
        if entry.name == "token":
            return quoted(sealed(self._content(self.rows.c.version, self.rows.c.id)))
        return (
            quoted(self.rows.c.id) if entry.selection is None else self.entity.json(entry.inner, self.rows.c, self.view)
        )

    def _content(self, version: ColumnElement[int], row_id: ColumnElement[UUID]) -> ColumnElement[str]:
        """The content of a token that continues after a row."""
        space = text_literal(" ")
        return joined([cast(version, Text), space, cast(row_id, Text), space, cast(self.start.c.base, Text)])

    def _field(self, entry: Field) -> ColumnElement[str]:
        more = self.listed.c.found > self.size
        match entry.name:
            case "changes":
                return self.listed.c[f"changes_{self._entries().index(entry)}"]
            case "hasMore":
                return plain(more)
            case "fullSync":
                return plain(self.start.c.full)
        return quoted(sealed(case((more, self.listed.c.last), else_=cast(self.start.c.clock, Text))))


def _start(me: Reader) -> Subquery:
    """The point where the page starts: the requested one, or the beginning if a full sync is required."""
    version, purged = (func.coalesce(func.max(column), _ZERO) for column in (CLOCKS.c.version, CLOCKS.c.purged_through))
    clock = select(version.label("version"), purged.label("purged")).where(me.owns(CLOCKS)).correlate(me.row)
    now = clock.subquery("clock")
    # If the clock is behind the token, the database was restored from an earlier backup.
    lost = or_(now.c.purged > _number("safe"), now.c.version < _number("latest"))
    return select(
        now.c.version.label("clock"),
        lost.label("full"),
        case((lost, _ZERO), else_=_number("version")).label("version"),
        case((lost, _NIL), else_=bindparam("row_id", type_=Uuid)).label("row_id"),
        case((lost, now.c.version), else_=_number("base")).label("base"),
    ).subquery("start")


def _number(name: str) -> ColumnElement[int]:
    return bindparam(name, type_=Integer)
