"""Connections of strangers: the oldest gives way, of its own network or of all, and nothing is kept of who is gone."""

from contextlib import ExitStack
from functools import partial

from app.web.lobby import Lobby


def test_the_oldest_gives_way() -> None:
    """The oldest of a network that has too many, or of all; each is told once, and may leave as others do."""
    lobby, left = Lobby(2, 3), list[str]()
    with ExitStack() as stack:
        for name in ("a1", "b1", "a2", "a3", "b2", "c1", "c2", "c3"):
            stack.enter_context(lobby.wait(name[0], partial(left.append, name)))

    assert left == ["a1", "b1", "a2", "a3", "c1"]
    assert not lobby._waiting  # noqa: SLF001 - memory is seen only from within
    assert not lobby._of  # noqa: SLF001 - the same


def test_a_place_is_free_again() -> None:
    """Whoever has left takes no room."""
    lobby, left = Lobby(1, 1), list[str]()
    for name in ("a", "a", "b"):
        with lobby.wait(name, partial(left.append, name)):
            pass

    assert left == []
