"""Creating tasks that come from elsewhere, with their times, and the order of the tasks of one request."""

import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from conftest import User

Json = dict[str, Any]
NewUser = Callable[..., Awaitable[User]]
Create = Callable[[User, Json], Awaitable[Json]]

FIELDS = "id title completed completedAt createdAt updatedAt version"
ERRORS = "userErrors { code message field }"
ONE = f"mutation ($input: CreateTaskInput!) {{ createTask(input: $input) {{ task {{ {FIELDS} }} {ERRORS} }} }}"
MANY = f"mutation ($inputs: [CreateTaskInput!]!) {{ createTasks(inputs: $inputs) {{ tasks {{ {FIELDS} }} {ERRORS} }} }}"
COMPLETE = """
    mutation ($id: ID!, $completed: Boolean!) { setTaskCompleted(id: $id, completed: $completed) { task { id } } }
"""
SORTED = """
    query ($by: [TaskOrder!], $filter: TaskFilter) {
        tasks(first: 100, orderBy: $by, filter: $filter) { nodes { title } }
    }
"""
CREATED, DONE = "2021-05-06T07:08:09.123456+00:00", "2022-05-06T07:08:09.5+00:00"


async def one(user: User, content: Json) -> Json:
    """The task, or the errors, of createTask."""
    made = (await user.data(ONE, input=content))["createTask"]
    return {"errors": made["userErrors"]} if made["userErrors"] else dict(made["task"])


async def many(user: User, content: Json) -> Json:
    """The same of createTasks."""
    made = (await user.data(MANY, inputs=[content]))["createTasks"]
    return {"errors": made["userErrors"]} if made["userErrors"] else dict(made["tasks"][0])


@pytest.fixture(params=[one, many])
def create(request: pytest.FixtureRequest) -> Create:
    found: Create = request.param
    return found


async def test_given_times_are_kept(new_user: NewUser, create: Create) -> None:
    """A completedAt implies completed; both times are stored exactly, and the last change is now."""
    user, before = await new_user(), datetime.now(UTC) - timedelta(seconds=5)

    task = await create(user, {"title": "Old", "createdAt": CREATED, "completedAt": DONE})

    assert (task["createdAt"], task["completedAt"], task["completed"]) == (CREATED, DONE, True)
    assert datetime.fromisoformat(task["updatedAt"]) > before
    east = {"title": "East", "completed": True, "completedAt": "2022-05-06T09:08:09.5+02:00"}
    assert (await create(user, east))["completedAt"] == DONE


@pytest.mark.parametrize("completed", [True, False, None])
async def test_a_new_task_can_be_completed(new_user: NewUser, create: Create, completed: object) -> None:
    """`completed: true` completes the task at its creation; false and null leave it open."""
    task = await create(await new_user(), {"title": "New", "completed": completed})

    assert task["completed"] is (completed is True)
    assert task["completedAt"] == (task["createdAt"] if completed else None)


WRONG: list[tuple[Json, list[str]]] = [
    ({"createdAt": "2099-01-01T00:00:00Z"}, ["createdAt"]),
    ({"completedAt": "9999-12-31T23:59:59-01:00"}, ["completedAt"]),
    ({"completedAt": "0001-01-01T00:00:00+01:00"}, ["completedAt"]),
    ({"createdAt": "0001-01-01T00:00:00+14:00"}, ["createdAt"]),
    ({"completed": False, "completedAt": DONE}, ["completedAt"]),
    ({"createdAt": "2099-01-01T00:00:00Z", "completedAt": "2099-01-01T00:00:00Z"}, ["completedAt", "createdAt"]),
]


@pytest.mark.parametrize(("content", "fields"), WRONG)
async def test_impossible_times_are_rejected(
    new_user: NewUser, create: Create, content: Json, fields: list[str]
) -> None:
    """A time in the future or out of range, and completedAt of an open task, are INVALID at their field."""
    user = await new_user()

    errors = (await create(user, {"title": "New", **content}))["errors"]

    assert [(error["code"], error["field"][-1]) for error in errors] == [("INVALID", field) for field in fields]
    assert (await user.data(SORTED))["tasks"]["nodes"] == []


async def test_clocks_may_differ_by_half_a_minute(new_user: NewUser, create: Create) -> None:
    """A client whose clock is a little fast may send its own time; a minute is too much."""
    user, now = await new_user(), datetime.now(UTC)

    soon = (now + timedelta(seconds=15)).isoformat()
    assert "errors" not in await create(user, {"title": "New", "createdAt": soon, "completedAt": soon})
    late = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    assert "errors" in await create(user, {"title": "New", "createdAt": late})


GIVEN: list[Json] = [
    {},
    {"completed": True},
    {"completed": False},
    {"completedAt": DONE},
    {"createdAt": CREATED},
    {"completed": True, "completedAt": DONE, "createdAt": CREATED},
]


@pytest.mark.parametrize("given", GIVEN)
async def test_a_repeated_create_returns_the_task(new_user: NewUser, create: Create, given: Json) -> None:
    """A retry gets the same task, by either mutation, and by each of two users their own."""
    user, other = await new_user(), await new_user()
    content = {"id": str(uuid4()), "title": "New", **given}

    made = await create(user, content)

    assert [await repeat(user, content) for repeat in (create, one, many)] == [made] * 3
    assert (await create(other, content))["id"] == made["id"]


@pytest.mark.parametrize("given", GIVEN)
async def test_what_was_given_is_compared(new_user: NewUser, create: Create, given: Json) -> None:
    """A repeated create must have the same members; an omitted one is the same as null and as its default."""
    user = await new_user()
    content = {"id": str(uuid4()), "title": "New"}
    made = await create(user, content | given)

    decided: Json = dict.fromkeys(("completed", "completedAt", "createdAt"))
    repeated = content | decided | {name: value for name, value in given.items() if value is not None}
    assert (await create(user, repeated))["version"] == made["version"]
    others: list[Json] = [
        {"createdAt": "2020-01-01T00:00:00Z"},
        {"completed": True, "completedAt": "2020-01-01T00:00:00Z"},
    ]
    if any(given.values()):
        others.append(decided)
    for other in others:
        errors = (await create(user, repeated | other))["errors"]
        assert [error["code"] for error in errors] == ["ID_TAKEN"]


async def test_a_create_that_is_repeated_after_a_change(new_user: NewUser, create: Create) -> None:
    """A task that was changed since is still the one that was created."""
    user = await new_user()
    content = {"id": str(uuid4()), "title": "New", "createdAt": CREATED}
    made = await create(user, content)
    await user.data(COMPLETE, id=made["id"], completed=True)

    assert (await create(user, content))["completed"] is True
    assert (await create(user, content | {"completed": False}))["completed"] is True
    assert (await create(user, content | {"completed": True}))["errors"][0]["code"] == "ID_TAKEN"


TITLES = [f"{place:02}" for place in range(40)]
TIED = ["CREATED_AT", "UPDATED_AT", "POSITION", "DUE_DATE", "PRIORITY", "COMPLETED_AT", "DELETED_AT"]


@pytest.mark.parametrize("more", [{}, {"completed": True}, {"createdAt": CREATED, "completedAt": DONE}])
@pytest.mark.parametrize("field", TIED)
async def test_the_tasks_of_a_request_keep_their_order(new_user: NewUser, field: str, more: Json) -> None:
    """Every order shows the tasks of one createTasks as they were given, or reversed."""
    user = await new_user()
    made = (await user.data(MANY, inputs=[{"title": title, **more} for title in TITLES]))["createTasks"]["tasks"]

    shown = {
        direction: [
            node["title"]
            for node in (await user.data(SORTED, by=[{"field": field, "direction": direction}]))["tasks"]["nodes"]
        ]
        for direction in ("ASC", "DESC")
    }

    assert shown == {"ASC": TITLES, "DESC": TITLES[::-1]}
    assert [task["id"] for task in made] == sorted(task["id"] for task in made)


async def test_each_task_of_a_request_is_later_than_the_one_before(new_user: NewUser) -> None:
    """By a microsecond, in all times that the server sets."""
    made = (await (await new_user()).data(MANY, inputs=[{"title": "x", "completed": True}] * 100))["createTasks"]
    for name in ("createdAt", "updatedAt", "completedAt"):
        times = [datetime.fromisoformat(task[name]) for task in made["tasks"]]
        assert {later - earlier for earlier, later in itertools.pairwise(times)} == {timedelta(microseconds=1)}
