"""asyncpg's connection, which runs what it has prepared by fewer steps, and asyncpg's errors.

Its own way to a statement that it knows is four coroutines and a look at what nobody has asked for; here it is one.
"""

import ssl
from typing import Any

import asyncpg
from sqlalchemy import exc

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


def driver_error(error: BaseException) -> BaseException:
    """The error of asyncpg or the operating system, where SQLAlchemy has wrapped it once or twice."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        error = error.orig
    return error.orig or error if isinstance(error, exc.EmulatedDBAPIException) else error


def is_passing(error: BaseException) -> bool:
    """Whether opening a connection, which has failed with this error of the driver, may soon succeed by itself."""
    return isinstance(error, _PASSING) and not isinstance(error, _LASTING)


def is_of_worker(error: BaseException) -> bool:
    """Whether the session is as good as before: the coordinator of a cluster tells what befell one of its workers."""
    return getattr(error, "severity_en", None) == "ERROR"


_CHANGED = asyncpg.InvalidCachedStatementError


class Driver(asyncpg.Connection):
    """Goes asyncpg's own way for a statement's first time, for options, and where someone logs what is executed."""

    __slots__ = ()

    # What asyncpg has for itself: its stubs tell of none of it.
    _protocol: Any
    _query_loggers: Any
    _stmt_cache: Any

    async def _execute(
        self,
        query: str,
        args: Any,
        limit: int,
        timeout: Any,  # noqa: ASYNC109 - as asyncpg has it
        *,
        record_class: Any = None,
        **options: Any,
    ) -> Any:
        """What `fetch`, `fetchrow` and `fetchval` call."""
        prepared = None if record_class or options else self._prepared(query)
        if prepared is not None:
            try:
                return await self._protocol.bind_execute(prepared, args, "", limit, False, timeout)  # noqa: FBT003 - as above
            except _CHANGED:  # nothing was done; asyncpg prepares the statement again
                pass
        own: Any = super()
        return await own._execute(query, args, limit, timeout, record_class=record_class, **options)  # noqa: SLF001 - what this overrides

    async def _executemany(
        self,
        query: str,
        args: Any,
        timeout: Any,  # noqa: ASYNC109 - as above
        return_rows: Any = False,  # noqa: FBT002 - as above
        record_class: Any = None,
    ) -> Any:
        """What `executemany` and `fetchmany` call."""
        prepared = None if record_class else self._prepared(query)
        if prepared is not None:
            try:
                return await self._protocol.bind_execute_many(prepared, args, "", timeout, return_rows)
            except _CHANGED:
                pass
        own: Any = super()
        return await own._executemany(query, args, timeout, return_rows, record_class)  # noqa: SLF001 - what this overrides

    def _prepared(self, query: str) -> Any:
        """The statement of a text that was executed before, if it still is there."""
        return None if self._query_loggers else self._stmt_cache.get((query, asyncpg.Record, False))
