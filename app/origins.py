"""The origins whose pages may call the API (compared as in RFC 6454), and the CORS headers of responses."""

import ipaddress
import logging
import re
from collections.abc import Iterable
from functools import lru_cache

log = logging.getLogger(__name__)

ALL = "*"
DEFAULT_PORTS = {"http": 80, "https": 443}
# Rejected origins that are logged, each once. Bounded, because anybody can send any origin.
MOST_LOGGED = 100
# Longer ones are not valid. This bounds the cache.
LONGEST = 300

Header = tuple[bytes, bytes]

VARY: Header = (b"vary", b"origin")
_EXPOSED: Header = (b"access-control-expose-headers", b"x-request-id, retry-after, www-authenticate")
_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^\s/?#@:,*\[\]]{1,255})(?::(\d{1,5}))?", re.IGNORECASE | re.ASCII)


def normalized(origin: str) -> str | None:
    """The normalized form of an origin; None if it is not an origin of http or https."""
    return _normalized(origin) if len(origin) <= LONGEST else None


@lru_cache(1000)
def _normalized(origin: str) -> str | None:
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return None
    scheme, host, port = found[1].lower(), found[2].lower(), int(found[3] or 0)
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    return f"{scheme}://{host}" + (f":{port}" if port not in {0, DEFAULT_PORTS[scheme]} else "")


class Origins:
    """The origins of CORS_ORIGINS; `*` allows all."""

    def __init__(self, allowed: Iterable[str]) -> None:
        allowed = set(allowed)
        self._allows_all = ALL in allowed
        self._allowed = {normalized(origin) for origin in allowed} - {None}
        self._logged: set[str] = set()

    def __bool__(self) -> bool:
        """Whether any other origin is allowed."""
        return self._allows_all or bool(self._allowed)

    def is_allowed(self, origin: str) -> bool:
        """Whether pages of an origin may call the API."""
        return self._allows_all or normalized(origin) in self._allowed

    def headers_for(self, origin: bytes | None) -> list[Header]:
        """The CORS headers of the response to a request with this Origin header."""
        if self._allows_all:
            return [(b"access-control-allow-origin", b"*"), _EXPOSED] if origin else []
        if origin and self.is_allowed(origin.decode("latin-1")):
            return [(b"access-control-allow-origin", origin), _EXPOSED, VARY]
        return [VARY] if self._allowed else []

    def log_refused(self, origin: str) -> None:
        """Log a rejected origin, once."""
        name = normalized(origin) or "null"
        if name not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(name)
            log.warning("rejected a request of a page of the origin %s; to allow it, add it to CORS_ORIGINS", name)


def is_same(origin: str, host: str) -> bool:
    """Whether an origin has the host and port of a Host header, with http or https."""
    given = normalized(origin)
    return given is not None and given in {normalized(f"{scheme}://{host}") for scheme in DEFAULT_PORTS}
