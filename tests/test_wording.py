"""Errors about bad input use the terms of GraphQL and JSON, never Python's."""

import itertools
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import live
import pytest
from conftest import User
from patience import PATIENCE_SECONDS
from websockets.asyncio.client import connect

from app.main import create_app
from app.settings import Settings

PYTHON = re.compile(
    r"\b(None|True|False|Undefined|NoneType|dict|str|bool|tuple|__\w+__|object at|instance)\b|(: |\[|\{|, )'|': "
)
# No text here contains any of these words.
VALUES: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e300, 10**15, "", "x'y", 'a"b', "2026-13-40", "x" * 500,
    [], [None], [True], [["x"]], list(range(20)),
    {}, {"a": None}, {"a": {"b": [True, None, {"c": False}]}}, {"title": None},
]  # fmt: skip
DOCUMENTS = {
    "ID!": "query Q($v: ID!) { task(id: $v) { id } }",
    "Int": "query Q($v: Int) { tasks(first: $v) { totalCount } }",
    "String": "query Q($v: String) { tasks(after: $v) { totalCount } }",
    "SyncToken": "query Q($v: SyncToken) { changes(since: $v) { token } }",
    "Boolean!": "query Q($v: Boolean!) { viewer @include(if: $v) { id } }",
    "TaskFilter": "query Q($v: TaskFilter) { tasks(filter: $v) { totalCount } }",
    "[TaskOrder!]": "query Q($v: [TaskOrder!]) { tasks(orderBy: $v) { totalCount } }",
    "CreateTaskInput!": "mutation Q($v: CreateTaskInput!) { createTask(input: $v) { token } }",
    "TaskSelector!": "mutation Q($v: TaskSelector!) { deleteTasks(where: $v, dryRun: true) { token } }",
    "MoveTarget!": 'mutation Q($v: MoveTarget!) { moveTask(id: "x", to: $v) { token } }',
    "a variable within a one-of input": 'mutation Q($v: ID) { moveTask(id: "x", to: { before: $v }) { token } }',
    "a default in place of null": "query Q($v: Boolean = true) { viewer @include(if: $v) { id } }",
    "an argument with a default": "mutation Q($v: Int = 1) { deleteTasks(where: { ids: [] }, atMost: $v) { token } }",
    "no type": "query Q($v: Nothing) { tasks(first: $v) { totalCount } }",
    "two variables": "query Q($v: Int!, $w: Boolean!) { tasks(first: $v) { totalCount @skip(if: $w) } }",
}
MEMBERS = {
    "TaskFilter": ["ids", "completed", "search", "priority", "tagsAny", "due", "created", "and", "not", "nothing"],
    "[TaskOrder!]": ["field", "direction"],
    "CreateTaskInput!": ["id", "title", "priority", "dueDate", "tags"],
    "TaskSelector!": ["ids", "filter"],
    "MoveTarget!": ["before", "toStart"],
}
LITERALS = [
    "null", "true", "1.5", '"x"', '"""x"""', "[]", "[null]", "{}", "{a: null}", "SOME", "1e400", "99999999999",
    "{title: null}", "{title: true}", '{title: "x", priority: null}', '{title: "x", priority: "LOW"}',
    '{title: "x", dueDate: 1}', '{title: "x", tags: [null]}', "{due: {gte: true}}", "{field: null}",
    "{before: null}", "{before: 1, after: 2}", "{ids: null}",
]  # fmt: skip
FIELDS = [
    "query Q {{ task(id: {}) {{ id }} }}",
    "query Q {{ tasks(first: {}) {{ totalCount }} }}",
    "query Q {{ tasks(filter: {}) {{ totalCount }} }}",
    "query Q {{ tasks(orderBy: {}) {{ totalCount }} }}",
    "query Q {{ changes(since: {}) {{ token }} }}",
    "query Q {{ viewer @include(if: {}) {{ id }} }}",
    "query Q($v: TaskPriority = {}) {{ __typename }}",
    "query Q($v: [Int!]! = {}) {{ __typename }}",
    "mutation Q {{ createTask(input: {}) {{ token }} }}",
    'mutation Q {{ updateTask(id: "x", input: {}) {{ token }} }}',
    "mutation Q {{ deleteTasks(where: {}, dryRun: true) {{ token }} }}",
    'mutation Q {{ moveTask(id: "x", to: {}) {{ token }} }}',
]


def bad_variables() -> list[dict[str, Any]]:
    """Requests with each value for each type, and for each field of an input object."""
    made = []
    for kind, document in DOCUMENTS.items():
        members: list[Any] = [{name: value} for name in MEMBERS.get(kind, ()) for value in VALUES]
        titled = [{"title": "x", **member} for member in members] if kind == "CreateTaskInput!" else []
        made += [{"query": document, "variables": {"v": value}} for value in [*VALUES, *members, *titled]]
        made.append({"query": document})
    return made


def bad_literals() -> list[dict[str, Any]]:
    return [{"query": field.format(literal)} for field, literal in itertools.product(FIELDS, LITERALS)]


MALFORMED: list[dict[str, Any]] = [
    {name: value, **({} if name == "query" else {"query": "{ __typename }"})}
    for name in ("query", "variables", "operationName", "extensions", "documentId")
    for value in (None, True, 1, 1.5, "x", [None], {"a": None}, {"persistedQuery": None}, {"persistedQuery": True})
]


def words(answer: str) -> list[str]:
    """The messages in a response that contain Python's terms."""
    errors = json.loads(answer).get("errors", [])
    return [error["message"] for error in errors if PYTHON.search(error["message"])]


async def test_by_post(alice: User) -> None:
    """Bad variables, bad literals and malformed requests by POST."""
    refused = 0
    for request in [*bad_variables(), *bad_literals(), *MALFORMED]:
        headers = {"Authorization": f"Bearer {alice.token}"}
        response = await alice.http.post("/graphql", json=request, headers=headers)
        assert words(response.text) == [], request
        assert response.status_code < 500, request
        refused += '"errors"' in response.text
    assert refused > 500


@pytest.mark.parametrize("body", [b"None", b"{'query': None}", b"[True]", b"nan", b"", b'{"query": NaN}', b"null"])
async def test_invalid_json(http: httpx.AsyncClient, body: bytes) -> None:
    """A body in Python's syntax is not quoted."""
    response = await http.post("/graphql", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 400
    assert words(response.text) == []


# A sample, because the other transports share the code for messages.
SOME = [*bad_variables()[::23], *bad_literals()[::23]]


async def test_by_get(alice: User) -> None:
    """The same by GET, with variables as JSON in the URL."""
    for request in [*SOME, *(one for one in MALFORMED if type(one["query"]) is str)]:
        params = {name: value if isinstance(value, str) else json.dumps(value) for name, value in request.items()}
        response = await alice.http.get("/graphql", params=params, headers={"Authorization": f"Bearer {alice.token}"})
        assert words(response.text) == [], request


@pytest.fixture(scope="module")
async def address(settings: Settings) -> AsyncIterator[str]:
    async with live.served(create_app(settings, schema=live.schema)) as address:
        yield address


TICKS = [{"query": "subscription Q($v: Int!) { ticks(count: $v) }", "variables": {"v": value}} for value in VALUES]


async def test_by_event_stream(address: str, alice: User) -> None:
    """The same over event streams, also for subscriptions."""
    headers = {"Authorization": f"Bearer {alice.token}", "Accept": "text/event-stream"}
    async with httpx.AsyncClient(base_url=f"http://{address}", headers=headers, timeout=PATIENCE_SECONDS) as http:
        for request in [*SOME, *bad_ticks()]:
            response = await http.post("/graphql", json=request)
            for data in re.findall("^data: (.+)$", response.text, re.MULTILINE):
                assert words(data) == [], request


def bad_ticks() -> list[dict[str, Any]]:
    """Subscriptions that cannot start."""
    return [request for request in TICKS if type(request["variables"]["v"]) is not int]  # type: ignore[index]  # always present


async def test_by_socket(address: str, alice: User) -> None:
    """The same over sockets, also for subscriptions."""
    protocols: Any = ["graphql-transport-ws"]
    async with connect(f"ws://{address}/graphql", open_timeout=PATIENCE_SECONDS, subprotocols=protocols) as socket:
        init = {"type": "connection_init", "payload": {"Authorization": f"Bearer {alice.token}"}}
        await socket.send(json.dumps(init))
        await socket.recv()
        for request in [*SOME, *bad_ticks()]:
            await socket.send(json.dumps({"type": "subscribe", "id": "a", "payload": request}))
            while (message := json.loads(await socket.recv()))["type"] == "next":
                assert words(json.dumps(message["payload"])) == [], request
            if message["type"] == "error":
                assert words(json.dumps({"errors": message["payload"]})) == [], request


async def test_values_are_shown_as_json(http: httpx.AsyncClient) -> None:
    """Values appear as the client's JSON, truncated if they are long."""
    shown = {
        "x'y": """Int cannot represent non-integer value: "x'y\"""",
        "1": 'Int cannot represent non-integer value: "1"',
        True: "Int cannot represent non-integer value: true",
    }
    for value, message in shown.items():
        response = await http.post("/graphql", json={"query": DOCUMENTS["Int"], "variables": {"v": value}})
        assert response.json()["errors"][0]["message"] == f"Variable '$v' has invalid value: {message}"
    long = await http.post("/graphql", json={"query": DOCUMENTS["Int"], "variables": {"v": "x" * 50_000}})
    deep = {"query": DOCUMENTS["Int"], "variables": {"v": json.loads("[" * 900 + "]" * 900)}}
    null = await http.post("/graphql", json={"query": DOCUMENTS["ID!"], "variables": {"v": None}})

    assert len(long.text) < 500
    assert "a deeply nested value" in (await http.post("/graphql", json=deep)).json()["errors"][0]["message"]
    assert null.json()["errors"][0]["message"].endswith("Expected value of non-null type 'ID!' not to be null.")


LONG = "x" * 3_000
WORDS = f"{'word ' * 500}"
NINES = "9" * 3_000
ECHOED: dict[str, dict[str, Any]] = {
    name: {"query": document}
    for name, document in {
        "a field": f"{{ {LONG} }}",
        "a field of a type": f"{{ viewer {{ {LONG} }} }}",
        "an alias": f"{{ {LONG}: viewer {{ id }} {LONG}: viewer {{ email }} {LONG}: __typename }}",
        "an argument": f"{{ viewer({LONG}: 1) {{ id }} }}",
        "two operations": f"query {LONG} {{ __typename }} query {LONG} {{ __typename }}",
        "a directive": f"{{ __typename @{LONG} }}",
        "an unused variable": f"query(${LONG}: Int) {{ __typename }}",
        "an unknown variable": f"{{ task(id: ${LONG}) {{ id }} }}",
        "a type": f"query($v: {LONG}) {{ __typename }}",
        "a fragment": f"{{ ...{LONG} }}",
        "an unused fragment": f"fragment {LONG} on Task {{ id }} {{ __typename }}",
        "a fragment's type": f"{{ ... on {LONG} {{ id }} }}",
        "an enum value": f"{{ tasks(orderBy: [{{ field: {LONG} }}]) {{ totalCount }} }}",
        "a field of an input": f"{{ tasks(filter: {{ {LONG}: 1 }}) {{ totalCount }} }}",
        "a string": f'{{ tasks(first: "{LONG}") {{ totalCount }} }}',
        "a string of words": f'{{ tasks(first: "{WORDS}") {{ totalCount }} }}',
        "a number": f"{{ tasks(first: {NINES}) {{ totalCount }} }}",
        "an id": f'{{ task(id: "{LONG}") {{ id }} }}',
        "a cursor": f'{{ tasks(after: "{LONG}") {{ totalCount }} }}',
        "a token": f'{{ changes(since: "{LONG}") {{ token }} }}',
        "a date": f'{{ tasks(filter: {{ due: {{ lt: "{LONG}" }} }}) {{ totalCount }} }}',
        "a name where none may be": f"{{ __typename }} {LONG}",
        "a string where none may be": f'{{ "{LONG}" }}',
        "a number where none may be": f"{{ {NINES} }}",
    }.items()
} | {
    "an operation's name": {"query": "{ __typename }", "operationName": LONG},
    "a document's id": {"documentId": LONG},
    "a hash": {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": LONG}}},
    "a variable's name": {"query": f"query(${LONG}: Int!) {{ tasks(first: ${LONG}) {{ totalCount }} }}"},
    "a variable": {"query": DOCUMENTS["Int"], "variables": {"v": LONG}},
    "a variable of words": {"query": DOCUMENTS["Int"], "variables": {"v": WORDS}},
    "a variable's member": {"query": DOCUMENTS["TaskFilter"], "variables": {"v": {LONG: 1}}},
    "a variable's enum value": {"query": DOCUMENTS["[TaskOrder!]"], "variables": {"v": [{"field": LONG}]}},
    "a variable's id": {"query": DOCUMENTS["ID!"], "variables": {"v": LONG}},
    "a variable's date": {"query": DOCUMENTS["TaskFilter"], "variables": {"v": {"due": {"lt": LONG}}}},
}


@pytest.mark.parametrize("kind", ECHOED)
async def test_long_input_is_truncated_in_messages(alice: User, kind: str) -> None:
    """Messages quote at most 100 characters of a word with an ellipsis, and are never long."""
    headers = {"Authorization": f"Bearer {alice.token}"}
    answer = (await alice.http.post("/graphql", json=ECHOED[kind], headers=headers)).json()

    for error in answer.get("errors", []):
        assert len(error["message"]) <= 501
        assert "x" * 101 not in error["message"]
        assert "9" * 101 not in error["message"]
        assert not re.search("x{100}|9{100}", error["message"]) or "…" in error["message"]
    assert "errors" in answer or answer["data"] in ({"task": None}, {"changes": answer["data"].get("changes")})


async def test_a_value_that_looks_like_python(http: httpx.AsyncClient) -> None:
    """A client's own value is quoted, even if it is a word of Python."""
    variables = {"v": [{"field": "None"}]}
    response = await http.post("/graphql", json={"query": DOCUMENTS["[TaskOrder!]"], "variables": variables})

    assert "Value 'None' does not exist in 'TaskOrderField' enum." in response.text
