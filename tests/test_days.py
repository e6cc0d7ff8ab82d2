"""Counts for the caller's own day, and filters and orders by the moments of completion and deletion."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import Application, User
from test_pages import sent

Json = dict[str, Any]
NewUser = Callable[..., Awaitable[User]]

ALL = "total open completed overdue dueToday"
STATS = f"query ($today: Date) {{ viewer {{ taskStats(today: $today) {{ {ALL} }} }} }}"
TWO_DAYS = """
    query ($id: ID!, $here: Date, $there: Date) {
        viewer {
            here: taskStats(today: $here) { overdue dueToday }
            ... on User { there: taskStats(today: $there) { overdue dueToday } }
        }
        node(id: $id) { ... on User { there: taskStats(today: $there) { dueToday } again: taskStats { total } } }
    }
"""
COMPLETE = "mutation ($id: ID!) { setTaskCompleted(id: $id, completed: true) { task { id } } }"


async def stats(user: User, **day: Any) -> Json:
    found: Json = (await user.data(STATS, **day))["viewer"]["taskStats"]
    return found


async def test_counts_are_those_of_the_given_day(new_user: NewUser) -> None:
    """A task is overdue after its due date, and due on it, by the day that the caller names; completed ones are not."""
    user, other = await new_user(), await new_user()
    for due in ("2026-03-01", "2026-03-02", "2026-03-02", "2026-03-03", None):
        await user.add("Due", dueDate=due)
        await other.add("Due", dueDate="2026-03-02")
    done = await user.add("Done", dueDate="2026-03-02")
    await user.data(COMPLETE, id=done["id"])

    expected = {"2026-03-01": (0, 1), "2026-03-02": (1, 2), "2026-03-03": (3, 1), "2026-03-04": (4, 0)}
    for day, (overdue, due_today) in expected.items():
        counted = {"total": 6, "open": 5, "completed": 1, "overdue": overdue, "dueToday": due_today}
        assert await stats(user, today=day) == counted, day
    assert await stats(user, today="0001-01-01") == {**counted, "overdue": 0, "dueToday": 0}
    assert await stats(user, today="9999-12-31") == counted


async def test_the_default_day_is_that_in_utc(new_user: NewUser) -> None:
    """Without `today`, or with null, the counts are those of the day in UTC."""
    user = await new_user()
    before = datetime.now(UTC).date()
    for day in (before - timedelta(1), before, before + timedelta(1)):
        await user.add("Due", dueDate=day.isoformat())

    found = [await stats(user), await stats(user, today=None)]

    known = {day: await stats(user, today=day.isoformat()) for day in {before, datetime.now(UTC).date()}}
    assert all(counts in known.values() for counts in found)


async def test_one_request_counts_for_several_days(new_user: NewUser) -> None:
    """Each alias has its own day: a literal, a variable, one in a fragment, and below another root field."""
    user = await new_user()
    await user.add("Due", dueDate="2026-03-02")

    data = await user.data(TWO_DAYS, id=str(user.id), here="2026-03-03", there="2026-03-02")

    assert data["viewer"] == {"here": {"overdue": 1, "dueToday": 0}, "there": {"overdue": 0, "dueToday": 1}}
    assert data["node"] == {"there": {"dueToday": 1}, "again": {"total": 1}}


async def test_the_day_is_a_parameter(application: Application, new_user: NewUser) -> None:
    """Days given as variables or as literals are counted by the same statement."""
    user = await new_user()
    queries = [
        f"{{ viewer {{ taskStats{day} {{ {ALL} }} }} }}" for day in ('(today: "2026-03-03")', '(today: "2026-03-01")')
    ]

    texts = {(await sent(application, user, query)).text for query in queries}
    texts.add((await sent(application, user, STATS, today="2026-03-02")).text)

    assert len(texts) == 1


@pytest.mark.parametrize("day", ["2026-02-30", "today", 20260301, "2026-03-01T00:00:00Z"])
async def test_a_day_is_a_date(new_user: NewUser, day: object) -> None:
    """Anything but a calendar date is rejected, as a variable and as a literal."""
    user = await new_user()
    (error,) = (await user.ask(STATS, today=day))["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"

    literal = day if isinstance(day, int) else f'"{day}"'
    (error,) = (await user.ask(f"{{ viewer {{ taskStats(today: {literal}) {{ total }} }} }}"))["errors"]
    assert error["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
