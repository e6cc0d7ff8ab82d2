"""Imports lists and tasks into an account, in one write: everything that is not there yet, or nothing.

A row whose id the account has is left as it is, so an import can be repeated. A file is an export (see `lines`) or
Todoist's CSV (see `todoist`).
"""

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Uuid, any_, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from app.data import exporting, todoist
from app.data.lines import ANY, Line, ListLine, Numbered, TaskLine, Wrong, columns, current, parsed
from app.data.rows import KINDS, Progress, Row, write
from app.database.transfers import Transfers
from app.entities.entity import Entity
from app.errors import StartupError
from app.tasks import clocks
from app.tasks.fields import TASK
from app.tasks.lists import LIST

MOST_SHOWN = 20


class Refused(StartupError):
    """The file cannot be imported. `wrong` says why, for each line."""

    def __init__(self, wrong: Sequence[Wrong]) -> None:
        lines = "1 problem" if len(wrong) == 1 else f"{len(wrong):,} problems"
        super().__init__(f"Nothing was imported: the file has {lines}. Correct it and import it again.")
        self.wrong = wrong


class Source(NamedTuple):
    """The lists and tasks of a file, and what of it cannot be represented."""

    lines: Sequence[Numbered]
    notes: Sequence[Wrong] = ()


@dataclass
class Imported:
    """What an import has written. `known` are the lines with ids that the account has, `differing` some of these."""

    lists: int
    tasks: int
    known: Sequence[Numbered]
    differing: Sequence[Numbered]


class _Undone(Exception):
    """Rolls back a dry run."""


def read(content: bytes, owner: UUID, name: str) -> Source:
    """The lists and tasks of a file. Raises Refused if it is not valid.

    Rows of Todoist's CSV have no ids; they get ids by the owner, the `name` of their list, and their content.
    """
    content = content.removeprefix(codecs.BOM_UTF8)
    if todoist.is_template(content):
        lines, notes, wrong = todoist.parsed(content, owner, name)
    else:
        lines, wrong = parsed(content.split(b"\n"))
        notes = []
    wrong += _repeated(lines, owner)
    if wrong:
        raise Refused(wrong)
    return Source(lines, notes)


def _repeated(lines: Iterable[Numbered], owner: UUID) -> Iterator[Wrong]:
    first = dict[UUID, int]()
    for number, line in lines:
        if line.id in first:
            yield Wrong(number, "id", f"line {first[line.id]} has this id, too; each needs its own")
        if line.id == owner:
            yield Wrong(number, "id", "this is the id of the account; choose another one")
        first.setdefault(line.id, number)


async def import_(  # noqa: PLR0913 - what, where, and how
    transfers: Transfers,
    owner: UUID,
    lines: Sequence[Numbered],
    quotas: Mapping[str, int],
    progress: Progress,
    *,
    dry_run: bool,
) -> Imported:
    """Write the lines that the account does not have yet. Raises Refused or StartupError if one cannot be written."""
    found = Imported(0, 0, [], [])
    with suppress(_Undone):
        async with transfers.session(owner) as session:
            await clocks.locked(session, owner)
            here = await _Account.read(session, owner, lines)
            found = Imported(0, 0, *await _known(session, owner, lines, here))
            rows = _rows(lines, here)
            await write(session, owner, rows, quotas, progress)
            found.lists, found.tasks = len(rows[LIST]), len(rows[TASK])
            if dry_run:
                raise _Undone
    return found


class _Account(NamedTuple):
    """The rows of the account that a file names: their entity, and whether they are in the trash."""

    kinds: Mapping[UUID, Entity]
    trashed: frozenset[UUID]

    @classmethod
    async def read(cls, session: AsyncSession, owner: UUID, lines: Sequence[Numbered]) -> "_Account":
        ids = {each.line.id for each in lines}
        ids |= {each.line.list_id for each in lines if isinstance(each.line, TaskLine) and each.line.list_id}
        kinds, trashed = dict[UUID, Entity](), set[UUID]()
        for entity in KINDS:
            row = entity.table.c
            named = row.id == any_(literal(list(ids), ARRAY(Uuid)))
            rows = await session.execute(select(row.id, row.deleted_at).where(row.user_id == owner, named))
            for row_id, deleted_at in rows:
                kinds[row_id] = entity
                trashed |= {row_id} if deleted_at else set()
        return cls(kinds, frozenset(trashed))


async def _known(
    session: AsyncSession, owner: UUID, lines: Sequence[Numbered], here: _Account
) -> tuple[list[Numbered], list[Numbered]]:
    """The lines of rows that the account has, and those of them that differ from the row."""
    known = [each for each in lines if here.kinds.get(each.line.id) is each.line.entity]
    present = dict[UUID, Line]()
    for entity in KINDS:
        ids = [each.line.id for each in known if each.line.entity is entity]
        named = entity.table.c.id == any_(literal(ids, ARRAY(Uuid)))
        for text in await session.scalars(exporting.lines(entity, owner).where(named)):
            with suppress(ValidationError):  # such as a date that only PostgreSQL can represent
                line = ANY.validate_json(text)
                present |= {line.id: line} if isinstance(line, Line) else {}
    return known, [each for each in known if _differs(each.line, present.get(each.line.id))]


def _differs(given: Line, there: Line | None) -> bool:
    """Whether a line gives a field another value than the row has."""
    return any(getattr(given, name) != getattr(there, name, None) for name in given.model_fields_set)


def _rows(lines: Sequence[Numbered], here: _Account) -> dict[Entity, list[Row]]:
    """The rows to write. Raises Refused with everything that is wrong with their lines."""
    rows: dict[Entity, list[Row]] = {entity: [] for entity in KINDS}
    trashed = _trashed_lists(lines, here)
    wrong, now = list[Wrong](), current()
    for each in lines:
        kind = here.kinds.get(each.line.id)
        if kind is each.line.entity:
            continue
        row, problems = columns(each, now)
        rows[each.line.entity].append(row)
        wrong += [*problems, *_misplaced(each, kind, trashed)]
    if wrong:
        raise Refused(wrong)
    return rows


def _trashed_lists(lines: Iterable[Numbered], here: _Account) -> dict[UUID, bool]:
    """All lists that tasks of the file can be in, and whether they are in the trash."""
    given = {each.line.id: each.line.deleted_at is not None for each in lines if isinstance(each.line, ListLine)}
    return given | {row_id: row_id in here.trashed for row_id, kind in here.kinds.items() if kind is LIST}


def _misplaced(each: Numbered, kind: Entity | None, trashed: Mapping[UUID, bool]) -> Iterator[Wrong]:
    """What is wrong with a line in relation to others. `kind` is what the account has with the line's id."""
    number, line = each
    if kind is not None:
        yield Wrong(number, "id", f"the account has a {kind.one} with this id; remove the line, or change the id")
    if not isinstance(line, TaskLine):
        return
    in_trash = None if line.list_id is None else trashed.get(line.list_id)
    if line.list_id is not None and in_trash is None:
        yield Wrong(number, "listId", "neither the file nor the account has this list; add it, or remove the field")
    elif in_trash and line.deleted_at is None:
        yield Wrong(number, "listId", "this list is in the trash, and the task is not; restore the list first")
    if line.trashed_with_list and not (in_trash and line.deleted_at):
        yield Wrong(number, "trashedWithList", "the task and its list must be in the trash; set it to false")


def summary(found: Imported, *, dry_run: bool) -> list[str]:
    """What an import has done, in sentences."""
    verb = "Would import" if dry_run else "Imported"
    said = [f"{verb} {found.lists:,} lists and {found.tasks:,} tasks."]
    if found.known:
        said.append(f"{len(found.known):,} were there already, by their ids, and were left as they are.")
    if found.differing:
        numbers = ", ".join(str(each.number) for each in found.differing[:MOST_SHOWN])
        more = ", …" if len(found.differing) > MOST_SHOWN else ""
        said.append(f"{len(found.differing):,} of these differ from the file, in lines {numbers}{more}.")
    return said
