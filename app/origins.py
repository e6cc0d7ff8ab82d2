"""Origins whose pages may read answers, and the headers that tell a browser so (CORS)."""

import re
from collections.abc import Iterable

Header = tuple[bytes, bytes]

ANY = "*"
EXPOSED = ("X-Request-ID", "Retry-After", "WWW-Authenticate")
_VARY: Header = (b"vary", b"origin")
_EXPOSE: Header = (b"access-control-expose-headers", ", ".join(EXPOSED).encode())
_DEFAULT_PORT = re.compile(r"(?<=^http)(://.*):80$|(?<=^https)(://.*):443$")


class Origins:
    """The origins that a setting allows, `*` for all; compared as RFC 6454 has it, whatever their case."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(map(normal, allowed))

    def is_allowed(self, origin: str) -> bool:
        """Whether pages of this origin may read answers."""
        return ANY in self._allowed or normal(origin) in self._allowed

    def headers_for(self, origin: bytes | None) -> list[Header]:
        """What an answer says to the page that asked, by the request's Origin header (None without one)."""
        if not self._allowed:
            return []
        if ANY in self._allowed:
            return [] if origin is None else [(b"access-control-allow-origin", b"*"), _EXPOSE]
        if origin is None or not self.is_allowed(origin.decode("latin-1")):
            return [_VARY]
        return [(b"access-control-allow-origin", origin), _EXPOSE, _VARY]


def normal(origin: str) -> str:
    """An origin in lower case and without its scheme's default port."""
    return _DEFAULT_PORT.sub(lambda found: found[1] or found[2], origin.lower())
