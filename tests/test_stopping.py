"""Stopping and restarting servers: accepted requests are answered, then the processes end."""

import asyncio
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
from conftest import SECRET, Server, Serving, User, announced, python, serving
from conftest import connect as connect_as
from patience import PATIENCE_SECONDS
from raw import exchange, request, statuses
from standstill import WAITING
from websockets.asyncio.client import ClientConnection, connect

from app.settings import Settings
from app.web.sockets import SUBPROTOCOL

ADD = 'mutation { createTask(input: { title: "In flight" }) { task { title } } }'
VIEWER = "{ viewer { id } }"
TITLES = "{ tasks { nodes { title } } }"
HALF = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
CLIENTS = 8
PROTOCOLS: Any = [SUBPROTOCOL]
JSON = "Content-Type: application/json"


def environment(server: Server, **more: str) -> dict[str, str]:
    urls = {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url}
    return {**urls, "AUTH_SECRET": SECRET, "RATE_LIMIT": "off", "RATE_LIMIT_ANONYMOUS": "off", **more}


async def ended(served: Serving) -> int:
    return await asyncio.to_thread(served.process.wait, PATIENCE_SECONDS)


async def posted(http: httpx.AsyncClient, user: User, query: str = VIEWER) -> httpx.Response:
    return await http.post("/graphql", json={"query": query}, headers={"Authorization": f"Bearer {user.token}"})


async def test_it_says_that_it_is_not_ready_before_it_leaves(server: Server, alice: User) -> None:
    """After SIGTERM /readyz is 503, while requests are answered with `Connection: close`."""
    with serving(**environment(server, DRAIN_SECONDS="300")) as served:
        async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_SECONDS) as http:
            assert (await posted(http, alice)).headers.get("connection") is None
            served.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (await http.get("/readyz")).status_code == 200:
                    pass
            last = await posted(http, alice)
            assert (last.status_code, last.headers["connection"]) == (200, "close")
            assert (await http.get("/livez")).status_code == 200
            served.process.send_signal(signal.SIGTERM)
            assert await ended(served) == 0


async def test_requests_in_progress_are_completed(
    server: Server, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """A write in progress at SIGTERM completes; new connections are rejected meanwhile."""
    await alice.add("First")
    watcher = await connect_as(server.owner_url)
    with serving(**environment(server)) as served:
        async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_SECONDS) as http:
            async with owner.transaction():
                await owner.execute("SELECT FROM task_clocks WHERE user_id = $1 FOR UPDATE", alice.id)
                writing = asyncio.create_task(posted(http, alice, ADD))
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not await watcher.fetchval(WAITING):  # noqa: ASYNC110 - PostgreSQL sends no event
                        await asyncio.sleep(0.01)
                served.process.send_signal(signal.SIGTERM)
                await refused(served)
            answer = await writing
            assert answer.json() == {"data": {"createTask": {"task": {"title": "In flight"}}}}
            assert await ended(served) == 0
    await watcher.close()


async def refused(served: Serving) -> None:
    """Wait until the server accepts no new connections."""
    loop, port = asyncio.get_running_loop(), httpx.URL(served.url).port
    async with asyncio.timeout(PATIENCE_SECONDS):
        with suppress(ConnectionError):
            while True:
                with socket.socket() as client:
                    client.setblocking(False)  # noqa: FBT003 - the only signature
                    await loop.sock_connect(client, ("127.0.0.1", port))


async def test_half_a_request_does_not_keep_it(server: Server, settings: Settings) -> None:
    """An incomplete request does not delay the shutdown, and nothing is logged."""
    del settings
    with serving(**environment(server)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(served.url).port)
        writer.write(HALF)
        async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_SECONDS) as http:
            assert (await http.get("/livez")).status_code == 200
        served.process.send_signal(signal.SIGTERM)
        assert await ended(served) == 0
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        assert served.process.stderr
        assert served.process.stderr.read() == ""


ACKNOWLEDGED = '{"type":"connection_ack"}'


@asynccontextmanager
async def opened(served: Serving, user: User, broken: Sequence[bool]) -> AsyncIterator[list[ClientConnection]]:
    """Open sockets of a user, of which some will fail when the server closes them."""
    url = f"ws://{httpx.URL(served.url).netloc.decode()}/graphql"
    async with AsyncExitStack() as stack:
        found = []
        for fails in broken:
            headers = {"X-Broken": "1"} if fails else {}
            connecting = connect(url, open_timeout=PATIENCE_SECONDS, subprotocols=PROTOCOLS, additional_headers=headers)
            found.append(client := await stack.enter_async_context(connecting))
            await client.send(f'{{"type": "connection_init", "payload": {{"Authorization": "Bearer {user.token}"}}}}')
            assert await client.recv() == ACKNOWLEDGED
        yield found


async def closed(clients: Sequence[ClientConnection]) -> list[int | None]:
    """The codes with which the server closes the sockets."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        for client in clients:
            await client.wait_closed()
    return [client.close_code for client in clients]


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_a_failing_connection_does_not_affect_others(
    server: Server, alice: User, workers: tuple[str, ...]
) -> None:
    """Requests completed after SIGTERM are answered, other sockets close with 1012, and the exit code is 0."""
    body = b'{"query": "{ viewer { id } }"}'
    head = request(
        "POST /graphql HTTP/1.1", f"Authorization: Bearer {alice.token}", JSON, "{}", f"Content-Length: {len(body)}"
    )
    script = Path(__file__).parent / "broken.py"
    with announced(python(script, "serve", "--port", "0", *workers, **environment(server)), has_demo=False) as served:
        port = httpx.URL(served.url).port
        async with opened(served, alice, [True, False, False, True, False]) as sockets:
            requests = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
            for number, (_, writer) in enumerate(requests):
                writer.write(head.replace(b"{}", b"X-Broken: 1" if number < 2 else b"X-Fine: 1"))
            shake = request("POST /graphql HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", JSON, body=body)
            assert statuses(await exchange(f"127.0.0.1:{port}", shake)) == [400]
            await posted_by(served, alice)
            served.process.send_signal(signal.SIGTERM)
            codes = await closed(sockets)
            for _, writer in requests:
                writer.write(body)
            answers = await asyncio.gather(*(reader.read() for reader, _ in requests[2:]))
            for _, writer in requests:
                writer.close()
        assert await ended(served) == 0
        assert [codes[number] for number in (1, 2, 4)] == [1012] * 3
        assert [statuses(answer) for answer in answers] == [[200]] * 4
        assert served.process.stderr
        said = served.process.stderr.read()
        assert "Traceback" not in said
        assert "could not be closed properly: ZeroDivisionError" in said


async def posted_by(served: Serving, user: User) -> None:
    """Send a request and wait for its response, so that the server has read everything before it."""
    async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_SECONDS) as http:
        assert (await posted(http, user)).status_code == 200


async def test_a_rolling_restart_survives_connections_that_fail(server: Server, alice: User) -> None:
    """SIGHUP replaces the workers, other sockets close with 1012, and the server stops cleanly later."""
    script = Path(__file__).parent / "broken.py"
    command = python(script, "serve", "--port", "0", "--workers", "2", **environment(server))
    with announced(command, has_demo=False) as served:
        old = await workers(served, set())
        async with opened(served, alice, [True, False] * 4) as sockets:
            served.process.send_signal(signal.SIGHUP)
            codes = await closed(sockets)
        assert codes[1::2] == [1012] * 4
        await workers(served, old)
        await posted_by(served, alice)
        served.process.send_signal(signal.SIGTERM)
        assert await ended(served) == 0
        assert served.process.stderr
        assert "Traceback" not in served.process.stderr.read()


class Load:
    """Clients that send one request after the other, on persistent and on new connections."""

    def __init__(self, url: str, user: User) -> None:
        self._url, self._user = url, user
        self.acknowledged: list[str] = []
        self.failed: list[object] = []

    async def run(self, until: "asyncio.Task[None]") -> None:
        """Send requests until the task is done."""
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._client(number, until))

    async def _client(self, number: int, until: "asyncio.Task[None]") -> None:
        keeps = httpx.Limits(max_keepalive_connections=number % 2)
        async with httpx.AsyncClient(base_url=self._url, limits=keeps, timeout=PATIENCE_SECONDS) as http:
            count = 0
            while not until.done():
                await self._ask(http, f"{number} {count}")
                await asyncio.sleep(0.01)  # leaves CPU time for the new workers
                count += 1

    async def _ask(self, http: httpx.AsyncClient, title: str) -> None:
        query = f'mutation {{ createTask(input: {{ title: "{title}" }}) {{ task {{ title }} }} }}'
        try:
            response = await posted(http, self._user, query)
        except httpx.HTTPError as error:
            self.failed.append(error)
            return
        if response.status_code == 200 and "errors" not in response.json():
            self.acknowledged.append(title)
        else:
            self.failed.append(response.text)


async def test_a_rolling_restart_loses_nothing(server: Server, alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """SIGHUP replaces both workers under load: no request fails, and each write is there once."""
    with serving("--workers", "2", **environment(server, DRAIN_SECONDS="1")) as served:
        old = await workers(served, set())

        async def replaced() -> None:
            served.process.send_signal(signal.SIGHUP)
            await workers(served, old)

        load = Load(served.url, alice)
        await load.run(asyncio.create_task(replaced()))
        assert load.failed == []
        assert len(load.acknowledged) > CLIENTS
        rows = await owner.fetch("SELECT title FROM tasks WHERE user_id = $1", alice.id)
        assert sorted(row["title"] for row in rows) == sorted(load.acknowledged)


async def test_a_rolling_restart_is_aborted(server: Server, settings: Settings) -> None:
    """SIGTERM during a rolling restart stops the server before all workers are replaced."""
    del settings
    with serving("--workers", "2", **environment(server, DRAIN_SECONDS="1")) as served:
        old = await workers(served, set())
        served.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while _workers(served) <= old:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
        served.process.send_signal(signal.SIGTERM)
        ending, seen = asyncio.create_task(ended(served)), old
        while not ending.done():
            seen = seen | _workers(served)
            await asyncio.sleep(0.01)
        assert ending.result() == 0
        assert len(seen) == 3


def test_workers_end_with_their_terminal(server: Server, settings: Settings) -> None:
    """A server that was started from a terminal stops at SIGHUP, which means that the terminal was closed."""
    del settings
    terminal, seen = pty.openpty()
    command = [sys.executable, "-m", "app", "serve", "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, env=environment(server), stdin=seen, stdout=subprocess.PIPE) as process:  # noqa: S603 - a fixed command
        assert process.stdout
        assert process.stdout.readline().startswith(b"TaskQL serves ")
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE_SECONDS) == 0
    os.close(terminal)
    os.close(seen)


async def workers(served: Serving, gone: set[int]) -> set[int]:
    """Wait until two workers run, none of which is in `gone`, and return them."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = _workers(served)
            if len(found) == 2 and not found & gone:
                return found
            await asyncio.sleep(0.05)


def _workers(served: Serving) -> set[int]:
    """The current workers, including those that start or stop."""
    with suppress(psutil.Error):
        return {child.pid for child in psutil.Process(served.process.pid).children() if _is_worker(child)}
    return set()


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "spawn_main" in " ".join(process.cmdline())
    return False


SWALLOWED = """
import signal, sys
from app import cli

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

def swallowing(function):
    def call(*arguments, **options):
        Finalized()
        return function(*arguments, **options)
    return call

setattr(cli, sys.argv[1], swallowing(getattr(cli, sys.argv[1])))
cli.main(["serve", "--port", "0"])
"""


@pytest.mark.parametrize(("moment", "serves"), [("_prepared", False), ("create_app", True)])
def test_a_signal_is_never_lost(server: Server, settings: Settings, moment: str, serves: bool) -> None:  # noqa: FBT001 - a test parameter
    """SIGTERM stops the server even if Python discards its exception, as in a finalizer."""
    del settings
    with python("-c", SWALLOWED, moment, **environment(server)) as process:
        said, complained = process.communicate(timeout=PATIENCE_SECONDS)

    assert process.returncode == 0
    assert said.startswith("TaskQL serves ") is serves
    assert ("SystemExit" in complained) is not serves
