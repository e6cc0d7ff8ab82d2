"""An overloaded server rejects excess requests quickly and completes the others."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import live
import orjson
import pytest
from conftest import Server, User, made_settings, running
from live import served
from patience import PATIENCE_SECONDS, PROMISED
from prometheus_client import REGISTRY
from standstill import standstill, waiting

from app.database import connections, database
from app.main import create_app
from app.settings import Settings

VIEWER = "{ viewer { id } }"
TITLES = "{ tasks { nodes { title } } }"
NewUser = Callable[..., Awaitable[User]]
BUSY = "The server has too many requests in progress; try again."


async def test_no_connection_is_free(
    server: Server, settings: Settings, alice: User, new_user: NewUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that gets no connection in time is UNAVAILABLE with retryAfter; the others complete."""
    del settings
    assert PROMISED["app.database.connections.PATIENCE_SECONDS"] < 2
    async with running(made_settings(server, db_pool_size=2)) as application:
        alice.http = application.http
        async with standstill(server) as watcher:
            first = [asyncio.create_task((await new_user(alice.http)).ask(TITLES)) for _ in range(2)]
            await waiting(watcher, 2)
            monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.2)
            response = await alice.post(VIEWER)
        answers = await asyncio.gather(*first)

    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["errors"][0]["extensions"] == {"code": "UNAVAILABLE", "retryAfter": 1}
    assert answers == [{"data": {"tasks": {"nodes": []}}}] * 2


async def test_a_statement_that_takes_too_long(
    server: Server, settings: Settings, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL cancels the statement, the response is 503, and the connection serves the next request."""
    del settings
    monkeypatch.setattr(database, "SESSION", {**database.SESSION, "statement_timeout": "1s"})
    async with running(made_settings(server, db_pool_size=1)) as application:
        alice.http = application.http
        async with standstill(server):
            response = await alice.post(TITLES)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json()["errors"][0]["extensions"]["code"] == "UNAVAILABLE"
        assert (await alice.data(VIEWER))["viewer"] == {"id": str(alice.id)}


@pytest.mark.parametrize("media_type", ["application/json", "application/graphql-response+json"])
async def test_too_many_requests_at_once(
    server: Server, settings: Settings, alice: User, new_user: NewUser, media_type: str
) -> None:
    """A request over the limit gets 503 as a GraphQL error; health checks and later requests succeed."""
    del settings
    async with running(made_settings(server, limit_concurrency=2)) as application:
        alice.http = application.http
        async with standstill(server) as watcher:
            first = [asyncio.create_task((await new_user(alice.http)).ask(TITLES)) for _ in range(2)]
            await waiting(watcher, 2)
            headers = {"Accept": media_type, "Authorization": f"Bearer {alice.token}"}
            shed = await application.http.post("/graphql", json={"query": VIEWER}, headers=headers)
            assert (await application.http.get("/livez")).status_code == 200
        answers = await asyncio.gather(*first)
        assert (await alice.data(VIEWER))["viewer"] == {"id": str(alice.id)}

    assert (shed.status_code, shed.headers["retry-after"]) == (503, "1")
    assert shed.headers["content-type"] == f"{media_type}; charset=utf-8"
    assert shed.json() == {"errors": [{"message": BUSY, "extensions": {"code": "UNAVAILABLE", "retryAfter": 1}}]}
    assert answers == [{"data": {"tasks": {"nodes": []}}}] * 2


async def test_a_rejection_for_overload_is_recorded(
    server: Server, settings: Settings, alice: User, bob: User, capsys: pytest.CaptureFixture[str]
) -> None:
    """A request rejected for overload keeps its id, is logged as an outage, and counts as an error."""
    del settings
    door = made_settings(server, limit_concurrency=1, log_format="json")
    async with running(door) as application, standstill(server) as watcher:
        alice.http = application.http
        first = asyncio.create_task(alice.ask(TITLES))
        await waiting(watcher, 1)
        before = REGISTRY.get_sample_value("taskql_errors_total", {"code": "UNAVAILABLE"}) or 0
        headers = {"X-Request-ID": "mine", "Authorization": f"Bearer {bob.token}"}
        shed = await application.http.post("/graphql", json={"query": VIEWER}, headers=headers)
        counted = REGISTRY.get_sample_value("taskql_errors_total", {"code": "UNAVAILABLE"})
        first.cancel()

    assert (shed.status_code, shed.headers["x-request-id"], counted) == (503, "mine", before + 1)
    line = orjson.loads(capsys.readouterr().err.splitlines()[0])
    assert (line["level"], line["request_id"], line["code"]) == ("warning", "mine", "UNAVAILABLE")
    assert (line["operation"], line["statements"]) == (None, 0)


async def test_event_streams_do_not_count_against_the_limit(server: Server, settings: Settings, alice: User) -> None:
    """Open event streams do not count as requests in progress."""
    del settings
    app = create_app(made_settings(server, limit_concurrency=1), schema=live.schema)
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {alice.token}"}
    asked = {"query": "subscription { tickThenSilence }"}
    async with (
        served(app) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE_SECONDS) as alice.http,
    ):
        for _ in range(3):
            request = alice.http.build_request("POST", "/graphql", json=asked, headers=headers)
            response = await alice.http.send(request, stream=True)
            assert await anext(response.aiter_lines()) == "event: next"
        assert (await alice.data(VIEWER))["viewer"] == {"id": str(alice.id)}
