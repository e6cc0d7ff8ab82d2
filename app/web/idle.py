"""Bounded sets of connections that wait for their clients."""

from typing import Protocol


class Evictable(Protocol):
    """A connection that can be evicted."""

    def evict(self) -> None:
        """Close, to make room for another connection. It has been removed from the set."""


class Waiting(dict[Evictable, None]):
    """Connections in one state, the oldest first. A dict, because each request adds and removes one."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def shorten(self) -> None:
        """Evict the oldest connection if there are more than `most`."""
        if len(self) > self.most:
            longest = next(iter(self))
            del self[longest]
            longest.evict()
