"""Reads the user with the counts of tasks, and nodes by id."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, Select, Text, Uuid, bindparam, func, select

from app.database.compiling import Statements
from app.database.rendering import Field, Selection, json_object, json_or_null, json_text, quoted
from app.database.statements import Reader, Statement, read
from app.entities.reading import Pages, View, by_id
from app.entities.repository import Database, Wanted, nested
from app.errors import Unauthenticated
from app.identifiers import identifier
from app.models import USERS
from app.tasks.fields import TASK
from app.tasks.lists import LIST
from app.tasks.stats import stats


class Viewer:
    """The signed-in user."""

    def __init__(
        self,
        database: Database,
        user_id: UUID,
        statements: Statements,
        wanted: Mapping[Field, Wanted] = MappingProxyType({}),
    ) -> None:
        self._database = database
        self._user_id = user_id
        self._statements = statements
        self._wanted = wanted

    async def account(self, selection: Selection) -> str:
        """The user as JSON. Raises Unauthenticated if the account no longer exists."""
        statement = selection.statements.get("viewer") or await self._statements.compiled(
            self._user_id, selection, "viewer", lambda: viewer(selection)
        )
        found = await self._database.read(self._user_id, statement, {"user_id": self._user_id})
        if found is None:
            raise Unauthenticated("The account of this token no longer exists.")
        return found

    async def node(self, task: Selection, task_list: Selection, user: Selection, node_id: str) -> str | None:
        """The task, list or user with this id, as JSON."""
        row_id = identifier(node_id, "id")
        inner = [nested(one, self._wanted, self._user_id, place) for place, one in enumerate((task, task_list))]
        key = "node", task_list, user, *(one.key for one in inner)
        pages = {entry: page for one in inner for entry, page in one.pages.items()}
        statement = task.statements.get(key) or await self._statements.compiled(
            self._user_id, task, key, lambda: node(task, task_list, user, pages)
        )
        values = {name: value for one in inner for name, value in one.values.items()}
        return await self._database.read(self._user_id, statement, {"user_id": self._user_id, "id": row_id, **values})


def viewer(selection: Selection) -> Statement:
    """The user's own row."""
    return read(lambda me: _user(selection, me))


def node(task: Selection, task_list: Selection, user: Selection, pages: Pages) -> Statement:
    """A task, a list or the user by id, otherwise null."""

    def body(me: Reader) -> Select[Any]:
        own = _user(user, me).where(USERS.c.id == bindparam("id", type_=Uuid))
        view = View(me, pages)
        rows = [by_id(TASK, task, view), by_id(LIST, task_list, view), own]
        either = func.coalesce(*(_scalar(row, me) for row in rows), type_=Text)
        return select(either.label("body"))

    return read(body)


def _user(selection: Selection, me: Reader) -> Select[Any]:
    body = json_object(selection, lambda entry: _user_field(entry, me))
    return select(body.label("body")).where(me.is_in(USERS))


def _user_field(entry: Field, me: Reader) -> ColumnElement[str]:
    match entry.name:
        case "id":
            return quoted(USERS.c.id)
        case "taskStats":
            return stats(entry.inner, me)
        case "createdAt":
            return json_text(USERS.c.created_at)
    return json_or_null(USERS.c[entry.name])


def _scalar(inner: Select[Any], me: Reader) -> ScalarSelect[Any]:
    return inner.correlate(me.row).scalar_subquery()
