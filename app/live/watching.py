"""Advisory locks that tell a write whether its user is followed, so that it sends a notification only if needed.

PostgreSQL serializes commits that send a notification, across all databases of the server, even without listeners. So
each process that has followers of a user holds a shared lock for that user on its listening connection. A write that
gets the lock exclusively, until it has committed, sends no notification: a new follower must wait for the lock, and
then reads what was written.
"""

from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Uuid, bindparam, column, func, literal_column, select

from app.database.statements import compiled

# The first key of TaskQL's advisory locks.
SPACE = 1952539501
# Several users share a lock, because PostgreSQL's lock table has a fixed size. So a write may send a notification for
# a user that is not followed.
LOCKS = 1024


def nobody_follows(user: ColumnElement[Any]) -> ColumnElement[bool]:
    """True if the user has no followers, and can get none until this transaction ends."""
    return func.pg_try_advisory_xact_lock(*_lock(user))


def _lock(user: ColumnElement[Any]) -> tuple[ColumnElement[int], ColumnElement[int]]:
    return literal_column(str(SPACE)), func.abs(func.uuid_hash(user) % literal_column(str(LOCKS)))


def _for_each(function: Any) -> str:
    users = func.unnest(bindparam("users", type_=ARRAY(Uuid))).table_valued(column("id", Uuid), name="followed")
    users = users.render_derived()
    return compiled(select(function(*_lock(users.c.id))).select_from(users)).text


WATCH = _for_each(func.pg_advisory_lock_shared)
UNWATCH = _for_each(func.pg_advisory_unlock_shared)
