"""A cache shared by callers: eviction takes from the largest holder."""

from app.sharing.caches import FairCache


def test_eviction_takes_from_the_largest_holder() -> None:
    """A flood of one caller evicts its own entries, oldest first; another caller's few stay."""
    cache = FairCache[int, str](10)
    for key in (1, 2):
        cache.put(key, "hers", "alice")
    for key in range(100, 200):
        cache.put(key, "his", "mallory")

    assert [cache.get(1), cache.get(2)] == ["hers", "hers"]
    assert list(cache) == [1, 2, *range(192, 200)]


def test_recently_used_entries_stay() -> None:
    """Within one holder the least recently used entry goes first; `peek` does not count as use."""
    cache = FairCache[str, int](3)
    for key in "abc":
        cache.put(key, 1, "alice")
    cache.get("a")
    cache.peek("b")
    cache.put("d", 1, "alice")

    assert sorted(cache) == ["a", "c", "d"]


def test_weights() -> None:
    """A heavy value evicts entries of its own holder, and one that exceeds the capacity is not stored."""
    forgotten = list[str]()
    cache = FairCache[str, int](10, forgotten.append)
    cache.put("hers", 1, "alice", 4)
    cache.put("his", 1, "mallory", 5)
    cache.put("his too", 1, "mallory", 6)
    cache.put("huge", 1, "mallory", 11)

    assert sorted(cache) == ["hers", "his too"]
    assert forgotten == ["his", "huge"]


def test_a_value_put_again_or_dropped() -> None:
    """A key has one value and one holder; a dropped entry frees its weight."""
    cache = FairCache[str, int](2)
    cache.put("a", 1, "alice", 2)
    cache.put("a", 2, "bob", 2)
    assert (cache.get("a"), len(cache)) == (2, 1)

    assert cache.drop("a") == 2
    assert cache.drop("a") is None
    cache.put("b", 3, "alice", 2)
    assert (cache.get("a"), cache.get("b")) == (None, 3)


def test_a_value_put_again_is_not_forgotten() -> None:
    """Putting the same value under a second holder keeps it and does not call `forget`."""
    forgotten = list[str]()
    cache = FairCache[str, int](2, forgotten.append)
    for holder in ("alice", "bob"):
        cache.put("a", 1, holder)

    assert (cache.get("a"), forgotten) == (1, [])
    cache.drop("a")
    assert forgotten == ["a"]
