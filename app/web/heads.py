"""Checks of request heads beyond those of the parser, and what a head says about its connection."""

import re
from collections.abc import Iterable, Iterator

from app.origins import Header
from app.web.refusals import RequestRefused, malformed, too_long

MOST_BYTES = 100_000
# The URL parser's limit.
LONGEST_URL = 65_535

LONG_HEAD = too_long("The head of a request", MOST_BYTES)
LONG_URL = too_long("The URL", LONGEST_URL)
OTHER_VERSION = malformed("The HTTP version must be 1.1 or 1.0.")
_HOST = malformed("The request must have exactly one Host header, with a valid host.")
_TARGET = malformed("The host in the URL must equal the Host header.")
_SCHEME = malformed("The scheme of the URL must be http or https.")
_CODING = malformed("Transfer-Encoding must be chunked, with HTTP/1.1.")

# RFC 3986's host and port, without the comma: a proxy may have joined two Host headers.
_IS_HOST = re.compile(rb"(?:[\w.~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?", re.ASCII)
_ORIGIN_LINE = re.compile(rb"(?:^|\n)origin:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


def size(method: bytes, url: bytes, headers: Iterable[Header]) -> int:
    """The size of a head in bytes, with each header written as `Name: value`, and with the empty line."""
    return (
        len(method) + len(url) + len("  HTTP/1.1\r\n\r\n") + sum(len(name) + len(value) + 4 for name, value in headers)
    )


def check(version: str, url: bytes, headers: list[Header]) -> bytes:
    """The URL without scheme and host; raises RequestRefused for a head that other servers could read differently."""
    if version not in {"1.1", "1.0"}:
        raise RequestRefused(OTHER_VERSION)
    if len(url) > LONGEST_URL:
        raise RequestRefused(LONG_URL)
    hosts = _values(headers, b"host")
    if len(hosts) > 1 or not all(map(_IS_HOST.fullmatch, hosts)) or (version == "1.1" and not hosts):
        raise RequestRefused(_HOST)
    codings = _values(headers, b"transfer-encoding")
    if codings and (version == "1.0" or list(map(bytes.lower, codings)) != [b"chunked"]):
        raise RequestRefused(_CODING)
    return _origin_form(url, hosts)


def _values(headers: list[Header], wanted: bytes) -> list[bytes]:
    return [value.strip(b" \t") for name, value in headers if name == wanted]


def _origin_form(url: bytes, hosts: list[bytes]) -> bytes:
    absolute = _ABSOLUTE.fullmatch(url)
    if absolute is None:
        if not url.startswith(b"/") and b"://" in url:
            raise RequestRefused(_SCHEME)
        return url
    authority, rest = absolute.groups()
    if hosts and authority.lower() != hosts[0].lower():
        raise RequestRefused(_TARGET)
    return rest if rest.startswith(b"/") else b"/" + rest


def origin_in(part: bytes) -> bytes | None:
    """The origin in the last complete Origin line of an incomplete head."""
    found = _ORIGIN_LINE.findall(part)
    return found[-1] if found else None


def asks_for_socket(version: str, headers: list[Header]) -> bool:
    """Whether the client requests an upgrade to WebSocket only. Other upgrades are ignored (RFC 9110, 7.8)."""
    return version == "1.1" and list(_listed(headers, b"upgrade")) == [b"websocket"]


def has_body(headers: list[Header]) -> bool:
    """Whether a body follows the head."""
    given = dict(headers)
    return b"transfer-encoding" in given or int(given.get(b"content-length", b"0")) > 0


def _listed(headers: list[Header], wanted: bytes) -> Iterator[bytes]:
    """The elements of a list header, which may span several lines, in lower case."""
    for value in _values(headers, wanted):
        yield from filter(None, (element.strip(b" \t").lower() for element in value.split(b",")))


def without_upgrade(method: bytes, url: bytes, version: str, headers: list[Header]) -> bytes:
    """The head without its Upgrade header."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    lines += [b"%b: %b" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
