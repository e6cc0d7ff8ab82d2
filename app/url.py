"""Database URLs as hosts print them, made fit for SQLAlchemy and asyncpg."""

import ssl
from collections.abc import Mapping
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from app.errors import StartupError

CONNECT_TIMEOUT = 3.0
_SCHEMES = {"postgres", "postgresql", "postgresql+asyncpg"}
_UNSEEN = ("channel_binding", "pgbouncer")


class DatabaseURL:
    """One database: its SQLAlchemy URL and what the driver needs besides."""

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            raise StartupError(
                "DATABASE_URL is not a database URL; it looks like postgresql://user:password@host:5432/database"
            ) from None
        if parsed.drivername not in _SCHEMES:
            raise StartupError(f"DATABASE_URL must begin with postgresql://, not {parsed.drivername}://")
        query = {name: value if isinstance(value, str) else value[0] for name, value in parsed.query.items()}
        self.role, self.password, self.host = parsed.username, parsed.password, parsed.host or query.get("host", "")
        self.pooled = bool(parsed.host and "-pooler" in parsed.host.split(".")[0])
        self._timeout = _seconds(query.pop("connect_timeout", None))
        self._name = query.pop("application_name", "taskql")
        self._tls = _tls(query.pop("sslmode", None), self.host, query.pop("sslrootcert", None))
        socket: dict[str, str] = {name: query.pop(name) for name in ("host", "port") if name in query}
        for name in _UNSEEN:
            query.pop(name, None)
        if query:
            raise StartupError(f"DATABASE_URL has parameters TaskQL does not know: {', '.join(sorted(query))}")
        self.sqlalchemy = parsed.set(drivername="postgresql+asyncpg", query=socket)

    def connect_arguments(self, session: Mapping[str, str]) -> dict[str, Any]:
        """What asyncpg.connect takes besides the URL; a transaction pooler refuses most session settings."""
        settings = {"application_name": self._name, "timezone": "UTC"} | ({} if self.pooled else dict(session))
        arguments: dict[str, Any] = {"timeout": self._timeout, "server_settings": settings, "ssl": self._tls}
        return arguments | ({"statement_cache_size": 0} if self.pooled else {})

    def __str__(self) -> str:
        return self.sqlalchemy.render_as_string(hide_password=True)


def _seconds(timeout: str | None) -> float:
    try:
        return CONNECT_TIMEOUT if timeout is None else float(timeout)
    except ValueError:
        raise StartupError(f"DATABASE_URL: connect_timeout must be a number of seconds, not {timeout!r}") from None


def _tls(mode: str | None, host: str, root: str | None) -> ssl.SSLContext | str | bool:
    """Encryption as `sslmode` asks; hosts that are known to have a public certificate are verified."""
    if mode == "disable" or (mode is None and (not host or host.startswith("/"))):
        return False
    if host.endswith(".neon.tech") or mode in {"verify-full", "verify-ca"}:
        try:
            context = ssl.create_default_context(cafile=root)
        except OSError as error:
            raise StartupError(f"DATABASE_URL: sslrootcert {root} cannot be read: {error}") from None
        context.check_hostname = mode != "verify-ca"
        return context
    return mode or "prefer"
