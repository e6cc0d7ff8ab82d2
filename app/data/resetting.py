"""Deletes all users with all of their data, for development. Refuses a database on another machine."""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

import asyncpg
from sqlalchemy import String, cast, func, select, text
from sqlalchemy.exc import DBAPIError

from app.database.failures import driver_error
from app.database.sessions import refuse_hidden_users
from app.database.transfers import Transfers
from app.database.url import DatabaseURL
from app.errors import StartupError
from app.models import USERS
from app.settings import LOOPBACK

# Every table that TRUNCATE … CASCADE empties: those with a foreign key to `users`, or to one of these.
_EMPTIED = text("""
    WITH RECURSIVE emptied AS (
        SELECT 'public.users'::regclass AS name
        UNION SELECT conrelid::regclass FROM pg_constraint JOIN emptied ON confrelid = emptied.name WHERE contype = 'f'
    )
    SELECT name::text FROM emptied JOIN pg_class ON pg_class.oid = name WHERE NOT relispartition ORDER BY 1
""")


class Target(NamedTuple):
    """A database on this machine, and what a reset would delete.

    `is_forwarded` means that PostgreSQL itself runs under another address, as in a container, or behind a tunnel.
    """

    database: str
    users: int
    tables: Sequence[str]
    is_forwarded: bool


def refuse_remote(url: DatabaseURL) -> None:
    """Raise StartupError unless a URL names this machine."""
    if not (url.host.startswith("/") or not url.host or _is_loopback(url.host)):
        raise StartupError(
            f"{url.variable} names the host {url.host}. `taskql reset` is for development, and accepts only a database"
            " on this machine: a Unix socket, localhost or a loopback address."
        )


def _is_loopback(host: str) -> bool:
    try:
        return host in LOOPBACK or ip_address(host).is_loopback
    except ValueError:
        return False


async def inspect(transfers: Transfers, url: DatabaseURL) -> Target:
    """What a reset would delete. Raises StartupError for a database on another machine."""
    refuse_remote(url)
    async with transfers.session(None) as session:
        await refuse_hidden_users(session)
        address = await session.scalar(select(cast(func.host(func.inet_server_addr()), String)))
        # Without a host, the driver may take one from PGHOST.
        if not url.host and address is not None and not _is_loopback(address):
            raise StartupError(f"{url.variable} names no host, and the driver connected to {address}. Name the host.")
        return Target(
            await session.scalar(select(func.current_database())) or "",
            await session.scalar(select(func.count()).select_from(USERS)) or 0,
            (await session.scalars(_EMPTIED)).all(),
            is_forwarded=address is not None and not _is_loopback(address),
        )


async def empty(transfers: Transfers) -> None:
    """Delete all users, and all rows that refer to them."""
    async with transfers.session(None) as session:
        try:
            await session.execute(text("TRUNCATE public.users CASCADE"))
        except DBAPIError as error:
            raise _refused(error) from None


def _refused(error: DBAPIError) -> Exception:
    cause: Any = driver_error(error)
    if isinstance(cause, asyncpg.InsufficientPrivilegeError):
        return StartupError(f"Nothing was deleted: {cause}. DATABASE_OWNER_URL must be the owner of these tables.")
    return error
