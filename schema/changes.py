"""The types of the feed: changes of lists and tasks."""

from typing import Annotated

import strawberry

from schema.types import SyncToken, Task, TaskList

RESUME = "Position in the history after this change. Store it, to resume here."


@strawberry.type(description="A list was created, changed, or restored from the trash.")
class ListUpserted:
    list_: TaskList = strawberry.field(name="list", description="The list in its current state.")
    token: SyncToken = strawberry.field(description=RESUME)


@strawberry.type(description="A list was moved to the trash. It may have been deleted permanently since.")
class ListRemoved:
    list_id: strawberry.ID = strawberry.field(description="The list's id. Your copy may not contain this list.")
    token: SyncToken = strawberry.field(description=RESUME)


@strawberry.type(description="A task was created, changed, or restored from the trash.")
class TaskUpserted:
    task: Task = strawberry.field(
        description="The task in its current state. It can arrive before its list: the two fit together when `hasMore`"
        " is false."
    )
    token: SyncToken = strawberry.field(description=RESUME)


@strawberry.type(description="A task was moved to the trash. It may have been deleted permanently since.")
class TaskRemoved:
    task_id: strawberry.ID = strawberry.field(description="The task's id. Your copy may not contain this task.")
    token: SyncToken = strawberry.field(description=RESUME)


Change = Annotated[
    ListUpserted | ListRemoved | TaskUpserted | TaskRemoved,
    strawberry.union(
        "Change",
        description="A change to apply to a local copy: insert or replace a list or a task, or remove it.",
    ),
]


@strawberry.type(
    description="A page of changes, in the order in which lists and tasks were last changed. Of those that one write"
    " changed, lists come first."
)
class ChangePage:
    changes: list[Change] = strawberry.field(
        description="Each changed list and task once, in its current state. Both kinds count, also if you select only"
        " one of them."
    )
    token: SyncToken = strawberry.field(
        description="Position in the history after this page. Store it with your copy, and pass it as `since` next"
        " time."
    )
    has_more: bool = strawberry.field(
        description="Whether there are more changes. If true, query again with `token`. If false, your copy is"
        " consistent."
    )
    full_sync: bool = strawberry.field(
        description="If true, drop your copy before you apply this page. True on the first page without `since`, and if"
        " the token cannot be continued: something was deleted permanently since, the database was restored, or the"
        " token is damaged, belongs to another user, or comes from an older version of the server."
    )
