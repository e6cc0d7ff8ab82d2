"""The queries."""

from typing import Annotated

import strawberry
from orjson import Fragment
from strawberry import UNSET

from app.entities.feed import DEFAULT_CHANGE_PAGE
from app.entities.repository import Window
from app.tasks.user_tags import DEFAULT_TAGS
from schema.arguments import After, Before, Filter, First, Id, Last, OrderBy
from schema.changes import ChangePage, Trash
from schema.context import Info
from schema.engine.execution import Rendered
from schema.inputs import given, tree
from schema.lists import ListsFilter, ListsOrder
from schema.types import Node, SyncToken, Tag, Task, TaskConnection, TaskList, TaskListConnection, User

Since = Annotated[
    SyncToken | None,
    strawberry.argument(description="The token that you stored. Omit it, or send null, to start with an empty copy."),
]
FirstChanges = Annotated[int | None, strawberry.argument(description="Maximum number of changes: 1 to 1,000.")]

FirstTags = Annotated[
    int | None,
    strawberry.argument(description="Maximum number of tags: 1 to 1,000, which is all that a user can have."),
]
AfterTag = Annotated[
    str | None,
    strawberry.argument(description="Return only tags after this name, such as the last one of the page before."),
]


def _rendered(text: str | None) -> Rendered | None:
    return None if text is None else Rendered(Fragment(text))


@strawberry.type(
    description="Queries about the user whose token the request carries. Without a valid token each field fails with"
    " the error UNAUTHENTICATED, with an invalid argument with BAD_USER_INPUT. The cost of an operation, counted in"
    ' rows, is limited; send `"extensions": {"cost": true}` with a request to see it.'
)
class Query:
    @strawberry.field(graphql_type=User | None, description="The user's account.")
    async def viewer(self, info: Info) -> Rendered | None:
        return _rendered(await info.context.viewer().account(info.context.selection(info, "User")))

    @strawberry.field(
        graphql_type=Node | None, description="The user's task, list or account with this id; null if there is none."
    )
    async def node(self, info: Info, id: Id) -> Rendered | None:
        task, task_list, user = (info.context.selection(info, name) for name in ("Task", "TaskList", "User"))
        return _rendered(await info.context.viewer().node(task, task_list, user, id))

    @strawberry.field(
        graphql_type=Task | None,
        description="The user's task with this id, also from the trash; null if there is none.",
    )
    async def task(self, info: Info, id: Id) -> Rendered | None:
        return _rendered(await info.context.tasks().find(info.context.selection(info, "Task"), id))

    @strawberry.field(graphql_type=TaskConnection | None, description="The user's tasks, in pages.")
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

    @strawberry.field(
        name="list",
        graphql_type=TaskList | None,
        description="The user's list with this id, also from the trash; null if there is none.",
    )
    async def list_(self, info: Info, id: Id) -> Rendered | None:
        return _rendered(await info.context.lists().find(info.context.selection(info, "TaskList"), id))

    @strawberry.field(graphql_type=TaskListConnection | None, description="The user's lists, in pages.")
    async def lists(
        self,
        info: Info,
        filter: ListsFilter = UNSET,
        order_by: ListsOrder = UNSET,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
    ) -> Rendered | None:
        selection, order = info.context.selection(info, "TaskListConnection"), [term.term() for term in order_by or []]
        page = Window(first=given(first), after=given(after), last=given(last), before=given(before))
        return _rendered(await info.context.lists().page(selection, tree(given(filter)) or {}, order, page))

    @strawberry.field(
        graphql_type=list[Tag] | None,
        description="The user's tags in the order of their names, regardless of case, with counts of their tasks.",
    )
    async def tags(self, info: Info, first: FirstTags = DEFAULT_TAGS, after: AfterTag = UNSET) -> Rendered | None:
        selection = info.context.selection(info, "Tag")
        return _rendered(await info.context.tags().page(selection, first, given(after)))

    @strawberry.field(
        graphql_type=ChangePage | None,
        description="Changes of the user's lists and tasks since a token, in pages, to bring a local copy up to"
        " date. Repeat with the new `token` while `hasMore` is true. Then use the subscription `changes`.",
    )
    async def changes(
        self, info: Info, since: Since = UNSET, first: FirstChanges = DEFAULT_CHANGE_PAGE, trash: Trash = False
    ) -> Rendered | None:
        selection = info.context.selection(info, "ChangePage")
        return _rendered(await info.context.feed().page(selection, given(since), first, trash=bool(trash)))
