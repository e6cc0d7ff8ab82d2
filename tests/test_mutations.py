"""The five writes of one task: their effects, their rejections, and their cost in statements."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import ALL_FIELDS, CREATE, CREATION, ON_CLUSTER, WRITE, User, Wire

from app.database import database

PAYLOAD = f"{{ task {{ {ALL_FIELDS} }} userErrors {{ code message field }} token }}"
UPDATE = f"""
    mutation ($id: ID!, $input: UpdateTaskInput!, $version: Int) {{
        updateTask(id: $id, input: $input, expectedVersion: $version) {PAYLOAD}
    }}
"""
COMPLETE = f"""
    mutation ($id: ID!, $completed: Boolean!, $version: Int) {{
        setTaskCompleted(id: $id, completed: $completed, expectedVersion: $version) {PAYLOAD}
    }}
"""
DELETE = f"mutation ($id: ID!, $version: Int) {{ deleteTask(id: $id, expectedVersion: $version) {PAYLOAD} }}"
RESTORE = f"mutation ($id: ID!) {{ restoreTask(id: $id) {PAYLOAD} }}"
TASK = f"query ($id: ID!) {{ task(id: $id) {{ {ALL_FIELDS} }} }}"

FULL: dict[str, Any] = {
    "title": "Send the report",
    "description": 'With "quotes", a \\ and\na new line',
    "priority": "HIGH",
    "dueDate": "2026-12-24",
    "tags": ["work", "writing"],
}


async def create(user: User, **task: Any) -> dict[str, Any]:
    result: dict[str, Any] = (await user.data(CREATE, input=task))["createTask"]
    return result


async def update(user: User, task_id: str, version: int | None = None, **changes: Any) -> dict[str, Any]:
    data = await user.data(UPDATE, id=task_id, input=changes, version=version)
    result: dict[str, Any] = data["updateTask"]
    return result


async def fetch(user: User, task_id: str) -> Any:
    return (await user.data(TASK, id=task_id))["task"]


def problem(payload: dict[str, Any]) -> tuple[str, list[str] | None]:
    (error,) = payload["userErrors"]
    return error["code"], error["field"]


async def test_create_needs_only_a_title(alice: User) -> None:
    """Omitted fields have the schema's defaults."""
    task = await alice.add("Rest")

    assert UUID(task["id"]).version == 7
    assert (task["title"], task["description"], task["priority"]) == ("Rest", None, "NONE")
    assert (task["completed"], task["completedAt"], task["dueDate"], task["tags"]) == (False, None, None, [])
    assert task["deletedAt"] is None
    assert task["createdAt"] == task["updatedAt"]
    assert abs((datetime.now(UTC) - datetime.fromisoformat(task["createdAt"])).total_seconds()) < 60


async def test_create_keeps_everything_given(alice: User) -> None:
    """A created task reads back unchanged."""
    task = await alice.add(**FULL)

    assert {name: task[name] for name in FULL} == FULL
    assert await fetch(alice, task["id"]) == task


async def test_create_with_an_id_may_be_repeated(alice: User) -> None:
    """Repeating a create with the same id and content returns the existing task and writes nothing."""
    new = {**FULL, "id": str(uuid4())}
    first = await create(alice, **new)

    assert first["task"]["id"] == new["id"]
    assert await create(alice, **new) == first


async def test_create_with_a_taken_id_is_refused(alice: User) -> None:
    """The same id with different content is ID_TAKEN, and the task stays unchanged."""
    task = await alice.add(id=str(uuid4()))

    refused = await create(alice, id=task["id"], title="Something else")

    assert problem(refused) == ("ID_TAKEN", ["input", "id"])
    assert await fetch(alice, task["id"]) == task


async def test_the_accounts_id_is_no_task_id(alice: User) -> None:
    """A task cannot have its user's id: node ids are unique per user."""
    assert problem(await create(alice, id=str(alice.id), title="Me")) == ("INVALID", ["input", "id"])


async def test_null_means_nothing_in_create(alice: User) -> None:
    """Null fields are treated as omitted."""
    task = await alice.add(id=None, description=None, priority=None, dueDate=None, tags=None)

    assert (task["description"], task["priority"], task["dueDate"], task["tags"]) == (None, "NONE", None, [])


async def test_update_keeps_what_is_omitted(alice: User) -> None:
    """An update changes the given field, version and updatedAt only."""
    task = await alice.add(**FULL)

    changed = (await update(alice, task["id"], title="Send it"))["task"]

    assert changed["version"] > task["version"]
    assert changed["updatedAt"] > task["updatedAt"]
    expected = {**task, "title": "Send it", "version": changed["version"], "updatedAt": changed["updatedAt"]}
    assert changed == expected


async def test_update_clears_what_is_null(alice: User) -> None:
    """Null clears every optional field."""
    task = await alice.add(**FULL)

    changed = (await update(alice, task["id"], description=None, priority=None, dueDate=None, tags=None))["task"]

    assert (changed["description"], changed["priority"], changed["dueDate"], changed["tags"]) == (
        None,
        "NONE",
        None,
        [],
    )


@pytest.mark.parametrize(("field", "code"), [("title", "BLANK"), ("completed", "INVALID")])
async def test_update_cannot_clear_required_fields(alice: User, field: str, code: str) -> None:
    """Null for a required field is a userError of that field."""
    task = await alice.add()

    assert problem(await update(alice, task["id"], **{field: None})) == (code, ["input", field])
    assert await fetch(alice, task["id"]) == task


async def test_an_update_to_the_same_writes_nothing(alice: User) -> None:
    """An update without changes keeps the task's version and the clock."""
    first = await create(alice, **FULL)

    again = await update(alice, first["task"]["id"], title=FULL["title"], tags=FULL["tags"])

    assert again == first


async def test_completing_sets_the_time_and_opening_clears_it(alice: User) -> None:
    """`completedAt` follows `completed`, and a repeated call changes neither."""
    task = await alice.add()

    done = (await alice.data(COMPLETE, id=task["id"], completed=True))["setTaskCompleted"]
    again = (await alice.data(COMPLETE, id=task["id"], completed=True))["setTaskCompleted"]
    renamed = await update(alice, task["id"], title="Done thing", completed=True)
    opened = (await alice.data(COMPLETE, id=task["id"], completed=False))["setTaskCompleted"]

    assert done["task"]["completed"]
    assert done["task"]["completedAt"] == done["task"]["updatedAt"]
    assert again == done
    assert renamed["task"]["completedAt"] == done["task"]["completedAt"]
    assert (opened["task"]["completed"], opened["task"]["completedAt"]) == (False, None)


async def test_a_stale_version_changes_nothing(alice: User) -> None:
    """A stale version is VERSION_CONFLICT with the current task."""
    task = await alice.add()
    current = (await update(alice, task["id"], title="First"))["task"]

    for refused in (
        await update(alice, task["id"], version=task["version"], title="Second"),
        (await alice.data(COMPLETE, id=task["id"], completed=True, version=task["version"]))["setTaskCompleted"],
        (await alice.data(DELETE, id=task["id"], version=task["version"]))["deleteTask"],
    ):
        assert problem(refused) == ("VERSION_CONFLICT", ["expectedVersion"])
        assert refused["task"] == current
    assert await fetch(alice, task["id"]) == current


async def test_the_right_version_lets_a_write_through(alice: User) -> None:
    """Each write returns the version that the next one expects."""
    task = await alice.add()

    task = (await update(alice, task["id"], version=task["version"], title="First"))["task"]
    payload = (await alice.data(DELETE, id=task["id"], version=task["version"]))["deleteTask"]

    assert payload["userErrors"] == []
    assert payload["task"]["deletedAt"] is not None


async def test_deleted_is_in_the_trash_and_comes_back_as_it_was(alice: User) -> None:
    """Restoring changes only version and updatedAt; deleting and restoring can be repeated."""
    task = await alice.add(**FULL)

    deleted = (await alice.data(DELETE, id=task["id"]))["deleteTask"]
    assert (await alice.data(DELETE, id=task["id"]))["deleteTask"] == deleted
    assert deleted["task"]["deletedAt"] == deleted["task"]["updatedAt"]
    assert problem(await update(alice, task["id"], title="Late")) == ("IN_TRASH", ["id"])
    restored = (await alice.data(RESTORE, id=task["id"]))["restoreTask"]
    assert (await alice.data(RESTORE, id=task["id"]))["restoreTask"] == restored

    moved = {"version": restored["task"]["version"], "updatedAt": restored["task"]["updatedAt"]}
    assert restored["task"] == {**task, **moved}


async def test_versions_and_tokens_move_with_the_users_clock(alice: User, bob: User) -> None:
    """Each write of a user gets the next version, independent of other users."""
    versions = [(await alice.add())["version"] for _ in range(3)]
    await bob.add()

    assert versions == [1, 2, 3]
    tokens = {(await create(alice, title="T"))["token"] for _ in range(3)}
    assert len(tokens) == 3


async def test_a_refused_write_does_not_move_the_clock(alice: User) -> None:
    """A rejected write does not advance the clock."""
    task = await alice.add()
    await update(alice, str(uuid4()), title="Nobody")
    await update(alice, task["id"], version=99, title="Stale")

    assert (await alice.add())["version"] == task["version"] + 1


async def test_a_write_is_one_statement(alice: User, wire: Wire) -> None:
    """A write takes one statement, and a second one only to find out why nothing changed."""
    task = await alice.add()
    assert [sent.split()[0] for sent in await wire.statements()] == CREATION

    for query, trips in ((COMPLETE, 1), (DELETE, 1), (DELETE, 2)):
        await alice.data(query, id=task["id"], completed=True)
        assert [sent.split()[0] for sent in await wire.statements()] == WRITE * (1 if ON_CLUSTER else trips)


@pytest.mark.parametrize(
    ("changes", "code", "path"),
    [
        ({"title": ""}, "BLANK", ["title"]),
        ({"title": " \t\n\u00a0\u2003"}, "BLANK", ["title"]),
        ({"title": "x" * 201}, "TOO_LONG", ["title"]),
        ({"title": "🎉" * 201}, "TOO_LONG", ["title"]),
        ({"description": "x" * 4001}, "TOO_LONG", ["description"]),
        ({"tags": [str(n) for n in range(21)]}, "LIMIT_EXCEEDED", ["tags"]),
        ({"tags": ["a", "a", " "]}, "BLANK", ["tags", "2"]),
        ({"tags": ["a", "é" * 51]}, "TOO_LONG", ["tags", "1"]),
    ],
)
async def test_invalid_field_values(
    alice: User, wire: Wire, changes: dict[str, Any], code: str, path: list[str]
) -> None:
    """An invalid field is a userError with code and path in create and update, and no SQL is sent."""
    task = await alice.add()
    await wire.statements()

    assert problem(await create(alice, **{"title": "Fine", **changes})) == (code, ["input", *path])
    assert problem(await update(alice, task["id"], **changes)) == (code, ["input", *path])
    assert await wire.statements() == []


async def test_all_problems_come_at_once(alice: User) -> None:
    """All invalid fields are reported in one response."""
    payload = await create(alice, title="", description="x" * 4001, tags=[""])

    assert [error["field"][1] for error in payload["userErrors"]] == ["title", "description", "tags"]
    assert payload["task"] is None


async def test_the_longest_of_everything_is_stored(alice: User) -> None:
    """Limits count characters, not bytes."""
    longest: dict[str, Any] = {
        "title": "🎉" * 200,
        "description": "ü" * 1000,
        "tags": [f"{n:02}" + "ß" * 48 for n in range(20)],
    }

    task = await alice.add(**longest)

    assert {name: task[name] for name in longest} == longest


async def test_tags_are_trimmed_and_unique_in_order(alice: User) -> None:
    """Tags are trimmed and deduplicated, in the order of first occurrence."""
    assert (await alice.add(tags=[" b ", "a", "b", "a "]))["tags"] == ["b", "a"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"input": {"title": "a\u0000b"}}, "U+0000"),
        ({"input": {"title": "t", "description": "\u0000"}}, "U+0000"),
        ({"input": {"title": "t", "tags": ["\u0000"]}}, "U+0000"),
        ({"input": {"title": "t", "id": "no-uuid"}}, "UUID"),
        ({"input": {"title": "t", "id": "{01890a5d-ac96-774b-bcce-b302099a8057}"}}, "UUID"),
        ({"input": {"title": "t", "dueDate": "2026-02-30"}}, "2026-01-31"),
        ({"input": {"title": "t", "dueDate": "tomorrow"}}, "2026-01-31"),
        ({"input": {"title": "t", "priority": "high"}}, "TaskPriority"),
        ({"input": {"title": 5}}, "String"),
        ({"input": {"title": "t", "done": True}}, "done"),
        ({"input": {}}, "title"),
        ({}, "input"),
    ],
)
async def test_malformed_input(alice: User, wire: Wire, variables: dict[str, Any], words: str) -> None:
    """Malformed input is a top-level BAD_USER_INPUT that names the problem, and no SQL is sent."""
    answer = await alice.ask(CREATE, **variables)

    error = answer["errors"][0]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert words in error["message"]
    assert await wire.statements() == []


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ('mutation { createTask(input: { title: "t", dueDate: "tomorrow" }) { token } }', "2026-01-31"),
        ("{ tasks(filter: { created: { gte: 5 } }) { totalCount } }", "T09:30:00Z"),
        ("{ changes(since: 5) { token } }", "SyncToken"),
        ("query ($since: SyncToken = 5) { changes(since: $since) { token } }", "SyncToken"),
        ("subscription { changes(since: 5) { __typename } }", "SyncToken"),
    ],
)
async def test_invalid_literals(
    alice: User, wire: Wire, caplog: pytest.LogCaptureFixture, query: str, words: str
) -> None:
    """An invalid literal is a validation error that names the problem; no error is logged, no SQL is sent."""
    answer = await alice.ask(query)

    error = answer["errors"][0]
    assert error["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    assert words in error["message"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert await wire.statements() == []


async def test_a_create_whose_response_is_lost(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the database's response is lost, the create is not repeated and the response shows the created task."""
    once = database._once  # noqa: SLF001 - where the response arrives

    async def lost(*sent: Any) -> None:
        await once(*sent)
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(database, "_once", lost)
        task = await alice.add("Once")
    later = await alice.add("Later")

    answer = await alice.data("{ tasks { nodes { id title } } }")
    assert [node["title"] for node in answer["tasks"]["nodes"]] == ["Later", "Once"]
    assert later["version"] == task["version"] + 1


@pytest.mark.parametrize("query", [UPDATE, DELETE, RESTORE, COMPLETE, TASK])
async def test_a_bad_id_is_refused_everywhere(alice: User, wire: Wire, query: str) -> None:
    """An id that is not a UUID is BAD_USER_INPUT, and no SQL is sent."""
    for bad in ("", "1", "01890a5dac96774bbcceb302099a8057", "01890a5d-ac96-774b-bcce-b302099a805\u0000", "🎉" * 36):
        answer = await alice.ask(query, id=bad, input={"title": "t"}, completed=True)
        assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    assert await wire.statements() == []


async def test_half_of_a_surrogate_pair_is_refused(alice: User, wire: Wire) -> None:
    """A lone surrogate is rejected when the JSON is parsed."""
    body = json.dumps({"query": CREATE, "variables": {"input": {"title": "\ud83c"}}}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {alice.token}"}

    response = await alice.http.post("/graphql", content=body, headers=headers)

    assert response.status_code == 400
    assert response.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    assert await wire.statements() == []


async def test_an_expected_version_out_of_range_is_refused(alice: User, wire: Wire) -> None:
    """A version out of Int's range is rejected before any SQL."""
    answer = await alice.ask(DELETE, id=str(uuid4()), version=2**31)

    assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    assert await wire.statements() == []


async def test_a_deleted_account_is_unauthenticated(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """The token of a deleted account is UNAUTHENTICATED, and the account's tasks are gone."""
    task = await alice.add()
    await owner.execute("DELETE FROM users WHERE id = $1", alice.id)

    for query in ("{ viewer { id } }", CREATE):
        response = await alice.post(query, {"input": {"title": "Ghost"}} if query is CREATE else {})
        assert response.status_code == 401
        assert response.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert await fetch(alice, task["id"]) is None


async def test_siblings_in_a_mutation_run_in_order(alice: User) -> None:
    """The mutations of one document take effect in order."""
    task_id = str(uuid4())
    document = f"""mutation {{
        a: createTask(input: {{ id: "{task_id}", title: "One" }}) {{ task {{ version }} }}
        b: updateTask(id: "{task_id}", input: {{ title: "Two" }}) {{ task {{ version title }} }}
        c: deleteTask(id: "{task_id}") {{ task {{ version title }} }}
    }}"""

    data = await alice.data(document)

    assert [payload["task"]["version"] for payload in data.values()] == [1, 2, 3]
    assert data["c"]["task"]["title"] == "Two"
