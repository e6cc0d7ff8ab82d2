"""The change feed: rows in the order of their last writes, from a place on, as one page's JSON.

A row's `version` is the user's clock at its last write, and writes of a user commit in its order: a snapshot that
has the clock at N has all writes up to N. A row that is written again moves to the end. One write may stamp many
rows, and a page may end among them: their ids order them.

A purge takes away what tells that a row was removed. Where the copy may have a row that went this way, it has to
begin anew: it has none of those whose removal it was told of, or whose removal came before it began.
"""

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
from sqlalchemy.dialects.postgresql import aggregate_order_by

from app.database.rendering import (
    TYPE_NAME,
    Field,
    Selection,
    joined,
    json_object,
    plain,
    quoted,
)
from app.database.statements import Reader, Statement, read, text_literal
from app.entities.cursors import sealed
from app.entities.entity import Entity
from app.models import CLOCKS

_ZERO: ColumnElement[int] = literal_column("0")
_NIL = literal_column(f"'{UUID(int=0)}'::uuid", Uuid)


def page(entity: Entity, selection: Selection) -> Statement:
    """At most `size` changes after the point `version`, `row_id`, `base`; see app.entities.cursors.SyncPoint."""
    return read(lambda me: _Page(entity, selection, me).body())


def whole(entity: Entity) -> Selection:
    """All that subscribers can ask of a page: one read serves them all, whatever each of them is shown of it."""
    name, one = entity.type_name, entity.one
    row = Selection(name, _leaves(TYPE_NAME, *entity.fields))
    upserted = Selection(f"{name}Upserted", (*_leaves(TYPE_NAME, "token"), Field(one, one, row)))
    removed = Selection(f"{name}Removed", _leaves(TYPE_NAME, "token", f"{one}Id"))
    changes = Field("changes", "changes", None, (upserted, removed))
    return Selection(f"{name}ChangePage", (*_leaves("token", "hasMore", "fullSync"), changes))


def _leaves(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, name) for name in names)


def clock() -> Statement:
    """The token of a user's clock as it stands."""

    def body(me: Reader) -> Select[Any]:
        version = func.coalesce(func.max(CLOCKS.c.version), _ZERO)
        return select(sealed(cast(version, Text)).label("token")).where(me.owns(CLOCKS)).correlate(me.row)

    return read(body)


class _Page:
    """The parts of a page, over where it starts and the rows from there, of which there is one more than is shown."""

    def __init__(self, entity: Entity, selection: Selection, me: Reader) -> None:
        self.entity, self.selection = entity, selection
        self.size = bindparam("size", type_=Integer)
        self.start = _start(me)
        self.rows = self._rows(me)
        self.listed = self._listed(me)

    def body(self) -> Select[Any]:
        return select(json_object(self.selection, self._field).label("body")).select_from(
            self.start.join(self.listed, true())
        )

    def _rows(self, me: Reader) -> Subquery:
        table = self.entity.table
        order = (table.c.version, table.c.id)
        place = func.row_number().over(order_by=order).label("place")
        beyond = tuple_(*order) > tuple_(self.start.c.version, self.start.c.row_id)
        known = or_(table.c.deleted_at.is_(None), table.c.version > self.start.c.base)
        rows = select(*table.c, place).where(me.owns(table), beyond, known).order_by(*order)
        return rows.limit(self.size + literal_column("1")).correlate(me.row, self.start).subquery("page")

    def _listed(self, me: Reader) -> FromClause:
        """The lists, one for each entry that shows them; how many rows there are; the last that is shown."""
        lists = [self._list(entry).label(f"changes_{at}") for at, entry in enumerate(self._entries())]
        last = func.max(self._mark()).filter(self.rows.c.place == self.size)
        listed = select(*lists, func.count().label("found"), last.label("last")).select_from(self.rows)
        return listed.correlate(me.row, self.start).lateral("listed")

    def _entries(self) -> list[Field]:
        return self.selection.entries("changes")

    def _list(self, entry: Field) -> ColumnElement[str]:
        upserted = json_object(entry.member(f"{self.entity.type_name}Upserted"), self._change_field)
        removed = json_object(entry.member(f"{self.entity.type_name}Removed"), self._change_field)
        change = case((self.rows.c.deleted_at.is_(None), upserted), else_=removed)
        changes = func.string_agg(change, aggregate_order_by(text_literal(","), self.rows.c.place))
        shown = changes.filter(self.rows.c.place <= self.size)
        return joined([text_literal("["), func.coalesce(shown, text_literal(""), type_=Text), text_literal("]")])

    def _change_field(self, entry: Field) -> ColumnElement[str]:
        if entry.name == "token":
            return quoted(sealed(self._mark()))
        return quoted(self.rows.c.id) if entry.selection is None else self.entity.json(entry.inner, self.rows.c)

    def _mark(self) -> ColumnElement[str]:
        """What a token holds that leads on from a row."""
        pieces = (self.rows.c.version, self.rows.c.id, self.start.c.base)
        return func.concat_ws(text_literal(" "), *pieces, type_=Text)

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
    """Where the page starts: at the point, or at the beginning where the point no longer leads to an exact copy."""
    version, purged = (func.coalesce(func.max(column), _ZERO) for column in (CLOCKS.c.version, CLOCKS.c.purged_through))
    clock = select(version.label("version"), purged.label("purged")).where(me.owns(CLOCKS)).correlate(me.row)
    now = clock.subquery("clock")
    # A clock that went back is that of a database restored from before.
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
