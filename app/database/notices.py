"""Notifications of writes, which PostgreSQL sends to server processes at commit if the user is followed.

PostgreSQL serializes commits that send a notification, even without listeners. So each process that has followers of a
user holds a shared lock for that user on its listening connection. A write that gets the lock exclusively, until it has
committed, sends no notification: a new follower must wait for the lock, and then reads what was written.
"""

from typing import Any

from sqlalchemy import ColumnElement, Text, case, cast, func, literal_column, not_

from app.database.statements import text_literal

# The channel. The payload is the user and the user's clock.
CHANNEL = "taskql"
# The first key of TaskQL's advisory locks.
SPACE = 1952539501
# Several users share a lock, because PostgreSQL's lock table has a fixed size. So a write may send a notification for
# a user that is not followed.
LOCKS = 1024


def notice(user: ColumnElement[Any], version: ColumnElement[Any]) -> ColumnElement[Any]:
    """Notify of a user's clock, if the user has followers."""
    news = cast(user, Text).concat(text_literal(" ")).concat(cast(version, Text))
    # Cast to text, because Citus does not support results of type void.
    told = cast(func.pg_notify(text_literal(CHANNEL), news), Text)
    return case((not_(_nobody_follows(user)), told))


def _nobody_follows(user: ColumnElement[Any]) -> ColumnElement[bool]:
    """True if the user has no followers, and can get none until this transaction ends."""
    return func.pg_try_advisory_xact_lock(*lock(user))


def lock(user: ColumnElement[Any]) -> tuple[ColumnElement[int], ColumnElement[int]]:
    """The keys of a user's lock."""
    return literal_column(str(SPACE)), func.abs(func.uuid_hash(user) % literal_column(str(LOCKS)))
