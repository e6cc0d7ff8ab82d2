"""Long request bodies and socket messages: users may send a megabyte, few at a time; strangers may not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from conftest import Application, User, running
from live import served
from patience import PATIENCE_SECONDS
from test_sockets import Client
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app import main
from app.main import create_app
from app.settings import Settings
from app.web.long_messages import LONG_OF_A_USER, LONGEST_BYTES, MOST_BYTES, MOST_LONG, LongMessages
from app.web.sockets import SUBPROTOCOL

CREATE = """mutation ($inputs: [CreateTaskInput!]!) {
    createTasks(inputs: $inputs) { tasks { id description } userErrors { code message field } }
}"""
COUNT = "{ tasks { totalCount } }"
VIEWER = "{ viewer { id } }"
ALLOWED = {"content-type": "application/json"}

NewUser = Callable[..., Awaitable[User]]


def inputs(character: str = "d") -> list[dict[str, Any]]:
    """A hundred tasks with descriptions of the maximum length."""
    return [{"title": f"Task {n}", "description": character * 4000} for n in range(100)]


class Watched(LongMessages):
    """Places for long messages whose number can be awaited."""

    def __init__(self, verify: Any) -> None:
        super().__init__(verify)
        self.taken, self._changed = 0, asyncio.Event()
        given, places = self._places.give, self._places
        taken = places.take

        def take(key: UUID) -> bool:
            found = taken(key)
            self._change(found)
            return found

        def give(key: UUID) -> None:
            given(key)
            self._change(-1)

        places.take, places.give = take, give  # type: ignore[method-assign]  # watched, and otherwise the same

    def _change(self, by: int) -> None:
        self.taken += by
        self._changed.set()

    async def until(self, taken: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.taken != taken:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """The places of each application that is created, the last one last."""
    made = list[Watched]()

    def make(verify: Any) -> LongMessages:
        made.append(Watched(verify))
        return made[-1]

    monkeypatch.setattr(main, "LongMessages", make)
    return made


@pytest.fixture
async def app(watched: list[Watched], settings: Settings) -> AsyncIterator[tuple[Application, Watched]]:
    async with running(settings) as application:
        yield application, watched[-1]


def authorized(user: User) -> dict[str, str]:
    return {**ALLOWED, "authorization": f"Bearer {user.token}"}


def padded(size: int) -> bytes:
    """A body of this size."""
    body = orjson.dumps({"query": VIEWER})
    return body + b" " * (size - len(body))


async def in_parts(size: int, go_on: asyncio.Event) -> AsyncIterator[bytes]:
    """A body of which a megabyte's part arrives at once, and the rest when it may."""
    body = padded(size)
    yield body[: MOST_BYTES + 50_000]
    await go_on.wait()
    yield body[MOST_BYTES + 50_000 :]


@pytest.mark.parametrize("character", ["d", "ü"])
async def test_a_hundred_long_descriptions(alice: User, bob: User, character: str) -> None:
    """A hundred tasks with 4,000 characters each are created by one request."""
    payload = (await alice.data(CREATE, inputs=inputs(character)))["createTasks"]

    assert payload["userErrors"] == []
    assert [task["description"] for task in payload["tasks"]] == [character * 4000] * 100
    assert (await bob.data(COUNT))["tasks"]["totalCount"] == 0


async def test_descriptions_have_a_limit(alice: User) -> None:
    """One character more is TOO_LONG at its field, and nothing is created."""
    new = inputs()
    new[3]["description"] += "d"

    payload = (await alice.data(CREATE, inputs=new))["createTasks"]

    message = "The description has 4001 characters; the maximum is 4000."
    assert payload["userErrors"] == [{"code": "TOO_LONG", "message": message, "field": ["inputs", "3", "description"]}]
    assert (await alice.data(COUNT))["tasks"]["totalCount"] == 0


@pytest.mark.parametrize(("size", "status"), [(LONGEST_BYTES, 200), (LONGEST_BYTES + 1, 413)])
async def test_users_may_send_a_megabyte(app: tuple[Application, Watched], alice: User, size: int, status: int) -> None:
    """A longer body is rejected with the limit. The place is free again in both cases."""
    application, places = app

    answer = await application.http.post("/graphql", content=padded(size), headers=authorized(alice))

    assert answer.status_code == status
    assert status == 200 or "1,000,000 bytes" in answer.json()["errors"][0]["message"]
    assert places.taken == 0


@pytest.mark.parametrize("token", [None, "Bearer x.y.z", "Bearer"])
async def test_strangers_may_not(app: tuple[Application, Watched], alice: User, token: str | None) -> None:
    """Without a valid token the limit is that of short bodies. The error says why, and no place is taken."""
    application, places = app
    headers = ALLOWED | ({"authorization": token} if token else {})

    short = await application.http.post("/graphql", content=padded(MOST_BYTES), headers=headers)
    long = await application.http.post("/graphql", content=padded(MOST_BYTES + 1), headers=headers)

    assert (short.status_code, long.status_code) == (401, 413)
    (error,) = long.json()["errors"]
    assert error["extensions"] == {"code": "LIMIT_EXCEEDED"}
    assert "100,000 bytes without a valid token" in error["message"]
    assert places.taken == 0
    assert alice.token not in error["message"]


async def test_few_are_received_at_once(app: tuple[Application, Watched], alice: User, bob: User) -> None:
    """A user's long bodies beyond the share are rejected with 429, and those of others are not affected."""
    (application, places), go_on = app, asyncio.Event()
    client = application.http

    async def send(user: User) -> httpx.Response:
        return await client.post("/graphql", content=in_parts(300_000, go_on), headers=authorized(user))

    async with asyncio.TaskGroup() as sending:
        waiting = [sending.create_task(send(alice)) for _ in range(LONG_OF_A_USER)]
        await places.until(LONG_OF_A_USER)
        refused = await send(alice)
        others = await client.post("/graphql", content=padded(300_000), headers=authorized(bob))
        short = await client.post("/graphql", content=padded(50_000), headers=authorized(alice))
        go_on.set()

    assert [answer.result().status_code for answer in waiting] == [200] * LONG_OF_A_USER
    assert (refused.status_code, others.status_code, short.status_code) == (429, 200, 200)
    assert refused.json()["errors"][0]["extensions"]["code"] == "RATE_LIMITED"
    assert refused.headers["retry-after"] == "1"
    assert places.taken == 0


async def test_the_process_receives_few_at_once(app: tuple[Application, Watched], new_user: NewUser) -> None:
    """If all places are taken, further long bodies are rejected with 503."""
    (application, places), go_on = app, asyncio.Event()
    users = [await new_user() for _ in range(MOST_LONG // LONG_OF_A_USER)]

    async def send(user: User) -> httpx.Response:
        return await application.http.post("/graphql", content=in_parts(200_000, go_on), headers=authorized(user))

    async with asyncio.TaskGroup() as sending:
        waiting = [sending.create_task(send(user)) for user in users for _ in range(LONG_OF_A_USER)]
        await places.until(MOST_LONG)
        refused = await send(await new_user())
        go_on.set()

    assert {answer.result().status_code for answer in waiting} == {200}
    assert (refused.status_code, refused.json()["errors"][0]["extensions"]["code"]) == (503, "UNAVAILABLE")


@pytest.fixture
async def socket(
    watched: list[Watched], settings: Settings
) -> AsyncIterator[tuple[Callable[[], Awaitable[Client]], Watched]]:
    """Opens sockets of one server."""
    protocols: Any = [SUBPROTOCOL]
    async with served(create_app(settings)) as address, AsyncExitStack() as stack:

        async def make() -> Client:
            opened = connect(f"ws://{address}/graphql", subprotocols=protocols, compression=None, max_size=None)
            return Client(await stack.enter_async_context(opened))

        yield make, watched[-1]


Open = tuple[Callable[[], Awaitable[Client]], Watched]


def message(size: int, id_: str = "one") -> str:
    text = orjson.dumps({"type": "subscribe", "id": id_, "payload": {"query": VIEWER}}).decode()
    return text + " " * (size - len(text))


async def halves(text: str, go_on: asyncio.Event) -> AsyncIterator[str]:
    """A message in two fragments, the second when it may."""
    yield text[: MOST_BYTES + 50_000]
    await go_on.wait()
    yield text[MOST_BYTES + 50_000 :]


async def test_a_hundred_long_descriptions_over_a_socket(socket: Open, alice: User) -> None:
    """Several long messages of a user arrive one after the other."""
    client = await socket[0]()
    await client.initialise(alice)

    for character in ("d", "ü"):
        answer = await client.data(CREATE, inputs=inputs(character))
        assert len(answer["data"]["createTasks"]["tasks"]) == 100

    assert (await client.data(COUNT))["data"]["tasks"]["totalCount"] == 200
    await socket[1].until(0)


@pytest.mark.parametrize(("size", "fits"), [(LONGEST_BYTES, True), (LONGEST_BYTES + 1, False)])
async def test_a_message_may_have_a_megabyte(socket: Open, alice: User, size: int, fits: bool) -> None:  # noqa: FBT001 - a parameter
    """A longer message closes the socket: 4400."""
    client = await socket[0]()
    await client.initialise(alice)

    await client.connection.send(message(size))

    if fits:
        assert (await client.receive())["payload"] == {"data": {"viewer": {"id": str(alice.id)}}}
    else:
        assert await client.closed() == (4400, "A message must be text of at most 1,000,000 bytes.")
    await socket[1].until(0)


@pytest.mark.parametrize(("size", "code"), [(MOST_BYTES + 1, 4400), (2 * MOST_BYTES + 1, 1009)])
async def test_a_long_message_before_connection_init(socket: Open, size: int, code: int) -> None:
    """Before connection_init, long messages close the socket, and take no place."""
    client = await socket[0]()

    await client.connection.send(message(size))

    assert (await client.closed())[0] == code
    assert socket[1].taken == 0


async def test_few_messages_are_received_at_once(socket: Open, alice: User, bob: User) -> None:
    """A user's long messages beyond the share close their socket with 1013. Others are not affected."""
    (make, places), go_on = socket, asyncio.Event()
    clients = [await make() for _ in range(LONG_OF_A_USER + 2)]
    for client in clients[:-1]:
        await client.initialise(alice)
    await clients[-1].initialise(bob)

    async with asyncio.TaskGroup() as sending:
        for client in clients[:LONG_OF_A_USER]:
            sending.create_task(client.connection.send(halves(message(300_000), go_on)))
        await places.until(LONG_OF_A_USER)
        refused = asyncio.create_task(clients[-2].connection.send(halves(message(300_000), go_on)))
        closed = await clients[-2].closed()
        await clients[-1].connection.send(message(300_000))
        assert (await clients[-1].receive())["type"] == "next"
        go_on.set()

    assert closed == (1013, "Too many long messages are being received; retry later.")
    with pytest.raises(ConnectionClosed):
        await refused
    for client in clients[:LONG_OF_A_USER]:
        assert (await client.receive())["type"] == "next"
    await places.until(0)


async def test_a_lost_socket_gives_its_place_back(socket: Open, alice: User) -> None:
    """A socket that ends within a long message leaves no place taken."""
    (make, places), go_on = socket, asyncio.Event()
    client = await make()
    await client.initialise(alice)

    async with asyncio.TaskGroup() as sending:
        sent = sending.create_task(client.connection.send(halves(message(300_000), go_on)))
        await places.until(1)
        sent.cancel()
        client.connection.transport.abort()

    await places.until(0)
