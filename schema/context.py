"""What resolvers get: the tasks of the caller, and nothing else of the database."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial

import strawberry

from app.auth import Principal
from app.errors import RequestError
from app.realtime import Change, Realtime
from app.rendering import Selection
from app.tasks import Database, Tasks
from schema.execution import Operation


@dataclass
class Context:
    """One request, and whom its token speaks for, or why it speaks for nobody."""

    caller: Principal | RequestError
    database: Database
    operation: Operation
    realtime: Realtime

    @property
    def principal(self) -> Principal:
        """The caller; every field that needs one fails in a request whose token does not hold."""
        if isinstance(self.caller, RequestError):
            raise self.caller
        return self.caller

    def tasks(self) -> Tasks:
        """The only door to task data."""
        return Tasks(self.database, self.principal.user_id)

    def follow(self, since: str | None) -> AsyncGenerator[Change, None]:
        """Each change of the caller's tasks since a token, or from now on, whole."""
        tasks = self.tasks()
        return self.realtime.follow(self.principal.user_id, partial(tasks.token, since), tasks.changes_since)

    def selection(self, info: "Info", type_name: str) -> Selection:
        return self.operation.selection(info._raw_info, type_name)  # noqa: SLF001 - Strawberry shows it no other way


Info = strawberry.Info[Context, None]
