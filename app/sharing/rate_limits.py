"""Rate limits for each user, and for each address of anonymous callers.

Rows are charged before a request runs, by estimate. The time that it took is charged with the caller's next request.
"""

import ipaddress
import logging
import math
import time
from asyncio import gather, sleep
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache, partial
from math import ceil
from typing import Any, Protocol

import limits
from limits.aio.storage import RedisStorage
from limits.errors import StorageError

from app.errors import RateLimited

log = logging.getLogger(__name__)

# Callers that are counted separately in one window; all others share one count.
MOST_CALLERS = 100_000
OTHERS = "others"
# Timeout of Redis, and how long it is not asked again after a failure.
PATIENCE_SECONDS = 0.5
REST_SECONDS = 5.0
IPV6_NETWORK = 64
ROWS, PAGES, TIME = "rows", "rows of changes", "seconds of database and server time"
# Time is counted in microseconds: most statements take less than a millisecond. The slack covers a request that began
# in the previous window, so that a caller with one request at a time is never rejected.
SECOND = 1_000_000
SLACK = 10 * SECOND
# Smaller amounts are accumulated before they are charged.
LEAST_SECONDS = 0.005

# Requests of one client address to anything except GraphQL, and as many probes. The explorer loads a hundred files,
# probes are a few per second. Each process counts on its own: a probe must not wait for Redis.
OTHER_REQUESTS = "1000/10 seconds"

Clock = Callable[[], float]


class Counters(Protocol):
    """Counts for each limit and caller, which restart at 0 with each window of `expiry` seconds."""

    def incr(self, limit: str, caller: str, expiry: int, amount: int) -> int | Awaitable[int]: ...

    async def remaining(self, limit: str, caller: str) -> float:
        """Seconds until the window of a count ends."""
        ...

    async def close(self) -> None: ...


_OVER: tuple[float, dict[str, int]] = -math.inf, {}


class Windows:
    """Counts in memory. All windows of a limit end together, so that expired counts need no search.

    `clock` returns seconds and is monotonic.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[str, tuple[float, dict[str, int]]] = {}

    def incr(self, limit: str, caller: str, expiry: int, amount: int) -> int:
        end, counts = self._windows.get(limit, _OVER)
        if (now := self._clock()) >= end:
            _, counts = self._windows[limit] = now + expiry, {}
        known = counts.get(caller)
        if known is None:
            known, caller = (0, caller) if len(counts) < MOST_CALLERS else (counts.get(OTHERS, 0), OTHERS)
        count = counts[caller] = known + amount
        return count

    async def remaining(self, limit: str, caller: str) -> float:  # noqa: ARG002 - all callers' windows end together
        return self._windows[limit][0] - self._clock()

    async def close(self) -> None:
        """Do nothing: memory needs no closing."""


class SharedCounters:
    """Counts that all processes share in Redis. While it is unreachable, each process counts on its own."""

    def __init__(self, url: str) -> None:
        # Imported here because the library takes five megabytes.
        from redis.asyncio import ConnectionPool  # noqa: PLC0415 - not needed elsewhere
        from redis.asyncio.retry import Retry  # noqa: PLC0415 - as above
        from redis.backoff import NoBackoff  # noqa: PLC0415 - as above

        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            socket_timeout=PATIENCE_SECONDS,
            socket_connect_timeout=PATIENCE_SECONDS,
            retry=Retry(NoBackoff(), 1),  # a pooled connection may have been closed
        )
        options: dict[str, Any] = {"connection_pool": self._pool}
        self._shared = RedisStorage("redis://", wrap_exceptions=True, implementation="redispy", **options)
        self._own = Windows()
        self._away_until = 0.0

    async def reachable(self) -> bool:
        """Whether Redis answers."""
        return await self._shared.check()

    async def incr(self, limit: str, caller: str, expiry: int, amount: int) -> int:
        if time.monotonic() >= self._away_until:
            try:
                return await self._shared.incr(limit + caller, expiry, amount)
            except StorageError:
                if time.monotonic() >= self._away_until:
                    log.warning("rate limits: Redis is unreachable; this process counts on its own")
                self._away_until = time.monotonic() + REST_SECONDS
        return self._own.incr(limit, caller, expiry, amount)

    async def remaining(self, limit: str, caller: str) -> float:
        if time.monotonic() >= self._away_until:
            with suppress(StorageError):
                return await self._shared.get_expiry(limit + caller) - time.time()
        return await self._own.remaining(limit, caller)

    async def close(self) -> None:
        await self._pool.disconnect()


class Rate:
    """A limit for each caller, such as 600000/minute.

    `what` names the unit in errors. `slack` is allowed on top, for amounts that stem from the previous window.
    """

    def __init__(
        self, item: limits.RateLimitItem, counters: Counters, what: str, *, scale: int = 1, slack: int = 0
    ) -> None:
        self._item, self._counters, self._what = item, counters, what
        self._most, self._seconds = item.amount * scale + slack, item.get_expiry()
        self._name = f"taskql/{what}/{item.amount}/{self._seconds}/"

    def charge(self, caller: str, amount: int) -> Awaitable[None] | None:
        """Count an amount. Raises RateLimited above the limit, when the result is awaited if it is not None."""
        count = self._counters.incr(self._name, caller, self._seconds, amount)
        if type(count) is int and count <= self._most:
            return None
        return self._refuse_beyond(caller, count)

    def fitting(self, amount: int) -> int:
        """The amount, capped at what one window allows: otherwise a caller that waits would wait forever."""
        return min(amount, self._most)

    async def _refuse_beyond(self, caller: str, count: int | Awaitable[int]) -> None:
        if (count if isinstance(count, int) else await count) <= self._most:
            return
        seconds = max(1, ceil(await self._counters.remaining(self._name, caller)))
        multiples, unit = self._item.multiples, self._item.GRANULARITY.name
        window = f"one {unit}" if multiples == 1 else f"{multiples} {unit}s"
        used = f"You have used more than {self._item.amount:,} {self._what} in {window}"
        raise RateLimited(f"{used}; try again in {seconds} s.", seconds)


class OtherRequests:
    """Limits requests that run no operation, and so are not charged in rows, for each client address.

    Probes are counted separately: behind an untrusted proxy, they come from the same address as all other requests.
    """

    def __init__(self) -> None:
        item, windows = limits.parse(OTHER_REQUESTS), Windows()
        self._probes, self._others = (
            Rate(item, windows, "probes"),
            Rate(item, windows, "requests that run no operation"),
        )

    async def charge(self, address: str, *, is_probe: bool) -> None:
        """Count one request. Raises RateLimited above the limit."""
        rate = self._probes if is_probe else self._others
        if waits := rate.charge(network(address), 1):
            await waits


class Pace:
    """One event per `each` seconds. `burst` events may come at once, and further ones must wait."""

    def __init__(self, each: float, burst: int, clock: Clock = time.monotonic) -> None:
        self._each, self._ahead, self._clock = each, each * burst, clock
        self._free = -math.inf  # when the last event would have been due, had none come early

    def delay(self) -> float:
        """Count one event, and return how many seconds it must wait."""
        now = self._clock()
        self._free = max(self._free, now) + self._each
        return max(0.0, self._free - now - self._ahead)


class TimeLimit:
    """A limit in seconds for each caller. The time of a request is known only afterwards and charged with the next."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self.owed: dict[str, float] = {}

    def owe(self, caller: str, seconds: float) -> None:
        """Add the time that a request took to the caller's next charge."""
        self.owed[caller] = self.owed.get(caller, 0.0) + seconds

    def charge(self, caller: str) -> Awaitable[None] | None:
        """Charge the time owed. The caller must await the result unless it is None."""
        owed = self.owed.pop(caller, 0.0)
        if len(self.owed) >= MOST_CALLERS:  # mostly callers that have left
            self.owed.clear()
        refused = self._rate.charge(caller, ceil(owed * SECOND))
        return self._remembered(caller, refused) if refused else None

    async def _remembered(self, caller: str, refused: Awaitable[None]) -> None:
        """Wait for the result. A rejected caller still owes time, so that its next request is checked again."""
        try:
            await refused
        except RateLimited:
            self.owed[caller] = self.owed.get(caller, 0.0) + LEAST_SECONDS
            raise


class Rates:
    """The limits of rows and of seconds for each caller; None means no limit.

    A payer is a user's id, or the address of an anonymous caller in the form that `network` returns.
    """

    def __init__(
        self,
        users: str | None,
        addresses: str | None,
        seconds: str | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._counters = counts = counters or Windows()
        self._users = Rate(limits.parse(users), counts, ROWS) if users else None
        self._addresses = Rate(limits.parse(addresses), counts, ROWS) if addresses else None
        self._behind = Rate(_half(limits.parse(users)), counts, PAGES) if users else None
        time_rate = _time_rate(limits.parse(seconds), counts) if seconds else None
        self._time = TimeLimit(time_rate) if time_rate else None
        # Adds the seconds that a request took to the payer's next charge.
        self.spend: Callable[[str, float], None] = self._time.owe if self._time else _for_free

    def charge(self, payer: str, rows: int, *, is_user: bool) -> Awaitable[None] | None:
        """Charge rows and the time owed. Raises RateLimited above a limit, at once or when the result is awaited."""
        limit = self._users if is_user else self._addresses
        waits = limit.charge(payer, rows) if limit else None
        time = self._time
        more = time.charge(payer) if time and time.owed.get(payer, 0.0) >= LEAST_SECONDS else None
        return _all(waits, more) if waits or more else None

    async def pace(self, payer: str, rows: int, *, is_behind: bool) -> None:
        """Charge rows to a user; above the limit, wait for the next window.

        A subscription that is behind and catches up with many pages gets half of the rate, which leaves the rest for
        the user's other subscriptions and requests.
        """
        if is_behind and self._behind:
            await _patiently(partial(self._behind.charge, payer, self._behind.fitting(rows)))
        if self._users:
            await _patiently(partial(self.charge, payer, self._users.fitting(rows), is_user=True))

    async def close(self) -> None:
        await self._counters.close()


def _for_free(_payer: str, _seconds: float) -> None:
    """Ignore the time: it is not limited."""


def _time_rate(item: limits.RateLimitItem, counters: Counters) -> Rate:
    """The rate for time, with slack only if the limit is so high that one request at a time must never reach it."""
    slack = SLACK if item.amount >= item.get_expiry() else 0
    return Rate(item, counters, TIME, scale=SECOND, slack=slack)


def _half(item: limits.RateLimitItem) -> limits.RateLimitItem:
    return type(item)(max(1, item.amount // 2), item.multiples)


async def _patiently(charge: Callable[[], Awaitable[None] | None]) -> None:
    while True:
        try:
            if waits := charge():
                await waits
        except RateLimited as refusal:
            await sleep(refusal.seconds)
        else:
            return


async def _all(*waits: Awaitable[None] | None) -> None:
    outcomes = await gather(*filter(None, waits), return_exceptions=True)
    refusal = next(filter(None, outcomes), None)
    try:
        if refusal is not None:
            raise refusal
    finally:
        # Its traceback refers to this frame: both, and the request, would stay in memory until a full collection.
        del refusal, outcomes


@lru_cache(1000)
def network(address: str) -> str:
    """The key for a caller's address: the address itself for IPv4, its /64 network for IPv6."""
    try:
        version6 = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if version6.ipv4_mapped:
        return str(version6.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(version6), IPV6_NETWORK), strict=False))
