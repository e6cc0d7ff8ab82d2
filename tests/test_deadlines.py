"""Deadlines end a wait when its time is over, as a separate timer would."""

import asyncio

import pytest
from patience import PATIENCE_SECONDS

from app.database.deadlines import LOOK_SECONDS, Deadline, Deadlines


async def test_late_waits_are_ended() -> None:
    """Only the wait past its deadline gets TimeoutError; the others finish."""
    deadlines = Deadlines()

    async def wait(limit: float, seconds: float) -> str:
        with Deadline(deadlines, limit):
            await asyncio.sleep(seconds)
        return "done"

    waits = [wait(PATIENCE_SECONDS, 0.5), wait(0.2, PATIENCE_SECONDS)]
    waits += [wait(PATIENCE_SECONDS, 0), wait(0.3, PATIENCE_SECONDS)]
    first, late, second, later = await asyncio.gather(*waits, return_exceptions=True)

    assert (first, second) == ("done", "done")
    assert isinstance(late, TimeoutError)
    assert isinstance(later, TimeoutError)
    assert not deadlines.running


async def test_a_cancellation_is_not_a_timeout() -> None:
    """A cancellation from outside stays a CancelledError, even if the deadline expires at the same time."""
    deadlines, ended = Deadlines(), list[BaseException]()

    async def wait() -> None:
        try:
            with Deadline(deadlines, 0.1):
                await asyncio.sleep(60)
        except BaseException as error:
            ended.append(error)
            raise

    early, both = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    early.cancel()
    both.cancel()
    next(reversed(deadlines.running)).expire()
    await asyncio.wait({early, both})

    assert early.cancelled()
    assert both.cancelled()
    assert [type(error) for error in ended] == [asyncio.CancelledError] * 2


async def test_errors_pass() -> None:
    """Errors raised inside propagate unchanged, and a wait that ended in time is not cancelled later."""
    deadlines = Deadlines()
    with pytest.raises(KeyError), Deadline(deadlines, 0.05):
        raise KeyError
    with Deadline(deadlines, 0.05):
        pass
    await asyncio.sleep(0.05 + 3 * LOOK_SECONDS)


async def test_the_timer_stops_without_waits() -> None:
    """The timer stops soon after the last wait has ended."""
    deadlines = Deadlines()
    with Deadline(deadlines, 1):
        assert deadlines.is_watched
    await asyncio.sleep(3 * LOOK_SECONDS)
    assert not deadlines.is_watched
