"""Metrics and request records. Metrics are global to the process, as loggers are, and contain no user data."""

import asyncio
import logging
import os
import platform
from bisect import bisect_left
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from uuid import UUID

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from app.errors import RequestError, Unavailable
from app.observability.logs import RequestLog
from app.operations import Execute, GraphQLRequest, GraphQLResponse, ResponseStream
from app.settings import Settings
from app.version import VERSION

# The maximum number of operation names, which clients choose, among the label values of latencies.
MOST_OPERATIONS = 100
LONGEST_NAME = 100
ANONYMOUS, OTHER, REFUSED = "anonymous", "other", "refused"
OK, CANCELLED = "OK", "CANCELLED"
CONTENT_TYPE = CONTENT_TYPE_LATEST
SHARED_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own variable
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LEVELS = {RequestError.code: logging.ERROR, Unavailable.code: logging.WARNING}

disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
LATENCY = Histogram(
    "taskql_request_seconds",
    "Time from when a request has been read to its response, by operation.",
    ("operation", "type"),
    buckets=_BUCKETS,
)
ERRORS = Counter("taskql_errors", "Errors in responses, by code.", ("code",))
STATEMENTS = Counter("taskql_statements", "Reads and writes sent to the database.")
PREPARED = Counter("taskql_operations", "Lookups of prepared operations: hit or miss.", ("result",))
DELIVERIES = Counter("taskql_deliveries", "Events sent to subscriptions.")


BUILD = Gauge(
    "taskql_build_info",
    "Always 1. The labels say which TaskQL runs, on which Python.",
    ("version", "python"),
    multiprocess_mode="livemax",
)


def _level(name: str, help_: str) -> Gauge:
    """A gauge that is summed over all running processes."""
    return Gauge(f"taskql_{name}", help_, multiprocess_mode="livesum")


POOL_SIZE = _level("pool_size", "Maximum number of database connections for requests.")
POOL_IN_USE = _level("pool_in_use", "Database connections in use by requests.")
POOL_WAITING = _level("pool_waiting", "Requests waiting for a database connection.")
POOL_WAIT = Summary("taskql_pool_wait_seconds", "Waiting time of requests that had to wait for a connection.")
SOCKETS = _level("sockets", "Open WebSockets.")
STREAMS = _level("event_streams", "Open event streams.")
SUBSCRIPTIONS = _level("subscriptions", "Running subscriptions.")

HIT, MISS = PREPARED.labels("hit"), PREPARED.labels("miss")
SETTLE_SECONDS = 1.0


class Latencies:
    """Latencies of one operation that are not in its histogram yet: the count for each bucket, and the sum."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._counts, self._sum = [0] * (len(_BUCKETS) + 1), 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(_BUCKETS, seconds)] += 1
        self._sum += seconds

    def settle(self) -> None:
        """Add them to the histogram. Its own method takes one value at a time, which costs more than most requests."""
        for bucket, count in zip(self._histogram._buckets, self._counts, strict=True):  # noqa: SLF001 - see above
            if count:
                bucket.inc(count)
        self._histogram._sum.inc(self._sum)  # noqa: SLF001 - see above
        self._counts, self._sum = [0] * len(self._counts), 0.0


class Tally:
    """Collects metrics of requests and publishes them every second, because an update costs as much as a query."""

    def __init__(self) -> None:
        self.statements = self.hits = self.connections = 0
        self._latencies: set[Latencies] = set()
        self._timer: asyncio.TimerHandle | None = None

    def took(self, latencies: Latencies, seconds: float) -> None:
        """Record the latency of a request that has ended."""
        latencies.add(seconds)
        self._latencies.add(latencies)
        if self._timer is None:
            self._settle_soon()

    def settle(self) -> None:
        """Publish everything since the last time."""
        while self._latencies:
            self._latencies.pop().settle()
        STATEMENTS.inc(self.statements)
        HIT.inc(self.hits)
        POOL_IN_USE.set(self.connections)
        self.statements = self.hits = 0

    def _settle_soon(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._settle_on)

    def _settle_on(self) -> None:
        """Publish, and repeat while connections are in use, so that the gauge shows their return."""
        self._timer = None
        self.settle()
        if self.connections:
            self._settle_soon()


tally = Tally()


@dataclass(slots=True)
class Record:
    """What is known about one request. `operation` is None until it is known, and empty if it has no name."""

    request_id: str
    started: float
    user_id: UUID | None = None
    operation: str | None = None
    kind: str = ""
    rows: int = 0
    statements: int = 0
    database_seconds: float = 0.0
    server_seconds: float = 0.0

    def cost(self, limit: int) -> dict[str, float]:
        """The rows that the request was charged before it ran, and the time that it took so far, in milliseconds."""
        taken = {"databaseMs": self.database_seconds, "serverMs": self.server_seconds}
        return {"rows": self.rows, "limit": limit, **{name: round(1000 * s, 3) for name, s in taken.items()}}


Recorded = Callable[[GraphQLRequest, Record], Awaitable[GraphQLResponse | ResponseStream]]
Describe = Callable[[Record, str], None]

_current: ContextVar[Record | None] = ContextVar("record", default=None)


class Telemetry:
    """Records the requests of an application. `describe` is called with each record and its code when it ends."""

    def __init__(self, settings: Settings, describe: Describe | None = None) -> None:
        self._log, self._describe = RequestLog(settings), describe
        POOL_SIZE.set(settings.db_pool_size)
        BUILD.labels(VERSION, platform.python_version()).set(1)

    def recorded(self, execute: Recorded) -> Execute:
        """Wrap `execute` for the transports, so that each request is recorded."""

        async def recording(request: GraphQLRequest) -> GraphQLResponse | ResponseStream:
            record = Record(request.request_id, perf_counter())
            _current.set(record)
            try:
                answered = await execute(request, record)
            except asyncio.CancelledError:
                self._end(record, CANCELLED)
                raise
            except Exception:
                self._end(record, _counted([RequestError.code]))
                raise
            if isinstance(answered, ResponseStream):
                return ResponseStream(self._followed(answered.responses, record), answered.expires_at)
            self._end(record, _code(answered))
            return answered

        return recording

    def refused(self, request_id: str, status: int, code: str) -> None:
        """Record a request that was rejected before an operation was read."""
        fields, level = {"request_id": request_id, "status": status, "code": _counted([code])}, _level_of(code)
        if self._log.has(level):
            self._log.write(level, "request", fields)

    def close(self) -> None:
        """Write the pending log lines."""
        self._log.flush()

    async def _followed(
        self, answers: AsyncGenerator[GraphQLResponse, None], record: Record
    ) -> AsyncGenerator[GraphQLResponse, None]:
        code = OK
        with SUBSCRIPTIONS.track_inprogress():
            try:
                async with aclosing(answers):
                    async for answer in answers:
                        code = _code(answer)
                        DELIVERIES.inc()
                        yield answer
            finally:
                self._tell(record, code)

    def _end(self, record: Record, code: str) -> None:
        tally.took(_latency(record), perf_counter() - record.started)
        self._tell(record, code)

    def _tell(self, record: Record, code: str) -> None:
        level = _level_of(code)
        if self._describe:
            self._describe(record, code)
        if not self._log.has(level):
            return
        fields = {
            "request_id": record.request_id,
            "user": record.user_id and hashed(record.user_id),
            "operation": record.operation and record.operation[:LONGEST_NAME],
            "type": record.kind,
            "code": code,
            "ms": round(1000 * (perf_counter() - record.started), 2),
            "statements": record.statements,
        }
        self._log.write(level, "request", fields)


def count_statement() -> Record | None:
    """Count a read or write for the current request. Returns its record, or None outside of requests."""
    tally.statements += 1
    record = _current.get()
    if record is not None:
        record.statements += 1
    return record


def count_preparing(seconds: float) -> None:
    """Add preparation time to the current request, if any."""
    record = _current.get()
    if record is not None:
        record.server_seconds += seconds


@lru_cache(10_000)
def hashed(user_id: UUID) -> str:
    """A user in logs: the first 16 digits of the id's SHA-256, so that lines can be found from an id."""
    return sha256(str(user_id).encode()).hexdigest()[:16]


def exposition(settings: Settings) -> bytes:
    """All metrics in Prometheus' text format, of all worker processes."""
    if settings.workers == 1:
        return generate_latest(REGISTRY)
    registry, directory = CollectorRegistry(), os.environ[SHARED_DIRECTORY]
    _forget_the_dead(Path(directory))
    MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]  # it has no annotations
    return generate_latest(registry)


@contextmanager
def shared_directory(settings: Settings) -> Iterator[None]:
    """Provide a directory in which worker processes started within the block share their metrics."""
    if settings.workers == 1 or not settings.has_metrics:
        yield
        return
    with TemporaryDirectory(prefix="taskql-metrics-") as directory:
        os.environ[SHARED_DIRECTORY] = directory
        yield


def _forget_the_dead(directory: Path) -> None:
    """Remove the gauges of killed processes, such as their open sockets."""
    for pid in {path.stem.rpartition("_")[2] for path in directory.glob("gauge_live*.db")}:
        if not _is_alive(int(pid)):
            mark_process_dead(int(pid), str(directory))  # type: ignore[no-untyped-call]  # it has no annotations


def _is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


_latencies: dict[tuple[str | None, str], Latencies] = {}


def _latency(record: Record) -> Latencies:
    return _latencies.get((record.operation, record.kind)) or _new_latency(record)


def _new_latency(record: Record) -> Latencies:
    """The label is OTHER for names used by anonymous callers, and for names beyond the first MOST_OPERATIONS."""
    operation, kind = record.operation, record.kind
    is_known = record.user_id is not None and len(operation or "") <= LONGEST_NAME
    if operation and not (is_known and len(_latencies) < MOST_OPERATIONS):
        return Latencies(LATENCY.labels(OTHER, kind))
    label = operation or (REFUSED if operation is None else ANONYMOUS)
    known = _latencies[operation, kind] = Latencies(LATENCY.labels(label, kind))
    return known


def _code(answer: GraphQLResponse) -> str:
    """The code of a response: OK, or that of its first error. Counts all its errors."""
    errors: Sequence[Mapping[str, Any]] | None = answer.entries.get("errors")
    return _counted([error["extensions"]["code"] for error in errors]) if errors else OK


def _level_of(code: str) -> int:
    return _LEVELS.get(code, logging.INFO)


def _counted(codes: Sequence[str]) -> str:
    for code in codes:
        ERRORS.labels(code).inc()
    return codes[0]
