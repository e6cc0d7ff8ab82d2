"""Users that TaskQL makes: from the command line, for the demo, and for tokens of issuers with users of their own."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Text, bindparam, cast, select, union_all
from sqlalchemy.dialects.postgresql import insert

from app.auth import Principal
from app.compiling import Statements
from app.database import Database
from app.errors import Unauthenticated
from app.models import PRIORITIES, User
from app.rendering import Selection
from app.statements import Statement, compiled
from app.tasks import Tasks

DEMO_EMAIL = "demo@example.com"
# A domain that can never be (RFC 6761), for users whose token has no address.
NO_EMAIL = "users.invalid"
LONGEST_LINE = 255
# Nobody may take the address that another user without one will get.
_ADDRESS = re.compile(rf"[^@\s]+@(?!{re.escape(NO_EMAIL)}$)[^@\s]+")
_NOTHING = Selection("TaskPayload", ())


async def user_with_email(database: Database, email: str) -> tuple[UUID, bool]:
    """The user of an address, made if there is none, and whether it was made."""
    new = insert(User).values(email=bindparam("email")).on_conflict_do_nothing().returning(User.id)
    async with database.engine.begin() as connection:
        made = (await connection.execute(new, {"email": email})).scalar_one_or_none()
        if made is not None:
            return made, True
        return (await connection.execute(select(User.id).where(User.email == email))).scalar_one(), False


async def provision(database: Database, principal: Principal, claims: Mapping[str, Any]) -> None:
    """The row of a token's user, made if there is none; Unauthenticated when another user has the token's address.

    Two users are never made one because of an address. An address that its issuer has not verified, or none, is
    stored as one that cannot be: it must not keep out whoever it belongs to.
    """
    values = _profile(principal, claims)
    # Who loses a race against another first token does not see the winner's row in the same snapshot.
    for _ in range(2):
        if await database.read(principal.user_id, PROVISION, values) is not None:
            return
    raise Unauthenticated("Another account has the email address of this token; accounts are never merged by it.")


def _provision() -> Statement:
    columns = [User.id, User.email, User.email_verified, User.name]
    row = {column.name: bindparam(column.name, type_=column.type) for column in columns}
    made = insert(User).values(row).on_conflict_do_nothing().returning(User.id).cte("made")
    known = select(cast(User.id, Text)).where(User.id == row["id"])
    return compiled(union_all(select(cast(made.c.id, Text)), known))


PROVISION = _provision()


def _profile(principal: Principal, claims: Mapping[str, Any]) -> dict[str, Any]:
    email = (_line(claims.get("email")) or "").lower()
    verified = claims.get("email_verified")
    if not _ADDRESS.fullmatch(email) or verified is False:
        email, verified = f"{principal.user_id}@{NO_EMAIL}", False
    return {
        "id": principal.user_id,
        "email": email,
        "email_verified": verified is True,
        "name": _line(claims.get("name")),
    }


def _line(value: object) -> str | None:
    """A claim that is a line of text which can be stored."""
    fits = isinstance(value, str) and 0 < len(value) <= LONGEST_LINE and value.isprintable()
    return str(value) if fits else None


async def demo_user(database: Database) -> UUID:
    """The demo user; with a few tasks when it is new."""
    user_id, is_new = await user_with_email(database, DEMO_EMAIL)
    if is_new:
        tasks = Tasks(database, user_id, Statements())
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
