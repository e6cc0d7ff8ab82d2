"""The context of resolvers: it gives access to the caller's own data only."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import strawberry
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.compiling import Statements
from app.database.database import Database
from app.database.rendering import Field, Selection
from app.entities.feed import Feed, followed
from app.entities.repository import Repository, Values, Wanted, Written
from app.errors import RequestError
from app.identity.tokens import Principal
from app.live.followers import Changes, Realtime
from app.sharing.preparing import Preparation
from app.tasks import trash
from app.tasks.batch import Writes
from app.tasks.feed import FEED
from app.tasks.fields import TASK
from app.tasks.lists import LIST
from app.tasks.user_tags import UserTags
from app.tasks.viewer import Viewer
from schema.arguments import given_to
from schema.engine.execution import Operation

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Services:
    """Services that all requests of a process share."""

    database: Database
    realtime: Realtime
    statements: Statements
    preparation: Preparation


@dataclass(slots=True)
class Context:
    """One request: its authenticated user, or why there is none, and the key that it is charged to."""

    caller: Principal | RequestError
    payer: str
    operation: Operation
    services: Services
    # The arguments of the fields below the root fields of this operation.
    wanted: dict[Field, Wanted | Values] = field(default_factory=dict)

    @property
    def principal(self) -> Principal:
        """The authenticated user; raises the error of authentication if there is none."""
        if isinstance(self.caller, RequestError):
            raise self.caller
        return self.caller

    def tasks(self) -> Repository:
        """The caller's tasks, on compiled statements."""
        return Repository(TASK, self.services.database, self.principal.user_id, self.services.statements, self.wanted)

    def lists(self) -> Repository:
        """The caller's lists, on compiled statements."""
        return Repository(LIST, self.services.database, self.principal.user_id, self.services.statements, self.wanted)

    def writes(self) -> Writes:
        """Batches of the caller's writes."""
        services = self.services
        return Writes(services.database, self.principal.user_id, services.statements, self.tasks(), self.lists())

    def feed(self) -> Feed:
        """The changes of the caller's lists and tasks."""
        return Feed(FEED, self.services.database, self.principal.user_id, self.services.statements, self.wanted)

    def viewer(self) -> Viewer:
        """The caller's account, and the caller's objects by id."""
        return Viewer(self.services.database, self.principal.user_id, self.services.statements, self.wanted)

    def tags(self) -> UserTags:
        """The caller's tags."""
        return UserTags(self.services.database, self.principal.user_id, self.services.statements)

    async def empty_trash(self, *, at_most: int, dry_run: bool) -> Written:
        """Permanently delete what is in the caller's trash."""
        return await trash.empty(self.services.database, self.principal.user_id, at_most=at_most, dry_run=dry_run)

    def session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session of SQLAlchemy acting as the caller, in one transaction: `async with`; see docs/adding.md."""
        return self.services.database.session(self.principal.user_id)

    async def on_thread(self, work: Callable[[], T]) -> T:
        """Run work on a thread because it would block the event loop; raises Unavailable if it takes too long."""
        is_user = isinstance(self.caller, Principal)
        return await self.services.preparation.run(self.payer, work, is_user=is_user)

    def follow(
        self, since: str | None, render: Callable[[Changes], Sequence[T]], *, trash: bool
    ) -> AsyncGenerator[T, None]:
        """Each page of changes of the caller's lists and tasks, as rendered, since a token or from now on."""
        feed = self.feed()
        start = partial(feed.start, since, trash=trash)
        return self.services.realtime.follow(self.principal.user_id, start, feed.since, render)

    def selection(self, info: "Info", type_name: str) -> Selection:
        """The fields of an object type that a root field selects."""
        selection = self.operation.selection(info, type_name)
        for entry in selection.nested:
            if entry not in self.wanted:
                self.wanted[entry] = given_to(entry, info.variable_values)
        return selection


Info = strawberry.Info[Context, None]

# Compiled now, and not while the first subscriber waits.
for with_trash in (False, True):
    followed(FEED, trash=with_trash)
