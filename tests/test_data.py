"""Exports and imports of one user's data: an equal round trip, and everything of a file or nothing."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import ALL_FIELDS, Server, User, connect
from declared import leaves
from patience import PATIENCE_SECONDS
from sqlalchemy.exc import DBAPIError

from app.data import exporting, importing
from app.data.exporting import Exported
from app.data.importing import Imported, Refused
from app.data.lines import ListLine, TaskLine
from app.data.rows import write
from app.database.transfers import Transfers
from app.database.url import DatabaseURL
from app.entities.naming import api_name
from app.errors import StartupError
from app.tasks.fields import TASK
from app.tasks.lists import LIST
from migrations.run import migrate

QUOTAS = {"tasks": 100_000, "lists": 500}
TASKS = f"""{{
    tasks(first: 100, orderBy: [{{ field: POSITION }}]) {{ nodes {{ {ALL_FIELDS} list {{ id }} }} }}
    trash: tasks(first: 100, filter: {{ trashed: true }}, orderBy: [{{ field: POSITION }}]) {{
        nodes {{ {ALL_FIELDS} list {{ id }} }}
    }}
    lists(first: 100) {{ nodes {{ {" ".join(leaves("TaskList"))} }} }}
    tagged: tasks(filter: {{ tagsAny: ["b", "ü ö"] }}) {{ totalCount }}
    found: tasks(filter: {{ search: "cafe" }}) {{ totalCount }}
    viewer {{ taskStats {{ total open }} }}
}}"""
CREATE_LIST = 'mutation ($name: String!) { createList(input: { name: $name, icon: "🏠" }) { list { id } } }'
DELETE = "mutation ($id: ID!) { deleteTask(id: $id) { task { id } } }"
DELETE_LIST = "mutation ($id: ID!) { deleteList(id: $id) { list { id } } }"
# Another position, and another version, are all that may differ after an import.
OWN = ("position", "version")


@pytest.fixture(scope="session")
async def transfers(server: Server, settings: object) -> AsyncIterator[Transfers]:
    """Transactions with the server's role."""
    del settings
    async with Transfers(DatabaseURL(server.app_url)) as made:
        yield made


async def exported(transfers: Transfers, owner: UUID) -> list[bytes]:
    return [part async for part in exporting.export(transfers, owner) if not isinstance(part, Exported)]


async def imported(transfers: Transfers, owner: UUID, content: bytes, *, dry_run: bool = False) -> Imported:
    source = importing.read(content, owner, "Tasks")
    return await importing.import_(transfers, owner, source.lines, QUOTAS, lambda _more: None, dry_run=dry_run)


def file(*lines: dict[str, Any]) -> bytes:
    """An export of these lines."""
    return b"\n".join(json.dumps(line).encode() for line in ({"type": "Export", "format": 1}, *lines))


def task(title: str = "A task", **more: Any) -> dict[str, Any]:
    return {"type": "Task", "id": str(uuid4()), "title": title, **more}


def shown(data: Any) -> Any:
    """A response without what an import assigns anew."""
    if isinstance(data, dict):
        return {key: shown(value) for key, value in data.items() if key not in OWN}
    return [shown(each) for each in data] if isinstance(data, list) else data


async def filled(user: User) -> None:
    """Give a user a list, a list in the trash, and tasks of all kinds in both, in the trash and in the inbox."""
    kept, gone = [(await user.data(CREATE_LIST, name=name))["createList"]["list"]["id"] for name in ("Home", "Old")]
    full = {"description": 'A "note"\n\\ of\ttwo lines\u2028😀', "priority": "URGENT", "dueDate": "9999-12-31"}
    await user.add("Café", listId=kept, tags=["b", "ü ö"], **full)
    await user.add("Done", completed=True, completedAt="2020-02-29T12:00:00.123456Z", createdAt="2019-01-01T00:00:00Z")
    await user.add("With the list", listId=gone)
    await user.data(DELETE, id=(await user.add("Alone", listId=kept))["id"])
    await user.data(DELETE_LIST, id=gone)


async def test_a_round_trip(transfers: Transfers, alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """What is exported of one user and imported for another is equal, for the API, in the index of tags and search."""
    await filled(alice)
    await bob.add("Bob's own")
    before = await alice.data(TASKS)
    lines = await exported(transfers, alice.id)
    await owner.execute("DELETE FROM tasks WHERE user_id = $1", bob.id)

    found = await imported(transfers, bob.id, b"\n".join(lines))

    assert (found.lists, found.tasks, found.known) == (2, 4, [])
    assert (await exported(transfers, bob.id))[1:] == lines[1:]
    assert shown(await bob.data(TASKS)) == shown(before)
    assert before["tagged"]["totalCount"] == before["found"]["totalCount"] == 1
    assert await alice.data(TASKS) == before
    clock = await owner.fetchrow("SELECT tasks, lists FROM task_clocks WHERE user_id = $1", bob.id)
    assert clock == (4, 2)


async def test_an_export_begins_with_its_size_and_user(transfers: Transfers, alice: User, bob: User) -> None:
    """The first line tells the number of lines and the user; other users do not occur."""
    await alice.add()
    await bob.add("Bob's secret")

    header, *lines = await exported(transfers, alice.id)

    first = json.loads(header)
    assert (first["type"], first["format"], first["lists"], first["tasks"]) == ("Export", 1, 0, 1)
    assert first["user"]["email"] == alice.email
    assert len(lines) == 1
    assert b"secret" not in lines[0]


def test_exports_contain_every_field_of_the_api() -> None:
    """An import accepts exactly the fields of an export: those of the API, and those that restore the trash."""
    for kind, type_name, more in ((TaskLine, "Task", {"listId", "trashedWithList"}), (ListLine, "TaskList", set())):
        accepted = {api_name(name) for name in kind.model_fields}
        assert accepted == (set(leaves(type_name)) - set(OWN)) | {"type"} | more


async def test_imported_rows_are_a_write(transfers: Transfers, alice: User, server: Server) -> None:
    """One version for the whole import, of which servers are told; the next task comes last."""
    told: asyncio.Queue[str] = asyncio.Queue()
    listening = await connect(server.owner_url)
    await listening.add_listener("taskql", lambda *message: told.put_nowait(str(message[3])))
    first = await alice.add("First")

    await imported(transfers, alice.id, file(*(task(f"Task {number}") for number in range(3))))

    while await asyncio.wait_for(told.get(), PATIENCE_SECONDS) != f"{alice.id} {first['version'] + 1}":
        pass
    await listening.close()
    last = await alice.add("Last")
    assert last["version"] == first["version"] + 2
    nodes = (await alice.data(TASKS))["tasks"]["nodes"]
    assert [node["title"] for node in nodes] == ["First", "Task 0", "Task 1", "Task 2", "Last"]
    assert [node["version"] - first["version"] for node in nodes] == [0, 1, 1, 1, 2]


MOVE = "mutation ($id: ID!, $anchor: ID!) { moveTask(id: $id, to: { before: $anchor }) { userErrors { code } } }"


async def test_imported_tasks_can_be_moved(transfers: Transfers, alice: User) -> None:
    """Positions of imported tasks are keys of the manual order: other tasks fit between them."""
    await imported(transfers, alice.id, file(*(task(f"Task {number}") for number in range(20))))
    nodes = (await alice.data(TASKS))["tasks"]["nodes"]

    await alice.data(MOVE, id=nodes[19]["id"], anchor=nodes[1]["id"])

    titles = [node["title"] for node in (await alice.data(TASKS))["tasks"]["nodes"]]
    assert titles == ["Task 0", "Task 19", *(f"Task {number}" for number in range(1, 19))]


async def test_importing_twice(transfers: Transfers, alice: User) -> None:
    """A second import writes nothing. A task that has changed since is left as it is, and reported by its line."""
    same, changed = task("Same"), task("Changed")
    content = file(same, changed)
    await imported(transfers, alice.id, content)
    update = 'mutation ($id: ID!) { updateTask(id: $id, input: { title: "New" }) { task { version } } }'
    version = (await alice.data(update, id=changed["id"]))["updateTask"]["task"]["version"]

    found = await imported(transfers, alice.id, content + b"\n" + json.dumps(task("More")).encode())

    assert (found.lists, found.tasks) == (0, 1)
    assert [each.number for each in found.known] == [2, 3]
    assert [each.number for each in found.differing] == [3]
    assert "2 were there already" in " ".join(importing.summary(found, dry_run=False))
    assert {node["title"] for node in (await alice.data(TASKS))["tasks"]["nodes"]} == {"Same", "New", "More"}
    await imported(transfers, alice.id, content)
    assert (await alice.add())["version"] == version + 2


async def test_a_dry_run(transfers: Transfers, alice: User) -> None:
    """A dry run tells the same and writes nothing."""
    version = (await alice.add())["version"]

    found = await imported(transfers, alice.id, file(task(), task()), dry_run=True)

    assert "Would import 0 lists and 2 tasks." in importing.summary(found, dry_run=True)
    assert (await alice.add())["version"] == version + 1


LIST_ID, TASK_ID = str(UUID(int=2)), str(UUID(int=3))
TRASHED = "2026-01-01T00:00:00Z"
GONE = {"type": "TaskList", "id": LIST_ID, "name": "Gone", "deletedAt": TRASHED}
WRONG: list[tuple[list[Any], str]] = [
    ([b"{"], r"line 2: Invalid JSON"),
    ([b"\xff"], r"line 2: Invalid JSON"),
    ([{"id": TASK_ID}], r"line 2: .*type"),
    ([{"type": "Note", "id": TASK_ID}], r"line 2: .*type"),
    ([{"type": "Task", "id": TASK_ID}], r"line 2: title: Field required"),
    ([task(colour="red")], r"line 2: colour: Extra inputs"),
    ([task(id="17")], r"line 2: id: .*UUID"),
    ([task(priority="HUGE")], r"line 2: priority: "),
    ([task(completed="yes")], r"line 2: completed: "),
    ([task(dueDate="every day")], r"line 2: dueDate: "),
    ([task(dueDate="2026-02-30")], r"line 2: dueDate: "),
    ([task(createdAt="2026-01-01T00:00:00")], r"line 2: createdAt: .*timezone"),
    ([task(createdAt="2999-01-01T00:00:00Z")], r"line 2: createdAt: .*future"),
    ([task(deletedAt="2999-01-01T00:00:00Z")], r"line 2: deletedAt: .*future"),
    ([task(updatedAt="0001-01-01T00:00:00+14:00")], r"line 2: updatedAt: .*range"),
    ([task(completed=False, completedAt=TRASHED)], r"line 2: completedAt: An open task"),
    ([task(" ")], r"line 2: title: The title must not be blank"),
    ([task("x" * 201)], r"line 2: title: .*maximum is 200"),
    ([task("a\0b")], r"line 2: .*U\+0000"),
    ([task(tags=["a", " "])], r"line 2: tags.1: A tag must not be blank"),
    ([task(tags=[f"t{number}" for number in range(21)])], r"line 2: tags: A task can have at most 20"),
    ([task(), task("b" * 300), b"{"], r"line 4: Invalid JSON"),
    ([task(id=TASK_ID), task(id=TASK_ID)], r"line 3: id: line 2 has this id"),
    ([{"type": "TaskList", "id": TASK_ID, "name": "a\nb"}], r"line 2: name: .*line breaks"),
    ([task(listId=LIST_ID)], r"line 2: listId: neither the file nor the account has this list"),
    ([GONE, task(listId=LIST_ID)], r"line 3: listId: this list is in the trash"),
    ([task(trashedWithList=True)], r"line 2: trashedWithList: "),
    ([{"type": "Export", "format": 1}], r"line 2: there is a second Export"),
    ([{"type": "Export", "format": 2}], r"line 2: format: "),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "message"), WRONG, ids=[message for _, message in WRONG])
async def test_bad_lines(transfers: Transfers, alice: User, lines: Sequence[Any], message: str) -> None:
    """Each bad line is reported with its number and field, without its text, and nothing of the file is imported."""
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    good = json.dumps(task("A good one")).encode()

    with pytest.raises(Refused, match="Nothing was imported") as refused:
        await imported(transfers, alice.id, b"\n".join([file(), *texts, good]))

    said = "\n".join(map(str, refused.value.wrong))
    assert re.search(message, said), said
    assert "xxx" not in said
    assert (await alice.data(TASKS))["viewer"]["taskStats"]["total"] == 0


async def test_all_problems_at_once(transfers: Transfers, alice: User) -> None:
    """All lines are checked, so that a file can be corrected in one go."""
    with pytest.raises(Refused, match="3 problems") as refused:
        await imported(transfers, alice.id, file(task(" "), task(), task(" "), task(listId=LIST_ID)))

    assert [wrong.number for wrong in refused.value.wrong] == [2, 4, 5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must begin with"),
        (json.dumps(task(id=str(UUID(int=1)))).encode(), "must begin with"),
        (
            b'{"type": "Export", "format": 1, "lists": 0, "tasks": 2}\n'
            + json.dumps(task(id=str(UUID(int=1)))).encode(),
            "it is incomplete",
        ),
    ],
    ids=["empty", "no header", "cut off"],
)
async def test_incomplete_files(transfers: Transfers, alice: User, content: bytes, message: str) -> None:
    """A file that was cut off is not imported."""
    with pytest.raises(Refused) as refused:
        await imported(transfers, alice.id, content)

    assert message in str(refused.value.wrong[0])


async def test_ids_that_the_account_uses_otherwise(transfers: Transfers, alice: User) -> None:
    """An id names one list or task of an account, and never the account itself."""
    made = (await alice.data(CREATE_LIST, name="Home"))["createList"]["list"]["id"]
    for row_id, message in ((made, "the account has a list with this id"), (str(alice.id), "the id of the account")):
        with pytest.raises(Refused) as refused:
            await imported(transfers, alice.id, file(task(id=row_id)))
        assert message in str(refused.value.wrong[0])


async def test_a_list_of_the_account(transfers: Transfers, alice: User, bob: User) -> None:
    """Tasks can be imported into a list that the account has, but not into a list in the trash or of another user."""
    made = (await alice.data(CREATE_LIST, name="Home"))["createList"]["list"]["id"]
    assert (await imported(transfers, alice.id, file(task(listId=made)))).tasks == 1
    with pytest.raises(Refused):
        await imported(transfers, bob.id, file(task(listId=made)))

    await alice.data(DELETE_LIST, id=made)
    with pytest.raises(Refused) as refused:
        await imported(transfers, alice.id, file(task(listId=made)))
    assert "this list is in the trash" in str(refused.value.wrong[0])


async def test_the_quota(transfers: Transfers, alice: User) -> None:
    """An import that exceeds the quota writes nothing, and the error names the setting."""
    await alice.add()
    source = importing.read(file(task(), task()), alice.id, "")
    with pytest.raises(StartupError, match=r"would own 3 tasks.*LIMIT_TASKS is 2"):
        await importing.import_(
            transfers, alice.id, source.lines, {**QUOTAS, "tasks": 2}, lambda _more: None, dry_run=False
        )

    assert (await alice.data(TASKS))["viewer"]["taskStats"]["total"] == 1


async def test_row_security_applies(transfers: Transfers, alice: User, bob: User) -> None:
    """A transaction of one user can neither write nor read rows of another, whatever the statements say."""
    await bob.add("Bob's secret")
    rows: dict[Any, list[Any]] = {LIST: [], TASK: []}
    with pytest.raises(DBAPIError, match="row-level security"):
        async with transfers.session(alice.id) as session:
            await write(session, bob.id, rows, QUOTAS)
    async with transfers.session(alice.id) as session:
        assert (await session.scalars(exporting.lines(TASK, bob.id))).all() == []


async def test_more_than_a_batch(transfers: Transfers, alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """Batches of an import are one write, in the order of the file."""
    lines = [task(f"Task {number}", tags=["a"]) for number in range(2500)]

    assert (await imported(transfers, alice.id, file(*lines))).tasks == 2500

    rows = await owner.fetch("SELECT id::text, version FROM tasks WHERE user_id = $1 ORDER BY position", alice.id)
    assert [row[0] for row in rows] == [line["id"] for line in lines]
    assert {row[1] for row in rows} == {1}
    assert await owner.fetchval("SELECT count(*) FROM task_tags WHERE user_id = $1", alice.id) == 2500


async def test_without_temporary_tables(empty: Server) -> None:
    """A role that may not create temporary tables inserts the same rows, one by one. So does a cluster."""
    await migrate(DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url))
    admin = await connect(empty.owner_url)
    users = [await admin.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", name) for name in ("a", "b")]
    content = file({"type": "TaskList", "id": LIST_ID, "name": "Home"}, task("In", listId=LIST_ID, tags=["a", "b"]))
    async with Transfers(DatabaseURL(empty.app_url)) as transfers:
        await imported(transfers, users[0], content)
        name = await admin.fetchval("SELECT current_database()")
        await admin.execute(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC")
        assert (await imported(transfers, users[1], content)).tasks == 1
        first, second = [(await exported(transfers, user))[1:] for user in users]
    await admin.close()

    moments = ("createdAt", "updatedAt")
    for one, other in zip(first, second, strict=True):
        assert {**json.loads(one), **dict.fromkeys(moments)} == {**json.loads(other), **dict.fromkeys(moments)}
