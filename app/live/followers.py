"""Live changes: those who follow a user wait for a notification, and one read serves all at the same place.

A follower holds a place in the user's history and reads on from it, as the query does: what it has not read yet is not
kept anywhere. So nothing is lost while the listening connection is, a burst of writes is read as one page, and whoever
takes changes in slowly gets the latest state of what has changed meanwhile.

What one user can take from the others is bounded: by a number of followers, by a share of the reads under way, by the
user's rate, which each page is charged to, and by a number of deliveries in each turn of the event loop.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID
from weakref import ref

from app.database.url import DatabaseURL
from app.errors import FullSyncRequired, LimitExceeded, Unavailable
from app.live.listener import Listener, Notify
from app.sharing.rate_limits import Rates
from app.sharing.steps import Steps
from app.sharing.turns import Turns

# After the last follower has left: a database of Neon sleeps only when nobody listens.
LINGER_SECONDS = 30.0
# How long a new follower waits for the listener at most, which may have no connection.
WATCHED_SECONDS = 0.5
# At a time, so that requests find connections too when everybody reads because the listener has come back.
MOST_READS = 5
# Of these, for one user: a flood of reads waits behind itself.
READS_OF_A_USER = 2
# Changes that a user's followers are given in one turn of the event loop. Each takes some 0.1 ms to send.
STEPS_OF_A_USER = 5
PAUSE_SECONDS = 1.0
# What was read stays for others who come a little later with the same token, but no more than the last few pages.
KEPT_SECONDS = 1.0
MOST_KEPT = 10

# A change of one row, as JSON has it.
Change = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed since a token, with all that can be shown; where to go on, and the clock that was reached there.

    `full`: the token no longer leads on.
    """

    items: list[Change]
    token: str
    clock: int
    more: bool
    full: bool


Read = Callable[[str], Awaitable[Changes]]


class Realtime:
    """The users whom somebody follows on this process, and the listener for as long as there are any.

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
        self, user: UUID, feed: str, start: Callable[[], Awaitable[str]], read: Read
    ) -> AsyncGenerator[Change, None]:
        """Each change in a feed of a user after the token that `start` gives, as soon as it is known.

        `read` answers for this user and feed, and for all of their followers alike. FullSyncRequired where the token no
        longer leads on; LimitExceeded where the user has too many followers; whatever the first read raises. Each page
        is charged to the user's rate, and waits for it; the first page is part of what the subscription cost.
        """
        with self._followed(user) as followed:
            await followed.watched()
            token = await start()
            seen, changes = followed.seen, _leading_on(await followed.read(feed, token, read))
            while True:
                for change in changes.items:
                    await followed.steps.step()
                    yield change
                # Who waits, maybe for days, keeps nothing of what was passed on.
                changes = replace(changes, items=[])
                if not changes.more:
                    await followed.news(seen, changes.clock)
                seen, changes = followed.seen, _leading_on(await followed.read_patiently(feed, changes.token, read))
                await self._rates.pace(str(user), max(1, len(changes.items)), is_behind=changes.more)

    @contextmanager
    def _followed(self, user: UUID) -> Iterator["_Followed"]:
        followed = self._users.setdefault(user, _Followed(user, self._turns))
        if followed.followers >= self._most:
            raise LimitExceeded(
                f"You have {self._most} live subscriptions with this server already, which is the most; end one of them"
                " first. Several views can share one subscription."
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


def _leading_on(changes: Changes) -> Changes:
    if changes.full:
        raise FullSyncRequired
    return changes


class _Followed:
    """A user with followers: the notifications that were heard, and what was read since the last, a moment ago."""

    def __init__(self, user: UUID, turns: Turns[UUID]) -> None:
        self.followers = 0
        self.steps = Steps(STEPS_OF_A_USER)
        # How many notifications were heard, and how often some may have been missed.
        self.seen = (0, 0)
        self._clock = -1
        self._user, self._turns = user, turns
        self._watched, self._stirred = asyncio.Event(), asyncio.Event()
        # What is being read or was read a moment ago, by feed and token, the oldest first.
        self._reads: dict[tuple[str, str], asyncio.Task[Changes]] = {}
        self._waiting: Counter[asyncio.Task[Changes]] = Counter()

    def heard(self, version: int) -> None:
        # A forged one may be too high. It costs a read, and must not hide those that come after it.
        self._clock = max(self._clock, version)
        self._stir(+1, 0)

    def doubt(self) -> None:
        self._watched.set()
        self._stir(0, +1)

    async def watched(self) -> None:
        """Wait a little until writes are told of: who has read before that has to read again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WATCHED_SECONDS):
                await self._watched.wait()

    def _stir(self, heard: int, doubts: int) -> None:
        self.seen = (self.seen[0] + heard, self.seen[1] + doubts)
        self._reads.clear()
        self._stirred.set()
        self._stirred = asyncio.Event()

    async def news(self, seen: tuple[int, int], clock: int) -> None:
        """Wait for news for one who has read up to this clock, and had `seen` so much before."""
        heard, doubts = seen
        while self.seen[1] == doubts and (self.seen[0] == heard or self._clock <= clock):
            await self._stirred.wait()

    async def read(self, feed: str, token: str, read: Read) -> Changes:
        """What follows a token, read once for all that ask for it until there is news."""
        known = self._reads.get((feed, token))
        if known is None:
            known = self._reads[feed, token] = asyncio.create_task(self._in_turn(read, token))
            known.add_done_callback(self._was_read)
        self._waiting[known] += 1
        try:
            # One that leaves must not take the answer away from the others.
            return await asyncio.shield(known)
        finally:
            self._leave(known)

    async def read_patiently(self, feed: str, token: str, read: Read) -> Changes:
        """The same, for as long as it takes: followers outlive an outage of the database."""
        while True:
            try:
                return await self.read(feed, token, read)
            except Unavailable:
                await asyncio.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter keeps no secret

    async def _in_turn(self, read: Read, token: str) -> Changes:
        async with self._turns.turn(self._user):
            return await read(token)

    def _leave(self, known: asyncio.Task[Changes]) -> None:
        """What the last has left undone is given up: others must not wait in line behind it."""
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
        # A timer must not keep what was dropped before.
        page = ref(done)
        done.get_loop().call_later(KEPT_SECONDS, lambda: self._forget(page()))

    def _forget(self, done: asyncio.Task[Changes] | None) -> None:
        self._reads = {place: task for place, task in self._reads.items() if task is not done}
