"""HTTP before any resolver: media types, malformed requests, tokens and error codes."""

import asyncio
import gzip
import json
import logging
import re
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import asyncpg
import httpx
import jwt
import pytest
from conftest import SECRET, User, Wire, running

from app.errors import Unavailable
from app.identity.tokens import LEEWAY_SECONDS
from app.settings import Settings
from app.web.long_messages import MOST_BYTES

VIEWER = "{ viewer { id } }"
TASK = '{ task(id: "01890a5d-ac96-774b-bcce-b302099a8057") { id } }'
BY_ID = "query A($id: ID!) { task(id: $id) { title } }"
BOTH = 'query A { viewer { id } } mutation B { createTask(input: { title: "By GET" }) { task { id } } }'
DESCRIPTIONS = "{ tasks { nodes { id description } } }"
GRAPHQL_JSON = "application/graphql-response+json"
FRAGMENTS = " ".join(f"fragment F{n} on Query {{ ...F{n + 1} ...F{n + 1} }}" for n in range(30))
DOUBLING = f"{{ ...F0 }} {FRAGMENTS} fragment F30 on Query {{ viewer {{ id }} }}"


def written(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The server's log records, without those of the tests' HTTP client."""
    return [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]


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
        b"[" * 1_000,
        b'{"a":' * 1_000,
        b'{"query": "{a}", "variables": {"a": ' + b"9" * 5000 + b"}}",
        b"{",
    ],
)
async def test_malformed_bodies(http: httpx.AsyncClient, body: bytes) -> None:
    """A malformed body gets 400 and one clear GraphQL error."""
    response = await post(http, body)

    assert response.status_code == 400
    assert code(response) in {"BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED"}
    assert "data" not in response.json()


async def test_too_long_a_body(http: httpx.AsyncClient) -> None:
    """A body over the limit is rejected while it is read, including chunked bodies."""

    async def chunks() -> Any:
        for _ in range(MOST_BYTES // 1000 + 1):
            yield b" " * 1000

    whole = await post(http, b" " * (MOST_BYTES + 1))
    chunked = await http.post("/graphql", content=chunks(), headers={"Content-Type": "application/json"})

    assert whole.status_code == chunked.status_code == 413
    assert code(whole) == code(chunked) == "LIMIT_EXCEEDED"


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
        "text/json",
        "application/json, text/plain",
        "text/plain; application/json",
        "application/json; charset=utf-16",
        "application/graphql",
    ],
)
async def test_forms_of_other_sites_are_rejected(http: httpx.AsyncClient, media_type: str) -> None:
    """Only application/json is accepted, so that other sites cannot post forms with a visitor's cookies."""
    response = await http.post("/graphql", content=b'{"query": "{a}"}', headers={"Content-Type": media_type})

    assert (response.status_code, code(response)) == (415, "BAD_USER_INPUT")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods(http: httpx.AsyncClient, method: str) -> None:
    """Other methods are rejected, and the response names POST and GET."""
    response = await http.request(method, "/graphql")

    assert response.status_code == 405
    assert code(response) == "METHOD_NOT_ALLOWED"
    assert response.headers["allow"] == "GET, POST"


async def test_a_query_by_get(alice: User) -> None:
    """A query may be in the URL, with JSON variables; the response must not be cached."""
    task = await alice.add("By GET")
    members = {"query": BY_ID, "variables": json.dumps({"id": task["id"]}), "operationName": "A", "extensions": "{}"}

    response = await alice.http.get("/graphql", params=members, headers={"Authorization": f"Bearer {alice.token}"})

    assert response.json() == {"data": {"task": {"title": "By GET"}}}
    assert response.headers["cache-control"] == "no-store"


async def test_a_mutation_by_get(alice: User, wire: Wire) -> None:
    """GET executes only queries, even if the document has mutations."""
    for name, status in (("B", 405), ("A", 200)):
        members = {"query": BOTH, "operationName": name}
        response = await alice.http.get("/graphql", params=members, headers={"Authorization": f"Bearer {alice.token}"})

        assert response.status_code == status
    sent = await wire.statements()
    assert len(sent) == 1
    assert "INSERT" not in sent[0]


async def test_a_mutation_by_get_names_the_allowed_method(http: httpx.AsyncClient) -> None:
    """A mutation by GET gets 405 with the allowed method, even without a token."""
    response = await http.get("/graphql", params={"query": "mutation { __typename }"})

    assert (response.status_code, response.headers["allow"], code(response)) == (405, "POST", "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    "url",
    [
        "/graphql",
        "/graphql?query=",
        "/graphql?query=%7Ba%7D&variables=1",
        "/graphql?query=%7Ba%7D&variables=%5B",
        "/graphql?query=%7Ba%7D&extensions=%22a%22",
        "/graphql?query=%ff",
        "/graphql?" + "a=1&" * 30 + "query=%7Ba%7D",
    ],
)
async def test_malformed_query_strings(http: httpx.AsyncClient, url: str) -> None:
    """A malformed query string is rejected like a malformed body."""
    response = await http.get(url, headers={"Accept": GRAPHQL_JSON})

    assert (response.status_code, code(response)) == (400, "BAD_USER_INPUT")


async def test_an_unknown_path(http: httpx.AsyncClient) -> None:
    """An unknown path also gets a GraphQL error."""
    missing, wrong = await http.get("/nothing"), await http.post("/livez")

    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert (code(missing), code(wrong)) == ("BAD_USER_INPUT", "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/*;q=0.5", "application/json"),
        (f"*/*, {GRAPHQL_JSON}", GRAPHQL_JSON),
        (f"application/json, {GRAPHQL_JSON}", GRAPHQL_JSON),
        (f"application/json, {GRAPHQL_JSON};q=0.9", "application/json"),
        (f"application/json;q=0, {GRAPHQL_JSON};q=0.1", GRAPHQL_JSON),
        ("application/json;q=0, */*", GRAPHQL_JSON),
        (f"{GRAPHQL_JSON};charset=utf-8, application/json;charset=utf-8", GRAPHQL_JSON),
        (f"{GRAPHQL_JSON};charset=latin1, application/json", "application/json"),
        (f"x{GRAPHQL_JSON}, {GRAPHQL_JSON}x, APPLICATION/JSON ; Q=0.5", "application/json"),
        (
            f"{GRAPHQL_JSON}, application/graphql+json, application/json, text/event-stream, multipart/mixed",
            GRAPHQL_JSON,
        ),
    ],
)
async def test_the_media_type_is_negotiated(http: httpx.AsyncClient, accept: str | None, content_type: str) -> None:
    """Accept is parsed as HTTP defines: whole types, weights, wildcards and charsets."""
    headers = {"Content-Type": "application/json"} | ({"Accept": accept} if accept else {})
    request = http.build_request("POST", "/graphql", content=b'{"query": "{ __typename }"}', headers=headers)
    if accept is None:
        del request.headers["accept"]

    response = await http.send(request)

    assert response.status_code == 200
    assert response.headers["content-type"] == f"{content_type}; charset=utf-8"


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "application/jsonp", "image/*", "json"])
async def test_no_acceptable_media_type(http: httpx.AsyncClient, accept: str) -> None:
    """If no supported media type is accepted, the response is 406 and nothing is executed."""
    response = await post(http, json.dumps({"query": VIEWER}), accept=accept)

    assert (response.status_code, code(response)) == (406, "BAD_USER_INPUT")


async def test_long_responses_are_compressed_if_accepted(alice: User) -> None:
    """Long responses are compressed if the client accepts it, short ones never."""
    await asyncio.gather(*(alice.add("A title", description="word " * 150) for _ in range(20)))
    headers = {"Authorization": f"Bearer {alice.token}", "Accept-Encoding": "br, gzip;q=0.5"}

    long = await alice.http.post("/graphql", json={"query": DESCRIPTIONS}, headers=headers)
    plain = await alice.http.post(
        "/graphql", json={"query": DESCRIPTIONS}, headers={**headers, "Accept-Encoding": "gzip;q=0"}
    )
    short = await alice.http.post("/graphql", json={"query": VIEWER}, headers=headers)

    assert long.headers["content-encoding"] == "gzip"
    assert int(long.headers["content-length"]) < int(plain.headers["content-length"]) / 5
    assert long.json() == plain.json()
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in short.headers


async def test_the_explorers_files_are_compressed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The explorer's large script is compressed with gzip."""
    (tmp_path / "explorer.js").write_text("function explore() {}\n" * 10_000)
    monkeypatch.setattr("app.web.explorer.ASSETS", tmp_path)
    async with running(settings) as application:
        script = await application.http.get("/explorer/explorer.js", headers={"Accept-Encoding": "gzip"})

    assert script.headers["content-encoding"] == "gzip"
    assert script.text == "function explore() {}\n" * 10_000


async def test_the_explorers_files_are_compressed_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The explorer's files are compressed once, until they change, since anonymous callers can request them freely."""
    file, compressing = tmp_path / "explorer.js", Mock(wraps=gzip.compress)
    monkeypatch.setattr("app.web.explorer.ASSETS", tmp_path)
    monkeypatch.setattr("gzip.compress", compressing)
    async with running(settings) as application:
        for text in ("old\n" * 10_000, "new script\n" * 10_000):
            file.write_text(text)
            asking = [application.http.get("/explorer/explorer.js") for _ in range(10)]
            answers = await asyncio.gather(*asking)
            assert {(answer.headers["content-encoding"], answer.text) for answer in answers} == {("gzip", text)}
        part = await application.http.get("/explorer/explorer.js", headers={"Range": "bytes=0-2"})

    assert compressing.call_count == 2
    assert (part.status_code, part.text) == (200, "new script\n" * 10_000)  # ranges are not supported


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
    """The response has the requested media type and the status that belongs to it."""
    response = await post(http, json.dumps({"query": query}), accept=accept)

    assert (response.status_code, code(response)) == (status, error)
    media_type = GRAPHQL_JSON if GRAPHQL_JSON in accept else "application/json"
    assert response.headers["content-type"] == f"{media_type}; charset=utf-8"
    assert ("data" in response.json()) == (error == "UNAUTHENTICATED")


async def test_errors_suggest_no_names(http: httpx.AsyncClient) -> None:
    """Errors for unknown fields or arguments suggest no names."""
    for query in (
        "{ viewr { id } }",
        '{ task(idd: "1") { id } }',
        "{ tasks(filter: {complted: true}) { totalCount } }",
        "{ viewer }",
    ):
        assert "Did you mean" not in (await post(http, json.dumps({"query": query}))).text


async def test_operation_names(alice: User) -> None:
    """With several operations, operationName is required and must exist."""
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
async def test_documents_over_a_limit(http: httpx.AsyncClient, wire: Wire, query: str) -> None:
    """A document over a limit is rejected before validation, and no SQL is sent."""
    response = await post(http, json.dumps({"query": query}))

    assert code(response) in {"LIMIT_EXCEEDED", "GRAPHQL_PARSE_FAILED"}
    assert await wire.statements() == []


async def test_circular_fragments(http: httpx.AsyncClient) -> None:
    """Cyclic fragments are a validation error, not an endless loop."""
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
async def test_invalid_tokens(http: httpx.AsyncClient, wire: Wire, authorization: str | None) -> None:
    """A missing or invalid token gets 401 and UNAUTHENTICATED with a challenge, and no SQL is sent."""
    headers = {} if authorization is None else {"Authorization": authorization}

    response = await http.post("/graphql", json={"query": VIEWER}, headers=headers)

    assert (response.status_code, code(response)) == (401, "UNAUTHENTICATED")
    challenge = 'Bearer error="invalid_token", error_description="' if authorization is not None else "Bearer"
    assert response.headers["www-authenticate"].startswith(challenge)
    assert await wire.statements() == []


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 1}, "EXPIRED"),
        ({"nbf": LATER}, "NOT_YET_VALID"),
        ({"iat": LATER - 1}, "NOT_YET_VALID"),
        ({"sub": "x"}, "INVALID"),
        ({"exp": None}, "INVALID"),
    ],
)
async def test_the_reason_of_a_401(http: httpx.AsyncClient, claims: dict[str, Any], reason: str) -> None:
    """The error and the challenge say whether a new token would help."""
    response = await http.post(
        "/graphql", json={"query": VIEWER}, headers={"Authorization": "Bearer " + signed({**CLAIMS, **claims})}
    )

    (error,) = response.json()["errors"]
    assert error["extensions"] == {"code": "UNAUTHENTICATED", "reason": reason}
    described = error["message"].replace('"', "")
    assert response.headers["www-authenticate"] == f'Bearer error="invalid_token", error_description="{described}"'


async def test_without_a_token_the_challenge_has_no_error(http: httpx.AsyncClient) -> None:
    """Without a token the challenge contains no error, as RFC 6750 requires."""
    response = await http.post("/graphql", json={"query": VIEWER})

    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED", "reason": "MISSING"}


def expiring(alice: User, seconds: float) -> str:
    """A token whose `exp` is this many seconds from now."""
    return "Bearer " + signed({"sub": str(alice.id), "iat": 1, "exp": int(time.time()) + seconds})


async def test_a_token_is_valid_until_its_leeway_has_passed(alice: User) -> None:
    """A token is valid until half a minute after `exp`, whether cached or not."""
    for seconds, status in ((LEEWAY_SECONDS - 5, 200), (LEEWAY_SECONDS + 1, 401)):
        headers = {"Authorization": expiring(alice, -seconds)}
        for _ in range(2):
            response = await alice.http.post("/graphql", json={"query": VIEWER}, headers=headers)
            assert response.status_code == status


def lines(**headers: list[str]) -> list[tuple[str, str]]:
    """Header lines, some of them repeated."""
    given = {"content-type": ["application/json"]} | {
        name.replace("_", "-"): values for name, values in headers.items()
    }
    return [(name, value) for name, values in given.items() for value in values]


@pytest.mark.parametrize("accept", [[GRAPHQL_JSON, "text/plain"], ["text/plain", GRAPHQL_JSON]])
async def test_the_lines_of_a_list_are_one_list(http: httpx.AsyncClient, accept: list[str]) -> None:
    """Several Accept lines are read as one list, in any order."""
    response = await http.post("/graphql", content='{"query": "{ __typename }"}', headers=lines(accept=accept))

    assert (response.status_code, response.headers["content-type"]) == (200, f"{GRAPHQL_JSON}; charset=utf-8")


@pytest.mark.parametrize("encodings", [["gzip", "br"], ["br", "gzip"], ["gzip, br", "zstd"]])
async def test_encodings_on_several_lines(alice: User, encodings: list[str]) -> None:
    """A gzip encoding is recognized on any Accept-Encoding line."""
    await asyncio.gather(*(alice.add("A title", description="word " * 150) for _ in range(20)))
    headers = lines(authorization=[f"Bearer {alice.token}"], accept_encoding=encodings)

    response = await alice.http.post("/graphql", content=json.dumps({"query": DESCRIPTIONS}), headers=headers)

    assert response.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("name", ["authorization", "content-type", "origin"])
async def test_headers_with_one_value(alice: User, wire: Wire, name: str) -> None:
    """Different values of a single-valued header are rejected in any order; repeated equal values are accepted."""
    good = {"authorization": f"Bearer {alice.token}", "content-type": "application/json", "origin": "http://a.example"}
    for values in (["text/plain", good[name]], [good[name], "text/plain"]):
        headers = [(key, value) for key, value in good.items() if key != name] + [(name, value) for value in values]
        response = await alice.http.post("/graphql", content=json.dumps({"query": VIEWER}), headers=headers)

        assert (response.status_code, code(response)) == (400, "BAD_USER_INPUT")
        assert name in response.json()["errors"][0]["message"].lower()
    assert await wire.statements() == []
    twice = [*good.items(), (name, good[name])]
    response = await alice.http.post("/graphql", content=json.dumps({"query": VIEWER}), headers=twice)
    assert response.json()["data"]["viewer"]["id"] == str(alice.id)


@pytest.mark.parametrize("encodings", [["gzip"], ["GZIP"], ["br, identity"], ["identity", "deflate"], ["x"]])
async def test_a_compressed_body(http: httpx.AsyncClient, encodings: list[str]) -> None:
    """A body with Content-Encoding gets 415 and the accepted encoding."""
    body = gzip.compress(b'{"query": "{ __typename }"}')
    response = await http.post("/graphql", content=body, headers=lines(content_encoding=encodings))

    assert (response.status_code, code(response)) == (415, "BAD_USER_INPUT")
    assert response.headers["accept-encoding"] == "identity"
    assert "Content-Encoding" in response.json()["errors"][0]["message"]


@pytest.mark.parametrize("encodings", [["identity"], ["Identity", "identity"], [""]])
async def test_an_identity_body(http: httpx.AsyncClient, encodings: list[str]) -> None:
    """Content-Encoding: identity is accepted."""
    response = await http.post(
        "/graphql", content='{"query": "{ __typename }"}', headers=lines(content_encoding=encodings)
    )

    assert response.json() == {"data": {"__typename": "Query"}}


async def test_introspection_needs_no_token(http: httpx.AsyncClient) -> None:
    """Introspection needs no token, so that code generators can read the schema."""
    response = await post(http, json.dumps({"query": "{ __schema { queryType { name } } __typename }"}))

    assert response.json() == {"data": {"__schema": {"queryType": {"name": "Query"}}, "__typename": "Query"}}


async def test_a_bug_is_masked_and_logged_once(
    alice: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For an unexpected error the response has only the request id; the log has the details, but no variables."""

    async def broken(*_args: object) -> None:
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr("app.database.database.Database.read", broken)
    with caplog.at_level(logging.INFO):
        answer = await alice.ask("query ($v: ID!) { task(id: $v) { title } }", v=str(uuid4()))

    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "INTERNAL"
    assert "secret" not in json.dumps(answer)
    (record,) = written(caplog)
    line = caplog.handler.format(record)
    assert error["extensions"]["requestId"] in line
    assert "RuntimeError at test_http.py" in line
    assert "secret" not in line
    assert "\n" not in line


async def test_a_bug_before_execution_is_masked_and_logged_once(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error outside of execution gets a GraphQL error and one log line, both without the error's text."""

    def broken(*_args: object) -> None:
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr("schema.engine.execution.Engine.known", broken)
    with caplog.at_level(logging.INFO):
        response = await post(http, json.dumps({"query": VIEWER}))

    assert (response.status_code, code(response)) == (500, "INTERNAL")
    assert "secret" not in response.text + caplog.text
    (record,) = written(caplog)
    assert response.json()["errors"][0]["extensions"]["requestId"] in record.getMessage()


@pytest.mark.parametrize(
    "query", ["{ secret(", "{ secret }", '{ task(id: "secret") { id } }', "query ($a: Int!) { a }"]
)
async def test_errors_of_callers_are_not_logged(alice: User, caplog: pytest.LogCaptureFixture, query: str) -> None:
    """Errors of callers are not logged, by the server or a library."""
    with caplog.at_level(logging.DEBUG):
        answer = await alice.ask(query)

    assert answer["errors"]
    assert "secret" not in caplog.text
    assert written(caplog) == []


async def test_an_outage_is_503(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database outage is 503 with Retry-After."""

    async def down(*_args: object) -> None:
        raise Unavailable("The database cannot be reached; try again.")

    monkeypatch.setattr("app.database.database.Database.read", down)
    for query in (VIEWER, TASK):
        response = await alice.post(query)

        assert (response.status_code, code(response)) == (503, "UNAVAILABLE")
        assert int(response.headers["retry-after"]) >= 1


async def test_connections_that_the_server_closed(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """If PostgreSQL closes every connection, no response is an internal error, and later requests succeed."""
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
    """The response has the caller's X-Request-ID, or a generated one."""
    given = await alice.http.post("/graphql", json={"query": VIEWER}, headers={"X-Request-ID": "abc-1"})

    assert given.headers["x-request-id"] == "abc-1"
    for unfit in ("", "a b", "x" * 65, "ü"):
        headers = [(b"X-Request-ID", unfit.encode("latin-1"))]
        made = await alice.http.post("/graphql", json={"query": VIEWER}, headers=headers)
        assert re.fullmatch("[0-9a-f]{16}", made.headers["x-request-id"])
