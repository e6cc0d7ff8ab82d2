"""Limits on the values of JSON from clients, the same for bodies, URLs and sockets."""

import json
from typing import Any

import httpx
import orjson
import pytest
from conftest import User
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadUserInput, LimitExceeded
from app.web.bounded_json import BYTES_OF_A_CONTAINER, MOST_CONTAINERS, MOST_VALUES, _count, _without_strings, parse

TEXTS = st.text(st.sampled_from('ab"\\[]{},:/é\n\u2028'), max_size=6)
VALUES: Any = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def containers_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, dict | list) + sum(map(containers_of, inner))


def commas_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max(0, len(inner) - 1) + sum(map(commas_of, inner))


@given(VALUES, st.booleans())
def test_strings_do_not_count(value: Any, escaped: bool) -> None:  # noqa: FBT001 - generated
    """Only lists, objects and commas outside of strings count, whatever is quoted or escaped in strings."""
    text = json.dumps(value, ensure_ascii=escaped).encode()

    containers, values = _count(_without_strings(text))
    assert (containers, values) == (containers_of(value), containers_of(value) + commas_of(value))


LARGE: dict[str, tuple[str, str]] = {
    "lists": ("[" + "[]," * MOST_CONTAINERS + "1]", "lists and objects"),
    "objects": ("[" + "{}," * MOST_CONTAINERS + "1]", "lists and objects"),
    "objects with a member": ("[" + '{"a":1},' * MOST_CONTAINERS + "1]", "lists and objects"),
    "chains": ("[" + '{"a":{"a":{"a":1}}},' * (MOST_CONTAINERS // 3 + 1) + "1]", "lists and objects"),
    "numbers": ("[" + "0," * MOST_VALUES + "1]", "values"),
    "strings": ("[" + '"[",' * MOST_VALUES + "1]", "values"),
    "members": ("{" + ",".join(f'"{number}":1' for number in range(MOST_VALUES + 1)) + "}", "values"),
    "after a string": (r'["\\", "\"", ' + "[]," * MOST_CONTAINERS + "1]", "lists and objects"),
    "malformed": ("[" * 50_000, "lists and objects"),
}


@pytest.mark.parametrize("kind", LARGE)
def test_many_values_are_not_parsed(kind: str) -> None:
    """A text with too many values is rejected before it is parsed, as text and as bytes."""
    text, what = LARGE[kind]
    for given_ in (text, text.encode(), bytearray(text.encode())):
        with pytest.raises(LimitExceeded, match=f"The body has more than [0-9,]+ {what}."):
            parse(given_, "The body")


@pytest.mark.parametrize("kind", LARGE)
async def test_many_values_by_http(alice: User, http: httpx.AsyncClient, kind: str) -> None:
    """A body, or a parameter of a URL, with too many values gets 413 and LIMIT_EXCEEDED, also for anonymous callers."""
    text, what = LARGE[kind]
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {alice.token}"}
    body = f'{{"query":"{{ __typename }}","variables":{{"a":{text}}}}}'
    answers = [
        await http.post("/graphql", content=body, headers=headers),
        await http.post("/graphql", content=body, headers={"Content-Type": "application/json"}),
    ]
    names = ("variables", "extensions") if len(text) < 20_000 else ()
    answers += [await http.get("/graphql", params={"query": "{ __typename }", name: text}) for name in names]

    assert len(answers) > 1
    for answer in answers:
        [error] = answer.json()["errors"]
        assert (answer.status_code, error["extensions"]["code"]) == (413, "LIMIT_EXCEEDED")
        assert what in error["message"]


def test_as_many_as_allowed() -> None:
    """Up to the limits everything is parsed, and errors name the text."""
    most: list[Any] = [[]] * (MOST_CONTAINERS - 2) + [0] * (MOST_VALUES - 2 * MOST_CONTAINERS + 2)
    assert parse(orjson.dumps({"a": most}), "The body")[0] == {"a": most}
    assert parse(orjson.dumps(["[{," * 20_000]), "The body") == (["[{," * 20_000], 60_004 + BYTES_OF_A_CONTAINER)
    for malformed in ("", "[", "[" * 999, '["' + "\\" * 3001):
        with pytest.raises(BadUserInput, match=r"^variables is not valid JSON\.$"):
            parse(malformed, "variables")


async def test_code_in_descriptions(alice: User) -> None:
    """Brackets and commas in task text are not counted."""
    inputs = [{"title": "[{,", "description": "[{,}]" * 200, "tags": ["[", "{", ","]}] * 60
    created = await alice.data(
        "mutation($inputs: [CreateTaskInput!]!) { createTasks(inputs: $inputs) { tasks { title } } }", inputs=inputs
    )

    assert created["createTasks"]["tasks"] == [{"title": "[{,"}] * 60
