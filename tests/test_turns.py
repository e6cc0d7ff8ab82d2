"""Slots are granted in the order of requests; none is lost or granted twice."""

import asyncio

import pytest
from patience import PATIENCE_SECONDS

from app.sharing.turns import Turns


async def turns_pass() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_waiters_are_served_in_order() -> None:
    """A key has a limited number of slots; waiters get them in order, before later requests."""
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
async def test_a_cancelled_waiter_loses_no_slot(is_given_before: bool) -> None:  # noqa: FBT001 - a test parameter
    """A waiter that is cancelled, even when it gets a slot, leaves the slot to the next one."""
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


async def test_unused_keys_take_no_memory() -> None:
    """Keys without slots and waiters take no memory."""
    turns = Turns[int](2, 1)
    for key in range(100):
        assert turns.take(key)
        leaving = asyncio.create_task(turns.wait(key))
        await turns_pass()
        leaving.cancel()
        turns.give(key)

    assert not turns._taken  # noqa: SLF001 - not visible from outside
    assert not turns._waiting  # noqa: SLF001 - as above


async def test_each_key_has_a_share_and_its_turn() -> None:
    """A key with many requests waits for its own share; another key gets the next free slot."""
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
    """If slots are scarce, each waiting key gets one before any key gets a second one."""
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
    """The key None, for the server's own statements, waits in turn."""
    turns = Turns[str | None](1, 1)
    assert turns.take("a")
    own, other = asyncio.create_task(turns.wait(None)), asyncio.create_task(turns.wait("b"))
    await turns_pass()
    turns.give("a")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await own
        turns.give(None)
        await other
