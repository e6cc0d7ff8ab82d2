"""Finds the tasks with a tag by the index of tags.

For a rare tag, a page looks up all its tasks and sorts them. For a common tag, it scans the index of its order and is
soon full. Which one applies is decided when the statement runs; of several tags the rarest decides.
"""

from typing import Any

from sqlalchemy import ColumnElement, FromClause, Text, any_, bindparam, column, func, literal_column, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.selectable import LateralFromClause

from app.database.statements import Reader
from app.entities.entity import Few, Shape
from app.models import TAGS, TASKS

FEW = 200


def tagged(me: Reader, shape: Shape) -> Few | None:
    """The tasks with the tags of a filter, or None if the filter does not require tags."""
    _, parts = shape
    wanted = next((part for part in parts if part[0] in {"tagsAll", "tagsAny"}), None)
    if wanted is None:
        return None
    name, parameter = wanted
    tags = bindparam(parameter, type_=ARRAY(Text))
    row = _having(me, TAGS.c.tag == any_(tags)) if name == "tagsAny" else _rarest(me, tags)
    # IN instead of `= ANY`, with which a generic plan may use another index than the primary key.
    has = TASKS.c.id.in_(select(func.unnest(row.c.ids)))
    return Few(row, row.c.count <= literal_column(str(FEW)), has)


def _having(me: Reader, tag: ColumnElement[bool], *outer: FromClause) -> LateralFromClause:
    most: ColumnElement[int] = literal_column(str(FEW + 1))
    ids = select(TAGS.c.task_id).where(me.owns(TAGS), tag).correlate(me.row, *outer).limit(most).subquery("ids")
    return select(func.count().label("count"), func.array_agg(ids.c.task_id).label("ids")).lateral("tagged")


def _rarest(me: Reader, tags: ColumnElement[Any]) -> LateralFromClause:
    each = func.unnest(tags).table_valued(column("tag", Text), name="each").render_derived()
    having = _having(me, TAGS.c.tag == each.c.tag, each)
    first = select(*having.c).select_from(each.join(having, true())).order_by(having.c.count)
    return first.correlate(me.row).limit(literal_column("1")).lateral("rarest")
