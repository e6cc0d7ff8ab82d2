"""Searches: all words in any order, in titles, descriptions, tags and names of lists, for every script."""

import sys
import unicodedata
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import hypothesis
import hypothesis.strategies as st
import pytest
from conftest import Server, User, connect, made_settings
from folding import folded, is_blank, is_found, is_ignorable, is_ignored_mark

from app import characters
from app.database.url import DatabaseURL
from app.errors import StartupError
from app.startup import findings, refuse_failures
from migrations.run import migrate

NewUser = Callable[..., Awaitable[User]]

SEARCH = "query ($words: String) { tasks(filter: { search: $words }, first: 100) { nodes { title } totalCount } }"
CREATE_LIST = "mutation ($name: String!) { createList(input: { name: $name }) { list { id } userErrors { code } } }"
KEYS = "SELECT letter, search_key($2 || letter || $3) AS key FROM unnest($1::text[]) AS letter"
EVERY = [
    chr(code)
    for code in range(1, sys.maxunicode + 1)
    if not 0xD800 <= code < 0xE000 and unicodedata.category(chr(code)) != "Cn"
]


async def titles(user: User, words: str) -> list[str]:
    page = (await user.data(SEARCH, words=words))["tasks"]
    found = sorted(node["title"] for node in page["nodes"])
    assert len(found) == page["totalCount"]
    return found


async def made_list(user: User, name: str) -> str:
    made = (await user.data(CREATE_LIST, name=name))["createList"]
    assert made["userErrors"] == []
    found: str = made["list"]["id"]
    return found


@pytest.fixture
async def user(new_user: NewUser) -> User:
    """A user with tasks in lists. Another user has the same tasks, so that a leaked one would be found twice."""
    users = [await new_user(), await new_user()]
    for each in users:
        lists = [await made_list(each, name) for name in ("Groceries", "Été à la mer")]
        await each.add("Buy milk", description="two litres of oat", tags=["Shop", "café"], listId=lists[0])
        await each.add("Call mum", description="about the\nmilk delivery", tags=["phone"])
        await each.add("Swimsuit", listId=lists[1])
    return users[0]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("milk", ["Buy milk", "Call mum"]),
        ("milk buy", ["Buy milk"]),
        ("  oat   BUY\t\n ", ["Buy milk"]),
        ("milk delivery", ["Call mum"]),
        ("mil del", ["Call mum"]),
        ("buy delivery", []),
        ("groceries", ["Buy milk"]),
        ("grocer milk", ["Buy milk"]),
        ("grocer mum", []),
        ("ete swim", ["Swimsuit"]),
        ("ete a mer la", ["Swimsuit"]),
        ("cafe", ["Buy milk"]),
        ("shop cafe oat groceries buy", ["Buy milk"]),
        ("phone delivery", ["Call mum"]),
        ("phone shop", []),
        ("milktwo", []),
        ("milk\u00ad \u200b bu\u200dy\ufeff", ["Buy milk"]),
        ("", ["Buy milk", "Call mum", "Swimsuit"]),
        (" \u3000\t", ["Buy milk", "Call mum", "Swimsuit"]),
        ("\u200b\u00ad", ["Buy milk", "Call mum", "Swimsuit"]),
        ("\u0301", []),
        ("\u064b\u05b0", []),
        ("milk \u0301", []),
        ("¨", []),
    ],
)
async def test_all_words_in_any_order(user: User, words: str, found: list[str]) -> None:
    """A task is found if its title, description, tags and list together contain all words of the search."""
    assert await titles(user, words) == found


async def test_a_search_negated_and_in_alternatives(user: User) -> None:
    """`not` negates the whole search, and a search without a word is true."""
    query = "query ($filter: TaskFilter) { tasks(filter: $filter) { nodes { title } } }"
    for tree, found in (
        ({"not": {"search": "milk buy"}}, {"Call mum", "Swimsuit"}),
        ({"not": {"search": " "}}, set()),
        ({"or": [{"search": "swimsuit"}, {"search": "groceries oat"}]}, {"Buy milk", "Swimsuit"}),
        ({"or": [{"search": "\u0301"}, {"search": "mum"}]}, {"Call mum"}),
    ):
        page = (await user.data(query, filter=tree))["tasks"]
        assert {node["title"] for node in page["nodes"]} == found, tree


async def test_names_are_searched_as_they_are(user: User) -> None:
    """After a tag or a list is renamed, or a task leaves its list, only the new name finds tasks."""
    lists = (await user.data("{ lists(first: 9) { nodes { id name } } }"))["lists"]["nodes"]
    ids = {each["name"]: each["id"] for each in lists}
    versions = "{ tasks(first: 9) { nodes { title version } } }"
    before = await user.data(versions)

    await user.data(
        'mutation ($id: ID!) { updateList(id: $id, input: { name: "Markt" }) { token } }', id=ids["Groceries"]
    )
    assert (await titles(user, "groceries"), await titles(user, "MARKT milk")) == ([], ["Buy milk"])
    assert await user.data(versions) == before

    await user.data('mutation { renameTag(from: "phone", to: "Téléphone") { token } }')
    assert (await titles(user, "phone"), await titles(user, "telephone")) == (["Call mum"], ["Call mum"])
    await user.data('mutation { renameTag(from: "téléphone", to: "ring") { token } }')
    assert (await titles(user, "phone"), await titles(user, "ring")) == ([], ["Call mum"])

    move = "mutation ($ids: [ID!]!) { updateTasks(where: { ids: $ids }, input: { listId: null }) { affectedCount } }"
    tasks = (await user.data("{ tasks(first: 9) { nodes { id title } } }"))["tasks"]["nodes"]
    await user.data(move, ids=[task["id"] for task in tasks if task["title"] == "Buy milk"])
    assert (await titles(user, "markt"), await titles(user, "buy milk")) == ([], ["Buy milk"])


async def test_names_below_lists_in_bulk_and_in_the_trash(user: User) -> None:
    """Names of lists and tags find tasks in nested pages, in bulk writes, and in the trash with their list."""
    nested = '{ lists(first: 9) { nodes { name tasks(filter: { search: "groc shop" }) { totalCount } } } }'
    counts = {each["name"]: each["tasks"]["totalCount"] for each in (await user.data(nested))["lists"]["nodes"]}
    assert counts == {"Groceries": 1, "Été à la mer": 0}

    complete = """mutation { updateTasks(where: { filter: { search: "CAFÉ grocer" } }, input: { completed: true }) {
        tasks { title } } }"""
    assert (await user.data(complete))["updateTasks"]["tasks"] == [{"title": "Buy milk"}]

    lists = (await user.data("{ lists(first: 9) { nodes { id name } } }"))["lists"]["nodes"]
    await user.data("mutation ($id: ID!) { deleteList(id: $id) { token } }", id=lists[0]["id"])
    trashed = '{ tasks(filter: { trashed: true, search: "groceries" }) { nodes { title } } }'
    assert (await user.data(trashed))["tasks"]["nodes"] == [{"title": "Buy milk"}]


# What is stored, and searches that find it, in scripts of the world.
FOUND = [
    (
        "Don\u2019t \u201cforget\u201d \u2013 now",
        ["don't", '"forget"', "- now", "don\u2018t", "don\u00b4t", "«forget»"],
    ),
    ('plain "quotes" and it\'s - ok', ["\u201equotes\u201d", "it\u2019s", "\u2014", "\u2212 ok"]),
    ("צה״ל שָׁלוֹם", ['צה"ל', "שלום", "שלוֹם"]),
    ("مُحَمَّد أحمد آداب مؤمن شاطئ كتــاب", ["محمد", "احمد", "اداب", "مومن", "شاطي", "كتاب", "مُحمد"]),
    ("ܡܰܠܟܳܐ", ["ܡܠܟܐ"]),
    ("Ὀδυσσεύς ᾳ ΣΊΣΥΦΟΣ", ["οδυσσευσ", "ΟΔΥΣΣΕΎΣ", "α", "σισυφος"]),  # noqa: RUF001 - Greek
    ("Ёлка Йод ТРАМВА́Й", ["елка", "иод", "трамвай", "ЁЛКА"]),  # noqa: RUF001 - Cyrillic
    ("がぎぱ ガラス ｶﾞﾗｽ", ["かきは", "カラス", "がぎぱ", "ｶﾗｽ"]),
    ("İstanbul ISPARTA ığdır", ["istanbul", "ısparta", "igdir"]),  # noqa: RUF001 - Turkish
    ("Straße Æsir œuvre Þórr Łódź Đà Nẵng", ["STRASSE", "aesir", "OEUVRE", "thorr", "lodz", "da nang"]),
    ("한국어 회의", ["한국", "회의", "하"]),
    ("ＦＵＬＬ ① ﬁne", ["full", "1", "fine"]),  # noqa: RUF001 - on purpose
    ("Շնորհակալություն", ["ՇՆՈՐՀ"]),
    ("ᏣᎳᎩ", ["ꮳꮃꭹ"]),
    ("co\u00adop\u200ber\u2060ate 👩\u200d👩 ❤\ufe0f", ["cooperate", "👩👩", "❤"]),
]
# What is stored, and similar words that do not find it.
NOT_FOUND = [
    ("की काम", ["कि", "के", "कम"]),
    ("राज़", ["राजा"]),
    ("ใกล้ ไกล ป่า", ["ใกล่", "ปา ", "ป้า"]),
    ("ក្រុង", ["ករុង"]),
    ("தமிழ்", ["தமழ"]),
    ("cafe", ["caf\u1ea1e", "kafe"]),
]


@pytest.mark.parametrize(("title", "searches"), FOUND, ids=[title for title, _ in FOUND])
async def test_marks_that_are_ignored(new_user: NewUser, title: str, searches: list[str]) -> None:
    """Accents, vowel points, case, typography and invisible characters do not tell words apart, in either direction."""
    alice, bob = await new_user(), await new_user()
    for each in searches:
        await bob.add(each)
    await alice.add(title)

    for words in searches:
        assert await titles(alice, words) == [title], words
        assert words in await titles(bob, words)
        assert await titles(bob, words) == sorted(each for each in searches if is_found(words, [each]))


@pytest.mark.parametrize(("title", "searches"), NOT_FOUND, ids=[title for title, _ in NOT_FOUND])
async def test_marks_that_form_words_count(new_user: NewUser, title: str, searches: list[str]) -> None:
    """Vowel signs, viramas, nuktas and tones of India and South East Asia tell words apart."""
    user = await new_user()
    await user.add(title)

    assert await titles(user, title) == [title]
    for words in searches:
        assert await titles(user, words.strip()) == [], words


async def test_every_mark(new_user: NewUser) -> None:
    """Each mark that a search ignores is ignored: a title with all of them is found without any."""
    user = await new_user()
    marks = [letter for letter in EVERY if is_ignored_mark(letter)]
    assert len(marks) > 700

    titles_ = [
        "".join(f"k{mark}" for mark in marks[start : start + 90]) + f" part{start}"
        for start in range(0, len(marks), 90)
    ]
    for title in titles_:
        await user.add(title)
    for start, title in zip(range(0, len(marks), 90), titles_, strict=True):
        plain = "k" * len(marks[start : start + 90])
        assert title in await titles(user, f"{plain} part{start}")


@pytest.mark.parametrize(("before", "after"), [("", ""), ("A", "Bé"), ("\u1100", "\u11a8")])
async def test_every_character(owner: "asyncpg.Connection[Any]", before: str, after: str) -> None:
    """The database folds each assigned character as the model does, alone and within text."""
    rows = await owner.fetch(KEYS, EVERY, before, after)

    assert len(rows) == len(EVERY)
    assert [row["letter"] for row in rows if row["key"] != folded(before + row["letter"] + after)] == []


LETTERS = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\0")
PIECES = (
    "aAßẞéEİıΣςØŒΆЙґǅǰ'’´″“—‑ が가\u1100",  # noqa: RUF001 - letters and quotes of several scripts
    "\u0345\u0301\u0327\u0338\u0654\u05b0\u00a0\u200b\u200d\u034f\u00ad\ufe0f\t",
)
PARTS = st.sampled_from("".join(PIECES))
TEXTS = st.text(LETTERS, max_size=60) | st.lists(PARTS, max_size=80).map("".join)


@hypothesis.settings(max_examples=300, suppress_health_check=[*hypothesis.HealthCheck])
@hypothesis.given(texts=st.lists(TEXTS, min_size=1, max_size=20))
async def test_any_text(owner: "asyncpg.Connection[Any]", texts: list[str]) -> None:
    """The database folds any text as the model does, and folding again changes nothing."""
    keys = await owner.fetch(
        "SELECT search_key(text) AS key, search_key(search_key(text)) AS again FROM unnest($1::text[]) AS text", texts
    )

    assert [row["key"] for row in keys] == [folded(text) for text in texts]
    assert [row["again"] for row in keys] == [row["key"] for row in keys]


@hypothesis.settings(max_examples=100, suppress_health_check=[*hypothesis.HealthCheck])
@hypothesis.given(text=TEXTS, long=st.integers(1, 60))
async def test_many_capital_letters(owner: "asyncpg.Connection[Any]", text: str, long: int) -> None:
    """Long texts with many letters to be replaced are folded like short ones."""
    capitals = "ЖŁ" * long + text
    assert await owner.fetchval("SELECT search_key($1)", capitals) == folded(capitals)


@pytest.mark.parametrize("collation", ["C", "POSIX", "default", "ucs_basic"])
async def test_folding_needs_no_locale(owner: "asyncpg.Connection[Any]", collation: str) -> None:
    """Text is folded alike under every collation."""
    for text in ("İSTANBUL IŞIK ÉCOLE", "ΌΔΟΣ ДЖИП", "PLAIN I"):
        assert await owner.fetchval(f'SELECT search_key($1 COLLATE "{collation}")', text) == folded(text)


def test_characters_that_cannot_be_seen() -> None:
    """Blank text is what consists of white space and of characters that are drawn as nothing."""
    assert [letter for letter in EVERY if characters.is_blank(letter) != is_blank(letter)] == []
    assert [letter for letter in EVERY if is_ignorable(letter) and characters.words(letter)] == []


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_other_encodings_are_refused(server: Server, encoding: str) -> None:
    """A database that cannot store or fold all text is refused by migrations, by servers and by `doctor`."""
    admin = await connect(server.owner_url)
    name = f"test_{encoding.lower()}"
    await admin.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0"
    )
    other = server.database(name)
    try:
        for refused in (
            migrate(DatabaseURL(other.owner_url), DatabaseURL(other.app_url)),
            refuse_failures(made_settings(other)),
            findings(made_settings(Server(other.owner_url, other.owner_url))),
        ):
            with pytest.raises(StartupError, match=f"has the encoding {encoding}, and TaskQL needs UTF8"):
                await refused
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def test_the_limit_of_words(user: User) -> None:
    """A search may have 50 different words. More are rejected, and repeated ones count once."""
    many = " ".join(f"w{number}" for number in range(50))
    assert await titles(user, many) == []
    assert await titles(user, "milk " * 200) == ["Buy milk", "Call mum"]
    answer = await user.ask(SEARCH, words=f"{many} w50")
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["LIMIT_EXCEEDED"]
    assert "word" in answer["errors"][0]["message"]


async def test_lists_and_tags_by_sql_are_searched(user: User, owner: "asyncpg.Connection[Any]") -> None:
    """Names that other programs write are searched as well."""
    await owner.execute("UPDATE task_lists SET name = 'Ünterwegs' WHERE user_id = $1 AND name = 'Groceries'", user.id)
    assert await titles(user, "unterwegs buy") == ["Buy milk"]
    task = await owner.fetchval("SELECT id FROM tasks WHERE user_id = $1 AND title = 'Swimsuit'", user.id)
    await owner.execute("UPDATE tasks SET tags = '{Plagé}' WHERE user_id = $1 AND id = $2", user.id, UUID(str(task)))
    assert await titles(user, "PLAGE") == ["Swimsuit"]
