"""Batches of writes: in order, in one transaction with one version, each with its own result."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random
from typing import Any

import asyncpg
import pytest
from conftest import ALL_FIELDS, ON_CLUSTER, Application, User, Wire, running
from declared import SCHEMA, inputs
from graphql import get_named_type
from mirror import Mirror
from test_retries import failing, tries

from app.models import MOST_TAGS_OF_USER
from app.settings import Settings

Json = dict[str, Any]
NewUser = Callable[..., Awaitable[User]]

RESULT = f"{{ task {{ {ALL_FIELDS} }} list {{ id name icon version deletedAt }} userErrors {{ code message field }} }}"
WRITE = f"mutation ($writes: [Write!]!) {{ write(writes: $writes) {RESULT} }}"
CLOCK = "SELECT version FROM task_clocks WHERE user_id = $1"
COUNTS = "SELECT tasks = (SELECT count(*) FROM tasks WHERE user_id = $1) FROM task_clocks WHERE user_id = $1"
SHOWN = f"""{{
    tasks(first: 100, orderBy: [{{ field: POSITION }}]) {{ nodes {{ {ALL_FIELDS} list {{ id }} }} }}
    trash: tasks(first: 100, filter: {{ trashed: true }}, orderBy: [{{ field: POSITION }}]) {{
        nodes {{ {ALL_FIELDS} list {{ id }} }}
    }}
    lists(first: 100) {{ nodes {{ id name icon }} }}
    trashedLists: lists(first: 100, filter: {{ trashed: true }}) {{ nodes {{ id name icon }} }}
    tags {{ name total }}
}}"""
# Members of Write that hold the `input` of their mutation itself.
PLAIN = ("createTask", "createList")


async def write(user: User, *writes: Json) -> list[Json]:
    results: list[Json] = (await user.data(WRITE, writes=list(writes)))["write"]
    return results


def codes(results: Sequence[Json]) -> list[Any]:
    """The code of each result, None if there is no error."""
    return [result["userErrors"][0]["code"] if result["userErrors"] else None for result in results]


def one(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


async def clock(owner: "asyncpg.Connection[Any]", user: User) -> int:
    version: int = await owner.fetchval(CLOCK, user.id)
    return version


# The schema


def test_each_mutation_of_one_object_is_a_write() -> None:
    """The members are named after the mutations, and have their arguments with the same types."""
    mutation = SCHEMA.mutation_type
    assert mutation
    alone = {
        name: field.args
        for name, field in mutation.fields.items()
        if not {"inputs", "where", "writes", "dryRun"} & field.args.keys()
    }
    members = inputs("Write")
    assert members.keys() == alone.keys()
    for name, arguments in alone.items():
        if name in PLAIN:
            assert get_named_type(arguments["input"].type) is get_named_type(members[name])
        else:
            given = inputs(get_named_type(members[name]).name)
            assert {key: str(type_) for key, type_ in given.items()} == {
                key: str(arg.type) for key, arg in arguments.items()
            }


# Results


async def test_later_writes_see_earlier_ones(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """An outbox of all kinds runs in order, with one version; another user has the same ids, and is not affected."""
    writes: list[Json] = [
        {"createList": {"id": one(9), "name": "Home"}},
        {"createTask": {"id": one(1), "title": "One", "listId": one(9), "tags": ["a"]}},
        {"createTask": {"id": one(2), "title": "Two"}},
        {"updateTask": {"id": one(1), "input": {"title": "Uno"}, "base": {"title": "One"}}},
        {"updateTask": {"id": one(1), "input": {"title": "Eins", "addTags": ["b"]}, "base": {"title": "Uno"}}},
        {"setTaskCompleted": {"id": one(2), "completed": True}},
        {"moveTask": {"id": one(2), "to": {"before": one(1)}}},
        {"renameTag": {"from": "a", "to": "c"}},
        {"updateTask": {"id": one(2), "input": {"tags": ["C", "d"]}}},
        {"deleteTag": {"name": "d"}},
        {"updateList": {"id": one(9), "input": {"icon": "x"}, "base": {"icon": None}}},
        {"moveList": {"id": one(9), "to": {"toStart": True}}},
        {"deleteList": {"id": one(9)}},
        {"restoreList": {"id": one(9)}},
        {"deleteTask": {"id": one(1)}},
        {"restoreTask": {"id": one(1)}},
    ]
    mirror = Mirror(alice)
    await mirror.catch_up()
    await write(bob, *writes[:3])
    before = await clock(owner, bob)

    results = await write(alice, *writes)

    assert codes(results) == [None] * len(writes)
    assert await clock(owner, alice) == 1
    shown = await alice.data(SHOWN)
    assert [(task["title"], task["tags"], task["version"]) for task in shown["tasks"]["nodes"]] == [
        ("Two", ["c"], 1),
        ("Eins", ["c", "b"], 1),
    ]
    assert [result["task"]["title"] for result in results[1:6]] == ["One", "Two", "Uno", "Eins", "Two"]
    assert [result["list"] for result in results[1:10]] == [None] * 9
    assert [bool(result["list"]["deletedAt"]) for result in results[12:14]] == [True, False]
    await mirror.catch_up()
    assert await mirror.is_exact(owner)
    assert await owner.fetchval(COUNTS, alice.id)
    assert (await bob.data(SHOWN))["tasks"]["nodes"][0]["title"] == "One"
    assert await clock(owner, bob) == before
    # The same batch again: creates and edits are recognized, and what it undoes is done again.
    again = await write(alice, *writes[:4])
    assert codes(again) == [None, None, None, "CONFLICT"]


async def test_a_batch_without_changes_leaves_the_clock(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """Repeated and rejected writes do not advance the clock, in one message and in several."""
    first: Json = {"createTask": {"id": one(1), "title": "One"}}
    await write(alice, first)
    version = await clock(owner, alice)
    done: Json = {"setTaskCompleted": {"id": one(1), "completed": False}}
    missing: Json = {"deleteTask": {"id": one(7)}}
    for writes in ([first], [first, first], [done], [missing], [first, done, missing, done], [missing, missing]):
        await write(alice, *writes)
        assert await clock(owner, alice) == version, writes
    assert (await write(alice, first))[0]["task"]["version"] == version
    assert codes(await write(alice, {"createTask": {"id": one(2), "title": "Two"}}, missing, first, missing)) == [
        None,
        "NOT_FOUND",
        None,
        "NOT_FOUND",
    ]
    assert await clock(owner, alice) == version + 1


async def test_rejected_writes(alice: User, bob: User) -> None:
    """Each has its own errors, with paths from the argument. The others are run."""
    await bob.add("Foreign", id=one(5))
    task = await alice.add("Mine", id=one(6))
    results = await write(
        alice,
        {"createTask": {"id": one(1), "title": " ", "tags": ["", "a"]}},
        {"updateTask": {"id": one(6), "input": {"title": "x" * 201, "dueDate": "2026-12-24"}}},
        {"updateTask": {"id": one(6), "input": {"priority": "LOW"}, "base": {"priority": "HIGH"}}},
        {"updateTask": {"id": one(6), "input": {"addTags": ["a"], "tags": []}}},
        {"updateTask": {"id": one(6), "input": {}, "base": {"title": "Mine"}}},
        {"updateTask": {"id": "6", "input": {"title": "x"}}},
        {"updateTask": {"id": one(6), "input": {"title": "a\0b"}}},
        {"updateTask": {"id": one(6), "input": {"listId": one(8)}}},
        {"setTaskCompleted": {"id": one(5), "completed": True}},
        {"setTaskCompleted": {"id": one(6), "completed": True, "expectedVersion": 99}},
        {"moveTask": {"id": one(6), "to": {"after": one(5)}}},
        {"moveTask": {"id": one(6), "to": {"toEnd": False}}},
        {"createTask": {"id": str(alice.id), "title": "My id"}},
        {"createTask": {"id": one(6), "title": "Taken"}},
        {"createList": {"id": one(6), "name": "Taken"}},
        {"renameTag": {"from": "a", "to": " "}},
        {"renameTag": {"from": "a", "to": "b"}},
        {"createTask": {"id": "7", "title": "Bad id"}},
        {"updateTask": {"id": one(6), "input": {"title": "T"}, "base": {"title": "a\0b"}}},
        {"createTask": {"id": one(2), "title": "Last"}},
    )
    fields = [[(error["code"], error["field"]) for error in result["userErrors"]] for result in results]
    assert fields == [
        [("BLANK", ["writes", "0", "createTask", "title"]), ("BLANK", ["writes", "0", "createTask", "tags", "0"])],
        [("TOO_LONG", ["writes", "1", "updateTask", "input", "title"])],
        [("CONFLICT", ["writes", "2", "updateTask", "input", "priority"])],
        [("INVALID", ["writes", "3", "updateTask", "input", "addTags"])],
        [("INVALID", ["writes", "4", "updateTask", "base", "title"])],
        [("INVALID", ["writes", "5", "updateTask", "id"])],
        [("INVALID", ["writes", "6", "updateTask", "input", "title"])],
        [("NOT_FOUND", ["writes", "7", "updateTask", "input", "listId"])],
        [("NOT_FOUND", ["writes", "8", "setTaskCompleted", "id"])],
        [("VERSION_CONFLICT", ["writes", "9", "setTaskCompleted", "expectedVersion"])],
        [("NOT_FOUND", ["writes", "10", "moveTask", "to"])],
        [("INVALID", ["writes", "11", "moveTask", "to"])],
        [("INVALID", ["writes", "12", "createTask", "id"])],
        [("ID_TAKEN", ["writes", "13", "createTask", "id"])],
        [("ID_TAKEN", ["writes", "14", "createList", "id"])],
        [("BLANK", ["writes", "15", "renameTag", "to"])],
        [("NOT_FOUND", ["writes", "16", "renameTag", "from"])],
        [("INVALID", ["writes", "17", "createTask", "id"])],
        [("INVALID", ["writes", "18", "updateTask", "base", "title"])],
        [],
    ]
    assert results[2]["task"] == task
    shown = (await alice.data(SHOWN))["tasks"]["nodes"]
    assert [(node["title"], node["priority"]) for node in shown] == [("Mine", "NONE"), ("Last", "NONE")]
    assert [node["completed"] for node in (await bob.data(SHOWN))["tasks"]["nodes"]] == [False]


@pytest.mark.parametrize("why", ["invalid", "taken"])
async def test_what_names_a_rejected_create(alice: User, why: str) -> None:
    """It is NOT_FOUND, even if an older row has the id, until a create succeeds; the others are run."""
    title = " " if why == "invalid" else "Other"
    await alice.add("Older", id=one(1))
    await write(alice, {"createList": {"id": one(8), "name": "Older"}})
    results = await write(
        alice,
        {"createTask": {"id": one(3), "title": "Beside"}},
        {"updateTask": {"id": one(1), "input": {"priority": "LOW"}}},
        {"createTask": {"id": one(1), "title": title}},
        {"createList": {"id": one(8), "name": title}},
        {"updateTask": {"id": one(1), "input": {"title": "Overwritten"}}},
        {"setTaskCompleted": {"id": one(1), "completed": True}},
        {"moveTask": {"id": one(3), "to": {"after": one(1)}}},
        {"deleteTask": {"id": one(1)}},
        {"deleteList": {"id": one(8)}},
        {"updateTask": {"id": one(3), "input": {"listId": one(8)}}},
        {"createTask": {"id": one(4), "title": "Within", "listId": one(8)}},
        {"deleteTask": {"id": one(4)}},
        {"createTask": {"id": one(1), "title": "Older"}},
        {"setTaskCompleted": {"id": one(1), "completed": True}},
    )
    code = "BLANK" if why == "invalid" else "ID_TAKEN"
    assert codes(results) == [None, None, code, code, *["NOT_FOUND"] * 8, None, None]
    assert results[6]["userErrors"][0]["field"] == ["writes", "6", "moveTask", "to"]
    assert results[9]["userErrors"][0]["field"] == ["writes", "9", "updateTask", "input", "listId"]
    assert results[10]["userErrors"][0]["field"] == ["writes", "10", "createTask", "listId"]
    shown = await alice.data(SHOWN)
    assert [(node["title"], node["completed"]) for node in shown["tasks"]["nodes"]] == [
        ("Older", True),
        ("Beside", False),
    ]
    assert [node["name"] for node in shown["lists"]["nodes"]] == ["Older"]


async def test_creates_and_moves_of_a_batch_have_different_places(alice: User) -> None:
    """They have one version, and are still in the order in which they were written."""
    await write(alice, *({"createTask": {"id": one(n), "title": str(n)}} for n in range(1, 6)))
    await write(alice, *({"moveTask": {"id": one(n), "to": {"toStart": True}}} for n in (4, 5)))
    await write(
        alice,
        {"moveTask": {"id": one(5), "to": {"toEnd": True}}},
        {"createTask": {"id": one(6), "title": "6"}},
        {"moveTask": {"id": one(1), "to": {"toEnd": True}}},
        {"moveTask": {"id": one(2), "to": {"before": one(4)}}},
        {"moveTask": {"id": one(3), "to": {"toStart": True}}},
    )
    await alice.add("7")
    nodes = (await alice.data(SHOWN))["tasks"]["nodes"]
    assert [node["title"] for node in nodes] == ["3", "2", "4", "5", "6", "1", "7"]
    assert len({node["position"] for node in nodes}) == 7


async def test_related_rows_are_shown(alice: User) -> None:
    """A payload may show what other rows contribute, as after the batch."""
    await write(alice, {"createList": {"id": one(9), "name": "Home"}})
    query = """mutation ($writes: [Write!]!) { write(writes: $writes) {
        task { title list { name taskStats { open } } } list { name taskStats { open } tasks { nodes { title } } }
        userErrors { code }
    } }"""
    writes = [
        {"createTask": {"title": "A", "listId": one(9)}},
        {"createTask": {"title": "B"}},
        {"createTask": {"title": " "}},
        {"updateList": {"id": one(9), "input": {"name": "House"}}},
    ]
    results = (await alice.data(query, writes=writes))["write"]
    house = {"name": "House", "taskStats": {"open": 1}}
    assert results[:3] == [
        {"task": {"title": "A", "list": house}, "list": None, "userErrors": []},
        {"task": {"title": "B", "list": None}, "list": None, "userErrors": []},
        {"task": None, "list": None, "userErrors": [{"code": "BLANK"}]},
    ]
    assert results[3]["list"] == {**house, "tasks": {"nodes": [{"title": "A"}]}}


# Errors of a single write that PostgreSQL raises


async def test_too_many_tags(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """A write with too many different tags is rejected, and the others are run."""
    await alice.add("Old", id=one(1))
    fill = "INSERT INTO user_tags SELECT $1, 'k' || n, 'k' || n FROM generate_series(1, $2) AS n"
    await owner.execute(fill, alice.id, MOST_TAGS_OF_USER - 1)
    version = await clock(owner, alice)
    many: list[Json] = [
        {"createTask": {"id": one(2), "title": "A", "tags": ["last"]}},
        {"createTask": {"id": one(3), "title": "B", "tags": ["more"]}},
        {"createTask": {"id": one(4), "title": "C", "tags": ["K1"]}},
    ]
    assert codes(await write(alice, *many)) == [None, "LIMIT_EXCEEDED", None]
    results = await write(
        alice,
        {"updateTask": {"id": one(1), "input": {"title": "New", "addTags": ["other"]}}},
        {"setTaskCompleted": {"id": one(1), "completed": True}},
        {"setTaskCompleted": {"id": one(3), "completed": True}},
        {"updateTask": {"id": one(1), "input": {"tags": ["k2"]}}},
    )
    assert codes(results) == ["LIMIT_EXCEEDED", None, "NOT_FOUND", None]
    assert results[0]["userErrors"][0]["field"] == ["writes", "0", "updateTask", "input", "addTags"]
    assert (results[3]["task"]["title"], results[3]["task"]["completed"]) == ("Old", True)
    assert await clock(owner, alice) == version + 2
    assert await owner.fetchval(COUNTS, alice.id)


async def test_no_room_between_two_tasks(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """All keys are renewed within the batch, which still has one version and the right order."""
    await write(alice, *({"createTask": {"id": one(n), "title": str(n)}} for n in range(1, 5)))
    for _ in range(4):
        before = await clock(owner, alice)
        moves: list[Json] = [{"moveTask": {"id": one((3, 4)[n % 2]), "to": {"after": one(1)}}} for n in range(98)]
        await write(alice, *moves)
        assert await clock(owner, alice) == before + 1
    mixed: list[Json] = [
        {"setTaskCompleted": {"id": one(2), "completed": True}},
        *moves,
        {"createTask": {"title": "5"}},
    ]
    assert codes(await write(alice, *mixed)) == [None] * 100
    nodes = (await alice.data(SHOWN))["tasks"]["nodes"]
    assert [node["title"] for node in nodes] == ["1", "4", "3", "2", "5"]
    assert all(len(node["position"]) <= 60 for node in nodes)


@pytest.fixture
async def small(settings: Settings) -> AsyncIterator[Application]:
    """An application with a quota of three tasks and one list."""
    async with running(settings.model_copy(update={"limit_tasks": 3, "limit_lists": 1})) as application:
        yield application


async def test_the_quota(small: Application, new_user: NewUser, owner: "asyncpg.Connection[Any]") -> None:
    """Creates beyond it are rejected one by one, and repeated ones succeed."""
    user = await new_user(small.http)
    tasks: list[Json] = [{"createTask": {"id": one(n), "title": str(n)}} for n in range(5)]
    lists: list[Json] = [{"createList": {"id": one(n), "name": str(n)}} for n in (7, 8)]
    assert codes(await write(user, *tasks)) == [None] * 3 + ["LIMIT_EXCEEDED"] * 2
    mixed = [tasks[4], {"deleteTask": {"id": one(4)}}, lists[0], tasks[0], lists[1], lists[0]]
    assert codes(await write(user, *mixed)) == ["LIMIT_EXCEEDED", "NOT_FOUND", None, None, "LIMIT_EXCEEDED", None]
    assert await owner.fetchval(COUNTS, user.id)
    assert await owner.fetchval("SELECT lists FROM task_clocks WHERE user_id = $1", user.id) == 1


# Transactions


KINDS: dict[str, Callable[[int], Json]] = {
    "createTask": lambda n: {
        "id": one(1000 + n),
        "title": "New",
        **({"completed": True, "tags": ["a"]} if n % 2 else {}),
    },
    "updateTask": lambda n: {
        "id": one(n + 1),
        "input": [{"title": "T"}, {"priority": "LOW", "addTags": ["x"]}, {"listId": one(900)}, {"tags": ["y"]}][n % 4],
        **({"base": {"title": "0"}} if n % 4 == 0 else {}),
        **({"expectedVersion": 1} if n % 3 else {}),
    },
    "setTaskCompleted": lambda n: {"id": one(n + 1), "completed": True},
    "moveTask": lambda n: {
        "id": one(n + 1),
        "to": [{"toStart": True}, {"toEnd": True}, {"before": one(n % 7 + 3)}, {"after": one(n % 5 + 4)}][n % 4],
    },
    "deleteTask": lambda n: {"id": one(n + 1)},
    "restoreTask": lambda n: {"id": one(n + 1)},
    "createList": lambda n: {"id": one(800 + n), "name": "New"},
    "updateList": lambda n: {"id": one(900), "input": {"name": f"{n}"} if n % 2 else {"icon": f"{n}"}},
    "moveList": lambda n: {"id": one(900), "to": {"toStart": True} if n % 2 else {"toEnd": True}},
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hundred_writes_of_one_kind_take_one_message(alice: User, wire: Wire, kind: str) -> None:
    """At most two round trips, whatever fields they have. On a cluster, one for each, and two for a create."""
    await write(
        alice,
        {"createList": {"id": one(900), "name": "Home"}},
        *({"createTask": {"id": one(n), "title": "0"}} for n in range(1, 100)),
    )
    await write(alice, {kind: KINDS[kind](0)})  # compiles the statement
    await wire.statements()

    results = await write(alice, *({kind: KINDS[kind](n)} for n in range(1, 101)))

    assert len(await wire.statements()) <= (204 if ON_CLUSTER else 2)
    assert len(results) == 100


async def test_messages_of_a_mixed_batch(alice: User, wire: Wire) -> None:
    """Each change of the kind is a message, besides two for the transaction."""
    writes: list[Json] = [{"createTask": {"id": one(n), "title": "A"}} for n in range(10)]
    writes += [{"setTaskCompleted": {"id": one(n), "completed": True}} for n in range(10)]  # an update, too
    writes += [{"updateTask": {"id": one(n), "input": {"title": "B"}}} for n in range(10)]
    await write(alice, *writes)
    await wire.statements()

    await write(alice, *writes, *writes[10:20], {"setTaskCompleted": {"id": one(0), "completed": False}})

    sent = [text.split()[0].rstrip(";") for text in await wire.statements()]
    assert sent == ["BEGIN", "WITH", "WITH", "COMMIT"]


async def test_batches_at_once(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Concurrent batches of one user do not mix; each has its version."""
    batches: list[list[Json]] = [
        [
            {"createTask": {"title": str(n)}},
            {"setTaskCompleted": {"id": one(1), "completed": bool(n % 2)}},
            {"createTask": {"title": str(n)}},
        ]
        for n in range(8)
    ]
    await write(alice, {"createTask": {"id": one(1), "title": "Shared"}})
    results = await asyncio.gather(*(write(user, *batch) for batch in batches for user in (alice, bob)))
    assert [codes(result) for result in results[::2]] == [[None] * 3] * 8
    assert [codes(result) for result in results[1::2]] == [[None, "NOT_FOUND", None]] * 8
    versions = [{result[place]["task"]["version"] for place in (0, 2)} for result in results]
    assert all(len(found) == 1 for found in versions)
    assert sorted(found for pair in versions[::2] for found in pair) == list(range(2, 10))
    assert await clock(owner, alice) == 9


@pytest.mark.parametrize("state", ["40001", "40P01"])
@pytest.mark.parametrize("is_mixed", [False, True])
async def test_an_undone_batch_is_run_again(
    alice: User, owner: "asyncpg.Connection[Any]", state: str, *, is_mixed: bool
) -> None:
    """All of it, once; nothing of the failed try stays."""
    await alice.add("Old", id=one(1))
    writes: list[Json] = [{"createTask": {"title": "A"}}, {"createTask": {"title": "B"}}]
    if is_mixed:
        writes.append({"updateTask": {"id": one(1), "input": {"title": "New"}}})
    async with failing(owner, alice, state, 2):
        assert codes(await write(alice, *writes)) == [None] * len(writes)
        assert await tries(owner) > 2
    assert await clock(owner, alice) == 2
    assert len((await alice.data(SHOWN))["tasks"]["nodes"]) == 3


@pytest.mark.parametrize("is_mixed", [False, True])
async def test_a_failed_batch_changes_nothing(alice: User, owner: "asyncpg.Connection[Any]", *, is_mixed: bool) -> None:
    """All or nothing for failures that are no one's input, and the connection stays usable."""
    await alice.add("Old", id=one(1))
    writes: list[Json] = [{"createTask": {"title": "A"}}, {"createTask": {"title": "B"}}]
    if is_mixed:
        writes.insert(0, {"updateTask": {"id": one(1), "input": {"title": "New"}}})
    async with failing(owner, alice, "57014", 1000):
        answer = await alice.ask(WRITE, writes=writes)
    assert (answer["data"], answer["errors"][0]["extensions"]["code"]) == (None, "UNAVAILABLE")
    assert await clock(owner, alice) == 1
    assert [node["title"] for node in (await alice.data(SHOWN))["tasks"]["nodes"]] == ["Old"]
    assert codes(await write(alice, *writes)) == [None] * len(writes)


# Limits


async def test_the_number_of_writes(alice: User) -> None:
    """None is fine, more than 100 are rejected as a whole."""
    assert await write(alice) == []
    answer = await alice.ask(WRITE, writes=[{"createTask": {"title": "A"}}] * 101)
    assert answer["errors"][0]["extensions"]["code"] == "LIMIT_EXCEEDED"
    assert (await alice.data(SHOWN))["tasks"]["nodes"] == []


async def test_a_write_has_one_member(alice: User) -> None:
    """As any @oneOf input."""
    for wrong in ({}, {"createTask": None}, {"deleteTask": {"id": one(1)}, "restoreTask": {"id": one(1)}}):
        answer = await alice.ask(WRITE, writes=[wrong])
        assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_the_cost(alice: User) -> None:
    """A batch costs two rows for each write that shows a description, and 100 more if it changes many rows."""
    many: list[Json] = [{"deleteTag": {"name": str(n)}} for n in range(20)]
    answer = await alice.ask(WRITE, writes=many)
    assert "The operation may touch 2,040 rows" in answer["errors"][0]["message"]
    assert codes(await write(alice, *many[:19])) == [None] * 19
    literal = " ".join(f'{{ deleteTag: {{ name: "{n}" }} }}' for n in range(20))
    answer = await alice.ask(f"mutation {{ write(writes: [{literal}]) {RESULT} }}")
    assert "The operation may touch 2,040 rows" in answer["errors"][0]["message"]


# The same as alone


SINGLE: dict[str, str] = {
    name: f"mutation ({', '.join(f'${key}: {arg.type}' for key, arg in field.args.items())}) {{ done: {name}("
    f"{', '.join(f'{key}: ${key}' for key in field.args)}) {{ userErrors {{ code field }} }} }}"
    for name, field in (SCHEMA.mutation_type.fields.items() if SCHEMA.mutation_type else ())
    if name in inputs("Write")
}


def drawn(random: Random) -> Json:
    """A write of any kind, on few tasks, lists and tags, so that many are rejected."""
    task, other, home = one(random.randrange(1, 6)), one(random.randrange(1, 6)), one(random.randrange(6, 9))
    tag, new = random.choice("abC"), random.choice("ABd")
    title = random.choice(["One", "Two", " ", "Three"])
    changes: list[Json] = [
        {"title": title},
        {"priority": random.choice([None, "HIGH"]), "description": random.choice([None, "D"])},
        {"addTags": [tag], "removeTags": [new]},
        {"tags": [tag, new]},
        {"listId": random.choice([None, home, one(99)])},
        {"completed": random.choice([True, False]), "dueDate": random.choice([None, "2026-12-24"])},
    ]
    change = random.choice(changes)
    base = {
        name: random.choice([value, None]) for name, value in change.items() if name not in {"addTags", "removeTags"}
    }
    place: Json = random.choice([{"toStart": True}, {"toEnd": True}, {"before": other}, {"after": other}])
    expected = random.choice([{}, {}, {}, {"expectedVersion": 1_000_000}])
    return random.choice(
        [
            {"createTask": {"id": task, "title": title, **random.choice([{}, {"listId": home}, {"tags": [tag]}])}},
            {"createTask": {"id": task, "title": "One", "completed": True}},
            {"updateTask": {"id": task, "input": change, **random.choice([{}, {"base": base}]), **expected}},
            {"updateTask": {"id": task, "input": change, "base": base}},
            {"setTaskCompleted": {"id": task, "completed": random.choice([True, False]), **expected}},
            {"moveTask": {"id": task, "to": place}},
            {"moveTask": {"id": task, "to": place}},
            {"deleteTask": {"id": task, **expected}},
            {"restoreTask": {"id": task}},
            {"createList": {"id": home, "name": random.choice(["L", "M"])}},
            {"createList": {"id": task, "name": "L"}},
            {"updateList": {"id": home, "input": {"name": title}, **random.choice([{}, {"base": {"name": "L"}}])}},
            {"moveList": {"id": home, "to": random.choice([{"toStart": True}, {"before": one(7)}])}},
            {"deleteList": {"id": home}},
            {"restoreList": {"id": home}},
            {"renameTag": {"from": tag, "to": new}},
            {"deleteTag": {"name": tag}},
        ]
    )


async def alone(user: User, writes: Sequence[Json]) -> list[Any]:
    """Run the writes as single mutations, but for those that name a rejected create."""
    found, rejected, made = list[Any](), set[str](), set[str]()
    for each in writes:
        ((name, given),) = each.items()
        inner = (
            given if name in PLAIN else {**given.get("input", {}), **(given["to"] if name.startswith("move") else {})}
        )
        names = {value for key, value in inner.items() if key in {"listId", "before", "after"}}
        if name not in PLAIN and "id" in given:
            names.add(given["id"])
        if names & (rejected - made):
            is_blank = " " in {inner.get("title"), inner.get("name")}  # found before anything is run
            found.append("BLANK" if is_blank else "NOT_FOUND")
        else:
            done = (await user.data(SINGLE[name], **({"input": given} if name in PLAIN else given)))["done"]
            found.append(done["userErrors"][0]["code"] if done["userErrors"] else None)
        if name in PLAIN:
            (rejected if found[-1] else made).add(given["id"])
    return found


def plain(shown: Json) -> Json:
    """What does not depend on versions and times."""

    def without(node: Json) -> Json:
        kept = {
            key: value for key, value in node.items() if key not in {"position", "version", "createdAt", "updatedAt"}
        }
        return {key: bool(value) if key in {"completedAt", "deletedAt"} else value for key, value in kept.items()}

    return {key: value if key == "tags" else [without(node) for node in value["nodes"]] for key, value in shown.items()}


@pytest.mark.parametrize("seed", range(12))
async def test_a_batch_equals_its_writes_alone(new_user: NewUser, owner: "asyncpg.Connection[Any]", seed: int) -> None:
    """Results and tables are the same as if the writes were sent one by one; a mirror receives all of it."""
    random = Random(seed)  # noqa: S311 - must be repeatable
    one_by_one, together = await new_user(), await new_user()
    mirror = Mirror(together)
    for _ in range(3):
        writes = [drawn(random) for _ in range(random.choice([5, 20, 40]))]
        before = await owner.fetchval(CLOCK, together.id) or 0
        assert codes(await write(together, *writes)) == await alone(one_by_one, writes)
        assert plain(await together.data(SHOWN)) == plain(await one_by_one.data(SHOWN))
        assert (await owner.fetchval(CLOCK, together.id) or 0) in {before, before + 1}
        await mirror.catch_up()
        assert await mirror.is_exact(owner)
    assert await owner.fetchval(COUNTS, together.id)
