"""Users that TaskQL makes: from the command line, for the demo, and for tokens of issuers with users of their own."""

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Text, Uuid, column, func, literal, select

from app.database.database import Database
from app.identity.tokens import Principal
from app.tasks import demo

DEMO_EMAIL = "demo@example.com"
# A domain that can never be (RFC 6761), for users whose token has no address. `provision_user` knows it, too.
NO_EMAIL = "users.invalid"
LONGEST_LINE = 255
# Nobody may take the address that another user without one will get.
_ADDRESS = re.compile(rf"[^@\s]+@(?!{re.escape(NO_EMAIL)}$)[^@\s]+")


async def user_with_email(database: Database, email: str) -> tuple[UUID, bool]:
    """The user of an address, made if there is none, and whether it was made."""
    found = func.user_with_email(literal(email, Text)).table_valued(column("user_id", Uuid), column("is_new", Boolean))
    async with database.session(None) as session:
        user_id, is_new = (await session.execute(select(found.c.user_id, found.c.is_new))).one()
    return user_id, is_new


async def provision(database: Database, principal: Principal, claims: Mapping[str, Any]) -> None:
    """Make the row of a token's user, if there is none.

    Users are never merged because of an address. An address that the issuer has not verified, or that another user
    has, is not stored: it must not keep its owner out. `ID@users.invalid` stands in for it until a token brings a
    verified address that is free.
    """
    async with database.session(principal.user_id) as session:
        values = (literal(value, Text) for value in _profile(claims))
        await session.execute(select(func.provision_user(principal.user_id, *values)))


def _profile(claims: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The address and the name that claims give, each if it can be stored."""
    email = (_line(claims.get("email")) or "").lower()
    usable = _is_verified(claims) and _ADDRESS.fullmatch(email)
    return email if usable else None, _line(claims.get("name"))


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
        await demo.fill(database, user_id)
    return user_id
