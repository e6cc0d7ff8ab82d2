"""The names and keys of tags: the same in Python and in the database, for every character of Unicode."""

import hashlib
import sys
import unicodedata
from typing import Any

import asyncpg
import hypothesis
import hypothesis.strategies as st
import pytest

from app.characters import INVISIBLE, JOINING, WHITE_SPACE
from app.tag_names import FOLDS, LONG_FOLDS, tag_key, tag_name, tag_names
from migrations import unicode_14

EVERY = [chr(code) for code in range(1, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
COMPUTED = """
    SELECT tag_key(text) AS key, tag_name(text) AS name
    FROM unnest($1::text[]) WITH ORDINALITY AS given (text, place) ORDER BY place
"""
# Each line is one tag.
SAME = [
    ["Work", "work", "WORK ", " wOrK", "wo\u00adrk", "\u200bwork", "ｗork".replace("ｗ", "w")],  # noqa: RUF001
    ["Straße", "STRASSE", "straẞe"],
    ["Café", "CAFE\u0301", "cafe\u0301", "CAFÉ"],
    ["two  words", "Two\twords", "two\u00a0words", "two \u200b words", "\ntwo\u3000words\n"],
    ["ΣΊΣΥΦΟΣ", "σίσυφος", "σίσυφοσ"],
    ["ᾳ", "ΑΙ", "α\u0345", "αι"],  # noqa: RUF001 - Greek
    ["İ", "i\u0307"],
    ["👩\u200d👩\u200d👧", "👩👩👧"],
    ["❤\ufe0f", "❤"],
    ["한글", "\u1112\u1161\u11ab\u1100\u1173\u11af"],
    ["ﬃ", "FFI", "ffi"],
    ["ᏣᎳᎩ", "ꮳꮃꭹ"],
]
DIFFERENT = ["cafe", "café", "i", "ı", "①", "1", "w", "ｗ", "a b", "ab", "ø", "o", "ß", "s"]  # noqa: RUF001 - on purpose


async def computed(owner: "asyncpg.Connection[Any]", texts: list[str]) -> list[tuple[str, str]]:
    return [(row["key"], row["name"]) for row in await owner.fetch(COMPUTED, texts)]


async def test_every_character(owner: "asyncpg.Connection[Any]") -> None:
    """Each character has the same key and name in Python and in the database."""
    assert await computed(owner, EVERY) == [(tag_key(letter), tag_name(letter)) for letter in EVERY]


@pytest.mark.parametrize("template", ["A{0}é\u0301{0}", "\u1100{0}\u11a8"])
async def test_every_character_beside_others(owner: "asyncpg.Connection[Any]", template: str) -> None:
    """The same within text, but for marks that only one of the two versions of Unicode knows how to order."""
    texts = [template.format(letter) for letter in EVERY]
    forms = await owner.fetch("SELECT normalize(text, NFD) FROM unnest($1::text[]) AS given (text)", texts)
    known = [text for text, form in zip(texts, forms, strict=True) if form[0] == unicodedata.normalize("NFD", text)]

    assert len(known) > len(EVERY) - 200
    assert await computed(owner, known) == [(tag_key(text), tag_name(text)) for text in known]


PARTS = st.sampled_from(
    [*"aAßẞéEİıΣς\u0345\u0301\u0327\u0338 \t\u00a0\u200b\u200d\u034f\u00ad\ufe0f가", "\u1100", "\u1161", "\U0001d165"]  # noqa: RUF001 - letters of several scripts
)


@hypothesis.settings(max_examples=300, suppress_health_check=[*hypothesis.HealthCheck])
@hypothesis.given(texts=st.lists(st.text() | st.lists(PARTS, max_size=8).map("".join), min_size=1, max_size=20))
async def test_any_text(owner: "asyncpg.Connection[Any]", texts: list[str]) -> None:
    """Any text has the same key and name in both. Names and keys have their own key, and normalizing again is idle."""
    texts = [text.replace("\0", "") for text in texts]
    expected = [(tag_key(text), tag_name(text)) for text in texts]

    assert await computed(owner, texts) == expected
    for key, name in expected:
        assert tag_key(key) == tag_key(name) == key
        assert tag_name(name) == name


@pytest.mark.parametrize("names", SAME, ids=lambda names: ascii(names[0]))
async def test_one_tag(owner: "asyncpg.Connection[Any]", names: list[str]) -> None:
    """Case, Unicode form, white space and ignorable characters do not tell tags apart."""
    assert len({tag_key(name) for name in names}) == 1
    assert len({key for key, _ in await computed(owner, names)}) == 1
    assert tag_names(names) == [tag_name(names[0])]
    assert await owner.fetchval("SELECT tag_keys($1)", names) == [tag_key(names[0])]


async def test_different_tags(owner: "asyncpg.Connection[Any]") -> None:
    """Accents, compatibility forms and spaces between words tell tags apart; only ß is ss."""
    assert len({key for key, _ in await computed(owner, DIFFERENT)}) == len(DIFFERENT)


def test_upper_and_lower_case() -> None:
    """For every letter, upper, lower and title case are one tag, except for the dotless i, whose capital is I."""
    others = [
        letter
        for letter in EVERY
        if len({tag_key(form) for form in (letter, letter.upper(), letter.lower(), letter.title())}) > 1
        and unicodedata.normalize("NFD", letter)[0] != "ı"  # noqa: RUF001 - Turkish
    ]

    assert [letter for letter in others if letter.casefold() == letter.upper().casefold()] == []


def test_a_name_keeps_what_can_be_seen() -> None:
    """A name keeps emoji and the joiners of scripts, but no invisible characters, and is in NFC."""
    assert tag_name("👩\u200d👩\u200d👧 ❤\ufe0f") == "👩\u200d👩\u200d👧 ❤\ufe0f"
    assert tag_name("می\u200cخواهم") == "می\u200cخواهم"  # noqa: RUF001 - Arabic
    assert tag_name(" \ufeffCafe\u0301\u200b  au\tlait ") == "Café au lait"


def test_the_tables_have_not_changed() -> None:
    """Stored keys were made with these tables: a change takes new ones, and a migration that makes all keys anew."""
    tables = repr((WHITE_SPACE, INVISIBLE, JOINING, sorted(FOLDS.items()), sorted(LONG_FOLDS.items())))

    assert hashlib.sha256(tables.encode()).hexdigest()[:16] == "1461d0ec89aeeb8c"
    assert (WHITE_SPACE, INVISIBLE, JOINING) == (unicode_14.WHITE_SPACE, unicode_14.INVISIBLE, unicode_14.JOINING)
    assert (FOLDS, LONG_FOLDS) == (unicode_14.FOLDS, unicode_14.LONG_FOLDS)
