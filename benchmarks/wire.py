"""HTTP and WebSocket connections of clients that measure or attack a server."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

LOOPBACK = "127.0.0.1"
# Errors of a connection that the server has closed or not accepted.
LOST = (OSError, EOFError, WebSocketException)
OPEN_SECONDS = 30
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_CODE = re.compile(rb'"code"\s*:\s*"([A-Z_]+)"')


@dataclass(frozen=True, slots=True)
class Answer:
    """The status and the body of a response."""

    status: int
    body: bytes

    @property
    def code(self) -> str | None:
        """The code of the first error or user error."""
        found = _CODE.search(self.body)
        return found[1].decode() if found else None

    @property
    def told(self) -> str:
        """The status and the code, as a short text."""
        return f"{self.status} {self.code or 'data'}"


class Connection:
    """A keep-alive connection with one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str | None) -> None:
        self._reader, self._writer = reader, writer
        self._authorization = bearer(token)

    async def ask(self, body: bytes, headers: bytes = b"") -> Answer:
        """The response to a GraphQL request. Raises EOFError or OSError if the connection is lost."""
        self._writer.write(request(body, self._authorization + headers))
        return await self._answer()

    async def get(self, path: str) -> Answer:
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode())
        return await self._answer()

    async def _answer(self) -> Answer:
        head = await self._reader.readuntil(_END_OF_HEAD)
        length = _LENGTH.search(head)
        body = await self._reader.readexactly(int(length[1])) if length else b""
        return Answer(int(head[9:12]), body)

    def close(self) -> None:
        self._writer.transport.abort()


async def connected(port: int, token: str | None = None, address: str = LOOPBACK) -> Connection:
    """A connection from a loopback address."""
    return Connection(*await streams(port, address), token)


async def streams(port: int, address: str = LOOPBACK) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(LOOPBACK, port, local_addr=(address, 0), limit=2**20)


def bearer(token: str | None) -> bytes:
    return f"Authorization: Bearer {token}\r\n".encode() if token else b""


def request(body: bytes, headers: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a GraphQL request. `length` is a false Content-Length."""
    said = len(body) if length is None else length
    head = f"POST /graphql HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Type: application/json\r\nContent-Length: {said}\r\n"
    return head.encode() + headers + b"\r\n" + body


def asked(query: str | None, variables: Mapping[str, Any] | None = None, **members: Any) -> bytes:
    """The body of a request."""
    given = {"query": query, "variables": variables, **members}
    return orjson.dumps({name: value for name, value in given.items() if value is not None})


@asynccontextmanager
async def socket(port: int, token: str) -> AsyncIterator[ClientConnection]:
    """A socket whose connection_init was acknowledged. Raises ConnectionClosed if it is rejected."""
    async with connect(
        f"ws://{LOOPBACK}:{port}/graphql",
        subprotocols=[Subprotocol("graphql-transport-ws")],
        compression=None,
        max_size=None,
        ping_interval=None,
        open_timeout=OPEN_SECONDS,
        close_timeout=0,
    ) as connection:
        await connection.send(message("connection_init", payload={"Authorization": f"Bearer {token}"}))
        await connection.recv()
        yield connection


def subscribe(id_: str, query: str, variables: Mapping[str, Any] | None = None) -> str:
    """The message that starts an operation on a socket."""
    return message("subscribe", id=id_, payload={"query": query, "variables": variables or {}})


def message(kind: str, **members: Any) -> str:
    return orjson.dumps({"type": kind, **members}).decode()
