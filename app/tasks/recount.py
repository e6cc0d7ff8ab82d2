"""Comparing the counters of tasks with the tasks there are, user by user."""

from collections.abc import AsyncGenerator
from typing import Any

from sqlalchemy import Select, false, func, literal_column, select

from app.database.database import Database
from app.database.statements import Reader, Statement, read, text_literal, user_id, write
from app.models import CLOCKS, TASKS
from app.tasks.purge import each_user


async def recount(database: Database) -> AsyncGenerator[tuple[int, int], None]:
    """Correct the counters that are wrong; yields, a user at a time, how many users were seen and how many were wrong.

    Looking locks nothing. A wrong counter is corrected under the lock that all of the user's writes take.
    """
    differing, correcting, users, wrong = _differs(), _correct(), 0, 0
    async for owner in each_user(database):
        if await database.read(owner, differing, {"user_id": owner}):
            await database.write(owner, correcting, {"user_id": owner})
            wrong += 1
        users += 1
        yield users, wrong


def _differs() -> Statement:
    """Whether a user's counter, which is 0 before her first write, differs from the number of her tasks."""

    def body(reader: Reader) -> Select[Any]:
        stored = select(func.coalesce(func.max(CLOCKS.c.tasks), literal_column("0"))).where(reader.owns(CLOCKS))
        number = select(func.count()).select_from(TASKS).where(reader.owns(TASKS))
        counter, counted = (query.correlate(reader.row).scalar_subquery() for query in (stored, number))
        return select(text_literal("yes").label("differs")).where(counter != counted)

    return read(body)


def _correct() -> Statement:
    """Count a user's tasks anew. Nothing else changes: her clock goes back to where it was."""
    number = select(func.count()).select_from(TASKS).where(TASKS.c.user_id == user_id()).scalar_subquery()
    return write(select(text_literal("yes").label("corrected")), false(), {CLOCKS.c.tasks.name: number})
