"""Finds and deletes users, as the owner of the tables, who sees all of them."""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, Text, cast, column, delete, func, literal, or_, select, table, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.sessions import refuse_hidden_users
from app.database.transfers import Transfers
from app.errors import StartupError
from app.models import Task, TaskClock, TaskList, User
from app.tasks import clocks

BATCH = 1000
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# The foreign keys to `users` of one column: what follows a user's deletion, also in tables of Better Auth and others.
_REFERENCES = text("""
    SELECT conrelid::regclass::text AS name, relname, nspname, attname, confdeltype
    FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
    JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
    WHERE contype = 'f' AND confrelid = 'public.users'::regclass AND conparentid = 0 AND cardinality(conkey) = 1
    AND NOT relispartition ORDER BY 1
""")
_FOLLOWS = {"c": "deleted with the user", "n": "kept without the user", "d": "kept with another user"}


class Account(NamedTuple):
    """A user."""

    id: UUID
    email: str
    name: str | None
    created_at: datetime


class Size(NamedTuple):
    """The numbers of a user's rows."""

    lists: int
    tasks: int
    completed: int
    trash: int
    version: int


class Reference(NamedTuple):
    """The rows of a table that refer to a user, and what happens to them when the user is deleted."""

    table: str
    rows: int
    fate: str


_ACCOUNT = (User.id, User.email, User.name, User.created_at)


async def all_users(transfers: Transfers) -> AsyncIterator[Account]:
    """All users, the oldest first."""
    async with transfers.session(None, reading=True) as session:
        await refuse_hidden_users(session)
        ordered = select(*_ACCOUNT).order_by(User.created_at, User.id)
        async for row in await session.stream(ordered, execution_options={"yield_per": BATCH}):
            yield Account(*row)


async def matching(transfers: Transfers, words: str, most: int) -> Sequence[Account]:
    """Users with an id, or with an address or a name that contains these words."""
    contains = [part.icontains(words, autoescape=True) for part in (User.email, User.name)]
    found = select(*_ACCOUNT).where(or_(cast(User.id, Text) == words.lower(), *contains))
    async with transfers.session(None) as session:
        await refuse_hidden_users(session)
        rows = await session.execute(found.order_by(User.created_at, User.id).limit(most))
        return [Account(*row) for row in rows]


async def known(transfers: Transfers, user: str) -> Account:
    """The user with an email address or an id. Raises StartupError if there is none.

    As at sign-in, an address is found in lower case, too.
    """
    if _UUID.fullmatch(user):
        found = select(*_ACCOUNT).where(User.id == UUID(user))
    else:
        address = literal(user, Text)
        same = User.email.in_([address, func.lower(address)])
        found = select(*_ACCOUNT).where(same).order_by((User.email == address).desc()).limit(1)
    async with transfers.session(None) as session:
        await refuse_hidden_users(session)
        row = (await session.execute(found)).one_or_none()
    if row is None:
        raise StartupError(f"There is no user {user!r}. `taskql users find` searches for a part of the address.")
    return Account(*row)


async def size(transfers: Transfers, owner: UUID) -> Size:
    """How much data a user has."""
    counted: list[Select[int]] = [
        _count(TaskList),
        _count(Task),
        _count(Task).where(Task.completed),
        _count(Task).where(Task.deleted_at.is_not(None)),
        select(func.coalesce(func.max(TaskClock.version), 0)).where(TaskClock.user_id == owner),
    ]
    async with transfers.session(owner) as session:
        return Size(*[await session.scalar(each) or 0 for each in counted])


def _count(kind: type[Task] | type[TaskList]) -> Select[int]:
    return select(func.count()).select_from(kind)


async def delete_user(transfers: Transfers, owner: UUID, *, dry_run: bool) -> list[Reference]:
    """Delete a user with all rows that refer to the user. Returns what is deleted. A dry run deletes nothing.

    Raises StartupError if rows of another table prevent it.
    """
    async with transfers.session(owner) as session:
        await clocks.locked(session, owner)  # before anything else, as the user's own writes
        found = [each async for each in _references(session, owner)]
        blocking = [each.table for each in found if each.fate not in _FOLLOWS.values() and each.rows]
        if blocking:
            raise StartupError(
                f"Nothing was deleted: rows of {', '.join(blocking)} refer to the user. Delete them first."
            )
        if dry_run:
            await session.rollback()
        else:
            await session.execute(
                delete(User).where(User.id == owner), execution_options={"synchronize_session": False}
            )
    return found


async def _references(session: AsyncSession, owner: UUID) -> AsyncIterator[Reference]:
    for row in (await session.execute(_REFERENCES)).mappings().all():
        referring = table(row["relname"], column(row["attname"]), schema=row["nspname"])
        rows = select(func.count()).select_from(referring).where(referring.c[row["attname"]] == owner)
        fate = _FOLLOWS.get(row["confdeltype"].decode(), "in the way of deleting the user")
        yield Reference(row["name"], await session.scalar(rows) or 0, fate)


def printable(value: str | None) -> str:
    """Text of users for a terminal, which could take control characters for commands."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in value or "")


def described(account: Account, counts: Size) -> Iterator[tuple[str, Any]]:
    """What `taskql users find` shows of a user."""
    yield "id", account.id
    yield "email", printable(account.email)
    yield "name", printable(account.name)
    yield "created", account.created_at.isoformat(timespec="seconds")
    yield "lists", f"{counts.lists:,}"
    yield "tasks", f"{counts.tasks:,}, {counts.completed:,} of them completed, {counts.trash:,} in the trash"
    yield "clock", f"{counts.version:,}"
