"""Input types, and their plain form for the domain: names as there, values bare, what was omitted left out."""

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
from schema.types import TaskPriority

T = TypeVar("T")


@strawberry.input(description="A span of days.")
class DateRange:
    gte: date | None = strawberry.field(description="This day or later.")
    lt: date | None = strawberry.field(description="Before this day.")
    is_null: bool | None = strawberry.field(description="true: no day at all; false: any day.")


@strawberry.input(description="A span of time.")
class DateTimeRange:
    gte: datetime | None = strawberry.field(description="This moment or later.")
    lt: datetime | None = strawberry.field(description="Before this moment.")


@strawberry.input(description="Tasks that meet every condition given; omitted and null conditions ask for nothing.")
class TaskFilter:
    ids: list[strawberry.ID] | None = strawberry.field(description="Any of these ids.")
    completed: bool | None = strawberry.field(description="Done or open.")
    search: str | None = strawberry.field(description="Text in the title or description, in any case and accent.")
    priority: list[TaskPriority] | None = strawberry.field(description="Any of these priorities.")
    tags_all: list[str] | None = strawberry.field(description="Every one of these tags.")
    tags_any: list[str] | None = strawberry.field(description="At least one of these tags.")
    due: DateRange | None = strawberry.field(description="By the due date.")
    created: DateTimeRange | None = strawberry.field(description="By the time of making.")
    updated: DateTimeRange | None = strawberry.field(description="By the time of the last write.")
    trashed: bool | None = strawberry.field(
        default=False, description="true: the trash instead of the tasks. Only on the outermost filter."
    )
    and_: list["TaskFilter"] | None = strawberry.field(name="and", description="All of these filters.")
    or_: list["TaskFilter"] | None = strawberry.field(
        name="or", description="At least one of these filters; with an empty list no task matches."
    )
    not_: "TaskFilter | None" = strawberry.field(name="not", description="The opposite of this filter.")


@strawberry.enum(description="What to sort tasks by.")
class TaskOrderField(Enum):
    CREATED_AT = strawberry.enum_value("CREATED_AT", description="The time of making.")
    UPDATED_AT = strawberry.enum_value("UPDATED_AT", description="The time of the last write.")
    DUE_DATE = strawberry.enum_value("DUE_DATE", description="The due date; no due date is later than every date.")
    PRIORITY = strawberry.enum_value("PRIORITY", description="From NONE to URGENT.")
    POSITION = strawberry.enum_value("POSITION", description="The manual order.")
    TITLE = strawberry.enum_value("TITLE", description="The title in lower case, by the database's collation.")


@strawberry.enum(description="Which end comes first.")
class OrderDirection(Enum):
    ASC = strawberry.enum_value("ASC", description="The smallest, earliest or least first.")
    DESC = strawberry.enum_value("DESC", description="The largest, latest or most first.")


@strawberry.input(description="One term of an order; a later term decides among equals, and at last the id.")
class TaskOrder:
    field: TaskOrderField = strawberry.field(description="What to sort by.")
    direction: OrderDirection | None = strawberry.field(
        default=OrderDirection.ASC, description="Which end comes first."
    )

    def term(self) -> OrderBy:
        return OrderBy(self.field.name, self.direction is OrderDirection.DESC)


@strawberry.input(description="A task to make.")
class CreateTaskInput:
    title: str = strawberry.field(description="1 to 200 characters, not blank.")
    id: strawberry.ID | None = strawberry.field(
        description="A UUID of your own makes the call safe to repeat: the same content gives the task that is there.",
    )
    description: str | None = strawberry.field(description="At most 1,000 characters.")
    priority: TaskPriority | None = strawberry.field(default=TaskPriority.NONE, description="How urgent it is.")
    due_date: date | None = strawberry.field(description="The day it is due.")
    tags: list[str] | None = strawberry.field(
        description="At most 20 of 1 to 50 characters; trimmed, and repeated ones dropped."
    )

    def content(self) -> dict[str, Any]:
        content = stored(vars(self))
        if self.id is None:
            del content["id"]
        return content


@strawberry.input(description="Changes to a task. Omit a field to keep it; null clears it where that makes sense.")
class UpdateTaskInput:
    title: Maybe[str | None] = strawberry.field(description="Omit to keep; 1 to 200 characters, not blank or null.")
    description: Maybe[str | None] = strawberry.field(
        description="Omit to keep, null to clear; up to 1,000 characters."
    )
    completed: Maybe[bool | None] = strawberry.field(description="Omit to keep; true or false, not null.")
    priority: Maybe[TaskPriority | None] = strawberry.field(description="Omit to keep, null for NONE.")
    due_date: Maybe[date | None] = strawberry.field(description="Omit to keep, null to clear.")
    tags: Maybe[list[str] | None] = strawberry.field(description="Omit to keep, null to clear; replaces all tags.")

    def changes(self) -> dict[str, Any]:
        given = {name: value.value for name, value in vars(self).items() if isinstance(value, Some)}
        return stored(given)


@strawberry.input(one_of=True, description="Tasks by their ids or by a filter: exactly one of both.")
class TaskSelector:
    ids: list[strawberry.ID] | None = strawberry.field(
        default=UNSET, description="These tasks, at most 1,000; those you do not have are NOT_FOUND."
    )
    filter: TaskFilter | None = strawberry.field(
        default=UNSET, description="The tasks that match; for restoreTasks those in the trash."
    )

    def selector(self) -> dict[str, Any]:
        return {"ids": self.ids} if self.ids else {"filter": tree(self.filter)} if self.filter else {"ids": []}


@strawberry.input(one_of=True, description="A place in the manual order: exactly one of these.")
class MoveTarget:
    before: strawberry.ID | None = strawberry.field(default=UNSET, description="Right before this task.")
    after: strawberry.ID | None = strawberry.field(default=UNSET, description="Right after this task.")
    to_start: bool | None = strawberry.field(default=UNSET, description="true: before all others.")
    to_end: bool | None = strawberry.field(default=UNSET, description="true: after all others.")

    def place(self) -> tuple[str, str | None]:
        """The kind of place, and the id of the task that it is beside."""
        if self.before or self.after:
            return ("before", self.before) if self.before else ("after", self.after)
        if self.to_start or self.to_end:
            return ("toStart" if self.to_start else "toEnd"), None
        raise BadUserInput("Say where to with before, after, toStart: true or toEnd: true.")


def given(value: T | None) -> T | None:
    """An argument, or None where it was omitted. Defaults of null would stand in the schema."""
    return None if value is UNSET else value


def stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as columns hold them: a priority is its rank."""
    priority = values.get("priority")
    return {**values, "priority": PRIORITIES.index(priority.value)} if priority is not None else dict(values)


def tree(value: Any) -> Any:
    """A filter as nested mappings, without what asks for nothing."""
    if isinstance(value, list):
        return [tree(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if has_object_definition(value):
        return {api_name(name): tree(item) for name, item in vars(value).items() if item is not None}
    return value
