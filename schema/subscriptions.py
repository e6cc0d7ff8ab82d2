"""The subscriptions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated

import strawberry
from strawberry import UNSET

from app.tasks.feed import FEED
from schema.changes import LiveChangePage, Trash
from schema.context import Info
from schema.engine.execution import Rendered
from schema.engine.following import refuse_what_is_not_followed, shown
from schema.inputs import given
from schema.types import SyncToken

After = Annotated[
    SyncToken | None,
    strawberry.argument(
        description="The token that you stored: you first get the changes since then. If it cannot be continued, you"
        " get everything, and `fullSync` is true on the first page. Omit it, or send null, to get only changes from now"
        " on."
    ),
]


@strawberry.type(description="Live updates, over WebSocket or server-sent events.")
class Subscription:
    @strawberry.subscription(  # type: ignore[untyped-decorator]  # with graphql_type it is
        graphql_type=LiveChangePage,
        description="Changes of the user's lists and tasks as they happen, in pages, starting from a token of the query"
        " `changes` or of an earlier page. The first page comes at once, also if it is empty; nothing written after it"
        " is missed. LIMIT_EXCEEDED means that the user has too many subscriptions.",
    )
    async def changes(self, info: Info, since: After = UNSET, trash: Trash = False) -> AsyncGenerator[Rendered, None]:
        selection = info.context.selection(info, "LiveChangePage")
        refuse_what_is_not_followed(FEED, selection)
        async with aclosing(info.context.follow(given(since), partial(shown, selection), trash=bool(trash))) as pages:
            async for page in pages:
                yield page
                page.value = None  # it was sent, and the next one may come days later
