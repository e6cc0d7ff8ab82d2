"""Places are given in the order of asking, none is lost, and none is given twice."""

import asyncio

import pytest
from patience import PATIENCE_SECONDS

from app.sharing.turns import Turns


async def turns_pass() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_in_the_order_of_asking() -> None:
    """At most so many have a place, for each key; whoever waits gets one in turn, before whoever comes later."""
    turns, served = Turns[str](4, 2), list[int]()
    assert [turns.take("a"), turns.take("a"), turns.take("a"), turns.take("b")] == [True, True, False, True]

    async def wait(number: int) -> None:
        await turns.wait("a")
        served.append(number)

    waiting = [asyncio.create_task(wait(number)) for number in range(3)]
    await turns_pass()
    turns.give("a")
    assert not turns.take("a")
    await turns_pass()
    assert served == [0]

    turns.give("a")
    turns.give("a")
    await asyncio.gather(*waiting)
    assert served == [0, 1, 2]
    assert not turns.take("a")
    turns.give("a")
    assert turns.take("a")


@pytest.mark.parametrize("is_given_before", [False, True])
async def test_who_leaves_loses_no_place(is_given_before: bool) -> None:  # noqa: FBT001 - a case
    """Whoever stops waiting, even at the moment of its turn, leaves the place to the next."""
    turns = Turns[str](1, 1)
    assert turns.take("a")
    first, second = (asyncio.create_task(turns.wait("a")) for _ in range(2))
    await turns_pass()
    if is_given_before:
        turns.give("a")
        first.cancel()
    else:
        first.cancel()
        turns.give("a")
    await asyncio.wait_for(second, PATIENCE_SECONDS)

    assert first.cancelled()
    turns.give("a")
    assert turns.take("a")


async def test_nothing_is_kept_of_who_is_gone() -> None:
    """A key that nobody holds or waits for takes no memory."""
    turns = Turns[int](2, 1)
    for key in range(100):
        assert turns.take(key)
        leaving = asyncio.create_task(turns.wait(key))
        await turns_pass()
        leaving.cancel()
        turns.give(key)

    assert not turns._taken  # noqa: SLF001 - memory is seen only from within
    assert not turns._waiting  # noqa: SLF001 - the same


async def test_each_key_has_a_share_and_its_turn() -> None:
    """A flood of one key takes its share and queues behind itself; another key is served as soon as a place is free."""
    turns, served = Turns[str](3, 2), list[str]()
    assert [turns.take("a"), turns.take("a"), turns.take("a")] == [True, True, False]

    async def wait(key: str) -> None:
        await turns.wait(key)
        served.append(key)

    flood = [asyncio.create_task(wait("a")) for _ in range(20)]
    await turns_pass()
    assert turns.take("b")
    assert turns.are_all_taken
    late = asyncio.create_task(wait("c"))
    await turns_pass()

    turns.give("a")
    await late
    assert served == ["c"]
    turns.give("b")
    await turns_pass()
    assert served == ["c", "a"]
    for task in flood:
        task.cancel()
    await asyncio.wait(flood)


async def test_keys_are_served_in_turn() -> None:
    """Where places are scarce, keys that wait get one each before any gets a second."""
    turns, served = Turns[str](1, 1), list[str]()
    assert turns.take("x")

    async def work(key: str) -> None:
        async with turns.turn(key):
            served.append(key)

    working = [asyncio.create_task(work(key)) for key in "aaaabbc"]
    await turns_pass()
    turns.give("x")
    await asyncio.gather(*working)

    assert "".join(served) == "abcabaa"


async def test_none_is_a_key_like_any_other() -> None:
    """The server's own statements are nobody's, and wait in turn, too."""
    turns = Turns[str | None](1, 1)
    assert turns.take("a")
    own, other = asyncio.create_task(turns.wait(None)), asyncio.create_task(turns.wait("b"))
    await turns_pass()
    turns.give("a")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await own
        turns.give(None)
        await other
