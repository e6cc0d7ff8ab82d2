"""A bounded set of connections that are not authenticated yet: per network and in total."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Lobby:
    """Holds at most `each` waiting connections per network, and `most` in total. Beyond that the oldest is evicted.

    A network with too many loses its own oldest connection, otherwise the oldest of all is evicted. So clients that
    never authenticate cannot keep out a client that soon does.
    """

    def __init__(self, each: int, most: int) -> None:
        self._each, self._most = each, most
        # The network and the eviction callback of each connection, the oldest first.
        self._waiting: dict[object, tuple[str, Callable[[], None]]] = {}
        self._of: Counter[str] = Counter()

    @contextmanager
    def wait(self, network: str, leave: Callable[[], None]) -> Iterator[None]:
        """Hold a place within a `with` block. `leave` is called once if another connection needs the place."""
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
        """Evict the oldest connection, of a network or of all."""
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
