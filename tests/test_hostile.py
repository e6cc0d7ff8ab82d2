"""Generated malicious and malformed documents and requests."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from conftest import NEVER_CHECKED, User, Wire
from graphql import FieldNode, FragmentSpreadNode, GraphQLError, InlineFragmentNode, parse
from graphql.language.visitor import Visitor, visit

from app.errors import LimitExceeded
from schema import schema
from schema.engine.direct import core
from schema.engine.document_limits import Gauge, Limits
from schema.engine.document_size import Sizes

GRAPHQL_SCHEMA = core(schema)
GAUGE = Gauge(GRAPHQL_SCHEMA, Limits())
RUN = hypothesis.settings(suppress_health_check=[*NEVER_CHECKED, hypothesis.HealthCheck.function_scoped_fixture])
"""The application and its user outlive the examples."""

CODES = {"GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED", "BAD_USER_INPUT", "LIMIT_EXCEEDED"}
CODES |= {"PERSISTED_QUERY_NOT_FOUND"}
STATUSES = {200, 400, 405}
"""What a hostile request may be answered with: never INTERNAL, never 500."""

WORDS = f"""
    {{ {{ {{ }} }} }} ( ) [ ] : = ! | & $ @ , # ... on query mutation subscription fragment viewer tasks nodes id title
    __typename __schema types fields first filter and $a @skip @include(if:$a) -1 {"9" * 40} 1e999 true null F ...F Task
    User (first:1) type extend 🎉 \ufeff \x00 "a" "\\ud800" "" query($a:Boolean!){{ schema{{
""".split(" ")
VALID = [
    """
        query A($a: ID!, $b: Int = 5) {
            task(id: $a) { ...F }
            tasks(first: $b, filter: { and: [{ completed: true }] }) { nodes { id } }
        }
        fragment F on Task { id title @include(if: true) }
    """,
    "mutation B($i: CreateTaskInput!) { createTask(input: $i) { task { id } userErrors { code } } }",
    'query C { viewer { id taskStats { total } } node(id: "x") { __typename ... on User { email } } }',
    "query D { __schema { types { name fields { name args { name type { name ofType { name } } } } } } }",
]


def soup() -> st.SearchStrategy[str]:
    """Tokens of the language in random order."""
    return st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A document with some tokens removed, repeated or replaced."""
    words = re.findall(r"\w+|\S", draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(words) - 1))
        words[place] = draw(st.sampled_from(["", words[place] + " " + words[place], *WORDS]))
    return " ".join(words)


@st.composite
def webs(draw: st.DrawFn) -> str:
    """Fragments that spread one another: trees, exponential expansions, cycles and missing ones."""
    count = draw(st.integers(1, 12))
    names = st.integers(0, count).map(lambda number: f"F{number}")
    parts = names.map(lambda name: f"...{name}") | st.sampled_from(
        ["viewer { id }", "...{ __typename }", "a: __typename"]
    )
    bodies = [draw(st.lists(parts, min_size=1, max_size=4)) for _ in range(count)]
    fragments = [f"fragment F{number} on Query {{ {' '.join(body)} }}" for number, body in enumerate(bodies)]
    return f"{{ {' '.join(draw(st.lists(parts, min_size=1, max_size=4)))} }} {' '.join(fragments)}"


@st.composite
def nests(draw: st.DrawFn) -> str:
    """Deeply nested syntax."""
    opening, closing = draw(
        st.sampled_from(
            [
                ("{ a ", "}"),
                ("... { ", "}"),
                ("{ viewer ", "}"),
                ("(a: [", "])"),
                ("[", "]"),
                ("{ tasks(filter: ", ")}"),
                ("{not: ", "}"),
            ]
        )
    )
    depth = draw(st.integers(1, 400))
    return f"{{ tasks {opening * depth} x {closing * depth} }}"


@st.composite
def crowds(draw: st.DrawFn) -> str:
    """Large numbers of aliases, directives, arguments, variables and operations."""
    count = draw(st.integers(1, 300))
    many = draw(
        st.sampled_from(
            [
                "{{ viewer {{ {0} }} }}|a{n}: id",
                "{{ viewer {{ {0} }} }}|id",
                "{{ {0} }}|v{n}: viewer {{ id }}",
                "{{ viewer {{ id {0} }} }}|@skip(if: false)",
                "{{ viewer {{ id {0} }} }}|@a{n}",
                "{{ tasks({0}) {{ totalCount }} }}|first: {n}",
                "query ({0}) {{ viewer {{ id }} }}|$a{n}: Int = {n}",
                "{0}|query Q{n} {{ viewer {{ id }} }}",
                "{{ tasks(filter: {{ or: [{0}] }}) {{ totalCount }} }}|{{ completed: true }}",
                "{{ task(id: {0}) {{ id }} }}|[{n}]",
            ]
        )
    )
    frame, _, one = many.partition("|")
    return frame.format(" ".join(one.format(n=number) for number in range(count)))


DOCUMENTS = soup() | damaged() | webs() | nests() | crowds() | st.text(max_size=80)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*"aib", "query", "persistedQuery"]), inner, max_size=3)
    ),
    max_leaves=8,
)
MEMBERS = ["query", "variables", "operationName", "extensions", "documentId", "other"]


@pytest.fixture
async def victim(new_user: Callable[[], Awaitable[User]]) -> AsyncIterator[User]:
    """The user that sends all requests, whose task must not change."""
    user = await new_user()
    task = await user.add("Untouched")
    yield user
    assert (await user.data("{ tasks { nodes { id version } } }"))["tasks"]["nodes"] == [
        {"id": task["id"], "version": task["version"]}
    ]


def hold(status: int, answer: dict[str, Any]) -> bool:
    """Check the invariants of every response; returns whether it is a rejection."""
    assert status in STATUSES
    errors = answer.get("errors", [])
    assert len(errors) <= 5
    assert {error["extensions"]["code"] for error in errors} <= CODES
    assert "Did you mean" not in json.dumps(answer)
    assert errors or "data" in answer
    return "data" not in answer


@hypothesis.settings(RUN, max_examples=300)
@hypothesis.given(query=DOCUMENTS)
async def test_documents(victim: User, wire: Wire, query: str) -> None:
    """Any document gets a GraphQL response, and a rejection sends no SQL."""
    await wire.statements()
    response = await victim.post(query, {"a": True, "i": {"title": " "}})

    if hold(response.status_code, response.json()):
        assert await wire.statements() == []


@hypothesis.settings(RUN, max_examples=300)
@hypothesis.given(body=st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=5) | JSON | st.binary(max_size=40))
async def test_bodies(victim: User, body: Any) -> None:
    """Any body gets a GraphQL response."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {victim.token}"}
    response = await victim.http.post("/graphql", content=content, headers=headers)

    hold(response.status_code, response.json())


@hypothesis.settings(RUN, max_examples=200)
@hypothesis.given(
    members=st.dictionaries(st.sampled_from(MEMBERS), st.text(max_size=20) | JSON.map(json.dumps), max_size=5)
)
async def test_urls(victim: User, members: dict[str, str]) -> None:
    """Any query string gets a GraphQL response."""
    headers = {"Authorization": f"Bearer {victim.token}"}
    response = await victim.http.get("/graphql", params=members, headers=headers)

    hold(response.status_code, response.json())


VARIABLES = """
    query ($a: ID!, $b: Int, $c: TaskFilter, $d: [TaskOrder!], $e: String) {
        task(id: $a) { id }
        tasks(first: $b, filter: $c, orderBy: $d, after: $e) { nodes { id } }
    }
"""


@hypothesis.settings(RUN, max_examples=200)
@hypothesis.given(variables=st.dictionaries(st.sampled_from("abcde"), JSON, max_size=5))
async def test_variables(victim: User, variables: dict[str, Any]) -> None:
    """Any value of a variable gets a GraphQL response."""
    response = await victim.post(VARIABLES, variables)

    hold(response.status_code, response.json())


class _Selections(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def enter(self, node: Any, *_: Any) -> None:
        self.count += isinstance(node, FieldNode | FragmentSpreadNode | InlineFragmentNode)


class _Steps(Sizes):
    """Counts the visited selections."""

    steps = 0

    def _selection(self, *arguments: Any) -> Any:
        type(self).steps += 1
        return super()._selection(*arguments)


@hypothesis.settings(RUN, max_examples=300)
@hypothesis.given(query=webs() | crowds() | damaged())
def test_the_pass_is_linear(query: str) -> None:
    """Each selection of a document is visited at most once, however often its fragment is spread."""
    try:
        document = parse(query, max_tokens=1000)
    except (GraphQLError, RecursionError):
        hypothesis.reject()
    _Steps.steps, selections = 0, _Selections()
    visit(document, selections)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("schema.engine.document_limits.Sizes", _Steps)
        with suppress(LimitExceeded):
            GAUGE.check(document)

    assert _Steps.steps <= selections.count
