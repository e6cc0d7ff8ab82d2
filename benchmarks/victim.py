"""The victim's process: a user who works at a steady pace and measures latencies.

Prints `ready`, then reads a line of JSON with the times (monotonic seconds) at which the idle part and the attack begin
and everything ends. At the end it prints its figures.
"""

import asyncio
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop

from benchmarks import wire
from benchmarks.wire import Answer

PATIENCE_SECONDS = 10
# How long to wait for changes after the last write.
LAST_CHANGES_SECONDS = 5
WARM_SECONDS = 1.0
EVERY_LARGE = 10
PRIORITY = -10

VIEWER = wire.asked("{ viewer { id } }")
CREATE = "mutation ($title: String!) { createTask(input: { title: $title }) { task { id } userErrors { code } } }"
FOLLOW = "subscription { changes { changes { ... on TaskUpserted { task { id } } } } }"
LEAVES = "id title description completed completedAt priority dueDate tags position version createdAt updatedAt"
LARGE = f"{{ {' '.join(f'v{n}: tasks(first: 1) {{ nodes {{ {LEAVES} }} }}' for n in range(20))} }}"
HASH = {"persistedQuery": {"version": 1, "sha256Hash": hashlib.sha256(LARGE.encode()).hexdigest()}}


@dataclass(frozen=True, slots=True)
class Sample:
    """A request: when it was sent, its latency in seconds, and the failure, or None if it succeeded."""

    sent: float
    seconds: float
    failure: str | None


@dataclass
class Seen:
    """The samples by kind of request, and the times at which created tasks were acknowledged and delivered."""

    samples: dict[str, list[Sample]] = field(default_factory=lambda: {"work": [], "prepared": [], "livez": []})
    acknowledged: dict[str, float] = field(default_factory=dict)
    arrived: dict[str, float] = field(default_factory=dict)

    def figures(self, begin: float, end: float) -> dict[str, Any]:
        """The figures of requests sent between two times, in milliseconds."""
        parts = {
            kind: [sample for sample in samples if begin <= sample.sent < end] for kind, samples in self.samples.items()
        }
        work = parts["work"] + parts["prepared"]
        failures = Counter(sample.failure for sample in work + parts["livez"] if sample.failure)
        live = [(id_, at) for id_, at in self.acknowledged.items() if begin <= at < end]
        waits = sorted(max(0.0, self.arrived.get(id_, time.monotonic()) - at) * 1000 for id_, at in live)
        return {
            **_latencies(parts["work"]),
            "failures": dict(failures),
            "livez_p99": _share(_milliseconds(parts["livez"]), 0.99),
            "prepared_p95": _share(_milliseconds(parts["prepared"]), 0.95),
            "live_p50": _share(waits, 0.5),
            "live_p95": _share(waits, 0.95),
            "live_worst": _share(waits, 1),
            "live_missing": sum(id_ not in self.arrived for id_, _ in live),
        }


def _latencies(samples: list[Sample]) -> dict[str, Any]:
    sorted_ = _milliseconds(samples)
    return {
        "requests": len(samples),
        "p50": _share(sorted_, 0.5),
        "p95": _share(sorted_, 0.95),
        "worst": _share(sorted_, 1),
    }


def _milliseconds(samples: list[Sample]) -> list[float]:
    return sorted(sample.seconds * 1000 for sample in samples)


def _share(ordered: list[float], share: float) -> float:
    """The percentile of sorted values; 0 if there are none."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


class Victim:
    """The user: a connection for requests, one for /livez, and a socket with a subscription."""

    def __init__(self, port: int, token: str, pace: float, *, large: bool) -> None:
        self._port, self._token, self._pace, self._large = port, token, pace, large
        self._following = asyncio.Event()
        self.seen = Seen()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start, and return after the warm-up."""
        work: list[Callable[[], Awaitable[None]]] = [self._follow, self._work, self._probe]
        self._tasks = [asyncio.ensure_future(part()) for part in work]
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._following.wait()
        await asyncio.sleep(WARM_SECONDS)

    async def stop(self, end: float) -> None:
        """Stop sending at `end`, and wait for requests in progress and for outstanding changes."""
        self._end = end
        await asyncio.sleep(max(0, end - time.monotonic()))
        last = time.monotonic() + LAST_CHANGES_SECONDS
        follow, *others = self._tasks
        await asyncio.wait(others, timeout=PATIENCE_SECONDS + 1)
        while time.monotonic() < last and self.seen.acknowledged.keys() - self.seen.arrived.keys():  # noqa: ASYNC110 - bounded
            await asyncio.sleep(0.05)
        follow.cancel()

    _end = float("inf")

    async def _ticks(self) -> AsyncIterator[int]:
        """Yield a number at each tick; missed ticks are skipped."""
        tick = 0
        begin = time.monotonic()
        while time.monotonic() < self._end:
            yield tick
            tick = max(tick + 1, int((time.monotonic() - begin) / self._pace) + 1)
            await asyncio.sleep(begin + tick * self._pace - time.monotonic())

    async def _work(self) -> None:
        client = _Client(self._port, self._token)
        if self._large:
            await client.timed(lambda one: one.ask(wire.asked(LARGE, extensions=HASH)))
        count = 0
        async for _ in self._ticks():
            count += 1
            if self._large and count % EVERY_LARGE == 0:
                self._keep("prepared", await client.timed(lambda one: one.ask(wire.asked(None, extensions=HASH))))
            elif count % 2:
                self._keep("work", await client.timed(lambda one: one.ask(VIEWER)))
            else:
                await self._create(client, count)

    async def _create(self, client: "_Client", count: int) -> None:
        body = wire.asked(CREATE, {"title": f"Number {count}"})
        sample, answer = await client.timed(lambda one: one.ask(body))
        self._keep("work", (sample, answer))
        if answer is not None and sample.failure is None:
            self.seen.acknowledged[orjson.loads(answer.body)["data"]["createTask"]["task"]["id"]] = time.monotonic()

    async def _probe(self) -> None:
        client = _Client(self._port, None)
        async for _ in self._ticks():
            self._keep("livez", await client.timed(lambda one: one.get("/livez")))

    def _keep(self, kind: str, timed: tuple[Sample, Answer | None]) -> None:
        self.seen.samples[kind].append(timed[0])

    async def _follow(self) -> None:
        while True:
            with suppress(*wire.LOST):
                async with wire.socket(self._port, self._token) as socket:
                    await socket.send(wire.subscribe("1", FOLLOW))
                    self._following.set()
                    async for text in socket:
                        self._take(orjson.loads(text))
            await asyncio.sleep(self._pace)

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "next":
            for change in message["payload"]["data"]["changes"]["changes"]:
                self.seen.arrived[change["task"]["id"]] = time.monotonic()


class _Client:
    """One connection, which is reopened when it is lost."""

    def __init__(self, port: int, token: str | None) -> None:
        self._port, self._token = port, token
        self._connection: wire.Connection | None = None

    async def timed(self, ask: Callable[[wire.Connection], Awaitable[Answer]]) -> tuple[Sample, Answer | None]:
        sent, answer = time.monotonic(), None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                self._connection = self._connection or await wire.connected(self._port, self._token)
                answer = await ask(self._connection)
            failure = None if _succeeded(answer) else answer.told
        except TimeoutError:
            failure = "no answer"
        except wire.LOST:
            failure = "connection lost"
        if answer is None and self._connection:
            self._connection.close()
            self._connection = None
        return Sample(sent, time.monotonic() - sent, failure), answer


def _succeeded(answer: Answer) -> bool:
    return answer.status == 200 and answer.code is None  # noqa: PLR2004 - of HTTP


async def _run(job: dict[str, Any]) -> None:
    victim = Victim(job["port"], job["token"], job["pace"], large=job["large"])
    await victim.start()
    print("ready", flush=True)  # noqa: T201 - what the parent waits for
    loop = asyncio.get_running_loop()
    times = orjson.loads(await loop.run_in_executor(None, sys.stdin.readline))
    await victim.stop(times["end"])
    figures = {
        "idle": victim.seen.figures(times["idle"], times["attack"]),
        "attack": victim.seen.figures(times["attack"], times["end"]),
    }
    print(orjson.dumps(figures).decode(), flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    # Measurements must not wait for CPU time of the measured processes.
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    uvloop.run(_run(orjson.loads(sys.argv[1])))
