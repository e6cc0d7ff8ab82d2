"""Compiled statements: built once for each selection and shape of arguments, and shared by all callers."""

from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Protocol, TypeVar
from uuid import UUID

from app.database.rendering import Selection
from app.database.statements import Statement
from app.sharing.caches import FairCache

T = TypeVar("T")

# Characters of SQL that are kept; most statements have 1,000 to 5,000.
MOST_TEXT = 8_000_000


class Run(Protocol):
    """Runs work for a payer, somewhere it holds up nobody."""

    def __call__(self, payer: str, work: Callable[[], T], /) -> Awaitable[T]: ...


async def _at_once(_payer: str, work: Callable[[], T], /) -> T:
    return work()


class Statements:
    """Compiles statements by `run`. Each selection holds its own; callers share fairly how many are kept in all."""

    def __init__(self, run: Run = _at_once) -> None:
        self._run = run
        self._kept = FairCache[tuple[Selection, Hashable], None](MOST_TEXT, self._forget)

    async def compiled(
        self, owner: UUID, selection: Selection, key: Hashable, build: Callable[[], Statement]
    ) -> Statement:
        """The statement of a selection under this key, which it has from now on. Its owner pays for the time."""
        payer = str(owner)
        statement = await self._run(payer, partial(_built_once, selection.statements, key, build))
        self._kept.put((selection, key), None, payer, len(statement.text))
        return statement

    @staticmethod
    def _forget(kept: tuple[Selection, Hashable]) -> None:
        selection, key = kept
        selection.statements.pop(key, None)


def _built_once(known: dict[Hashable, Statement], key: Hashable, build: Callable[[], Statement]) -> Statement:
    """The statement that somebody else has asked for at the same time, or a new one."""
    statement = known.get(key)
    if statement is None:
        statement = known[key] = build()
    return statement
