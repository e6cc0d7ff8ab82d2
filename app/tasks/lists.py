"""Lists of tasks: the fields of a list, each declared once."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Text, collate, func

from app.characters import is_blank, is_one_line
from app.database.rendering import Field as Entry
from app.database.rendering import json_or_null, json_text
from app.database.statements import text_literal
from app.entities.entity import Content, Entity, Field, Related, SortKey
from app.entities.kinds import fields_of_rows, text_value
from app.entities.problems import Problem, storable, too_long
from app.entities.reading import View, nested, row
from app.models import CLOCKS, ICON_LENGTH, LIST_NAME_LENGTH, LISTS, TASKS
from app.tasks.fields import LISTED, TASK
from app.tasks.listed import of_list
from app.tasks.stats import stats


def _line(value: str, name: str, most: int) -> Sequence[Problem]:
    """The problems of a text of one line, which is not blank."""
    if is_blank(storable(value, name)):
        return [Problem("BLANK", f"The {name} must not be blank.")]
    if len(value) > most:
        return [too_long(f"The {name}", value, most)]
    if not is_one_line(value):
        return [Problem("INVALID", f"The {name} must not contain line breaks or control characters.")]
    return ()


def _name(value: str | None) -> Sequence[Problem]:
    return _line(value or "", "name", LIST_NAME_LENGTH)


def _icon(value: str | None) -> Sequence[Problem]:
    return () if value is None else _line(value, "icon", ICON_LENGTH)


def _tasks(view: View, entry: Entry, list_id: ColumnElement[Any]) -> ColumnElement[str]:
    """The tasks of a list, in pages."""
    return nested(TASK, entry, view, list_id, lambda own: TASKS.c.list_id == own, of_list)


def _stats(view: View, entry: Entry, list_id: ColumnElement[Any]) -> ColumnElement[str]:
    """The counts of the tasks of a list."""
    outer = list_id.table
    return stats(view, entry, TASKS.c.list_id == list_id, outer=outer)


LIST = Entity(
    type_name="TaskList",
    one="list",
    many="lists",
    table=LISTS,
    counter=CLOCKS.c.lists,
    declared=(
        *fields_of_rows(LISTS, by_time=False),
        Field(
            LISTS.c.name,
            json_text,
            Content(Text(), check=_name),
            # Ignores case and accents. A user has few lists, so it needs no index.
            SortKey(collate(func.title_key(LISTS.c.name), "C"), Text(), text_value),
        ),
        Field(LISTS.c.icon, json_or_null, Content(Text(), check=_icon)),
    ),
    related={
        "tasks": Related(LISTS.c.id, _tasks),
        "taskStats": Related(LISTS.c.id, _stats),
    },
    order=("POSITION", False),
    container=LISTED,
)


def _list(view: View, entry: Entry, list_id: ColumnElement[Any]) -> ColumnElement[str]:
    """The list of a task."""
    outer = view.me.row, list_id.table
    found = row(LIST, entry.inner, view, list_id, *outer).correlate(*outer).scalar_subquery()
    return func.coalesce(found, text_literal("null"), type_=Text)


# Tasks and lists show one another.
TASK.related["list"] = Related(TASKS.c.list_id, _list, shows=LIST)
