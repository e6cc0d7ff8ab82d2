"""Pages of tasks: every order from both ends, valid and invalid cursors, and the cost of a page."""

import asyncio
import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import product
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import SECRET, Application, Server, User, Wire, connect
from oracle import title_key

from app.database.compiling import Statements
from app.database.database import SESSION
from app.database.statements import Statement
from app.database.url import DatabaseURL
from app.entities.repository import Database
from app.identity.tokens import Principal, Signer
from app.live.followers import Realtime
from app.sharing.preparing import Preparation
from app.sharing.rate_limits import Rates
from schema import schema
from schema.context import Context, Services
from schema.engine.direct import core
from schema.engine.execution import Engine

ARGUMENTS = "$filter: TaskFilter, $orderBy: [TaskOrder!], $first: Int, $after: String, $last: Int, $before: String"
TASKS = "tasks(filter: $filter, orderBy: $orderBy, first: $first, after: $after, last: $last, before: $before)"
PAGE_INFO = "pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"
NODES = f"query Nodes({ARGUMENTS}) {{ {TASKS} {{ nodes {{ id description }} {PAGE_INFO} }} }}"
EDGES = f"query Edges({ARGUMENTS}) {{ {TASKS} {{ edges {{ cursor node {{ id description }} }} {PAGE_INFO} }} }}"
FORWARD = f"query Forward({ARGUMENTS}) {{ {TASKS} {{ nodes {{ id title }} pageInfo {{ hasNextPage endCursor }} }} }}"
COUNT = f"query Count({ARGUMENTS}) {{ {TASKS} {{ totalCount }} }}"
ROWS = f"query Rows({ARGUMENTS}) {{ {TASKS} {{ edges {{ cursor node {{ id }} }} nodes {{ id }} }} }}"
EVERYTHING = f"""
    query Everything({ARGUMENTS}) {{
        {TASKS} {{ edges {{ cursor node {{ id title }} }} nodes {{ id tags }} {PAGE_INFO} totalCount }}
    }}
"""
FOUR_FIELDS = """
    query FourFields($id: ID!) {
        viewer { id email taskStats { total open completed overdue } }
        node(id: $id) { id ... on Task { title } ... on User { taskStats { total } } }
        task(id: $id) { id title tags }
        tasks { edges { cursor node { id } } nodes { id } pageInfo { hasNextPage hasPreviousPage } totalCount }
    }
"""
DELETE = "mutation Delete($id: ID!) { deleteTask(id: $id) { task { id } userErrors { code } } }"

MANY, FEW = 10_000, 60
FIELDS = ("CREATED_AT", "UPDATED_AT", "DUE_DATE", "PRIORITY", "POSITION", "TITLE")
INDEXED = ("CREATED_AT", "UPDATED_AT", "DUE_DATE", "POSITION")
# An order is written as its fields, with a minus before descending ones.
EACH_WAY = [sign + field for field in FIELDS for sign in ("", "-")]
INDEXED_EACH_WAY = [sign + field for field in INDEXED for sign in ("", "-")]
COMBINED = [
    "PRIORITY DUE_DATE",
    "-PRIORITY -DUE_DATE",
    "-PRIORITY DUE_DATE",
    "DUE_DATE -TITLE",
    "TITLE -PRIORITY",
    "TITLE -CREATED_AT POSITION",
    "-UPDATED_AT PRIORITY -TITLE DUE_DATE",
    "CREATED_AT -UPDATED_AT DUE_DATE -PRIORITY TITLE -POSITION",
]

Row = Mapping[str, Any]
Page = dict[str, Any]

SORT_KEYS: dict[str, Callable[[Row], Any]] = {
    "CREATED_AT": lambda row: row["created_at"],
    "UPDATED_AT": lambda row: row["updated_at"],
    "DUE_DATE": lambda row: (row["due_date"] is None, row["due_date"]),
    "PRIORITY": lambda row: row["priority"],
    "POSITION": lambda row: row["position"].encode(),
    "TITLE": lambda row: title_key(row["title"]),
}

# Half of the due dates are missing. All users have the same ids, and no column is in their order.
SEED = """
    INSERT INTO tasks (user_id, id, title, description, completed, completed_at, priority, due_date, tags, position,
                       version, created_at, updated_at)
    SELECT owner.id, md5('task ' || n)::uuid, (ARRAY['Alpha', 'alpha', 'ALPHA', 'beta', 'Beta', 'gamma'])[1 + n % 6],
           owner.email, n % 3 = 0, CASE WHEN n % 3 = 0 THEN owner.created_at END, n % 5,
           CASE WHEN n % 2 = 0 THEN date '2026-01-01' + n / 2 % 9 END, ARRAY['tag ' || n % 4],
           'a' || lpad(to_hex(n * 7919 % 10007), 8, '0'), n,
           '2026-01-02T03:04:05.678901Z'::timestamptz + n % $3 * interval '1 microsecond',
           '2026-01-02T03:04:05.678901Z'::timestamptz + n % ($3 * $3) * interval '1 microsecond'
    FROM generate_series(1, $2::int) AS n, users AS owner
    WHERE owner.id = $1
"""


@dataclass(frozen=True)
class Seeded:
    """Two users whose tasks have the same ids, titles and keys, and the rows of one of them."""

    user: User
    other: User
    rows: list[Row]

    @property
    def ids(self) -> list[str]:
        return [str(row["id"]) for row in self.rows]


@asynccontextmanager
async def owning(server: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    connection = await connect(server.owner_url)
    try:
        yield connection
    finally:
        await connection.close()


async def seed(
    connection: "asyncpg.Connection[Any]", application: Application, size: int, *, moments: int = 1
) -> Seeded:
    """Create two users with this many tasks; `moments` is the number of distinct creation times.

    The returned user's rows come last, so a scan of the whole table would be expensive.
    """
    users = []
    for _ in range(2):
        email = f"{uuid4()}@example.com"
        user_id = await connection.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", email)
        token = Signer(SECRET).token(user_id, timedelta(hours=1))
        users.append(User(user_id, email, token, application.http))
        await connection.execute(SEED, user_id, size, moments)
    await connection.execute("ANALYZE tasks")
    other, user = users
    return Seeded(user, other, await connection.fetch("SELECT * FROM tasks WHERE user_id = $1", user.id))


@pytest.fixture(scope="module")
async def many(server: Server, application: Application) -> Seeded:
    """Users of 10,000 tasks, all created at the same time."""
    async with owning(server) as connection:
        return await seed(connection, application, MANY)


@pytest.fixture(scope="module")
async def few(server: Server, application: Application) -> Seeded:
    """Users of 60 tasks, created microseconds apart, some at the same time."""
    async with owning(server) as connection:
        return await seed(connection, application, FEW, moments=7)


def order_by(order: str) -> list[dict[str, str]]:
    """An order as the schema expects it."""
    return [{"field": term.lstrip("-"), "direction": "DESC" if term[0] == "-" else "ASC"} for term in order.split()]


def predicted(rows: list[Row], order: str) -> list[str]:
    """The ids in an order, sorted by Python. The id as a tie-breaker follows the last term's direction."""
    terms = order.split()
    result = sorted(rows, key=lambda row: row["id"].bytes, reverse=terms[-1][0] == "-")
    for term in reversed(terms):
        result.sort(key=SORT_KEYS[term.lstrip("-")], reverse=term[0] == "-")
    return [str(row["id"]) for row in result]


def tasks_of(page: Page) -> list[dict[str, Any]]:
    return [edge["node"] for edge in page["edges"]] if "edges" in page else page["nodes"]


async def page_of(user: User, query: str = EDGES, **arguments: Any) -> Page:
    """A page; all its tasks belong to the user."""
    page: Page = (await user.data(query, **arguments))["tasks"]
    assert {task["description"] for task in tasks_of(page)} <= {user.email}
    return page


async def walk(
    user: User,
    size: int,
    *,
    backward: bool = False,
    query: str = EDGES,
    between: Callable[[Page], Awaitable[None]] | None = None,
    **arguments: Any,
) -> list[Page]:
    """The pages from one end of a list to the other, in the order of the list."""
    first, after, more, end = (
        ("last", "before", "hasPreviousPage", "startCursor")
        if backward
        else ("first", "after", "hasNextPage", "endCursor")
    )
    pages, place = [], None
    while True:
        page = await page_of(user, query, **arguments, **{first: size, after: place})
        pages.append(page)
        if not page["pageInfo"][more]:
            return pages[::-1] if backward else pages
        assert page["pageInfo"][end] != place
        place = page["pageInfo"][end]
        if between is not None:
            await between(page)


def shown(pages: list[Page]) -> list[str]:
    return [task["id"] for page in pages for task in tasks_of(page)]


async def refused(user: User, wire: Wire, query: str = EDGES, **arguments: Any) -> None:
    """The request is rejected as BAD_USER_INPUT, and no SQL is sent."""
    await wire.statements()
    answer = await user.ask(query, **arguments)
    assert [error["extensions"]["code"] for error in answer.get("errors", [])] == ["BAD_USER_INPUT"], answer
    assert not any((answer["data"] or {}).values())
    assert await wire.statements() == []


@pytest.mark.parametrize("order", EACH_WAY)
async def test_ten_thousand_tasks_from_both_ends(many: Seeded, order: str) -> None:
    """Pages of 100 from either end show each of 10,000 tasks once, in the predicted order."""
    forward, backward = await asyncio.gather(
        walk(many.user, 100, query=NODES, orderBy=order_by(order)),
        walk(many.user, 100, query=NODES, orderBy=order_by(order), backward=True),
    )

    expected = predicted(many.rows, order)
    assert len(expected) == MANY
    assert shown(forward) == expected
    assert shown(backward) == expected


@pytest.mark.parametrize("order", ["DUE_DATE", "-PRIORITY POSITION"])
async def test_an_odd_page_size(many: Seeded, order: str) -> None:
    """Pages of 97, with a short last page, show 10,000 tasks in the predicted order."""
    forward, backward = await asyncio.gather(
        walk(many.user, 97, query=NODES, orderBy=order_by(order)),
        walk(many.other, 97, query=NODES, orderBy=order_by(order), backward=True),
    )

    assert [len(page["nodes"]) for page in forward] == [97] * (MANY // 97) + [MANY % 97]
    assert shown(forward) == shown(backward) == predicted(many.rows, order)


@pytest.mark.parametrize(
    ("order", "size"),
    [*product([*EACH_WAY, *COMBINED], [7, 20, 100]), *product(["-CREATED_AT", "DUE_DATE", "TITLE -PRIORITY"], [1, 2])],
)
async def test_every_order_and_page_size_from_both_ends(few: Seeded, order: str, size: int) -> None:
    """Every order gives the predicted sequence forward and backward, with any page size."""
    forward, backward = await asyncio.gather(
        walk(few.user, size, orderBy=order_by(order)), walk(few.user, size, orderBy=order_by(order), backward=True)
    )

    assert shown(forward) == shown(backward) == predicted(few.rows, order)
    assert [len(tasks_of(page)) for page in forward[:-1]] == [size] * (len(forward) - 1)
    assert [len(tasks_of(page)) for page in backward[1:]] == [size] * (len(backward) - 1)


async def test_no_due_date_is_later_than_every_date(few: Seeded) -> None:
    """Tasks without a due date sort after every date: last ascending, first descending."""
    undated = {str(row["id"]) for row in few.rows if row["due_date"] is None}
    ascending, descending = [
        shown(await walk(few.user, 100, orderBy=order_by(order))) for order in ("DUE_DATE", "-DUE_DATE")
    ]

    assert len(undated) == FEW // 2
    assert set(ascending[FEW // 2 :]) == set(descending[: FEW // 2]) == undated
    assert ascending == descending[::-1]


@pytest.mark.parametrize("arguments", [{}, {"orderBy": []}, {"first": None, "last": None, "after": None}])
async def test_newest_first_by_default(few: Seeded, arguments: dict[str, Any]) -> None:
    """Without an order and a size, a page shows the 20 newest tasks."""
    page = await page_of(few.user, **arguments)

    assert shown([page]) == predicted(few.rows, "-CREATED_AT")[:20]
    assert page["pageInfo"]["hasNextPage"] is True


async def test_both_users_see_their_own(few: Seeded) -> None:
    """Users whose tasks have the same ids each get their own tasks, with different cursors."""
    hers, his = await asyncio.gather(walk(few.user, 7), walk(few.other, 7))

    assert shown(hers) == shown(his)
    assert not {edge["cursor"] for page in hers for edge in page["edges"]} & {
        edge["cursor"] for page in his for edge in page["edges"]
    }


@pytest.mark.parametrize("size", [1, 2, 7, 20])
@pytest.mark.parametrize("backward", [False, True])
async def test_page_info_on_every_page(few: Seeded, size: int, *, backward: bool) -> None:
    """On every page, pageInfo has the end cursors and whether there are pages on either side."""
    pages = await walk(few.user, size, backward=backward, orderBy=order_by("-PRIORITY TITLE"))

    for number, page in enumerate(pages, 1):
        info = page["pageInfo"]
        assert (info["hasPreviousPage"], info["hasNextPage"]) == (number > 1, number < len(pages))
        assert (info["startCursor"], info["endCursor"]) == (page["edges"][0]["cursor"], page["edges"][-1]["cursor"])


def window(ids: list[str], size: int, after: int | None, before: int | None, *, backward: bool) -> dict[str, Any]:
    """A page as Relay defines it: restricted by the cursors, then cut from one end by the size."""
    inside = ids[0 if after is None else after + 1 : before]
    cut = len(inside) > size
    page = inside[-size:] if backward else inside[:size]
    return {
        "ids": page,
        "hasPreviousPage": cut if backward else after is not None,
        "hasNextPage": before is not None if backward else cut,
    }


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("order", ["-CREATED_AT", "PRIORITY -TITLE"])
async def test_between_any_two_cursors(
    application: Application, owner: "asyncpg.Connection[Any]", order: str, *, backward: bool
) -> None:
    """With any combination of after and before, every page is the one that Relay defines."""
    seeded = await seed(owner, application, 5, moments=3)
    ids = predicted(seeded.rows, order)
    (whole,) = await walk(seeded.user, 100, orderBy=order_by(order))
    cursors = {None: None} | {place: edge["cursor"] for place, edge in enumerate(whole["edges"])}
    for size, after, before in product([1, 2, 4, 20], cursors, cursors):
        arguments: dict[str, Any] = {"last" if backward else "first": size}
        arguments |= {"after": cursors[after], "before": cursors[before], "orderBy": order_by(order)}
        page = await page_of(seeded.user, **arguments)

        info = page["pageInfo"]
        seen = {"ids": shown([page]), **{side: info[side] for side in ("hasPreviousPage", "hasNextPage")}}
        assert seen == window(ids, size, after, before, backward=backward), (size, after, before)
        ends = [edge["cursor"] for edge in page["edges"]] or [None]
        assert (info["startCursor"], info["endCursor"]) == (ends[0], ends[-1])


@pytest.mark.parametrize("size", ["first", "last"])
async def test_an_empty_list(alice: User, size: str) -> None:
    """A user without tasks gets one empty page without neighbours."""
    (page,) = await walk(alice, 5, backward=size == "last")

    assert page == {
        "edges": [],
        "pageInfo": {"hasNextPage": False, "hasPreviousPage": False, "startCursor": None, "endCursor": None},
    }


async def test_nothing_is_left_before_a_page(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """If all tasks before a page were deleted, including the cursor's, it has no previous page."""
    first, second = [await alice.add(title, description=alice.email) for title in ("First", "Second")]
    arguments: dict[str, Any] = {"orderBy": order_by("POSITION"), "first": 1}
    cursor = (await page_of(alice, **arguments))["pageInfo"]["endCursor"]
    before = await page_of(alice, **arguments, after=cursor)
    await owner.execute("DELETE FROM tasks WHERE user_id = $1 AND id = $2", alice.id, UUID(first["id"]))
    after = await page_of(alice, **arguments, after=cursor)

    assert shown([before]) == shown([after]) == [second["id"]]
    assert (before["pageInfo"]["hasPreviousPage"], after["pageInfo"]["hasPreviousPage"]) == (True, False)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("order", ["-CREATED_AT", "DUE_DATE", "-PRIORITY TITLE", "TITLE -UPDATED_AT"])
async def test_changes_between_pages(
    application: Application, owner: "asyncpg.Connection[Any]", order: str, *, backward: bool
) -> None:
    """While tasks are deleted and created between pages, each remaining task is shown exactly once."""
    seeded = await seed(owner, application, FEW, moments=7)
    expected = predicted(seeded.rows, order)
    doomed = set(expected[3::4])
    gone: set[str] = set()

    async def change(page: Page) -> None:
        """Delete the cursor's task and one still to come, and create others at both ends and between."""
        ids = shown([page])
        coming = [task for task in (expected[::-1] if backward else expected) if task in doomed - gone - set(ids)]
        for task in [ids[0 if backward else -1], *coming[-1:]]:
            payload = (await seeded.user.data(DELETE, id=task))["deleteTask"]
            assert payload["userErrors"] == []
            gone.add(task)
        for title, priority, due in (("A", "URGENT", "2000-01-01"), ("beta", "LOW", "2026-01-03"), ("z", "NONE", None)):
            await seeded.user.add(title, priority=priority, dueDate=due, description=seeded.user.email)

    pages = await walk(seeded.user, 7, backward=backward, orderBy=order_by(order), between=change)
    times = Counter(shown(pages))
    stayed = [task for task in expected if task not in gone]

    assert len(gone) > 10
    assert set(times.values()) == {1}
    assert [task for task in shown(pages) if task in set(stayed)] == stayed


@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        (None, lambda _row: True),
        ({}, lambda _row: True),
        ({"completed": True}, lambda row: row["completed"]),
        (
            {"search": "ALPH", "due": {"isNull": True}},
            lambda row: "alph" in row["title"].lower() and not row["due_date"],
        ),
        ({"or": []}, lambda _row: False),
        ({"trashed": True}, lambda _row: False),
    ],
)
async def test_total_count(few: Seeded, asked: dict[str, Any] | None, matches: Callable[[Row], bool]) -> None:
    """The totalCount is the number of tasks that match the filter, on any page."""
    expected = sum(matches(row) for row in few.rows)
    (cursor,) = [page["pageInfo"]["endCursor"] for page in await walk(few.user, 100)]

    for place in ({}, {"first": 3}, {"last": 1}, {"after": cursor}, {"first": 2, "before": cursor}):
        page = (await few.user.data(EVERYTHING, filter=asked, **place))["tasks"]
        assert page["totalCount"] == expected
        assert (await few.user.data(COUNT, filter=asked, **place))["tasks"] == {"totalCount": expected}


async def test_only_a_total_count_counts_the_tasks(few: Seeded, wire: Wire) -> None:
    """Only totalCount counts: with nodes it reads tasks a second time, alone once."""
    sent = {}
    for query in (ROWS, EDGES, EVERYTHING, COUNT):
        await few.user.data(query, first=2)
        (sent[query],) = await wire.statements()

    assert "count(" not in sent[ROWS]
    assert [sent[query].count("FROM tasks") for query in (ROWS, EDGES, EVERYTHING, COUNT)] == [1, 1, 2, 1]
    assert "row_number" not in sent[COUNT]


async def test_one_statement_for_a_root_field(few: Seeded, wire: Wire) -> None:
    """Each root field is one statement, whatever it selects."""
    await few.user.data(EVERYTHING, first=2)
    assert len(await wire.statements()) == 1

    answer = await few.user.data(FOUR_FIELDS, id=few.ids[0])
    assert answer["task"]["id"] == answer["node"]["id"] == few.ids[0]
    assert answer["viewer"]["taskStats"]["total"] == answer["tasks"]["totalCount"] == FEW
    reads = [statement for statement in await wire.statements() if "act_as" in statement]
    assert len(reads) == 4


@pytest.fixture(scope="module")
async def cursor(few: Seeded) -> str:
    """A cursor of the default order."""
    page = await page_of(few.user, first=3)
    mark: str = page["pageInfo"]["endCursor"]
    return mark


@pytest.mark.parametrize("argument", ["after", "before"])
@pytest.mark.parametrize(
    "mark", ["", " ", "x", "====", "nonsense", "bm9uc2Vuc2U", "a" * 50_000, "ключ", "😀", "\0", "a\nb", "-_" * 40]
)
async def test_a_cursor_of_garbage(few: Seeded, wire: Wire, argument: str, mark: str) -> None:
    """Text that was never a cursor is rejected before any SQL, including empty, very long and non-ASCII text."""
    await refused(few.user, wire, **{argument: mark})


BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


async def test_a_cursor_with_a_flipped_character(few: Seeded, wire: Wire, cursor: str) -> None:
    """A cursor with any one character changed is rejected before any SQL."""
    for place, character in enumerate(cursor):
        other = BASE64URL[BASE64URL.index(character) ^ 32]
        await refused(few.user, wire, after=cursor[:place] + other + cursor[place + 1 :])


@pytest.mark.parametrize("order", ["-CREATED_AT", "POSITION", "PRIORITY", "DUE_DATE"])
async def test_a_cursor_has_one_spelling(few: Seeded, wire: Wire, order: str) -> None:
    """A cursor in another base64 spelling is rejected: other unused bits, alphabet or padding."""
    page = await page_of(few.user, orderBy=order_by(order), first=40)
    cursors = [edge["cursor"] for edge in page["edges"]]
    last_bits = {mark[:-1] + BASE64URL[BASE64URL.index(mark[-1]) ^ 1] for mark in cursors}
    standard = {mark.replace("-", "+").replace("_", "/") for mark in cursors}
    padded = {mark + "=" * (-len(mark) % 4) for mark in cursors}

    for mark in sorted((last_bits | standard | padded) - set(cursors)):
        await refused(few.user, wire, orderBy=order_by(order), after=mark)


async def test_unusual_characters_in_a_sort_key(application: Application, owner: "asyncpg.Connection[Any]") -> None:
    """Any text that a title can contain is shown as it is, and sorted by in a cursor."""
    seeded = await seed(owner, application, 3)
    unusual = (
        *range(0x20, 0x30),
        0x7E,
        0xA0,
        0xAD,
        0x301,
        0x200B,
        0x200D,
        0x202E,
        0xE000,
        0xFDD0,
        0xFFFD,
        0x1F600,
        0x10FFFF,
    )
    titles = [f'a{chr(code)}{chr(code)}b"\\' for code in unusual]
    await owner.execute(
        "INSERT INTO tasks (user_id, id, title, description, version)"
        " SELECT $1, gen_random_uuid(), title, $3, 1 FROM unnest($2::text[]) AS title",
        seeded.user.id,
        titles,
        seeded.user.email,
    )
    query = EDGES.replace("node { id", "node { id title")
    pages = await walk(seeded.user, 5, query=query, orderBy=order_by("TITLE"))
    backward = await walk(seeded.user, 5, query=query, orderBy=order_by("TITLE"), backward=True)

    assert set(titles) <= {task["title"] for page in pages for task in tasks_of(page)}
    assert shown(pages) == shown(backward)


@pytest.mark.parametrize("argument", ["after", "before"])
async def test_a_cursor_of_another_user(few: Seeded, wire: Wire, cursor: str, argument: str) -> None:
    """Another user's cursor is rejected, even if both users have the task."""
    await refused(few.other, wire, **{argument: cursor})


@pytest.mark.parametrize(
    "order", ["CREATED_AT", "UPDATED_AT", "-UPDATED_AT", "POSITION", "-CREATED_AT POSITION", "POSITION -CREATED_AT"]
)
async def test_a_cursor_of_another_order(few: Seeded, wire: Wire, cursor: str, order: str) -> None:
    """A cursor is rejected with any order but its own."""
    await refused(few.user, wire, after=cursor, orderBy=order_by(order))


def forged(user: User, order: str, *keys: object) -> str:
    """A cursor with a valid seal and keys that the server would not produce."""
    content = json.dumps([f"tasks {order}", *keys]).encode()
    seal = hashlib.sha256(user.id.bytes + content).digest()[:6]
    return base64.urlsafe_b64encode(seal + content).decode().rstrip("=")


ID = "00000000-0000-0000-0000-000000000000"
TIME = "2026-01-02T03:04:05+00:00"


@pytest.mark.parametrize(
    ("order", "keys"),
    [
        ("+CREATED_AT", [TIME]),
        ("+CREATED_AT", [TIME, ID, ID]),
        ("+CREATED_AT", [1, ID]),
        ("+CREATED_AT", [None, ID]),
        ("+CREATED_AT", ["today", ID]),
        ("+CREATED_AT", ["0001-01-01T00:00:00+01:00", ID]),
        ("+CREATED_AT", [TIME, 5]),
        ("+DUE_DATE", [None, ID]),
        ("+PRIORITY", [2**15, ID]),
        ("+PRIORITY", [True, ID]),
        ("+PRIORITY", [1.5, ID]),
        ("+TITLE", ["\0", ID]),
        ("+TITLE", ["\ud800", ID]),
        ("+POSITION", ["\ud800", ID]),
        ("+POSITION", [["a"], ID]),
    ],
)
async def test_a_forged_cursor(few: Seeded, wire: Wire, order: str, keys: list[object]) -> None:
    """A sealed cursor with keys that the database could not read is rejected before any SQL."""
    mark = forged(few.user, f"{order} +ID", *keys)

    await refused(few.user, wire, after=mark, orderBy=order_by(order.lstrip("+")))


@pytest.mark.parametrize(
    ("order", "keys", "canonical"),
    [
        ("+CREATED_AT", ["2026-01-02T23:04:05+20:00", ID], [TIME, ID]),
        ("+CREATED_AT", ["2026-01-02T03:04:05.5+00:00:00.5", ID], [TIME, ID]),
        ("+CREATED_AT", ["2026-W01-5T03:04:05Z", ID], [TIME, ID]),
        ("+CREATED_AT", [TIME, "urn:uuid:" + ID], [TIME, ID]),
        ("+DUE_DATE", ["2026-W01-5", ID], ["2026-01-02", ID]),
        ("+DUE_DATE", ["20260102", ID], ["2026-01-02", ID]),
    ],
)
async def test_a_forged_cursor_in_another_form(few: Seeded, order: str, keys: list[str], canonical: list[str]) -> None:
    """Keys of a sealed cursor in another notation are normalised before they reach the database."""
    arguments = {"orderBy": order_by(order.lstrip("+")), "first": 100}
    found, same = [
        await page_of(few.user, NODES, after=forged(few.user, f"{order} +ID", *each), **arguments)
        for each in (keys, canonical)
    ]

    assert shown([found]) == shown([same]) != []


async def test_a_forged_cursor_of_deep_nesting(few: Seeded, wire: Wire) -> None:
    """A sealed cursor with too deeply nested JSON is rejected before any SQL."""
    content = b"[" * 20_000
    seal = hashlib.sha256(few.user.id.bytes + content).digest()[:6]

    await refused(few.user, wire, after=base64.urlsafe_b64encode(seal + content).decode().rstrip("="))


@pytest.mark.parametrize(
    "arguments",
    [
        *({name: size} for name in ("first", "last") for size in (0, -1, 101, 2**31 - 1, -(2**31))),
        {"first": 1, "last": 1},
        {"first": 0, "last": 0},
        {"orderBy": order_by("TITLE -TITLE")},
    ],
)
async def test_impossible_pages(few: Seeded, wire: Wire, arguments: dict[str, Any]) -> None:
    """An invalid size, both sizes, and a repeated order field are rejected before any SQL."""
    await refused(few.user, wire, **arguments)


@pytest.mark.parametrize("name", ["first", "last"])
async def test_the_smallest_and_largest_page(many: Seeded, name: str) -> None:
    """A page may have 1 to 100 tasks."""
    for size in (1, 100):
        arguments: dict[str, Any] = {name: size}
        assert len(tasks_of(await page_of(many.user, **arguments))) == size


@dataclass
class Recorder:
    """A database that records what it was asked to read."""

    database: Database
    reads: list[tuple[Statement, Mapping[str, Any]]]
    quotas: Mapping[str, int] = field(default_factory=dict)

    async def read(self, owner: UUID, statement: Statement, values: Mapping[str, Any]) -> str | None:
        self.reads.append((statement, values))
        return await self.database.read(owner, statement, values)

    async def write(self, owner: UUID, statement: Statement, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self.database.write(owner, statement, values)


NOBODY_LISTENS = Realtime(DatabaseURL("postgresql://localhost"), lambda _: asyncio.sleep(0), Rates(None, None), 1)
ENGINE = Engine(core(schema))


@dataclass(frozen=True)
class Sent:
    """A sent statement: its text, its arguments, and its result."""

    text: str
    arguments: list[Any]
    answer: str | None


async def sent(application: Application, user: User, query: str, **variables: Any) -> Sent:
    """The statement that the server sends for a query of one root field."""
    recorder = Recorder(application.database, [])
    operation = ENGINE.prepared(query, None)
    services = Services(cast("Any", recorder), NOBODY_LISTENS, Statements(), Preparation(Rates(None, None).spend))
    context = Context(Principal(user.id, math.inf), str(user.id), operation, services)
    result = await ENGINE.execute(operation, variables, context)
    assert result.errors is None
    ((statement, values),) = recorder.reads
    arguments = statement.arguments(values)
    answer = await application.database.read(user.id, statement, values)
    return Sent(statement.text, arguments, answer)


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection like the server's own: with its role and session settings."""
    arguments = DatabaseURL(server.app_url).connect_arguments(SESSION)
    connection: asyncpg.Connection[Any] = await asyncpg.connect(server.app_url, **arguments)
    try:
        yield connection
    finally:
        await connection.close()


async def explained(
    connection: "asyncpg.Connection[Any]", statement: Sent, mode: str, options: str = "", runs: int = 0
) -> dict[str, Any]:
    """The plan of a prepared statement in a plan_cache_mode, after a number of runs."""
    types = (await connection.prepare(statement.text)).get_parameters()
    values = [
        await connection.fetchval(f"SELECT quote_nullable($1::{type_.name}::text)", value)
        for type_, value in zip(types, statement.arguments, strict=True)
    ]
    execute = f"EXECUTE explained({', '.join(values)})"
    await connection.execute(f"SET plan_cache_mode = {mode}; PREPARE explained AS {statement.text}")
    for _ in range(runs):
        await connection.execute(execute)
    plan = json.loads(await connection.fetchval(f"EXPLAIN ({options} FORMAT JSON) {execute}"))[0]["Plan"]
    await connection.execute("DEALLOCATE explained; RESET plan_cache_mode")
    return dict(plan)


MODES = ("auto", "force_custom_plan", "force_generic_plan")


@pytest.fixture(scope="module")
async def cursors(many: Seeded) -> dict[str, list[str]]:
    """The cursors of the first 2,000 tasks in each indexed order."""
    result = {}
    for order in INDEXED_EACH_WAY:
        pages: list[Page] = []
        for _ in range(20):
            after = pages[-1]["pageInfo"]["endCursor"] if pages else None
            pages.append(await page_of(many.user, orderBy=order_by(order), first=100, after=after))
        result[order] = [edge["cursor"] for page in pages for edge in page["edges"]]
    return result


async def blocks_of(
    application: Application, server: Server, wire: Wire, user: User, query: str, **arguments: Any
) -> dict[str, int]:
    """The number of blocks that a query's statement touches in each plan_cache_mode."""
    statement = await sent(application, user, query, **arguments)
    await wire.statements()
    await user.data(query, **arguments)
    assert await wire.statements() == [statement.text]
    async with serving(server) as connection:
        plans = {mode: await explained(connection, statement, mode, "ANALYZE, BUFFERS,", runs=6) for mode in MODES}
    return {mode: plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for mode, plan in plans.items()}


@pytest.mark.parametrize("order", INDEXED_EACH_WAY)
async def test_page_100_costs_no_more_than_page_1(  # noqa: PLR0913, PLR0917 - fixtures
    many: Seeded, cursors: dict[str, list[str]], application: Application, server: Server, wire: Wire, order: str
) -> None:
    """With any plan, page 100 of an indexed order touches at most 1.2 times the blocks of page 1."""
    page: dict[str, Any] = {"orderBy": order_by(order), "first": 20}
    first = await blocks_of(application, server, wire, many.user, FORWARD, **page)
    last = await blocks_of(application, server, wire, many.user, FORWARD, **page, after=cursors[order][1979])

    assert all(20 < first[mode] < 60 for mode in MODES), first
    assert all(last[mode] <= 1.2 * first[mode] for mode in MODES), (first, last)


@pytest.mark.parametrize("order", INDEXED_EACH_WAY)
async def test_whether_a_page_has_a_previous_one_costs_one_look(  # noqa: PLR0913, PLR0917 - fixtures
    many: Seeded, cursors: dict[str, list[str]], application: Application, server: Server, wire: Wire, order: str
) -> None:
    """With any plan, hasPreviousPage takes one index lookup: a few more blocks."""
    page: dict[str, Any] = {"orderBy": order_by(order), "first": 20, "after": cursors[order][1979]}
    without = await blocks_of(application, server, wire, many.user, FORWARD, **page)
    with_it = await blocks_of(application, server, wire, many.user, EDGES, **page)

    assert all(with_it[mode] <= without[mode] + 8 for mode in MODES), (without, with_it)
