"""The manual order: sequential and concurrent moves compared with a Python list, and the position keys."""

import asyncio
from itertools import pairwise
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from conftest import ALL_FIELDS, WRITE, User, Wire

from app.entities.moving import LONGEST_KEY

PAYLOAD = f"{{ task {{ {ALL_FIELDS} }} userErrors {{ code message field }} token }}"
MOVE = f"mutation ($id: ID!, $to: MoveTarget!) {{ moveTask(id: $id, to: $to) {PAYLOAD} }}"
DELETE = "mutation ($id: ID!) { deleteTask(id: $id) { userErrors { code } } }"
RESTORE = f"mutation ($id: ID!) {{ restoreTask(id: $id) {PAYLOAD} }}"
UPDATE = f"""
    mutation ($id: ID!, $title: String!, $version: Int!) {{
        updateTask(id: $id, input: {{title: $title}}, expectedVersion: $version) {PAYLOAD}
    }}
"""
TASK = f"query ($id: ID!) {{ task(id: $id) {{ {ALL_FIELDS} }} }}"
ORDERED = f"query {{ tasks(orderBy: {{field: POSITION}}, first: 100) {{ nodes {{ {ALL_FIELDS} }} }} }}"
FILL = """
    mutation ($inputs: [CreateTaskInput!]!) { createTasks(inputs: $inputs) { tasks { id } userErrors { code } } }
"""

AT_ONCE = 20
MOVE_MANY = "mutation ({}) {{ {} }}".format(
    ", ".join(f"$id{n}: ID!, $to{n}: MoveTarget!" for n in range(AT_ONCE)),
    " ".join(
        f"m{n}: moveTask(id: $id{n}, to: $to{n}) {{ task {{ position }} userErrors {{ code }} }}"
        for n in range(AT_ONCE)
    ),
)

Target = dict[str, Any]


async def fill(user: User, count: int) -> list[str]:
    """Create tasks and return their ids in order."""
    inputs = [{"title": f"Task {n}"} for n in range(count)]
    return [task["id"] for task in (await user.data(FILL, inputs=inputs))["createTasks"]["tasks"]]


async def move(user: User, task_id: str, **to: Any) -> dict[str, Any]:
    payload: dict[str, Any] = (await user.data(MOVE, id=task_id, to=to))["moveTask"]
    return payload


async def moved(user: User, task_id: str, **to: Any) -> dict[str, Any]:
    """Move a task without errors and return it."""
    payload = await move(user, task_id, **to)
    assert payload["userErrors"] == []
    task: dict[str, Any] = payload["task"]
    return task


async def move_many(user: User, moves: list[tuple[str, Target]]) -> list[str]:
    """Send as many moves as a document may contain and return the resulting keys."""
    numbered = list(enumerate(moves))
    variables = {f"id{n}": task for n, (task, _) in numbered} | {f"to{n}": target for n, (_, target) in numbered}
    data = await user.data(MOVE_MANY, **variables)
    assert all(payload["userErrors"] == [] for payload in data.values()), data
    return [payload["task"]["position"] for payload in data.values()]


async def ordered(user: User) -> list[dict[str, Any]]:
    """All tasks in manual order. Keys are unique, do not end in the lowest digit, and are not too long."""
    nodes: list[dict[str, Any]] = (await user.data(ORDERED))["tasks"]["nodes"]
    keys = [node["position"] for node in nodes]
    assert keys == sorted(set(keys))
    assert all(len(key) <= LONGEST_KEY and not key.endswith("0") for key in keys)
    return nodes


async def ids(user: User) -> list[str]:
    return [node["id"] for node in await ordered(user)]


async def fetch(user: User, task_id: str) -> Any:
    return (await user.data(TASK, id=task_id))["task"]


def model(order: list[str], task_id: str, target: Target) -> list[str]:
    """The order after a move."""
    (place, anchor), *_ = target.items()
    if anchor == task_id:
        return order
    others = [other for other in order if other != task_id]
    ends = {"toStart": 0, "toEnd": len(others)}
    at = ends[place] if place in ends else others.index(anchor) + (place == "after")
    return [*others[:at], task_id, *others[at:]]


def any_move(random: Random, order: list[str]) -> tuple[str, Target]:
    place = random.choices(["before", "after", "toStart", "toEnd"], weights=[4, 4, 1, 1])[0]
    return random.choice(order), {place: random.choice(order) if place in {"before", "after"} else True}


def error_code(answer: dict[str, Any]) -> str:
    code: str = answer["errors"][0]["extensions"]["code"]
    return code


@pytest.mark.parametrize("place", ["before", "after", "toStart", "toEnd"])
async def test_every_move_among_four(alice: User, place: str) -> None:
    """Moving any task anywhere in a short list matches a Python list, and changes only its position."""
    order = await fill(alice, 4)
    for task_id in list(order):
        for anchor in list(order) if place in {"before", "after"} else [True]:
            before = await fetch(alice, task_id)
            after = await moved(alice, task_id, **{place: anchor})
            order = model(order, task_id, {place: anchor})
            assert await ids(alice) == order
            place_of_it = {name: after[name] for name in ("position", "version", "updatedAt")}
            assert after == {**before, **place_of_it}


async def test_ten_thousand_moves_keep_the_order_of_a_list(alice: User) -> None:
    """Random moves keep a total order without duplicate positions, equal to the model's."""
    random = Random(20261122)  # noqa: S311 - must be repeatable
    order = await fill(alice, 60)
    for request in range(10_000 // AT_ONCE):
        moves = []
        for _ in range(AT_ONCE):
            moves.append(any_move(random, order))
            order = model(order, *moves[-1])
        keys = await move_many(alice, moves)
        assert all(len(key) <= LONGEST_KEY for key in keys)
        if request % 50 == 0:
            assert await ids(alice) == order

    assert await ids(alice) == order


async def test_moves_into_one_gap_make_room(alice: User, bob: User, wire: Wire) -> None:
    """About 300 moves into one gap need no more than a statement each. Then one gives the tasks around new keys."""
    first, left, right, trashed, last = order = await fill(alice, 5)
    await alice.data(DELETE, id=trashed)
    order.remove(trashed)
    await fill(bob, 3)
    bobs = await ordered(bob)
    await wire.statements()

    keys: list[str] = []
    for _ in range(600 // AT_ONCE):
        moves: list[tuple[str, Target]] = [((right, left)[n % 2], {"after": first}) for n in range(AT_ONCE)]
        keys += await move_many(alice, moves)
        for task_id, target in moves:
            order = model(order, task_id, target)
    assert await ids(alice) == order

    sent = [words.split()[0] for words in await wire.statements()]
    shortened = [place for place, (before, after) in enumerate(pairwise(keys)) if len(after) < len(before) - 20]
    assert len(shortened) in {1, 2}
    assert all(200 < after - before < 500 for before, after in pairwise([0, *shortened]))
    assert max(map(len, keys)) <= LONGEST_KEY
    # A move that does not fit is refused, and sent again as one that makes room.
    assert sent.count("WITH") == 600 + len(shortened)
    await alice.data(RESTORE, id=trashed)
    assert await ids(alice) == [*order[:3], trashed, last]
    assert await ordered(bob) == bobs


async def test_a_move_is_one_statement(alice: User, wire: Wire) -> None:
    """A move is one statement, also if nothing changes."""
    first, second, third = await fill(alice, 3)
    await wire.statements()
    for target in ({"before": first}, {"after": second}, {"toStart": True}, {"toEnd": True}):
        await moved(alice, third if target != {"toEnd": True} else first, **target)
        assert [sent.split()[0] for sent in await wire.statements()] == WRITE
    await moved(alice, first, toEnd=True)
    assert [sent.split()[0] for sent in await wire.statements()] == WRITE


@pytest.mark.parametrize("place", ["before", "after", "toStart", "toEnd"])
async def test_a_move_may_be_repeated(alice: User, place: str) -> None:
    """Repeated and concurrent identical moves have one effect and equal responses."""
    order = await fill(alice, 5)
    target = {place: order[2] if place in {"before", "after"} else True}
    task_id = order[0] if place in {"after", "toEnd"} else order[4]

    first, second, third = await asyncio.gather(*(move(alice, task_id, **target) for _ in range(3)))

    assert first == second == third
    assert first["userErrors"] == []
    assert first["task"]["version"] == 2
    assert await move(alice, task_id, **target) == first
    assert await ids(alice) == model(order, task_id, target)


@pytest.mark.parametrize("place", ["before", "after", "toStart", "toEnd"])
async def test_two_clients_move_to_one_place_at_once(alice: User, place: str) -> None:
    """Both moves succeed, and the tasks end up next to each other."""
    order = await fill(alice, 6)
    target = {place: order[3] if place in {"before", "after"} else True}
    pair = order[:2] if place in {"after", "toEnd"} else order[-2:]

    for both in await asyncio.gather(*(move(alice, task_id, **target) for task_id in pair)):
        assert both["userErrors"] == []

    either = [model(model(order, one, target), other, target) for one, other in (pair, pair[::-1])]
    assert await ids(alice) in either


async def test_many_clients_move_at_once(alice: User) -> None:
    """Concurrent moves keep all tasks."""
    random = Random(7)  # noqa: S311 - must be repeatable
    order = await fill(alice, 12)

    payloads = await asyncio.gather(*(move(alice, task, **to) for task, to in [any_move(random, order)] * 12))
    payloads += await asyncio.gather(
        *(move(alice, task, **to) for task, to in (any_move(random, order) for _ in range(24)))
    )

    assert all(payload["userErrors"] == [] for payload in payloads)
    assert sorted(await ids(alice)) == sorted(order)


@pytest.mark.parametrize("place", ["before", "after"])
async def test_a_missing_anchor(alice: User, bob: User, place: str) -> None:
    """An anchor that is missing or another user's is NOT_FOUND, a trashed one IN_TRASH, and nothing moves."""
    first, second, trashed = await fill(alice, 3)
    await alice.data(DELETE, id=trashed)
    bobs = await bob.add("Bob's")
    before = await ordered(alice)

    for anchor in (str(uuid4()), bobs["id"], trashed):
        payload = await move(alice, second, **{place: anchor})
        (error,) = payload["userErrors"]
        assert (error["code"], error["field"]) == ("IN_TRASH" if anchor == trashed else "NOT_FOUND", ["to"])
    assert await ordered(alice) == before
    assert (await alice.add())["version"] == 3
    assert await fetch(bob, bobs["id"]) == bobs
    assert first == before[0]["id"]


@pytest.mark.parametrize("place", ["before", "after", "toStart", "toEnd"])
async def test_a_missing_task(alice: User, bob: User, place: str) -> None:
    """Moving a task that is missing or another user's is NOT_FOUND."""
    first, _ = await fill(alice, 2)
    bobs = await bob.add("Bob's")

    for task_id in (str(uuid4()), bobs["id"]):
        payload = await move(alice, task_id, **{place: first if place in {"before", "after"} else True})
        (error,) = payload["userErrors"]
        assert (error["code"], error["field"], payload["task"]) == ("NOT_FOUND", ["id"], None)
    assert await fetch(bob, bobs["id"]) == bobs


async def test_same_ids_of_two_users_move_apart(alice: User, bob: User) -> None:
    """A move does not affect another user's task with the same id."""
    inputs = [{"id": str(uuid4()), "title": f"Task {n}"} for n in range(4)]
    for user in (alice, bob):
        await user.data(FILL, inputs=inputs)
    bobs = await ordered(bob)
    order = [str(task["id"]) for task in inputs]

    await moved(alice, order[3], before=order[1])
    await moved(alice, order[0], toEnd=True)
    await moved(alice, order[2], toStart=True)

    assert await ids(alice) == [order[2], order[3], order[1], order[0]]
    assert await ordered(bob) == bobs


@pytest.mark.parametrize("place", ["before", "after"])
async def test_a_move_beside_itself_changes_nothing(alice: User, place: str) -> None:
    """Moving a task before or after itself changes nothing."""
    order = await fill(alice, 3)
    before = await ordered(alice)

    payload = await move(alice, order[1], **{place: order[1]})

    assert (payload["userErrors"], payload["task"]) == ([], before[1])
    assert await ordered(alice) == before


@pytest.mark.parametrize(
    "target",
    [
        {},
        {"toStart": True, "toEnd": True},
        {"before": str(uuid4()), "after": str(uuid4())},
        {"before": None},
        {"toStart": None},
        {"toStart": True, "toEnd": None},
        {"toEnd": False},
        {"toStart": False},
        {"before": ""},
        {"after": "1"},
        {"before": "01890a5dac96774bbcceb302099a8057"},
        {"between": str(uuid4())},
    ],
)
async def test_an_invalid_target(alice: User, wire: Wire, target: Target) -> None:
    """A target without exactly one valid place is BAD_USER_INPUT, and no SQL is sent."""
    assert error_code(await alice.ask(MOVE, id=str(uuid4()), to=target)) == "BAD_USER_INPUT"
    assert await wire.statements() == []


async def test_a_bad_id_does_not_move(alice: User, wire: Wire) -> None:
    """An id that is not a UUID is BAD_USER_INPUT, and no SQL is sent."""
    for bad in ("", "1", "01890a5dac96774bbcceb302099a8057"):
        assert error_code(await alice.ask(MOVE, id=bad, to={"toEnd": True})) == "BAD_USER_INPUT"
    assert await wire.statements() == []


async def test_the_trash_keeps_places(alice: User) -> None:
    """A restored task returns between its former neighbours, whatever moved meanwhile."""
    a, b, trashed, c, d = await fill(alice, 5)
    place = (await fetch(alice, trashed))["position"]
    await alice.data(DELETE, id=trashed)

    await moved(alice, d, toStart=True)
    await moved(alice, a, toEnd=True)
    await moved(alice, a, before=c)
    restored = (await alice.data(RESTORE, id=trashed))["restoreTask"]["task"]

    assert restored["position"] == place
    order = await ids(alice)
    assert [task for task in order if task != a] == [d, b, trashed, c]
    assert order.index(a) == order.index(c) - 1


@pytest.mark.parametrize("place", ["after", "before", "toEnd", "toStart"])
async def test_new_tasks_come_at_the_end_after_moves(alice: User, place: str) -> None:
    """New tasks are last after any move, and moves to the start and the end reach the ends."""
    order = await fill(alice, 3)
    beside = {"after": order[2], "before": order[0]}
    target = {place: beside.get(place, True)}
    task_id = order[0] if place in {"after", "toEnd"} else order[2]
    await moved(alice, task_id, **target)
    order = model(order, task_id, target)
    assert await ids(alice) == order

    order.append((await alice.add())["id"])
    assert await ids(alice) == order
    order += await fill(alice, 2)
    assert await ids(alice) == order
    for end in ("toStart", "toEnd"):
        await moved(alice, order[2], **{end: True})
        order = model(order, order[2], {end: True})
        assert await ids(alice) == order


async def test_keys_between_keys(owner: "asyncpg.Connection[Any]") -> None:
    """A key lies strictly between its neighbours, or beyond an end, and never ends in the lowest digit."""
    random = Random(62)  # noqa: S311 - must be repeatable
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    made = {"".join(random.choices(digits[:3] + digits[-2:], k=random.randint(0, 5))) + "V" for _ in range(60)}
    keys = sorted(made | {"a00000001V", "a00000002V", "a00000002000001V", "Z7ffffffeV", "1", "z", "zz"})
    between = await owner.prepare("SELECT position_between($1::text, $2::text)")
    for _ in range(600):
        gap = random.randint(0, len(keys))
        low = keys[gap - 1] if gap else None
        high = keys[gap] if gap < len(keys) else None
        key = await between.fetchval(low, high)
        assert (low or "") < key
        assert high is None or key < high
        assert not key.endswith("0")
        assert set(key) <= set(digits)
        keys.insert(gap, key)


async def test_no_update_is_lost(alice: User) -> None:
    """32 concurrent writers with expected versions each succeed once, and no increment is lost."""
    task_id = (await alice.add("0"))["id"]

    async def writer() -> int:
        for attempt in range(1, 200):
            task = await fetch(alice, task_id)
            variables = {"id": task_id, "title": str(int(task["title"]) + 1), "version": task["version"]}
            payload = (await alice.data(UPDATE, **variables))["updateTask"]
            if not payload["userErrors"]:
                assert payload["task"]["title"] == variables["title"]
                return attempt
            assert [error["code"] for error in payload["userErrors"]] == ["VERSION_CONFLICT"]
        pytest.fail("a writer never got through")

    attempts = await asyncio.gather(*(writer() for _ in range(32)))

    task = await fetch(alice, task_id)
    assert (task["title"], task["version"]) == ("32", 33)
    assert max(attempts) > 1
