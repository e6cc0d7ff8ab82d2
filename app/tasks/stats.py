"""Counts of tasks, by an index-only scan."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from sqlalchemy import ColumnElement, Date, ScalarSelect, Text, bindparam, cast, func, literal_column, select

from app.database.rendering import Arguments, Field, json_object, parameter, plain
from app.database.statements import Reader
from app.models import TASKS

# The argument with the caller's day.
TODAY = "today"


def stats(entry: Field, me: Reader, *conditions: ColumnElement[bool]) -> ScalarSelect[Any]:
    """The JSON of a field `taskStats`: the counts of the tasks that meet the conditions, without the trash."""
    found = counts(today(entry))
    body = json_object(entry.inner, lambda each: plain(found[each.name]))
    live = select(body).select_from(TASKS).where(me.owns(TASKS), TASKS.c.deleted_at.is_(None), *conditions)
    # HAVING makes this an aggregate with one row, even if the selection has no counts.
    return live.having(literal_column("true")).correlate(me.row).scalar_subquery()


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


def today(entry: Field) -> ColumnElement[date]:
    """The day in the argument of a field, by default that in UTC. A subquery is evaluated once, not for each task."""
    given = cast(bindparam(entry.parameter(TODAY), type_=Text), Date)
    return select(func.coalesce(given, func.current_date(), type_=Date)).scalar_subquery()


def days(arguments: Arguments) -> dict[str, str | None]:
    """The parameters for the days in the arguments. As text: asyncpg would encode 9999-12-31 as infinity."""
    given: Mapping[str, date | None] = {slot: each.get(TODAY) for slot, each in arguments.items()}
    return {parameter(slot, TODAY): day.isoformat() if day else None for slot, day in given.items()}
