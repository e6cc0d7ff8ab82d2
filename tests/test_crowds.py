"""Moves into a crowded gap of the manual order: they change few other tasks and lists, whatever the pattern."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from conftest import User
from test_moves import AT_ONCE, fill, model, move, move_many

from app.entities.moving import LEAST_GAIN, LONGEST_KEY, NEIGHBORS

Move = tuple[str, dict[str, Any]]
Pattern = Callable[[int, list[str]], Move]
# The keys of rows that got new ones, beside the best key, and of the moves until the next time.
LONGEST_OF_ALL = LONGEST_KEY + 3 * LEAST_GAIN
ROWS = "SELECT id::text, position, version, updated_at FROM {} WHERE user_id = $1 ORDER BY position, id"
CREATE_LISTS = "mutation {{ {} }}".format(
    " ".join(f'l{n}: createList(input: {{ name: "{n}" }}) {{ list {{ id }} }}' for n in range(12))
)
MOVE_LISTS = "mutation ({}) {{ {} }}".format(
    ", ".join(f"$id{n}: ID!, $to{n}: MoveTarget!" for n in range(AT_ONCE)),
    " ".join(f"m{n}: moveList(id: $id{n}, to: $to{n}) {{ userErrors {{ code }} }}" for n in range(AT_ONCE)),
)


def into_one_gap(_n: int, order: list[str]) -> Move:
    """The last task directly after the first one."""
    return order[-1], {"after": order[0]}


def before_the_last(_n: int, order: list[str]) -> Move:
    return order[0], {"before": order[-1]}


class FromBothEnds:
    """Tasks from both ends, which narrow a gap in the middle from both sides."""

    def __init__(self) -> None:
        self.low = self.high = ""

    def __call__(self, n: int, order: list[str]) -> Move:
        middle = len(order) // 2
        self.low, self.high = self.low or order[middle - 1], self.high or order[middle]
        task = order[0] if n % 2 else order[-1]
        if n % 4 < 2:
            after, self.low = self.low, task
            return task, {"after": after}
        before, self.high = self.high, task
        return task, {"before": before}


class BetweenTheLastTwo:
    """Each task between the two that were moved before it."""

    def __init__(self) -> None:
        self.last: list[str] = []

    def __call__(self, n: int, order: list[str]) -> Move:
        middle = len(order) // 2
        self.last = self.last or order[middle - 1 : middle + 1]
        first = min(self.last, key=order.index)
        task = order[0] if n % 2 else order[-1]
        self.last = [self.last[1], task]
        return task, {"after": first}


PATTERNS: dict[str, tuple[Callable[[], Pattern], int]] = {
    "into one gap": (lambda: into_one_gap, 900),
    "before the last": (lambda: before_the_last, 900),
    "from both ends": (FromBothEnds, 1500),
    "between the last two": (BetweenTheLastTwo, 1500),
}
Rows = dict[str, Any]


async def rows(owner: "asyncpg.Connection[Any]", user: User, table: str = "tasks") -> Rows:
    return {row["id"]: row for row in await owner.fetch(ROWS.format(table), user.id)}


def check(before: Rows, after: Rows, moved: list[str]) -> int:
    """No write has changed more than 50 other rows, and of these only the position; returns the most that one has."""
    others: dict[int, list[str]] = {}
    for row_id in after.keys() - set(moved):
        if after[row_id]["version"] != before[row_id]["version"]:
            others.setdefault(after[row_id]["version"], []).append(row_id)
            assert after[row_id]["updated_at"] == before[row_id]["updated_at"]
        else:
            assert after[row_id] == before[row_id]
    most = max(map(len, others.values()), default=0)
    assert most <= 2 * NEIGHBORS
    assert max(len(row["position"]) for row in after.values()) <= LONGEST_OF_ALL
    return most


@pytest.mark.parametrize("name", PATTERNS)
async def test_crowded_gaps(alice: User, bob: User, owner: "asyncpg.Connection[Any]", name: str) -> None:
    """The order is that of a Python list after many moves, and no write changes more than 50 other tasks."""
    make, moves = PATTERNS[name]
    pattern, order = make(), await fill(alice, 70)
    await fill(bob, 3)
    bobs, before, most = await rows(owner, bob), await rows(owner, alice), 0

    for start in range(0, moves, AT_ONCE):
        sent: list[Move] = []
        for n in range(start, start + AT_ONCE):
            sent.append(pattern(n, order))
            order = model(order, *sent[-1])
        await move_many(alice, sent)
        after = await rows(owner, alice)
        assert list(after) == order
        most, before = max(most, check(before, after, [task for task, _ in sent])), after

    assert most > 0
    assert await rows(owner, bob) == bobs


async def test_crowded_lists(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Lists have the same order and the same bound."""
    made = await alice.data(CREATE_LISTS)
    await bob.data(CREATE_LISTS)
    order = [one["list"]["id"] for one in made.values()]
    bobs, before, most = await rows(owner, bob, "task_lists"), await rows(owner, alice, "task_lists"), 0

    for _ in range(0, 400, AT_ONCE):
        sent: list[Move] = []
        for n in range(AT_ONCE):
            sent.append(into_one_gap(n, order))
            order = model(order, *sent[-1])
        numbered = list(enumerate(sent))
        variables = {f"id{n}": one for n, (one, _) in numbered} | {f"to{n}": target for n, (_, target) in numbered}
        await alice.data(MOVE_LISTS, **variables)
        after = await rows(owner, alice, "task_lists")
        assert list(after) == order
        most, before = max(most, check(before, after, [one for one, _ in sent])), after

    assert most > 0
    assert await rows(owner, bob, "task_lists") == bobs


async def test_concurrent_moves_into_one_gap(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """Concurrent moves into a gap that becomes crowded all succeed, and keep all tasks in a total order."""
    order = await fill(alice, 12)
    first, *others = order
    for start in range(0, 200, AT_ONCE):
        await move_many(alice, [(others[(start + n) % 11], {"after": first}) for n in range(AT_ONCE)])

    for _ in range(8):
        payloads = await asyncio.gather(*(move(alice, task, after=first) for task in others))
        assert all(payload["userErrors"] == [] for payload in payloads)

    after = await rows(owner, alice)
    assert sorted(after) == sorted(order)
    assert next(iter(after)) == first
    assert len({row["position"] for row in after.values()}) == 12
