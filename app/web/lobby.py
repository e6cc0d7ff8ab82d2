"""Connections of strangers that may become those of users: bounded for each network and in all."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Lobby:
    """At most `each` connections of a network wait, and `most` in all. Beyond that the oldest one is told to leave.

    A network with too many loses its own oldest one, otherwise the oldest of all has to leave. So a client that soon
    says who it is loses nothing to clients that never do.
    """

    def __init__(self, each: int, most: int) -> None:
        self._each, self._most = each, most
        # What makes each connection leave, and its network, the oldest first.
        self._waiting: dict[object, tuple[str, Callable[[], None]]] = {}
        self._of: Counter[str] = Counter()

    @contextmanager
    def wait(self, network: str, leave: Callable[[], None]) -> Iterator[None]:
        """A place for the length of a `with`. `leave` is called once if the place is needed for another connection."""
        if self._of[network] >= self._each:
            self._make_room(network)
        elif len(self._waiting) >= self._most:
            self._make_room(None)
        key = object()
        self._waiting[key] = network, leave
        self._of[network] += 1
        try:
            yield
        finally:
            self._forget(key)

    def _make_room(self, network: str | None) -> None:
        """Have the oldest connection leave, of a network or of all."""
        key = next(key for key, (of, _) in self._waiting.items() if network in {None, of})
        _, leave = self._waiting[key]
        self._forget(key)
        leave()

    def _forget(self, key: object) -> None:
        if key not in self._waiting:
            return
        network, _ = self._waiting.pop(key)
        self._of[network] -= 1
        if not self._of[network]:
            del self._of[network]
