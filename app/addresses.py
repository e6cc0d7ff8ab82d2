"""The client's address behind proxies, from X-Forwarded-For, read from the right.

Each proxy appends the address of its client. The entries of trusted proxies are at the right; a client can forge all
entries left of these.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

FORWARDED_FOR = b"x-forwarded-for"
EVERYBODY = "*"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """The trusted proxies: those in the networks, or if `trusted` is None, the last `hops` in front of the server."""

    def __init__(self, trusted: Sequence[Network] | None, hops: int) -> None:
        self._trusted, self._hops = trusted, hops

    def see_through(self, scope: Any) -> None:
        """Set the client of an ASGI scope from the X-Forwarded-For of trusted proxies."""
        given = [value for name, value in scope["headers"] if name == FORWARDED_FOR]
        peer, port = scope.get("client") or ("", 0)
        scope["client"] = self.client(peer, b",".join(given).decode("latin-1")), port

    def client(self, peer: str, forwarded: str) -> str:
        """The client behind a peer. An entry that is not an address ends the chain at the proxy that sent it."""
        client, hop, left = peer, 0, forwarded
        while left and self._trusts(client, hop):
            left, _, last = left.rpartition(",")
            entry = address(last)
            if entry is None:
                break
            client, hop = str(entry), hop + 1
        return client

    def _trusts(self, client: str, hop: int) -> bool:
        if self._trusted is None:
            return hop < self._hops
        known = address(client)
        return known is not None and any(known in network for network in self._trusted)


def headers_of(scope: Any) -> Mapping[bytes, bytes]:
    """The headers of an ASGI scope by name, the last line of each. `app.web.http_protocol` stores them in the scope."""
    try:
        known: Mapping[bytes, bytes] = scope["state"]["headers"]
    except KeyError:
        return dict(scope["headers"])
    return known


def address(text: str) -> Address | None:
    """Parse an IP address, with or without port and brackets; None if the text is not one."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def networks(text: str) -> list[Network] | None:
    """Parse a comma-separated list of networks and addresses; None for `*`. ValueError names an invalid part."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if EVERYBODY in parts:
        return None
    return [ipaddress.ip_network(part, strict=False) for part in parts]
