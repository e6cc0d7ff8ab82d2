"""How a write tells of itself: PostgreSQL notifies the server's processes when it commits, if anybody follows its user.

Commits that send a notification happen one after the other in the whole database, whoever listens. So each process that
has followers of a user shares a lock of that user's, on the connection that listens, and a write that can have it for
itself, until it has committed, sends none: a follower who comes meanwhile has to wait, and then reads what was written.
"""

from typing import Any

from sqlalchemy import ColumnElement, Text, case, cast, func, literal_column, not_

from app.database.statements import text_literal

# What is notified there is the user and the user's clock.
CHANNEL = "taskql"
# Ours among the advisory locks of the database.
SPACE = 1952539501
# Users share locks: PostgreSQL keeps all that are held in a table that cannot grow. By a shared one a write may tell of
# itself though nobody follows.
LOCKS = 1024


def notice(user: ColumnElement[Any], version: ColumnElement[Any]) -> ColumnElement[Any]:
    """Notifies of a user's clock, if anybody follows the user."""
    news = cast(user, Text).concat(text_literal(" ")).concat(cast(version, Text))
    # As text: what the function returns is of no type that a result can have on a cluster.
    told = cast(func.pg_notify(text_literal(CHANNEL), news), Text)
    return case((not_(_nobody_follows(user)), told))


def _nobody_follows(user: ColumnElement[Any]) -> ColumnElement[bool]:
    """True for a user whom nobody follows, nor can begin to before this transaction has ended."""
    return func.pg_try_advisory_xact_lock(*lock(user))


def lock(user: ColumnElement[Any]) -> tuple[ColumnElement[int], ColumnElement[int]]:
    """The arguments of the functions that lock and unlock."""
    return literal_column(str(SPACE)), func.abs(func.uuid_hash(user) % literal_column(str(LOCKS)))
