"""Imports of Todoist's CSV: what becomes of its projects, sections, labels, comments and dates."""

from datetime import date
from uuid import UUID, uuid4

import pytest
from conftest import Server, User
from test_data import TASKS, imported

from app.data import importing, todoist
from app.data.importing import Refused
from app.data.lines import ListLine, TaskLine
from app.database.transfers import Transfers
from app.database.url import DatabaseURL

OWNER = UUID(int=1)
HEADER = "TYPE,CONTENT,DESCRIPTION,PRIORITY,INDENT,AUTHOR,RESPONSIBLE,DATE,DATE_LANG,TIMEZONE,DURATION,UNIT,DEADLINE"
PROJECT = f"""{HEADER}
meta,view_style=list,,,,,,,,,,,
task,Mow the lawn @garden @weekend,"Front,
and back",1,1,Ada (1),,2026-05-31,en,Europe/Berlin,,None,
note,"Borrow the ""good"" mower",,,,Ada (1),,2026-01-01T10:00:00Z,,,,,
task,Buy seeds,,4,2,Ada (1),,every spring,en,,,,
,,,,,,,,,,,,
section,Pond,,,,,,,,,,,
task,Clean the filter,,3,1,Ada (1),,May 9 2026,en,,,,2026-06-01
task,Mail ada@example.com @ noon,,2,1,,,2026-06-02 12:00,en,,,,
task,Buy seeds,,,,,,,,,,,1 Dec 2026
task,Buy seeds,,,,,,,,,,,
"""


def read(text: str | bytes, name: str = "Garden") -> importing.Source:
    return importing.read(text if isinstance(text, bytes) else text.encode(), OWNER, name)


def tasks(source: importing.Source) -> list[TaskLine]:
    return [each.line for each in source.lines if isinstance(each.line, TaskLine)]


def test_a_project() -> None:
    """A project and its sections become lists, labels become tags, comments part of the description."""
    source = read(PROJECT)
    lists = {each.line.id: each.line.name for each in source.lines if isinstance(each.line, ListLine)}
    mow, seeds, clean, mail, *same = tasks(source)

    assert [lists[each.list_id] for each in tasks(source) if each.list_id] == ["Garden"] * 2 + ["Garden: Pond"] * 4
    assert (mow.title, mow.tags, mow.priority) == ("Mow the lawn", ["garden", "weekend"], "URGENT")
    assert mow.description == 'Front,\nand back\n\nBorrow the "good" mower'
    assert (mow.due_date, seeds.due_date, clean.due_date) == (date(2026, 5, 31), None, date(2026, 5, 9))
    assert (mail.title, mail.tags, mail.due_date) == ("Mail ada@example.com @ noon", [], date(2026, 6, 2))
    assert [each.priority for each in (seeds, clean, mail, same[0])] == ["NONE", "MEDIUM", "HIGH", "NONE"]
    assert same[0].due_date == date(2026, 12, 1)


def test_what_is_left_out_is_reported() -> None:
    """Everything that TaskQL does not have is reported with the line in the file, and without its text."""
    notes = [str(note) for note in read(PROJECT).notes]

    assert notes == [
        "line 6: INDENT: the sub-task becomes a task of the list",
        "line 6: DATE: this is a phrase instead of a date such as 2026-05-31, and was left out",
        "line 9: DEADLINE: a task has one date: DATE",
        "line 10: DATE: the time of day was left out",
    ]
    more = f"{HEADER}\nproject_note,Hello\nsection,S\nnote,Hello\ntask,T\nnote,{'x' * 4001}\n"
    assert [(note.number, note.field) for note in read(more).notes] == [(2, "TYPE"), (4, "TYPE"), (6, "CONTENT")]


@pytest.mark.parametrize("text", ["today", "5 May", "2026-13-01", "31.05.2026", "every! 3 days", "05/06/2026"])
def test_dates_that_are_phrases(text: str) -> None:
    """Only a date with its year is taken; a date with the month as a number first or last is ambiguous."""
    source = read(f"{HEADER}\ntask,T,,,,,,{text}\n")

    assert tasks(source)[0].due_date is None
    assert [note.field for note in source.notes] == ["DATE"]


def test_ids_are_those_of_the_content() -> None:
    """The same file gives the same ids; equal tasks of a list differ; another list or user gives others."""
    first, again = read(PROJECT), read(PROJECT.replace("\n", "\r\n"))
    ids = [each.line.id for each in first.lines]

    assert ids == [each.line.id for each in again.lines]
    assert len(set(ids)) == len(ids)
    others = [*read(PROJECT, "Other").lines, *importing.read(PROJECT.encode(), uuid4(), "Garden").lines]
    assert not set(ids) & {each.line.id for each in others}
    longer = read(PROJECT.replace("task,Buy seeds,,4", "task,New one\ntask,Buy seeds,,4"))
    assert set(ids) < {each.line.id for each in longer.lines}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}\ntodo,T\n", "line 2: TYPE: "),
        (f"{HEADER}\ntask,T,,5\n", "line 2: PRIORITY: this must be 1, 2, 3 or 4"),
        (f'{HEADER}\ntask,"T\n', "not valid CSV"),
        (f"{HEADER}\ntask,ok\ntask,".encode() + b"\xff\n", "line 3: this is not UTF-8"),
    ],
)
def test_bad_files(text: str | bytes, message: str) -> None:
    """Each problem has its line and column."""
    with pytest.raises(Refused) as refused:
        read(text)

    assert message in str(refused.value.wrong[0])


def test_names_of_files() -> None:
    """A file is named after its project, and in a backup with the project's id."""
    assert todoist.project("Home [2203306141]") == "Home"
    assert todoist.project("[1]") == "[1]"
    assert [each.line.id for each in read("\ufeff" + PROJECT).lines] == [each.line.id for each in read(PROJECT).lines]


async def test_into_an_account(server: Server, settings: object, alice: User, bob: User) -> None:
    """The tasks are in the order of the file. A second import finds them all; a too long title imports nothing."""
    del settings
    async with Transfers(DatabaseURL(server.app_url)) as transfers:
        assert (await imported(transfers, alice.id, PROJECT.encode())).tasks == 6
        again = await imported(transfers, alice.id, PROJECT.encode())
        assert (again.tasks, len(again.known), again.differing) == (0, 8, [])
        with pytest.raises(Refused) as refused:
            await imported(transfers, bob.id, f"{PROJECT}task,{'x' * 300}\n".encode())
    assert "line 13: title: The title has 300 characters" in str(refused.value.wrong[0])

    found = await alice.data(TASKS)
    assert [node["title"] for node in found["tasks"]["nodes"]][:3] == ["Mow the lawn", "Buy seeds", "Clean the filter"]
    assert found["viewer"]["taskStats"] == {"total": 6, "open": 6}
    assert (await bob.data(TASKS))["tasks"]["nodes"] == []
