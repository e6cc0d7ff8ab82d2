"""Maps errors of the database driver to the errors that callers get."""

import ssl

import asyncpg
from sqlalchemy import exc

from app.errors import RequestError, TooManyTags, Unauthenticated, Unavailable
from app.models import MOST_TAGS_OF_USER


class CannotConnect(Exception):
    """No connection could be opened; `__cause__` is the error of asyncpg or of the operating system."""


# What asyncpg, SQLAlchemy and the operating system raise while a connection is opened.
CONNECT_ERRORS = (
    *(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
    *(exc.SQLAlchemyError, exc.EmulatedDBAPIException),
)
_PASSING = (
    *(OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError),
    *(asyncpg.AdminShutdownError, asyncpg.CrashShutdownError),
)
# Certificate errors, and rejections by the configuration of a pooler.
_LASTING = (ssl.SSLError, asyncpg.ProtocolViolationError)

# asyncpg raises this if the server closes a connection that is about to be used.
_CONFUSED = asyncpg.InternalClientError
# asyncpg raises these if the server announces that it closes the connection, or has closed it.
_SHUTDOWN = (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)
LOSSES = (OSError, asyncpg.InterfaceError, _CONFUSED, *_SHUTDOWN)
# Errors after which connections opened earlier must not be used any more.
OUTDATED = (asyncpg.InterfaceError, _CONFUSED, *_SHUTDOWN, asyncpg.ReadOnlySQLTransactionError)
# All errors that the driver and the pool raise.
FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, _CONFUSED, exc.SQLAlchemyError, CannotConnect)
_UNREACHABLE = (OSError, exc.TimeoutError, exc.DisconnectionError, asyncpg.InterfaceError, _CONFUSED, CannotConnect)

# SQLSTATEs and their classes. Transient errors, and outages of PostgreSQL:
_PASSING_CLASSES = {"08", "53", "57", "58", "XX"}
_PASSING_STATES = {"25P03", "25P04", "55P03", "40001", "40P01"}
# Occur only while a connection is opened: the role or the database is rejected.
_REFUSED_CLASSES = {"28", "3D"}
_READ_ONLY = "25006"
# The database is not, or not yet again, as `taskql migrate` leaves it: a table, column, function, schema or type does
# not exist, or permission is denied.
_UNPREPARED = {"42P01", "42703", "42883", "3F000", "42704", "42501"}
# The trigger that names tags raises this.
_TOO_MANY_TAGS = "TQ001"
_FEWER_TAGS = (
    f"You can have at most {MOST_TAGS_OF_USER:,} different tags, including those that no task has. Nothing was changed."
    " Delete tags with deleteTag, or merge them with renameTag."
)
# The coordinator of a cluster reports these if it has lost a worker.
_WORKER_LOST = {"08000", "08003", "08006", "57P01", "XX000"}


def driver_error(error: BaseException) -> BaseException:
    """The error of asyncpg or the operating system, unwrapped from SQLAlchemy's errors."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        error = error.orig
    return error.orig or error if isinstance(error, exc.EmulatedDBAPIException) else error


def is_passing(error: BaseException) -> bool:
    """Whether an error while opening a connection is transient, so that a retry may soon succeed."""
    return isinstance(error, _PASSING) and not isinstance(error, _LASTING)


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of an error of PostgreSQL; empty for other errors."""
    return getattr(error, "sqlstate", None) or ""


def is_lasting(error: BaseException) -> bool:
    """Whether a failure lasts until an operator acts: the database is not migrated, read-only, or lost a worker."""
    state = sqlstate(error)
    return state in _UNPREPARED or state == _READ_ONLY or (state in _WORKER_LOST and is_of_worker(error))


def is_of_worker(error: BaseException) -> bool:
    """Whether the coordinator of a cluster reports the failure of a worker, so that the session itself is intact."""
    return getattr(error, "severity_en", None) == "ERROR"


def failure(error: BaseException) -> RequestError | None:
    """The expected failure for an error of the driver or the pool; None if it is a bug. TimeoutError is an OSError."""
    error = driver_error(error)
    state = sqlstate(error)
    if isinstance(error, _UNREACHABLE) or state[:2] in _REFUSED_CLASSES:
        return Unavailable("The database cannot be reached; try again.")
    # The coordinator of a cluster passes on a worker's message, but not the name of the constraint.
    if state == "23503" and "users" in (getattr(error, "constraint_name", None) or str(error)):
        return Unauthenticated("The account of this token no longer exists.")
    if state[:2] in _PASSING_CLASSES or state in _PASSING_STATES:
        return Unavailable("The database is busy or restarting; try again.")
    if state == _READ_ONLY:
        return Unavailable("The database currently accepts no writes; try again.")
    if state in _UNPREPARED:
        return Unavailable("The database is not ready; try again.")
    return TooManyTags(_FEWER_TAGS) if state == _TOO_MANY_TAGS else None
