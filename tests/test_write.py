"""Batches of writes: in order, in one transaction with one version, each with its own result."""

from typing import Any
from uuid import uuid4

from conftest import ALL_FIELDS, User

Json = dict[str, Any]

WRITE = f"""mutation ($writes: [Write!]!) {{ write(writes: $writes) {{
    task {{ {ALL_FIELDS} }} list {{ id name version }} userErrors {{ code message field }}
}} }}"""


async def write(user: User, *writes: Json) -> list[Json]:
    results: list[Json] = (await user.data(WRITE, writes=list(writes)))["write"]
    return results


async def test_first(alice: User) -> None:
    a, b = str(uuid4()), str(uuid4())
    results = await write(
        alice,
        {"createTask": {"id": a, "title": "One"}},
        {"createTask": {"id": b, "title": "Two"}},
        {"updateTask": {"id": a, "input": {"title": "Three"}, "base": {"title": "One"}}},
        {"setTaskCompleted": {"id": b, "completed": True}},
        {"moveTask": {"id": b, "to": {"before": a}}},
        {"deleteTask": {"id": a}},
        {"createList": {"name": "L"}},
        {"deleteTag": {"name": "x"}},
    )
    for r in results:
        print(r)
    assert 0
