"""The tasks that have a tag, by the index of tags.

A page by a tag that few tasks have looks these up and sorts them; by one that many have, it walks its order's index and
is soon full. Which of the two it is shows only when the statement runs; of several tags the rarest decides.
"""

from typing import Any

from sqlalchemy import ColumnElement, FromClause, Text, any_, bindparam, column, func, literal_column, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.selectable import LateralFromClause

from app.database.statements import Reader
from app.entities.filters import Shape
from app.models import TAGS, TASKS

FEW = 200


class Tagged:
    """One row that stands before a page: how many tasks have the tags, as far as that matters, and their ids."""

    def __init__(self, me: Reader, name: str, parameter: str) -> None:
        tags = bindparam(parameter, type_=ARRAY(Text))
        self.row = _having(me, TAGS.c.tag == any_(tags)) if name == "tagsAny" else _rarest(me, tags)

    @property
    def few(self) -> ColumnElement[bool]:
        """Whether the ids are all there are."""
        return self.row.c.count <= literal_column(str(FEW))

    @property
    def has(self) -> ColumnElement[bool]:
        """Whether a task is one of them."""
        # Not `= ANY`: with that, a plan for any user may go through another index than the key's.
        return TASKS.c.id.in_(select(func.unnest(self.row.c.ids)))


def wanted(shape: Shape) -> tuple[str, str] | None:
    """The condition on tags that all tasks of a filter meet, as its name and parameter."""
    _, parts = shape
    return next((part for part in parts if part[0] in {"tagsAll", "tagsAny"}), None)


def _having(me: Reader, tag: ColumnElement[bool], *outer: FromClause) -> LateralFromClause:
    most: ColumnElement[int] = literal_column(str(FEW + 1))
    ids = select(TAGS.c.task_id).where(me.owns(TAGS), tag).correlate(me.row, *outer).limit(most).subquery("ids")
    return select(func.count().label("count"), func.array_agg(ids.c.task_id).label("ids")).lateral("tagged")


def _rarest(me: Reader, tags: ColumnElement[Any]) -> LateralFromClause:
    each = func.unnest(tags).table_valued(column("tag", Text), name="each").render_derived()
    having = _having(me, TAGS.c.tag == each.c.tag, each)
    first = select(*having.c).select_from(each.join(having, true())).order_by(having.c.count)
    return first.correlate(me.row).limit(literal_column("1")).lateral("rarest")
