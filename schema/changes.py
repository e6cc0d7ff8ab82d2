"""The types of the feed: changes of lists and tasks."""

from typing import Annotated

import strawberry

from schema.types import SyncToken, Task, TaskList

VERSION = (
    "The clock's version at the removal. If your copy has a newer version, you have restored it since: ignore this."
)
RESUME = "Position in the history after this change. Store it, to resume here."


@strawberry.type(
    description="A list was created, changed, or restored from the trash; with `trash: true`, also moved there."
)
class ListUpserted:
    list_: TaskList = strawberry.field(name="list", description="The list in its current state.")
    token: SyncToken = strawberry.field(description=RESUME)


@strawberry.type(
    description="A list was moved to the trash or deleted permanently; with `trash: true`, it was deleted permanently."
)
class ListRemoved:
    list_id: strawberry.ID = strawberry.field(description="The list's id. Your copy may not contain this list.")
    version: int = strawberry.field(description=VERSION)
    token: SyncToken = strawberry.field(description=RESUME)


@strawberry.type(
    description="A task was created, changed, or restored from the trash; with `trash: true`, also moved there."
)
class TaskUpserted:
    task: Task = strawberry.field(
        description="The task in its current state. It can arrive before its list: the two fit together when `hasMore`"
        " is false."
    )
    token: SyncToken = strawberry.field(description=RESUME)


@strawberry.type(
    description="A task was moved to the trash or deleted permanently; with `trash: true`, it was deleted permanently."
)
class TaskRemoved:
    task_id: strawberry.ID = strawberry.field(description="The task's id. Your copy may not contain this task.")
    version: int = strawberry.field(description=VERSION)
    token: SyncToken = strawberry.field(description=RESUME)


FULL_SYNC = (
    "If true, this page is the first one of a full sync: your copy must be replaced by what follows. True without"
    " `since` in the query, and if the token cannot be continued: something was deleted permanently so long ago that"
    " its removal is no longer known, the database was restored, the token was made with another `trash`, is damaged,"
    " belongs to another user, or comes from an older version of the server."
)

Trash = Annotated[
    bool | None,
    strawberry.argument(
        description="true: show lists and tasks in the trash, too, with their `deletedAt`, so that a copy can show and"
        " restore them; only what was deleted permanently is removed. A token continues with the value that it was made"
        " with; with the other one it causes a full sync."
    ),
]

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
    full_sync: bool = strawberry.field(description=FULL_SYNC)


@strawberry.type(
    description="A page of a subscription's changes, in the order of `ChangePage`. It has up to 100 changes: what one"
    " mutation has changed usually comes as one page."
)
class LiveChangePage:
    changes: list[Change] = strawberry.field(
        description="Each changed list and task once, in its current state. Both kinds count, also if you select only"
        " one of them. Empty if there is nothing new on the first page."
    )
    token: SyncToken = strawberry.field(
        description="Position in the history after this page. Store it with your copy, and pass it as `since` when you"
        " subscribe again."
    )
    up_to_date: bool = strawberry.field(
        description="Whether your copy has everything, and is consistent. If false, the next page follows."
    )
    full_sync: bool = strawberry.field(description=FULL_SYNC)
