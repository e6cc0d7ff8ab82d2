"""What resolvers get: the tasks of the caller, and nothing else of the database."""

from dataclasses import dataclass

import strawberry

from app.auth import Principal
from app.errors import RequestError
from app.rendering import Selection
from app.tasks import Database, Tasks
from schema.execution import Operation


@dataclass
class Context:
    """One request, and whom its token speaks for, or why it speaks for nobody."""

    caller: Principal | RequestError
    database: Database
    operation: Operation

    @property
    def principal(self) -> Principal:
        """The caller; every field that needs one fails in a request whose token does not hold."""
        if isinstance(self.caller, RequestError):
            raise self.caller
        return self.caller

    def tasks(self) -> Tasks:
        """The only door to task data."""
        return Tasks(self.database, self.principal.user_id)

    def selection(self, info: "Info", type_name: str) -> Selection:
        return self.operation.selection(info._raw_info, type_name)  # noqa: SLF001 - Strawberry shows it no other way


Info = strawberry.Info[Context, None]
