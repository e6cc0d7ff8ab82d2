"""The application compared with the oracle: equal JSON and equal errors for about 2,300 generated operations."""

import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import httpx
import hypothesis
import hypothesis.strategies as st
import hypothesis_graphql
import hypothesis_graphql.nodes
import pytest
from conftest import SECRET, Server, User, connect
from declared import DECIDED, NO_CONDITIONS, inputs, samples, snake, strategy, values_of
from graphql import (
    ArgumentNode,
    FieldNode,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLUnionType,
    ListValueNode,
    NullValueNode,
    ObjectFieldNode,
    ObjectValueNode,
    StringValueNode,
    ValueNode,
    get_named_type,
    parse,
    parse_value,
    print_ast,
)
from graphql.language.visitor import Visitor, visit
from oracle import LOW, MANUALLY, NEWEST_FIRST, NULLABLE, SCHEMA, Answer, Oracle, Term

from app.errors import LimitExceeded
from app.identity.tokens import Signer
from app.models import PRIORITIES
from schema import schema, sdl
from schema.engine.direct import core
from schema.engine.document_limits import Gauge, Limits

SDL = sdl()
GAUGE = Gauge(core(schema), Limits())
NAMESPACE = UUID("5e1ec7ed-0000-4000-8000-000000000000")
ALICE, BOB, CAROL = (uuid5(NAMESPACE, name) for name in ("alice", "bob", "carol"))
IDS = [uuid5(NAMESPACE, f"task {place}") for place in range(30)]
STRANGE_IDS = [
    str(uuid5(NAMESPACE, "nobody")),
    "",
    "7",
    "not-a-uuid",
    str(IDS[0]).upper(),
    str(IDS[0]).replace("-", ""),
]

MOMENTS = [
    datetime.fromisoformat(text)
    for text in (
        "2026-11-22T05:33:58.69+00:00",
        "2026-11-22T05:33:58.100000+00:00",
        "2026-11-22T05:33:58+00:00",
        "2026-11-22T05:33:58.000001+00:00",
        "2026-11-22T05:33:58.999999+00:00",
        "2000-02-29T23:59:59.5+00:00",
        "1969-12-31T23:59:59.999999+00:00",
        "0001-01-01T00:00:00+00:00",
        "9999-12-31T23:59:59.999999+00:00",
    )
]
DAYS = [date.fromisoformat(text) for text in ("0001-01-01", "1999-12-31", "2024-02-29", "2099-01-01", "9999-12-31")]
TITLES = [
    "Buy milk",
    "buy MILK",
    'say "no"',
    "back\\slash \\n \\u0041",
    "Don\u2019t \u2013 caf\u00e9\u200b \u0645\u064f\u062d",
    "\ufeffinvisible\u00ad",
    "emoji 👩‍👩‍👧 and U+1D518: \U0001d518",
    "Äpfel ÉCOLE straße",
    "ÄPFEL école STRASSE",
    "100% _under_ %",
    "'); DROP TABLE tasks; --",
    '{"__typename":"Task"}',
    "\u3000wide spaces\u2003\ufeff",
    " leading and trailing ",
    "x" * 200,
    "<script>&amp;</script>",
    "Ⅷ ǅ ΑΣ İ",
]
DESCRIPTIONS = [
    None,
    "",
    "plain",
    'a "quoted"\\ line\nbreak\ttab\r\u2028',
    "\u200b",
    "😀" * 10,
    "d" * 1000,
    "MILK and 100%",
]
TAGS = [
    "home",
    "Home",
    "a,b",
    "{curly}",
    'q"uote',
    "back\\slash",
    "null",
    "NULL",
    "ünï",
    "👍",
    "\u0301",
    "t" * 50,
    " sp ",
]
WRONG_TAGS = ["", "\u2800", "\x02", "t" * 51]
SNIPPETS = [
    "",
    "milk",
    "MILK",
    "%",
    "_",
    "\\",
    "École",
    "ß",
    '"',
    "👩",
    "\n",
    "nothing has this",
    "a",
    "\x01",
    "ΣΑ",
    "ας",
    "milk  buy",
    "HOME milk",
    "don't -",
    "\u0301",
    "\u00ad",
    "\u0645\u062d cafe",
]

# Without Hypothesis' explain phase, which takes minutes; the assertion message is enough.
RUN = hypothesis.settings(phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink])


# The columns with values from the lists above.
KNOWN = {"id", "title", "description", "priority", "due_date", "tags", "list_id", *map(snake, DECIDED)}
# The lists of each user; the last one is in the trash.
LIST_IDS = [uuid5(NAMESPACE, f"list {place}") for place in range(4)]
NAMES = ["Home", "école", "\u2603 'quoted\"", "x" * 100]


def lists_of(user_id: UUID) -> list[dict[str, Any]]:
    """The lists of one user."""
    return [
        {
            "user_id": user_id,
            "id": list_id,
            "name": NAMES[place],
            "icon": [None, "🏠"][place % 2],
            "position": ["b", "a", "a", "Z"][place],
            "version": place + 1,
            "created_at": MOMENTS[place],
            "updated_at": MOMENTS[place + 1],
            "deleted_at": MOMENTS[0] if place == 3 else None,
        }
        for place, list_id in enumerate(LIST_IDS)
    ]


def seeds(user_id: UUID, seed: int) -> list[dict[str, Any]]:
    """30 tasks of one user. Some columns have every value above, others have duplicate sort keys."""
    choose = random.Random(seed)  # noqa: S311 - must be repeatable
    rows = []
    others = [name for name in inputs("CreateTaskInput") if snake(name) not in KNOWN]
    for place, task_id in enumerate(IDS):
        done, trashed = place % 3 == 0, place % 5 == 4
        rows.append(
            {
                "user_id": user_id,
                "id": task_id,
                "title": (TITLES * 2)[place + seed],
                "description": DESCRIPTIONS[(place + seed) % len(DESCRIPTIONS)],
                "completed": done,
                "completed_at": choose.choice(MOMENTS) if done else None,
                "priority": place % len(PRIORITIES),
                "due_date": choose.choice([*DAYS, None]),
                "tags": choose.sample(TAGS, place % 4),
                "position": choose.choice(["a", "B", "aé", "a\x01", "Z" * 20]) + str(choose.randrange(5)),
                "version": place + 1,
                "created_at": choose.choice(MOMENTS),
                "updated_at": choose.choice(MOMENTS),
                "deleted_at": choose.choice(MOMENTS) if trashed else None,
                "list_id": [*LIST_IDS[:2], None, LIST_IDS[3] if trashed else None][place % 4],
                "trashed_with_list": trashed and place % 4 in {0, 3},
            }
            | {snake(name): choose.choice([*samples(inputs("CreateTaskInput")[name]), None]) for name in others}
        )
    return rows


@dataclass(repr=False)
class Person:
    """A user, and an oracle that knows the right responses."""

    user: User
    oracle: Oracle
    owner: "asyncpg.Connection[Any]"

    async def check(self, query: str, variables: dict[str, Any] | None = None) -> Answer:
        """Send a request and compare its response with the oracle's."""
        response = await self.user.post(query, variables)
        expected = await self.oracle.answer(query, variables)
        found = Answer.of_json(response.text)
        assert found == expected, f"{json.dumps(variables)}\n{query}\nfound    {found}\nexpected {expected}"
        return expected

    async def begin(self, rows: list[dict[str, Any]], lists: list[dict[str, Any]]) -> None:
        """Replace the user's tasks and lists with exactly these."""
        for table in ("tasks", "task_lists", "task_clocks", "user_tags", "tombstones"):
            await self.owner.execute(f"DELETE FROM {table} WHERE user_id = $1", self.user.id)  # noqa: S608 - fixed names
        # As JSON, because the driver would write the maximum date as infinity.
        for table, many in (("task_lists", lists), ("tasks", rows)):
            columns = ", ".join(many[0])
            found = f"SELECT {columns} FROM json_populate_recordset(NULL::{table}, $1)"  # noqa: S608 - fixed names
            await self.owner.execute(f"INSERT INTO {table} ({columns}) {found}", json.dumps(many, default=str))
        insert = "INSERT INTO task_clocks (user_id, version) VALUES ($1, $2)"
        await self.owner.execute(insert, self.user.id, max(row["version"] for row in rows))
        await self.oracle.load()


People = dict[UUID, Person]


@pytest.fixture(scope="module")
async def people(server: Server, http: httpx.AsyncClient) -> AsyncIterator[People]:
    """Alice, Bob whose tasks have the same ids, and Carol whose tasks change."""
    names: dict[UUID, tuple[str | None, str | None]]
    names = {ALICE: ("Alice", "https://example.com/a.png"), BOB: (None, None), CAROL: ('C"\n\\', "")}
    async with AsyncExitStack() as stack:
        owner = await connect(server.owner_url)
        stack.push_async_callback(owner.close)
        await owner.execute("DELETE FROM users WHERE id = ANY($1)", list(names))
        insert = "INSERT INTO users (id, email, name, image, created_at) VALUES ($1, $2, $3, $4, $5)"
        result = {}
        for place, (user_id, (name, image)) in enumerate(names.items()):
            await owner.execute(insert, user_id, f"{user_id}@example.com", name, image, MOMENTS[0])
            user = User(user_id, "", Signer(SECRET).token(user_id, timedelta(hours=1)), http)
            oracle = await stack.enter_async_context(Oracle.of(server.owner_url, user_id))
            result[user_id] = Person(user, oracle, owner)
            await result[user_id].begin(seeds(user_id, place), lists_of(user_id))
        yield result


# Argument values

IDENTIFIERS = st.sampled_from(
    [str(item) for item in IDS] * 2 + [str(item) for item in LIST_IDS] * 3 + [str(ALICE), str(BOB), *STRANGE_IDS]
)
LISTED = st.sampled_from([*map(str, LIST_IDS)] * 3 + [STRANGE_IDS[0], "no UUID"])
SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 19, 20, 24, 25, 100] * 8 + [0, -1, 101, 2**31 - 1, 2**31, None])
ORDER_FIELDS = values_of("TaskOrderField")
# With the orders that place null at the other end.
ORDERED_BY = [*ORDER_FIELDS, *(field + LOW for field in sorted(NULLABLE))]
PRIORITY = st.sampled_from(PRIORITIES)
TERMS = st.tuples(st.sampled_from(ORDERED_BY), st.booleans())
ORDERS = st.lists(TERMS, max_size=3, unique_by=lambda term: term[0].removesuffix(LOW)) | st.lists(
    TERMS, min_size=2, max_size=2
)


@dataclass(frozen=True)
class Mark:
    """A cursor to generate: of a task in an order, or an invalid one."""

    order: tuple[Term, ...]
    task: UUID
    kind: str

    def text(self, own: Oracle, other: Oracle) -> str:
        order = [*self.order] or NEWEST_FIRST
        good = own.cursor(own.rows[self.task], order)
        middle = len(good) // 2
        return {
            "good": good,
            "foreign": other.cursor(other.rows[self.task], order),
            "other order": own.cursor(own.rows[self.task], [(name, not down) for name, down in order]),
            "changed": good[:middle] + ("A" if good[middle] != "A" else "B") + good[middle + 1 :],
            "cut": good[:-4],
            "empty": "",
            "garbage": "no \U0001f600 cursor\0",
        }[self.kind]


KINDS = ["good"] * 40 + ["foreign", "other order", "changed", "cut", "empty", "garbage"]


def marks(order: list[Term]) -> st.SearchStrategy[Mark | None]:
    good = st.builds(Mark, st.just(tuple(order)), st.sampled_from(IDS), st.sampled_from(KINDS))
    return good | good | st.none()


@dataclass(frozen=True)
class Token:
    """A sync token to generate: of a clock, of a row on a page that began at another clock, or an invalid one."""

    row: UUID | None
    version: int
    base: int
    kind: str

    def text(self, own: Oracle, other: Oracle) -> str:
        content = f"{self.version} all"
        if self.row in own.rows:
            content = f"{own.rows[self.row].version} task {self.row} {self.base}"
        elif self.row in own.task_lists:
            content = f"{own.task_lists[self.row].version} list {self.row} {self.base}"
        good = own.sealed(content)
        return {
            "good": good,
            "with the trash": own.sealed(f"{content} trash"),
            "foreign": other.sealed(content),
            "cursor": own.cursor(own.rows[IDS[0]], NEWEST_FIRST),
            "changed": good[:-1] + ("A" if good[-1] != "A" else "B"),
            "empty": "",
            "garbage": "no \U0001f600 token\0",
        }[self.kind]


TOKEN_KINDS = ["good"] * 14 + ["with the trash"] * 10 + ["foreign", "cursor", "changed", "empty", "garbage"]
CLOCKS = st.sampled_from([0, 1, 7, 15, 24, 29, 30, 31])
TOKENS = st.builds(
    Token, st.none() | st.sampled_from(IDS) | st.sampled_from(LIST_IDS), CLOCKS, CLOCKS, st.sampled_from(TOKEN_KINDS)
)


def spans(values: list[str], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    ends = st.none() | st.sampled_from(values)
    return st.fixed_dictionaries({}, optional={"gte": ends, "lt": ends, **more})


DAY_TEXTS = [day.isoformat() for day in DAYS]
MOMENT_TEXTS = [*(moment.isoformat() for moment in MOMENTS), "2026-11-22T05:33:58Z", "2026-11-23T01:33:58.1+20:00"]
DAY_VALUES = st.sampled_from([*DAY_TEXTS, "2026-02-30", None, "omitted"])
TAG_LISTS = st.lists(st.sampled_from([*TAGS, "unknown", "t" * 51]), max_size=3)
CONDITIONS: dict[str, st.SearchStrategy[Any]] = {
    name: strategy(type_) for name, type_ in inputs("TaskFilter").items() if name not in NO_CONDITIONS
} | {
    "ids": st.lists(IDENTIFIERS, max_size=8) | st.lists(st.sampled_from(IDS).map(str), min_size=10),
    "completed": st.booleans(),
    "search": st.sampled_from(SNIPPETS),
    "priority": st.lists(PRIORITY, max_size=4),
    "tagsAll": TAG_LISTS,
    "tagsAny": TAG_LISTS,
    "list": st.fixed_dictionaries(
        {}, optional={"ids": st.none() | st.lists(LISTED, max_size=3), "isNull": st.none() | st.booleans()}
    ),
    "due": spans(DAY_TEXTS, isNull=st.none() | st.booleans()),
    "created": spans(MOMENT_TEXTS),
    "updated": spans(MOMENT_TEXTS),
    "completedAt": spans(MOMENT_TEXTS),
    "deletedAt": spans(MOMENT_TEXTS),
}


@st.composite
def filters(draw: st.DrawFn, depth: int = 0) -> dict[str, Any]:
    inner = filters(depth + 1)
    nested = {"not": inner, "and": st.lists(inner, max_size=2), "or": st.lists(inner, max_size=3)}
    possible = CONDITIONS if depth > 1 else CONDITIONS | nested
    least = draw(st.sampled_from([0, 1, 1, 1, 1]))
    names = draw(st.lists(st.sampled_from(["search", *possible]), min_size=least, max_size=2, unique=True))
    wanted = {name: draw(possible[name]) if draw(st.integers(0, 9)) else None for name in names}
    trashed = draw(st.sampled_from([None, True, False] if depth == 0 else [None] * 20 + [False, True]))
    return wanted | ({} if trashed is None else {"trashed": trashed})


# Lists


@dataclass(frozen=True)
class ListMark:
    """A cursor to generate: of a list in an order, or an invalid one."""

    order: tuple[Term, ...]
    task_list: UUID
    kind: str

    def text(self, own: Oracle, other: Oracle) -> str:
        order = [*self.order] or MANUALLY
        return {
            "good": own.cursor(own.task_lists[self.task_list], order),
            "foreign": other.cursor(other.task_lists[self.task_list], order),
            "task": own.cursor(own.rows[IDS[0]], MANUALLY),
            "garbage": "no cursor",
        }[self.kind]


def list_marks(order: list[Term]) -> st.SearchStrategy[ListMark | None]:
    kinds = st.sampled_from(["good"] * 8 + ["foreign", "task", "garbage"])
    return st.builds(ListMark, st.just(tuple(order)), st.sampled_from(LIST_IDS), kinds) | st.none()


LIST_TERMS = st.tuples(st.sampled_from(values_of("TaskListOrderField")), st.booleans())
LIST_ORDERS = st.lists(LIST_TERMS, max_size=2, unique_by=lambda term: term[0])
LIST_CONDITIONS = {
    "ids": st.lists(LISTED, max_size=3),
    "created": spans(MOMENT_TEXTS),
    "updated": spans(MOMENT_TEXTS),
}
LIST_FILTERS = st.fixed_dictionaries({}, optional={**LIST_CONDITIONS, "trashed": st.none() | st.booleans()}) | (
    st.fixed_dictionaries({"not": st.fixed_dictionaries({}, optional=LIST_CONDITIONS)})
)


def order_input(order: list[Term]) -> list[dict[str, str]]:
    """An orderBy argument; ascending is the default, and some orders name the usual place of null."""
    return [_term_input(name, descending=descending) for name, descending in order]


def _term_input(name: str, *, descending: bool) -> dict[str, str]:
    field, low, _ = name.partition(LOW)
    nulls = "LAST" if bool(low) == descending else "FIRST"
    told = {"nulls": nulls} if low or (field in NULLABLE and field != "DUE_DATE") else {}
    return {"field": field} | ({"direction": "DESC"} if descending else {}) | told


# Generated documents: all kinds of selections on the root fields

SENDS = 4
SWITCHES = {"x": "Boolean!", "y": "Boolean! = false", "z": "Boolean = true"}
# The variables of arguments below root fields. A response key always has the same arguments.
NESTED = {"day": "Date", "later": 'Date = "2099-01-01"'}
STATS = ["", "(today: $day)", "(today: $later)", '(today: "2024-02-29")', "(today: null)"]
DIRECTIVES = [
    *[""] * 24,
    *["@include(if: $x)", "@skip(if: $y)", "@skip(if: $x) @include(if: $z)"] * 2,
    "@include(if: true)",
    "@include(if: false)",
    "@skip(if: false)",
    "@skip(if: true)",
]
FORMS = ["field"] * 9 + ["bare", "inline", "inline", "spread", "spread"]
MOST_ITEMS = 40
ALSO = {
    "Node": ["Task", "TaskList", "User", "Node"],
    "Task": ["Task", "Node"],
    "TaskList": ["TaskList", "Node"],
    "User": ["User", "Node"],
    "Change": ["ListUpserted", "ListRemoved", "TaskUpserted", "TaskRemoved", "Change"],
    **{name: [name, "Change"] for name in ("ListUpserted", "ListRemoved", "TaskUpserted", "TaskRemoved")},
}
# Fields that several types of one place have, or that have different types there.
SHARED = {
    "id": ["id", "key"],
    "createdAt": ["createdAt", "made"],
    "updatedAt": ["updatedAt", "changed"],
    "deletedAt": ["deletedAt", "binned"],
    "position": ["position", "rank"],
    "version": ["version", "number"],
    "name": ["called"],
    "taskStats": ["counts"],
    "list": ["within"],
    "tasks": ["some"],
    "icon": ["image_"],
    "__typename": ["__typename", "kind"],
    "token": ["token", "mark"],
    "task": ["task", "it"],
    "taskId": ["taskId", "gone"],
    "listId": ["listId", "lost"],
}
# The oracle words error messages differently.
UNTOLD = {"message"}
DEEPEST_FRAGMENTS = 3


class Writer:
    """Writes selections that can be merged: within one document, a response key always means the same field."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._shift = draw(st.integers(0, 3))
        self._left = MOST_ITEMS
        self._fragments: dict[str, tuple[str, str]] = {}
        self._windows: dict[str, str] = {}

    def pick(self, items: list[Any]) -> Any:
        return self._draw(st.sampled_from(items))

    def document(self, kind: str, variables: dict[str, str], body: str) -> str:
        """A whole document, with the fragments and variables that it uses."""
        fragments = "".join(f"\nfragment {name} on {on} {text}" for name, (on, text) in self._fragments.items())
        used = {name: type_ for name, type_ in (SWITCHES | NESTED).items() if f"${name})" in body + fragments}
        defined = ", ".join(f"${name}: {type_}" for name, type_ in (variables | used).items())
        text = f"{kind} {f'({defined})' if defined else ''} {{ {body} }}{fragments}"
        hypothesis.assume(within_limits(text))
        return text

    def directive(self) -> str:
        text: str = self.pick(DIRECTIVES)
        return text

    def selection(self, type_name: str, depth: int = 0) -> str:
        items = [self._item(type_name, depth) for _ in range(self._draw(st.integers(1, 4)) if self._left > 0 else 1)]
        return "{ " + " ".join(items) + " }"

    def _item(self, type_name: str, depth: int) -> str:
        self._left -= 1
        form = self.pick(FORMS) if depth < DEEPEST_FRAGMENTS else "field"
        if form == "field":
            return self._field(type_name, depth)
        if form == "bare":
            return f"... {self.directive()} {self.selection(type_name, depth + 1)}"
        within = self.pick(ALSO.get(type_name, [type_name]))
        if form == "inline":
            return f"... on {within} {self.directive()} {self.selection(within, depth + 1)}"
        return f"...{self._fragment(within, depth)} {self.directive()}"

    def _fragment(self, type_name: str, depth: int) -> str:
        """The name of a fragment: a finished one or a new one."""
        known = [name for name, (on, _) in self._fragments.items() if on == type_name]
        if known and self.pick([True, False]):
            return str(self.pick(known))
        text = self.selection(type_name, depth + 1)
        name = f"F{len(self._fragments)}"
        self._fragments[name] = (type_name, text)
        return name

    def _field(self, type_name: str, depth: int) -> str:
        fields = fields_of(type_name)
        told = [field for field in fields if field not in UNTOLD]
        # At the end, objects without what could go on.
        leaves = [field for field in told if fields[field] is None]
        name = self.pick([*(leaves if self._left <= 0 and leaves else told), "__typename"])
        key = self.pick(self._keys(list(fields), name))
        inner = self.selection(shown, depth) if (shown := fields.get(name)) else ""
        arguments = self._arguments(type_name, name, key)
        return f"{name if key == name else f'{key}: {name}'}{arguments} {self.directive()} {inner}"

    def _arguments(self, type_name: str, name: str, key: str) -> str:
        """The arguments of a field below a row: always the same for a key, so that fields can be merged."""
        if name == "taskStats":
            return STATS[sum(key.encode()) % len(STATS)]
        if type_name != "TaskList" or name != "tasks":
            return ""
        if key not in self._windows:
            self._windows[key] = self.pick(INNER_WINDOWS)
        return self._windows[key]

    def _keys(self, fields: list[str], name: str) -> list[str]:
        """The possible response keys of a field: its own name or, shifted, another field's, and one more."""
        if name in SHARED:
            return SHARED[name]
        own = [field for field in fields if field not in SHARED]
        return [own[(own.index(name) + self._shift) % len(own)], name + "_"]


def fields_of(type_name: str) -> dict[str, str | None]:
    """The fields of a type, with the type's name for those that are objects."""
    type_ = SCHEMA.type_map[type_name]
    if isinstance(type_, GraphQLUnionType):
        return {}
    assert isinstance(type_, GraphQLObjectType | GraphQLInterfaceType)
    shown = {name: get_named_type(field.type) for name, field in type_.fields.items()}
    composite = GraphQLObjectType | GraphQLUnionType
    return {name: type_.name if isinstance(type_, composite) else None for name, type_ in shown.items()}


# The forms of the arguments of `tasks`; # is the index of the root field, to make variables unique.
WINDOWS = [
    "",
    "(filter: $filter#, orderBy: $order#, first: $first#, after: $after#)",
    "(filter: $filter#, orderBy: $order#, last: $last#, before: $before#)",
    "(filter: $filter#, orderBy: $order#, first: $first#, before: $before#)",
    "(orderBy: $order#, last: $last#, after: $after#)",
    "(filter: $filter#, orderBy: $order#, first: $first#, after: $after#, before: $before#)",
    "(filter: $filter#, first: $first#, last: $last#)",
    "(filter: {completed: $done#, trashed: $trashed#, or: [{search: $search#}]}, orderBy: {field: $field#}, first: 5)",
    "(filter: {completed: $done#, not: {search: $search#}}, orderBy: {field: $field#, direction: DESC}, last: 50)",
]
# The arguments of the tasks of a list. An invalid one would be an error of the root field.
INNER_WINDOWS = [
    "(first: 2)",
    "(last: 3, orderBy: [{field: TITLE}])",
    "(first: 3, orderBy: [{field: PRIORITY, direction: DESC}, {field: DUE_DATE}], filter: {completed: false})",
    "(first: 1, filter: {trashed: true})",
    '(last: 2, filter: {or: [{search: "milk"}, {list: {isNull: true}}, {completed: true}]})',
]
LIST_WINDOWS = [
    "(first: 3)",
    "(first: $few#, after: $listAfter#, orderBy: $listOrder#)",
    "(last: $few#, before: $listAfter#, orderBy: $listOrder#, filter: $listFilter#)",
    "(first: 2, filter: {trashed: $trashed#, not: {ids: [$id#]}})",
]
SYNCS = [
    "",
    "(since: $since#, trash: $trash#)",
    "(trash: true, first: 4)",
    "(since: $since#)",
    "(since: $since#, first: $first#)",
    "(since: $since#, first: 3)",
    "(first: $first#)",
]
VARIABLES = {
    "id": "ID!",
    "few": "Int",
    "listAfter": "String",
    "listOrder": "[TaskListOrder!]",
    "listFilter": "TaskListFilter",
    "since": "SyncToken",
    "filter": "TaskFilter",
    "order": "[TaskOrder!]",
    "first": "Int",
    "last": "Int",
    "after": "String",
    "before": "String",
    "done": "Boolean",
    "trash": "Boolean",
    "trashed": "Boolean = true",
    "search": "String",
    "field": "TaskOrderField!",
    "tag": "String",
}
ROOTS = {
    "viewer": "User",
    "node": "Node",
    "task": "Task",
    "tasks": "TaskConnection",
    "tags": "Tag",
    "list": "TaskList",
    "lists": "TaskListConnection",
    "changes": "ChangePage",
}
PARTS_OF_TAGS = ["", "(first: $first#)", "(after: $tag#)", "(first: $first#, after: $tag#)"]
FORMS_OF_ARGUMENTS = {
    "viewer": [""],
    "tasks": WINDOWS,
    "tags": PARTS_OF_TAGS,
    "lists": LIST_WINDOWS,
    "changes": SYNCS,
}


def within_limits(text: str, *variables: dict[str, Any]) -> bool:
    """Whether the server accepts a document's size, and its cost with each set of variables."""
    try:
        sizes = GAUGE.check(parse(text))
        for values in variables:
            GAUGE.check_cost(max(GAUGE.cost(node, size).of(values) for node, size in sizes.items()))
    except LimitExceeded:
        return False
    return True


@dataclass(frozen=True)
class Case:
    """A document, and several sets of variables to run it with in sequence."""

    text: str
    variables: list[dict[str, Any]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    writer = Writer(draw)
    roots, used = [], set()
    for place in range(draw(st.integers(1, 3))):
        name = writer.pick(
            ["viewer", "node", "task", "list", "lists", "lists", "tasks", "tasks", "tasks", "tags", "changes"]
        )
        arguments = writer.pick(FORMS_OF_ARGUMENTS.get(name, ["(id: $id#)"]))
        used |= {(variable, place) for variable in VARIABLES if f"${variable}#" in arguments}
        call = f"{writer.pick(['r', name])}{place}: {name}{arguments.replace('#', str(place))}"
        # The same field twice is merged, within a fragment or not.
        roots += [f"{call} {writer.directive()} {writer.selection(ROOTS[name])}" for _ in range(writer.pick([1, 1, 2]))]
    body = " ".join(
        f"... on Query {writer.directive()} {{ {root} }}" if writer.pick([0, 0, 1]) else root for root in roots
    )
    text = writer.document("query", {f"{name}{place}": VARIABLES[name] for name, place in sorted(used)}, body)
    variables = [draw(values(used, text)) for _ in range(SENDS)]
    hypothesis.assume(within_limits(text, *variables))
    return Case(text, variables)


@st.composite
def values(draw: st.DrawFn, used: set[tuple[str, int]], text: str) -> dict[str, Any]:
    defined = [name for name in SWITCHES | NESTED if f"(${name}:" in text or f" ${name}:" in text]
    result = {name: draw(st.booleans() if name in SWITCHES else DAY_VALUES) for name in defined}
    result = {name: value for name, value in result.items() if value != "omitted"}
    for place in sorted({place for _, place in used}):
        order, of_lists = draw(ORDERS), draw(LIST_ORDERS)
        strategies: dict[str, st.SearchStrategy[Any]] = {
            "id": IDENTIFIERS,
            "few": st.sampled_from([1, 1, 2, 2, 3, 0]),
            "listAfter": list_marks(of_lists),
            "listOrder": st.just(order_input(of_lists) or None),
            "listFilter": LIST_FILTERS,
            "since": TOKENS,
            "filter": filters() | filters() | filters() | st.none(),
            "order": st.just(order_input(order) or None),
            "first": SIZES,
            "last": SIZES,
            "after": marks(order),
            "before": marks(order),
            "done": st.none() | st.booleans(),
            "trash": st.none() | st.booleans(),
            "trashed": st.none() | st.booleans(),
            "search": st.none() | st.sampled_from(SNIPPETS),
            "field": st.sampled_from(ORDER_FIELDS),
            "tag": st.none() | st.sampled_from([*TAGS, *TAGS, "", "\0"]),
        }
        for name in sorted(name for name, where in used if where == place):
            value = draw(strategies[name])
            if value is not None or draw(st.booleans()):
                result[f"{name}{place}"] = value
    return result


def resolved(variables: dict[str, Any], own: Oracle, other: Oracle) -> dict[str, Any]:
    return {
        name: value.text(own, other) if isinstance(value, Mark | ListMark | Token) else value
        for name, value in variables.items()
    }


@hypothesis.settings(RUN, max_examples=340)
@hypothesis.given(case=cases())
async def test_selections(people: People, case: Case) -> None:
    """One operation returns the oracle's response to each of two alternating users."""
    alice, bob = people[ALICE], people[BOB]
    for place, variables in enumerate(case.variables):
        own, other = (alice, bob) if place % 4 < 3 else (bob, alice)
        told = resolved(variables, own.oracle, other.oracle)
        if within_limits(case.text, told):
            await own.check(case.text, told)


# Documents of hypothesis-graphql: anything the schema allows, with arguments that find something

SCALARS = {
    "DateTime": st.sampled_from(MOMENT_TEXTS).map(hypothesis_graphql.nodes.String),
    "Date": st.sampled_from(DAY_TEXTS).map(hypothesis_graphql.nodes.String),
    "SyncToken": st.sampled_from(["", "garbage"]).map(hypothesis_graphql.nodes.String),
}
WORDS = {
    "id": IDENTIFIERS,
    "ids": IDENTIFIERS,
    "search": st.sampled_from(SNIPPETS),
    "tagsAll": st.sampled_from(TAGS),
    "tagsAny": st.sampled_from(TAGS),
}


class Sense(Visitor):
    """Replaces most ids, words and pages with ones that match existing tasks."""

    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__()
        self._draw = draw

    def leave_argument(self, node: ArgumentNode, *_: object) -> ArgumentNode:
        return ArgumentNode(name=node.name, value=self._sensible(node.name.value, node.value))

    def leave_object_field(self, node: ObjectFieldNode, *_: object) -> ObjectFieldNode:
        return ObjectFieldNode(name=node.name, value=self._sensible(node.name.value, node.value))

    def _sensible(self, name: str, value: ValueNode) -> ValueNode:
        if isinstance(value, NullValueNode) or self._draw(st.integers(0, 9)) == 0:
            return value
        if name == "trashed":
            return NullValueNode()
        if name == "first":
            return parse_value(str(self._draw(SIZES) or "null"))
        if name == "since" and self._draw(st.booleans()):
            return NullValueNode()
        if name not in WORDS:
            return value
        word = StringValueNode(value=self._draw(WORDS[name]))
        return ListValueNode(values=(word,)) if isinstance(value, ListValueNode) else word

    def leave_field(self, node: FieldNode, _key: object, _parent: object, _path: object, ancestors: list[Any]) -> Any:
        if node.name.value == "lists":
            return FieldNode(name=node.name, arguments=_arguments("{first: 2}"), selection_set=node.selection_set)
        if node.name.value != "tasks":
            return None
        # An invalid argument below a row would be an error of the root field.
        if any(isinstance(ancestor, FieldNode) for ancestor in ancestors):
            window = self._draw(st.sampled_from(INNER_WINDOWS)).strip("()")
            return FieldNode(name=node.name, arguments=_arguments(f"{{{window}}}"), selection_set=node.selection_set)
        filters_ = [argument for argument in node.arguments or () if argument.name.value == "filter"]
        others = _arguments(self._draw(windows()))
        return FieldNode(name=node.name, arguments=(*filters_, *others), selection_set=node.selection_set)


def _arguments(literal: str) -> tuple[ArgumentNode, ...]:
    """The fields of an object literal as arguments."""
    value = parse_value(literal)
    assert isinstance(value, ObjectValueNode)
    return tuple(ArgumentNode(name=field.name, value=field.value) for field in value.fields)


@st.composite
def windows(draw: st.DrawFn) -> str:
    """An order and a page of it, as literals."""
    order = order_input(draw(ORDERS))
    terms = ", ".join("{" + ", ".join(f"{name}: {value}" for name, value in term.items()) + "}" for term in order)
    size, mark = draw(SIZES), draw(st.sampled_from(["null"] * 12 + ['""', '"garbage"']))
    page = draw(st.sampled_from([f"first: {size}, after: {mark}", f"last: {size}, before: {mark}", ""]))
    return f"{{orderBy: [{terms}], {page}}}".replace("None", "null")


@st.composite
def sensible(draw: st.DrawFn) -> str:
    queries = hypothesis_graphql.queries(SDL, fields=ROOTS, custom_scalars=SCALARS, print_ast=lambda document: document)
    text = print_ast(visit(draw(queries), Sense(draw)))
    hypothesis.assume(within_limits(text))
    return text


@hypothesis.settings(RUN, max_examples=200)
@hypothesis.given(query=sensible())
async def test_queries_of_the_schema(people: People, query: str) -> None:
    """Queries generated from the schema get the oracle's response."""
    await people[ALICE].check(query)


WRONG = hypothesis_graphql.queries(SDL, fields=ROOTS, custom_scalars=SCALARS, mode=hypothesis_graphql.Mode.NEGATIVE)


@hypothesis.settings(RUN, max_examples=100)
@hypothesis.given(query=WRONG)
async def test_wrong_queries(people: People, query: str) -> None:
    """Queries that violate the schema once are rejected as by the oracle."""
    hypothesis.assume(within_limits(query))
    await people[ALICE].check(query)


# Mutations

ONE = {
    "createTask": "(input: $create)",
    "updateTask": "(id: $id, input: $update, expectedVersion: $version)",
    "setTaskCompleted": "(id: $id, completed: $completed, expectedVersion: $version)",
    "deleteTask": "(id: $id, expectedVersion: $version)",
    "restoreTask": "(id: $id)",
    "moveTask": "(id: $id, to: $to)",
    "createList": "(input: $createList)",
    "updateList": "(id: $id, input: $updateList, expectedVersion: $version)",
    "moveList": "(id: $id, to: $to)",
    "deleteList": "(id: $id, expectedVersion: $version)",
    "restoreList": "(id: $id)",
}
MANY = {
    "createTasks": "(inputs: $inputs)",
    "updateTasks": "(where: $where, input: $update, atMost: $most, dryRun: $dry)",
    "deleteTasks": "(where: $where, atMost: $most, dryRun: $dry)",
    "restoreTasks": "(where: $where, dryRun: $dry)",
    "purgeTasks": "(where: $where, atMost: $most, dryRun: $dry)",
}
OF_A_TAG = {"renameTag": "(from: $from, to: $name)", "deleteTag": "(name: $name)"}
CALLS = {
    **{name: (arguments, f"{'List' if 'List' in name else 'Task'}Payload") for name, arguments in ONE.items()},
    **{name: (arguments, "TasksPayload") for name, arguments in MANY.items()},
    "emptyTrash": ("(atMost: $most, dryRun: $dry)", "TrashPayload"),
    **{name: (arguments, "TagPayload") for name, arguments in OF_A_TAG.items()},
}
# The most interesting ones.
OFTEN = ["updateTask"] * 4 + [
    "renameTag",
    "restoreTask",
    "moveTask",
    "createTasks",
    "deleteList",
    "restoreList",
    "deleteTask",
]
TYPES = {
    "create": "CreateTaskInput!",
    "inputs": "[CreateTaskInput!]!",
    "update": "UpdateTaskInput!",
    "createList": "CreateListInput!",
    "updateList": "UpdateListInput!",
    "id": "ID!",
    "version": "Int",
    "completed": "Boolean!",
    "to": "MoveTarget!",
    "where": "TaskSelector!",
    "most": "Int",
    "dry": "Boolean",
    "from": "String!",
    "name": "String!",
}
LONG_AGO = {name: datetime(2000, 1, 1, tzinfo=UTC) for name in ("created_at", "updated_at")}
# A completed task, an open one and a trashed one; and two more ids.
BEFORE = [seeds(CAROL, 2)[place] | LONG_AGO | {"position": f"a{place:08x}"} for place in (0, 1, 4)]
LISTS_BEFORE = [
    one | LONG_AGO | {"position": f"a{place:08x}", "version": 1} for place, one in enumerate(lists_of(CAROL))
]
THEIRS = [str(IDS[place]) for place in (0, 0, 0, 1, 1, 1, 4, 5, 6)]
MINE = st.sampled_from(
    [*THEIRS * 2, *map(str, LIST_IDS), str(LIST_IDS[0]), str(CAROL), str(IDS[0]).upper(), "no UUID", ""]
)
TITLE = st.sampled_from([*TITLES * 3, "😀" * 200, "", " \n", "\u200b\u2800", "two\nlines", "\x1b", "x" * 201, "\0"])
OTHERS = {name: type_ for name, type_ in inputs("CreateTaskInput").items() if name not in {"id", "title", *DECIDED}}
TEXTS = {name: strategy(type_) for name, type_ in OTHERS.items()} | {
    "listId": st.none() | LISTED,
    "description": st.sampled_from([*DESCRIPTIONS * 3, "\x08\x0c", "d" * 1001]),
    "priority": st.none() | PRIORITY,
    "dueDate": st.none() | st.sampled_from(DAY_TEXTS),
    "tags": st.none() | st.lists(st.sampled_from([*TAGS * 4, " home", "Home ", *WRONG_TAGS]), max_size=4),
}
DONE = st.sampled_from([True, True, False])
TAG_CHANGES = {
    name: st.none() | st.lists(st.sampled_from([*TAGS * 4, "HOME", *WRONG_TAGS]), max_size=4)
    for name in ("addTags", "removeTags")
}
LIST_NAME = st.sampled_from([*NAMES * 3, "", " ", "x" * 101, "a\nb", "a\u2028", "\0"])
ICON = st.sampled_from([None, "🏠", "#fff", "", "x" * 33, "a\tb"])
# Null clears optional fields, but not required ones.
CLEARED = st.sampled_from([*TEXTS, "title", "completed"]).map(lambda name: {name: None})
# The last moments are in the future.
MOMENTS_OF_IMPORT = st.none() | st.sampled_from([*MOMENT_TEXTS * 3, "2099-01-01T00:00:00Z"])
IMPORTED = {"completed": st.none() | DONE, "completedAt": MOMENTS_OF_IMPORT, "createdAt": MOMENTS_OF_IMPORT}
CREATE = st.fixed_dictionaries({"id": MINE, "title": TITLE}, optional=TEXTS) | st.fixed_dictionaries(
    {"id": MINE, "title": TITLE}, optional=IMPORTED
)
ARGUMENTS: dict[str, st.SearchStrategy[Any]] = {
    "create": CREATE,
    "inputs": st.lists(CREATE, max_size=3)
    | st.lists(CREATE, min_size=2, max_size=2, unique_by=lambda task: str(task["id"])),
    "createList": st.fixed_dictionaries({"id": MINE, "name": LIST_NAME}, optional={"icon": ICON}),
    "updateList": st.fixed_dictionaries({}, optional={"name": LIST_NAME, "icon": ICON}),
    "update": st.fixed_dictionaries({"title": TITLE}, optional={"completed": DONE})
    | st.fixed_dictionaries({"completed": DONE}, optional=TEXTS)
    | st.fixed_dictionaries({}, optional=TEXTS)
    | st.fixed_dictionaries({}, optional={"title": TITLE, **TAG_CHANGES})
    | st.fixed_dictionaries({}, optional={"tags": TEXTS["tags"], **TAG_CHANGES})
    | CLEARED,
    "id": MINE,
    "version": st.sampled_from([*[None] * 8, 1, 2, 5, 6, 7]),
    "completed": DONE,
    "to": st.fixed_dictionaries({"before": MINE})
    | st.fixed_dictionaries({"after": MINE})
    | st.sampled_from([{"toStart": True}, {"toEnd": True}, {"toStart": True}, {"toEnd": True}, {"toEnd": False}]),
    "where": st.fixed_dictionaries({"ids": st.lists(st.sampled_from(THEIRS), max_size=4) | st.lists(MINE, max_size=2)})
    | st.fixed_dictionaries({"filter": filters() | st.just({})})
    | st.sampled_from([{"all": True}, {"all": True}, {"all": False}]),
    "most": st.sampled_from([*[None] * 6, 1, 2, 1000, 0, 1001]),
    "dry": st.sampled_from([None, False, False, True]),
    "from": st.sampled_from([*TAGS * 3, "", "\0", "unknown"]),
    "name": st.sampled_from([*TAGS * 3, "", "\0", "t" * 51, "New", "new ", "HOME"]),
}


@st.composite
def writes(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A mutation with its variables."""
    writer = Writer(draw)
    name = draw(st.sampled_from([*OFTEN, *CALLS]))
    arguments, payload = CALLS[name]
    call = f"{name}{arguments}"
    used = {variable: type_ for variable, type_ in TYPES.items() if re.search(rf"\${variable}\b", call)}
    switches = {variable: draw(st.booleans()) for variable in SWITCHES}
    text = writer.document("mutation", used, f"{call} {writer.directive()} {writer.selection(payload)}")
    variables = switches | {variable: draw(ARGUMENTS[variable]) for variable in used}
    hypothesis.assume(within_limits(text, variables))
    return text, variables


@hypothesis.settings(RUN, max_examples=80)
@hypothesis.given(steps=st.lists(writes(), min_size=6, max_size=12))
async def test_mutations(people: People, steps: list[tuple[str, dict[str, Any]]]) -> None:
    """Sequential mutations return the oracle's responses and leave the oracle's state."""
    carol = people[CAROL]
    await carol.begin(BEFORE, LISTS_BEFORE)
    for query, variables in steps:
        if not within_limits(query, variables):
            continue
        await carol.check(query, variables)
        expected = carol.oracle.state()
        await carol.oracle.load()
        found = carol.oracle.state()
        pairs = {key: (found[-1].get(key), expected[-1].get(key)) for key in found[-1].keys() | expected[-1].keys()}
        shown = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
        assert found == expected, f"{json.dumps(variables)}\n{query}\n{shown}"


# Regressions that the tests above found, reduced


async def test_a_search_stays_within_one_text(alice: User) -> None:
    """A word is not found across the title and the description, but each of several may be in another one."""
    await alice.add("One", description="two")
    query = "query ($words: String) { tasks(filter: {search: $words}) { totalCount } }"

    for words, count in {"one": 1, "TWO": 1, "two\none": 1, "onetwo": 0, "ONE three": 0}.items():
        assert await alice.data(query, words=words) == {"tasks": {"totalCount": count}}, words


async def test_an_empty_id_is_no_uuid(alice: User) -> None:
    """A task cannot be created with an empty id."""
    for query in (
        'mutation { createTask(input: {id: "", title: "New"}) { token } }',
        'mutation { createTasks(inputs: [{id: "", title: "New"}]) { token } }',
    ):
        answer = await alice.ask(query)
        assert [error["extensions"]["code"] for error in answer.get("errors", [])] == ["BAD_USER_INPUT"]
