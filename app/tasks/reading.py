"""The statements that read: each builds the whole JSON answer of one root field."""

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
    json_or_null,
    json_text,
    plain,
    quoted,
    task_json,
)
from app.database.statements import Reader, Statement, read, text_literal
from app.entities import cursors
from app.entities.filters import Shape, condition
from app.entities.ordering import Keys, Order
from app.models import TASKS, USERS
from app.tasks.tags import Tagged, wanted


class Page(NamedTuple):
    """The shape of a page's arguments: one compiled statement for each."""

    order: Order
    filter: Shape
    backward: bool
    has_after: bool
    has_before: bool


def task(selection: Selection) -> Statement:
    """One task by id."""
    wanted = bindparam("id", type_=Uuid)
    return read(
        lambda me: select(task_json(selection, TASKS.c).label("body")).where(me.owns(TASKS), TASKS.c.id == wanted)
    )


def viewer(selection: Selection) -> Statement:
    """The user's own row."""
    return read(lambda me: _user(selection, me))


def node(task_selection: Selection, user_selection: Selection) -> Statement:
    """A task or the user by id; null when it is neither."""

    def body(me: Reader) -> Select[Any]:
        wanted = bindparam("id", type_=Uuid)
        found = select(task_json(task_selection, TASKS.c)).where(me.owns(TASKS), TASKS.c.id == wanted)
        own = _user(user_selection, me).where(USERS.c.id == wanted)
        either = func.coalesce(_scalar(found, me), _scalar(own, me), type_=Text)
        return select(either.label("body"))

    return read(body)


def page(selection: Selection, shape: Page) -> Statement:
    """A connection of tasks."""

    def body(me: Reader) -> Select[Any]:
        tags = wanted(shape.filter)
        if tags is None:
            return _Connection(selection, shape, me).body()
        tagged = Tagged(me, *tags)
        connection = _Connection(selection, shape, me, tagged).body().lateral("connection")
        return select(connection.c.body).select_from(tagged.row.join(connection, true()))

    return read(body)


def _user(selection: Selection, me: Reader) -> Select[Any]:
    body = json_object(selection, lambda entry: _user_field(entry, me))
    return select(body.label("body")).where(me.is_in(USERS))


def _user_field(entry: Field, me: Reader) -> ColumnElement[str]:
    match entry.name:
        case "id":
            return quoted(USERS.c.id)
        case "taskStats":
            return _stats(entry.inner, me)
        case "createdAt":
            return json_text(USERS.c.created_at)
    return json_or_null(USERS.c[entry.name])


def _stats(selection: Selection, me: Reader) -> ColumnElement[str]:
    everything = func.count()
    counts: Mapping[str, ColumnElement[Any]] = {
        "total": everything,
        "open": everything.filter(~TASKS.c.completed),
        "completed": everything.filter(TASKS.c.completed),
        "overdue": everything.filter(~TASKS.c.completed, TASKS.c.due_date < func.current_date()),
    }
    body = json_object(selection, lambda entry: plain(counts[entry.name]))
    live = select(body).select_from(TASKS).where(me.owns(TASKS), TASKS.c.deleted_at.is_(None))
    # HAVING makes it one row even where the selection counts nothing.
    return _scalar(live.having(literal_column("true")), me)


def _scalar(inner: Select[Any], me: Reader) -> ScalarSelect[Any]:
    return inner.correlate(me.row).scalar_subquery()


class _Connection:
    """The parts of a connection, over one numbered page of rows that has one row more than is shown."""

    def __init__(self, selection: Selection, shape: Page, me: Reader, tagged: Tagged | None = None) -> None:
        self.selection, self.shape, self.me, self.tagged = selection, shape, me, tagged
        self.outer = [me.row, *([tagged.row] if tagged else [])]
        self.size = bindparam("size", type_=Integer)
        self.rows = self._rows()
        self.place = self.rows.c.place
        self.shown = self.place <= self.size

    def body(self) -> Select[Any]:
        text = json_object(self.selection, self._field)
        read_rows = any(self.selection.entries(name) for name in ("edges", "nodes", "pageInfo"))
        statement = select(text.label("body"))
        # HAVING makes it one row also where the selection needs none of the rows.
        return statement.select_from(self.rows).having(literal_column("true")) if read_rows else statement

    def _matching(self) -> ColumnElement[bool]:
        return and_(self.me.owns(TASKS), condition(self.shape.filter))

    def _rows(self) -> Subquery:
        if self.tagged is None:
            return self._walked().subquery("page")
        # One of the two is never run: what it depends on is known before its first row.
        walked = self._walked(not_(self.tagged.few)).subquery("walked")
        found = self._found(self.tagged).subquery("found")
        return union_all(select(*walked.c), select(*found.c)).subquery("page")

    def _walked(self, *more: ColumnElement[bool]) -> Select[Any]:
        """The page from its order's index, no further than it goes."""
        walked = self.shape.order.clauses(backward=self.shape.backward)
        place = func.row_number().over(order_by=walked).label("place")
        page = select(*TASKS.c, self._mark(), place).where(self._matching(), *self._within(), *more)
        return page.order_by(*walked).limit(self.size + literal_column("1")).correlate(*self.outer)

    def _found(self, tagged: Tagged) -> Select[Any]:
        """The page from the few tasks with a tag."""
        hits, keys = self._hits(tagged)
        walked = self.shape.order.clauses(backward=self.shape.backward, keys=keys)
        place = func.row_number().over(order_by=walked).label("place")
        page = select(*(hits.c[column.name] for column in TASKS.c), hits.c.mark, place).where(*self._within(keys))
        return page.order_by(*walked).limit(self.size + literal_column("1"))

    def _hits(self, tagged: Tagged) -> tuple[Subquery, Keys]:
        """The few tasks with a tag that match, and what they are ordered by.

        OFFSET keeps conditions on the order outside, where they can't make the planner walk its index all the same.
        """
        keys = [key.label(f"key_{place}") for place, key in enumerate(self.shape.order.expressions)]
        rows = select(*TASKS.c, self._mark(), *keys).where(self._matching(), tagged.few, tagged.has)
        hits = rows.correlate(*self.outer).offset(literal_column("0")).subquery("hits")
        return hits, [hits.c[key.name] for key in keys]

    def _within(self, keys: Keys | None = None) -> list[ColumnElement[bool]]:
        """What lies beyond the cursors."""
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
                return self._list(task_json(entry.inner, self.rows.c))
            case "pageInfo":
                return json_object(entry.inner, lambda part: self._page_info()[part.name]())
        return self._total_count()

    def _edge_field(self, entry: Field) -> ColumnElement[str]:
        return (
            quoted(cursors.sealed(self.rows.c.mark)) if entry.name == "cursor" else task_json(entry.inner, self.rows.c)
        )

    def _list(self, element: ColumnElement[str]) -> ColumnElement[str]:
        """The shown rows in the order of the list, which is not the order of the walk when that went backward."""
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
        """Whether the walk could go on."""
        return plain(func.count() > self.size)

    def _behind(self) -> ColumnElement[str]:
        """Whether there is anything where the walk came from."""
        name, given = ("before", self.shape.has_before) if self.shape.backward else ("after", self.shape.has_after)
        if not given:
            return text_literal("false")
        order, back = self.shape.order, not self.shape.backward
        passed = and_(self._matching(), order.beyond(name, backward=back, inclusive=True))
        # The nearest one by the order's index. EXISTS would let the planner look for any one, by any way.
        nearest = select(TASKS.c.id).where(passed).order_by(*order.clauses(backward=back)).limit(literal_column("1"))
        some = exists().where(passed).correlate(*self.outer)
        walked = self._scalar(nearest).is_not(None) if order.has_index else some
        return plain(self._either(lambda tagged: self._found_behind(tagged, name, backward=back), walked))

    def _found_behind(self, tagged: Tagged, name: str, *, backward: bool) -> ColumnElement[bool]:
        hits, keys = self._hits(tagged)
        passed = self.shape.order.beyond(name, backward=backward, inclusive=True, keys=keys)
        return self._scalar(select(func.count() > literal_column("0")).select_from(hits).where(passed))

    def _total_count(self) -> ColumnElement[str]:
        count = select(cast(func.count(), Text)).select_from(TASKS).where(self._matching())
        return self._either(lambda tagged: self._scalar(count.where(tagged.has)), self._scalar(count))

    def _scalar(self, inner: Select[Any]) -> ScalarSelect[Any]:
        return inner.correlate(*self.outer).scalar_subquery()

    def _either(self, found: Callable[[Tagged], ColumnElement[Any]], walked: ColumnElement[Any]) -> ColumnElement[Any]:
        """What is found among the few tasks with a tag, or where they are many, or no tag is asked for, by walking."""
        return walked if self.tagged is None else case((self.tagged.few, found(self.tagged)), else_=walked)


def _cursor_or_null(mark: ColumnElement[Any]) -> ColumnElement[str]:
    return func.coalesce(quoted(cursors.sealed(mark)), text_literal("null"), type_=Text)
