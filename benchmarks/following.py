"""Clients that follow a user's tasks as a front end does, with a copy, a token, and a socket that may fail any time."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import count
from typing import Any
from uuid import UUID

import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from benchmarks import data

FIELDS = "id title completed priority version updatedAt"
CHANGE = f"... on TaskUpserted {{ task {{ {FIELDS} }} token }} ... on TaskRemoved {{ taskId token }}"
PAGE = f"query ($since: SyncToken) {{ changes(since: $since) {{ changes {{ {CHANGE} }} token hasMore fullSync }} }}"
FOLLOW = f"subscription ($since: SyncToken) {{ changes(since: $since) {{ changes {{ {CHANGE} }} token fullSync }} }}"
BROKEN = (OSError, WebSocketException, TimeoutError, httpx.HTTPError, EOFError)
PAUSE_SECONDS = 0.05
COPIES_OF_AN_ADDRESS = 200  # an address may open 1,000 sockets in ten seconds
_copies = count()


class Copy:
    """A client's copy of a user's tasks, the latency of each change in seconds, and counts of problems."""

    def __init__(self, user: UUID, ports: Sequence[int]) -> None:
        self.user, self.ports = user, ports
        self.tasks: dict[str, dict[str, Any]] = {}
        self.token: str | None = None
        self.latencies: list[float] = []
        self.again = 0
        self.began_anew = 0
        self.connection: ClientConnection | None = None
        self.following = asyncio.Event()
        self._source = f"127.2.0.{1 + next(_copies) // COPIES_OF_AN_ADDRESS}"
        self._headers = {"Authorization": f"Bearer {data.token(user)}"}

    async def keep(self) -> None:
        """Follow until cancelled, on any server that responds."""
        while True:
            with suppress(*BROKEN):
                port = random.choice(self.ports)  # noqa: S311 - no secret
                if self.token is None:
                    await self.pull(port)
                await self._follow(port)
            self.following.clear()
            await asyncio.sleep(PAUSE_SECONDS)

    async def pull(self, port: int) -> None:
        """Bring the copy up to date, page by page."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            more = True
            while more:
                body = {"query": PAGE, "variables": {"since": self.token}}
                answer = (await http.post("/graphql", json=body, headers=self._headers)).json()
                if "errors" in answer:
                    raise EOFError(answer["errors"])
                page = answer["data"]["changes"]
                if page["fullSync"]:
                    self.tasks.clear()
                for change in page["changes"]:
                    self._apply(change)
                self.token, more = page["token"], page["hasMore"]

    async def _follow(self, port: int) -> None:
        address = f"ws://127.0.0.1:{port}/graphql"
        options: Any = {"compression": None, "local_addr": (self._source, 0)}
        async with connect(address, subprotocols=[Subprotocol("graphql-transport-ws")], **options) as connection:
            self.connection = connection
            await connection.send(orjson.dumps({"type": "connection_init", "payload": self._headers}).decode())
            await connection.recv()
            payload = {"query": FOLLOW, "variables": {"since": self.token}}
            await connection.send(orjson.dumps({"type": "subscribe", "id": "1", "payload": payload}).decode())
            self.following.set()
            async for message in connection:
                self._take(orjson.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "next":
            page = message["payload"]["data"]["changes"]
            if page["fullSync"]:
                self.began_anew += 1
                self.tasks.clear()
            for change in page["changes"]:
                if "task" in change:
                    written = datetime.fromisoformat(change["task"]["updatedAt"]).timestamp()
                    self.latencies.append(time.time() - written)
                self._apply(change)
            self.token = page["token"]
            return
        raise EOFError(message)

    def _apply(self, change: dict[str, Any]) -> None:
        if "task" not in change:
            self.tasks.pop(change["taskId"], None)
            return
        task = change["task"]
        known = self.tasks.get(task["id"])
        self.again += known is not None and known["version"] >= task["version"]
        self.tasks[task["id"]] = task


async def gathered(
    copies: Sequence[Copy], at_once: int, done: Callable[[int], None]
) -> AsyncIterator[asyncio.Task[None]]:
    """Start all copies, a limited number at a time, and wait until each follows."""
    for start in range(0, len(copies), at_once):
        some = copies[start : start + at_once]
        for copy in some:
            yield asyncio.create_task(copy.keep())
        await asyncio.gather(*(copy.following.wait() for copy in some))
        done(len(some))
