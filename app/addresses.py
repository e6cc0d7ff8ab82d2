"""The address of a client, where proxies stand between it and the server: from X-Forwarded-For, counted from the right.

Each proxy appends the address that it was called from. So what trusted proxies have appended stands at the right, and
what stands left of that is the client's own invention.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

FORWARDED_FOR = b"x-forwarded-for"
EVERYBODY = "*"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """Which proxies are trusted: those in these networks, or where everybody is, the last `hops` before the server."""

    def __init__(self, trusted: Sequence[Network] | None, hops: int) -> None:
        self._trusted, self._hops = trusted, hops

    def see_through(self, scope: Any) -> None:
        """Give an ASGI scope its client's address, where a proxy tells of one."""
        given = [value for name, value in scope["headers"] if name == FORWARDED_FOR]
        peer, port = scope.get("client") or ("", 0)
        scope["client"] = self.client(peer, b",".join(given).decode("latin-1")), port

    def client(self, peer: str, forwarded: str) -> str:
        """The client behind a peer; what is no address ends the chain, at the proxy that has told it."""
        client, hop, left = peer, 0, forwarded
        while left and self._trusts(client, hop):
            left, _, last = left.rpartition(",")
            told = address(last)
            if told is None:
                break
            client, hop = str(told), hop + 1
        return client

    def _trusts(self, client: str, hop: int) -> bool:
        if self._trusted is None:
            return hop < self._hops
        known = address(client)
        return known is not None and any(known in network for network in self._trusted)


def headers_of(scope: Any) -> Mapping[bytes, bytes]:
    """The headers of an ASGI scope by name, the last of each; our HTTP protocol leaves them there."""
    try:
        known: Mapping[bytes, bytes] = scope["state"]["headers"]
    except KeyError:
        return dict(scope["headers"])
    return known


def address(text: str) -> Address | None:
    """An IP address, with or without a port, in brackets or not; None for anything else."""
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
    """The networks and addresses of a list with commas; None for all there are. ValueError names what is neither."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if EVERYBODY in parts:
        return None
    return [ipaddress.ip_network(part, strict=False) for part in parts]
