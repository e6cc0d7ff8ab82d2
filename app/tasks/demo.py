"""The tasks and lists of the demo user."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from app.database.database import Database
from app.identifiers import uuid7
from app.models import PRIORITIES, Task, TaskList


async def fill(database: Database, owner: UUID) -> None:
    """Create the demo lists and tasks for a user, with ids in this order."""
    lists = [TaskList(name="Home", icon="🏠"), TaskList(name="Work", icon="#2563eb")]
    tasks = _tasks()
    rows: list[TaskList | Task] = [*lists, *tasks]
    for row, row_id in zip(rows, sorted(uuid7() for _ in rows), strict=True):
        row.id = row_id
    # The other tasks are in the inbox.
    tasks[0].list_id, tasks[2].list_id = lists[0].id, lists[1].id
    async with database.session(owner) as session:
        session.add_all(lists)
        await session.flush()
        session.add_all(tasks)


def _tasks() -> list[Task]:
    now = datetime.now(UTC)
    return [
        _task("Water the plants", "LOW", tags=["home"]),
        _task("Renew the passport", "HIGH", due_date=now.date() + timedelta(days=30), tags=["papers"]),
        _task("Send the report", "URGENT", due_date=now.date() - timedelta(days=1), tags=["work", "writing"]),
        _task("Book a dentist", "MEDIUM", description="Mornings are best."),
        _task("Open the explorer", "NONE", completed=True, completed_at=now, tags=["taskql"]),
    ]


def _task(title: str, priority: str, **more: Any) -> Task:
    return Task(title=title, priority=PRIORITIES.index(priority), **more)
