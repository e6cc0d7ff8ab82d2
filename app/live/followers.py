"""Live changes: followers of a user wait for a notification, and one read serves all followers with the same token.

A follower is a running subscription. It holds a token, a position in the user's history, and reads from there as the
query `changes` does. Unread changes are not buffered anywhere. So nothing is lost while the listening connection is
down, a burst of writes is read as one page, and a slow client gets the latest state of each changed row.

What one user can take from others is bounded: by the number of followers, by a share of concurrent reads, by the user's
rate, which is charged for each page, and by the number of deliveries in each iteration of the event loop.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID
from weakref import ref

from app.database.url import DatabaseURL
from app.errors import LimitExceeded, Unavailable
from app.live.listener import Listener, Notify
from app.sharing.rate_limits import Rates
from app.sharing.steps import Steps
from app.sharing.turns import Turns

# How long to keep listening after the last follower has left. A Neon database suspends only without listeners.
LINGER_SECONDS = 30.0
# How long a new follower waits at most for the listener, which may be disconnected.
WATCHED_SECONDS = 0.5
# Concurrent reads. Leaves connections for requests when all followers read because the listener has reconnected.
MOST_READS = 5
# Concurrent reads for one user.
READS_OF_A_USER = 2
# Changes delivered to a user's followers in one iteration of the event loop. Sending one takes about 0.1 ms.
STEPS_OF_A_USER = 5
PAUSE_SECONDS = 1.0
# A page is kept for followers that ask for the same token a little later, but no more than the last few pages.
KEPT_SECONDS = 1.0
MOST_KEPT = 10

T = TypeVar("T")

# A change of one row, as decoded JSON.
Change = Mapping[str, Any]


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Changes:
    """A page of changes after a token, with all fields; the token to continue from, and the user's clock there.

    `full` means that the page is the first one of a full sync, because the requested token was not usable.
    """

    items: list[Change]
    token: str
    clock: int
    more: bool
    full: bool

    def halves(self) -> "tuple[Changes, Changes]":
        """Two pages with the same changes, of which there must be at least two."""
        half = len(self.items) // 2
        first = replace(self, items=self.items[:half], token=self.items[half - 1]["token"], more=True)
        return first, replace(self, items=self.items[half:], full=False)


Read = Callable[[str], Awaitable[Changes]]


class Realtime:
    """The followed users of this process, and the listener, which runs while there are any.

    A user may have `most` followers.
    """

    def __init__(self, url: DatabaseURL, notify: Notify, rates: Rates, most: int) -> None:
        self._rates, self._most = rates, most
        self._users: dict[UUID, _Followed] = {}
        self._listener = Listener(url, notify, self._users, self._heard, self._missed)
        self._listening: asyncio.Task[None] | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._turns = Turns[UUID](MOST_READS, READS_OF_A_USER)

    async def follow(
        self, user: UUID, start: Callable[[], Awaitable[str]], read: Read, render: Callable[[Changes], Sequence[T]]
    ) -> AsyncGenerator[T, None]:
        """Yield each page of changes of a user's rows after the token that `start` returns, as soon as it is known.

        The first page comes at once, also if it is empty; later ones have changes, or say that no more follow. What
        `render` makes of a page is yielded. `read` must return the same for all followers of this user. Each page is
        charged to the user's rate and waits for it, except the first, which is part of the subscription's cost.

        Raises LimitExceeded if the user has too many followers, and whatever the first read raises.
        """
        with self._followed(user) as followed:
            # In this order: what is written while it waits for the listener is among the first changes.
            token = await start()
            await followed.watched()
            seen, changes = followed.seen, await followed.read(token, read)
            for shown in await followed.delivered(changes, render):
                yield shown
            while True:
                token, clock, is_behind = changes.token, changes.clock, changes.more
                # Free the delivered page: the wait below may last for days.
                del changes
                if not is_behind:
                    await followed.news(seen, clock)
                seen, changes = followed.seen, await followed.read_patiently(token, read)
                await self._rates.pace(str(user), max(1, len(changes.items)), is_behind=changes.more)
                if changes.items or changes.full or is_behind:
                    for shown in await followed.delivered(changes, render):
                        yield shown

    @contextmanager
    def _followed(self, user: UUID) -> Iterator["_Followed"]:
        followed = self._users.setdefault(user, _Followed(user, self._turns))
        if followed.followers >= self._most:
            raise LimitExceeded(
                f"You already have {self._most} live subscriptions on this server, which is the maximum; end one of"
                " them first. Several views can share one subscription."
            )
        followed.followers += 1
        if self._resting:
            self._resting.cancel()
        if self._listening is None:
            self._listening = asyncio.create_task(self._listener.run())
        self._listener.look()
        try:
            yield followed
        finally:
            followed.followers -= 1
            if not followed.followers:
                del self._users[user]
                self._listener.look()
            if not self._users:
                self._resting = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._rest)

    def _heard(self, user: UUID, version: int) -> None:
        if followed := self._users.get(user):
            followed.heard(version)

    def _missed(self, users: Iterable[UUID]) -> None:
        for followed in [self._users[user] for user in users if user in self._users]:
            followed.doubt()

    def _rest(self) -> None:
        if self._listening:
            self._listening.cancel()
            self._listening = None

    async def close(self) -> None:
        if self._listening:
            self._listening.cancel()
            await asyncio.wait({self._listening})


class _Followed:
    """A user with followers: the state of their notifications, and the pages read recently, since the last one."""

    def __init__(self, user: UUID, turns: Turns[UUID]) -> None:
        self.followers = 0
        self.steps = Steps(STEPS_OF_A_USER)
        # The number of notifications received, and how often some may have been missed.
        self.seen = (0, 0)
        self._clock = -1
        self._user, self._turns = user, turns
        self._watched, self._stirred = asyncio.Event(), asyncio.Event()
        # Reads that are running or just finished, by token, oldest first.
        self._reads: dict[str, asyncio.Task[Changes]] = {}
        self._waiting: Counter[asyncio.Task[Changes]] = Counter()

    def heard(self, version: int) -> None:
        # A forged version may be too high. It causes a needless read, but must not hide later notifications.
        self._clock = max(self._clock, version)
        self._stir(+1, 0)

    def doubt(self) -> None:
        self._watched.set()
        self._stir(0, +1)

    async def watched(self) -> None:
        """Wait, for a short time at most, until writes are notified: a read before that would have to be repeated."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WATCHED_SECONDS):
                await self._watched.wait()

    def _stir(self, heard: int, doubts: int) -> None:
        self.seen = (self.seen[0] + heard, self.seen[1] + doubts)
        self._reads.clear()
        self._stirred.set()
        self._stirred = asyncio.Event()

    async def news(self, seen: tuple[int, int], clock: int) -> None:
        """Wait until there may be changes after `clock`. `seen` is the value of `self.seen` before the last read."""
        heard, doubts = seen
        while self.seen[1] == doubts and (self.seen[0] == heard or self._clock <= clock):
            await self._stirred.wait()

    async def delivered(self, changes: Changes, render: Callable[[Changes], T]) -> T:
        """What to deliver of a page, in its turn among the user's followers."""
        for _ in range(max(1, len(changes.items))):
            await self.steps.step()
        return render(changes)

    async def read(self, token: str, read: Read) -> Changes:
        """The page after a token. Read once for all followers that ask for it before the next notification."""
        known = self._reads.get(token)
        if known is None:
            known = self._reads[token] = asyncio.create_task(self._in_turn(read, token))
            known.add_done_callback(self._was_read)
        self._waiting[known] += 1
        try:
            # A follower that is cancelled must not cancel the read for the others.
            return await asyncio.shield(known)
        finally:
            self._leave(known)

    async def read_patiently(self, token: str, read: Read) -> Changes:
        """The same, retried until it succeeds: followers survive an outage of the database."""
        while True:
            try:
                return await self.read(token, read)
            except Unavailable:
                await asyncio.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter keeps no secret

    async def _in_turn(self, read: Read, token: str) -> Changes:
        async with self._turns.turn(self._user):
            return await read(token)

    def _leave(self, known: asyncio.Task[Changes]) -> None:
        """Cancel the read if no follower waits for it any more, so that it does not delay other reads."""
        self._waiting[known] -= 1
        if self._waiting[known]:
            return
        del self._waiting[known]
        if not known.done():
            self._forget(known)
            known.cancel()

    def _was_read(self, done: asyncio.Task[Changes]) -> None:
        if done.cancelled() or done.exception():
            self._forget(done)
            return
        for task in [task for task in self._reads.values() if task.done()][:-MOST_KEPT]:
            self._forget(task)
        # A weak reference: the timer must not keep alive a page that was dropped earlier.
        page = ref(done)
        done.get_loop().call_later(KEPT_SECONDS, lambda: self._forget(page()))

    def _forget(self, done: asyncio.Task[Changes] | None) -> None:
        self._reads = {place: task for place, task in self._reads.items() if task is not done}
