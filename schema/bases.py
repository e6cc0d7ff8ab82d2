"""What a client has seen of the fields that it changes, by which its changes are merged with those of others."""

from datetime import date
from typing import Annotated, Any

import strawberry
from strawberry import Maybe

from schema.enums import TaskPriority
from schema.inputs import present, stored

_EXPLAINED = (
    "A field of `input` is written if it still has the value given here. If it already has the value of `input`, it"
    " counts as written. Otherwise the error is CONFLICT at this field, nothing is written, and the payload has the"
    " current state. Fields that are omitted here are written in any case. A field that `input` does not have is"
    " BAD_USER_INPUT."
)


@strawberry.input(
    description="What you have last seen of the fields of a task that you change. " + _EXPLAINED,
)
class UpdateTaskBase:
    title: Maybe[str | None] = strawberry.field(description="The title.")
    description: Maybe[str | None] = strawberry.field(description="The description, or null.")
    completed: Maybe[bool | None] = strawberry.field(description="Whether the task was done.")
    priority: Maybe[TaskPriority | None] = strawberry.field(description="The priority; null is the same as NONE.")
    due_date: Maybe[date | None] = strawberry.field(description="The due date, or null.")
    tags: Maybe[list[str] | None] = strawberry.field(
        description="The tags, if `input` has `tags`; order and case make no difference. `addTags` and `removeTags`"
        " need no base."
    )
    list_id: Maybe[strawberry.ID | None] = strawberry.field(
        description="The list that the task was in; null for the inbox."
    )

    def seen(self) -> dict[str, Any]:
        return stored(present(self))


@strawberry.input(description="What you have last seen of the fields of a list that you change. " + _EXPLAINED)
class UpdateListBase:
    name: Maybe[str | None] = strawberry.field(description="The name.")
    icon: Maybe[str | None] = strawberry.field(description="The icon, or null.")

    def seen(self) -> dict[str, Any]:
        return present(self)


_GIVEN = strawberry.argument(
    description="What you have last seen of the fields that you change. Changes of other fields by other clients are"
    " then kept, and a change of the same field is a CONFLICT. With it, a retry is safe in any case."
)
TaskBase = Annotated[UpdateTaskBase | None, _GIVEN]
ListBase = Annotated[UpdateListBase | None, _GIVEN]
