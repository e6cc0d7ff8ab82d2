"""Query: what can be read."""

from typing import Annotated

import strawberry
from orjson import Fragment
from strawberry import UNSET

from app.entities.repository import DEFAULT_CHANGE_PAGE, Window
from schema.context import Info
from schema.engine.execution import Rendered
from schema.inputs import TaskFilter, TaskOrder, given, tree
from schema.types import Node, SyncToken, Task, TaskChangePage, TaskConnection, User

Id = Annotated[strawberry.ID, strawberry.argument(description="A UUID in its canonical form.")]
Filter = Annotated[TaskFilter | None, strawberry.argument(description="Which tasks; all but the trash when omitted.")]
OrderBy = Annotated[
    list[TaskOrder] | None,
    strawberry.argument(description="The order, its most important term first; else newest first."),
]
First = Annotated[int | None, strawberry.argument(description="The first so many: 1 to 100; 20 when neither is given.")]
After = Annotated[str | None, strawberry.argument(description="Only tasks after this cursor.")]
Last = Annotated[int | None, strawberry.argument(description="The last so many: 1 to 100.")]
Before = Annotated[str | None, strawberry.argument(description="Only tasks before this cursor.")]

Since = Annotated[
    SyncToken | None, strawberry.argument(description="The token of the page before; null to begin with nothing.")
]
FirstChanges = Annotated[int | None, strawberry.argument(description="At most so many: 1 to 1,000.")]


def _rendered(text: str | None) -> Rendered | None:
    return None if text is None else Rendered(Fragment(text))


@strawberry.type(description="What you can read. Everything here is about the user of your token.")
class Query:
    @strawberry.field(graphql_type=User, description="The account your token speaks for.")
    async def viewer(self, info: Info) -> Rendered | None:
        return _rendered(await info.context.viewer().account(info.context.selection(info, "User")))

    @strawberry.field(graphql_type=Node | None, description="A task of yours, or your account, by id.")
    async def node(self, info: Info, id: Id) -> Rendered | None:
        task, user = (info.context.selection(info, name) for name in ("Task", "User"))
        return _rendered(await info.context.viewer().node(task, user, id))

    @strawberry.field(graphql_type=Task | None, description="A task of yours by id, in the trash or not.")
    async def task(self, info: Info, id: Id) -> Rendered | None:
        return _rendered(await info.context.tasks().find(info.context.selection(info, "Task"), id))

    @strawberry.field(graphql_type=TaskConnection, description="Your tasks, page by page.")
    async def tasks(
        self,
        info: Info,
        filter: Filter = UNSET,
        order_by: OrderBy = UNSET,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
    ) -> Rendered | None:
        selection, order = info.context.selection(info, "TaskConnection"), [term.term() for term in order_by or []]
        first, after, last, before = given(first), given(after), given(last), given(before)
        page = Window(first=first, after=after, last=last, before=before)
        return _rendered(await info.context.tasks().page(selection, tree(given(filter)) or {}, order, page))

    @strawberry.field(graphql_type=TaskChangePage, description="What has changed among your tasks, page by page.")
    async def task_changes(
        self, info: Info, since: Since = UNSET, first: FirstChanges = DEFAULT_CHANGE_PAGE
    ) -> Rendered | None:
        selection = info.context.selection(info, "TaskChangePage")
        return _rendered(await info.context.tasks().changes(selection, given(since), first))
