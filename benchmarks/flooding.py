"""Building blocks of attacks: the target, floods of requests, and repeated actions."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import wire

PAUSE_SECONDS = 0.05
CREATE = 'mutation { createTask(input: { title: "Written to be followed" }) { task { id } userErrors { code } } }'


@dataclass
class Target:
    """The server under attack, tokens by user name, and what the attacker saw.

    `sent` counts requests, `told` responses by status and code, and `facts` everything else that an attack counts.
    """

    port: int
    tokens: dict[str, str]
    sent: int = 0
    told: Counter[str] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)

    def token(self, user: str | None) -> str | None:
        """The token of a user; None for an anonymous caller."""
        return None if user is None else self.tokens[user]


def addresses(count: int) -> list[str]:
    """A number of loopback addresses."""
    return [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(count)]


async def flood(  # noqa: PLR0913 - what a flood is made of
    target: Target,
    user: str | None,
    body: Callable[[], bytes],
    *,
    connections: int = 10,
    sources: Sequence[str] = (wire.LOOPBACK,),
    headers: Callable[[], bytes] = bytes,
) -> None:
    """Send one request after the other on each connection, and ignore the responses."""

    async def one(address: str) -> None:
        while True:
            with suppressed(target):
                connection = await wire.connected(target.port, target.token(user), address)
                try:
                    await _keep_asking(target, connection, body, headers)
                finally:
                    connection.close()
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(one(sources[number % len(sources)]) for number in range(connections)))


async def _keep_asking(
    target: Target, connection: wire.Connection, body: Callable[[], bytes], headers: Callable[[], bytes]
) -> None:
    while True:
        target.sent += 1
        answer = await connection.ask(body(), headers())
        target.told[answer.told] += 1


class suppressed:  # noqa: N801 - as contextlib has it
    """Counts lost connections, and lets the attack continue."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, wire.LOST):
            self._target.told["connection lost"] += 1
            return True
        return False


async def repeated(target: Target, count: int, once: Callable[[int], Any]) -> None:
    """Run `count` instances of `once` concurrently. Each is restarted when it ends or loses its connection."""

    async def one(number: int) -> None:
        while True:
            with suppressed(target):
                await once(number)
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*map(one, range(count)))


async def writing(target: Target, user: str) -> None:
    """Create a task each second."""
    connection = await wire.connected(target.port, target.token(user))
    body = wire.asked(CREATE)
    while True:
        target.told["write: " + (await connection.ask(body)).told] += 1
        await asyncio.sleep(1)
