"""What resolvers get: the caller's tasks, and sessions that act as the caller; nothing else of the database."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import strawberry
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.compiling import Statements
from app.database.database import Database
from app.database.rendering import Selection
from app.entities.repository import Repository, followed
from app.errors import RequestError
from app.identity.tokens import Principal
from app.live.followers import Change, Realtime
from app.sharing.preparing import Preparation
from app.tasks.fields import TASK
from app.tasks.viewer import Viewer
from schema.engine.execution import Operation

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Services:
    """What all requests of a process share."""

    database: Database
    realtime: Realtime
    statements: Statements
    preparation: Preparation


@dataclass(slots=True)
class Context:
    """One request: whom its token speaks for, or why it speaks for nobody, and who pays for it."""

    caller: Principal | RequestError
    payer: str
    operation: Operation
    services: Services

    @property
    def principal(self) -> Principal:
        """The caller; every field that needs one fails in a request whose token does not hold."""
        if isinstance(self.caller, RequestError):
            raise self.caller
        return self.caller

    def tasks(self) -> Repository:
        """The caller's tasks, on the hot paths."""
        return Repository(TASK, self.services.database, self.principal.user_id, self.services.statements)

    def viewer(self) -> Viewer:
        """The caller's own row, and what has an id."""
        return Viewer(self.services.database, self.principal.user_id, self.services.statements)

    def session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session of SQLAlchemy acting as the caller, in one transaction: `async with`; see docs/adding.md."""
        return self.services.database.session(self.principal.user_id)

    async def away(self, work: Callable[[], T]) -> T:
        """Carry out work that would hold up the event loop; Unavailable where it takes too long."""
        is_user = isinstance(self.caller, Principal)
        return await self.services.preparation.run(self.payer, work, is_user=is_user)

    def follow(self, since: str | None) -> AsyncGenerator[Change, None]:
        """Each change of the caller's tasks since a token, or from now on, whole."""
        tasks, realtime = self.tasks(), self.services.realtime
        return realtime.follow(self.principal.user_id, TASK.many, partial(tasks.token, since), tasks.changes_since)

    def selection(self, info: "Info", type_name: str) -> Selection:
        """What a root field asks of an object type."""
        return self.operation.selection(info, type_name)


Info = strawberry.Info[Context, None]

# Compiled now, and not while the first subscriber waits.
followed(TASK)
