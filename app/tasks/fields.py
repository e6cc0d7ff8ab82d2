"""The fields of a task, each declared once: reads, writes, checks, filters and orders derive from this."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Boolean,
    ColumnElement,
    Date,
    Integer,
    SmallInteger,
    Text,
    Uuid,
    and_,
    any_,
    case,
    cast,
    func,
    literal_column,
    null,
)

from app.characters import is_blank, is_one_line, is_printable, words
from app.database.rendering import Columns, json_or_null, json_text, plain, quoted
from app.entities.entity import Condition, Content, Contents, Entity, Field, Membership, Nulls, SortKey
from app.entities.filters import MOST_VALUES
from app.entities.kinds import (
    ENDS,
    TEXTS,
    fields_of_rows,
    moment,
    optional_moment_field,
    past_moment,
    span,
    text_value,
)
from app.entities.problems import Problem, storable, too_long
from app.identifiers import identifier
from app.models import (
    CLOCKS,
    DESCRIPTION_LENGTH,
    LISTS,
    MOST_TAGS,
    PRIORITIES,
    TASKS,
    TITLE_LENGTH,
    due_sort,
)
from app.tag_names import tag_key, tag_names
from app.tasks.listed import listed
from app.tasks.searching import found
from app.tasks.tags import REFUSALS, TAG_LIST, merged, overfull, shown, tag_problems, tagged

# Checks


def _title(value: str | None) -> Sequence[Problem]:
    if value is None or is_blank(storable(value, "title")):
        return [Problem("BLANK", "The title must not be blank.")]
    if not is_one_line(value):
        return [Problem("INVALID", "The title must not contain line breaks or control characters.")]
    return () if len(value) <= TITLE_LENGTH else [too_long("The title", value, TITLE_LENGTH)]


def _description(value: str | None) -> Sequence[Problem]:
    if value is None:
        return ()
    if not is_printable(storable(value, "description")):
        return [Problem("INVALID", "The description may contain line breaks and tabs, but no control characters.")]
    return () if len(value) <= DESCRIPTION_LENGTH else [too_long("The description", value, DESCRIPTION_LENGTH)]


def _completed(value: bool | None) -> Sequence[Problem]:  # noqa: FBT001 - a column's value
    return [Problem("INVALID", "completed must be true or false; omit it to keep it.")] if value is None else ()


def _tags(value: list[str] | None) -> Sequence[Problem]:
    if value and len(value) > MOST_TAGS and (different := len(tag_names(value))) > MOST_TAGS:
        many = f"A task can have at most {MOST_TAGS} tags; you sent {different}."
        return [Problem("LIMIT_EXCEEDED", many), *_each_tag(value)]
    return _each_tag(value)


def _each_tag(value: list[str] | None) -> Sequence[Problem]:
    return [
        replace(problem, field=(str(place),)) for place, tag in enumerate(value or ()) for problem in tag_problems(tag)
    ]


def _no_longer(value: list[str] | None) -> Sequence[Problem]:
    if value and len(value) > MOST_VALUES:
        many = f"removeTags takes at most {MOST_VALUES:,} tags; you sent {len(value):,}."
        return [Problem("LIMIT_EXCEEDED", many)]
    return _each_tag(value)


# Conversions to the value to bind


def _named(value: list[str] | None) -> list[str]:
    return tag_names(value or ())


def _day(value: date | None) -> str | None:
    """As text: asyncpg would encode 9999-12-31 as infinity."""
    return value.isoformat() if value else None


def _same_tags(tags: ColumnElement[Any], others: ColumnElement[Any]) -> ColumnElement[bool]:
    keys, other = func.tag_keys(tags, type_=TEXTS), func.tag_keys(others, type_=TEXTS)
    return and_(keys.contains(other), other.contains(keys))


# Rendering, orders and filters


def _priority(value: ColumnElement[Any]) -> ColumnElement[str]:
    names = literal_column("(ARRAY[" + ",".join(f"'{name}'" for name in PRIORITIES) + "])", ARRAY(Text))
    return quoted(names[cast(value, Integer) + literal_column("1")])


def _rank(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**15:
        raise ValueError
    return value


def _ranks(_name: str, value: list[str]) -> list[str]:
    return [str(PRIORITIES.index(name)) for name in value]


def _due(value: Any) -> str:
    return str(value) if value in ENDS else date.fromisoformat(value).isoformat()


def _is_due_since(bind: BindParameter[Any]) -> ColumnElement[bool]:
    return and_(due_sort >= cast(bind, Date), due_sort < literal_column("'infinity'::date", Date))


def _texts(name: str, value: list[str]) -> list[str]:
    return [storable(item, f"{name}.{place}") for place, item in enumerate(value)]


def _text(name: str, value: str) -> str:
    return storable(value, name)


def _completion(content: Contents, row: Columns | None, at: ColumnElement[Any]) -> Contents:
    """`completed_at` for `completed`: now, unless it is given or the task was completed before; and the reverse."""
    if "completed" not in content and "completed_at" not in content:
        return {}
    if row is not None:
        return {"completed_at": case((content["completed"], func.coalesce(row["completed_at"], at)), else_=null())}
    done, when = content.get("completed", null()), content.get("completed_at", null())
    return {
        "completed": func.coalesce(done, when.is_not(None)),
        "completed_at": func.coalesce(when, case((cast(done, Boolean), at), else_=null())),
    }


def _contradiction(changes: Mapping[str, Any]) -> Sequence[Problem]:
    if changes.get("completed_at") is None or changes.get("completed") is not False:
        return ()
    text = "An open task has no completedAt; omit it, or omit completed."
    return [Problem("INVALID", text, ("completedAt",))]


_COMPLETED = Condition(lambda bind: TASKS.c.completed == cast(bind, Boolean), Boolean())
_PRIORITY = Condition(lambda bind: TASKS.c.priority == any_(cast(bind, ARRAY(SmallInteger))), TEXTS, _ranks)
_LOW_DUE = case((TASKS.c.due_date.is_(None), literal_column("'-infinity'::date")), else_=TASKS.c.due_date)
_DUE: Mapping[str, Condition] = {
    **span("due", due_sort, Date(), Text(), moment),
    "due.gte": Condition(_is_due_since, Text(), moment),
    "due.isNull": Condition(lambda bind: TASKS.c.due_date.is_(None) == cast(bind, Boolean), Boolean()),
}
_DUE_NULLS = Nulls(_LOW_DUE, due_sort, frozenset(["due.gte", "due.lt"]))
_TAG_CONDITIONS: Mapping[str, Condition] = {
    "tagsAll": Condition(
        lambda bind: TASKS.c.tags.contains(shown(bind)), TEXTS, _texts, parts=lambda tags: [tags] if tags else []
    ),
    "tagsAny": Condition(lambda bind: TASKS.c.tags.overlap(shown(bind)), TEXTS, _texts),
}


def _list_id(value: str | None) -> str | None:
    return None if value is None else str(identifier(value, "listId"))


def _list_ids(name: str, value: list[str]) -> list[str]:
    return [str(identifier(item, f"{name}.{place}")) for place, item in enumerate(value)]


_LIST: Mapping[str, Condition] = {
    "list.ids": Condition(lambda bind: TASKS.c.list_id == any_(cast(bind, ARRAY(Uuid))), TEXTS, _list_ids),
    "list.isNull": Condition(lambda bind: TASKS.c.list_id.is_(None) == cast(bind, Boolean), Boolean()),
}

# The tasks of a list.
LISTED = Membership(TASKS, LISTS, TASKS.c.list_id, TASKS.c.trashed_with_list)

TASK = Entity(
    type_name="Task",
    one="task",
    many="tasks",
    table=TASKS,
    counter=CLOCKS.c.tasks,
    declared=(
        *fields_of_rows(TASKS, by_deletion=True, imported=True),
        Field(
            TASKS.c.title,
            json_text,
            Content(Text(), check=_title),
            SortKey(TASKS.c.title_key, Text(collation="C"), text_value),
        ),
        Field(TASKS.c.description, json_or_null, Content(Text(), check=_description)),
        Field(
            TASKS.c.completed,
            plain,
            Content(Boolean(), check=_completed, optional=True, default=False),
            conditions={"completed": _COMPLETED},
        ),
        optional_moment_field(TASKS.c.completed_at, content=past_moment("completedAt")),
        Field(
            TASKS.c.priority,
            _priority,
            Content(SmallInteger(), stored=lambda rank: rank or 0, default=0),
            SortKey(TASKS.c.priority, SmallInteger(), _rank),
            {"priority": _PRIORITY},
        ),
        Field(
            TASKS.c.due_date,
            json_or_null,
            Content(Text(), cast=Date(), stored=_day),
            SortKey(due_sort, Date(), _due, indexed=True, nulls=_DUE_NULLS),
            _DUE,
        ),
        Field(
            TASKS.c.tags,
            json_text,
            Content(
                TEXTS,
                cast=TAG_LIST,
                check=_tags,
                stored=_named,
                compared=func.tag_keys,
                alike=_same_tags,
                default=[],
                canonical=lambda tags: [tag_key(tag) for tag in tags],
            ),
            conditions=_TAG_CONDITIONS,
        ),
        Field(TASKS.c.list_id, None, Content(Text(), cast=Uuid(), stored=_list_id), conditions=_LIST),
        Field(TASKS.c.trashed_with_list, None),
    ),
    more_conditions={"search": Condition(found, Text(), _text, parts=words)},
    following=_completion,
    more_contents={
        "add_tags": Content(TEXTS, check=_tags, stored=_named, at_creation=False),
        "remove_tags": Content(TEXTS, check=_no_longer, stored=_named, at_creation=False),
    },
    merged=merged,
    refused=overfull,
    refusals=REFUSALS,
    member=LISTED,
    conflicts=_contradiction,
    few=lambda me, shape: tagged(me, shape) or listed(me, shape),
)
