"""The locks that tell a write whether anybody waits for it, so that it need not tell of itself where nobody does.

Commits that send a notification happen one after the other in the whole cluster, whoever listens. So each process that
has followers of a user shares a lock of that user's, on the connection that listens, and a write that can have it for
itself, until it has committed, sends none: a follower who comes meanwhile has to wait, and then reads what was written.
"""

from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Uuid, bindparam, column, func, literal_column, select

from app.database.statements import compiled

# Ours among the advisory locks of the database.
SPACE = 1952539501
# Users share locks: PostgreSQL keeps all that are held in a table that cannot grow. By a shared one a write may tell of
# itself though nobody follows.
LOCKS = 1024


def nobody_follows(user: ColumnElement[Any]) -> ColumnElement[bool]:
    """True for a user whom nobody follows, nor can begin to before this transaction has ended."""
    return func.pg_try_advisory_xact_lock(*_lock(user))


def _lock(user: ColumnElement[Any]) -> tuple[ColumnElement[int], ColumnElement[int]]:
    return literal_column(str(SPACE)), func.abs(func.uuid_hash(user) % literal_column(str(LOCKS)))


def _for_each(function: Any) -> str:
    users = func.unnest(bindparam("users", type_=ARRAY(Uuid))).table_valued(column("id", Uuid), name="followed")
    users = users.render_derived()
    return compiled(select(function(*_lock(users.c.id))).select_from(users)).text


WATCH = _for_each(func.pg_advisory_lock_shared)
UNWATCH = _for_each(func.pg_advisory_unlock_shared)
