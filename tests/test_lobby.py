"""Connections of anonymous clients: the oldest is evicted, per network or overall, and closed ones leave no state."""

from contextlib import ExitStack
from functools import partial

from app.web.lobby import Lobby


def test_the_oldest_is_evicted() -> None:
    """Over either limit the oldest connection is evicted once, that of its network or of all."""
    lobby, left = Lobby(2, 3), list[str]()
    with ExitStack() as stack:
        for name in ("a1", "b1", "a2", "a3", "b2", "c1", "c2", "c3"):
            stack.enter_context(lobby.wait(name[0], partial(left.append, name)))

    assert left == ["a1", "b1", "a2", "a3", "c1"]
    assert not lobby._waiting  # noqa: SLF001 - state is visible only from within
    assert not lobby._of  # noqa: SLF001 - as above


def test_a_slot_is_free_again() -> None:
    """A closed connection frees its slot."""
    lobby, left = Lobby(1, 1), list[str]()
    for name in ("a", "a", "b"):
        with lobby.wait(name, partial(left.append, name)):
            pass

    assert left == []
