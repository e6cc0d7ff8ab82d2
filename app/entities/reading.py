"""The statements that read: each builds the whole JSON of one root field."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Integer,
    ScalarSelect,
    Select,
    Subquery,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal_column,
    not_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from app.database.rendering import (
    Field,
    Selection,
    joined,
    json_object,
    plain,
    quoted,
)
from app.database.statements import Reader, Statement, read, text_literal
from app.entities import cursors
from app.entities.entity import Entity, Few, Shape
from app.entities.filters import condition
from app.entities.ordering import Keys, Order


class Page(NamedTuple):
    """The shape of a page's arguments: one compiled statement for each."""

    order: Order
    filter: Shape
    backward: bool
    has_after: bool
    has_before: bool


def one(entity: Entity, selection: Selection) -> Statement:
    """One row by id."""
    return read(lambda me: by_id(entity, selection, me))


def by_id(entity: Entity, selection: Selection, me: Reader) -> Select[Any]:
    row = entity.table.c
    body = entity.json(selection, row).label("body")
    return select(body).where(me.owns(entity.table), row.id == bindparam("id", type_=Uuid))


def page(entity: Entity, selection: Selection, shape: Page) -> Statement:
    """A connection of rows."""

    def body(me: Reader) -> Select[Any]:
        few = entity.few(me, shape.filter)
        if few is None:
            return _Connection(entity, selection, shape, me).body()
        connection = _Connection(entity, selection, shape, me, few).body().lateral("connection")
        return select(connection.c.body).select_from(few.row.join(connection, true()))

    return read(body)


class _Connection:
    """The parts of a connection's SQL. `rows` is a numbered page, with one row more than is shown."""

    def __init__(self, entity: Entity, selection: Selection, shape: Page, me: Reader, few: Few | None = None) -> None:
        self.entity, self.selection, self.shape, self.me, self.few = entity, selection, shape, me, few
        self.table = entity.table
        self.outer = [me.row, *([few.row] if few else [])]
        self.size = bindparam("size", type_=Integer)
        self.rows = self._rows()
        self.place = self.rows.c.place
        self.shown = self.place <= self.size

    def body(self) -> Select[Any]:
        text = json_object(self.selection, self._field)
        read_rows = any(self.selection.entries(name) for name in ("edges", "nodes", "pageInfo"))
        statement = select(text.label("body"))
        # HAVING makes this an aggregate with one row, even if the selection needs none of the rows.
        return statement.select_from(self.rows).having(literal_column("true")) if read_rows else statement

    def _matching(self) -> ColumnElement[bool]:
        return and_(self.me.owns(self.table), condition(self.entity, self.shape.filter))

    def _rows(self) -> Subquery:
        if self.few is None:
            return self._walked().subquery("page")
        # PostgreSQL runs only one of the two: the condition `few` is evaluated before the first row.
        walked = self._walked(not_(self.few.few)).subquery("walked")
        found = self._found(self.few).subquery("found")
        return union_all(select(*walked.c), select(*found.c)).subquery("page")

    def _walked(self, *more: ColumnElement[bool]) -> Select[Any]:
        """The page from the index of its order, scanned only as far as needed."""
        walked = self.shape.order.clauses(backward=self.shape.backward)
        place = func.row_number().over(order_by=walked).label("place")
        page = select(*self.table.c, self._mark(), place).where(self._matching(), *self._within(), *more)
        return page.order_by(*walked).limit(self.size + literal_column("1")).correlate(*self.outer)

    def _found(self, few: Few) -> Select[Any]:
        """The page from the few rows of a selective condition."""
        hits, keys = self._hits(few)
        walked = self.shape.order.clauses(backward=self.shape.backward, keys=keys)
        place = func.row_number().over(order_by=walked).label("place")
        page = select(*(hits.c[column.name] for column in self.table.c), hits.c.mark, place).where(*self._within(keys))
        return page.order_by(*walked).limit(self.size + literal_column("1"))

    def _hits(self, few: Few) -> tuple[Subquery, Keys]:
        """The matching rows of a selective condition, and their sort keys.

        OFFSET 0 is an optimization fence: it keeps the planner from scanning the index of the order anyway.
        """
        keys = [key.label(f"key_{place}") for place, key in enumerate(self.shape.order.expressions)]
        rows = select(*self.table.c, self._mark(), *keys).where(self._matching(), few.few, few.has)
        hits = rows.correlate(*self.outer).offset(literal_column("0")).subquery("hits")
        return hits, [hits.c[key.name] for key in keys]

    def _within(self, keys: Keys | None = None) -> list[ColumnElement[bool]]:
        """The conditions for the cursors given."""
        order, shape = self.shape.order, self.shape
        after = [order.beyond("after", backward=False, keys=keys)] if shape.has_after else []
        before = [order.beyond("before", backward=True, keys=keys)] if shape.has_before else []
        return after + before

    def _mark(self) -> ColumnElement[str]:
        return cursors.content(self.shape.order.name, self.shape.order.expressions).label("mark")

    def _field(self, entry: Field) -> ColumnElement[str]:
        match entry.name:
            case "edges":
                return self._list(json_object(entry.inner, self._edge_field))
            case "nodes":
                return self._list(self.entity.json(entry.inner, self.rows.c))
            case "pageInfo":
                return json_object(entry.inner, lambda part: self._page_info()[part.name]())
        return self._total_count()

    def _edge_field(self, entry: Field) -> ColumnElement[str]:
        if entry.name == "cursor":
            return quoted(cursors.sealed(self.rows.c.mark))
        return self.entity.json(entry.inner, self.rows.c)

    def _list(self, element: ColumnElement[str]) -> ColumnElement[str]:
        """The shown rows as a JSON list, in list order: a backward page is scanned in reverse."""
        order = self.place.desc() if self.shape.backward else self.place.asc()
        elements = func.string_agg(element, aggregate_order_by(text_literal(","), order)).filter(self.shown)
        return joined([text_literal("["), func.coalesce(elements, text_literal(""), type_=Text), text_literal("]")])

    def _page_info(self) -> Mapping[str, Callable[[], ColumnElement[str]]]:
        ends = [self._near_end, self._far_end]
        sides = [self._behind, self._ahead]
        start, end = reversed(ends) if self.shape.backward else ends
        previous, following = reversed(sides) if self.shape.backward else sides
        return {"startCursor": start, "endCursor": end, "hasPreviousPage": previous, "hasNextPage": following}

    def _near_end(self) -> ColumnElement[str]:
        return _cursor_or_null(func.max(self.rows.c.mark).filter(self.place == literal_column("1")))

    def _far_end(self) -> ColumnElement[str]:
        walked = func.array_agg(aggregate_order_by(self.rows.c.mark, self.place.desc()))
        return _cursor_or_null(walked.filter(self.shown).self_group()[literal_column("1")])

    def _ahead(self) -> ColumnElement[str]:
        """Whether there are more rows in the direction of the scan."""
        return plain(func.count() > self.size)

    def _behind(self) -> ColumnElement[str]:
        """Whether there are rows before the start of the scan."""
        name, given = ("before", self.shape.has_before) if self.shape.backward else ("after", self.shape.has_after)
        if not given:
            return text_literal("false")
        order, back, table = self.shape.order, not self.shape.backward, self.table
        passed = and_(self._matching(), order.beyond(name, backward=back, inclusive=True))
        # The nearest row, by the index of the order. With EXISTS the planner may use another index and search for long.
        nearest = select(table.c.id).where(passed).order_by(*order.clauses(backward=back)).limit(literal_column("1"))
        some = exists().where(passed).correlate(*self.outer)
        walked = self._scalar(nearest).is_not(None) if order.has_index else some
        return plain(self._either(lambda few: self._found_behind(few, name, backward=back), walked))

    def _found_behind(self, few: Few, name: str, *, backward: bool) -> ColumnElement[bool]:
        hits, keys = self._hits(few)
        passed = self.shape.order.beyond(name, backward=backward, inclusive=True, keys=keys)
        return self._scalar(select(func.count() > literal_column("0")).select_from(hits).where(passed))

    def _total_count(self) -> ColumnElement[str]:
        count = select(cast(func.count(), Text)).select_from(self.table).where(self._matching())
        return self._either(lambda few: self._scalar(count.where(few.has)), self._scalar(count))

    def _scalar(self, inner: Select[Any]) -> ScalarSelect[Any]:
        return inner.correlate(*self.outer).scalar_subquery()

    def _either(self, found: Callable[[Few], ColumnElement[Any]], walked: ColumnElement[Any]) -> ColumnElement[Any]:
        """`found` if the filter has a selective condition and it matches few rows, otherwise `walked`."""
        return walked if self.few is None else case((self.few.few, found(self.few)), else_=walked)


def _cursor_or_null(mark: ColumnElement[Any]) -> ColumnElement[str]:
    return func.coalesce(quoted(cursors.sealed(mark)), text_literal("null"), type_=Text)
