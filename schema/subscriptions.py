"""The subscriptions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import strawberry
from strawberry import UNSET

from app.tasks.fields import TASK
from schema.context import Info
from schema.engine.execution import Rendered
from schema.engine.following import refuse_what_is_not_followed, shown
from schema.inputs import given
from schema.types import SyncToken, TaskChange

After = Annotated[
    SyncToken | None,
    strawberry.argument(
        description="A token that you stored: you first get the changes since then. Omit it, or send null, to get only"
        " changes from now on."
    ),
]


@strawberry.type(description="Live updates, over WebSocket or server-sent events.")
class Subscription:
    @strawberry.subscription(  # type: ignore[untyped-decorator]  # with graphql_type it is
        graphql_type=TaskChange,
        description="Each change of the user's tasks as it happens, starting from a token of the query `taskChanges`"
        " or of an earlier change. The error FULL_SYNC_REQUIRED means that the token cannot be continued: run the query"
        " `taskChanges` with it, which starts a full sync. LIMIT_EXCEEDED means that the user has too many"
        " subscriptions.",
    )
    async def task_changes(self, info: Info, since: After = UNSET) -> AsyncGenerator[Rendered, None]:
        members = {name: info.context.selection(info, name) for name in ("TaskUpserted", "TaskRemoved")}
        refuse_what_is_not_followed(TASK, members["TaskUpserted"])
        async with aclosing(info.context.follow(given(since))) as changes:
            async for change in changes:
                yield Rendered(shown(members, change))
