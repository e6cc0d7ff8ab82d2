"""Compiled statements: built once for each selection and shape of arguments, and shared by all callers."""

from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Protocol, TypeVar
from uuid import UUID

from app.database.rendering import Selection
from app.database.statements import Statement
from app.sharing.caches import FairCache

T = TypeVar("T")

# Maximum characters of SQL in the cache; most statements have 1,000 to 5,000.
MOST_TEXT = 8_000_000


class Run(Protocol):
    """Runs work for a payer without blocking the event loop."""

    def __call__(self, payer: str, work: Callable[[], T], /) -> Awaitable[T]: ...


async def _at_once(_payer: str, work: Callable[[], T], /) -> T:
    return work()


class Statements:
    """Compiles statements with `run`, and caches them in their selection. Callers share the cache fairly."""

    def __init__(self, run: Run = _at_once) -> None:
        self._run = run
        self._kept = FairCache[tuple[Selection, Hashable], None](MOST_TEXT, self._forget)

    async def compiled(
        self, owner: UUID, selection: Selection, key: Hashable, build: Callable[[], Statement]
    ) -> Statement:
        """Compile a statement and cache it in the selection under `key`. The owner is charged for the time."""
        payer = str(owner)
        statement = await self._run(payer, partial(_built_once, selection.statements, key, build))
        self._kept.put((selection, key), None, payer, len(statement.text))
        return statement

    @staticmethod
    def _forget(kept: tuple[Selection, Hashable]) -> None:
        selection, key = kept
        selection.statements.pop(key, None)


def _built_once(known: dict[Hashable, Statement], key: Hashable, build: Callable[[], Statement]) -> Statement:
    """The statement that another caller has compiled in the meantime, or a new one."""
    statement = known.get(key)
    if statement is None:
        statement = known[key] = build()
    return statement
