"""Connections that wait for their clients: no more than a number of them."""

from typing import Protocol


class GivesWay(Protocol):
    """A connection that can be ended."""

    def give_way(self) -> None:
        """End, for another needs the room."""


class Waiting:
    """Connections in one state, at most `most`: when another comes, the one that has waited longest gives way."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: dict[GivesWay, None] = {}

    def add(self, connection: GivesWay) -> None:
        """Count a connection from now on."""
        self._connections[connection] = None
        if len(self._connections) > self._most:
            longest = next(iter(self._connections))
            del self._connections[longest]
            longest.give_way()

    def remove(self, connection: GivesWay) -> None:
        """Count it no longer."""
        self._connections.pop(connection, None)
