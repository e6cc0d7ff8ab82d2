"""Persisted queries that clients register, and trusted documents from a manifest."""

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import SECRET, Application, User, running, taskql
from patience import PATIENCE_SECONDS

from app.errors import PersistedQueryNotFound
from app.settings import Settings
from schema.engine import persisted
from schema.engine.persisted import PersistedQueries

GRAPHQL_JSON = "application/graphql-response+json"
VIEWER = "query Viewer { viewer { email } }"
ADD = "mutation Add($title: String!) { createTask(input: { title: $title }) { task { title } } }"
SCHEMA = "{ __schema { queryType { name } } }"

NewUser = Callable[..., Awaitable[User]]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def apq(hash_: Any, version: Any = 1) -> dict[str, Any]:
    """The extensions that Apollo's clients send."""
    return {"extensions": {"persistedQuery": {"version": version, "sha256Hash": hash_}}}


async def send(user: User, **members: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {user.token}"}
    return await user.http.post("/graphql", json=members, headers=headers)


def code(response: httpx.Response) -> str:
    result: str = response.json()["errors"][0]["extensions"]["code"]
    return result


@pytest.fixture
async def fresh(settings: Settings) -> AsyncIterator[Application]:
    """An application without persisted queries."""
    async with running(settings) as application:
        yield application


async def test_as_apollo_does_it(fresh: Application, new_user: NewUser) -> None:
    """An unknown hash is PERSISTED_QUERY_NOT_FOUND; once sent with its document, all users can use the hash."""
    alice, bob = await new_user(fresh.http), await new_user(fresh.http)

    unknown = await send(alice, operationName="Viewer", **apq(sha256(VIEWER)))
    assert (unknown.status_code, code(unknown)) == (200, "PERSISTED_QUERY_NOT_FOUND")
    assert unknown.json()["errors"][0]["message"] == "PersistedQueryNotFound"

    sent = await send(alice, query=VIEWER, operationName="Viewer", **apq(sha256(VIEWER)))
    assert sent.json()["data"]["viewer"]["email"] == alice.email
    known = await send(bob, operationName="Viewer", **apq(sha256(VIEWER)))
    assert known.json()["data"]["viewer"]["email"] == bob.email


async def test_an_unknown_hash_is_no_failure_of_http(fresh: Application) -> None:
    """An unknown hash has status 200: Apollo's client disables persisted queries on other statuses."""
    for accept in (GRAPHQL_JSON, "application/json"):
        answer = await fresh.http.post("/graphql", json=apq("0" * 64), headers={"Accept": accept})

        assert (answer.status_code, code(answer)) == (200, "PERSISTED_QUERY_NOT_FOUND")


async def test_by_get(fresh: Application, new_user: NewUser) -> None:
    """Hashes can be sent by GET, but mutations are still rejected."""
    alice = await new_user(fresh.http)
    await send(alice, query=VIEWER, **apq(sha256(VIEWER)))
    await send(alice, query=ADD, variables={"title": "By POST"}, **apq(sha256(ADD)))

    async def get(text: str) -> httpx.Response:
        params = {name: json.dumps(value) for name, value in apq(sha256(text)).items()}
        headers = {"Authorization": f"Bearer {alice.token}"}
        return await fresh.http.get("/graphql", params={"variables": '{"title": "By GET"}', **params}, headers=headers)

    assert (await get(VIEWER)).json()["data"]["viewer"]["email"] == alice.email
    assert (await get(ADD)).status_code == 405
    assert (await alice.data("{ tasks { totalCount } }"))["tasks"]["totalCount"] == 1


async def test_a_document_id(fresh: Application, new_user: NewUser) -> None:
    """documentId, as proposed for GraphQL over HTTP, is the same hash, with or without its prefix."""
    alice = await new_user(fresh.http)
    await send(alice, query=VIEWER, **apq(sha256(VIEWER)))

    for document_id in (sha256(VIEWER), f"sha256:{sha256(VIEWER)}"):
        assert (await send(alice, documentId=document_id)).json()["data"]["viewer"]["email"] == alice.email


async def test_a_hash_of_something_else(fresh: Application, new_user: NewUser) -> None:
    """A document cannot be registered under another document's hash."""
    alice = await new_user(fresh.http)

    forged = await send(alice, query=VIEWER, **apq(sha256(ADD)))
    assert code(forged) == "BAD_USER_INPUT"
    assert "data" not in forged.json()
    assert code(await send(alice, **apq(sha256(ADD)))) == "PERSISTED_QUERY_NOT_FOUND"


async def test_only_what_can_run_is_kept(fresh: Application, new_user: NewUser) -> None:
    """An invalid document is not stored."""
    alice, broken = await new_user(fresh.http), "{ nothing }"
    await send(alice, query=broken, **apq(sha256(broken)))

    assert code(await send(alice, **apq(sha256(broken)))) == "PERSISTED_QUERY_NOT_FOUND"


EMPTY = ["", " ", "\n\t "]


@pytest.mark.parametrize("empty", EMPTY)
async def test_an_empty_query_is_none(fresh: Application, new_user: NewUser, empty: str) -> None:
    """An empty query next to an id is ignored, by POST and by GET, as some protocols require a query."""
    alice = await new_user(fresh.http)
    assert code(await send(alice, query=empty, **apq(sha256(VIEWER)))) == "PERSISTED_QUERY_NOT_FOUND"
    await send(alice, query=VIEWER, **apq(sha256(VIEWER)))

    for members in (apq(sha256(VIEWER)), {"documentId": sha256(VIEWER)}):
        assert (await send(alice, query=empty, **members)).json()["data"]["viewer"]["email"] == alice.email
    params = {"query": empty, "extensions": json.dumps(apq(sha256(VIEWER))["extensions"])}
    got = await fresh.http.get("/graphql", params=params, headers={"Authorization": f"Bearer {alice.token}"})
    assert got.json()["data"]["viewer"]["email"] == alice.email


@pytest.mark.parametrize("empty", EMPTY)
async def test_an_empty_query_without_an_id(fresh: Application, empty: str) -> None:
    """An empty query without an id is a parse error."""
    assert code(await fresh.http.post("/graphql", json={"query": empty})) == "GRAPHQL_PARSE_FAILED"


@pytest.mark.parametrize(
    "members",
    [
        apq(sha256(VIEWER), 2),
        apq(sha256(VIEWER), None),
        apq(None),
        apq(1),
        {"extensions": {"persistedQuery": "a"}},
        {"extensions": {"persistedQuery": {}}},
        {"extensions": {}},
        {"documentId": 5},
    ],
)
async def test_a_malformed_id(fresh: Application, members: dict[str, Any]) -> None:
    """A malformed id is a malformed request."""
    answer = await fresh.http.post("/graphql", json=members)

    assert (answer.status_code, code(answer)) == (400, "BAD_USER_INPUT")


def test_the_store_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used documents are evicted, by their number of tokens."""
    monkeypatch.setattr(persisted, "MOST_TOKENS", 60)
    store, texts = PersistedQueries(), [character * 10 for character in "abcd"]
    for text in texts[:3]:
        store.keep(text, sha256(text), 20, "alice", is_user=True)
    store.text(None, sha256(texts[0]), "alice", is_user=True)
    store.keep(texts[3], sha256(texts[3]), 20, "alice", is_user=True)

    assert [text for text in texts if kept(store, text)] == [texts[0], texts[2], texts[3]]


def kept(store: PersistedQueries, text: str) -> bool:
    try:
        return store.text(None, sha256(text), "alice", is_user=True) == text
    except PersistedQueryNotFound:
        return False


async def test_without_persisted_queries(settings: Settings, new_user: NewUser) -> None:
    """With PERSISTED_QUERIES=0 hashes are PERSISTED_QUERY_NOT_SUPPORTED, and full documents run."""
    async with running(settings.model_copy(update={"persisted_queries": False})) as application:
        alice = await new_user(application.http)
        refused = await send(alice, **apq(sha256(VIEWER)))
        whole = await send(alice, query=VIEWER, **apq(sha256(VIEWER)))

    assert (refused.status_code, code(refused)) == (200, "PERSISTED_QUERY_NOT_SUPPORTED")
    assert refused.json()["errors"][0]["message"] == "PersistedQueryNotSupported"
    assert whole.json()["data"]["viewer"]["email"] == alice.email


# The tool that writes a manifest chooses its ids: the client preset uses SHA-1 by default.
MANIFEST = {
    sha256(VIEWER): VIEWER,
    "0a4d55a8d778e5022fab701977c5d840bbc486d0": ADD,
    "two": "query A { viewer { id } } query B { viewer { email } }",
}


@pytest.fixture
async def trusting(settings: Settings, tmp_path: Path) -> AsyncIterator[Application]:
    """An application that only accepts the documents of a manifest."""
    path = tmp_path / "persisted-documents.json"
    path.write_text(json.dumps(MANIFEST))
    async with running(settings.model_copy(update={"trusted_documents": path})) as application:
        yield application


async def test_trusted_documents(trusting: Application, new_user: NewUser) -> None:
    """A document of the manifest runs by its id, in either form, and by its exact text."""
    alice = await new_user(trusting.http)
    for members in (
        apq(sha256(VIEWER)),
        {"documentId": sha256(VIEWER)},
        {"documentId": f"sha256:{sha256(VIEWER)}"},
        {"query": VIEWER},
        {"query": VIEWER, **apq(sha256(VIEWER))},
        {"query": "", "documentId": sha256(VIEWER)},
        {"query": " ", **apq(sha256(VIEWER))},
        {"documentId": "two", "operationName": "B"},
    ):
        assert (await send(alice, **members)).json()["data"]["viewer"]["email"] == alice.email
    added = await send(alice, documentId=list(MANIFEST)[1], variables={"title": "Trusted"})
    assert added.json()["data"]["createTask"]["task"]["title"] == "Trusted"


@pytest.mark.parametrize(
    "members",
    [
        {"query": "query Viewer { viewer { id } }"},
        {"query": VIEWER + " "},
        {"query": SCHEMA},
        {"query": "{ __typename }"},
        {"query": "{"},
        {"query": ""},
        {"documentId": sha256(ADD)},
        {"documentId": ""},
        apq("0" * 64),
        {"query": SCHEMA, **apq(sha256(VIEWER))},
        {"query": SCHEMA, "documentId": sha256(VIEWER)},
    ],
)
async def test_what_is_not_trusted(trusting: Application, new_user: NewUser, members: dict[str, Any]) -> None:
    """All other documents are rejected, including introspection and unknown ids, and no SQL is sent."""
    alice = await new_user(trusting.http)
    await trusting.wire.statements()

    answer = await send(alice, **members)

    assert code(answer) == "UNTRUSTED_DOCUMENT"
    assert "data" not in answer.json()
    assert await trusting.wire.statements() == []


async def test_nothing_is_added_to_a_manifest(trusting: Application, new_user: NewUser) -> None:
    """Sending a document with its hash does not make it trusted."""
    alice, other = await new_user(trusting.http), "{ viewer { id } }"
    for members in ({"query": other, **apq(sha256(other))}, apq(sha256(other))):
        assert code(await send(alice, **members)) == "UNTRUSTED_DOCUMENT"


async def test_trusted_documents_are_prepared_at_start(
    trusting: Application, new_user: NewUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request of a trusted operation parses nothing."""

    def parse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("parsed at a request")

    alice = await new_user(trusting.http)
    monkeypatch.setattr("schema.engine.execution.parse", parse)
    for name in (None, "Viewer"):
        assert (await send(alice, documentId=sha256(VIEWER), operationName=name)).json()["data"]
    assert (await send(alice, documentId="two", operationName="A")).json()["data"]


async def test_an_unknown_operation_of_a_trusted_document(trusting: Application, new_user: NewUser) -> None:
    """A missing or unknown operationName is BAD_USER_INPUT, also for trusted documents."""
    alice = await new_user(trusting.http)

    assert code(await send(alice, documentId="two")) == "BAD_USER_INPUT"
    assert code(await send(alice, documentId="two", operationName="C")) == "BAD_USER_INPUT"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a1": "query Wrong { viewer { nothing } }"}', ("Wrong", "a1", "nothing")),
        ('{"a1": "query Broken { viewer "}', ("Broken", "a1", "Syntax Error")),
        ('{"a1": "query Large { tasks { nodes { ' + "id " * 501 + '} } }"}', ("Large", "500 fields")),
        ('{"a1": "fragment F on Task { id }"}', ("a1",)),
        ('{"a1": 5}', ("JSON object",)),
        ("[]", ("JSON object",)),
        ("{", ("not JSON",)),
        (None, ("No such file",)),
    ],
)
def test_an_invalid_manifest(tmp_path: Path, content: str | None, words: tuple[str, ...]) -> None:
    """With an invalid manifest the server does not start; one line names the file or the operation."""
    path = tmp_path / "manifest.json"
    if content is not None:
        path.write_text(content)
    arguments = ("serve", "--port", "0", "--trusted-documents", path)
    with taskql(*arguments, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", AUTH_SECRET=SECRET) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)

    assert (process.returncode, out) == (1, "")
    assert err.startswith("taskql: TRUSTED_DOCUMENTS: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
