"""Logs and traces, which contain no secrets and no user content."""

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx
import live
import pytest
from conftest import SECRET, Server, Serving, User, announced, connect, python, running, serving
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from patience import PATIENCE_SECONDS

from app.database import connections
from app.main import create_app
from app.observability.logs import MOST_AT_ONCE, RequestLog
from app.observability.metrics import Record, Telemetry
from app.operations import GraphQLRequest, GraphQLResponse
from app.settings import Settings

CREATE = "mutation Make($title: String!) { createTask(input: { title: $title }) { task { id } userErrors { code } } }"
VIEWER = "query Who { viewer { id } }"
TEXT, VARIABLE, PASSWORD = "Buy-a-ring-for-Zoe", "a-variable-of-mine", "a-password-of-the-role"
BUG = "subscription Broken { bug }"
NOBODY = 'query Nobody { task(id: "%s") { id } }'


@pytest.fixture
def telling(settings: Settings) -> Settings:
    """Settings that log each request."""
    return settings.model_copy(update={"log_level": "info", "log_format": "json"})


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


NewUser = Callable[..., Awaitable[User]]


async def test_a_line_for_a_request(telling: Settings, new_user: NewUser, capsys: pytest.CaptureFixture[str]) -> None:
    """The log line has the user, operation, time, result, duration and number of statements."""
    async with running(telling) as application:
        user = await new_user(application.http)
        user.http.headers["X-Request-ID"] = "mine"
        await user.data(VIEWER)

    (line,) = lines(capsys.readouterr().err)
    assert line.pop("timestamp").endswith("Z")
    assert 0 < line.pop("ms") < 60_000
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": "mine",
        "user": sha256(str(user.id).encode()).hexdigest()[:16],
        "operation": "Who",
        "type": "query",
        "code": "OK",
        "statements": 1,
    }


async def test_refusals(telling: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """A rejected request is logged with the reason."""
    async with running(telling) as application:
        await application.http.post("/graphql", json={"query": VIEWER})
        await application.http.post("/graphql", json={"query": "{"})
        await application.http.post("/graphql", content="{}", headers={"Content-Type": "text/plain"})

    told = [(line["code"], line.get("operation"), line.get("status")) for line in lines(capsys.readouterr().err)]
    assert told == [
        ("UNAUTHENTICATED", "Who", None),
        ("GRAPHQL_PARSE_FAILED", None, None),
        ("BAD_USER_INPUT", None, 415),
    ]


async def test_warnings_are_logged_without_responses(
    settings: Settings, new_user: NewUser, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the level `warning` outages are logged, and responses are not."""
    async with running(settings.model_copy(update={"log_format": "json", "db_pool_size": 1})) as application:
        user = await new_user(application.http)
        await user.data(VIEWER)
        monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.1)
        with await application.database.connections.take(uuid4()):
            await user.ask(VIEWER)

    (line,) = lines(capsys.readouterr().err)
    assert (line["level"], line["code"]) == ("warning", "UNAVAILABLE")


async def test_a_client_that_left(telling: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """The request of a client that disconnected is logged as CANCELLED."""

    async def forever(_request: GraphQLRequest, _record: Record) -> GraphQLResponse:
        await asyncio.Event().wait()
        raise AssertionError

    telemetry = Telemetry(telling)
    asking = asyncio.ensure_future(telemetry.recorded(forever)(GraphQLRequest("", None, None, None, None, None, "1")))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    telemetry.close()

    assert [line["code"] for line in lines(capsys.readouterr().err)] == ["CANCELLED"]


async def test_for_people(
    settings: Settings, new_user: NewUser, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the log is not JSON."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    async with running(settings.model_copy(update={"log_level": "info"})) as application:
        await (await new_user(application.http)).data(VIEWER)

    (line,) = capsys.readouterr().err.splitlines()
    assert "Who" in line
    assert not line.startswith("{")


class Pipe:
    """Replaces stderr, and keeps each write."""

    def __init__(self) -> None:
        self.buffer, self.written = self, list[bytes]()

    def write(self, text: bytes) -> None:
        self.written.append(text)

    def flush(self) -> None:
        """Writes are not buffered."""

    def isatty(self) -> bool:
        return False


async def test_lines_of_processes_do_not_mix(telling: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write has whole lines, and is small enough for a pipe to write atomically."""
    monkeypatch.setattr(sys, "stderr", pipe := Pipe())
    log = RequestLog(telling)
    for number in range(200):
        log.write(logging.INFO, "request", {"number": number})
    log.flush()

    assert max(map(len, pipe.written)) <= MOST_AT_ONCE
    assert all(text.endswith(b"\n") for text in pipe.written)
    assert [line["number"] for line in lines(b"".join(pipe.written).decode())] == list(range(200))


LIBRARIES = """
import asyncio, gc, logging
from app.observability.logs import configure
from app.settings import load

configure(load())
logging.getLogger("uvicorn.error").error("A line of uvicorn\\nsecret")
logging.getLogger("alembic.runtime.migration").warning("A line of Alembic")
logging.getLogger("websockets").info("secret")
logging.getLogger("httpx").debug("secret")
logging.getLogger("app.tasks.repository").debug("A line of ours")
try:
    raise ValueError("secret")
except ValueError:
    logging.getLogger("uvicorn.error").exception("Failed")

async def forgotten():
    raise KeyError("secret")

async def main():
    asyncio.create_task(forgotten())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()

asyncio.run(main())
"""


@pytest.mark.parametrize("format_", ["json", "console"])
def test_what_libraries_log(format_: str) -> None:
    """Libraries log in our format, without error messages and developers' details."""
    process = python("-c", LIBRARIES, LOG_LEVEL="debug", LOG_FORMAT=format_)
    text = process.communicate(timeout=PATIENCE_SECONDS)[1]

    assert "secret" not in text
    for line in ("A line of uvicorn", "A line of Alembic", "A line of ours", "Task exception was never retrieved"):
        assert line in text
    assert "ValueError at" in text
    assert len(lines(text) if format_ == "json" else text.splitlines()) == 5


def environment(server: Server) -> dict[str, str]:
    """A server's environment, with a password for its role."""
    return {
        "DATABASE_URL": server.app_url.replace("taskql_app@", f"taskql_app:{PASSWORD}@"),
        "DATABASE_OWNER_URL": server.owner_url,
        "AUTH_SECRET": SECRET,
    }


def told(served: Serving) -> str:
    """Stop a server and return all its output."""
    served.stop()
    assert served.process.stdout
    assert served.process.stderr
    return served.process.stdout.read() + served.process.stderr.read()


async def provoke(served: Serving, user: User) -> None:
    """Send all kinds of requests that might make a server output its input."""
    stolen = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJub2JvZHkifQ.c3RvbGVu"
    served.ask(CREATE, user.token, title=TEXT)
    served.ask(CREATE, user.token, title=TEXT * 20)
    served.ask(CREATE, user.token, title={"not": TEXT})
    served.ask(CREATE, stolen, title=TEXT)
    served.ask(f'mutation {{ createTask(input: {{ title: "{TEXT}" }}) {{ nothing }} }}', user.token)
    served.ask(f'{{ viewer(name: "{TEXT}"', user.token)
    served.ask(NOBODY % TEXT, user.token)
    async with httpx.AsyncClient(
        base_url=served.url, headers={"Authorization": f"Bearer {user.token}"}, timeout=PATIENCE_SECONDS
    ) as http:
        await http.get("/graphql", params={"query": VIEWER, "variables": json.dumps({"a": VARIABLE})})
        await http.post("/graphql", content=f'{{"query": "{TEXT}', headers={"Content-Type": "application/json"})
        await http.post(f"/nothing/{VARIABLE}?token={user.token}")
        await http.post("/graphql", json={"query": BUG}, headers={"Accept": "text/event-stream"})


def secrets(user: User) -> list[str]:
    return [
        TEXT,
        VARIABLE,
        PASSWORD,
        SECRET,
        user.token,
        user.token.split(".")[1],
        "c3RvbGVu",
        str(user.id),
        user.email,
    ]


async def test_no_secret_is_logged(server: Server, alice: User) -> None:
    """Tokens, variables, content, passwords and ids do not appear in the server's output."""
    process = python(live.__file__, "serve", "--port", "0", LOG_LEVEL="debug", **environment(server))
    with announced(process, has_demo=False) as served:
        await provoke(served, alice)
        text = told(served)

    assert len(lines(text)) >= 10
    assert "ZeroDivisionError at" in text
    assert [secret for secret in [*secrets(alice), '"secret"'] if secret in text] == []


async def test_a_log_that_cannot_be_written(server: Server, alice: User) -> None:
    """A broken pipe does not affect responses."""
    with serving(LOG_LEVEL="info", **environment(server)) as served:
        assert served.process.stderr
        served.process.stderr.close()
        for _ in range(50):
            assert "errors" not in served.ask(VIEWER, alice.token)


class Collector:
    """Receives spans like OpenTelemetry's collector."""

    def __init__(self, url: str, bodies: list[bytes]) -> None:
        self.url, self.bodies = url, bodies

    def spans(self) -> list[Span]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        scopes = [scope for request in requests for part in request.resource_spans for scope in part.scope_spans]
        return [span for scope in scopes for span in scope.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Log nothing."""

    with _listening(Handler) as url:
        yield Collector(url, bodies)


@contextmanager
def _listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def attributes(span: Span) -> dict[str, str]:
    return {item.key: item.value.string_value for item in span.attributes}


async def test_traces(server: Server, alice: User, collector: Collector) -> None:
    """A span for the request has the operation's name, and child spans for the statements."""
    with serving(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **environment(server)) as served:
        served.ask(VIEWER, alice.token)  # opens a connection, which sends further statements
        served.ask(VIEWER, alice.token)
        told(served)

    _, request = [span for span in collector.spans() if span.name == "POST /graphql"]
    beneath = [span for span in collector.spans() if span.parent_span_id == request.span_id]
    assert attributes(request)["graphql.operation.name"] == "Who"
    assert attributes(request)["taskql.code"] == "OK"
    assert [attributes(span)["db.system"] for span in beneath] == ["postgresql"]


async def test_no_secret_is_traced(server: Server, alice: User, collector: Collector) -> None:
    """Spans contain no SQL and no query strings, and only the types of errors, also in an outage."""
    with serving(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **environment(server)) as served:
        await provoke(served, alice)
        owner = await connect(server.owner_url)
        await owner.execute("ALTER TABLE users RENAME COLUMN name TO gone")
        served.ask("{ viewer { name } }", alice.token)
        await owner.execute("ALTER TABLE users RENAME COLUMN gone TO name")
        await owner.close()
        told(served)

    sent = b"".join(collector.bodies)
    assert [secret for secret in [*secrets(alice), "users", "act_as"] if secret.encode() in sent] == []
    assert b"exception.type" in sent


UNASKED = """
import sys
from app.main import create_app
from app.settings import load

create_app(load())
print("opentelemetry" in sys.modules)
"""


def test_disabled_traces(server: Server) -> None:
    """Without traces OpenTelemetry is not imported."""
    assert python("-c", UNASKED, **environment(server)).communicate(timeout=PATIENCE_SECONDS)[0] == "False\n"


def test_traces_without_opentelemetry(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server with OTEL variables but without the package logs what is missing, and serves."""
    monkeypatch.setitem(sys.modules, "app.observability.tracing", None)

    create_app(settings.model_copy(update={"otel_traces_exporter": "otlp"}))

    assert "install taskql[otel]" in caplog.text
