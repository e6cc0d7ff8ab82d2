"""Users that TaskQL makes: from the command line, for the demo, and for tokens of issuers with users of their own."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Text, Uuid, bindparam, column, func, select

from app.database.compiling import Statements
from app.database.database import Database
from app.database.rendering import Selection
from app.database.statements import Statement, compiled
from app.identity.tokens import Principal
from app.models import PRIORITIES
from app.tasks.repository import Tasks

DEMO_EMAIL = "demo@example.com"
# A domain that can never be (RFC 6761), for users whose token has no address. `provision_user` knows it, too.
NO_EMAIL = "users.invalid"
LONGEST_LINE = 255
# Nobody may take the address that another user without one will get.
_ADDRESS = re.compile(rf"[^@\s]+@(?!{re.escape(NO_EMAIL)}$)[^@\s]+")
_NOTHING = Selection("TaskPayload", ())


async def user_with_email(database: Database, email: str) -> tuple[UUID, bool]:
    """The user of an address, made if there is none, and whether it was made."""
    async with database.engine.begin() as connection:
        found = (await connection.execute(_USER_WITH_EMAIL, {"email": email})).one()
    return found.user_id, found.is_new


_found = func.user_with_email(bindparam("email", type_=Text)).table_valued(
    column("user_id", Uuid), column("is_new", Boolean)
)
_USER_WITH_EMAIL = select(_found.c.user_id, _found.c.is_new)


async def provision(database: Database, principal: Principal, claims: Mapping[str, Any]) -> None:
    """Make the row of a token's user, if there is none.

    Users are never merged because of an address. An address that the issuer has not verified, or that another user
    has, is not stored: it must not keep its owner out. `ID@users.invalid` stands in for it until a token brings a
    verified address that is free.
    """
    await database.read(principal.user_id, PROVISION, _profile(principal, claims))


def _provision() -> Statement:
    types = {"id": Uuid, "email": Text, "name": Text}
    made = func.provision_user(*(bindparam(name, type_=type_) for name, type_ in types.items()))
    return compiled(select(made))


PROVISION = _provision()


def _profile(principal: Principal, claims: Mapping[str, Any]) -> dict[str, Any]:
    email = (_line(claims.get("email")) or "").lower()
    usable = _is_verified(claims) and _ADDRESS.fullmatch(email)
    return {"id": principal.user_id, "email": email if usable else None, "name": _line(claims.get("name"))}


def _is_verified(claims: Mapping[str, Any]) -> bool:
    """Whether the issuer says that the address was verified, and nothing else besides.

    Some write the truth value as text. Better Auth's own payload spells the claim in its way.
    """
    said = [claims[name] for name in ("email_verified", "emailVerified") if name in claims]
    return bool(said) and all(value is True or value == "true" for value in said)


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
