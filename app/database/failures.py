"""What fails between TaskQL and PostgreSQL: the one map from errors of the driver to failures that callers know."""

import ssl

import asyncpg
from sqlalchemy import exc

from app.errors import RequestError, Unauthenticated, Unavailable


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
# Certificates that do not fit, and what a pooler refuses by its configuration.
_LASTING = (ssl.SSLError, asyncpg.ProtocolViolationError)

# What the driver says when the server closes a connection while it is about to be used.
_CONFUSED = asyncpg.InternalClientError
# What it says when the server announces that it closes the connection, or has closed it.
_SHUTDOWN = (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)
LOSSES = (OSError, asyncpg.InterfaceError, _CONFUSED, *_SHUTDOWN)
# What tells that connections which were opened before it are of no use any more.
OUTDATED = (asyncpg.InterfaceError, _CONFUSED, *_SHUTDOWN, asyncpg.ReadOnlySQLTransactionError)
# All that the driver and the pool raise.
FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, _CONFUSED, exc.SQLAlchemyError, CannotConnect)
_UNREACHABLE = (OSError, exc.TimeoutError, exc.DisconnectionError, asyncpg.InterfaceError, _CONFUSED, CannotConnect)

# SQLSTATEs and classes of them. What passes by itself, or when somebody has looked after PostgreSQL:
_PASSING_CLASSES = {"08", "53", "57", "58", "XX"}
_PASSING_STATES = {"25P03", "25P04", "55P03", "40001", "40P01"}
# What keeps a connection from being opened, and happens to no statement of ours: the role or the database is refused.
_REFUSED_CLASSES = {"28", "3D"}
_READ_ONLY = "25006"
# What a statement of ours meets in a database that is not, or not yet again, as `taskql migrate` leaves it: no such
# table, column, function, schema or type, or no right to it.
_UNPREPARED = {"42P01", "42703", "42883", "3F000", "42704", "42501"}
# What a cluster's coordinator reports when it has lost a worker.
_WORKER_LOST = {"08000", "08003", "08006", "57P01", "XX000"}


def driver_error(error: BaseException) -> BaseException:
    """The error of asyncpg or the operating system, where SQLAlchemy has wrapped it once or twice."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        error = error.orig
    return error.orig or error if isinstance(error, exc.EmulatedDBAPIException) else error


def is_passing(error: BaseException) -> bool:
    """Whether opening a connection, which has failed with this error of the driver, may soon succeed by itself."""
    return isinstance(error, _PASSING) and not isinstance(error, _LASTING)


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of an error of PostgreSQL; empty for any other."""
    return getattr(error, "sqlstate", None) or ""


def is_lasting(error: BaseException) -> bool:
    """Whether a failure lasts until the database is changed: it is unprepared or read-only, or has lost a worker."""
    state = sqlstate(error)
    return state in _UNPREPARED or state == _READ_ONLY or (state in _WORKER_LOST and is_of_worker(error))


def is_of_worker(error: BaseException) -> bool:
    """Whether the session itself is intact: the coordinator of a cluster reports the failure of one of its workers."""
    return getattr(error, "severity_en", None) == "ERROR"


def failure(error: BaseException) -> RequestError | None:
    """The expected failure behind an error of the driver or pool; None when it is a bug. TimeoutError is an OSError."""
    error = driver_error(error)
    state = sqlstate(error)
    if isinstance(error, _UNREACHABLE) or state[:2] in _REFUSED_CLASSES:
        return Unavailable("The database cannot be reached; try again.")
    # A cluster's coordinator passes a worker's message on, but not the name of the constraint.
    if state == "23503" and "users" in (getattr(error, "constraint_name", None) or str(error)):
        return Unauthenticated("The account of this token no longer exists.")
    if state[:2] in _PASSING_CLASSES or state in _PASSING_STATES:
        return Unavailable("The database is busy or restarting; try again.")
    if state == _READ_ONLY:
        return Unavailable("The database takes no writes now; try again.")
    if state in _UNPREPARED:
        return Unavailable("The database is not ready; try again.")
    return None
