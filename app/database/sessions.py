"""SQLAlchemy sessions that act as one user, for everything that is not on a hot path.

Two layers isolate users. The first is here: ORM reads, updates and deletes are filtered by user, and a flush rejects
objects of other users. The second is PostgreSQL's row-level security. Statements on tables instead of mapped classes,
text statements and bulk inserts have only the second layer.
"""

from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import Connection, Text, event, func, literal, select
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
from app.errors import StartupError
from app.models import Owned, User

# PostgreSQL's function that rejects rows which violate a policy.
ROW_SECURITY = "ExecWithCheckOptions"
# The key of the session's user in its `info`.
OWNER = "owner"


async def refuse_hidden_users(session: AsyncSession) -> None:
    """Raise StartupError if row-level security hides users, which a command for all of them would miss silently."""
    if await session.scalar(select(func.row_security_active(literal("users", Text)))):
        raise StartupError(
            "Row-level security hides users from this role: use the tables' owner in DATABASE_OWNER_URL."
        )


class ForeignObject(Exception):
    """A flush would write an object of another user, which is a bug in the code that added it to the session."""


class ActingSession(Session):
    """A session whose transactions act as the user in its `info`."""


def acting(engine: AsyncEngine, lent: PoolProxiedConnection, owner: UUID | None) -> AsyncSession:
    """A session on a lent connection, which it does not close. Without an owner it acts as no user."""
    connection = AsyncConnection(engine, Connection(engine.sync_engine, lent))
    kind = Session if owner is None else ActingSession
    return AsyncSession(
        connection,
        sync_session_class=kind,
        info={OWNER: owner},
        # Objects stay readable after their session, when nothing can be loaded any more.
        expire_on_commit=False,
        # A closed session must not use the connection again, which may be lent to another user by then.
        close_resets_only=False,
    )


def is_refusal(error: BaseException) -> bool:
    """Whether row-level security has rejected a row. The SQLSTATE alone could also mean a missing privilege."""
    cause = driver_error(error)
    if not isinstance(cause, asyncpg.InsufficientPrivilegeError):
        return False
    # A cluster's coordinator passes on a worker's message, and names a function of its own.
    return cause.server_source_function == ROW_SECURITY or "row-level security" in str(cause)


@event.listens_for(ActingSession, "after_begin")
def _act(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    """Begin a transaction as the user, also on the workers of a cluster."""
    if not transaction.nested:
        connection.execute(select(func.act_in_transaction(session.info[OWNER])))


@event.listens_for(ActingSession, "do_orm_execute")
def _narrow(state: ORMExecuteState) -> None:
    """Filter a statement by user, for each mapped class in it."""
    if state.is_orm_statement and (state.is_select or state.is_update or state.is_delete):
        state.statement = state.statement.options(*_criteria(state.session.info[OWNER]))


def _criteria(owner: UUID) -> tuple[LoaderCriteriaOption, LoaderCriteriaOption]:
    return (
        with_loader_criteria(Owned, lambda entity: entity.user_id == owner, include_aliases=True),
        with_loader_criteria(User, lambda entity: entity.id == owner, include_aliases=True),
    )


@event.listens_for(Owned, "before_insert", propagate=True)
def _give(_mapper: Mapper[Any], _connection: Connection, new: Owned) -> None:
    """Set the user of a new object to the session's user, if it has none."""
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
    """Raise ForeignObject for an object that belongs to another user, or did when it was read."""
    owner, history = _owner(written), get_history(written, key)
    if owner is not None and {*history.unchanged, *history.added, *history.deleted} != {owner}:
        raise ForeignObject(f"A session of one user must not write a {type(written).__name__} of another.")
