"""The tasks of the demo user."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from app.database.database import Database
from app.identifiers import uuid7
from app.models import PRIORITIES, Task


async def fill(database: Database, owner: UUID) -> None:
    """Create the demo tasks for a user, with ids in this order."""
    tasks = _tasks()
    for task, task_id in zip(tasks, sorted(uuid7() for _ in tasks), strict=True):
        task.id = task_id
    async with database.session(owner) as session:
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
