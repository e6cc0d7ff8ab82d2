"""The inputs of lists."""

from enum import Enum
from typing import Annotated, Any

import strawberry
from strawberry import UNSET, Maybe

from app.entities.ordering import OrderBy as Term
from schema.inputs import DateTimeRange, OrderDirection, condition, present, selected


@strawberry.input(
    description="Selects the lists that meet all conditions. Omitted and null conditions are ignored. At most 50"
    " conditions, and 1,000 values per list; more get the error LIMIT_EXCEEDED."
)
class TaskListFilter:
    ids: list[strawberry.ID] | None = condition(description="The id is one of these. An empty list matches no list.")
    created: DateTimeRange | None = condition(description="The range of `createdAt`.")
    updated: DateTimeRange | None = condition(description="The range of `updatedAt`.")
    trashed: bool | None = strawberry.field(
        default=False,
        description="true: only lists in the trash; false: only lists that are not. Allowed on the outermost filter"
        " only.",
    )
    and_: list["TaskListFilter"] | None = condition(
        name="and", description="All of these filters match. An empty list matches every list."
    )
    or_: list["TaskListFilter"] | None = condition(
        name="or", description="At least one of these filters matches. An empty list matches no list."
    )
    not_: "TaskListFilter | None" = condition(name="not", description="This filter does not match.")


@strawberry.enum(description="The field to sort lists by.")
class TaskListOrderField(Enum):
    POSITION = strawberry.enum_value("POSITION", description="`position`: the manual order that `moveList` changes.")
    NAME = strawberry.enum_value(
        "NAME",
        description="`name`, regardless of case and accents. Has no index: adds 100 rows to the cost of the operation.",
    )


@strawberry.input(
    description="One field of a sort order. Lists with equal values are sorted by the next field, and finally by id."
)
class TaskListOrder:
    field: TaskListOrderField = strawberry.field(description="The field to sort by.")
    direction: OrderDirection | None = strawberry.field(
        default=OrderDirection.ASC, description="The direction; null is the same as ASC."
    )

    def term(self) -> Term:
        return Term(self.field.name, self.direction is OrderDirection.DESC)


@strawberry.input(description="A new list.")
class CreateListInput:
    name: str = strawberry.field(description="1 to 100 characters on one line, not blank.")
    id: strawberry.ID | None = strawberry.field(
        description="A UUID of your choice makes the mutation safe to retry: if you have created a list with this"
        " id and the same content before, you get that list as it is now, also from the trash, and nothing is created."
        " With different content, or if a task has this id, the error is ID_TAKEN. If omitted or null, the server"
        " chooses a UUID.",
    )
    icon: str | None = strawberry.field(description="A color or an emoji: 1 to 32 characters on one line, not blank.")

    def content(self) -> dict[str, Any]:
        content = dict(vars(self))
        if self.id is None:
            del content["id"]
        return content


@strawberry.input(description="Changes to a list. Omit a field to keep its value.")
class UpdateListInput:
    name: Maybe[str | None] = strawberry.field(
        description="1 to 100 characters on one line, not blank. Cannot be null."
    )
    icon: Maybe[str | None] = strawberry.field(
        description="A color or an emoji: 1 to 32 characters on one line, not blank. Null clears it."
    )

    def changes(self) -> dict[str, Any]:
        return present(self)


@strawberry.input(one_of=True, description="Selects lists in the trash. Set exactly one of the fields.")
class TaskListSelector:
    ids: list[strawberry.ID] | None = strawberry.field(
        default=UNSET,
        description="At most 1,000 ids; an empty list selects nothing. Ids that are not found are reported as NOT_FOUND"
        " and skipped; the other lists are deleted.",
    )
    filter: TaskListFilter | None = strawberry.field(
        default=UNSET,
        description="All matching lists in the trash. Omit `trashed`. The filter, and each filter in it, needs a"
        " condition that excludes lists. No condition may be null: a variable without a value must not select all"
        " lists. Use `all` for these.",
    )
    all: bool | None = strawberry.field(default=UNSET, description="All lists in the trash. Must be true.")

    def selector(self) -> dict[str, Any]:
        return selected(self)


ListsFilter = Annotated[
    TaskListFilter | None,
    strawberry.argument(description="The lists to show. By default all that are not in the trash."),
]
ListsOrder = Annotated[
    list[TaskListOrder] | None,
    strawberry.argument(
        description="The fields to sort by, the most significant one first. Each field at most once. By default the"
        " manual order."
    ),
]
