"""Reads the user with the counts of tasks, and nodes by id."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, Select, Text, Uuid, bindparam, func, literal_column, select

from app.database.compiling import Statements
from app.database.rendering import Field, Selection, json_object, json_or_null, json_text, plain, quoted
from app.database.statements import Reader, Statement, read
from app.entities.reading import by_id
from app.entities.repository import Database
from app.errors import Unauthenticated
from app.identifiers import identifier
from app.models import TASKS, USERS
from app.tasks.fields import TASK


class Viewer:
    """The signed-in user."""

    def __init__(self, database: Database, user_id: UUID, statements: Statements) -> None:
        self._database = database
        self._user_id = user_id
        self._statements = statements

    async def account(self, selection: Selection) -> str:
        """The user as JSON. Raises Unauthenticated if the account no longer exists."""
        statement = selection.statements.get("viewer") or await self._statements.compiled(
            self._user_id, selection, "viewer", lambda: viewer(selection)
        )
        found = await self._database.read(self._user_id, statement, {"user_id": self._user_id})
        if found is None:
            raise Unauthenticated("The account of this token no longer exists.")
        return found

    async def node(self, task: Selection, user: Selection, node_id: str) -> str | None:
        """The task or user with this id, as JSON."""
        wanted, key = identifier(node_id, "id"), ("node", user)
        statement = task.statements.get(key) or await self._statements.compiled(
            self._user_id, task, key, lambda: node(task, user)
        )
        return await self._database.read(self._user_id, statement, {"user_id": self._user_id, "id": wanted})


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
            return _stats(entry.inner, me)
        case "createdAt":
            return json_text(USERS.c.created_at)
    return json_or_null(USERS.c[entry.name])


def _stats(selection: Selection, me: Reader) -> ColumnElement[str]:
    everything = func.count()
    counts: Mapping[str, ColumnElement[Any]] = {
        "total": everything,
        "open": everything.filter(~TASKS.c.completed),
        "completed": everything.filter(TASKS.c.completed),
        "overdue": everything.filter(~TASKS.c.completed, TASKS.c.due_date < func.current_date()),
    }
    body = json_object(selection, lambda entry: plain(counts[entry.name]))
    live = select(body).select_from(TASKS).where(me.owns(TASKS), TASKS.c.deleted_at.is_(None))
    # HAVING makes this an aggregate with one row, even if the selection has no counts.
    return _scalar(live.having(literal_column("true")), me)


def _scalar(inner: Select[Any], me: Reader) -> ScalarSelect[Any]:
    return inner.correlate(me.row).scalar_subquery()
