"""Database URLs as hosts print them, made fit for SQLAlchemy and asyncpg."""

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
# A database of Neon that sleeps is started by the first connection.
NEON_CONNECT_TIMEOUT = 10.0
LAST_PORT = 65535
_SCHEMES = {"postgres", "postgresql", "postgresql+asyncpg"}
_TLS_MODES = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
_POOLER = "-pooler"


class DatabaseURL:
    """One database: its SQLAlchemy URL and what the driver needs besides.

    `pooled` says that it leads through a transaction pooler, and `direct` is then the way around it. `variable` is the
    setting that errors name.
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
        query.pop("channel_binding", None)  # the driver has none
        socket: dict[str, str] = {name: query.pop(name) for name in ("host", "port") if name in query}
        self._check_port(str(parsed.port or socket.get("port", "")))
        if query:
            raise self._wrong(f"has parameters TaskQL does not know: {', '.join(sorted(query))}; leave them out")
        self.sqlalchemy = parsed.set(drivername="postgresql+asyncpg", query=socket)
        self._given = parsed

    @property
    def direct(self) -> "DatabaseURL":
        """The same database without its pooler, for what needs a session: migrations and LISTEN.

        Neon's hosts lose their `-pooler`. Where nothing tells the way around a pooler, it is this URL.
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
        """What asyncpg.connect takes besides the URL; a transaction pooler refuses most session settings."""
        settings = self._startup | ({} if self.pooled else dict(session))
        arguments: dict[str, Any] = {"timeout": self._timeout, "server_settings": settings, "ssl": self.tls}
        # Behind such a pooler the next statement may meet another server, which knows no statement of ours.
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
        # A host with an @ holds the end of a password.
        if parsed is None or "@" in (parsed.host or ""):
            raise self._wrong(
                "is not a database URL; it looks like postgresql://user:password@host:5432/database,"
                " with other characters than letters and digits in the password written as %40 and so on"
            )
        if parsed.drivername not in _SCHEMES:
            raise self._wrong(f"must begin with postgresql://, not {parsed.drivername}://")
        return parsed

    def _check_port(self, port: str) -> None:
        if port and not (port.isdecimal() and int(port) <= LAST_PORT):
            raise self._wrong(f"has a port that is none, {port!r}; the usual one is 5432")

    def _seconds(self, timeout: str | None) -> float:
        if timeout is None:
            return NEON_CONNECT_TIMEOUT if self.is_neon else CONNECT_TIMEOUT
        with suppress(ValueError):
            if 0 < float(timeout) < math.inf:
                return float(timeout)
        raise self._wrong(f"has a connect_timeout that is no number of seconds above 0: {timeout!r}")

    def _tls(self, mode: str | None, root: str | None) -> ssl.SSLContext | str | bool:
        """Encryption as `sslmode` asks; hosts that are known to have a public certificate are verified."""
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
        # As with libpq: a root of one's own without verify-full is enough, whatever the name in the certificate.
        context.check_hostname = mode == "verify-full" or self.is_neon
        return context


def server_url(settings: Settings) -> DatabaseURL:
    """The database that serves requests."""
    if settings.database_url is None:
        raise StartupError("DATABASE_URL is not set.")
    direct = settings.database_direct_url
    return DatabaseURL(
        settings.database_url.get_secret_value(),
        pooled=settings.db_pooler,
        direct=direct.get_secret_value() if direct else None,
    )


def owner_url(settings: Settings) -> DatabaseURL:
    """The same database as its owner, for migrations: they hold a lock of a session, which no pooler keeps."""
    if settings.database_owner_url is None:
        return server_url(settings).direct
    return DatabaseURL(settings.database_owner_url.get_secret_value(), variable="DATABASE_OWNER_URL").direct
