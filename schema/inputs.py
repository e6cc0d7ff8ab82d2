"""Input types, and their conversion to plain values for the domain, without omitted fields."""

from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from typing import Any, TypeVar

import strawberry
from strawberry import UNSET, Maybe, Some
from strawberry.types import has_object_definition

from app.entities.naming import api_name
from app.entities.ordering import OrderBy
from app.errors import BadUserInput
from app.models import PRIORITIES
from schema.enums import TaskPriority

T = TypeVar("T")


def condition(description: str, name: str | None = None) -> Any:
    """A field of a filter. If it is omitted, the object does not have it: bulk writes reject null, but not that."""
    return strawberry.field(default=UNSET, description=description, name=name)


@strawberry.input(description="A range of dates. Both ends are optional.")
class DateRange:
    gte: date | None = condition(description="On this date or later.")
    lt: date | None = condition(description="Before this date.")
    is_null: bool | None = condition(description="true: no date; false: any date.")


@strawberry.input(description="A range of points in time. Both ends are optional.")
class DateTimeRange:
    gte: datetime | None = condition(description="At this time or later.")
    lt: datetime | None = condition(description="Before this time.")


@strawberry.input(description="The list of a task. Both conditions are optional.")
class ListCondition:
    ids: list[strawberry.ID] | None = condition(
        description="The id of the list is one of these. An empty list matches no task."
    )
    is_null: bool | None = condition(description="true: no list, which is the inbox; false: any list.")


@strawberry.input(
    description="Selects the tasks that meet all conditions. Queries ignore omitted and null conditions. At most 50"
    " conditions, and 1,000 values per list; more get the error LIMIT_EXCEEDED."
)
class TaskFilter:
    ids: list[strawberry.ID] | None = condition(description="The id is one of these. An empty list matches no task.")
    completed: bool | None = condition(description="true: completed tasks; false: open tasks.")
    search: str | None = condition(
        description="All of these words occur in the task, in any order: in its title, its description, its tags or"
        " the name of its list. A word may be a part of a longer one. Case, accents, vowel points, invisible characters"
        " and the form of quotes and dashes are ignored. A blank text matches every task. Each word is one condition."
    )
    priority: list[TaskPriority] | None = condition(
        description="The priority is one of these. An empty list matches no task."
    )
    tags_all: list[str] | None = condition(
        description="The task has all of these tags; case makes no difference. An empty list matches every task."
    )
    tags_any: list[str] | None = condition(
        description="The task has at least one of these tags; case makes no difference. An empty list matches no task."
    )
    due: DateRange | None = condition(
        description="The range of `dueDate`. Tasks without a due date match only `isNull: true`."
    )
    list_: ListCondition | None = condition(name="list", description="The list that the task is in.")
    created: DateTimeRange | None = condition(description="The range of `createdAt`.")
    updated: DateTimeRange | None = condition(description="The range of `updatedAt`.")
    completed_at: DateTimeRange | None = condition(
        description="The range of `completedAt`. Open tasks match no range with an end."
    )
    deleted_at: DateTimeRange | None = condition(
        description="The range of `deletedAt`. Matches only tasks in the trash, so use it with `trashed: true`."
    )
    trashed: bool | None = strawberry.field(
        default=False,
        description="true: only tasks in the trash; false: only tasks that are not. Allowed on the outermost filter"
        " only.",
    )
    and_: list["TaskFilter"] | None = condition(
        name="and", description="All of these filters match. An empty list matches every task."
    )
    or_: list["TaskFilter"] | None = condition(
        name="or", description="At least one of these filters matches. An empty list matches no task."
    )
    not_: "TaskFilter | None" = condition(name="not", description="This filter does not match.")


@strawberry.enum(
    description="The field to sort tasks by. Tasks without a value come last in ascending and first in descending"
    " order, unless `nulls` says otherwise."
)
class TaskOrderField(Enum):
    CREATED_AT = strawberry.enum_value("CREATED_AT", description="The time of creation, `createdAt`.")
    UPDATED_AT = strawberry.enum_value("UPDATED_AT", description="The time of the last change, `updatedAt`.")
    DUE_DATE = strawberry.enum_value("DUE_DATE", description="`dueDate`.")
    COMPLETED_AT = strawberry.enum_value(
        "COMPLETED_AT",
        description="The time of completion, `completedAt`. Has an index only with a range of `completedAt` in the"
        " outermost filter, otherwise adds 100 rows to the cost of the operation.",
    )
    DELETED_AT = strawberry.enum_value(
        "DELETED_AT",
        description="The time of deletion, `deletedAt`. Has an index only for the trash, otherwise adds 100 rows to the"
        " cost of the operation.",
    )
    PRIORITY = strawberry.enum_value(
        "PRIORITY",
        description="`priority`, from NONE to URGENT. Has no index: adds 100 rows to the cost of the operation.",
    )
    POSITION = strawberry.enum_value("POSITION", description="`position`: the manual order that `moveTask` changes.")
    TITLE = strawberry.enum_value(
        "TITLE",
        description="`title`, regardless of case and of the database's language: letters with accents stand beside"
        " those without, and numbers are sorted by their value, so that `item 2` comes before `item 10`. Has no index:"
        " adds 100 rows to the cost of the operation.",
    )


@strawberry.enum(description="The direction of a sort order.")
class OrderDirection(Enum):
    ASC = strawberry.enum_value("ASC", description="Ascending: the smallest or earliest value first.")
    DESC = strawberry.enum_value("DESC", description="Descending: the largest or latest value first.")


@strawberry.enum(description="The place of tasks without a value in a sort order.")
class Nulls(Enum):
    FIRST = strawberry.enum_value("FIRST", description="Before all tasks with a value.")
    LAST = strawberry.enum_value("LAST", description="After all tasks with a value.")


@strawberry.input(
    description="One field of a sort order. Tasks with equal values are sorted by the next field, and finally by id."
)
class TaskOrder:
    field: TaskOrderField = strawberry.field(description="The field to sort by.")
    direction: OrderDirection | None = strawberry.field(
        default=OrderDirection.ASC, description="The direction; null is the same as ASC."
    )

    nulls: Nulls | None = strawberry.field(
        description="The place of tasks without a value: for DUE_DATE, COMPLETED_AT and DELETED_AT only. By default"
        " LAST if ascending, and FIRST if descending. The other place has no index, unless the outermost filter has a"
        " range of the same field: it adds 100 rows to the cost of the operation."
    )

    def term(self) -> OrderBy:
        return OrderBy(self.field.name, self.direction is OrderDirection.DESC, self.nulls and self.nulls.name)


# The fields of a new task for which null means that the server decides.
OMITTED = ("id", "completed", "completed_at", "created_at")


@strawberry.input(description="A new task.")
class CreateTaskInput:
    title: str = strawberry.field(description="1 to 200 characters on one line, not blank.")
    id: strawberry.ID | None = strawberry.field(
        description="A UUID of your choice makes the mutation safe to retry: if you have created a task with this"
        " id and the same content before, you get that task as it is now, also from the trash, and nothing is created."
        " With different content, the error is ID_TAKEN. Omitted fields, null and defaults are the same content. If"
        " omitted or null, the server chooses a UUID.",
    )
    description: str | None = strawberry.field(description="At most 4,000 characters.")
    priority: TaskPriority | None = strawberry.field(
        default=TaskPriority.NONE, description="Priority; null is the same as NONE."
    )
    due_date: date | None = strawberry.field(description="Due date.")
    tags: list[str] | None = strawberry.field(
        description="At most 20 tags of 1 to 50 characters. Case, white space and Unicode form do not tell tags apart:"
        " a tag is shown as you wrote it first. Duplicates are removed."
    )
    list_id: strawberry.ID | None = strawberry.field(
        description="The list that the task is in, which must not be in the trash; null for the inbox."
    )
    completed: bool | None = strawberry.field(
        description="true: the task is done; false: it is open, which is the default."
    )
    completed_at: datetime | None = strawberry.field(
        description="When the task was done, if it comes from elsewhere; not in the future. Implies `completed: true`."
        " By default the time of this mutation, if the task is done."
    )
    created_at: datetime | None = strawberry.field(
        description="When the task was created, if it comes from elsewhere; not in the future. By default the time of"
        " this mutation."
    )

    def content(self) -> dict[str, Any]:
        content = stored(vars(self))
        for name in OMITTED:
            if content[name] is None:
                del content[name]
        return content


@strawberry.input(description="Changes to a task. Omit a field to keep its value.")
class UpdateTaskInput:
    title: Maybe[str | None] = strawberry.field(
        description="1 to 200 characters on one line, not blank. Cannot be null."
    )
    description: Maybe[str | None] = strawberry.field(description="At most 4,000 characters. Null clears it.")
    completed: Maybe[bool | None] = strawberry.field(
        description="true: the task is done; false: it is open. Cannot be null."
    )
    priority: Maybe[TaskPriority | None] = strawberry.field(description="Priority; null is the same as NONE.")
    due_date: Maybe[date | None] = strawberry.field(description="Due date. Null clears it.")
    tags: Maybe[list[str] | None] = strawberry.field(
        description="Replaces all tags: at most 20 of 1 to 50 characters. Duplicates are removed. Null removes all"
        " tags."
    )

    add_tags: Maybe[list[str] | None] = strawberry.field(
        description="Adds these tags to those that the task has, so that two clients can each add one. Not together"
        " with `tags`. If a task would have more than 20, nothing is changed, and the error is LIMIT_EXCEEDED."
    )
    remove_tags: Maybe[list[str] | None] = strawberry.field(
        description="Removes these tags, at most 1,000, from those that the task has. Not together with `tags`. A tag"
        " that is in `addTags`, too, is not removed."
    )
    list_id: Maybe[strawberry.ID | None] = strawberry.field(
        description="The list to move the task to, which must not be in the trash; null moves it to the inbox."
    )

    def changes(self) -> dict[str, Any]:
        given = present(self)
        for name in ("add_tags", "remove_tags"):
            if name in given and given[name] is None:
                del given[name]
            elif name in given and "tags" in given:
                both = "Send `tags` to replace all tags, or `addTags` and `removeTags`, but not both."
                raise BadUserInput(both, f"input.{api_name(name)}")
        return stored(given)


@strawberry.input(one_of=True, description="Selects tasks to change. Set exactly one of the fields.")
class TaskSelector:
    ids: list[strawberry.ID] | None = strawberry.field(
        default=UNSET,
        description="At most 1,000 ids; an empty list selects nothing. Ids that are not found are reported as NOT_FOUND"
        " and skipped, and with `updateTasks` those in the trash as IN_TRASH; the other tasks are changed.",
    )
    filter: TaskFilter | None = strawberry.field(
        default=UNSET,
        description="All matching tasks: with `restoreTasks` and `purgeTasks` of those in the trash, otherwise of those"
        " that are not. Omit `trashed`. The filter, and each filter in it, needs a condition that excludes tasks. No"
        " condition may be null or search for blank text: a variable without a value must not select all tasks. Use"
        " `all` for these.",
    )

    all: bool | None = strawberry.field(
        default=UNSET,
        description="All tasks: with `restoreTasks` and `purgeTasks` all of the trash, otherwise all that are not in"
        " it. Must be true.",
    )

    def selector(self) -> dict[str, Any]:
        return selected(self)


@strawberry.input(one_of=True, description="A place in the manual order. Set exactly one field.")
class MoveTarget:
    before: strawberry.ID | None = strawberry.field(
        default=UNSET,
        description="Directly before the task with this id, with `moveList` the list. It must not be in the trash.",
    )
    after: strawberry.ID | None = strawberry.field(
        default=UNSET,
        description="Directly after the task with this id, with `moveList` the list. It must not be in the trash.",
    )
    to_start: bool | None = strawberry.field(default=UNSET, description="Before all others. Must be true.")
    to_end: bool | None = strawberry.field(default=UNSET, description="After all others. Must be true.")

    def place(self) -> tuple[str, str | None]:
        """The kind of place, and the id of the adjacent task."""
        if self.before or self.after:
            return ("before", self.before) if self.before else ("after", self.after)
        if self.to_start or self.to_end:
            return ("toStart" if self.to_start else "toEnd"), None
        raise BadUserInput("`to` must have one of before: ID, after: ID, toStart: true or toEnd: true.", "to")


def given(value: T | None) -> T | None:
    """The value of an argument, None if it was omitted. A default of None would appear in the schema."""
    return None if value is UNSET else value


def present(value: object) -> dict[str, Any]:
    """The fields of an input that are not omitted."""
    return {name: item.value for name, item in vars(value).items() if isinstance(item, Some)}


def stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as columns store them: a priority as its rank."""
    priority = values.get("priority")
    return {**values, "priority": PRIORITIES.index(priority.value)} if priority is not None else dict(values)


def selected(where: Any) -> dict[str, Any]:
    """The one way of selecting of a selector: ids, a filter or all."""
    if where.filter:
        _refuse_null(where.filter, "where.filter")
        return {"filter": tree(where.filter)}
    if where.all is False:
        raise BadUserInput("`where.all` must be true; otherwise select by `ids` or `filter`.", "where.all")
    return {"all": True} if where.all else {"ids": where.ids or []}


def _refuse_null(value: Any, path: str) -> None:
    """Raise BadUserInput for a null condition in the filter at this path."""
    if value is None:
        raise BadUserInput(f"`{path}` is null; omit the condition, or give it a value.", path)
    if isinstance(value, list):
        for place, item in enumerate(value):
            _refuse_null(item, f"{path}.{place}")
    elif has_object_definition(value):
        for name, item in vars(value).items():
            _refuse_null(item, f"{path}.{api_name(name)}")


def tree(value: Any) -> Any:
    """A filter as nested mappings, without null conditions."""
    if isinstance(value, list):
        return [tree(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if has_object_definition(value):
        return {api_name(name): tree(item) for name, item in vars(value).items() if item is not None}
    return value
