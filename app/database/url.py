"""Parses database URLs as hosting providers print them, for SQLAlchemy and asyncpg."""

import math
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.errors import StartupError
from app.settings import Settings

CONNECT_TIMEOUT = 3.0
# The first connection resumes a suspended Neon database.
NEON_CONNECT_TIMEOUT = 10.0
LAST_PORT = 65535
_SCHEMES = {"postgres", "postgresql", "postgresql+asyncpg"}
_TLS_MODES = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
_POOLER = "-pooler"


class DatabaseURL:
    """One database: its SQLAlchemy URL and further arguments of the driver.

    `pooled` means that it goes through a transaction pooler; `direct` is then the URL without the pooler. `variable` is
    the setting to name in errors.
    """

    def __init__(
        self, url: str, *, pooled: bool = False, direct: str | None = None, variable: str = "DATABASE_URL"
    ) -> None:
        self.variable, self._direct = variable, direct
        parsed = self._parsed(url)
        query = {name: value if isinstance(value, str) else value[-1] for name, value in parsed.query.items()}
        self.role, self.password, self.host = parsed.username, parsed.password, parsed.host or query.get("host", "")
        prisma = query.pop("pgbouncer", "false") == "true"
        self.pooled = pooled or prisma or _POOLER in self.host.split(".")[0]
        self._timeout = self._seconds(query.pop("connect_timeout", None))
        self._startup = {"application_name": query.pop("application_name", "taskql"), "timezone": "UTC"}
        self._startup |= {"options": query.pop("options")} if "options" in query else {}
        self.tls = self._tls(query.pop("sslmode", None), query.pop("sslrootcert", None))
        query.pop("channel_binding", None)  # asyncpg does not support it
        socket: dict[str, str] = {name: query.pop(name) for name in ("host", "port") if name in query}
        self._check_port(str(parsed.port or socket.get("port", "")))
        if query:
            raise self._wrong(f"has parameters that TaskQL does not support: {', '.join(sorted(query))}; remove them")
        self.sqlalchemy = parsed.set(drivername="postgresql+asyncpg", query=socket)
        self._given = parsed

    @property
    def direct(self) -> "DatabaseURL":
        """The same database without its pooler, for migrations and LISTEN, which need a session.

        For Neon, `-pooler` is removed from the host name. If the direct URL is unknown, this is the URL itself.
        """
        if self._direct is not None:
            return DatabaseURL(self._direct, variable="DATABASE_DIRECT_URL")
        first, dot, rest = (self._given.host or "").partition(".")
        if _POOLER not in first:
            return self
        there = self._given.set(host=first.replace(_POOLER, "") + dot + rest)
        return DatabaseURL(there.render_as_string(hide_password=False), variable=self.variable)

    @property
    def is_neon(self) -> bool:
        return self.host.endswith(".neon.tech")

    def connect_arguments(self, session: Mapping[str, str]) -> dict[str, Any]:
        """The arguments of asyncpg.connect besides the URL. A transaction pooler rejects most session settings."""
        settings = self._startup | ({} if self.pooled else dict(session))
        arguments: dict[str, Any] = {"timeout": self._timeout, "server_settings": settings, "ssl": self.tls}
        # Behind a transaction pooler, the next statement may run in another session, without our prepared statements.
        return arguments | ({"statement_cache_size": 0} if self.pooled else {})

    def __str__(self) -> str:
        return self.sqlalchemy.render_as_string(hide_password=True)

    def _wrong(self, problem: str) -> StartupError:
        return StartupError(f"{self.variable} {problem}")

    def _parsed(self, url: str) -> URL:
        try:
            parsed = make_url(url.strip())
        except (ArgumentError, ValueError):
            parsed = None
        # An @ in the host is part of an unescaped password.
        if parsed is None or "@" in (parsed.host or ""):
            raise self._wrong(
                "is not a valid database URL; use postgresql://user:password@host:5432/database, with special"
                " characters in the password percent-encoded, such as %40 for @"
            )
        if parsed.drivername not in _SCHEMES:
            raise self._wrong(f"must begin with postgresql://, not {parsed.drivername}://")
        return parsed

    def _check_port(self, port: str) -> None:
        if port and not (port.isdecimal() and int(port) <= LAST_PORT):
            raise self._wrong(f"has an invalid port, {port!r}; the default is 5432")

    def _seconds(self, timeout: str | None) -> float:
        if timeout is None:
            return NEON_CONNECT_TIMEOUT if self.is_neon else CONNECT_TIMEOUT
        with suppress(ValueError):
            if 0 < float(timeout) < math.inf:
                return float(timeout)
        raise self._wrong(f"has an invalid connect_timeout, {timeout!r}; use a number of seconds above 0")

    def _tls(self, mode: str | None, root: str | None) -> ssl.SSLContext | str | bool:
        """Encryption according to `sslmode`. Hosts that are known to have a public certificate are always verified."""
        if mode is not None and mode not in _TLS_MODES:
            raise self._wrong(f"has an unknown sslmode, {mode!r}; use one of {', '.join(sorted(_TLS_MODES))}")
        if mode == "disable" or (mode is None and (not self.host or self.host.startswith("/"))):
            return False
        if self.is_neon or mode in {"verify-full", "verify-ca"} or (mode == "require" and root):
            return self._verifying(mode, None if root == "system" else root)
        return mode or "prefer"

    def _verifying(self, mode: str | None, root: str | None) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=root)
        except OSError as error:
            raise self._wrong(f"names an sslrootcert, {root}, that cannot be read: {error}") from None
        # As in libpq: with a custom root and without verify-full, the name in the certificate is not checked.
        context.check_hostname = mode == "verify-full" or self.is_neon
        return context


def server_url(settings: Settings) -> DatabaseURL:
    """The database for requests. Raises StartupError if it is not set."""
    if settings.database_url is None:
        raise StartupError("DATABASE_URL is not set.")
    direct = settings.database_direct_url
    return DatabaseURL(
        settings.database_url.get_secret_value(),
        pooled=settings.db_pooler,
        direct=direct.get_secret_value() if direct else None,
    )


def owner_url(settings: Settings) -> DatabaseURL:
    """The same database as its owner, for migrations. Without the pooler, as migrations hold a session-level lock."""
    if settings.database_owner_url is None:
        return server_url(settings).direct
    return DatabaseURL(settings.database_owner_url.get_secret_value(), variable="DATABASE_OWNER_URL").direct
