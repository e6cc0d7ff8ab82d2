"""Connections that wait for their clients: no more than a number of them."""

from typing import Protocol


class GivesWay(Protocol):
    """A connection that can be ended."""

    def give_way(self) -> None:
        """End, for another needs the room; it is among the waiting ones no longer."""


class Waiting(dict[GivesWay, None]):
    """Connections in one state, the one that has waited longest first. A dict, for each request comes and goes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def shorten(self) -> None:
        """Have the one that has waited longest give way where there are more than `most`."""
        if len(self) > self.most:
            longest = next(iter(self))
            del self[longest]
            longest.give_way()
