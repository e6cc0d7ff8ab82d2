"""A cache that callers share: nobody evicts what others use."""

from app.sharing.caches import FairCache


def test_the_largest_holder_gives_way() -> None:
    """A flood of one caller evicts its own, oldest first; the few of another stay."""
    cache = FairCache[int, str](10)
    for key in (1, 2):
        cache.put(key, "hers", "alice")
    for key in range(100, 200):
        cache.put(key, "his", "mallory")

    assert [cache.get(1), cache.get(2)] == ["hers", "hers"]
    assert list(cache) == [1, 2, *range(192, 200)]


def test_what_is_used_stays() -> None:
    """Within one holder what was not used for longest goes first; a look with `peek` is no use."""
    cache = FairCache[str, int](3)
    for key in "abc":
        cache.put(key, 1, "alice")
    cache.get("a")
    cache.peek("b")
    cache.put("d", 1, "alice")

    assert sorted(cache) == ["a", "c", "d"]


def test_weights() -> None:
    """A heavy value makes room for itself at the cost of its holder, and one that is too heavy is not kept."""
    forgotten = list[str]()
    cache = FairCache[str, int](10, forgotten.append)
    cache.put("hers", 1, "alice", 4)
    cache.put("his", 1, "mallory", 5)
    cache.put("his too", 1, "mallory", 6)
    cache.put("huge", 1, "mallory", 11)

    assert sorted(cache) == ["hers", "his too"]
    assert forgotten == ["his", "huge"]


def test_a_value_put_again_or_dropped() -> None:
    """A key has one value and one holder; what is dropped weighs nothing any more."""
    cache = FairCache[str, int](2)
    cache.put("a", 1, "alice", 2)
    cache.put("a", 2, "bob", 2)
    assert (cache.get("a"), len(cache)) == (2, 1)

    assert cache.drop("a") == 2
    assert cache.drop("a") is None
    cache.put("b", 3, "alice", 2)
    assert (cache.get("a"), cache.get("b")) == (None, 3)


def test_a_value_put_again_is_not_forgotten() -> None:
    """Two who bring the same at once: what the second has brought stays, for `forget` would take it out elsewhere."""
    forgotten = list[str]()
    cache = FairCache[str, int](2, forgotten.append)
    for holder in ("alice", "bob"):
        cache.put("a", 1, holder)

    assert (cache.get("a"), forgotten) == (1, [])
    cache.drop("a")
    assert forgotten == ["a"]
