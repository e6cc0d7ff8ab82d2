"""Counts tasks by the index of counts."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, FromClause, func, literal_column, select

from app.database.rendering import Selection, json_object, plain
from app.database.statements import Reader
from app.models import TASKS


def stats(
    selection: Selection, me: Reader, *where: ColumnElement[bool], outer: FromClause | None = None
) -> ColumnElement[str]:
    """The JSON of the counts of the user's live tasks, of those that meet conditions on an outer row."""
    everything = func.count()
    counts: Mapping[str, ColumnElement[Any]] = {
        "total": everything,
        "open": everything.filter(~TASKS.c.completed),
        "completed": everything.filter(TASKS.c.completed),
        "overdue": everything.filter(~TASKS.c.completed, TASKS.c.due_date < func.current_date()),
    }
    body = json_object(selection, lambda entry: plain(counts[entry.name]))
    live = select(body).select_from(TASKS).where(me.owns(TASKS), TASKS.c.deleted_at.is_(None), *where)
    # HAVING makes this an aggregate with one row, even if the selection has no counts.
    one = live.having(literal_column("true"))
    return one.correlate(me.row, *([] if outer is None else [outer])).scalar_subquery()
