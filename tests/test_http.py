"""What a client meets before any resolver: media types, malformed requests, tokens, and the codes of errors."""

import asyncio
import json
import logging
import re
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import jwt
import pytest
from conftest import SECRET, Application, User, Wire

from app.errors import Unavailable
from app.http import MOST_BYTES

VIEWER = "{ viewer { id } }"
TASK = '{ task(id: "01890a5d-ac96-774b-bcce-b302099a8057") { id } }'
GRAPHQL_JSON = "application/graphql-response+json"
FRAGMENTS = " ".join(f"fragment F{n} on Query {{ ...F{n + 1} ...F{n + 1} }}" for n in range(30))
DOUBLING = f"{{ ...F0 }} {FRAGMENTS} fragment F30 on Query {{ viewer {{ id }} }}"


def code(response: httpx.Response) -> str:
    result: str = response.json()["errors"][0]["extensions"]["code"]
    return result


async def post(http: httpx.AsyncClient, content: bytes | str, **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await http.post("/graphql", content=content, headers={"Content-Type": "application/json", **given})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b'"{ viewer { id } }"',
        b"5",
        b"[]",
        b"{}",
        b'{"query": 1}',
        b'{"query": null}',
        b'{"query": "{a}", "variables": []}',
        b'{"query": "{a}", "operationName": 1}',
        b'{"query": "\xff"}',
        b"[" * 50_000,
        b'{"query": "{a}", "variables": {"a": ' + b"9" * 5000 + b"}}",
        b"{",
    ],
)
async def test_what_is_no_graphql_request(http: httpx.AsyncClient, body: bytes) -> None:
    """Any malformed body is answered with 400 and one clear GraphQL error."""
    response = await post(http, body)

    assert response.status_code == 400
    assert code(response) in {"BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED"}
    assert "data" not in response.json()


async def test_too_long_a_body(http: httpx.AsyncClient) -> None:
    """A body beyond the limit is refused while it is read, also when it comes in chunks."""

    async def chunks() -> Any:
        for _ in range(MOST_BYTES // 1000 + 1):
            yield b" " * 1000

    whole = await post(http, b" " * (MOST_BYTES + 1))
    chunked = await http.post("/graphql", content=chunks(), headers={"Content-Type": "application/json"})

    assert whole.status_code == chunked.status_code == 413
    assert code(whole) == code(chunked) == "LIMIT_EXCEEDED"


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "text/json"]
)
async def test_what_a_foreign_form_could_send(http: httpx.AsyncClient, media_type: str) -> None:
    """Only application/json is taken, so that no foreign page can post with a visitor's cookies."""
    response = await http.post("/graphql", content=b'{"query": "{a}"}', headers={"Content-Type": media_type})

    assert response.status_code == 415


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_other_methods(http: httpx.AsyncClient, method: str) -> None:
    """Operations come as POST; the answer says so."""
    response = await http.request(method, "/graphql")

    assert response.status_code == 405
    assert "POST" in response.headers["allow"]


@pytest.mark.parametrize(
    ("accept", "query", "status", "error"),
    [
        ("application/json", "{", 200, "GRAPHQL_PARSE_FAILED"),
        (GRAPHQL_JSON, "{", 400, "GRAPHQL_PARSE_FAILED"),
        ("application/json", "{ nothing }", 200, "GRAPHQL_VALIDATION_FAILED"),
        (GRAPHQL_JSON, "{ nothing }", 400, "GRAPHQL_VALIDATION_FAILED"),
        (f"{GRAPHQL_JSON}, application/json;q=0.9", "{ nothing }", 400, "GRAPHQL_VALIDATION_FAILED"),
        (GRAPHQL_JSON, VIEWER, 401, "UNAUTHENTICATED"),
        ("application/json", VIEWER, 401, "UNAUTHENTICATED"),
        ("application/json", TASK, 401, "UNAUTHENTICATED"),
        (GRAPHQL_JSON, TASK, 401, "UNAUTHENTICATED"),
    ],
)
async def test_media_types_and_statuses(
    http: httpx.AsyncClient, accept: str, query: str, status: int, error: str
) -> None:
    """The answer has the media type asked for, and the status that goes with it."""
    response = await post(http, json.dumps({"query": query}), accept=accept)

    assert (response.status_code, code(response)) == (status, error)
    assert response.headers["content-type"] == (GRAPHQL_JSON if GRAPHQL_JSON in accept else "application/json")
    assert ("data" in response.json()) == (error == "UNAUTHENTICATED")


async def test_suggestions_stay_unsaid(http: httpx.AsyncClient) -> None:
    """A wrong field or argument does not reveal the right one."""
    for query in (
        "{ viewr { id } }",
        '{ task(idd: "1") { id } }',
        "{ tasks(filter: {complted: true}) { totalCount } }",
    ):
        assert "Did you mean" not in (await post(http, json.dumps({"query": query}))).text


async def test_which_operation(alice: User) -> None:
    """Of several operations one must be named, and it must be there."""
    document = "query A { viewer { id } } query B { viewer { email } }"

    assert (await alice.post(document, operationName="B")).json()["data"]["viewer"] == {"email": alice.email}
    assert code(await alice.post(document)) == "BAD_USER_INPUT"
    assert code(await alice.post(document, operationName="C")) == "BAD_USER_INPUT"


@pytest.mark.parametrize(
    "query",
    [
        "{" + " ".join(f"a{n}: viewer {{ id }}" for n in range(21)) + "}",
        "{ viewer { " + " ".join(f"a{n}: id" for n in range(501)) + " } }",
        "{" + "," * 200_00 + "viewer { id } " + "a " * 1001 + "}",
        "query { " + "... { " * 200 + "viewer { id }" + " }" * 200 + " }",
        DOUBLING,
        "{ __schema { types { " + "fields { type { fields { name type { " * 7 + "name" + " } } } }" * 7 + " } } }",
    ],
)
async def test_documents_that_ask_for_too_much(http: httpx.AsyncClient, wire: Wire, query: str) -> None:
    """A document beyond the limits is refused before validation, and no SQL is sent."""
    response = await post(http, json.dumps({"query": query}))

    assert code(response) in {"LIMIT_EXCEEDED", "GRAPHQL_PARSE_FAILED"}
    assert await wire.statements() == []


async def test_circular_fragments(http: httpx.AsyncClient) -> None:
    """Fragments that spread each other are an error of validation, not an endless loop."""
    query = "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }"

    assert code(await post(http, json.dumps({"query": query}))) == "GRAPHQL_VALIDATION_FAILED"


def signed(claims: dict[str, Any], secret: str = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, secret, algorithm)


LATER = 4_000_000_000
CLAIMS = {"sub": str(uuid4()), "iat": 1, "exp": LATER}


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dTpw",
        "Bearer garbage",
        "Bearer a.b.c",
        "Bearer ..",
        "Bearer opaque-session-token",
        "Bearer " + signed(CLAIMS, "another secret, also long enough for it"),
        "Bearer " + signed({**CLAIMS, "exp": 1}),
        "Bearer " + signed({**CLAIMS, "sub": "not-a-uuid"}),
        "Bearer " + signed({**CLAIMS, "sub": ""}),
        "Bearer " + signed({"sub": CLAIMS["sub"], "iat": 1}),
        "Bearer " + signed({"sub": CLAIMS["sub"], "exp": LATER}),
        "Bearer " + signed({"iat": 1, "exp": LATER}),
        "Bearer " + signed({**CLAIMS, "nbf": LATER}),
        "Bearer " + signed({**CLAIMS, "exp": 10**400}),
        "Bearer " + jwt.encode(CLAIMS, "", "none"),
        "Bearer " + signed(CLAIMS, SECRET * 2, "HS512"),
    ],
)
async def test_tokens_that_do_not_hold(http: httpx.AsyncClient, wire: Wire, authorization: str | None) -> None:
    """Without a token that holds the answer is 401 and UNAUTHENTICATED, says how to send one, and no SQL is sent."""
    headers = {} if authorization is None else {"Authorization": authorization}

    response = await http.post("/graphql", json={"query": VIEWER}, headers=headers)

    assert (response.status_code, code(response)) == (401, "UNAUTHENTICATED")
    assert response.headers["www-authenticate"] == "Bearer"
    assert await wire.statements() == []


async def test_introspection_needs_no_token(http: httpx.AsyncClient) -> None:
    """A code generator can read the schema."""
    response = await post(http, json.dumps({"query": "{ __schema { queryType { name } } __typename }"}))

    assert response.json() == {"data": {"__schema": {"queryType": {"name": "Query"}}, "__typename": "Query"}}


async def test_a_bug_is_masked_and_logged_once(
    alice: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error tells the caller its request id and nothing else; the log has the rest, but no variables."""

    async def broken(*_args: object) -> None:
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr("app.database.Database.read", broken)
    with caplog.at_level(logging.INFO):
        answer = await alice.ask("query ($v: ID!) { task(id: $v) { title } }", v=str(uuid4()))

    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "INTERNAL"
    assert "secret" not in json.dumps(answer)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert error["extensions"]["requestId"] in record.getMessage()


async def test_an_outage_is_503(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the database cannot answer the client is told when to try again."""

    async def down(*_args: object) -> None:
        raise Unavailable("The database cannot be reached; try again.")

    monkeypatch.setattr("app.database.Database.read", down)
    for query in (VIEWER, TASK):
        response = await alice.post(query)

        assert (response.status_code, code(response)) == (503, "UNAVAILABLE")
        assert int(response.headers["retry-after"]) >= 1


async def test_connections_that_the_server_closed(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """When PostgreSQL ends every connection, no answer is a bug of ours, and the next requests succeed."""
    for _ in range(5):
        await asyncio.gather(*(alice.post(VIEWER) for _ in range(8)))
        busy = [asyncio.create_task(alice.post(VIEWER)) for _ in range(8)]
        await owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'taskql_app'")
        answers = [response.json() for response in await asyncio.gather(*busy)]
        codes = {error["extensions"]["code"] for answer in answers for error in answer.get("errors", [])}
        assert codes <= {"UNAVAILABLE"}
    assert (await alice.post(VIEWER)).status_code in {200, 503}
    assert (await alice.post(VIEWER)).status_code == 200


async def test_the_request_id_comes_back(alice: User) -> None:
    """A caller's X-Request-ID is kept; without one the server makes it."""
    given = await alice.http.post("/graphql", json={"query": VIEWER}, headers={"X-Request-ID": "abc-1"})

    assert given.headers["x-request-id"] == "abc-1"
    for unfit in ("", "a b", "x" * 65, "ü"):
        headers = [(b"X-Request-ID", unfit.encode("latin-1"))]
        made = await alice.http.post("/graphql", json={"query": VIEWER}, headers=headers)
        assert re.fullmatch("[0-9a-f]{16}", made.headers["x-request-id"])


async def test_health(application: Application) -> None:
    """The process is alive, and ready while its database answers."""
    assert (await application.http.get("/livez")).status_code == 200
    assert (await application.http.get("/readyz")).json() == {"status": "ok"}
