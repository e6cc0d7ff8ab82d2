"""Caches that callers share fairly: a full cache evicts entries of the caller that holds the most."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Entry(Generic[K, V]):
    value: V
    weight: int
    holder: str
    held: OrderedDict[K, None]


class FairCache(Generic[K, V]):
    """A cache with a maximum total weight of `most`. Each value belongs to a holder: the caller that added it.

    Above the maximum, the holder with the most weight loses its least recently used value. `forget` is called with each
    key that is dropped, but not with one whose value is replaced.
    """

    def __init__(self, most: int, forget: Callable[[K], None] | None = None) -> None:
        self._most, self._forget = most, forget
        # Public for hot paths that inline `peek`.
        self.entries: dict[K, _Entry[K, V]] = {}
        self._held: dict[str, OrderedDict[K, None]] = {}
        self._weights: dict[str, int] = {}
        self._weight = 0

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[K]:
        return iter(self.entries)

    def get(self, key: K) -> V | None:
        """The value of a key, which becomes the most recently used."""
        entry = self.entries.get(key)
        if entry is None:
            return None
        entry.held.move_to_end(key)
        return entry.value

    def peek(self, key: K) -> V | None:
        """The value of a key, without marking it as used, which is faster."""
        entry = self.entries.get(key)
        return None if entry is None else entry.value

    def put(self, key: K, value: V, holder: str, weight: int = 1) -> None:
        """Add or replace a value. One that exceeds the maximum weight by itself is dropped at once."""
        self._take_out(key)
        if weight > self._most:
            if self._forget:
                self._forget(key)
            return
        held = self._held.setdefault(holder, OrderedDict())
        held[key] = None
        self.entries[key] = _Entry(value, weight, holder, held)
        self._weights[holder] = self._weights.get(holder, 0) + weight
        self._weight += weight
        while self._weight > self._most:
            self._evict()

    def drop(self, key: K) -> V | None:
        """Remove a key and return its value."""
        entry = self._take_out(key)
        if entry is None:
            return None
        if self._forget:
            self._forget(key)
        return entry.value

    def _take_out(self, key: K) -> _Entry[K, V] | None:
        entry = self.entries.pop(key, None)
        if entry is None:
            return None
        del entry.held[key]
        self._weight -= entry.weight
        self._weights[entry.holder] -= entry.weight
        if not entry.held:
            del self._held[entry.holder], self._weights[entry.holder]
        return entry

    def _evict(self) -> None:
        largest = max(self._weights, key=self._weights.__getitem__)
        self.drop(next(iter(self._held[largest])))
