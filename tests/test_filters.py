"""Task filters, each condition alone and nested, compared with a Python model of the same tasks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from operator import or_
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import SECRET, Application, Server, User, Wire, connect
from folding import is_found
from hypothesis import given, settings
from hypothesis import strategies as st

from app.identity.tokens import Signer

FIND = """
    query Find($filter: TaskFilter) {
        tasks(filter: $filter, first: 100) { nodes { id } totalCount }
    }
"""
ORDERED = """
    query Ordered($filter: TaskFilter, $direction: OrderDirection!, $after: String) {
        tasks(filter: $filter, orderBy: {field: DUE_DATE, direction: $direction}, first: 2, after: $after) {
            nodes { id dueDate } pageInfo { endCursor }
        }
    }
"""
READ = "query Read($id: ID!) { task(id: $id) { id dueDate } }"
UPDATE = """
    mutation Update($id: ID!, $input: UpdateTaskInput!) {
        updateTask(id: $id, input: $input) { task { id dueDate } userErrors { code } }
    }
"""

Filter = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A task in the Python model."""

    id: UUID
    title: str
    description: str | None
    completed: bool
    priority: str
    due: date | None
    tags: frozenset[str]
    created: datetime
    updated: datetime
    trashed: bool


TITLES = (
    *(
        "Buy milk",
        "BUY BREAD",
        "100% done",
        "100 percent done",
        "under_score",
        "underXscore",
        "back\\slash",
        "a%b_c\\d",
    ),
    *(
        "Éclair",
        "éCLAIR",
        "Straße",
        "ΣΊΣΥΦΟΣ",
        "日本語",
        "party 🎉",
        "it's quoted",
        'it is "quoted"',
        "two  lines",
        "x" * 200,
    ),
)
DESCRIPTIONS = (None, "With milk\non two lines", "50%", "snake_case", "C:\\tasks", "ÜBER alles", "")
DUES = (None, date.min, date(2026, 1, 1), None, date(2026, 1, 2), date(2026, 2, 28), date.max)
PRIORITIES = ("NONE", "LOW", "MEDIUM", "HIGH", "URGENT")
LONG_TAG = "t" * 50
TAGS = ((), ("home",), ("home", "work"), ("work", "Home"), ("ö", "a,b"), ('"{}"', "null"), (LONG_TAG,), ("%", "home"))
START = datetime(2026, 1, 1, 12, 0, 0, 123456, UTC)
SEEDED = [
    Task(
        id=UUID(int=number << 64 | 0xA << 48 | number),
        title=TITLES[number % len(TITLES)],
        description=DESCRIPTIONS[number % len(DESCRIPTIONS)],
        completed=number % 3 == 0,
        priority=PRIORITIES[number % len(PRIORITIES)],
        due=DUES[number * 5 % 8 % len(DUES)],
        tags=frozenset(TAGS[number * 3 % len(TAGS)]),
        created=START + timedelta(hours=number // 2),
        updated=START + timedelta(days=number % 11, microseconds=number),
        trashed=number % 7 == 6,
    )
    for number in range(44)
]
# Dates as text: the driver would read the last representable one as infinity.
INSERT = """
    INSERT INTO tasks (user_id, id, title, description, completed, completed_at, priority, due_date, tags, position,
                       version, created_at, updated_at, deleted_at)
    SELECT $1, $2, $3, $4, $5, CASE WHEN $5 THEN now() END, $6, $7::text::date, $8, $9, 1, $10, $11,
           CASE WHEN $12 THEN now() END
"""


def within(value: Any, bounds: Mapping[str, Any], parse: Callable[[str], Any]) -> bool:
    """Whether a value exists and is in a range."""
    gte, lt, null = (bounds.get(name) for name in ("gte", "lt", "isNull"))
    return (
        (gte is None or (value is not None and value >= parse(gte)))
        and (lt is None or (value is not None and value < parse(lt)))
        and (null is None or (value is None) == null)
    )


CONDITIONS: dict[str, Callable[[Task, Any], bool]] = {
    "ids": lambda task, ids: task.id in map(UUID, ids),
    "completed": lambda task, completed: task.completed == completed,
    "search": lambda task, text: is_found(text, [task.title, task.description or "", *task.tags]),
    "priority": lambda task, priorities: task.priority in priorities,
    "tagsAll": lambda task, tags: {tag.lower() for tag in tags} <= {tag.lower() for tag in task.tags},
    "tagsAny": lambda task, tags: not {tag.lower() for tag in tags}.isdisjoint(tag.lower() for tag in task.tags),
    "due": lambda task, bounds: within(task.due, bounds, date.fromisoformat),
    "created": lambda task, bounds: within(task.created, bounds, datetime.fromisoformat),
    "updated": lambda task, bounds: within(task.updated, bounds, datetime.fromisoformat),
    "trashed": lambda _task, _trashed: True,
    "and": lambda task, filters: all(matches(task, each) for each in filters),
    "or": lambda task, filters: any(matches(task, each) for each in filters),
    "not": lambda task, each: not matches(task, each),
}


def matches(task: Task, asked: Filter) -> bool:
    """The schema's meaning of a filter, except `trashed`."""
    return all(CONDITIONS[name](task, value) for name, value in asked.items() if value is not None)


def predicted(asked: Filter) -> set[str]:
    """The ids that the model selects."""
    trashed = bool(asked.get("trashed"))
    return {str(task.id) for task in SEEDED if task.trashed == trashed and matches(task, asked)}


async def found(user: User, asked: Filter | None) -> set[str]:
    """The ids that the server selects; checks that all tasks belong to the user and that totalCount is correct."""
    page = (await user.data(FIND, filter=asked))["tasks"]
    ids = {node["id"] for node in page["nodes"]}
    assert len(ids) == len(page["nodes"]) == page["totalCount"]
    return ids


async def refused(user: User, wire: Wire, asked: Filter, code: str = "BAD_USER_INPUT") -> None:
    """An invalid filter is rejected, and no SQL is sent."""
    await wire.statements()
    answer = await user.ask(FIND, filter=asked)
    assert [error["extensions"]["code"] for error in answer.get("errors", [])] == [code], answer
    assert not any((answer.get("data") or {}).values())
    assert await wire.statements() == []


def columns(task: Task, owner: UUID) -> tuple[Any, ...]:
    """The arguments of INSERT."""
    return (
        *(owner, task.id, task.title, task.description, task.completed, PRIORITIES.index(task.priority)),
        *(task.due and task.due.isoformat(), list(task.tags), f"a{task.id}", task.created, task.updated, task.trashed),
    )


@pytest.fixture(scope="module")
async def user(server: Server, application: Application) -> User:
    """One of two users who have the seeded tasks with the same ids, so that a leaked row would be a duplicate."""
    connection = await connect(server.owner_url)
    users = []
    for _ in range(2):
        email = f"{uuid4()}@example.com"
        user_id = await connection.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", email)
        await connection.executemany(INSERT, [columns(task, user_id) for task in SEEDED])
        token = Signer(SECRET).token(user_id, timedelta(hours=1))
        users.append(User(user_id, email, token, application.http))
    await connection.close()
    return users[1]


IDS = [str(task.id) for task in SEEDED]
NOON, LATER = START.isoformat(), (START + timedelta(hours=7)).isoformat()
SELECTIVE: list[Filter] = [
    {"ids": IDS[:5]},
    {"ids": [IDS[3], IDS[3].upper(), str(UUID(int=1))]},
    {"completed": True},
    {"completed": False},
    *({"search": text} for text in ("milk", "MILK", "buy b", "100%", "%", "_", "_s", "\\", "%b_", "C:\\")),
    *(
        {"search": text}
        for text in (
            "éclair",
            "ÉCLAIR",
            "über",
            "σίσυφοσ",
            "本",
            "🎉",
            "'",
            '"',
            "o\nl",
            "milk lines  bread",
            "HOME milk",
            "x" * 200,
        )
    ),
    *({"priority": priorities} for priorities in (["NONE"], ["HIGH", "URGENT"], ["LOW", "LOW"])),
    *({"tagsAll": tags} for tags in (["home"], ["home", "work"], ["work", "home"], ["ö"], ['"{}"'], ["a,b"], ["%"])),
    *({"tagsAny": tags} for tags in (["home"], ["Home"], ["null", "ö"], ["nothing", "work"], [LONG_TAG])),
    *({"due": {"gte": day}} for day in ("0001-01-01", "0001-01-02", "2026-01-01", "2026-01-02", "9999-12-31")),
    *({"due": {"lt": day}} for day in ("0001-01-02", "2026-01-01", "2026-01-02", "9999-12-31")),
    {"due": {"gte": "2026-01-01", "lt": "2026-02-28"}},
    {"due": {"isNull": True}},
    {"due": {"isNull": False}},
    {"due": {"isNull": False, "lt": "2026-01-02"}},
    *({name: {"gte": LATER}} for name in ("created", "updated")),
    *({name: {"lt": LATER}} for name in ("created", "updated")),
    {"created": {"gte": NOON, "lt": LATER}},
    {"created": {"gte": "2026-01-01T14:00:00.123456+01:00", "lt": "2026-01-01T10:00:00.123457-05:00"}},
    {"updated": {"gte": "2026-01-03T12:00:00.123458Z", "lt": "2026-01-03T12:00:00.123470Z"}},
    {"created": {"gte": LATER}, "updated": {"lt": "2026-01-05T00:00:00Z"}},
    {"trashed": True},
    {"trashed": True, "completed": True},
    {"completed": False, "priority": ["HIGH", "NONE"], "tagsAny": ["home", "work"]},
    {"search": "e", "due": {"gte": "2026-01-01"}, "completed": False, "created": {"lt": LATER}},
    {"and": [{"completed": True}, {"priority": ["NONE", "LOW"]}]},
    {"or": [{"completed": True}, {"priority": ["NONE"]}]},
    {"or": [{"tagsAll": ["home"], "completed": True}, {"search": "%"}], "due": {"isNull": False}},
    {"not": {"completed": True}},
    {"not": {"search": "milk"}},
    {"not": {"due": {"gte": "2026-01-02"}}},
    {"not": {"due": {"lt": "2026-01-02"}}},
    {"not": {"tagsAny": ["home"], "completed": False}},
    {"not": {"or": [{"completed": True}, {"not": {"priority": ["NONE", "HIGH"]}}]}},
    {"and": [{"or": [{"search": "e"}, {"search": "a"}]}, {"not": {"and": [{"completed": True}, {"tagsAny": ["ö"]}]}}]},
    {"trashed": True, "or": [{"completed": True}, {"due": {"isNull": True}, "trashed": False}]},
]
NOTHING: list[Filter] = [
    {"ids": []},
    {"ids": [str(UUID(int=1))]},
    *(
        {"search": text}
        for text in ("xx_", "100%%", "milk%", "__", "y" * 1000, "\\\\", "no such task", "\u0301", "milk \u0301")
    ),
    {"priority": []},
    {"tagsAny": []},
    {"tagsAll": ["home", "no such tag"]},
    {"due": {"gte": "2026-01-02", "lt": "2026-01-02"}},
    {"due": {"isNull": True, "gte": "0001-01-01"}},
    {"due": {"isNull": True, "lt": "9999-12-31"}},
    {"due": {"lt": "0001-01-01"}},
    {"created": {"lt": "0001-01-01T00:00:00Z"}},
    {"or": []},
    {"not": {}},
    {"not": {"and": []}},
    {"completed": True, "not": {"completed": True}},
]
EVERYTHING: list[Filter] = [
    {},
    *({name: None} for name in CONDITIONS),
    *({name: {}} for name in ("due", "created", "updated")),
    *({name: {"gte": None, "lt": None}} for name in ("due", "created", "updated")),
    {"due": {"isNull": None}},
    *({"search": text} for text in ("", " ", "\u3000\n", "\u200b")),
    {"tagsAll": []},
    {"and": []},
    {"and": [{}, {"trashed": None, "ids": None}]},
    {"or": [{}]},
    {"or": [{"completed": True}, {}]},
    {"not": {"or": []}},
    {"not": {"ids": []}},
    {"created": {"gte": "0001-01-01T00:00:00Z", "lt": "9999-12-31T23:59:59.999999Z"}},
    {"created": {"gte": "0001-01-01T12:00:00+12:00", "lt": "9999-12-31T11:59:59.999999-12:00"}},
    {"trashed": False, "and": [{"trashed": False}]},
]


@pytest.mark.parametrize("asked", SELECTIVE, ids=str)
async def test_conditions_match_the_model(user: User, asked: Filter) -> None:
    """Each condition selects the tasks that the model predicts: some, but not all."""
    expected = predicted(asked)

    assert 0 < len(expected) < len(predicted({}))
    assert await found(user, asked) == expected


@pytest.mark.parametrize("asked", NOTHING, ids=str)
async def test_unsatisfiable_conditions(user: User, asked: Filter) -> None:
    """Unsatisfiable conditions select nothing, including empty lists of ids, tags, priorities or filters."""
    assert predicted(asked) == set()
    assert await found(user, asked) == set()


@pytest.mark.parametrize("asked", [None, *EVERYTHING], ids=str)
async def test_empty_conditions_select_everything(user: User, asked: Filter | None) -> None:
    """Null, empty and always true conditions select all tasks outside the trash."""
    assert await found(user, asked) == {str(task.id) for task in SEEDED if not task.trashed}


MOMENTS = st.datetimes(START.replace(tzinfo=None), datetime(2026, 1, 14), timezones=st.just(UTC))  # noqa: DTZ001
WORDS = st.sampled_from(["milk", "E", "%", "_", "\\", "%d", "é", "Σ", "ss", "10", " "]) | st.text(
    "abBeEé%_\\ ", max_size=2
)
TAG_LISTS = st.lists(st.sampled_from(sorted({tag for tags in TAGS for tag in tags} | {"none"})), max_size=3)
SPANS = st.fixed_dictionaries({}, optional={end: MOMENTS.map(datetime.isoformat) | st.none() for end in ("gte", "lt")})
DAYS = st.sampled_from(DUES[1:3] + DUES[4:]).map(date.isoformat) | st.none()
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "ids": st.lists(st.sampled_from(IDS), max_size=30),
    "completed": st.booleans(),
    "search": WORDS,
    "priority": st.lists(st.sampled_from(PRIORITIES), max_size=4),
    "tagsAll": TAG_LISTS,
    "tagsAny": TAG_LISTS,
    "due": st.fixed_dictionaries({}, optional={"gte": DAYS, "lt": DAYS, "isNull": st.booleans() | st.none()}),
    "created": SPANS,
    "updated": SPANS,
}
LEAVES = st.one_of([st.fixed_dictionaries({name: value}) for name, value in VALUES.items()])


def nested(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    filters = st.lists(inner, max_size=3)
    return st.one_of(
        filters.map(lambda each: {"and": each}),
        filters.map(lambda each: {"or": each}),
        inner.map(lambda each: {"not": each}),
        st.builds(or_, inner, inner),
    )


FILTERS = st.builds(or_, st.recursive(LEAVES, nested, max_leaves=8), st.sampled_from([{}, {}, {"trashed": True}]))


@settings(max_examples=60)
@given(asked=FILTERS)
async def test_any_filter(user: User, asked: Filter) -> None:
    """Any nesting of conditions selects the tasks that the model predicts."""
    assert await found(user, asked) == predicted(asked)


@pytest.mark.parametrize("name", ["created", "updated"])
@pytest.mark.parametrize("offset", ["+20:00", "-23:59", "+15:59"])
async def test_any_offset_of_rfc_3339(user: User, name: str, offset: str) -> None:
    """A time may have any UTC offset that RFC 3339 allows, up to 23:59."""
    asked = {name: {"gte": "2026-01-01T02:00:00" + offset, "lt": "2026-01-02T12:00:00" + offset}}

    assert await found(user, asked) == predicted(asked) != set()


@pytest.mark.parametrize(
    "asked",
    [
        {"due": {"lt": "2026-W01-1"}},
        {"due": {"lt": "20260101"}},
        {"due": {"lt": "2026-02-30"}},
        {"created": {"lt": "2026-01-01"}},
        {"created": {"lt": "2026-01-01T00:00:00"}},
        {"created": {"lt": "2026-01-01x00:00:00Z"}},
        {"created": {"lt": "20260101T000000Z"}},
        {"created": {"lt": "2026-13-01T00:00:00Z"}},
    ],
    ids=str,
)
async def test_dates_and_times_are_rfc_3339(alice: User, wire: Wire, asked: Filter) -> None:
    """Other formats of dates and times are BAD_USER_INPUT, and no SQL is sent."""
    answer = await alice.ask(FIND, filter=asked)

    assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    assert await wire.statements() == []


async def test_tags_match_as_a_whole(user: User) -> None:
    """Tags match as a whole: a value longer than any tag matches nothing, even if a tag is its prefix."""
    asked: list[Filter] = [{name: [LONG_TAG + "t"]} for name in ("tagsAll", "tagsAny")]

    assert await found(user, {"tagsAll": [LONG_TAG]}) != set()
    assert [await found(user, each) for each in asked] == [set(), set()]


async def test_ids_of_another_user(alice: User, bob: User) -> None:
    """Another user's ids select nothing, in any kind of filter."""
    hers, his = (await alice.add())["id"], (await bob.add())["id"]

    for asked, expected in (
        ({"ids": [his]}, set()),
        ({"ids": [hers, his]}, {hers}),
        ({"or": [{"ids": [his]}, {"completed": False}]}, {hers}),
        ({"not": {"ids": [hers]}}, set()),
    ):
        assert await found(alice, asked) == expected


async def test_the_largest_number_of_conditions_and_values(user: User) -> None:
    """A filter may have 50 conditions and lists of 1,000 values."""
    assert await found(user, {"and": [{"completed": True}] * 50}) == predicted({"completed": True})
    assert await found(user, {"ids": IDS + [str(UUID(int=1))] * (1000 - len(IDS))}) == predicted({})
    assert await found(user, {"tagsAny": ["home"] * 1000}) == predicted({"tagsAny": ["home"]})


@pytest.mark.parametrize(
    "asked",
    [
        {"and": [{"completed": True}] * 51},
        {"or": [{"not": {"completed": True, "search": "a"}}] * 25, "completed": True},
        {"or": [{"due": {"gte": "2026-01-01", "lt": "2026-01-02", "isNull": False}}] * 17},
        {"ids": [IDS[0]] * 1001},
        {"priority": ["NONE"] * 1001},
        {"tagsAll": ["home"] * 1001},
        {"not": {"tagsAny": ["home"] * 1001}},
    ],
    ids=lambda asked: str(asked)[:40],
)
async def test_too_many_conditions_and_values(user: User, wire: Wire, asked: Filter) -> None:
    """More than 50 conditions or a list of more than 1,000 values is rejected before any SQL."""
    await refused(user, wire, asked, "LIMIT_EXCEEDED")


@pytest.mark.parametrize("name", ["not", "and", "or"])
async def test_a_filter_nested_deeply(user: User, wire: Wire, name: str) -> None:
    """However deeply a filter is nested, the result is correct, or the request is rejected before any SQL."""
    refusals = []
    for depth in (*range(2, 300, 14), 900):
        asked: Filter = {"completed": True}
        for _ in range(depth):
            asked = {name: asked}
        await wire.statements()
        answer = await user.ask(FIND, filter=asked)
        sent = await wire.statements()
        if "errors" in answer:
            refusals.append((answer["errors"][0]["extensions"]["code"], len(sent)))
        else:
            assert {node["id"] for node in answer["data"]["tasks"]["nodes"]} == predicted({"completed": True})

    assert refusals
    assert all(refusal in {("BAD_USER_INPUT", 0), ("LIMIT_EXCEEDED", 0)} for refusal in refusals)


@pytest.mark.parametrize(
    "asked",
    [
        {"not": {"trashed": True}},
        {"and": [{"trashed": True}]},
        {"or": [{"completed": True}, {"trashed": True}]},
        {"trashed": True, "and": [{"not": {"or": [{"trashed": True}]}}]},
        *({"ids": [text]} for text in ("", "1", IDS[0][:-1], IDS[0].replace("-", ""), "{" + IDS[0] + "}", "é" * 36)),
        {"ids": [IDS[0], "urn:uuid:" + IDS[0]]},
        {"not": {"ids": ["x"]}},
        {"search": "\0"},
        {"search": "milk\0"},
        {"or": [{"search": "\0"}]},
        {"tagsAll": ["home", "\0"]},
        {"tagsAny": ["a\0b"]},
        *({"due": {"gte": text}} for text in ("", "2026-02-30", "2026-1-1", "0000-01-01", "infinity", "10000-01-01")),
        *({"created": {"lt": text}} for text in ("", "now", "2026-01-01T00:00:00", "2026-01-01T24:00:00Z", "infinity")),
        {"created": {"gte": "0001-01-01T00:00:00+00:01"}},
        {"updated": {"lt": "9999-12-31T23:59:59-00:01"}},
        {"priority": ["none"]},
        {"and": [None]},
        {"ids": [None]},
        {"unknown": 1},
    ],
    ids=lambda asked: str(asked)[:60],
)
async def test_wrong_conditions(user: User, wire: Wire, asked: Filter) -> None:
    """A nested `trashed` and values that are not valid ids, text, dates or times are rejected before any SQL."""
    await refused(user, wire, asked)


async def test_the_last_day_there_is(alice: User, bob: User) -> None:
    """9999-12-31 is stored, read, filtered, sorted and paged like any due date; later dates do not exist."""
    for user in (bob, alice):
        ids = {day: (await user.add(dueDate=day))["id"] for day in (None, "9999-12-31", "9999-12-30", "0001-01-01")}
    last = ids["9999-12-31"]

    assert (await alice.data(READ, id=last))["task"] == {"id": last, "dueDate": "9999-12-31"}
    changed = await alice.data(UPDATE, id=ids["9999-12-30"], input={"dueDate": "9999-12-31"})
    assert changed["updateTask"]["task"]["dueDate"] == "9999-12-31"
    await alice.data(UPDATE, id=ids["9999-12-30"], input={"dueDate": "9999-12-30"})
    assert await found(alice, {"due": {"gte": "9999-12-31"}}) == {last}
    assert await found(alice, {"due": {"lt": "9999-12-31"}}) == {ids["0001-01-01"], ids["9999-12-30"]}
    assert await found(alice, {"due": {"isNull": True}}) == {ids[None]}
    days = ["0001-01-01", "9999-12-30", "9999-12-31", None]
    for direction, expected in (("ASC", days), ("DESC", days[::-1])):
        first = (await alice.data(ORDERED, direction=direction))["tasks"]
        second = (await alice.data(ORDERED, direction=direction, after=first["pageInfo"]["endCursor"]))["tasks"]
        third = (await alice.data(ORDERED, direction=direction, after=second["pageInfo"]["endCursor"]))["tasks"]
        assert [node["dueDate"] for page in (first, second) for node in page["nodes"]] == expected
        assert third["nodes"] == []


@pytest.mark.parametrize(
    ("title", "words"),
    [("ΣΊΣΥΦΟΣ", "σίσυφος"), ("Σίσυφος", "ΣΙΣΥΦΟΣ"), ("Þórður", "thordur"), ("Straße nach Łódź", "STRASSE NACH lodz")],
)
async def test_search_in_languages_of_users(alice: User, bob: User, title: str, words: str) -> None:
    """A search ignores case, diacritics and alternative forms of a letter."""
    await bob.add(title)
    task = await alice.add(title)

    found = await alice.data(
        "query ($words: String!) { tasks(filter: { search: $words }) { nodes { id } } }", words=words
    )
    assert found["tasks"]["nodes"] == [{"id": task["id"]}]


async def test_search_follows_sql(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Search finds the text that other programs write, and only that, even if they write the column of search keys."""
    query = "query ($words: String!) { tasks(filter: { search: $words }) { nodes { id } } }"
    task, _ = await alice.add("Milk"), await bob.add("Brot")

    async def finds(words: str) -> bool:
        return bool((await alice.data(query, words=words))["tasks"]["nodes"] == [{"id": task["id"]}])

    for change, words, former in (
        ("title = 'Brot', completed = true, completed_at = now()", "brot", "milk"),
        ("description = 'Käse'", "kase", "milk"),
        ("search = 'milk'", "brot", "milk"),
        ("title = 'Tee', description = NULL", "tee", "kase"),
    ):
        await owner.execute(f"UPDATE tasks SET {change} WHERE id = $1", UUID(task["id"]))  # noqa: S608 - of this test
        assert (await finds(words), await finds(former)) == (True, False), change
