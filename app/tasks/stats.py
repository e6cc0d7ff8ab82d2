"""Counts of tasks, by an index-only scan."""

from collections.abc import Mapping
from datetime import date

from sqlalchemy import ColumnElement, Date, FromClause, Text, bindparam, cast, func, literal_column, select

from app.database.rendering import Field, json_object, plain
from app.entities.reading import View
from app.models import TASKS

# The argument with the caller's day.
TODAY = "today"


def stats(
    view: View, entry: Field, *conditions: ColumnElement[bool], outer: FromClause | None = None
) -> ColumnElement[str]:
    """The JSON of a field `taskStats`: the counts of the user's live tasks that meet conditions on an outer row."""
    found = counts(func.current_date() if entry.arguments is None else _today(view.parameter(entry, TODAY)))
    body = json_object(entry.inner, lambda each: plain(found[each.name]))
    live = select(body).select_from(TASKS).where(view.me.owns(TASKS), TASKS.c.deleted_at.is_(None), *conditions)
    # HAVING makes this an aggregate with one row, even if the selection has no counts.
    one = live.having(literal_column("true"))
    return one.correlate(view.me.row, *([] if outer is None else [outer])).scalar_subquery()


def counts(day: ColumnElement[date]) -> Mapping[str, ColumnElement[int]]:
    """The aggregates of TaskStats by field. `ix_tasks_counts` contains all columns that they need."""
    everything, is_open, due = func.count(), ~TASKS.c.completed, TASKS.c.due_date
    return {
        "total": everything,
        "open": everything.filter(is_open),
        "completed": everything.filter(TASKS.c.completed),
        "overdue": everything.filter(is_open, due < day),
        "dueToday": everything.filter(is_open, due == day),
    }


def _today(parameter: str) -> ColumnElement[date]:
    """The day in a parameter, by default that in UTC. A subquery is evaluated once, not for each task."""
    given = cast(bindparam(parameter, type_=Text), Date)
    return select(func.coalesce(given, func.current_date(), type_=Date)).scalar_subquery()
