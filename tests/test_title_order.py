"""The order by title is the same on every database: without case and accents, and numbers by their value."""

import random
import unicodedata
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import asyncpg
import hypothesis.strategies as st
import pytest
from conftest import User
from hypothesis import HealthCheck, given, settings
from oracle import title_key

NewUser = Callable[..., Awaitable[User]]

SORTED = """
    query ($direction: OrderDirection, $after: String) {
        tasks(first: 100, after: $after, orderBy: { field: TITLE, direction: $direction }) {
            nodes { title } pageInfo { endCursor hasNextPage }
        }
    }
"""
KEY = "SELECT title_key($1)"
COLLATIONS = ("C", "POSIX", "default", "ucs_basic")
# Titles in their order.
TITLES = [
    "  indented",
    "#1",
    "007",
    "7",
    "\u0667 in Arabic digits",
    "10",
    "99999999",
    "100000000",
    "9" * 150,
    "1" + "0" * 150,
    "apfel",
    "Äpfel",
    "Apfelbaum",
    "Chapter 2",
    "chapter 2.9",
    "Chapter 2.10",
    "Chapter ②.11",
    "CHAPTER 10",
    "Eclair",
    "éclair",
    "Éclairs",
    "item 2",
    "ITEM 02b",
    "item 10",
    "łan",
    "Lanz",
    "ŒUVRE",
    "oeuvres",
    "Øre",
    "STRASSE",
    "straße",
    "Straßen",
    "Zebra",
    "αβγ",
    "ΑΒΓΔ",
    "ДЖИП",
    "джипы",
    "日本",
    "😀",
]


async def sorted_titles(user: User, direction: str) -> list[str]:
    found: list[str] = []
    page: dict[str, Any] = {"pageInfo": {"hasNextPage": True, "endCursor": None}}
    while page["pageInfo"]["hasNextPage"]:
        page = (await user.data(SORTED, direction=direction, after=page["pageInfo"]["endCursor"]))["tasks"]
        found += [node["title"] for node in page["nodes"]]
    return found


async def test_the_order_of_titles(new_user: NewUser) -> None:
    """Accented letters stand beside their letters, and numbers are sorted by their value, however long."""
    user = await new_user()
    for title in random.Random(7).sample(TITLES, len(TITLES)):  # noqa: S311 - a shuffle
        await user.add(title)

    assert await sorted_titles(user, "ASC") == TITLES
    assert await sorted_titles(user, "DESC") == TITLES[::-1]


async def test_writes_with_sql_are_sorted_too(new_user: NewUser, owner: "asyncpg.Connection[Any]") -> None:
    """The key follows the title, whoever writes it, and cannot be set."""
    user, task = await new_user(), uuid4()
    await owner.execute("INSERT INTO tasks (user_id, id, title) VALUES ($1, $2, 'b 10')", user.id, task)
    await user.add("B 9")
    await user.add("C")
    assert await sorted_titles(user, "ASC") == ["B 9", "b 10", "C"]

    await owner.execute("UPDATE tasks SET title_key = 'a' WHERE user_id = $1", user.id)
    assert await sorted_titles(user, "ASC") == ["B 9", "b 10", "C"]

    await owner.execute("UPDATE tasks SET title = 'b 8' WHERE user_id = $1 AND id = $2", user.id, task)
    assert await sorted_titles(user, "ASC") == ["b 8", "B 9", "C"]


async def test_completing_a_task_computes_no_key(owner: "asyncpg.Connection[Any]") -> None:
    """The trigger runs only for writes of texts."""
    events = await owner.fetchval("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'derive_updated_task'")

    assert "BEFORE UPDATE OF title, description, search, title_key ON" in events


LETTERS = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\0")
NUMBERS = st.sampled_from(["0", "00", "1", "٣", "９", "²", "①", "123456789", "0" * 30 + "7", "x", " ", "-", "é", "Ж"])  # noqa: RUF001
TEXTS = st.text(LETTERS, max_size=200) | st.lists(NUMBERS, max_size=40).map("".join).map(lambda text: text[:200])


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(titles=st.lists(TEXTS, min_size=10, max_size=10))
async def test_the_key_of_any_text(owner: "asyncpg.Connection[Any]", titles: list[str]) -> None:
    """The database computes the same key as the model, of limited size, and never the same for two titles."""
    keys = [await owner.fetchval(KEY, title) for title in titles]

    assert keys == [title_key(title) for title in titles]
    assert all(len(key) <= 400 + 1 + len(title) for key, title in zip(keys, titles, strict=True))
    assert len(set(keys)) == len(set(titles))


@pytest.mark.parametrize("first", range(0, 0x20000, 0x4000))
async def test_the_key_of_every_letter(owner: "asyncpg.Connection[Any]", first: int) -> None:
    """Each assigned character of the first two planes has the same key in the database and in the model."""
    letters = [chr(code) for code in range(max(first, 1), first + 0x4000) if not 0xD800 <= code < 0xE000]
    letters = [letter for letter in letters if unicodedata.category(letter) != "Cn"]

    rows = await owner.fetch("SELECT letter, title_key(letter) AS key FROM unnest($1::text[]) AS letter", letters)

    assert [row["letter"] for row in rows if row["key"] != title_key(row["letter"])] == []


async def test_the_key_needs_no_locale(owner: "asyncpg.Connection[Any]") -> None:
    """Letters are folded alike under every collation."""
    for title in ("ÉCOLE ДЖИП ΑΣ I", "İstanbul IŞIK"):
        keys = {await owner.fetchval(f'SELECT title_key($1 COLLATE "{name}")', title) for name in COLLATIONS}
        assert keys == {title_key(title)}
