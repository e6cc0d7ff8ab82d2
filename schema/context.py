"""What resolvers get: the tasks of the caller, and nothing else of the database."""

from dataclasses import dataclass
from functools import cached_property

import strawberry

from app.auth import Authenticator, Principal
from app.errors import Unauthenticated
from app.rendering import Selection
from app.tasks import Database, Tasks
from schema.execution import Operation


@dataclass
class Context:
    """One request. The token is decoded once, by the first field that needs the caller."""

    authenticator: Authenticator
    database: Database
    authorization: str | None
    operation: Operation

    @cached_property
    def _verified(self) -> Principal | Unauthenticated:
        try:
            return self.authenticator.principal(self.authorization)
        except Unauthenticated as refusal:
            return refusal

    @property
    def principal(self) -> Principal:
        """The caller; Unauthenticated for every field of a request whose token does not hold."""
        if isinstance(self._verified, Unauthenticated):
            raise self._verified
        return self._verified

    def tasks(self) -> Tasks:
        """The only door to task data."""
        return Tasks(self.database, self.principal.user_id)

    def selection(self, info: "Info", type_name: str) -> Selection:
        return self.operation.selection(info._raw_info, type_name)  # noqa: SLF001 - Strawberry shows it no other way


Info = strawberry.Info[Context, None]
