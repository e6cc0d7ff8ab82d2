"""The workloads: requests, and checks of their responses.

W1 to W3 and W6 read users that are never written to, so that their responses are fully known. W4 and W5 write to other
users.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import count, cycle
from typing import Any
from uuid import UUID

import orjson

from benchmarks import data

TASK = "id title completed priority dueDate createdAt"
PAGE = f"""
query Tasks($first: Int!) {{
  tasks(first: $first) {{ nodes {{ {TASK} }} pageInfo {{ hasNextPage endCursor }} }}
}}"""
EDGES = f"""
query Tasks($first: Int!) {{
  tasks(first: $first) {{
    edges {{ cursor node {{ {TASK} }} }} pageInfo {{ hasNextPage hasPreviousPage startCursor endCursor }}
  }}
}}"""
WORDY_PAGE = "query Tasks { tasks(first: 20) { nodes { id title description } pageInfo { hasNextPage endCursor } } }"
FIND = f"query Task($id: ID!) {{ task(id: $id) {{ {TASK} }} }}"
CREATE = f"""
mutation Create($input: CreateTaskInput!) {{
  createTask(input: $input) {{ task {{ {TASK} }} userErrors {{ code message field }} }}
}}"""
COMPLETE = f"""
mutation Complete($id: ID!, $completed: Boolean!) {{
  setTaskCompleted(id: $id, completed: $completed) {{ task {{ {TASK} }} userErrors {{ code message field }} }}
}}"""
COUNTS = "query Counts { viewer { taskStats { total open completed overdue } } }"
VARIETY = 4000

Check = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class Request:
    """The bytes of a request, and a check of the data of its response."""

    wire: bytes
    holds: Check


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload. All runs share its iterator, so that writes continue where the last run ended."""

    name: str
    title: str
    requests: Iterator[Request]


def request(owner: UUID, query: str, variables: dict[str, Any], holds: Check) -> Request:
    body = orjson.dumps({"query": query, "variables": variables})
    head = (
        "POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: application/json\r\n"
        f"Authorization: Bearer {data.token(owner)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return Request(head.encode() + body, holds)


def page(user: int, size: int, tasks: int = data.TASKS_EACH, query: str = PAGE) -> Request:
    """The newest tasks of a user."""
    nodes = [_read(data.shown(user, task)) for task in range(tasks, tasks - size, -1)]

    def holds(answer: dict[str, Any]) -> bool:
        info, edges = answer["tasks"]["pageInfo"], answer["tasks"].get("edges", [])
        shown = [edge["node"] for edge in edges if edge["cursor"]] if edges else answer["tasks"]["nodes"]
        more: bool = info["hasNextPage"]
        return bool(list(map(_read, shown)) == nodes and more == (tasks > size) and info["endCursor"])

    return request(data.user_id(user), query, {"first": size}, holds)


def wordy_page() -> Request:
    """A page with 16 KB of descriptions."""
    words = ["x" * 820] * data.WORDY_TASKS
    return request(
        data.user_id(data.WORDY),
        WORDY_PAGE,
        {},
        lambda answer: [node["description"] for node in answer["tasks"]["nodes"]] == words,
    )


def find(user: int, task: int) -> Request:
    expected = _read(data.shown(user, task))
    return request(data.user_id(user), FIND, {"id": expected["id"]}, lambda answer: _read(answer["task"]) == expected)


def create(user: int, number: int) -> Request:
    task = {"title": f"Task {number} of a run", "priority": "HIGH", "dueDate": "2030-01-31"}
    expected = {**task, "completed": False}

    def holds(answer: dict[str, Any]) -> bool:
        payload = answer["createTask"]
        made = payload["task"]
        return bool(payload["userErrors"] == [] and expected.items() <= made.items() and made["createdAt"] > "2026-06")

    return request(
        data.user_id(user), CREATE, {"input": {**task, "description": "As it was said.", "tags": ["run"]}}, holds
    )


def complete(user: int, task: int, *, completed: bool) -> Request:
    expected = {**_read(data.shown(user, task)), "completed": completed}

    def holds(answer: dict[str, Any]) -> bool:
        payload = answer["setTaskCompleted"]
        return bool(payload["userErrors"] == [] and _read(payload["task"]) == expected)

    return request(data.user_id(user), COMPLETE, {"id": expected["id"], "completed": completed}, holds)


def counts(user: int, tasks: int = data.TASKS_EACH) -> Request:
    numbers = range(1, tasks + 1)
    done = sum(number % 3 == 0 for number in numbers)
    overdue = sum(number % 4 == 0 and number % 3 != 0 for number in numbers)
    expected = {"total": tasks, "open": tasks - done, "completed": done, "overdue": overdue}
    return request(data.user_id(user), COUNTS, {}, lambda answer: answer["viewer"]["taskStats"] == expected)


def _read(task: dict[str, Any]) -> dict[str, Any]:
    """A task with its time as a datetime, because servers write the same time differently."""
    return {**task, "createdAt": datetime.fromisoformat(task["createdAt"])}


def standard() -> list[Workload]:
    """W1 to W7."""
    pick = random.Random(7)  # noqa: S311 - the same in every run
    some = [(pick.choice(data.READERS), pick.randint(1, data.TASKS_EACH)) for _ in range(VARIETY)]
    pages = [page(user, 20) for user, _ in some]
    found = [find(user, task) for user, task in some]
    made = [create(pick.choice(data.WRITERS), number) for number in range(VARIETY)]
    done = _completions(pick)
    return [
        Workload("W1", "first 20 tasks", cycle(pages)),
        Workload("W2", "first 100 tasks", cycle([page(user, 100) for user in data.READERS])),
        Workload("W3", "a task by id", cycle(found)),
        Workload("W4", "create", cycle(made)),
        Workload("W5", "set completed", done),
        Workload("W6", "counts", cycle([counts(user) for user in data.READERS])),
        Workload("W7", "70 % W1, 15 % W3, 5 % W4, 10 % W5", _mix(pick, cycle(pages), cycle(found), cycle(made), done)),
    ]


def extra() -> list[Workload]:
    """Further workloads. Each request of `cold` is a document that the server has not seen before."""
    pick = random.Random(8)  # noqa: S311 - the same in every run
    users = [pick.choice(data.READERS) for _ in range(VARIETY)]
    edges = [page(user, 20, query=EDGES) for user in users]
    return [
        Workload("cold", "first 20 tasks, a new document each time", (cold(number) for number in count())),
        Workload("edges", "first 20 tasks as edges with cursors", cycle(edges)),
        Workload("16 KB", "20 tasks with long descriptions", cycle([wordy_page()])),
        Workload("busy page", "first 20 of 10,000 tasks", cycle([page(data.BUSY, 20, data.BUSY_TASKS)])),
        Workload("busy counts", "counts of 10,000 tasks", cycle([counts(data.BUSY, data.BUSY_TASKS)])),
    ]


def cold(number: int) -> Request:
    """The first page, with a unique text."""
    return page(data.READERS[number % len(data.READERS)], 20, query=PAGE.replace("Tasks", f"Tasks{number}", 1))


def _completions(pick: random.Random) -> Iterator[Request]:
    """Open tasks, each completed and later reopened, so that every request writes."""
    targets = [(user, task) for user in data.WRITERS for task in range(1, data.TASKS_EACH + 1, 5)]
    pick.shuffle(targets)
    return cycle([complete(*target, completed=done) for done in (True, False) for target in targets])


def _mix(pick: random.Random, *parts: Iterator[Request]) -> Iterator[Request]:
    order = [part for part, share in zip(parts, (70, 15, 5, 10), strict=True) for _ in range(share)]
    while True:
        pick.shuffle(order)
        for part in order:
            yield next(part)
