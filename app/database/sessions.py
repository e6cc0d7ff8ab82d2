"""SQLAlchemy's sessions, for everything that is not on a hot path: the models in the usual way, behind both walls.

A session acts as one user. Wall 1 stands here: what the ORM reads, updates or deletes is narrowed to the user's rows,
and a flush refuses objects of others. Wall 2 is the row security of PostgreSQL. Statements on tables instead of mapped
classes, statements as text and inserts in bulk have wall 2 alone.
"""

from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import (
    LoaderCriteriaOption,
    Mapper,
    ORMExecuteState,
    Session,
    SessionTransaction,
    object_session,
    with_loader_criteria,
)
from sqlalchemy.orm.attributes import get_history
from sqlalchemy.pool import PoolProxiedConnection

from app.database.failures import driver_error
from app.models import Owned, User

# The function of PostgreSQL that refuses rows which a policy does not allow.
ROW_SECURITY = "ExecWithCheckOptions"
# Where a session keeps whom it acts as.
OWNER = "owner"


class ForeignObject(Exception):
    """A flush was to write an object of another user; a bug of the code that put it in the session."""


class ActingSession(Session):
    """A session that acts as the user in its `info`, in each of its transactions."""


def acting(engine: AsyncEngine, lent: PoolProxiedConnection, owner: UUID | None) -> AsyncSession:
    """A session on a connection that is lent; None acts as no user. Closed for good, it leaves the connection open."""
    connection = AsyncConnection(engine, Connection(engine.sync_engine, lent))
    kind = Session if owner is None else ActingSession
    return AsyncSession(
        connection,
        sync_session_class=kind,
        info={OWNER: owner},
        # Objects stay readable when their session has ended, where nothing can be loaded any more.
        expire_on_commit=False,
        # One that was kept must not go on with a connection which is lent to another user by then.
        close_resets_only=False,
    )


def is_refusal(error: BaseException) -> bool:
    """Whether row security has refused to write a row; its SQLSTATE is that of missing rights."""
    cause = driver_error(error)
    return isinstance(cause, asyncpg.InsufficientPrivilegeError) and cause.server_source_function == ROW_SECURITY


@event.listens_for(ActingSession, "after_begin")
def _act(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    """Begin a transaction as the user. SET LOCAL, since a cluster hands on no other setting."""
    if not transaction.nested:
        connection.exec_driver_sql(f"SET LOCAL app.user_id = '{session.info[OWNER]}'")


@event.listens_for(ActingSession, "do_orm_execute")
def _narrow(state: ORMExecuteState) -> None:
    """Narrow a statement to the user's rows, wherever in it a mapped class occurs."""
    if state.is_orm_statement and (state.is_select or state.is_update or state.is_delete):
        state.statement = state.statement.options(*_criteria(state.session.info[OWNER]))


def _criteria(owner: UUID) -> tuple[LoaderCriteriaOption, LoaderCriteriaOption]:
    return (
        with_loader_criteria(Owned, lambda entity: entity.user_id == owner, include_aliases=True),
        with_loader_criteria(User, lambda entity: entity.id == owner, include_aliases=True),
    )


@event.listens_for(Owned, "before_insert", propagate=True)
def _give(_mapper: Mapper[Any], _connection: Connection, new: Owned) -> None:
    """A new object without a user is the user's whom the session acts as."""
    owner = _owner(new)
    if owner is not None and new.user_id is None:
        new.user_id = owner


@event.listens_for(Owned, "before_insert", propagate=True)
@event.listens_for(Owned, "before_update", propagate=True)
@event.listens_for(Owned, "before_delete", propagate=True)
def _refuse_foreign(_mapper: Mapper[Any], _connection: Connection, written: Owned) -> None:
    _refuse(written, "user_id")


@event.listens_for(User, "before_insert")
@event.listens_for(User, "before_update")
@event.listens_for(User, "before_delete")
def _refuse_another(_mapper: Mapper[Any], _connection: Connection, written: User) -> None:
    _refuse(written, "id")


def _owner(written: object) -> UUID | None:
    session = object_session(written)
    return session.info.get(OWNER) if session else None


def _refuse(written: object, key: str) -> None:
    """Refuse to write what is another user's, or was when it was read."""
    owner, history = _owner(written), get_history(written, key)
    if owner is not None and {*history.unchanged, *history.added, *history.deleted} != {owner}:
        raise ForeignObject(f"A session of one user must not write a {type(written).__name__} of another.")
