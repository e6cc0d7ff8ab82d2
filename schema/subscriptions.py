"""What goes on: the subscriptions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import strawberry
from strawberry import UNSET

from schema.context import Info
from schema.engine.execution import Rendered
from schema.engine.following import shown
from schema.inputs import given
from schema.types import SyncToken, TaskChange

After = Annotated[
    SyncToken | None,
    strawberry.argument(description="First what has changed since this token; null for what changes from now on."),
]


@strawberry.type(description="What goes on, as it happens.")
class Subscription:
    @strawberry.subscription(  # type: ignore[untyped-decorator]  # with graphql_type it is
        graphql_type=TaskChange,
        description="Each change of your tasks, as it happens. It goes on where the query of this name or an earlier "
        "subscription has ended; FULL_SYNC_REQUIRED says that the query has to be asked first.",
    )
    async def task_changes(self, info: Info, since: After = UNSET) -> AsyncGenerator[Rendered, None]:
        members = {name: info.context.selection(info, name) for name in ("TaskUpserted", "TaskRemoved")}
        async with aclosing(info.context.follow(given(since))) as changes:
            async for change in changes:
                yield Rendered(shown(members, change))
