"""The statements that read: each builds the whole JSON of one root field."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    FromClause,
    Integer,
    Label,
    ScalarSelect,
    Select,
    Subquery,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    literal_column,
    not_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.selectable import LateralFromClause

from app.database.rendering import (
    Field,
    Selection,
    gathered,
    json_list,
    json_object,
    numbered,
    plain,
    quoted,
)
from app.database.statements import Reader, Statement, read, text_literal
from app.entities import cursors
from app.entities.entity import Entity, Few, Shape
from app.entities.filters import condition
from app.entities.ordering import Keys, Order

LARGEST_PAGE = 100

_ZERO, _ONE = (literal_column(number, Integer) for number in "01")
# A page reads one row more than it shows.
_MOST: ColumnElement[int] = literal_column(str(LARGEST_PAGE + 1), Integer)


class Page(NamedTuple):
    """The shape of a page's arguments: one compiled statement for each.

    The names of the parameters of a nested page begin with its `prefix`.
    """

    order: Order
    filter: Shape
    backward: bool
    has_after: bool
    has_before: bool
    prefix: str = ""


Pages = Mapping[Field, Page]


class View(NamedTuple):
    """The user as whom a read acts, and the pages of its nested connections."""

    me: Reader
    pages: Pages


def one(entity: Entity, selection: Selection, pages: Pages) -> Statement:
    """One row by id."""
    return read(lambda me: by_id(entity, selection, View(me, pages)))


def by_id(entity: Entity, selection: Selection, view: View) -> Select[Any]:
    return row(entity, selection, view, bindparam("id", type_=Uuid), view.me.row)


def row(
    entity: Entity, selection: Selection, view: View, row_id: ColumnElement[Any], *outer: FromClause
) -> Select[Any]:
    """The row with an id, which may be a column of an outer row."""
    table = entity.table
    mine = and_(view.me.owns(table), table.c.id == row_id)
    if entity.knows(selection):
        return select(entity.json(selection, table.c, view).label("body")).where(mine).correlate(*outer)
    # What other rows contribute refers to a row of a subquery: each table of a part is routed by its own conditions.
    needed = {table.c.id, *entity.columns(selection)}
    found = select(*(one for one in table.c if one in needed)).where(mine).correlate(*outer).subquery("row")
    return select(entity.json(selection, found.c, view).label("body")).select_from(found)


def many(entity: Entity, selection: Selection, pages: Pages) -> Statement:
    """Rows by their ids, as a list in this order."""

    def body(me: Reader) -> Select[Any]:
        given = func.unnest(cast(bindparam("ids", type_=ARRAY(Text)), ARRAY(Uuid)))
        ids = given.table_valued(column("id", Uuid), with_ordinality="place", name="ids").render_derived()
        row = entity.table.c
        needed = {row.id, *entity.columns(selection)}
        found = select(*(one for one in entity.table.c if one in needed), ids.c.place)
        found = found.select_from(ids.join(entity.table, row.id == ids.c.id)).where(me.owns(entity.table))
        rows = found.correlate(me.row).order_by(ids.c.place).subquery("rows")
        text = json_list(entity.json(selection, rows.c, View(me, pages)), true())
        return select(text.label("body")).select_from(rows)

    return read(body)


def page(entity: Entity, selection: Selection, shape: Page, pages: Pages) -> Statement:
    """A connection of rows."""

    def body(me: Reader) -> Select[Any]:
        view = View(me, pages)
        return _joined(lambda few: _Connection(entity, selection, shape, view, few=few), entity.few(me, shape.filter))

    return read(body)


def nested(  # noqa: PLR0913, PLR0917 - the parts of a connection
    entity: Entity,
    entry: Field,
    view: View,
    owner: ColumnElement[Any],
    within: Callable[[ColumnElement[Any]], ColumnElement[bool]],
    few: Callable[[Reader, Shape, LateralFromClause], Few | None],
) -> ScalarSelect[Any]:
    """A connection below a row: of the rows that are `within` the owner's id."""
    shape = view.pages[entry]
    # Within the connection other rows have the name of those that contain the owner, so it gets a name of its own.
    own = select(owner.label("id")).correlate(owner.table).lateral(f"owner_{shape.prefix}")
    found = few(view.me, shape.filter, own)

    def connection(few: Few | None) -> _Connection:
        return _Connection(entity, entry.inner, shape, view, few=few, outer=own, within=within(own.c.id))

    body = _joined(connection, found).correlate(view.me.row, own).lateral(f"nested_{shape.prefix}")
    rows = own.join(body, true())
    return select(body.c.body).select_from(rows).correlate(view.me.row, owner.table).scalar_subquery()


def _joined(connection: "Callable[[Few | None], _Connection]", few: Few | None) -> Select[Any]:
    """The body of a connection, after the row that tells whether a selective condition matches few rows."""
    if few is None:
        return connection(None).body()
    body = connection(few).body().lateral("connection")
    return select(body.c.body).select_from(few.row.join(body, true()))


class _Connection:
    """The parts of a connection's SQL. `rows` is a numbered page in list order, with one row more than is shown."""

    def __init__(  # noqa: PLR0913 - the parts of a connection
        self,
        entity: Entity,
        selection: Selection,
        shape: Page,
        view: View,
        *,
        few: Few | None,
        outer: FromClause | None = None,
        within: ColumnElement[bool] | None = None,
    ) -> None:
        self.entity, self.selection, self.shape, self.view, self.few = entity, selection, shape, view, few
        self.table, self.within = entity.table, true() if within is None else within
        self.outer = [view.me.row, *([few.row] if few else []), *([] if outer is None else [outer])]
        self.size = bindparam(f"{shape.prefix}size", type_=Integer)
        # One row more than is shown tells whether there are more.
        self.limit = self.size + _ONE
        self.rows = self._rows()
        # `place` counts in the direction of the scan: on a backward page the row too many is the first of `rows`.
        self.shown = self.rows.c.place <= self.size

    def body(self) -> Select[Any]:
        text = json_object(self.selection, self._field)
        read_rows = any(self.selection.entries(name) for name in ("edges", "nodes", "pageInfo"))
        statement = select(text.label("body"))
        # HAVING makes this an aggregate with one row, even if the selection needs none of the rows.
        return statement.select_from(self.rows).having(literal_column("true")) if read_rows else statement

    def _matching(self) -> ColumnElement[bool]:
        return and_(self.view.me.owns(self.table), condition(self.entity, self.shape.filter), self.within)

    def _rows(self) -> Subquery:
        """The page in list order; aggregates process the rows in this order. A backward page is scanned in reverse."""
        page = numbered(self._either_way())
        if not self.shape.backward:
            return page
        clauses = self.shape.order.clauses(backward=False, keys=_keys_of(page, self.shape.order))
        return select(*page.c).order_by(*clauses).subquery("reversed")

    def _either_way(self) -> Select[Any] | CompoundSelect[Any]:
        if self.few is None:
            return self._walked()
        # PostgreSQL runs only one of the two: the condition `few` is evaluated before the first row.
        walked = self._walked(not_(self.few.few)).subquery("walked")
        found = self._found(self.few).subquery("found")
        return union_all(select(*walked.c), select(*found.c))

    def _walked(self, *more: ColumnElement[bool]) -> Select[Any]:
        """The page from the index of its order, scanned only as far as needed.

        More than one LIMIT is for the planner, which keeps a generic plan only if it seems cheap, and assumes that a
        LIMIT given as a parameter returns a tenth of the rows: a thousand, if users have ten thousand.
        """
        walk = select(*self._needed()).where(self._matching(), *self._within(), *more)
        walk = walk.order_by(*self.shape.order.clauses(backward=self.shape.backward)).limit(_MOST)
        rows = walk.correlate(*self.outer).subquery("walk")
        within = select(*rows.c).limit(self.limit).subquery("within")
        return select(*within.c).limit(self.limit)

    def _found(self, few: Few) -> Select[Any]:
        """The page from the few rows of a selective condition."""
        hits = self._hits(few)
        keys = _keys_of(hits, self.shape.order)
        walked = self.shape.order.clauses(backward=self.shape.backward, keys=keys)
        return select(*hits.c).where(*self._within(keys)).order_by(*walked).limit(self.limit)

    def _hits(self, few: Few) -> Subquery:
        """The matching rows of a selective condition.

        OFFSET 0 is an optimization fence: it keeps the planner from scanning the index of the order anyway.
        """
        rows = select(*self._needed()).where(self._matching(), few.few, few.has)
        return rows.correlate(*self.outer).offset(_ZERO).subquery("hits")

    def _needed(self) -> list[ColumnElement[Any]]:
        """The selected columns, the sort keys, and `mark`, the content of the cursor of an edge, if it is selected.

        Every other column would cost time for each row.
        """
        edges = [edge.inner for edge in self.selection.entries("edges")]
        nodes = [*self.selection.entries("nodes"), *(node for edge in edges for node in edge.entries("node"))]
        columns = {column for node in nodes for column in self.entity.columns(node.inner)}
        order, marked = self.shape.order, any(edge.entries("cursor") for edge in edges)
        mark = [order.content(order.expressions).label("mark")] if marked else []
        return [*(column for column in self.table.c if column in columns), *_labelled(order), *mark]

    def _within(self, keys: Keys | None = None) -> list[ColumnElement[bool]]:
        """The conditions for the cursors given."""
        order, shape, prefix = self.shape.order, self.shape, self.shape.prefix
        after = [order.beyond(f"{prefix}after", backward=False, keys=keys)] if shape.has_after else []
        before = [order.beyond(f"{prefix}before", backward=True, keys=keys)] if shape.has_before else []
        return after + before

    def _field(self, entry: Field) -> ColumnElement[str]:
        match entry.name:
            case "edges":
                return self._list(json_object(entry.inner, self._edge_field))
            case "nodes":
                return self._list(self._node(entry))
            case "pageInfo":
                return json_object(entry.inner, lambda part: self._page_info()[part.name]())
        return self._total_count()

    def _edge_field(self, entry: Field) -> ColumnElement[str]:
        if entry.name == "cursor":
            return quoted(cursors.sealed(self.rows.c.mark))
        return self._node(entry)

    def _node(self, entry: Field) -> ColumnElement[str]:
        return self.entity.json(entry.inner, self.rows.c, self.view)

    def _list(self, element: ColumnElement[str]) -> ColumnElement[str]:
        return json_list(element, self.shown)

    def _page_info(self) -> Mapping[str, Callable[[], ColumnElement[str]]]:
        sides = [self._behind, self._ahead]
        previous, following = reversed(sides) if self.shape.backward else sides
        return {
            "startCursor": lambda: self._end(_ONE),
            "endCursor": lambda: self._end(func.least(func.count(), self.size)),
            "hasPreviousPage": previous,
            "hasNextPage": following,
        }

    def _end(self, place: ColumnElement[int]) -> ColumnElement[str]:
        """The cursor of the shown row with this number; null on an empty page."""
        keys = [gathered(key, self.shown)[place] for key in _keys_of(self.rows, self.shape.order)]
        return func.coalesce(quoted(cursors.sealed(self.shape.order.content(keys))), text_literal("null"), type_=Text)

    def _ahead(self) -> ColumnElement[str]:
        """Whether there are more rows in the direction of the scan."""
        return plain(func.count() > self.size)

    def _behind(self) -> ColumnElement[str]:
        """Whether there are rows before the start of the scan."""
        name, given = ("before", self.shape.has_before) if self.shape.backward else ("after", self.shape.has_after)
        if not given:
            return text_literal("false")
        order, back, table = self.shape.order, not self.shape.backward, self.table
        name = self.shape.prefix + name
        passed = and_(self._matching(), order.beyond(name, backward=back, inclusive=True))
        # The nearest row, by the index of the order. With EXISTS the planner may use another index and search for long.
        nearest = select(table.c.id).where(passed).order_by(*order.clauses(backward=back)).limit(_ONE)
        some = exists().where(passed).correlate(*self.outer)
        walked = self._scalar(nearest).is_not(None) if order.has_index else some
        return plain(self._either(lambda few: self._found_behind(few, name, backward=back), walked))

    def _found_behind(self, few: Few, name: str, *, backward: bool) -> ColumnElement[bool]:
        hits, order = self._hits(few), self.shape.order
        passed = order.beyond(name, backward=backward, inclusive=True, keys=_keys_of(hits, order))
        return self._scalar(select(func.count() > _ZERO).select_from(hits).where(passed))

    def _total_count(self) -> ColumnElement[str]:
        count = select(cast(func.count(), Text)).select_from(self.table).where(self._matching())
        return self._either(lambda few: self._scalar(count.where(few.has)), self._scalar(count))

    def _scalar(self, inner: Select[Any]) -> ScalarSelect[Any]:
        return inner.correlate(*self.outer).scalar_subquery()

    def _either(self, found: Callable[[Few], ColumnElement[Any]], walked: ColumnElement[Any]) -> ColumnElement[Any]:
        """`found` if the filter has a selective condition and it matches few rows, otherwise `walked`."""
        return walked if self.few is None else case((self.few.few, found(self.few)), else_=walked)


def _labelled(order: Order) -> list[Label[Any]]:
    return [key.label(f"key_{place}") for place, key in enumerate(order.expressions)]


def _keys_of(rows: Subquery, order: Order) -> Keys:
    """The sort keys among the columns of a subquery."""
    return [rows.c[key.name] for key in _labelled(order)]
