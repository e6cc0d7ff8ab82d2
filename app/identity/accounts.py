"""Creates users: for the command line, for the demo, and for tokens of issuers that manage users elsewhere."""

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Text, Uuid, column, func, literal, select

from app.database.database import Database
from app.identity.tokens import Principal
from app.tasks import demo

DEMO_EMAIL = "demo@example.com"
# A reserved domain (RFC 6761) for users whose token has no email address. Also in the SQL function `provision_user`.
NO_EMAIL = "users.invalid"
LONGEST_LINE = 255
# Addresses in NO_EMAIL are rejected, as they are reserved for users without an address.
_ADDRESS = re.compile(rf"[^@\s]+@(?!{re.escape(NO_EMAIL)}$)[^@\s]+")


async def user_with_email(database: Database, email: str) -> tuple[UUID, bool]:
    """The user with an email address, created if there is none, and whether it was created."""
    found = func.user_with_email(literal(email, Text)).table_valued(column("user_id", Uuid), column("is_new", Boolean))
    async with database.session(None) as session:
        user_id, is_new = (await session.execute(select(found.c.user_id, found.c.is_new))).one()
    return user_id, is_new


async def provision(database: Database, principal: Principal, claims: Mapping[str, Any]) -> None:
    """Create the row of a token's user, if there is none.

    Users are never merged by address. An address that the issuer has not verified, or that another user has, is not
    stored, so that it cannot lock out its owner. `ID@users.invalid` is stored instead, until a token contains a
    verified address that is not in use.
    """
    async with database.session(principal.user_id) as session:
        values = (literal(value, Text) for value in _profile(claims))
        await session.execute(select(func.provision_user(principal.user_id, *values)))


def _profile(claims: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The email address and the name in the claims, each None if it is missing or cannot be stored."""
    email = (_line(claims.get("email")) or "").lower()
    usable = _is_verified(claims) and _ADDRESS.fullmatch(email)
    return email if usable else None, _line(claims.get("name"))


def _is_verified(claims: Mapping[str, Any]) -> bool:
    """Whether all claims about it say that the address is verified.

    Some issuers write the Boolean as a string, and Better Auth names the claim in camel case.
    """
    said = [claims[name] for name in ("email_verified", "emailVerified") if name in claims]
    return bool(said) and all(value is True or value == "true" for value in said)


def _line(value: object) -> str | None:
    """A claim, if it is a line of text that can be stored, otherwise None."""
    fits = isinstance(value, str) and 0 < len(value) <= LONGEST_LINE and value.isprintable()
    return str(value) if fits else None


async def demo_user(database: Database) -> UUID:
    """The demo user, created with a few tasks if there is none."""
    user_id, is_new = await user_with_email(database, DEMO_EMAIL)
    if is_new:
        await demo.fill(database, user_id)
    return user_id
