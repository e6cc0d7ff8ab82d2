"""Limits of one operation, its cost in rows, and access to introspection."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
from conftest import Application, User, Wire, running
from graphql import get_introspection_query, parse

from app.settings import Settings
from app.web.long_messages import MOST_BYTES
from schema import schema
from schema.engine import execution
from schema.engine.direct import core
from schema.engine.document_limits import Gauge, Limits
from schema.engine.document_size import Sizes
from schema.engine.persisted import LEAST_TOKENS

GRAPHQL_SCHEMA = core(schema)
SCHEMA = "{ __schema { queryType { name } } }"
DEPTH = 30
DAG = " ".join(f"fragment F{n} on Query {{ ...F{n + 1} ...F{n + 1} }}" for n in range(DEPTH))
DOUBLING = f"{{ ...F0 }} {DAG} fragment F{DEPTH} on Query {{ viewer {{ id }} }}"
FULL_PAGES = " ".join(f"t{n}: tasks(first: 100) {{ nodes {{ id }} edges {{ node {{ id }} }} }}" for n in range(11))
PAGE = "query ($first: Int = 7, $last: Int) { tasks(first: $first, last: $last) { nodes { id } } }"
MANY = """
    mutation ($inputs: [CreateTaskInput!]!, $atMost: Int) {
        createTasks(inputs: $inputs) { tasks { id } }
        updateTasks(where: { ids: [] }, input: {}, atMost: $atMost) { tasks { id } }
    }
"""


def code(answer: dict[str, Any]) -> str:
    result: str = answer["errors"][0]["extensions"]["code"]
    return result


async def asked(http: httpx.AsyncClient, query: str, **members: Any) -> dict[str, Any]:
    """The response to an anonymous caller."""
    answer: dict[str, Any] = (await http.post("/graphql", json={"query": query, **members})).json()
    return answer


HOSTILE = {
    "fragments that double": (DOUBLING, "fields"),
    "one field 240 times": ("{ viewer { " + "id " * 240 + "} }", "repeated fields"),
    "one object 240 times": ("{ viewer { " + "taskStats { total } " * 240 + "} }", "repeated fields"),
    "repeats in inline fragments": ("{ viewer { " + "... { id } " * 120 + "} }", "repeated fields"),
    "101 aliases": ("{ viewer { " + " ".join(f"a{n}: id" for n in range(101)) + " } }", "aliases"),
    "aliases in a fragment": (
        "{ viewer { " + "...A " * 11 + "} } fragment A on User { " + " ".join(f"a{n}: id" for n in range(10)) + " }",
        "aliases",
    ),
    "400 directives": ("{ viewer { id " + "@a " * 400 + "} }", "directives"),
    "500 directives": ("{ viewer { id " + "@skip(if: false) " * 500 + "} }", "1000 tokens"),
    "directives on the operation": ("query " + "@a " * 60 + "{ viewer { id } }", "directives"),
    "directives on a fragment": ("{ ...F } fragment F on Query " + "@a " * 60 + "{ viewer { id } }", "directives"),
    "directives on variables": ("query ($a: Int " + "@a " * 60 + ") { viewer { id } }", "directives"),
    "21 root fields": ("{ " + " ".join(f"a{n}: viewer {{ id }}" for n in range(21)) + " }", "root fields"),
    "root fields in a fragment": ("{ " + "...F " * 21 + "} fragment F on Query { viewer { id } }", "root fields"),
    "fields in an unused fragment": ("{ viewer { id } } " + DAG + "fragment F30 on Query { a }", "fields"),
    "too deep": ("{ a " + "{ a " * 10 + "}" * 11, "levels"),
    "too deep by fragments": (
        "{ ...F0 } "
        + " ".join(f"fragment F{n} on Query {{ a {{ ...F{n + 1} }} }}" for n in range(11))
        + " fragment F11 on Query { a }",
        "levels",
    ),
    "1,001 tokens": ("{ viewer { " + "a " * 1001 + "} }", "1000 tokens"),
    "20,000 comments": ("{ " + "#a\n" * 20_000 + "viewer { id } }", "1000 tokens"),
    "deep literals": ("{ task(id: " + "[" * 450 + "]" * 450 + ") { id } }", "nested too deeply"),
    "deep inline fragments": ("{ " + "... { " * 250 + "viewer { id }" + " }" * 250 + " }", "nested too deeply"),
    "three schemas": ("{ " + " ".join(f"a{n}: {SCHEMA[1:-1]}" for n in range(3)) + " }", "introspection fields"),
    "a schema within the schema": (
        "{ __schema { "
        + " ".join(f"a{n}: types {{ fields {{ type {{ fields {{ name }} }} }} }}" for n in range(30))
        + "} }",
        "values from introspection",
    ),
    "pages upon pages": ("{ " + FULL_PAGES + " }", "2,200 rows"),
    "5,000 digits": ("{ a: tasks(first: " + "9" * 5000 + ") { " + "nodes { id } " * 21 + "} }", "2,100 rows"),
}


@pytest.mark.parametrize(("query", "what"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_documents_over_a_limit(http: httpx.AsyncClient, wire: Wire, query: str, what: str) -> None:
    """A document over a limit is rejected with the limit's name, before validation and any SQL."""
    answer = await asked(http, query)

    assert code(answer) == "LIMIT_EXCEEDED"
    assert what in answer["errors"][0]["message"]
    assert len(answer["errors"]) == 1
    assert await wire.statements() == []


FILTERED = "query ($filter: TaskFilter) { tasks(filter: $filter) { totalCount } }"
CROWDED: list[dict[str, Any]] = [
    {"filter": {"or": [{"ids": ["a"] * 10}] * 450}},
    {"filter": {"ids": ["a"] * 5000}},
    {"filter": {"and": [{"ids": ["a"] * 100}] * 50}},
    {f"a{number}": 1 for number in range(5001)},
]


@pytest.mark.parametrize("variables", CROWDED)
async def test_variables_with_many_values(alice: User, wire: Wire, variables: dict[str, Any]) -> None:
    """Too many values in variables are rejected, wherever they are."""
    response = await alice.post(FILTERED, variables)

    assert (response.status_code, code(response.json())) == (200, "LIMIT_EXCEEDED")
    assert "5,000 values" in response.text
    assert await wire.statements() == []


async def test_deep_introspection(http: httpx.AsyncClient) -> None:
    """Deeply nested introspection is rejected."""
    query = "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }"

    assert code(await asked(http, query)) == "GRAPHQL_VALIDATION_FAILED"


async def test_a_million_commas(http: httpx.AsyncClient, wire: Wire) -> None:
    """A document of a million commas exceeds the body limit; in one that fits, commas are ignored."""
    million = await http.post("/graphql", json={"query": "{" + "," * 1_000_000 + "viewer { id } }"})
    fitting = await asked(http, "{" + "," * (MOST_BYTES - 100) + "viewer { id } }")

    assert million.status_code == 413
    assert code(million.json()) == "LIMIT_EXCEEDED"
    assert code(fitting) == "UNAUTHENTICATED"
    assert await wire.statements() == []


def test_each_fragment_is_visited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fragments that would expand to a billion fields are visited once per selection."""
    steps = 0
    real = Sizes._selection  # noqa: SLF001 - the visits are counted

    def counting(self: Sizes, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        return real(self, *arguments)

    monkeypatch.setattr(Sizes, "_selection", counting)
    sizes = Sizes(GRAPHQL_SCHEMA, {}, parse(DOUBLING))

    assert sizes.fragment("F0").fields == 2 * 2**DEPTH
    assert steps == 2 * DEPTH + 2


async def test_the_standard_introspection_is_within_the_limits(http: httpx.AsyncClient) -> None:
    """The standard introspection query is within all limits."""
    answer = await asked(http, get_introspection_query(input_value_deprecation=True, directive_is_repeatable=True))

    assert len(answer["data"]["__schema"]["types"]) == len(GRAPHQL_SCHEMA.type_map)


COSTS = {
    "{ __typename }": 1,
    "{ viewer { id } }": 1,
    '{ task(id: "") { id } }': 1,
    "{ tasks { nodes { id } } }": 20,
    "{ tasks(first: 3) { nodes { id } } }": 3,
    "{ tasks(last: 30) { edges { cursor node { id } } } }": 30,
    "{ tasks(first: 10) { pageInfo { endCursor } } }": 10,
    "{ tasks(first: 10) { nodes { id } edges { node { id } } more: nodes { title } } }": 30,
    "{ tasks { totalCount } }": 120,
    "{ viewer { id taskStats { total } } }": 101,
    "{ a: tasks(first: 5) { nodes { id } } ...F } fragment F on Query { b: tasks(first: 6) { ...G } }"
    " fragment G on TaskConnection { nodes { id } }": 11,
    "{ tasks(first: -5) { nodes { id } } }": 1,
    "{ tasks(first: 99999999999999999999) { nodes { id } } }": 100,
    "{ tasks(first: null) { nodes { id } } }": 20,
    "{ tasks(first: null, last: 5) { nodes { id } } }": 5,
    'mutation { createTask(input: { title: "a" }) { userErrors { code } } }': 1,
    'mutation { deleteTask(id: "") { task { id } again: task { id } } }': 2,
    'mutation { createTasks(inputs: [{ title: "a" }, { title: "b" }]) { tasks { id } } }': 2,
    "mutation { deleteTasks(where: { ids: [] }) { affectedCount } }": 100,
    "mutation { deleteTasks(where: { ids: [] }, atMost: null) { affectedCount } }": 100,
    "mutation { deleteTasks(where: { ids: [] }, atMost: 1000) { affectedCount } }": 1000,
    "{ changes { token } }": 100,
    "subscription { changes { changes { ... on TaskUpserted { task { id } } } } }": 100,
    "subscription { changes(trash: true) { changes { ... on TaskRemoved { taskId } } } }": 100,
    "subscription { changes { changes { ... on ListUpserted { list { id } } ... on TaskUpserted { task { id } } }"
    " upToDate } }": 100,
    "mutation { purgeTasks(where: { ids: [] }) { affectedCount } }": 100,
    "mutation { purgeLists(where: { ids: [] }, atMost: 7) { affectedCount } }": 7,
    "mutation { emptyTrash(atMost: 1000) { affectedCount } }": 1000,
    "{ changes { changes { __typename ... on ListUpserted { list { name } } ... on TaskRemoved { taskId } ... on"
    " TaskUpserted { task { title } } } } }": 100,
    "{ changes(first: 1000) { changes { ...C } } } fragment C on Change { ...L ...T ... on ListRemoved { listId } }"
    " fragment L on ListUpserted { list { name } } fragment T on TaskUpserted { task { title } }": 1000,
    "{ changes { changes { ... on TaskUpserted { task { title } again: task { id } } ... on ListUpserted { list"
    " { name } } } } }": 200,
    "{ changes { changes { ... on TaskUpserted { task { title } } } more: changes { ... on ListUpserted { list"
    " { name } } } } }": 200,
    "{ changes { changes { ... on TaskUpserted { task { title list { id } } } } } }": 100,
    "{ changes { changes { ... on TaskUpserted { task { title list { name } } } } } }": 200,
    "{ changes(first: 10) { changes { ... on ListUpserted { list { name taskStats { open } } } } } }": 110,
    "{ changes(first: 10) { changes { ... on ListUpserted { list { tasks(first: 5) { nodes { id } } } } } } }": 60,
    "{ lists(first: 10) { nodes { tasks(first: 5) { nodes { id } } } } }": 60,
}


@pytest.mark.parametrize(("query", "rows"), COSTS.items(), ids=COSTS.keys())
def test_what_an_operation_costs(query: str, rows: int) -> None:
    """The cost is the rows an operation may touch: page size times the node selections, and 100 per count."""
    gauge = Gauge(GRAPHQL_SCHEMA, Limits())
    ((node, size),) = gauge.check(parse(query)).items()

    assert gauge.cost(node, size).of(None) == rows


@pytest.mark.parametrize(
    ("variables", "rows"),
    [
        ({}, 7),
        ({"first": 50}, 50),
        ({"first": None, "last": 9}, 9),
        ({"first": 4, "last": 9}, 9),
        ({"first": 2**31 - 1}, 100),
        ({"first": -(2**31)}, 1),
        ({"first": 1e300}, 100),
        ({"first": "a"}, 1),
        ({"first": {"a": 1}}, 1),
        ({"first": True}, 1),
    ],
)
def test_what_variables_cost(variables: dict[str, Any], rows: int) -> None:
    """A page size in a variable costs its value, between one row and the largest page, even if it is invalid."""
    gauge = Gauge(GRAPHQL_SCHEMA, Limits())
    ((node, size),) = gauge.check(parse(PAGE)).items()

    assert gauge.cost(node, size).of(variables) == rows


async def test_the_cost_is_returned_on_request(alice: User) -> None:
    """`extensions: {cost: true}` adds the cost to the response, which otherwise has no extensions."""
    costly = (await alice.post(PAGE, {"first": 30}, extensions={"cost": True})).json()
    plain = (await alice.post(PAGE, {"first": 30}, extensions={"cost": False})).json()

    cost = costly["extensions"]["cost"]
    assert cost.pop("databaseMs") > 0
    assert cost.pop("serverMs") > 0
    assert cost == {"rows": 30, "limit": 2000}
    assert plain == {"data": {"tasks": {"nodes": []}}}


Serve = Callable[..., AbstractAsyncContextManager[Application]]


@pytest.fixture
def serve(settings: Settings) -> Serve:
    """Starts an application with other settings."""

    @asynccontextmanager
    async def make(**update: Any) -> AsyncIterator[Application]:
        async with running(settings.model_copy(update=update)) as application:
            yield application

    return make


async def test_a_cost_limit_that_variables_exceed(alice: User, serve: Serve) -> None:
    """A cost limit counts the values of variables; an operation that exceeds it is rejected and writes nothing."""
    async with serve(limit_cost=120) as application:
        alice.http = application.http
        inputs = [{"title": "a"}] * 21

        beyond = await alice.ask(MANY, inputs=inputs, atMost=100)
        sent = await application.wire.statements()
        within = await alice.ask(MANY, inputs=inputs[:20], atMost=100)

    assert code(beyond) == "LIMIT_EXCEEDED"
    assert "121 rows" in beyond["errors"][0]["message"]
    assert sent == []
    assert "errors" not in within


@pytest.mark.parametrize(
    ("setting", "query"),
    [
        ("limit_tokens", "{ viewer { id email } }"),
        ("limit_depth", "{ tasks { edges { node { id } } } }"),
        ("limit_fields", "{ viewer { id email name image } }"),
        ("limit_root_fields", "{ a: viewer { id } b: viewer { id } c: viewer { id } d: viewer { id } }"),
        ("limit_aliases", "{ viewer { a: id b: id c: id d: id } }"),
        ("limit_directives", "{ viewer { id @a @a @a @a } }"),
        ("limit_cost", "{ tasks(first: 4) { nodes { id } } }"),
    ],
)
async def test_every_limit_is_a_setting(http: httpx.AsyncClient, serve: Serve, setting: str, query: str) -> None:
    """Every limit is configurable: at three it rejects four, which the default accepts."""
    async with serve(**{setting: 3}) as application:
        strict = await asked(application.http, query)

    assert code(strict) == "LIMIT_EXCEEDED"
    assert code(await asked(http, query)) != "LIMIT_EXCEEDED"


async def test_introspection_off(alice: User, serve: Serve) -> None:
    """With INTROSPECTION=off no caller can read the schema; __typename still works."""
    async with serve(introspection="off") as application:
        alice.http = application.http
        hidden = '{ ...F } fragment F on Query { ... { t: __type(name: "Task") { name } } }'

        assert code(await alice.ask(SCHEMA)) == "GRAPHQL_VALIDATION_FAILED"
        assert code(await alice.ask(hidden)) == "GRAPHQL_VALIDATION_FAILED"
        assert await alice.data("{ __typename viewer { __typename } }")


async def test_introspection_for_authenticated_callers(alice: User, serve: Serve) -> None:
    """With INTROSPECTION=authenticated introspection requires a token."""
    async with serve(introspection="authenticated") as application:
        alice.http = application.http
        stranger = await application.http.post("/graphql", json={"query": SCHEMA})

        assert (stranger.status_code, code(stranger.json())) == (401, "UNAUTHENTICATED")
        assert await alice.data(SCHEMA)


async def test_at_most_five_errors(alice: User, http: httpx.AsyncClient) -> None:
    """A response has at most five errors."""
    unknown = await asked(http, "{ " + " ".join(f"a{n}" for n in range(15)) + " }")
    failing = await alice.ask("{ " + " ".join(f'a{n}: task(id: "x") {{ id }}' for n in range(15)) + " }")
    misfits = await alice.ask(
        "query ("
        + " ".join(f"$a{n}: Int!" for n in range(9))
        + ") { "
        + " ".join(f"t{n}: tasks(first: $a{n}) {{ totalCount }}" for n in range(9))
        + " }"
    )

    assert [len(answer["errors"]) for answer in (unknown, failing, misfits)] == [5, 5, 5]
    assert set(failing["data"].values()) == {None}
    assert code(misfits) == "BAD_USER_INPUT"


def test_short_documents_count_with_a_minimum_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prepared operation counts with a minimum size, however short its text is."""
    monkeypatch.setattr(execution, "MOST_TOKENS", 10 * LEAST_TOKENS)
    engine = execution.Engine(core(schema))
    texts = [f"{{ a{number}: __typename }}" for number in range(12)]
    for text in texts:
        engine.keep(text, None, engine.prepared(text, None), "alice", is_user=True)

    assert [text for text in texts if engine.known(text, None, "alice", is_user=True)] == texts[2:]
