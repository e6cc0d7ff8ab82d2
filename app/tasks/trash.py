"""Empties the trash of a user: tasks and lists together."""

from uuid import UUID

from app.entities import purging
from app.entities.repository import Database, Written, purge_problems, refuse_at_most
from app.tasks.fields import TASK
from app.tasks.lists import LIST

_EMPTY = purging.empty(TASK, LIST)


async def empty(database: Database, owner: UUID, *, at_most: int, dry_run: bool) -> Written:
    """Permanently delete all tasks and lists in the trash, unless there are more than `at_most`."""
    refuse_at_most(at_most)
    limits = {"at_most": at_most, "quota": database.quotas["tasks"]}
    row = await database.write(owner, _EMPTY, {"user_id": owner, "dry_run": dry_run, **limits})
    problems = purge_problems("tasks and lists", row, limits)
    return Written(row["version"], {}, problems, 0 if problems else row["affected"])
