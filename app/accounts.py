"""Users made from the command line: for trying things out, and for the demo of the embedded database."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select
from sqlalchemy.dialects.postgresql import insert

from app.database import Database
from app.models import PRIORITIES, User
from app.rendering import Selection
from app.tasks import Tasks

DEMO_EMAIL = "demo@example.com"
_NOTHING = Selection("TaskPayload", ())


async def user_with_email(database: Database, email: str) -> tuple[UUID, bool]:
    """The user of an address, made if there is none, and whether it was made."""
    new = insert(User).values(email=bindparam("email")).on_conflict_do_nothing().returning(User.id)
    async with database.engine.begin() as connection:
        made = (await connection.execute(new, {"email": email})).scalar_one_or_none()
        if made is not None:
            return made, True
        return (await connection.execute(select(User.id).where(User.email == email))).scalar_one(), False


async def demo_user(database: Database) -> UUID:
    """The demo user; with a few tasks when it is new."""
    user_id, is_new = await user_with_email(database, DEMO_EMAIL)
    if is_new:
        tasks = Tasks(database, user_id)
        for content in _demo_tasks():
            await tasks.create(_NOTHING, content)
    return user_id


def _demo_tasks() -> list[dict[str, Any]]:
    today = datetime.now(UTC).date()
    return [
        _task("Water the plants", "LOW", tags=["home"]),
        _task("Renew the passport", "HIGH", due_date=today + timedelta(days=30), tags=["papers"]),
        _task("Send the report", "URGENT", due_date=today - timedelta(days=1), tags=["work", "writing"]),
        _task("Book a dentist", "MEDIUM", description="Mornings are best."),
        _task("Open the explorer", "NONE", completed=True, tags=["taskql"]),
    ]


def _task(title: str, priority: str, *, completed: bool = False, **more: Any) -> dict[str, Any]:
    return {"title": title, "priority": PRIORITIES.index(priority), "completed": completed} | more
