"""Isolation between users by the query filter and by row-level security."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from conftest import ALL_FIELDS, Server, User, Wire, made_settings, running
from mirror import CHANGES
from sqlalchemy import ColumnElement, FromClause, true
from starlette.datastructures import Headers

from app.database.statements import Reader
from app.entities import writing
from app.identity.tokens import Authenticator
from app.models import TASKS
from schema import schema
from schema.engine.direct import core

Case = Callable[[User, User, dict[str, Any]], Awaitable[None]]

PAYLOAD = f"{{ task {{ {ALL_FIELDS} }} userErrors {{ code message field }} token }}"
VIEWER = "{ viewer { id email taskStats { total open completed overdue dueToday } } }"
TASK = f"query ($id: ID!) {{ task(id: $id) {{ {ALL_FIELDS} }} }}"
NODE = "query ($id: ID!) { node(id: $id) { __typename id ... on User { email } ... on Task { title } } }"
TASKS_PAGE = """
    query ($filter: TaskFilter, $after: String) {
        tasks(filter: $filter, after: $after, first: 100) { totalCount edges { cursor node { id title } } }
    }
"""
CREATE = f'mutation ($id: ID!) {{ createTask(input: {{id: $id, title: "Bob\'s"}}) {PAYLOAD} }}'
UPDATE = f'mutation ($id: ID!) {{ updateTask(id: $id, input: {{title: "Taken"}}) {PAYLOAD} }}'
COMPLETE = f"mutation ($id: ID!) {{ setTaskCompleted(id: $id, completed: true) {PAYLOAD} }}"
DELETE = f"mutation ($id: ID!) {{ deleteTask(id: $id) {PAYLOAD} }}"
MANY = f"{{ tasks {{ {ALL_FIELDS} }} affectedCount userErrors {{ code message field }} token }}"
UPDATE_MANY = f'mutation ($id: ID!) {{ updateTasks(where: {{ids: [$id]}}, input: {{title: "Taken"}}) {MANY} }}'
DELETE_MANY = f"mutation ($id: ID!) {{ deleteTasks(where: {{ids: [$id]}}) {MANY} }}"
RESTORE_MANY = f"mutation ($id: ID!) {{ restoreTasks(where: {{ids: [$id]}}) {MANY} }}"
CREATE_MANY = f'mutation ($id: ID!) {{ createTasks(inputs: [{{id: $id, title: "Bob\'s"}}]) {MANY} }}'
PURGE_MANY = f"mutation ($id: ID!) {{ purgeTasks(where: {{ids: [$id]}}) {MANY} }}"
PURGE_ALL = f"mutation {{ purgeTasks(where: {{all: true}}) {MANY} }}"
PURGE_LISTS = """mutation ($id: ID!) {
    purgeLists(where: { ids: [$id] }) { lists { id } affectedCount userErrors { code message field } token }
}"""
EMPTY_TRASH = "mutation { emptyTrash { affectedCount userErrors { code } } }"
DELETE_ALL = f"mutation {{ deleteTasks(where: {{all: true}}) {MANY} }}"
MOVE = f"mutation ($id: ID!) {{ moveTask(id: $id, to: {{toStart: true}}) {PAYLOAD} }}"
MOVE_BESIDE = f"mutation ($own: ID!, $id: ID!) {{ moveTask(id: $own, to: {{after: $id}}) {PAYLOAD} }}"
TAGS = "{ tags { name open total } }"
TAG = "{ tag { name open total } affectedCount userErrors { code message field } token }"
RENAME_TAG = f'mutation ($name: String!) {{ renameTag(from: $name, to: "taken") {TAG} }}'
DELETE_TAG = f"mutation ($name: String!) {{ deleteTag(name: $name) {TAG} }}"
LIST_FIELDS = "id name version deletedAt"
LIST_ROW = f"{LIST_FIELDS} taskStats {{ total }} tasks {{ nodes {{ title }} }}"
LIST_PAYLOAD = f"{{ list {{ {LIST_FIELDS} }} userErrors {{ code message field }} token }}"
ONE_LIST = f"query ($id: ID!) {{ list(id: $id) {{ {LIST_ROW} }} }}"
LISTS = f"{{ lists {{ totalCount nodes {{ {LIST_ROW} }} }} }}"
CREATE_LIST = f"mutation ($id: ID!, $name: String!) {{ createList(input: {{id: $id, name: $name}}) {LIST_PAYLOAD} }}"
CHANGES_OF_LISTS = {
    "updateList": f'mutation ($id: ID!) {{ updateList(id: $id, input: {{name: "Taken"}}) {LIST_PAYLOAD} }}',
    "moveList": f"mutation ($id: ID!) {{ moveList(id: $id, to: {{toStart: true}}) {LIST_PAYLOAD} }}",
    "deleteList": f"mutation ($id: ID!) {{ deleteList(id: $id) {LIST_PAYLOAD} }}",
    "restoreList": f"mutation ($id: ID!) {{ restoreList(id: $id) {LIST_PAYLOAD} }}",
}
RESTORE = f"mutation ($id: ID!) {{ restoreTask(id: $id) {PAYLOAD} }}"


async def viewer(_alice: User, bob: User, _task: dict[str, Any]) -> None:
    seen = (await bob.data(VIEWER))["viewer"]
    assert seen == {
        "id": str(bob.id),
        "email": bob.email,
        "taskStats": {"total": 0, "open": 0, "completed": 0, "overdue": 0, "dueToday": 0},
    }


async def tasks(alice: User, bob: User, task: dict[str, Any]) -> None:
    everything = (await alice.data(TASKS_PAGE))["tasks"]
    assert everything["totalCount"] == 1
    for matching in ({}, {"ids": [task["id"]]}, {"not": {"completed": True}}):
        assert (await bob.data(TASKS_PAGE, filter=matching))["tasks"] == {"totalCount": 0, "edges": []}
    answer = await bob.ask(TASKS_PAGE, after=everything["edges"][0]["cursor"])
    assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def changes(alice: User, bob: User, task: dict[str, Any]) -> None:
    own = await made_list(alice)
    hers = (await alice.data(CHANGES))["changes"]
    assert [*shown(hers)][:2] == [task["id"], own["id"]]
    assert (await bob.data(CHANGES))["changes"]["changes"] == []
    his_own = [(await made_list(bob))["id"], (await bob.add("Bob's"))["id"]]
    for token in (None, hers["token"], *(change["token"] for change in hers["changes"])):
        his = (await bob.data(CHANGES, since=token))["changes"]
        assert his["fullSync"] is True
        assert [*shown(his)][::2] == his_own
        assert len(his["changes"]) == 3


def shown(page: dict[str, Any]) -> Iterator[str]:
    """The ids of the rows that a page of changes shows."""
    for change in page["changes"]:
        yield change["task" if "task" in change else "list"]["id"]


async def same_as_missing(query: str, alice: User, bob: User, task: dict[str, Any]) -> None:
    """Another user's id and a nonexistent one get identical responses, and change nothing."""
    foreign = await bob.post(query, {"id": task["id"]})
    missing = await bob.post(query, {"id": str(uuid4())})
    assert foreign.status_code == missing.status_code == 200
    assert foreign.content == missing.content
    assert comparable(foreign.headers) == comparable(missing.headers)
    assert (await alice.data(TASK, id=task["id"]))["task"] == task


def comparable(headers: httpx.Headers) -> dict[str, str]:
    return {name: value for name, value in Headers(headers).items() if name != "x-request-id"}


def reading_or_changing(query: str) -> Case:
    async def case(alice: User, bob: User, task: dict[str, Any]) -> None:
        await same_as_missing(query, alice, bob, task)

    return case


async def create_task(alice: User, bob: User, task: dict[str, Any]) -> None:
    made = (await bob.data(CREATE, id=task["id"]))["createTask"]
    assert (made["task"]["id"], made["task"]["title"], made["userErrors"]) == (task["id"], "Bob's", [])
    assert (await alice.data(TASK, id=task["id"]))["task"] == task


async def create_tasks(alice: User, bob: User, task: dict[str, Any]) -> None:
    made = (await bob.data(CREATE_MANY, id=task["id"]))["createTasks"]
    assert (made["tasks"][0]["id"], made["tasks"][0]["title"], made["userErrors"]) == (task["id"], "Bob's", [])
    assert (await alice.data(TASK, id=task["id"]))["task"] == task


async def delete_tasks(alice: User, bob: User, task: dict[str, Any]) -> None:
    await same_as_missing(DELETE_MANY, alice, bob, task)
    assert (await bob.data(DELETE_ALL))["deleteTasks"]["affectedCount"] == 0
    assert (await alice.data(TASK, id=task["id"]))["task"] == task


async def move_task(alice: User, bob: User, task: dict[str, Any]) -> None:
    await same_as_missing(MOVE, alice, bob, task)
    own = (await bob.add())["id"]
    foreign, missing = [await bob.post(MOVE_BESIDE, {"own": own, "id": at}) for at in (task["id"], str(uuid4()))]
    assert foreign.content == missing.content
    assert foreign.json()["data"]["moveTask"]["userErrors"][0]["code"] == "NOT_FOUND"


async def tags(alice: User, bob: User, _task: dict[str, Any]) -> None:
    await alice.add(tags=["hers"])
    assert (await bob.data(TAGS))["tags"] == []
    await bob.add(tags=["HERS"])
    assert (await bob.data(TAGS))["tags"] == [{"name": "HERS", "open": 1, "total": 1}]
    assert (await alice.data(TAGS))["tags"] == [{"name": "hers", "open": 1, "total": 1}]


def changing_a_tag(query: str) -> Case:
    async def case(alice: User, bob: User, _task: dict[str, Any]) -> None:
        tagged = await alice.add(tags=["hers", "both"])
        foreign = await bob.post(query, {"name": "hers"})
        missing = await bob.post(query, {"name": "nobody's"})
        assert foreign.content == missing.content
        his = await bob.add(tags=["both"])
        assert next(iter((await bob.data(query, name="both")).values()))["affectedCount"] == 1
        assert (await bob.data(TASK, id=his["id"]))["task"]["tags"] != ["both"]
        assert (await alice.data(TASK, id=tagged["id"]))["task"] == tagged

    return case


async def lists(alice: User, bob: User, _task: dict[str, Any]) -> None:
    one = await made_list(alice)
    assert (await alice.data(LISTS))["lists"] == {"totalCount": 1, "nodes": [shown_list(one)]}
    assert (await bob.data(LISTS))["lists"] == {"totalCount": 0, "nodes": []}


async def list_(alice: User, bob: User, _task: dict[str, Any]) -> None:
    await list_like_a_missing_one(ONE_LIST, alice, bob)


async def create_list(alice: User, bob: User, task: dict[str, Any]) -> None:
    one = await made_list(alice)
    for list_id in (one["id"], task["id"]):
        made = (await bob.data(CREATE_LIST, id=list_id, name="Bob's"))["createList"]
        assert (made["list"]["id"], made["list"]["name"], made["userErrors"]) == (list_id, "Bob's", [])
    assert (await alice.data(ONE_LIST, id=one["id"]))["list"] == shown_list(one)


async def move_list(alice: User, bob: User, _task: dict[str, Any]) -> None:
    one = await list_like_a_missing_one(CHANGES_OF_LISTS["moveList"], alice, bob)
    own = (await made_list(bob))["id"]
    query = f"mutation ($own: ID!, $id: ID!) {{ moveList(id: $own, to: {{ after: $id }}) {LIST_PAYLOAD} }}"
    foreign, missing = [await bob.post(query, {"own": own, "id": at}) for at in (one["id"], str(uuid4()))]
    assert foreign.content == missing.content


def changing_a_list(name: str) -> Case:
    async def case(alice: User, bob: User, _task: dict[str, Any]) -> None:
        await list_like_a_missing_one(CHANGES_OF_LISTS[name], alice, bob)

    return case


async def made_list(user: User) -> dict[str, Any]:
    """A list with a task."""
    made: dict[str, Any] = (await user.data(CREATE_LIST, id=str(uuid4()), name="Alice's"))["createList"]["list"]
    await user.add("In a list", listId=made["id"])
    return made


def shown_list(one: dict[str, Any]) -> dict[str, Any]:
    return {**one, "taskStats": {"total": 1}, "tasks": {"nodes": [{"title": "In a list"}]}}


async def list_like_a_missing_one(query: str, alice: User, bob: User) -> dict[str, Any]:
    """Another user's list and a nonexistent one get identical responses, and change nothing. Returns the list."""
    one = await made_list(alice)
    foreign, missing = [await bob.post(query, {"id": wanted}) for wanted in (one["id"], str(uuid4()))]
    assert foreign.status_code == missing.status_code == 200
    assert foreign.content == missing.content
    assert (await alice.data(ONE_LIST, id=one["id"]))["list"] == shown_list(one)
    return one


async def purge_tasks(alice: User, bob: User, task: dict[str, Any]) -> None:
    """Another user's trash is like missing, and a purge of everything leaves it."""
    await alice.data(DELETE, id=task["id"])
    foreign, missing = [await bob.post(PURGE_MANY, {"id": wanted}) for wanted in (task["id"], str(uuid4()))]
    assert foreign.content == missing.content
    assert (await bob.data(PURGE_ALL))["purgeTasks"]["affectedCount"] == 0
    assert (await alice.data(TASK, id=task["id"]))["task"]["deletedAt"]
    await alice.data(PURGE_MANY, id=task["id"])
    assert (await bob.data(CREATE, id=task["id"]))["createTask"]["userErrors"] == []


async def purge_lists(alice: User, bob: User, _task: dict[str, Any]) -> None:
    """Another user's lists in the trash are like missing ones."""
    one = await made_list(alice)
    await alice.data(CHANGES_OF_LISTS["deleteList"], id=one["id"])
    foreign, missing = [await bob.post(PURGE_LISTS, {"id": wanted}) for wanted in (one["id"], str(uuid4()))]
    assert foreign.content == missing.content
    assert (await alice.data(ONE_LIST, id=one["id"]))["list"]["deletedAt"]


async def empty_trash(alice: User, bob: User, task: dict[str, Any]) -> None:
    """Only the user's own trash is emptied."""
    await alice.data(DELETE, id=task["id"])
    assert (await bob.data(EMPTY_TRASH))["emptyTrash"]["affectedCount"] == 0
    assert (await alice.data(TASK, id=task["id"]))["task"]["deletedAt"]


WRITE = """mutation ($writes: [Write!]!) {
    write(writes: $writes) { task { id } list { id } userErrors { code message field } }
}"""


async def write(alice: User, bob: User, task: dict[str, Any]) -> None:
    """In a batch, too, another user's tasks and lists are like missing ones."""
    one, before = await made_list(alice), await alice.data(TASK, id=task["id"])
    answers = []
    for task_id, list_id in ((task["id"], one["id"]), (str(uuid4()), str(uuid4()))):
        of_tasks: dict[str, dict[str, Any]] = {
            "updateTask": {"input": {"title": "Bob's"}, "base": {"title": "Alice's"}},
            "setTaskCompleted": {"completed": True},
            "moveTask": {"to": {"toStart": True}},
            "deleteTask": {},
            "restoreTask": {},
        }
        of_lists: dict[str, dict[str, Any]] = {
            "updateList": {"input": {"name": "Bob's"}},
            "deleteList": {},
            "restoreList": {},
        }
        writes: list[Any] = [{name: {"id": task_id, **more}} for name, more in of_tasks.items()]
        writes += [{name: {"id": list_id, **more}} for name, more in of_lists.items()]
        writes.append({"createTask": {"title": "Bob's", "listId": list_id}})
        answers.append((await bob.post(WRITE, {"writes": writes})).content)
    assert answers[0] == answers[1]
    assert answers[0].count(b"NOT_FOUND") == 9
    assert await alice.data(TASK, id=task["id"]) == before


CASES: dict[str, Case] = {
    "write": write,
    "purgeTasks": purge_tasks,
    "purgeLists": purge_lists,
    "emptyTrash": empty_trash,
    "list": list_,
    "lists": lists,
    "createList": create_list,
    "moveList": move_list,
    **{name: changing_a_list(name) for name in ("updateList", "deleteList", "restoreList")},
    "viewer": viewer,
    "node": reading_or_changing(NODE),
    "task": reading_or_changing(TASK),
    "tasks": tasks,
    "changes": changes,
    "tags": tags,
    "renameTag": changing_a_tag(RENAME_TAG),
    "deleteTag": changing_a_tag(DELETE_TAG),
    "createTask": create_task,
    "updateTask": reading_or_changing(UPDATE),
    "setTaskCompleted": reading_or_changing(COMPLETE),
    "deleteTask": reading_or_changing(DELETE),
    "restoreTask": reading_or_changing(RESTORE),
    "moveTask": move_task,
    "createTasks": create_tasks,
    "updateTasks": reading_or_changing(UPDATE_MANY),
    "deleteTasks": delete_tasks,
    "restoreTasks": reading_or_changing(RESTORE_MANY),
}


def test_every_root_field_has_a_case() -> None:
    """Every root field must have an isolation case with two users."""
    roots = [core(schema).query_type, core(schema).mutation_type, core(schema).subscription_type]

    assert set(CASES) == {name for root in roots if root for name in root.fields}


@pytest.mark.parametrize("field", CASES)
async def test_another_user_sees_and_changes_nothing(field: str, alice: User, bob: User) -> None:
    """Bob can neither see nor change Alice's task."""
    task = await alice.add("Alice's", description="Hers alone")

    await CASES[field](alice, bob, task)


async def test_another_users_trash_is_like_a_missing_task(alice: User, bob: User) -> None:
    """A task in another user's trash is indistinguishable from a missing one."""
    task = await alice.add()
    await alice.data(DELETE, id=task["id"])
    trashed = (await alice.data(TASK, id=task["id"]))["task"]

    await same_as_missing(RESTORE, alice, bob, trashed)


async def test_without_the_first_wall_reads_leak_nothing(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the filter by owner in reads, row-level security alone hides Alice's tasks from Bob."""
    task = await alice.add(tags=["hers"])
    await bob.add("Bob's", tags=["his"])
    monkeypatch.setattr(Reader, "owns", unguarded)
    monkeypatch.setattr(Reader, "is_in", unguarded)

    page = (await bob.data(TASKS_PAGE + "# unguarded"))["tasks"]

    assert [edge["node"]["title"] for edge in page["edges"]] == ["Bob's"]
    assert page["totalCount"] == 1
    assert (await bob.data(TASK + "# unguarded", id=task["id"]))["task"] is None
    assert (await bob.data(NODE + "# unguarded", id=task["id"]))["node"] is None
    await viewer_with_one_task(bob)
    listed = await made_list(alice)
    own = await made_list(bob)
    assert [one["id"] for one in (await bob.data(LISTS + "# unguarded"))["lists"]["nodes"]] == [own["id"]]
    assert (await bob.data(ONE_LIST + "# unguarded", id=listed["id"]))["list"] is None
    await bob.data("mutation { deleteTasks(where: { filter: { list: { isNull: false } } }) { token } }")
    changes = (await bob.data(CHANGES + "# unguarded"))["changes"]["changes"]
    assert [change["task"]["title"] for change in changes if "task" in change] == ["Bob's"]
    assert [change["list"]["id"] for change in changes if "list" in change] == [own["id"]]
    assert len(changes) == 2
    assert [tag["name"] for tag in (await bob.data(TAGS + "# unguarded"))["tags"]] == ["his"]


async def viewer_with_one_task(user: User) -> None:
    seen = (await user.data(VIEWER + "# unguarded"))["viewer"]
    assert (seen["id"], seen["email"], seen["taskStats"]["total"]) == (str(user.id), user.email, 1)


def unguarded(_reader: Reader, _table: FromClause) -> ColumnElement[bool]:
    return true()


async def test_without_the_first_wall_writes_change_nothing(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the filter by owner in writes, row-level security alone prevents Bob from changing Alice's tasks."""
    task = await alice.add()
    await bob.add()
    monkeypatch.setattr(writing, "user_id", lambda: TASKS.c.user_id)

    for query in (UPDATE, COMPLETE, DELETE):
        answer = await bob.ask(query + "# unguarded", id=task["id"])
        assert answer.get("data") is None or next(iter(answer["data"].values()))["task"] is None

    monkeypatch.undo()
    assert (await alice.data(TASK, id=task["id"]))["task"] == task


async def test_without_a_user_there_are_no_rows(server: Server, alice: User) -> None:
    """The server's role sees no rows before it acts as a user, nor after that transaction."""
    await alice.add()
    connection = await asyncpg.connect(server.app_url)
    async with connection.transaction():
        await connection.execute(f"SELECT act_in_transaction('{alice.id}')")
        assert await connection.fetchval("SELECT count(*) FROM tasks") == 1
        assert await connection.fetchval("SELECT count(*) FROM users") == 1

    for table in ("tasks", "task_clocks", "task_tags", "user_tags", "task_lists", "tombstones", "users"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608 - constants of this module
    await connection.close()


async def test_a_write_as_another_user_is_refused(server: Server, alice: User, bob: User) -> None:
    """Row-level security checks written rows as well as reads."""
    connection = await asyncpg.connect(server.app_url)
    insert = "INSERT INTO tasks (user_id, id, title, position, version) VALUES ($1, gen_random_uuid(), 'x', 'a', 1)"
    await connection.execute(f"BEGIN; SET LOCAL app.user_id = '{bob.id}'")

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(insert, alice.id)
    await connection.close()


async def test_interleaved_requests_on_two_connections_leak_nothing(
    server: Server, new_user: Callable[..., Awaitable[User]]
) -> None:
    """In 10,000 alternating requests of two users on a pool of two connections, each sees only their own tasks."""
    settings = made_settings(server, db_pool_size=2)
    async with running(settings) as application:
        users = [await new_user(application.http), await new_user(application.http)]
        for user in users:
            await user.add(f"of {user.id}")
        turns = iter(range(10_000))

        async def take_turns() -> None:
            for turn in turns:
                await look(users[turn % 2], writes=turn % 20 < 2)

        await asyncio.gather(*(take_turns() for _ in range(8)))


async def look(user: User, *, writes: bool) -> None:
    if writes:
        made = await user.add(f"of {user.id}")
        assert made["title"] == f"of {user.id}"
    else:
        titles = {edge["node"]["title"] for edge in (await user.data(TASKS_PAGE))["tasks"]["edges"]}
        assert titles == {f"of {user.id}"}


async def test_siblings_all_succeed(alice: User, wire: Wire) -> None:
    """Ten root fields of one query are executed concurrently, in one statement each."""
    task = await alice.add()
    await wire.statements()
    fields = " ".join(f't{n}: task(id: "{task["id"]}") {{ title }}' for n in range(10))

    data = await alice.data(f"{{ {fields} }}")

    assert list(data.values()) == [{"title": "A task"}] * 10
    assert len(await wire.statements()) == 10


async def test_the_token_is_decoded_once(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request verifies its token once, however many fields use the caller."""
    decoded: list[str | None] = []
    verify = Authenticator.principal

    def counting(self: Authenticator, authorization: str | None, address: str) -> Any:
        decoded.append(authorization)
        return verify(self, authorization, address)

    monkeypatch.setattr(Authenticator, "principal", counting)
    await alice.data("{ a: viewer { id } b: viewer { id } tasks { totalCount } }")

    assert len(decoded) == 1

    await alice.http.post("/graphql", json={"query": "{ a: viewer { id } b: viewer { id } c: viewer { id } }"})
    assert len(decoded) == 2
