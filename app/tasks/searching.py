"""Finds tasks by a word of their title, their description, their tags, or the name of their list.

The database folds all texts and the word alike (`search_key()`), so that case, accents and typography make no
difference. The names of tags and lists are compared once, and then the tasks that have them are found by what tasks
contain already, so that renaming a list writes no task.
"""

from typing import Any

from sqlalchemy import ARRAY, BindParameter, ColumnElement, FromClause, Text, Uuid, any_, cast, func, or_, select
from sqlalchemy import literal_column as constant

from app.database.statements import text_literal, user_id
from app.models import LISTS, TASKS, USER_TAGS
from app.tasks.tags import TAG_LIST


def found(word: BindParameter[Any]) -> ColumnElement[bool]:
    """Whether a task contains a word. Marks alone are no word, and are found nowhere."""
    # Subqueries are evaluated once, not for each task, and those of tags and lists only if a text lacks the word.
    key = select(func.nullif(func.search_key(word), text_literal(""))).scalar_subquery()
    lists = cast(func.array(_named(LISTS, LISTS.c.id, key)), ARRAY(Uuid))
    tags = cast(func.array(_named(USER_TAGS, USER_TAGS.c.name, key)), TAG_LIST)
    return or_(_contains(TASKS, key), TASKS.c.list_id == any_(lists), TASKS.c.tags.overlap(tags))


def _named(table: FromClause, value: ColumnElement[Any], key: ColumnElement[Any]) -> ColumnElement[Any]:
    return select(value).where(table.c.user_id == user_id(), _contains(table, key)).scalar_subquery()


def _contains(table: FromClause, key: ColumnElement[Any]) -> ColumnElement[bool]:
    return func.strpos(table.c.search, key, type_=Text) > constant("0")
