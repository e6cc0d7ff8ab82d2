"""Reads the user with the counts of tasks, and nodes by id."""

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, Select, Text, Uuid, bindparam, func, select

from app.database.compiling import Statements
from app.database.rendering import Arguments, Field, Selection, json_object, json_or_null, json_text, quoted
from app.database.statements import Reader, Statement, read
from app.entities.reading import by_id
from app.entities.repository import Database
from app.errors import Unauthenticated
from app.identifiers import identifier
from app.models import USERS
from app.tasks.fields import TASK
from app.tasks.stats import days, stats


class Viewer:
    """The signed-in user."""

    def __init__(self, database: Database, user_id: UUID, statements: Statements) -> None:
        self._database = database
        self._user_id = user_id
        self._statements = statements

    async def account(self, selection: Selection, arguments: Arguments) -> str:
        """The user as JSON. Raises Unauthenticated if the account no longer exists."""
        statement = selection.statements.get("viewer") or await self._statements.compiled(
            self._user_id, selection, "viewer", lambda: viewer(selection)
        )
        found = await self._database.read(self._user_id, statement, {"user_id": self._user_id, **days(arguments)})
        if found is None:
            raise Unauthenticated("The account of this token no longer exists.")
        return found

    async def node(self, task: Selection, user: Selection, node_id: str, arguments: Arguments) -> str | None:
        """The task or user with this id, as JSON."""
        wanted, key = identifier(node_id, "id"), ("node", user)
        statement = task.statements.get(key) or await self._statements.compiled(
            self._user_id, task, key, lambda: node(task, user)
        )
        values = {"user_id": self._user_id, "id": wanted, **days(arguments)}
        return await self._database.read(self._user_id, statement, values)


def viewer(selection: Selection) -> Statement:
    """The user's own row."""
    return read(lambda me: _user(selection, me))


def node(task: Selection, user: Selection) -> Statement:
    """A task or the user by id, otherwise null."""

    def body(me: Reader) -> Select[Any]:
        own = _user(user, me).where(USERS.c.id == bindparam("id", type_=Uuid))
        either = func.coalesce(_scalar(by_id(TASK, task, me), me), _scalar(own, me), type_=Text)
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
            return stats(entry, me)
        case "createdAt":
            return json_text(USERS.c.created_at)
    return json_or_null(USERS.c[entry.name])


def _scalar(inner: Select[Any], me: Reader) -> ScalarSelect[Any]:
    return inner.correlate(me.row).scalar_subquery()
