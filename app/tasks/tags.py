"""A task's tags: what is wrong with one, how updates merge them, and how filters find the tasks that have them.

`tasks.tags` contains tags by their names, so that reading them costs nothing. Two names are the same tag if they have
the same key, which `task_tags` contains. `user_tags` has the name of each key.

For a rare tag, a page looks up all its tasks and sorts them. For a common tag, it scans the index of its order and is
soon full. Which one applies is decided when the statement runs; of several tags the rarest decides.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    FromClause,
    String,
    Text,
    any_,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.selectable import LateralFromClause

from app.characters import is_blank, is_one_line
from app.database.rendering import Columns
from app.database.statements import Reader, user_id
from app.entities.entity import Contents, Few, Shape
from app.entities.problems import Problem, storable, too_long
from app.models import MOST_TAGS, TAG_LENGTH, TAGS, TASKS, USER_TAGS
from app.tag_names import tag_name

FEW = 200
# Without a length: a cast to varchar(50) would truncate a longer tag.
TAG_LIST = ARRAY(String)
_NONE = literal_column("'{}'::text[]", ARRAY(Text))


def tag_problems(text: str) -> Sequence[Problem]:
    """What is wrong with a tag."""
    name = tag_name(storable(text, "A tag"))
    if is_blank(name):
        return [Problem("BLANK", "A tag must not be blank.")]
    if not is_one_line(name):
        return [Problem("INVALID", "A tag must not contain control characters.")]
    return () if len(name) <= TAG_LENGTH else [too_long("A tag", name, TAG_LENGTH)]


def merged(given: Contents, row: Columns) -> Contents:
    """The columns that an update sets, with the tags after `add_tags` and `remove_tags`."""
    if not given.keys() & _CHANGES:
        return given
    rest = {name: value for name, value in given.items() if name not in _CHANGES}
    return {**rest, "tags": _retagged(given, row)}


def overfull(given: Contents, row: Columns) -> Mapping[str, ColumnElement[bool]]:
    """Reject an update after which a task would have too many tags."""
    if "add_tags" not in given:
        return {}
    return {_TOO_MANY: func.cardinality(_retagged(given, row)) > literal_column(str(MOST_TAGS))}


_TOO_MANY = "TOO_MANY_TAGS"
REFUSALS = {
    _TOO_MANY: Problem(
        "LIMIT_EXCEEDED",
        f"A task can have at most {MOST_TAGS} tags, and would have more with these; nothing was changed.",
        ("input", "addTags"),
    )
}
_CHANGES = {"add_tags", "remove_tags"}


def _retagged(given: Contents, row: Columns) -> ColumnElement[Any]:
    return func.retagged(given.get("tags", row["tags"]), given.get("add_tags", _NONE), given.get("remove_tags", _NONE))


def shown(tags: BindParameter[Any]) -> ColumnElement[Any]:
    """The names by which the user's tasks have these tags. No task has a tag without a name, which is left as it is."""
    key = func.unnest(func.tag_keys(tags)).table_valued(column("key", Text), name="given").render_derived()
    name = select(USER_TAGS.c.name).where(USER_TAGS.c.user_id == user_id(), USER_TAGS.c.key == key.c.key)
    names = select(func.coalesce(name.scalar_subquery(), key.c.key))
    # A subquery is evaluated once, not for each task.
    return cast(func.array(names.scalar_subquery()), TAG_LIST)


def tagged(me: Reader, shape: Shape) -> Few | None:
    """The tasks with the tags of a filter, or None if the filter does not require tags."""
    _, parts = shape
    wanted = next((part for part in parts if part[0] in {"tagsAll", "tagsAny"}), None)
    if wanted is None:
        return None
    name, parameter = wanted
    tags = func.tag_keys(bindparam(parameter, type_=ARRAY(Text)))
    row = _having(me, TAGS.c.tag == any_(tags)) if name == "tagsAny" else _rarest(me, tags)
    return Few(row, row.c.count <= literal_column(str(FEW)), is_among(row))


def is_among(row: LateralFromClause) -> ColumnElement[bool]:
    """Whether a task is one of the `ids` of a row.

    IN instead of `= ANY`, with which a generic plan may use another index than the primary key. Without `correlate`,
    the subquery could contain a second copy of the row, to be computed for each task.
    """
    return TASKS.c.id.in_(select(func.unnest(row.c.ids)).correlate(row))


def _having(me: Reader, tag: ColumnElement[bool], *outer: FromClause) -> LateralFromClause:
    most: ColumnElement[int] = literal_column(str(FEW + 1))
    ids = select(TAGS.c.task_id).where(me.owns(TAGS), tag).correlate(me.row, *outer).limit(most).subquery("ids")
    return select(func.count().label("count"), func.array_agg(ids.c.task_id).label("ids")).lateral("tagged")


def _rarest(me: Reader, tags: ColumnElement[Any]) -> LateralFromClause:
    each = func.unnest(tags).table_valued(column("tag", Text), name="each").render_derived()
    having = _having(me, TAGS.c.tag == each.c.tag, each)
    first = select(*having.c).select_from(each.join(having, true())).order_by(having.c.count)
    return first.correlate(me.row).limit(literal_column("1")).lateral("rarest")
