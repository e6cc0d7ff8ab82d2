"""Reads Todoist's CSV, which it exports for each project: "Export as a template" and backups.

The project becomes a list, and so does each section. Labels become tags, comments become part of the description.
Everything else that TaskQL does not have is reported: sub-tasks become tasks, and dates that are phrases, such as
"every day", are left out.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime
from uuid import UUID, uuid5

from app.data.lines import ListLine, Numbered, Priority, TaskLine, Wrong
from app.models import DESCRIPTION_LENGTH

PRIORITIES: Mapping[str, Priority] = {"": "NONE", "1": "URGENT", "2": "HIGH", "3": "MEDIUM", "4": "NONE"}
# A file has the name of its project, and often the project's id.
_PROJECT_ID = re.compile(r"\s*\[[^\[\]]*\]$")
_LABEL = re.compile(r"(?:^|(?<=\s))@(\S+)")
_ISO = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[T ].*)?")
# Always in English, as strptime has it without a locale.
_DATES = ("%b %d %Y", "%d %b %Y", "%B %d %Y", "%d %B %Y")
_IGNORED = {"", "meta"}

Cells = Mapping[str, str]


def is_template(content: bytes) -> bool:
    """Whether a file is in this format."""
    head = content[:6].upper().removeprefix(b'"')
    return head.startswith(b"TYPE")


def project(name: str) -> str:
    """The name of a project, from that of its file without the extension."""
    return _PROJECT_ID.sub("", name).strip() or name


def parsed(content: bytes, owner: UUID, name: str) -> tuple[list[Numbered], list[Wrong], list[Wrong]]:
    """The lists and tasks of a file, notes of what is left out, and everything that is wrong with the file.

    Ids are derived from the user, the name of the list and the content, so that the same file gives the same ids.
    """
    reading = _Reading(owner, name)
    try:
        for number, cells in _records(content.decode()):
            reading.take(number, cells)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        reading.wrong.append(Wrong(line, "", "this is not UTF-8; save the file in this encoding"))
    except csv.Error as error:
        reading.wrong.append(Wrong(1, "", f"this is not valid CSV: {error}"))
    return reading.lines, reading.notes, reading.wrong


def _records(text: str) -> Iterator[tuple[int, Cells]]:
    """The records with the numbers of their first lines. A record can have several lines."""
    rows = csv.reader(text.splitlines(keepends=True), strict=True)
    names = [name.strip().upper() for name in next(rows)]
    after = rows.line_num
    for row in rows:
        yield after + 1, dict(zip(names, map(str.strip, row), strict=False))
        after = rows.line_num


class _Reading:
    """The state of reading a file."""

    def __init__(self, owner: UUID, name: str) -> None:
        self._owner, self._project = owner, name
        self.lines, self.notes, self.wrong = list[Numbered](), list[Wrong](), list[Wrong]()
        self._list_name, self._lists = name, dict[str, UUID]()
        self._seen = Counter[tuple[str, str]]()
        # The last record, if it is a task: comments belong to it.
        self._has_task = False

    def take(self, number: int, cells: Cells) -> None:
        kind = cells.get("TYPE", "")
        if kind == "task":
            self._task(number, cells)
        elif kind == "section":
            self._list_name, self._has_task = f"{self._project}: {cells.get('CONTENT', '')}", False
        elif kind == "note" and self._has_task:
            self._comment(number, cells.get("CONTENT", ""))
        elif kind in {"note", "project_note"}:
            self.notes.append(Wrong(number, "TYPE", "comments on projects and sections are not imported"))
        elif kind not in _IGNORED:
            self.wrong.append(Wrong(number, "TYPE", "this must be task, section, note or meta"))

    def _task(self, number: int, cells: Cells) -> None:
        self._has_task = False
        priority = PRIORITIES.get(cells.get("PRIORITY", ""))
        if priority is None:
            self.wrong.append(Wrong(number, "PRIORITY", "this must be 1, 2, 3 or 4"))
            return
        if cells.get("INDENT", "1") not in {"", "1"}:
            self.notes.append(Wrong(number, "INDENT", "the sub-task becomes a task of the list"))
        content = cells.get("CONTENT", "")
        title = " ".join(_LABEL.sub("", content).split())
        task = TaskLine(
            id=self._id("task", content),
            title=title or " ".join(content.split()),
            description=cells.get("DESCRIPTION") or None,
            priority=priority,
            due_date=self._day(number, cells),
            tags=list(dict.fromkeys(_LABEL.findall(content))) if title else [],
            list_id=self._list(number),
        )
        self.lines.append(Numbered(number, task))
        self._has_task = True

    def _comment(self, number: int, text: str) -> None:
        place, task = self.lines[-1]
        assert isinstance(task, TaskLine)  # noqa: S101 - as _has_task says
        description = "\n\n".join(filter(None, [task.description, text]))
        if len(description) > DESCRIPTION_LENGTH:
            most = f"{DESCRIPTION_LENGTH:,} characters"
            self.notes.append(Wrong(number, "CONTENT", f"the comment does not fit the description, of {most}"))
            return
        self.lines[-1] = Numbered(place, task.model_copy(update={"description": description}))

    def _day(self, number: int, cells: Cells) -> date | None:
        given = {name: cells[name] for name in ("DATE", "DUE_DATE", "DEADLINE") if cells.get(name)}
        days = {name: day for name, text in given.items() if (day := _date(text))}
        for name in given:
            if name not in days:
                text = "this is a phrase instead of a date such as 2026-05-31, and was left out"
                self.notes.append(Wrong(number, name, text))
        first, *others = days or [""]
        for name in others:
            self.notes.append(Wrong(number, name, f"a task has one date: {first}"))
        if first and len(given[first]) > len("2026-05-31") and _ISO.fullmatch(given[first]):
            self.notes.append(Wrong(number, first, "the time of day was left out"))
        return days.get(first)

    def _list(self, number: int) -> UUID:
        name = self._list_name
        if name not in self._lists:
            self._lists[name] = self._id("list", "")
            self.lines.append(Numbered(number, ListLine(id=self._lists[name], name=name)))
        return self._lists[name]

    def _id(self, kind: str, content: str) -> UUID:
        """The id of a list, or of a task among those with the same content in its list."""
        key = (self._list_name, content)
        self._seen[key] += kind == "task"
        return uuid5(self._owner, json.dumps([kind, *key, self._seen[key] if kind == "task" else 0]))


def _date(text: str) -> date | None:
    """A date that is written out; None for a phrase, or a date without its year."""
    iso = _ISO.fullmatch(text)
    with suppress(ValueError):
        if iso:
            return date.fromisoformat(iso[1])
    for pattern in _DATES:
        with suppress(ValueError):
            return datetime.strptime(text.replace(",", ""), pattern).date()  # noqa: DTZ007 - a day has no zone
    return None
