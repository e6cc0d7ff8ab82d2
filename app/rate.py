"""How much a caller may ask for in a window of time, in rows: each user, and each address nobody is known at."""

import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache
from math import ceil
from typing import Any, Protocol
from uuid import UUID

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

Clock = Callable[[], float]


class Counters(Protocol):
    """Counts that begin anew with each window of `expiry` seconds."""

    def incr(self, key: str, expiry: int, amount: int = 1) -> int | Awaitable[int]: ...

    async def get_expiry(self, key: str) -> float: ...

    async def close(self) -> None: ...


class Windows:
    """Counts in memory. All windows end together, so that nothing has to be searched for what is over."""

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._end = 0.0

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        if (now := self._clock()) >= self._end:
            self._counts, self._end = {}, now + expiry
        if key not in self._counts and len(self._counts) >= MOST_CALLERS:
            key = OTHERS
        count = self._counts[key] = self._counts.get(key, 0) + amount
        return count

    async def get_expiry(self, key: str) -> float:  # noqa: ARG002 - one end for all
        return self._end

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

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        if time.monotonic() >= self._away_until:
            try:
                return await self._shared.incr(key, expiry, amount)
            except StorageError:
                log.warning("rate limits: Redis cannot be reached; this process counts for itself")
                self._away_until = time.monotonic() + REST_SECONDS
        return self._own.incr(key, expiry, amount)

    async def get_expiry(self, key: str) -> float:
        if time.monotonic() >= self._away_until:
            with suppress(StorageError):
                return await self._shared.get_expiry(key)
        return await self._own.get_expiry(key)

    async def close(self) -> None:
        await self._pool.disconnect()


class Rate:
    """A number of rows in a window, such as 600000/minute, for each of many callers."""

    def __init__(self, text: str, counters: Counters, clock: Clock = time.time) -> None:
        self._item, self._counters, self._clock = limits.parse(text), counters, clock
        self._seconds = self._item.get_expiry()
        self._name = f"taskql/{self._item.amount}/{self._seconds}/"

    async def charge(self, caller: str, rows: int) -> None:
        """Count rows; RateLimited when they are more than the rest of the window allows."""
        key = self._name + caller
        count = self._counters.incr(key, self._seconds, rows)
        if (count if isinstance(count, int) else await count) <= self._item.amount:
            return
        seconds = max(1, ceil(await self._counters.get_expiry(key) - self._clock()))
        raise RateLimited(f"You have asked for more than {self._item} allow; try again in {seconds} s.", seconds)

    async def close(self) -> None:
        await self._counters.close()


class Rates:
    """What users may ask for, and what addresses may at which nobody is known; None does not limit."""

    def __init__(self, users: str | None, addresses: str | None, counters: Callable[[], Counters] = Windows) -> None:
        self._users = Rate(users, counters()) if users else None
        self._addresses = Rate(addresses, counters()) if addresses else None

    def charge(self, user_id: UUID | None, address: str, rows: int) -> Awaitable[None]:
        """Count rows for a user, or else for the address; RateLimited beyond the limit."""
        limit = self._addresses if user_id is None else self._users
        if limit is None:
            return _free()
        return limit.charge(network(address) if user_id is None else str(user_id), rows)

    async def close(self) -> None:
        for limit in (self._users, self._addresses):
            if limit is not None:
                await limit.close()


async def _free() -> None:
    """What is not limited."""


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
