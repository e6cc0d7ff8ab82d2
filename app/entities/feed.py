"""The feed of a user: what has changed in the rows of several entities, in one order."""

from collections.abc import Sequence
from functools import cache
from types import MappingProxyType
from uuid import UUID

import orjson

from app.database.compiling import Statements
from app.database.rendering import Selection
from app.database.statements import Statement
from app.entities import changes
from app.entities.changes import LARGEST_CHANGE_PAGE
from app.entities.cursors import BEGINNING, SyncPoint, first_token, sync_point, sync_token, sync_token_with_trash
from app.entities.entity import Entity
from app.entities.repository import Database, Given, Values, nested
from app.errors import BadUserInput
from app.live.followers import Changes

DEFAULT_CHANGE_PAGE = 100
_CLOCK = changes.clock()


@cache
def followed(entities: Sequence[Entity], *, trash: bool) -> Statement:
    """The statement that reads changes for subscriptions."""
    return changes.page(entities, changes.whole(entities), trash=trash)


class Feed:
    """The changes of one user's rows of these entities. All statements are limited to that user."""

    def __init__(
        self,
        entities: Sequence[Entity],
        database: Database,
        owner: UUID,
        statements: Statements,
        wanted: Given = MappingProxyType({}),
    ) -> None:
        self._entities = entities
        self._database = database
        self._owner = owner
        self._statements = statements
        self._wanted = wanted

    async def page(self, selection: Selection, since: str | None, first: int | None, *, trash: bool) -> str | None:
        """A page of changes since a sync token, or from the beginning, as JSON."""
        size = DEFAULT_CHANGE_PAGE if first is None else first
        if not 1 <= size <= LARGEST_CHANGE_PAGE:
            raise BadUserInput(f"first must be from 1 to {LARGEST_CHANGE_PAGE}; it is {size}.", "first")
        inner = nested(selection, self._wanted, self._owner)
        key = "changes", trash, inner.key
        statement = selection.statements.get(key) or await self._statements.compiled(
            self._owner, selection, key, lambda: changes.page(self._entities, selection, inner.pages, trash=trash)
        )
        point = self._point(since)
        return await self._read(statement, point if point.trash == trash else BEGINNING, size, inner.values)

    async def start(self, since: str | None, *, trash: bool) -> str:
        """The token from which a subscription starts: the given one, or the current one if None.

        A token that cannot be used is replaced by that of an empty copy.
        """
        if since is None:
            clock = await self._database.read(self._owner, _CLOCK, {"user_id": self._owner})
            return (sync_token_with_trash if trash else sync_token)(int(clock or 0), self._owner)
        point = self._point(since)
        is_usable = point != BEGINNING and point.trash == trash
        return since if is_usable else first_token(self._owner, trash=trash)

    async def since(self, token: str) -> Changes:
        """A page of changes since a token, with all fields, for subscriptions."""
        point = self._point(token)
        statement = followed(self._entities, trash=point.trash)
        page = orjson.loads(await self._read(statement, point, DEFAULT_CHANGE_PAGE) or "")
        clock = self._point(page["token"]).version
        return Changes(page["changes"], page["token"], clock, more=page["hasMore"], full=page["fullSync"])

    def _point(self, token: str | None) -> SyncPoint:
        """The position in a token; the beginning if the token names a kind of rows that the feed does not have."""
        point = sync_point(token, self._owner)
        known = point.row is None or any(point.row[0] == entity.one for entity in self._entities)
        return point if known else BEGINNING

    async def _read(
        self, statement: Statement, point: SyncPoint, size: int, more: Values = MappingProxyType({})
    ) -> str | None:
        start = changes.values(self._entities, point)
        values = {"user_id": self._owner, "size": size, **start, **more}
        return await self._database.read(self._owner, statement, values)
