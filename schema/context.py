"""What resolvers get: the tasks of the caller, and nothing else of the database."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import strawberry

from app.database.compiling import Statements
from app.database.rendering import Selection
from app.entities.repository import Database, Repository, followed
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
        """The only door to task data."""
        return Repository(TASK, self.services.database, self.principal.user_id, self.services.statements)

    def viewer(self) -> Viewer:
        """The caller's own row, and what has an id."""
        return Viewer(self.services.database, self.principal.user_id, self.services.statements)

    async def away(self, work: Callable[[], T]) -> T:
        """Carry out work that would hold up the event loop; Unavailable where it takes too long."""
        is_user = isinstance(self.caller, Principal)
        return await self.services.preparation.run(self.payer, work, is_user=is_user)

    def follow(self, since: str | None) -> AsyncGenerator[Change, None]:
        """Each change of the caller's tasks since a token, or from now on, whole."""
        tasks, realtime = self.tasks(), self.services.realtime
        return realtime.follow(self.principal.user_id, TASK.many, partial(tasks.token, since), tasks.changes_since)

    def selection(self, info: "Info", type_name: str) -> Selection:
        return self.operation.selection(info._raw_info, type_name)  # noqa: SLF001 - Strawberry shows it no other way


Info = strawberry.Info[Context, None]

# Compiled now, and not while the first subscriber waits.
followed(TASK)
