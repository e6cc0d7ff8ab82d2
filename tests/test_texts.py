"""What titles, descriptions, tags and names may contain: the same in every write, in imports, and in SQL."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import ON_CLUSTER, Server, User, connect

from app.data import importing
from app.data.importing import Refused
from app.database.transfers import Transfers
from app.database.url import DatabaseURL
from migrations.run import migrate

Write = Callable[[User, str, str], Awaitable[list[dict[str, Any]]]]

ERRORS = "userErrors { code field }"
CREATE = f"mutation ($input: CreateTaskInput!) {{ written: createTask(input: $input) {{ {ERRORS} }} }}"
CREATE_MANY = f"mutation ($inputs: [CreateTaskInput!]!) {{ written: createTasks(inputs: $inputs) {{ {ERRORS} }} }}"
UPDATE = f"""
    mutation ($id: ID!, $input: UpdateTaskInput!) {{ written: updateTask(id: $id, input: $input) {{ {ERRORS} }} }}
"""
UPDATE_MANY = f"""
    mutation ($ids: [ID!], $input: UpdateTaskInput!) {{
        written: updateTasks(where: {{ ids: $ids }}, input: $input) {{ {ERRORS} }}
    }}
"""
CREATE_LIST = (
    f"mutation ($input: CreateListInput!) {{ written: createList(input: $input) {{ list {{ id }} {ERRORS} }} }}"
)
UPDATE_LIST = f"""
    mutation ($id: ID!, $input: UpdateListInput!) {{ written: updateList(id: $id, input: $input) {{ {ERRORS} }} }}
"""
RENAME = f'mutation ($to: String!) {{ written: renameTag(from: "old", to: $to) {{ {ERRORS} }} }}'
STATE = "{ tasks(first: 50) { nodes { title description tags version } } lists(first: 50) { nodes { name icon } } }"


class Text(NamedTuple):
    """A text, and its error as a title or a name, as a description, and as a tag."""

    text: str
    line: str | None
    description: str | None
    tag: str | None


TEXTS = [
    *(
        Text(text, "BLANK", None, "BLANK")
        for text in ("\u200b", "\u00ad\u2060\ufeff", " \u3000\u2003", "\u3164", "\u2800", "\u200d\ufe0f", "\U000e0041")
    ),
    Text("\n", "BLANK", None, "BLANK"),
    Text("two\nlines", "INVALID", None, None),
    Text("a\ttab", "INVALID", None, None),
    Text("crlf\r\n", "INVALID", None, None),
    Text("\u2028paragraph\u2029", "INVALID", None, None),
    Text("nel\u0085", "INVALID", None, None),
    Text("bell\u0007", "INVALID", "INVALID", "INVALID"),
    Text("\u001b[31mred", "INVALID", "INVALID", "INVALID"),
    Text("\u007f", "INVALID", "INVALID", "INVALID"),
    Text("c1 \u009b", "INVALID", "INVALID", "INVALID"),
    Text("vertical\u000btab", "INVALID", "INVALID", None),
    Text("\u0301", None, None, None),
    Text("\u0e31", None, None, None),
    Text("👩\u200d👩\u200d👧 ❤\ufe0f", None, None, None),
    Text("می\u200cخواهم", None, None, None),  # noqa: RUF001 - Arabic
    Text("co\u00adop \u200f\u05e9\u05dc\u05d5\u05dd", None, None, None),
    Text("  spaces  ", None, None, None),
]


async def create(user: User, name: str, text: str) -> list[dict[str, Any]]:
    """Write the field of a new task, and return the errors."""
    content = {"title": "A task", name: [text] if name == "tags" else text}
    errors: list[dict[str, Any]] = (await user.data(CREATE, input=content))["written"]["userErrors"]
    return errors


async def create_many(user: User, name: str, text: str) -> list[dict[str, Any]]:
    content = {"title": "A task", name: [text] if name == "tags" else text}
    written = await user.data(CREATE_MANY, inputs=[{"title": "Another"}, content])
    errors: list[dict[str, Any]] = written["written"]["userErrors"]
    return errors


async def update(user: User, name: str, text: str) -> list[dict[str, Any]]:
    task = (await user.data("{ tasks(first: 1) { nodes { id } } }"))["tasks"]["nodes"][0]
    written = await user.data(UPDATE, id=task["id"], input={name: [text] if name == "tags" else text})
    errors: list[dict[str, Any]] = written["written"]["userErrors"]
    return errors


async def update_many(user: User, name: str, text: str) -> list[dict[str, Any]]:
    task = (await user.data("{ tasks(first: 1) { nodes { id } } }"))["tasks"]["nodes"][0]
    changes = {"addTags" if name == "tags" else name: [text] if name == "tags" else text}
    errors: list[dict[str, Any]] = (await user.data(UPDATE_MANY, ids=[task["id"]], input=changes))["written"][
        "userErrors"
    ]
    return errors


@pytest.mark.parametrize("write", [create, create_many, update, update_many], ids=lambda write: write.__name__)
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text.text))
async def test_texts_of_tasks(alice: User, bob: User, write: Write, text: Text) -> None:
    """Each write of a task has the same rules, and changes nothing if one is broken."""
    for user in (bob, alice):
        await user.add("First")
    before = [await user.data(STATE) for user in (alice, bob)]

    for name, code in (("title", text.line), ("description", text.description), ("tags", text.tag)):
        if code is None:
            continue
        errors = await write(alice, name, text.text)
        assert [error["code"] for error in errors] == [code], name
        assert {name, "addTags"} & set(errors[0]["field"])
    assert [await user.data(STATE) for user in (alice, bob)] == before

    for name, code in (("title", text.line), ("description", text.description), ("tags", text.tag)):
        if code is None:
            assert await write(alice, name, text.text) == [], name
    assert await bob.data(STATE) == before[1]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text.text))
async def test_names_of_lists_and_tags(alice: User, text: Text) -> None:
    """Names and icons of lists are lines, too; a tag is renamed to what a tag may be."""
    await alice.add("Tagged", tags=["old"])
    made = (await alice.data(CREATE_LIST, input={"name": "Home"}))["written"]["list"]
    for name in ("name", "icon"):
        created = await alice.data(CREATE_LIST, input={"name": "New", name: text.text})
        updated = await alice.data(UPDATE_LIST, id=made["id"], input={name: text.text})
        for written in (created["written"], updated["written"]):
            assert written["userErrors"] == ([{"code": text.line, "field": ["input", name]}] if text.line else [])
    renamed = (await alice.data(RENAME, to=text.text))["written"]["userErrors"]
    assert renamed == ([{"code": text.tag, "field": ["to"]}] if text.tag else [])


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text.text))
async def test_imports(server: Server, alice: User, text: Text) -> None:
    """An import has the same rules, names each wrong line, and then imports nothing."""
    lines = [
        {"type": "TaskList", "id": str(uuid4()), "name": text.text},
        {"type": "Task", "id": str(uuid4()), "title": text.text},
        {"type": "Task", "id": str(uuid4()), "title": "Described", "description": text.text},
        {"type": "Task", "id": str(uuid4()), "title": "Tagged", "tags": [text.text]},
    ]
    wrong = {2: text.line, 3: text.line, 4: text.description, 5: text.tag}
    content = b"\n".join(json.dumps(line).encode() for line in ({"type": "Export", "format": 1}, *lines))
    quotas = {"tasks": 100, "lists": 100}
    async with Transfers(DatabaseURL(server.app_url)) as transfers:
        source = importing.read(content, alice.id, "Tasks")
        if not any(wrong.values()):
            await importing.import_(transfers, alice.id, source.lines, quotas, lambda _more: None, dry_run=False)
            return
        with pytest.raises(Refused) as caught:
            await importing.import_(transfers, alice.id, source.lines, quotas, lambda _more: None, dry_run=False)
    assert {each.number for each in caught.value.wrong} == {number for number, code in wrong.items() if code}
    assert (await alice.data(STATE))["tasks"]["nodes"] == []


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text.text))
async def test_sql(alice: User, owner: "asyncpg.Connection[Any]", text: Text) -> None:
    """The database has the same rules for all programs, as named constraints; completing a task checks no text."""
    task = UUID((await alice.add("A task"))["id"])
    made = UUID((await alice.data(CREATE_LIST, input={"name": "Home"}))["written"]["list"]["id"])
    line = "not_blank" if text.line == "BLANK" else "one_line"
    for table, row, name, value, code, constraint in (
        ("tasks", task, "title", text.text, text.line, f"ck_tasks_title_{line}"),
        ("tasks", task, "description", text.text, text.description, "ck_tasks_description_printable"),
        ("tasks", task, "tags", [text.text], text.tag, None),
        ("task_lists", made, "name", text.text, text.line, f"ck_task_lists_name_{line}"),
        ("task_lists", made, "icon", text.text, text.line, f"ck_task_lists_icon_{line}"),
    ):
        update = f"UPDATE {table} SET {name} = $1 WHERE user_id = $2 AND id = $3"  # noqa: S608 - names from above
        if code is None:
            await owner.execute(update, value, alice.id, row)
            continue
        with pytest.raises(asyncpg.CheckViolationError) as caught:
            await owner.execute(update, value, alice.id, row)
        if constraint and not ON_CLUSTER:
            assert caught.value.constraint_name == constraint


OLD_TEXTS = """
    INSERT INTO tasks (user_id, id, title, description, version, completed, completed_at)
    SELECT $1, gen_random_uuid(), title, description, 1, false, NULL
    FROM unnest($2::text[], $3::text[]) AS old (title, description)
"""


async def test_existing_texts_are_made_valid(empty: Server) -> None:
    """A migration makes one line of titles and names, names what cannot be seen, and removes control characters."""
    await migrate(DatabaseURL(empty.owner_url), None, "0022")
    admin = await connect(empty.owner_url)
    user = await admin.fetchval("INSERT INTO users (email) VALUES ('a@example.com') RETURNING id")
    texts = ["two\r\nlines", "\u200b\u200b", "bell\u0007", "Café"], ["a\u0007b\nc", None, "fine\n", "Straße"]
    await admin.execute(OLD_TEXTS, user, *texts)
    lists = "INSERT INTO task_lists (user_id, id, name, icon) VALUES ($1, gen_random_uuid(), $2, $3)"
    await admin.execute(lists, user, "\u200b", "\u2800")
    newest = await admin.fetchval("SELECT max(version) FROM tasks")

    await migrate(DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url))

    rows = await admin.fetch("SELECT title, description, search, version > $1 AS changed FROM tasks", newest)
    assert {tuple(row) for row in rows} == {
        ("two lines", "ab\nc", "two lines\nab\nc", True),
        ("Untitled", None, "untitled\n", True),
        ("bell ", "fine\n", "bell \nfine\n", True),
        ("Café", "Straße", "cafe\nstrasse", False),
    }
    assert [tuple(row) for row in await admin.fetch("SELECT name, icon, search FROM task_lists")] == [
        ("Untitled", None, "untitled")
    ]
    forced = "SELECT bool_and(relforcerowsecurity) FROM pg_class WHERE relname IN ('tasks', 'task_lists')"
    assert await admin.fetchval(forced)
    await admin.close()
