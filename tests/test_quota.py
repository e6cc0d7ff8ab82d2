"""The quota of tasks per user, and the counter behind it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from conftest import ALL_FIELDS, BLOCKED, CREATE, Application, Server, User, connect, running, untold
from test_purge import purge

from app.database.rendering import Field, Selection
from app.entities.writing import Change, create_new
from app.identifiers import uuid7
from app.live.watching import WATCH
from app.settings import Settings
from app.tasks.fields import TASK

QUOTA = 5
CREATE_MANY = f"""
    mutation ($inputs: [CreateTaskInput!]!) {{
        createTasks(inputs: $inputs) {{
            tasks {{ {ALL_FIELDS} }} affectedCount userErrors {{ code message field }} token
        }}
    }}
"""
DELETE = "mutation ($id: ID!) { deleteTask(id: $id) { token } }"
RESTORE = "mutation ($id: ID!) { restoreTask(id: $id) { userErrors { code } } }"
TITLES = "{ tasks(first: 100, orderBy: [{ field: POSITION }]) { nodes { title } } }"
CLOCK = "SELECT version, purged_through, tasks FROM task_clocks WHERE user_id = $1"
COUNTS = """
    SELECT coalesce((SELECT tasks FROM task_clocks WHERE user_id = $1), 0) AS counter,
           (SELECT count(*) FROM tasks WHERE user_id = $1) AS number
"""
PAYLOAD = Selection("TaskPayload", (Field("task", "task", Selection("Task", (Field("id", "id"),))),))
INSERT = "INSERT INTO tasks (user_id, id, title) VALUES ($1, $2, 'x')"
INSERT_MANY = "INSERT INTO tasks (user_id, id, title) SELECT $1, gen_random_uuid(), 'x' FROM generate_series(1, $2)"

if TYPE_CHECKING:
    Owner = asyncpg.Connection[Any]
NewUser = Callable[..., Awaitable[User]]


@pytest.fixture
async def small(settings: Settings) -> AsyncIterator[Application]:
    """An application with a quota of five tasks per user."""
    async with running(settings.model_copy(update={"limit_tasks": QUOTA})) as application:
        yield application


@pytest.fixture
async def carol(small: Application, new_user: NewUser) -> User:
    return await new_user(small.http)


@pytest.fixture
async def dave(small: Application, new_user: NewUser) -> User:
    return await new_user(small.http)


async def made(user: User, **task: Any) -> dict[str, Any]:
    payload: dict[str, Any] = (await user.data(CREATE, input={"title": "A task", **task}))["createTask"]
    return payload


async def made_many(user: User, inputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    payload: dict[str, Any] = (await user.data(CREATE_MANY, inputs=inputs))["createTasks"]
    return payload


async def filled(user: User, number: int = QUOTA) -> list[dict[str, Any]]:
    """Create a number of tasks."""
    return [await user.add(str(place), id=str(uuid4())) for place in range(number)]


async def counted(owner: "Owner", user: User) -> int:
    """A user's number of tasks, after checking that the counter is correct."""
    row = await owner.fetchrow(COUNTS, user.id)
    assert row
    assert row["counter"] == row["number"]
    return int(row["number"])


def refused(payload: dict[str, Any], field: str, owned: int = QUOTA, quota: int = QUOTA) -> bool:
    """Whether a payload rejects a create for the quota, with a helpful message."""
    (error,) = payload["userErrors"]
    assert payload["token"]
    assert payload.get("task") is None
    assert payload.get("tasks", []) == []
    assert payload.get("affectedCount", 0) == 0
    for words in (f"own {owned} tasks", f"own {quota}", "Create fewer", "empty the trash"):
        assert words in error["message"]
    return (error["code"], error["field"]) == ("LIMIT_EXCEEDED", [field])


@pytest.mark.parametrize("with_id", [False, True])
async def test_one_task_too_many(
    carol: User,
    dave: User,
    owner: "Owner",
    wire: object,
    with_id: bool,  # noqa: FBT001 - a test parameter
) -> None:
    """At the quota createTask is rejected and writes nothing. Other users are not affected."""
    del wire
    await filled(carol)
    clock = await owner.fetchrow(CLOCK, carol.id)

    task = {"id": str(uuid4())} if with_id else {}
    assert refused(await made(carol, **task), "input")
    assert await owner.fetchrow(CLOCK, carol.id) == clock
    assert await counted(owner, carol) == QUOTA
    assert (await made(dave, **task))["userErrors"] == []
    assert await counted(owner, dave) == 1


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_many_tasks_are_all_or_none(carol: User, dave: User, owner: "Owner", number: int) -> None:
    """The field createTasks creates all tasks within the quota, or none. Other users are not affected."""
    await filled(carol, QUOTA - 2)
    clock = await owner.fetchrow(CLOCK, carol.id)
    inputs = [{"title": str(place)} for place in range(number)]

    payload = await made_many(carol, inputs)

    if number <= 2:
        assert (payload["userErrors"], payload["affectedCount"]) == ([], number)
        assert await counted(owner, carol) == QUOTA - 2 + number
    else:
        assert refused(payload, "inputs", owned=QUOTA - 2)
        assert await owner.fetchrow(CLOCK, carol.id) == clock
        assert await counted(owner, carol) == QUOTA - 2
    assert (await made_many(dave, inputs))["affectedCount"] == number


async def test_rejected_creates_send_no_notification(carol: User, server: Server, owner: "Owner") -> None:
    """If a user is followed, each create sends a notification, and rejected ones send none."""
    told: asyncio.Queue[str] = asyncio.Queue()
    listening = await connect(server.owner_url)
    await listening.add_listener("taskql", lambda *heard: told.put_nowait(heard[3]))
    await listening.execute(WATCH, [carol.id])
    await filled(carol)
    await made(carol)
    await made(carol, id=str(uuid4()))
    await made_many(carol, [{"title": "x"}])
    await owner.execute("NOTIFY taskql, 'the end'")

    heard = [await told.get() for _ in range(QUOTA + 1)]
    await listening.close()
    assert heard == [*(f"{carol.id} {version}" for version in range(1, QUOTA + 1)), "the end"]


async def test_the_same_task_again_at_the_quota(carol: User, owner: "Owner") -> None:
    """At and above the quota a repeated create returns the existing task, and is not counted again."""
    *_, task = await filled(carol)
    again = {"id": task["id"], "title": task["title"]}

    assert (await made(carol, **again))["task"] == task
    assert (await made_many(carol, [again]))["tasks"] == [task]
    await owner.execute(INSERT, carol.id, uuid4())
    assert (await made(carol, **again))["task"] == task
    assert (await made_many(carol, [again]))["tasks"] == [task]
    assert await counted(owner, carol) == QUOTA + 1


async def test_an_id_that_is_taken_at_the_quota(carol: User) -> None:
    """At the quota, a taken id is ID_TAKEN, and a new task next to it is LIMIT_EXCEEDED."""
    *_, task = await filled(carol)
    taken = {"id": task["id"], "title": "Other"}

    assert [error["code"] for error in (await made(carol, **taken))["userErrors"]] == ["ID_TAKEN"]
    errors = (await made_many(carol, [taken, {"title": "New"}]))["userErrors"]
    assert [(error["code"], error["field"]) for error in errors] == [
        ("ID_TAKEN", ["inputs", "0", "id"]),
        ("LIMIT_EXCEEDED", ["inputs"]),
    ]


async def test_known_and_new_tasks_together(carol: User, owner: "Owner") -> None:
    """The field createTasks counts only new tasks; if they exceed the quota, none is created."""
    task, *_ = await filled(carol, QUOTA - 1)
    known = {"id": task["id"], "title": task["title"]}

    assert refused(await made_many(carol, [known, {"title": "a"}, {"title": "b"}]), "inputs", owned=QUOTA - 1)
    assert (await made_many(carol, [known, {"title": "a"}]))["affectedCount"] == 2
    assert await counted(owner, carol) == QUOTA


async def test_the_trash_counts(carol: User, owner: "Owner", server: Server) -> None:
    """Trashed tasks count; purged ones do not."""
    task, *_ = await filled(carol)
    await carol.data(DELETE, id=task["id"])
    assert refused(await made(carol), "input")
    assert (await carol.data(RESTORE, id=task["id"]))["restoreTask"]["userErrors"] == []
    assert await counted(owner, carol) == QUOTA

    await carol.data(DELETE, id=task["id"])
    async with untold(owner):
        await owner.execute("UPDATE tasks SET deleted_at = '2000-01-01' WHERE id = $1", task["id"])
    assert purge(server, "1d")[0] == 0
    assert await counted(owner, carol) == QUOTA - 1
    assert (await made(carol))["userErrors"] == []
    assert refused(await made(carol), "input")


async def test_a_limit_that_was_lowered(alice: User, small: Application, owner: "Owner") -> None:
    """A user above a lowered quota can still change tasks, but not create any."""
    tasks = await filled(alice, QUOTA + 2)
    there = User(alice.id, alice.email, alice.token, small.http)

    assert refused(await made(there), "input", owned=QUOTA + 2)
    assert refused(await made_many(there, [{"title": "x"}]), "inputs", owned=QUOTA + 2)
    await there.data(DELETE, id=tasks[0]["id"])
    assert await counted(owner, alice) == QUOTA + 2


@pytest.mark.parametrize("with_id", [False, True])
async def test_creates_at_once(
    carol: User,
    dave: User,
    owner: "Owner",
    with_id: bool,  # noqa: FBT001 - a test parameter
) -> None:
    """Of concurrent creates, exactly as many succeed as the quota allows, for each of two users."""

    def task() -> dict[str, str]:
        return {"id": str(uuid4())} if with_id else {}

    payloads = await asyncio.gather(*(made(user, **task()) for _ in range(10) for user in (carol, dave)))

    assert sum(payload["userErrors"] == [] for payload in payloads) == 2 * QUOTA
    assert await counted(owner, carol) == await counted(owner, dave) == QUOTA


async def test_two_processes_at_once(settings: Settings, carol: User, owner: "Owner") -> None:
    """Two servers together allow no more than the quota."""
    async with running(settings.model_copy(update={"limit_tasks": QUOTA})) as other:
        users = [carol, User(carol.id, carol.email, carol.token, other.http)]
        payloads = await asyncio.gather(*(made(users[place % 2]) for place in range(20)))

    assert sum(payload["userErrors"] == [] for payload in payloads) == QUOTA
    assert await counted(owner, carol) == QUOTA


async def test_one_create_sent_many_times_counts_once(carol: User, owner: "Owner") -> None:
    """Concurrent and repeated creates with one id are one task."""
    task = {"id": str(uuid4()), "title": "Once"}

    payloads = await asyncio.gather(*(made(carol, **task) for _ in range(8)), *(made_many(carol, [task]) for _ in "ab"))

    assert [payload["userErrors"] for payload in payloads] == [[]] * 10
    assert await counted(owner, carol) == 1


async def test_a_create_that_is_retried_after_a_lost_connection(
    small: Application, carol: User, owner: "Owner"
) -> None:
    """The retry after a lost connection returns the task, and counts it once."""
    await filled(carol, QUOTA - 1)
    create = create_new(TASK, PAYLOAD, Change("create new", ("title",)))
    values = {"user_id": carol.id, "id": uuid7(), "title": "Lost", "quota": QUOTA, "made": 1, "counter": "tasks"}
    values["create_hash"] = None
    assert create.after_loss

    first = await small.database.write(carol.id, create, values)
    again = await small.database.write(carol.id, create.after_loss, values)

    assert (first["code"], first["task_0"]) == (again["code"], again["task_0"]) == (None, f'{{"id":"{values["id"]}"}}')
    assert await counted(owner, carol) == QUOTA


async def test_creates_of_one_operation(carol: User, owner: "Owner") -> None:
    """The creates of one operation are counted individually."""
    fields = " ".join(f'm{n}: createTask(input: {{ title: "{n}" }}) {{ userErrors {{ code }} }}' for n in range(7))

    answer = await carol.data(f"mutation {{ {fields} }}")

    codes = [[error["code"] for error in payload["userErrors"]] for payload in answer.values()]
    assert codes == [[]] * QUOTA + [["LIMIT_EXCEEDED"]] * 2
    assert await counted(owner, carol) == QUOTA


async def test_other_writes_count_nothing(carol: User, owner: "Owner") -> None:
    """Updates, moves, deletions, restores and rejected writes do not change the counter."""
    task, other, *_ = await filled(carol, 3)
    await carol.data(
        """mutation ($id: ID!, $other: ID!) {
            a: updateTask(id: $id, input: { title: "New" }) { token }
            b: moveTask(id: $id, to: { after: $other }) { token }
            c: updateTasks(where: { all: true }, input: { priority: LOW }) { token }
            d: deleteTasks(where: { all: true }) { token }
            e: restoreTasks(where: { ids: [$id, $other] }) { token }
            f: deleteTasks(where: { all: true }, atMost: 1) { token }
            g: createTask(input: { id: $id, title: "Taken" }) { token }
            h: createTask(input: { title: " " }) { token }
        }""",
        id=task["id"],
        other=other["id"],
    )

    assert await counted(owner, carol) == 3


# Direct SQL


async def test_inserts_by_sql_are_counted_and_not_refused(carol: User, dave: User, owner: "Owner") -> None:
    """INSERTs without a version are counted, and not rejected above the quota."""
    await owner.execute(INSERT, carol.id, uuid4())
    await owner.execute(INSERT_MANY, carol.id, QUOTA)
    await owner.execute(INSERT_MANY, dave.id, 2)

    assert await counted(owner, carol) == QUOTA + 1
    assert await counted(owner, dave) == 2
    assert refused(await made(carol), "input", owned=QUOTA + 1)
    assert (await made(dave))["userErrors"] == []


async def test_copies_are_counted(carol: User, owner: "Owner") -> None:
    """COPY without a version is counted like INSERT."""
    rows = [(carol.id, uuid4(), f"Copied {place}") for place in range(4)]
    await owner.copy_records_to_table("tasks", records=rows, columns=["user_id", "id", "title"])

    assert await counted(owner, carol) == 4


@pytest.mark.parametrize("conflict", ["DO NOTHING", "(user_id, id) DO UPDATE SET title = 'y'"])
async def test_inserts_that_meet_an_id_again(carol: User, owner: "Owner", conflict: str) -> None:
    """With ON CONFLICT only new rows are counted, also within one statement."""
    (task,) = await filled(carol, 1)
    await owner.execute(f"{INSERT} ON CONFLICT {conflict}", carol.id, task["id"])
    assert await counted(owner, carol) == 1

    twice = uuid4()
    if conflict == "DO NOTHING":
        await owner.execute(f"{INSERT}, ($1, $2, 'z') ON CONFLICT DO NOTHING", carol.id, twice)
        assert await counted(owner, carol) == 2
    with pytest.raises(asyncpg.UniqueViolationError):
        await owner.execute(INSERT, carol.id, task["id"])
    await counted(owner, carol)


async def test_the_same_id_by_two_sessions_at_once(carol: User, owner: "Owner", server: Server) -> None:
    """An INSERT that waits for a concurrent one of the same id, and then does nothing, is not counted."""
    other, task_id = await connect(server.owner_url), uuid4()
    async with owner.transaction():
        await owner.execute(INSERT, carol.id, task_id)
        waiting = asyncio.create_task(other.execute(f"{INSERT} ON CONFLICT DO NOTHING", carol.id, task_id))
        while not await owner.fetchval(BLOCKED):  # noqa: ASYNC110 - PostgreSQL sends no event
            await asyncio.sleep(0.01)
    await waiting
    await other.close()

    assert await counted(owner, carol) == 1


async def test_deletes_by_sql_make_room(carol: User, dave: User, owner: "Owner") -> None:
    """DELETEs of live and trashed tasks of several users are counted, and rolled back ones are not."""
    tasks, others = await filled(carol), await filled(dave)
    await carol.data(DELETE, id=tasks[1]["id"])
    await owner.execute("DELETE FROM tasks WHERE id = ANY ($1)", [task["id"] for task in (*tasks[:2], others[0])])
    assert (await counted(owner, carol), await counted(owner, dave)) == (QUOTA - 2, QUOTA - 1)
    assert (await made(carol))["userErrors"] == []

    undone = owner.transaction()
    await undone.start()
    await owner.execute("DELETE FROM tasks WHERE user_id = $1", carol.id)
    await undone.rollback()
    assert await counted(owner, carol) == QUOTA - 1
    await owner.execute("DELETE FROM tasks WHERE user_id = $1", carol.id)
    assert await counted(owner, carol) == 0


async def test_tasks_that_are_given_away(carol: User, dave: User, owner: "Owner") -> None:
    """A changed user_id moves the task to the other counter; a changed id does not."""
    tasks = await filled(carol, 3)
    await owner.execute("UPDATE tasks SET user_id = $1 WHERE id = $2", dave.id, tasks[0]["id"])
    await owner.execute("UPDATE tasks SET id = gen_random_uuid() WHERE id = $1", tasks[1]["id"])
    await owner.execute("UPDATE tasks SET title = 'y' WHERE user_id = $1", carol.id)

    assert (await counted(owner, carol), await counted(owner, dave)) == (2, 1)


async def test_deleted_users_leave_nothing(carol: User, dave: User, owner: "Owner") -> None:
    """Deleting a user deletes the user's counter, and changes no other."""
    await filled(carol, 2)
    await filled(dave, 3)
    await owner.execute("DELETE FROM users WHERE id = $1", carol.id)

    assert await owner.fetchrow(CLOCK, carol.id) is None
    assert await counted(owner, dave) == 3


async def test_a_counter_does_not_fall_below_zero(carol: User, owner: "Owner") -> None:
    """Deleting uncounted tasks does not make the counter negative."""
    await filled(carol, 1)
    await owner.execute(
        "INSERT INTO tasks (user_id, id, title, version, deleted_at) SELECT $1, gen_random_uuid(), 'x', 1, $2"
        " FROM generate_series(1, 3)",
        carol.id,
        datetime(2000, 1, 1, tzinfo=UTC),
    )
    await owner.execute("DELETE FROM tasks WHERE user_id = $1 AND deleted_at IS NOT NULL", carol.id)

    assert await owner.fetchval("SELECT tasks FROM task_clocks WHERE user_id = $1", carol.id) == 0


async def test_event_streams_have_the_same_quota(carol: User) -> None:
    """A mutation over an event stream is subject to the same quota."""
    await filled(carol)
    headers = {"Authorization": f"Bearer {carol.token}", "Accept": "text/event-stream"}
    body = {"query": CREATE, "variables": {"input": {"title": "x"}}}

    answer: httpx.Response = await carol.http.post("/graphql", json=body, headers=headers)

    assert '"LIMIT_EXCEEDED"' in answer.text
