"""GraphQL over server-sent events, on a real server."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import live
import pytest
from conftest import CREATE, Server, User
from live import served, watch
from patience import PATIENCE_SECONDS

from app.main import create_app
from app.operations import GraphQLResponse, ResponseStream
from app.settings import Settings
from app.web import event_streams
from app.web.event_streams import EventStreams

VIEWER = "{ viewer { id } }"
TICKS = "subscription Ticks($count: Int!) { ticks(count: $count) }"
SILENCE = "subscription { silence }"
FLOOD = "subscription { flood }"
TASK = "subscription Task($id: ID!) { task(id: $id) { __typename id title } }"
URQL = (
    "application/graphql-response+json, application/graphql+json, application/json, text/event-stream, multipart/mixed"
)


@pytest.fixture(scope="module")
async def address(settings: Settings) -> AsyncIterator[str]:
    async with served(create_app(settings, schema=live.schema)) as address:
        yield f"http://{address}"


@pytest.fixture
async def http(address: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[httpx.AsyncClient]:
    """A client; at the end the server must have logged no warning."""
    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE_SECONDS) as client:
        yield client
    records = caplog.get_records("call")
    assert [record.getMessage() for record in records if record.levelno >= logging.WARNING] == []


def headers(user: User | None, accept: str = "text/event-stream") -> dict[str, str]:
    return {"Accept": accept} | ({"Authorization": f"Bearer {user.token}"} if user else {})


async def sent(
    http: httpx.AsyncClient, user: User | None, query: str, accept: str = "text/event-stream", **variables: Any
) -> httpx.Response:
    """The complete response to an operation."""
    body = {"query": query, "variables": variables}
    return await http.post("/graphql", json=body, headers=headers(user, accept))


@asynccontextmanager
async def streamed(http: httpx.AsyncClient, user: User, query: str) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a response as they arrive."""
    async with http.stream("POST", "/graphql", json={"query": query}, headers=headers(user)) as response:
        assert response.status_code == 200
        yield response.aiter_lines()


def payloads(response: httpx.Response) -> list[Any]:
    """The GraphQL responses in a completed event stream."""
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *nexts, complete, rest = response.text.split("\n\n")
    assert (complete, rest) == ("event: complete\ndata:", "")
    assert all(event.startswith("event: next\ndata: ") for event in nexts)
    return [json.loads(event.removeprefix("event: next\ndata: ")) for event in nexts]


async def test_a_subscription_sends_each_event_and_completes(http: httpx.AsyncClient, alice: User) -> None:
    """Each result is a `next` event, ended by a blank line; the last event is `complete`."""
    response = await sent(http, alice, TICKS, count=2)

    assert response.text == (
        'event: next\ndata: {"data":{"ticks":1}}\n\n'
        'event: next\ndata: {"data":{"ticks":2}}\n\n'
        "event: complete\ndata:\n\n"
    )


async def test_intermediaries_must_not_buffer_events(http: httpx.AsyncClient, alice: User) -> None:
    """The headers disable caching and proxy buffering, and contain the request id."""
    response = await sent(http, alice, TICKS, count=1)

    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"]


async def test_two_users_see_their_own(http: httpx.AsyncClient, alice: User, bob: User) -> None:
    """Each user's events contain only that user's data."""
    task = await alice.add("Alice's")

    hers = payloads(await sent(http, alice, TASK, id=task["id"]))
    his = payloads(await sent(http, bob, TASK, id=task["id"]))

    assert hers == [{"data": {"task": {"__typename": "Task", "id": task["id"], "title": "Alice's"}}}]
    assert his == [{"data": {"task": None}}]


async def test_accepting_all_gets_events_for_subscriptions_only(http: httpx.AsyncClient, alice: User) -> None:
    """A client that accepts all media types, as urql does, gets events for subscriptions only."""
    query = await sent(http, alice, VIEWER, URQL)
    mutation = await sent(http, alice, CREATE, URQL, input={"title": "Plain"})
    subscription = await sent(http, alice, TICKS, URQL, count=1)

    assert query.headers["content-type"].startswith("application/graphql-response+json")
    assert query.json() == {"data": {"viewer": {"id": str(alice.id)}}}
    assert mutation.json()["data"]["createTask"]["task"]["title"] == "Plain"
    assert payloads(subscription) == [{"data": {"ticks": 1}}]


@pytest.mark.parametrize(
    "accept",
    [
        "text/event-stream",
        "Text/Event-Stream; charset=utf-8",
        "application/json;q=0.9, text/event-stream",
        "text/event-stream, */*",
        "text/event-stream;q=0.5, */*;q=0.1",
    ],
)
async def test_preferring_events_gets_events(http: httpx.AsyncClient, alice: User, accept: str) -> None:
    """A client that prefers events gets queries and mutations as one event too."""
    assert payloads(await sent(http, alice, VIEWER, accept)) == [{"data": {"viewer": {"id": str(alice.id)}}}]


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "text/event-stream;q=0.9, */*",
        "text/event-stream;q=0, */*",
        "application/json, text/*",
    ],
)
async def test_not_preferring_events_gets_plain_responses(http: httpx.AsyncClient, alice: User, accept: str) -> None:
    """The preference is read from the weights and whole media types of the Accept header."""
    assert (await sent(http, alice, VIEWER, accept)).json() == {"data": {"viewer": {"id": str(alice.id)}}}


@pytest.mark.parametrize(
    "accept", ["application/json", "*/*", "text/*, application/json", "text/event-stream;q=0, */*"]
)
async def test_a_subscription_needs_events(http: httpx.AsyncClient, alice: User, accept: str) -> None:
    """Without text/event-stream in Accept a subscription gets 406, with the two ways to subscribe."""
    response = await sent(http, alice, TICKS, accept, count=1)

    assert response.status_code == 406
    [error] = response.json()["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert "text/event-stream" in error["message"]
    assert "graphql-transport-ws" in error["message"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("subscription { ticks", "GRAPHQL_PARSE_FAILED"),
        ("subscription { nothing }", "GRAPHQL_VALIDATION_FAILED"),
        (TICKS, "BAD_USER_INPUT"),
    ],
)
async def test_a_request_error_is_an_event(http: httpx.AsyncClient, alice: User, query: str, code: str) -> None:
    """A request error is sent as an event with status 200, since clients of event streams cannot read other bodies."""
    [answer] = payloads(await sent(http, alice, query))

    assert [error["extensions"]["code"] for error in answer["errors"]] == [code]
    assert "data" not in answer


async def test_a_subscription_needs_a_token(http: httpx.AsyncClient) -> None:
    """Without a token, a client that accepts only events gets the error as an event, others get 401."""
    [answer] = payloads(await sent(http, None, SILENCE))
    plain = await sent(http, None, SILENCE, URQL)

    assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert plain.status_code == 401


async def test_a_failing_source_is_an_error(http: httpx.AsyncClient, alice: User) -> None:
    """If the source fails, earlier events stand, and the last event is the error."""
    first, last = payloads(await sent(http, alice, "subscription { outage }"))

    assert first == {"data": {"outage": 1}}
    assert last["errors"][0]["extensions"]["code"] == "UNAVAILABLE"


async def test_a_subscription_may_come_by_get(http: httpx.AsyncClient, alice: User) -> None:
    """A subscription may use GET, as EventSource does; a mutation may not, whatever it accepts."""
    asked = {"query": TICKS, "variables": json.dumps({"count": 1})}
    subscription = await http.get("/graphql", params=asked, headers=headers(alice))
    mutation = await http.get("/graphql", params={"query": "mutation { __typename }"}, headers=headers(alice))

    assert payloads(subscription) == [{"data": {"ticks": 1}}]
    [refused] = payloads(mutation)
    assert refused["errors"][0]["extensions"]["code"] == "METHOD_NOT_ALLOWED"


async def test_comments_keep_the_connection_alive(
    http: httpx.AsyncClient, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comments are sent while there are no events, so that intermediaries keep the connection open."""
    monkeypatch.setattr(event_streams, "KEEP_ALIVE_SECONDS", 0.05)
    async with streamed(http, alice, SILENCE) as lines:
        assert [await anext(lines) for _ in range(4)] == [":", "", ":", ""]


async def test_a_client_that_leaves_ends_its_subscription(http: httpx.AsyncClient, alice: User) -> None:
    """Closing the connection closes the source."""
    async with streamed(http, alice, SILENCE):
        await watch.until(1)

    await watch.until(0)


async def test_a_stream_ends_with_its_token(
    http: httpx.AsyncClient, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream ends without `complete` when its token expires, so that clients reconnect with a new one."""
    live.brief(monkeypatch.setattr, until := live.soon(), 1)
    token = live.expiring(alice.id, until)
    began = asyncio.get_running_loop().time()
    response = await sent(http, User(alice.id, alice.email, token, http), SILENCE)

    assert response.text == ""
    assert asyncio.get_running_loop().time() - began > 0.9
    await watch.until(0)


def test_streams_end_when_the_server_stops(server: Server, alice: User) -> None:
    """At shutdown streams end at once without `complete`, so that clients reconnect; nothing is logged."""
    with live.process(server) as process:
        url, asked = f"{process.url}/graphql", {"query": "subscription { tickThenSilence }"}
        with httpx.stream("POST", url, json=asked, headers=headers(alice), timeout=PATIENCE_SECONDS) as response:
            lines = response.iter_lines()
            assert [next(lines) for _ in range(3)] == ["event: next", 'data: {"data":{"tickThenSilence":1}}', ""]
            assert process.stop() == 0
            assert list(lines) == []
        assert process.process.stderr
        assert process.process.stderr.read() == ""


async def test_a_client_that_stops_reading_is_dropped(
    address: str, alice: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If a client stops reading, the source is read only until the buffers are full, and soon closed."""
    monkeypatch.setattr(event_streams, "WRITE_SECONDS", 0.2)
    url = httpx.URL(address)
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=1)
    body = json.dumps({"query": FLOOD})
    writer.write(
        f"POST /graphql HTTP/1.1\r\nHost: {url.host}\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {alice.token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    await watch.until(1)

    await watch.until(0)
    assert len(await reader.read()) < 20_000_000
    writer.close()
    caplog.clear()  # uvicorn logs the incomplete response


async def test_only_subscriptions_are_cut_off() -> None:
    """A server that stops completes the event of a query or mutation, and ends subscriptions without `complete`."""
    streams, begun, end = EventStreams(), asyncio.Event(), asyncio.Event()
    written: list[bytes] = []

    async def stalled(message: Any) -> None:
        if message["type"] == "http.response.body":
            begun.set()
            await end.wait()
            written.append(message["body"])

    async def stays() -> Any:
        await asyncio.Event().wait()

    async def one() -> AsyncGenerator[GraphQLResponse, None]:
        yield GraphQLResponse({"data": None}, executed=True)

    for answered, is_cut_off in (
        (GraphQLResponse({}, executed=True), False),
        (ResponseStream(one(), time.time() + 60), True),
    ):
        written.clear()
        begun.clear()
        end.clear()
        sending = asyncio.create_task(streams.send(answered, [], stays, stalled))
        await begun.wait()
        streams.close()
        await asyncio.sleep(0)
        end.set()
        await sending
        assert (event_streams.COMPLETE not in written) == is_cut_off
