"""What a caller may ask for and use in a window of time: each user, and each address of strangers.

Rows are charged before a request runs, by estimate. The time that it took is charged afterwards, with the next request.
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

# Callers that are told apart in one window; all further ones share a count.
MOST_CALLERS = 100_000
OTHERS = "others"
# How long the shared counts may take, and how long they are left alone when they cannot be had.
PATIENCE_SECONDS = 0.5
REST_SECONDS = 5.0
IPV6_NETWORK = 64
ROWS, PAGES, TIME = "rows", "rows of changes", "seconds of database and server time"
# Time is counted in microseconds: most statements take less than a millisecond. A request that began in the window
# before may bring some along, so that one at a time is never refused.
SECOND = 1_000_000
SLACK = 10 * SECOND
# Less is not worth counting, and is owed until it is more.
LEAST_SECONDS = 0.005

# Requests to other addresses than GraphQL's that one client address may send in a window, and as many probes. The
# explorer asks for a hundred files, probes are a few a second. Each process counts: a probe must not wait for Redis.
OTHER_REQUESTS = "1000/10 seconds"

Clock = Callable[[], float]


class Counters(Protocol):
    """Counts that begin anew with each window of `expiry` seconds: of many callers, for each of some limits by name."""

    def incr(self, limit: str, caller: str, expiry: int, amount: int) -> int | Awaitable[int]: ...

    async def remaining(self, limit: str, caller: str) -> float:
        """Seconds until the window of a count ends."""
        ...

    async def close(self) -> None: ...


_OVER: tuple[float, dict[str, int]] = -math.inf, {}


class Windows:
    """Counts in memory. All windows of a limit end together, so that nothing has to be searched for what is over.

    `clock` gives seconds and never goes back, as the time of day does.
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

    async def remaining(self, limit: str, caller: str) -> float:  # noqa: ARG002 - one end for all
        return self._windows[limit][0] - self._clock()

    async def close(self) -> None:
        """Memory needs no closing."""


class SharedCounters:
    """Counts that all processes share in Redis; while it cannot be reached each process counts for itself."""

    def __init__(self, url: str) -> None:
        # Five megabytes of library, for those who share.
        from redis.asyncio import ConnectionPool  # noqa: PLC0415 - not needed elsewhere
        from redis.asyncio.retry import Retry  # noqa: PLC0415 - as above
        from redis.backoff import NoBackoff  # noqa: PLC0415 - as above

        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            socket_timeout=PATIENCE_SECONDS,
            socket_connect_timeout=PATIENCE_SECONDS,
            retry=Retry(NoBackoff(), 1),  # a connection of the pool may have been closed meanwhile
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
                    log.warning("rate limits: Redis cannot be reached; this process counts for itself")
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
    """An amount in a window, such as 600000/minute, for each of many callers.

    `what` names the amount in errors. `slack` is allowed on top: what a window may inherit from the one before it.
    """

    def __init__(
        self, item: limits.RateLimitItem, counters: Counters, what: str, *, scale: int = 1, slack: int = 0
    ) -> None:
        self._item, self._counters, self._what = item, counters, what
        self._most, self._seconds = item.amount * scale + slack, item.get_expiry()
        self._name = f"taskql/{what}/{item.amount}/{self._seconds}/"

    def charge(self, caller: str, amount: int) -> Awaitable[None] | None:
        """Count an amount. What is returned, if anything, has to be awaited: RateLimited beyond the limit."""
        count = self._counters.incr(self._name, caller, self._seconds, amount)
        if type(count) is int and count <= self._most:
            return None
        return self._refuse_beyond(caller, count)

    def fitting(self, amount: int) -> int:
        """An amount, or what a whole window has where it is more: what may wait must not wait for ever."""
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
    """Requests of each client address that run no operation: none is charged in rows.

    Probes are counted apart: behind a proxy that is not trusted they have the address of everybody's requests.
    """

    def __init__(self) -> None:
        item, windows = limits.parse(OTHER_REQUESTS), Windows()
        self._probes, self._others = (
            Rate(item, windows, "probes"),
            Rate(item, windows, "requests that run no operation"),
        )

    async def charge(self, address: str, *, is_probe: bool) -> None:
        """Count one; RateLimited beyond the limit."""
        rate = self._probes if is_probe else self._others
        if waits := rate.charge(network(address), 1):
            await waits


class Pace:
    """`each` seconds between two events of a key: a burst of them may come at once, all further ones wait."""

    def __init__(self, each: float, burst: int, clock: Clock = time.monotonic) -> None:
        self._each, self._ahead, self._clock = each, each * burst, clock
        self._free = -math.inf  # when the last event would have been due, had none come early

    def delay(self) -> float:
        """Count one event, and how many seconds it has to wait."""
        now = self._clock()
        self._free = max(self._free, now) + self._each
        return max(0.0, self._free - now - self._ahead)


class TimeLimit:
    """Seconds in a window for each caller, which are known only afterwards: a charge counts what is owed."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self.owed: dict[str, float] = {}

    def owe(self, caller: str, seconds: float) -> None:
        """Have the next charge of a caller count the time that a request has taken."""
        self.owed[caller] = self.owed.get(caller, 0.0) + seconds

    def charge(self, caller: str) -> Awaitable[None] | None:
        """Count what is owed. What is returned, if anything, has to be awaited."""
        owed = self.owed.pop(caller, 0.0)
        if len(self.owed) >= MOST_CALLERS:  # who has left it so
            self.owed.clear()
        refused = self._rate.charge(caller, ceil(owed * SECOND))
        return self._remembered(caller, refused) if refused else None

    async def _remembered(self, caller: str, refused: Awaitable[None]) -> None:
        """A refusal: a caller who owes something is asked again the next time."""
        try:
            await refused
        except RateLimited:
            self.owed[caller] = self.owed.get(caller, 0.0) + LEAST_SECONDS
            raise


class Rates:
    """What each caller may ask for, in rows, and what its requests may take, in seconds; None does not limit.

    A payer is a user's id, or the address of a caller who is not known, as `network` writes it.
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
        # Has the next charge of a payer count the seconds that a request has taken.
        self.spend: Callable[[str, float], None] = self._time.owe if self._time else _for_free

    def charge(self, payer: str, rows: int, *, is_user: bool) -> Awaitable[None] | None:
        """Count rows, and the time that is owed. RateLimited beyond a limit, at once or by what is returned."""
        limit = self._users if is_user else self._addresses
        waits = limit.charge(payer, rows) if limit else None
        time = self._time
        more = time.charge(payer) if time and time.owed.get(payer, 0.0) >= LEAST_SECONDS else None
        return _all(waits, more) if waits or more else None

    async def pace(self, payer: str, rows: int, *, is_behind: bool) -> None:
        """Count rows of a user; wait for the next window where they are too many.

        Those who are behind, and catch up with many pages, have half of the rate: the rest is left to the user's other
        subscriptions and requests.
        """
        if is_behind and self._behind:
            await _patiently(partial(self._behind.charge, payer, self._behind.fitting(rows)))
        if self._users:
            await _patiently(partial(self.charge, payer, self._users.fitting(rows), is_user=True))

    async def close(self) -> None:
        await self._counters.close()


def _for_free(_payer: str, _seconds: float) -> None:
    """What is not limited."""


def _time_rate(item: limits.RateLimitItem, counters: Counters) -> Rate:
    """Slack is for a limit that one request at a time must never reach; a lower one is kept as it is."""
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
    for refusal in filter(None, outcomes):
        raise refusal


@lru_cache(1000)
def network(address: str) -> str:
    """What stands for the one behind an address: it itself, or the network that IPv6 gives to each household."""
    try:
        version6 = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if version6.ipv4_mapped:
        return str(version6.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(version6), IPV6_NETWORK), strict=False))
