"""The change feed: one page of rows in the order of their last writes, after a sync point, as JSON.

A row's `version` is the user's clock at its last write, and a user's writes commit in clock order: a snapshot with
the clock at N contains all writes up to N. A row that is written again moves to the end. One write may set the version
of many rows of several entities, and a page may end between them, so they are also ordered by entity and id.

A row that is deleted permanently leaves a tombstone with the version of the deletion, which comes in the same order. A
copy without the trash does not need it if it has already received that the row went to the trash.

Tombstones are kept for some time. If a client's copy may contain a row whose tombstone is gone, the client must sync
from the beginning.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    CompoundSelect,
    FromClause,
    Integer,
    Select,
    Subquery,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    false,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.sql.selectable import LateralFromClause
from sqlalchemy.types import TypeEngine

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
from app.entities.cursors import SyncPoint, complete, sealed, suffix
from app.entities.entity import Entity
from app.entities.reading import Pages, View
from app.models import CLOCKS, TOMBSTONES

LARGEST_CHANGE_PAGE = 1000

# A page reads one row more than it shows.
_MOST: ColumnElement[int] = literal_column(str(LARGEST_CHANGE_PAGE + 1), Integer)
_ZERO, _ONE = (literal_column(number, Integer) for number in "01")
_FIRST_ID = literal_column(f"'{UUID(int=0)}'::uuid", Uuid)
_LAST_ID = UUID(int=2**128 - 1)


def page(
    entities: Sequence[Entity], selection: Selection, pages: Pages = MappingProxyType({}), *, trash: bool = False
) -> Statement:
    """A page of at most `size` changes of these entities' rows after the point in `values`.

    With `trash`, rows in the trash are shown like others; otherwise they are removed.
    """
    return read(lambda me: _Page(entities, selection, View(me, pages), trash=trash).body())


def values(entities: Sequence[Entity], point: SyncPoint) -> dict[str, Any]:
    """The values to bind for the start of a page: for each entity, the version and id of the last row passed."""
    bound: dict[str, Any] = {"base": point.base, "safe": point.safe, "latest": point.latest}
    bound |= _last_grave(entities, point)
    has_passed, kind = True, point.row and point.row[0]
    for entity in entities:
        version, row_id = (point.version if has_passed else point.version - 1), _LAST_ID
        if point.row and entity.one == kind:
            has_passed, row_id = False, point.row[1]
        bound |= {f"{entity.one}_version": version, f"{entity.one}_id": row_id}
    return bound


def _last_grave(entities: Sequence[Entity], point: SyncPoint) -> dict[str, Any]:
    """The place of the last tombstone passed. None before the base is needed: a copy never had these rows."""
    kind, row_id = len(entities), _LAST_ID
    if point.row and point.version > point.base:
        kind, row_id = [entity.one for entity in entities].index(point.row[0]), point.row[1]
    return {"gone_version": point.latest, "gone_kind": kind, "gone_id": row_id}


def whole(entities: Sequence[Entity]) -> Selection:
    """A selection of everything that subscribers can request of a page, so that one read serves all of them."""
    members = tuple(member for entity in entities for member in _whole(entity))
    changes = Field("changes", "changes", None, members)
    return Selection("ChangePage", (*_leaves("token", "hasMore", "fullSync"), changes))


def _whole(entity: Entity) -> Sequence[Selection]:
    upserted, removed = _types(entity)
    row = Selection(entity.type_name, (*_leaves(TYPE_NAME, *entity.fields), *_shown(entity)))
    shown = Field(entity.one, entity.one, row)
    return (
        Selection(upserted, (*_leaves(TYPE_NAME, "token"), shown)),
        Selection(removed, _leaves(TYPE_NAME, "token", f"{entity.one}Id", "version")),
    )


def _types(entity: Entity) -> tuple[str, str]:
    """The types of a change of a row that exists, and of one that was removed."""
    name = entity.one.capitalize()
    return f"{name}Upserted", f"{name}Removed"


def _shown(entity: Entity) -> Iterator[Field]:
    """The objects that rows refer to, without what these show of other rows."""
    for name, related in entity.related.items():
        if related.shows is not None:
            fields = _leaves(TYPE_NAME, *related.shows.fields)
            yield Field(name, name, Selection(related.shows.type_name, fields))


def _leaves(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, name) for name in names)


def clock() -> Statement:
    """The user's current clock, as text."""

    def body(me: Reader) -> Select[Any]:
        version = func.coalesce(func.max(CLOCKS.c.version), _ZERO)
        return select(cast(version, Text).label("version")).where(me.owns(CLOCKS)).correlate(me.row)

    return read(body)


class _Page:
    """The parts of a page's SQL. `start` is the point where it starts, `rows` has one row more than the page shows."""

    def __init__(self, entities: Sequence[Entity], selection: Selection, view: View, *, trash: bool) -> None:
        self.entities, self.selection, self.view, self.me = entities, selection, view, view.me
        self.trash = trash
        self.size = bindparam("size", type_=Integer)
        self.limit = self.size + literal_column("1")
        self.start = _start(entities, self.me)
        self.mixed = self._mixed()
        self.rows = numbered(self._either_way())
        self.shown = self.rows.c.place <= self.size
        self.listed = self._listed()

    def body(self) -> Select[Any]:
        return select(json_object(self.selection, self._field).label("body")).select_from(
            self.start.join(self.mixed, true()).join(self.listed, true())
        )

    def _mixed(self) -> LateralFromClause:
        """One row: whether there are tombstones, or changes of other entities than the last, which has most rows."""
        conditions = [*map(self._beyond, self.entities[:-1]), self._buried()]
        found = [self._of(select(_ONE.label("found")).where(*beyond).limit(_ONE)) for beyond in conditions]
        others = union_all(*(select(*one.c) for one in found)).subquery("others")
        return select((func.count() > _ZERO).label("mixed")).select_from(others).lateral("mixed")

    def _either_way(self) -> CompoundSelect[Any]:
        """The page in order. If only the last entity has changes, its index has this order, and nothing is sorted.

        PostgreSQL runs only one of the two: the condition `mixed` is evaluated before the first row.
        """
        alone, mixed = self._walk(self.entities[-1]), self.mixed.c.mixed
        each = *map(self._walk, self.entities), self._graves()
        walks = union_all(*(select(*walk.c) for walk in each)).subquery("walks")
        order = walks.c.version, walks.c.kind, walks.c.id
        merged = select(*walks.c).order_by(*order).limit(self.limit).subquery("merged")
        either = select(*alone.c).where(not_(mixed)), select(*merged.c).where(mixed)
        return union_all(*(one.correlate(self.mixed) for one in either))

    def _walk(self, entity: Entity) -> Subquery:
        """The page of one entity in the order of its index."""
        table = entity.table
        known = or_(table.c.deleted_at.is_(None), table.c.version > self.start.c.base)
        walk = select(*self._columns(entity)).where(*self._beyond(entity), *(() if self.trash else (known,)))
        return self._limited(walk.order_by(table.c.version, table.c.id))

    def _graves(self) -> Subquery:
        """The page of tombstones in the order of their index."""
        row = TOMBSTONES.c
        own = {"kind": cast(row.kind, Integer), "gone": true(), "id": row.id, "version": row.version}
        columns: list[ColumnElement[Any]] = [
            own.get(name, cast(null(), type_)).label(name) for name, type_ in self._names().items()
        ]
        return self._limited(select(*columns).where(*self._buried()).order_by(row.version, row.kind, row.id))

    def _limited(self, walk: Select[Any]) -> Subquery:
        """The first rows of a walk. More than one LIMIT is for the planner, as in reading."""
        rows = self._of(walk.limit(_MOST))
        within = select(*rows.c).limit(self.limit).subquery("within")
        return select(*within.c).limit(self.limit).subquery("walk")

    def _beyond(self, entity: Entity) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        """The user's rows after the start."""
        row, start = entity.table.c, self.start.c
        passed = tuple_(start[f"{entity.one}_version"], start[f"{entity.one}_id"])
        return self.me.owns(entity.table), tuple_(row.version, row.id) > passed

    def _buried(self) -> Sequence[ColumnElement[bool]]:
        """The user's tombstones after the start, of rows that the copy may contain."""
        row, start = TOMBSTONES.c, self.start.c
        passed = tuple_(start.gone_version, bindparam("gone_kind", type_=Integer), bindparam("gone_id", type_=Uuid))
        unknown = () if self.trash else (row.trashed_version > start.base,)
        return self.me.owns(TOMBSTONES), tuple_(row.version, row.kind, row.id) > passed, *unknown

    def _of(self, rows: Select[Any]) -> Subquery:
        return rows.correlate(self.me.row, self.start).subquery("rows")

    def _columns(self, entity: Entity) -> list[ColumnElement[Any]]:
        """The columns of the page: null where this entity does not need one."""
        own: dict[str, ColumnElement[Any]] = {column.name: column for column in self._needed(entity)}
        own["kind"] = literal_column(str(self.entities.index(entity)), Integer)
        own["gone"] = false() if self.trash else entity.table.c.deleted_at.is_not(None)
        return [own.get(name, cast(null(), type_)).label(name) for name, type_ in self._names().items()]

    def _names(self) -> dict[str, TypeEngine[Any]]:
        """The columns of the page: the place of the entity, whether the row is gone, and what entities need.

        Entities share columns of the same name.
        """
        needed = {column.name: column.type for entity in self.entities for column in self._needed(entity)}
        return {"kind": Integer(), "gone": Boolean(), **needed}

    def _needed(self, entity: Entity) -> list[Column[Any]]:
        """The selected columns of an entity and those of the page itself."""
        table, members = entity.table, [member for entry in self._entries() for member in _members(entity, entry)]
        rows = [field.inner for member in members for field in member.fields if field.selection is not None]
        columns = {table.c.id, table.c.version}
        columns |= {column for row in rows for column in entity.columns(row)}
        return [column for column in table.c if column in columns]

    def _listed(self) -> FromClause:
        """The list for each selected entry, the number of rows found, and the sync point after the last row shown."""
        lists = [self._list(entry).label(f"changes_{at}") for at, entry in enumerate(self._entries())]
        is_last = self.rows.c.place == self.size
        last = self._content(*(gathered(self.rows.c[name], is_last)[_ONE] for name in ("version", "kind", "id")))
        listed = select(*lists, func.count().label("found"), last.label("last")).select_from(self.rows)
        return listed.correlate(self.me.row, self.start, self.mixed).lateral("listed")

    def _entries(self) -> list[Field]:
        return self.selection.entries("changes")

    def _list(self, entry: Field) -> ColumnElement[str]:
        return json_list(self._of_kind(self.rows.c.kind, lambda entity: self._change(entity, entry)), self.shown)

    def _of_kind(self, kind: ColumnElement[int], render: Callable[[Entity], ColumnElement[str]]) -> ColumnElement[str]:
        """The text for the entity of a row; first it is compared with the last entity, which has most of the rows."""
        *others, most = [
            (kind == literal_column(str(place)), render(entity)) for place, entity in enumerate(self.entities)
        ]
        *conditions, (_, rest) = [most, *others]
        return case(*conditions, else_=rest)

    def _change(self, entity: Entity, entry: Field) -> ColumnElement[str]:
        """The JSON of a change of an entity's row."""
        shown = partial(self._change_field, entity)
        upserted, removed = (json_object(member, shown) for member in _members(entity, entry))
        return case((self.rows.c.gone, removed), else_=upserted)

    def _change_field(self, entity: Entity, entry: Field) -> ColumnElement[str]:
        if entry.name == "token":
            return quoted(sealed(self._content(*(self.rows.c[name] for name in ("version", "kind", "id")))))
        if entry.name == "version":
            return plain(self.rows.c.version)
        if entry.selection is None:
            return quoted(self.rows.c.id)
        return entity.json(entry.inner, self.rows.c, self.view)

    def _content(
        self, version: ColumnElement[int], kind: ColumnElement[int], row_id: ColumnElement[UUID]
    ) -> ColumnElement[str]:
        """The content of a token that continues after a row."""
        name = self._of_kind(kind, lambda entity: text_literal(f" {entity.one} "))
        base, end = cast(self.start.c.base, Text), text_literal(suffix(trash=self.trash))
        return joined([cast(version, Text), name, cast(row_id, Text), text_literal(" "), base, end])

    def _field(self, entry: Field) -> ColumnElement[str]:
        more = self.listed.c.found > self.size
        match entry.name:
            case "changes":
                return self.listed.c[f"changes_{self._entries().index(entry)}"]
            case "hasMore":
                return plain(more)
            case "fullSync":
                return plain(self.start.c.full)
        end = complete(self.start.c.clock, trash=self.trash)
        return quoted(sealed(case((more, self.listed.c.last), else_=end)))


def _members(entity: Entity, entry: Field) -> list[Selection]:
    """The selections for a row that exists and for one that was removed."""
    return [entry.member(name) for name in _types(entity)]


def _start(entities: Sequence[Entity], me: Reader) -> Subquery:
    """The point where the page starts: the requested one, or the beginning if a full sync is required."""
    version, purged = (func.coalesce(func.max(column), _ZERO) for column in (CLOCKS.c.version, CLOCKS.c.purged_through))
    clock = select(version.label("version"), purged.label("purged")).where(me.owns(CLOCKS)).correlate(me.row)
    now = clock.subquery("clock")
    # If the clock is behind the token, the database was restored from an earlier backup.
    lost = or_(now.c.purged > _number("safe"), now.c.version < _number("latest"))
    passed = [column for entity in entities for column in _passed(entity, lost)]
    base = case((lost, now.c.version), else_=_number("base")).label("base")
    gone = case((lost, now.c.version + _ONE), else_=_number("gone_version")).label("gone_version")
    return select(now.c.version.label("clock"), lost.label("full"), *passed, base, gone).subquery("start")


def _passed(entity: Entity, lost: ColumnElement[bool]) -> Sequence[ColumnElement[Any]]:
    version, row_id = f"{entity.one}_version", f"{entity.one}_id"
    return (
        case((lost, _ZERO), else_=_number(version)).label(version),
        case((lost, _FIRST_ID), else_=bindparam(row_id, type_=Uuid)).label(row_id),
    )


def _number(name: str) -> ColumnElement[int]:
    return bindparam(name, type_=Integer)
