"""The price of an operation accounts for the size of its answer, as the table in docs/limits.md shows."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import User
from declared import leaves

SHORT = " ".join(name for name in leaves("Task") if name != "description")
FILL = "mutation ($inputs: [CreateTaskInput!]!) { createTasks(inputs: $inputs) { affectedCount } }"
# What the table calls an operation, and the operation.
OPERATIONS = {
    "100 tasks, ids alone": "{ tasks(first: 100) { nodes { id } } }",
    "100 tasks, all scalar fields but `description`": f"{{ tasks(first: 100) {{ nodes {{ {SHORT} }} }} }}",
    "100 tasks, `id` and `description`": "{ tasks(first: 100) { nodes { id description } } }",
    "100 tasks, all scalar fields": f"{{ tasks(first: 100) {{ nodes {{ {SHORT} description }} }} }}",
    "20 tasks, all scalar fields": f"{{ tasks {{ nodes {{ {SHORT} description }} }} }}",
    "1,000 changes of tasks, all scalar fields": f"""{{
        changes(first: 1000) {{ changes {{ ... on TaskUpserted {{ task {{ {SHORT} description }} }} }} }}
    }}""",
}
ROW = re.compile(r"^\| (.+?) \| ([\d,]+) \| ([\d,]+) KB \|$", re.MULTILINE)


@pytest.fixture
async def wordy(alice: User, bob: User) -> User:
    """A user with 1,000 tasks that have descriptions of 4,000 letters, 200 letters in the title, and ten tags."""
    task: dict[str, Any] = {
        "title": "t" * 200,
        "description": "d" * 4000,
        "dueDate": "2026-11-29",
        "priority": "MEDIUM",
        "tags": [f"tag {n}" for n in range(10)],
    }
    await bob.add()
    for _ in range(10):
        assert (await alice.data(FILL, inputs=[task] * 100))["createTasks"]["affectedCount"] == 100
    return alice


async def test_prices_and_sizes(wordy: User, repository: Path) -> None:
    """The table states the price and the size of each answer; a price is at least a row for 8 KB."""
    found = {}
    for name, query in OPERATIONS.items():
        answer = await wordy.post(query, extensions={"cost": True})
        rows = answer.json()["extensions"]["cost"]["rows"]
        found[name] = (rows, round(len(answer.content) / 1000))
        assert len(answer.content) <= 8000 * rows

    text = (repository / "docs" / "limits.md").read_text()
    stated = {name: (int(rows.replace(",", "")), int(size.replace(",", ""))) for name, rows, size in ROW.findall(text)}
    assert stated == found


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("{ tasks(first: 100) { nodes { id } } }", 100),
        ("{ tasks(first: 100) { nodes { id description } } }", 200),
        ("{ tasks(first: 100) { nodes { ...F } } } fragment F on Task { description }", 200),
        ("{ tasks(first: 10) { nodes { a: description b: description } } }", 30),
        ('{ task(id: "01890a5d-ac96-774b-bcce-b302099a8057") { description } }', 2),
        ('mutation { createTask(input: { title: "x" }) { task { description } } }', 2),
        ("{ lists(first: 5) { nodes { tasks(first: 10) { nodes { description } } } } }", 105),
        ("{ changes(first: 1000) { changes { ... on TaskUpserted { task { id description } } } } }", 2000),
    ],
)
async def test_descriptions_have_a_price(alice: User, query: str, rows: int) -> None:
    """A description costs a row more for each task, wherever it is selected."""
    answer = await alice.post(query, extensions={"cost": True})

    assert answer.json()["extensions"]["cost"]["rows"] == rows
