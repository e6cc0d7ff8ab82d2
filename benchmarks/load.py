"""The load generator: keep-alive connections, each of which sends a request when the last one is answered."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import orjson

from benchmarks.workloads import Request

_END_OF_HEAD = b"\r\n\r\n"
PATIENCE_SECONDS = 20
ENDLESS = float("inf")
_LENGTH = b"content-length: "


@dataclass
class Load:
    """The requests of a run, its duration, and its results. Times are in seconds."""

    requests: Iterator[Request]
    seconds: float
    deadline: float = 0.0
    elapsed: float = 0.0
    latencies: list[float] = field(default_factory=list)
    answers: list[tuple[Request, bytes]] = field(default_factory=list)

    def verify(self) -> None:
        """Raise RuntimeError for a wrong response. Not part of the measured time, as it costs more than the load."""
        for request, answer in self.answers:
            head, _, body = answer.partition(_END_OF_HEAD)
            if not head.startswith(b"HTTP/1.1 200 ") or not _right(request, body):
                raise RuntimeError(f"wrong response: {answer[:2000].decode(errors='replace')}")


def _right(request: Request, body: bytes) -> bool:
    answer = orjson.loads(body)
    return "errors" not in answer and request.holds(answer["data"])


class _Connection(asyncio.Protocol):
    """One request at a time, until the deadline."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._send(time.perf_counter())

    def data_received(self, data: bytes) -> None:
        self.received += data
        head = self.received.find(_END_OF_HEAD)
        if head < 0:
            return
        start = self.received.lower().index(_LENGTH) + len(_LENGTH)
        length = int(self.received[start : self.received.index(b"\r\n", start)])
        if len(self.received) == head + len(_END_OF_HEAD) + length:
            self._answered()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(ConnectionError("the server has closed a connection"))

    def _send(self, now: float) -> None:
        request = next(self.load.requests, None) if now <= self.load.deadline else None
        if request is None:
            self.ended.set_result(None)
            self.transport.close()
            return
        self.request, self.received, self.sent = request, b"", time.perf_counter()
        self.transport.write(request.wire)

    def _answered(self) -> None:
        now = time.perf_counter()
        self.load.latencies.append(now - self.sent)
        self.load.answers.append((self.request, self.received))
        self._send(now)


async def run(port: int, load: Load, connections: int) -> Load:
    """Load a server until the time is over or all requests are sent."""
    start = time.perf_counter()
    load.deadline = start + load.seconds
    loop = asyncio.get_running_loop()
    pairs = [await loop.create_connection(lambda: _Connection(load), "127.0.0.1", port) for _ in range(connections)]
    async with asyncio.timeout(load.seconds + PATIENCE_SECONDS if load.seconds < ENDLESS else None):
        await asyncio.gather(*(protocol.ended for _, protocol in pairs))
    load.elapsed = time.perf_counter() - start
    return load
