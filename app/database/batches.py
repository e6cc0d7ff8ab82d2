"""Runs several writes of one user in their order, in one transaction with one version of the clock.

Consecutive writes with the same statement are sent in one message. If all have the same one, the whole transaction is
that message; otherwise a message begins it and another one ends it.

Two errors of a single write fail the whole transaction: too many tags, and a place in the manual order that has no room
for another key. The writes are then run again one by one, each with a savepoint.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard
from uuid import UUID

import asyncpg
from sqlalchemy import Uuid, func, literal, select

from app.database import cluster
from app.database.failures import failure
from app.database.statements import LAST, Statement, literal_text
from app.errors import TooManyTags

Values = Mapping[str, Any]
Row = Mapping[str, Any]


class Item(NamedTuple):
    """A write of a batch. Without a statement it is a create that was rejected before.

    `makes` is the id of the row that it creates, `names` are the ids of the rows that it writes or refers to. `remedy`
    is the statement to run if the first one fails for lack of room in the manual order.
    """

    statement: Statement | None
    values: Values
    makes: UUID | None = None
    names: frozenset[UUID] = frozenset()
    remedy: Callable[[], Statement] | None = None


# The row of a write, or the error that it has met, or the id that it names of a row whose create was rejected in the
# batch. None for a create that was rejected before.
Result = Row | TooManyTags | UUID | None
Run = Callable[[Statement, Sequence[Item]], Awaitable[Sequence[Result]]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Writes of one user, in their order."""

    items: Sequence[Item]

    # Like a single statement that is executed in the way of this module.
    after_loss: None = None

    @property
    def repeatable(self) -> bool:
        """Whether it is safe to run it again, because it only creates rows with known ids."""
        return all(item.statement.repeatable for item in self.items if item.statement)


async def write(connection: Any, owner: UUID, batch: Batch, *, on_cluster: bool) -> list[Result]:
    """The results of the writes, in their order."""
    try:
        if on_cluster:
            return await _in_transaction(connection, owner, batch, _Cluster(connection))
        statement = _only_statement(batch)
        if statement is not None:
            return await _in_one_message(connection, owner, batch, statement)
        return await _in_transaction(connection, owner, batch, _Plain(connection))
    except asyncpg.PostgresError as error:
        if not _is_of_one_write(error):
            raise
        place = _Cluster(connection) if on_cluster else _Plain(connection)
        return await _in_transaction(connection, owner, batch, _OneByOne(place))


def _only_statement(batch: Batch) -> Statement | None:
    """The statement of all writes; None if there are several or none."""
    statements = {item.statement.text: item.statement for item in batch.items if item.statement}
    return next(iter(statements.values())) if len(statements) == 1 else None


async def _in_one_message(connection: Any, owner: UUID, batch: Batch, statement: Statement) -> list[Result]:
    """Run writes of one kind in one message, which PostgreSQL makes a transaction."""

    async def run(_statement: Statement, items: Sequence[Item]) -> Sequence[Result]:
        executions = [statement.continuing({**item.values, LAST: item is items[-1]}) for item in items]
        rows: list[Result] = await connection.fetchmany(statement.text, [statement.beginning(owner), *executions])
        return rows[1:]

    return await _in_order(batch, run)


class _Plain:
    """The parts of a transaction on a single PostgreSQL."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @staticmethod
    def begin(owner: UUID) -> str:
        return literal_text(select(func.begin_writes(literal(owner, Uuid))))

    async def run(self, statement: Statement, items: Sequence[Item]) -> Sequence[Result]:
        executions = [statement.continuing({**item.values, LAST: False}) for item in items]
        rows: list[Result] = await self.connection.fetchmany(statement.text, executions)
        return rows

    @staticmethod
    def end(_owner: UUID, _version: int) -> str:
        return "COMMIT"


class _Cluster:
    """The same on a Citus cluster, where each write is a message."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @staticmethod
    def begin(owner: UUID) -> str:
        return literal_text(select(func.begin_distributed_writes(literal(owner, Uuid))))

    async def run(self, statement: Statement, items: Sequence[Item]) -> Sequence[Result]:
        return [
            await cluster.write_in_batch(self.connection, statement, {**item.values, LAST: False}) for item in items
        ]

    @staticmethod
    def end(owner: UUID, version: int) -> str:
        return cluster.end(owner, version)


class _OneByOne:
    """Runs each write with a savepoint, on one of both."""

    def __init__(self, place: _Plain | _Cluster) -> None:
        self._place = place
        self.connection, self.begin, self.end = place.connection, place.begin, place.end

    async def run(self, statement: Statement, items: Sequence[Item]) -> Sequence[Result]:
        return [await self._run(statement, item) for item in items]

    async def _run(self, statement: Statement, item: Item) -> Result:
        await self.connection.execute("SAVEPOINT before")
        try:
            (row,) = await self._place.run(statement, [item])
        except asyncpg.PostgresError as error:
            if not _is_of_one_write(error):
                raise
            await self.connection.execute("ROLLBACK TO SAVEPOINT before")
            known = failure(error)
            if isinstance(known, TooManyTags):
                return known
            assert item.remedy  # noqa: S101 - only moves fail with the other error
            (row,) = await self._place.run(item.remedy(), [item])
        return row


async def _in_transaction(
    connection: Any, owner: UUID, batch: Batch, place: _Plain | _Cluster | _OneByOne
) -> list[Result]:
    """Run writes of several kinds. If nothing has changed, roll back, so that the clock stays where it was."""
    async with _undone(connection):
        await connection.execute(f"BEGIN; {place.begin(owner)}")
        results = await _in_order(batch, place.run)
        versions = [row["version"] for row in results if _is_row(row) and row["changed"]]
        await connection.execute(place.end(owner, max(versions)) if versions else "ROLLBACK")
    return results


@asynccontextmanager
async def _undone(connection: Any) -> AsyncIterator[None]:
    """Roll back on an error of PostgreSQL."""
    try:
        yield
    except asyncpg.PostgresError:
        await connection.execute("ROLLBACK")
        raise


async def _in_order(batch: Batch, run: Run) -> list[Result]:
    """Run consecutive writes with the same statement together, without those that name a rejected row."""
    results: list[Result] = [None] * len(batch.items)
    refused, made, waiting = set[UUID](), set[UUID](), list[int]()
    current: Statement | None = None

    async def flush() -> None:
        items = [batch.items[place] for place in waiting]
        rows = await run(current, items) if current and items else ()
        for place, item, row in zip(waiting, items, rows, strict=True):
            results[place] = row
            if item.makes:
                (made if _is_done(row) else refused).add(item.makes)
        waiting.clear()

    for place, item in enumerate(batch.items):
        if item.statement and current and item.statement.text != current.text:
            await flush()
        current = item.statement or current
        missing = next(iter(item.names & (refused - made)), None)
        if item.statement and missing is None:
            waiting.append(place)
            continue
        results[place] = missing
        if item.makes:
            refused.add(item.makes)
    await flush()
    return results


def _is_done(result: Result) -> bool:
    return _is_row(result) and result["code"] is None


def _is_row(result: Result) -> TypeGuard[Row]:
    return result is not None and not isinstance(result, TooManyTags | UUID)


def _is_of_one_write(error: asyncpg.PostgresError) -> bool:
    return isinstance(error, asyncpg.InvalidTextRepresentationError) or isinstance(failure(error), TooManyTags)
