"""The features of selections, one by one: aliases, fragments, directives, merging, __typename."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import product
from typing import Any
from uuid import uuid4

import graphql
import pytest
from conftest import ALL_FIELDS, Server, User, Wire
from oracle import Answer, Oracle

from app.database import compiling, statements
from app.database.rendering import Selection
from app.database.statements import Statement
from app.entities import reading
from app.entities.entity import Entity
from schema import schema
from schema.engine import execution
from schema.engine.direct import core
from schema.engine.document_limits import Limits
from schema.engine.execution import Engine

PAYLOAD_FIELDS = f"{{ task {{ {ALL_FIELDS} }} userErrors {{ code message field }} token }}"
TASKS_PAYLOAD = f"{{ all: tasks {{ {ALL_FIELDS} }} some: tasks {{ kind: __typename title }} affectedCount }}"
TASK = f"query ($id: ID!) {{ task(id: $id) {{ {ALL_FIELDS} }} }}"
NODE = """
    query ($id: ID!) {
        node(id: $id) {
            __typename
            ...Anything
            ... on Task { title createdAt }
            ...Person
        }
    }
    fragment Anything on Node { id ... on Task { version } }
    fragment Person on User { email createdAt ...Anything }
"""
SWITCHED = """
    query ($id: ID!, $shown: Boolean!, $hidden: Boolean = false) {
        task(id: $id) {
            id @include(if: $shown)
            title @skip(if: $hidden)
            ... @include(if: $shown) { version ...Rest @skip(if: $hidden) }
        }
        viewer @include(if: $shown) { email }
    }
    fragment Rest on Task { completed }
"""
TYPENAMES = """
    query ($id: ID!) {
        __typename
        viewer { __typename taskStats { __typename } }
        node(id: $id) { kind: __typename }
        task(id: $id) { __typename also: __typename }
        tasks {
            __typename
            edges { __typename node { __typename } }
            nodes { __typename }
            pageInfo { __typename }
        }
    }
"""
NULLABLE = """
    query ($id: ID!) { task(id: $id) { description completedAt dueDate deletedAt } viewer { name image } }
"""


@dataclass
class Seen:
    """A user with one task, and an oracle that knows both."""

    user: User
    oracle: Oracle
    task: dict[str, Any]

    async def answer(self, query: str, **variables: Any) -> Any:
        """The data of a response, after comparing it with the oracle's."""
        response = await self.user.post(query, variables)
        await self.oracle.load()
        assert Answer.of_json(response.text) == await self.oracle.answer(query, variables)
        return response.json().get("data")

    async def of_task(self, query: str, **variables: Any) -> Any:
        return await self.answer(query, id=self.task["id"], **variables)


@pytest.fixture
async def seen(server: Server, alice: User) -> AsyncIterator[Seen]:
    task = await alice.add("A task", description='With "quotes"', tags=["one", "two"], dueDate="9999-12-31")
    async with Oracle.of(server.owner_url, alice.id) as oracle:
        yield Seen(alice, oracle, task)


# Aliases


async def test_a_root_field_under_two_aliases(seen: Seen) -> None:
    """Two aliases of a root field have their own selections."""
    data = await seen.of_task("query ($id: ID!) { a: task(id: $id) { id } b: task(id: $id) { title } }")

    assert data == {"a": {"id": seen.task["id"]}, "b": {"title": "A task"}}


async def test_a_list_under_two_aliases(seen: Seen) -> None:
    """Two aliases of a list on one page have their own selections."""
    data = await seen.answer("{ tasks { a: edges { node { id } } b: edges { node { name: title } } } }")

    assert data["tasks"] == {"a": [{"node": {"id": seen.task["id"]}}], "b": [{"node": {"name": "A task"}}]}


async def test_aliases_that_trade_names(seen: Seen) -> None:
    """A response key may be another field's name."""
    data = await seen.of_task("query ($id: ID!) { task(id: $id) { title: description description: title } }")

    assert data["task"] == {"title": 'With "quotes"', "description": "A task"}


async def test_the_task_of_a_mutation_under_two_aliases(alice: User) -> None:
    """Two aliases of a payload's task have their own selections."""
    data = await alice.data(
        'mutation { createTask(input: {title: "New"}) { a: task { title } b: task { version kind: __typename } } }'
    )

    assert data["createTask"] == {"a": {"title": "New"}, "b": {"version": 1, "kind": "Task"}}


async def test_100_aliases_on_one_task(seen: Seen) -> None:
    """One object may have 100 fields, more than json_build_object() takes arguments for."""
    names = ALL_FIELDS.split()
    fields = [(f"f{place}", names[place % len(names)]) for place in range(100)]
    selection = " ".join(f"{alias}:{name}" for alias, name in fields)
    data = await seen.of_task(f"query($id:ID!){{task(id:$id){{{selection}}}}}")

    assert list(data["task"].items()) == [(alias, seen.task[name]) for alias, name in fields]


async def test_100_aliases_in_a_mutation(seen: Seen) -> None:
    """A mutation's task may have 100 fields."""
    selection = " ".join(f"f{place}:title" for place in range(100))
    data = await seen.user.data(f"mutation($id:ID!){{deleteTask(id:$id){{task{{{selection}}}}}}}", id=seen.task["id"])

    assert data["deleteTask"]["task"] == {f"f{place}": "A task" for place in range(100)}


async def test_100_aliases_of_the_task_of_a_mutation(seen: Seen) -> None:
    """A payload may contain its task 100 times."""
    selection = " ".join(f"t{place}:task{{title}}" for place in range(100))
    data = await seen.user.data(f"mutation($id:ID!){{deleteTask(id:$id){{{selection}}}}}", id=seen.task["id"])

    assert data["deleteTask"] == {f"t{place}": {"title": "A task"} for place in range(100)}


async def test_more_fields_than_there_may_be(seen: Seen) -> None:
    """A selection over the limit is rejected as a whole, also if fragments hide its size."""
    ten = " ".join(f"f{place}: title" for place in range(10))
    query = f"{{ tasks {{ nodes {{ {'...Ten ' * (Limits().fields // 10)} }} }} }} fragment Ten on Task {{ {ten} }}"
    answer = await seen.user.ask(query)

    assert answer["errors"][0]["extensions"]["code"] == "LIMIT_EXCEEDED"
    assert "data" not in answer


# Fragments


async def test_fragments_on_a_node_that_is_a_task(seen: Seen) -> None:
    """On a task, fragments on Node and Task apply, in document order; those on User do not."""
    data = await seen.of_task(NODE)

    task = seen.task
    names = ("id", "version", "title", "createdAt")
    assert list(data["node"].items()) == [("__typename", "Task"), *((name, task[name]) for name in names)]


async def test_fragments_on_a_node_that_is_the_user(seen: Seen) -> None:
    """On the user, fragments on Node and User apply; those on Task do not."""
    data = await seen.answer(NODE, id=str(seen.user.id))

    assert list(data["node"]) == ["__typename", "id", "email", "createdAt"]
    assert data["node"]["__typename"] == "User"
    assert data["node"]["email"] == seen.user.email


async def test_fragments_on_a_node_of_somebody_else(seen: Seen, bob: User) -> None:
    """Another user, another user's task and an unknown id are null."""
    foreign = await bob.add("Bob's")

    for node_id in (foreign["id"], str(bob.id), str(uuid4())):
        assert await seen.answer(NODE, id=node_id) == {"node": None}


async def test_a_fragment_used_twice(seen: Seen) -> None:
    """One fragment can be used in several fields."""
    query = """
        query ($id: ID!) { task(id: $id) { ...F } again: task(id: $id) { ...F ...F } tasks { nodes { ...F } } }
        fragment F on Task { title tags }
    """
    data = await seen.of_task(query)

    shown = {"title": "A task", "tags": ["one", "two"]}
    assert data == {"task": shown, "again": shown, "tasks": {"nodes": [shown]}}


async def test_fragments_that_select_nothing_of_a_type(seen: Seen) -> None:
    """A task is an empty object if only fragments on User are selected."""
    data = await seen.of_task("query ($id: ID!) { node(id: $id) { ... on User { email } } }")

    assert data == {"node": {}}


# Merging


async def test_fields_merge_across_fragments(seen: Seen) -> None:
    """Selections of the same response key are merged, in the order of first occurrence."""
    query = """
        { tasks { edges { node { title } } ...A ...B totalCount } ... on Query { tasks { nodes { id } } } }
        fragment A on TaskConnection { edges { cursor node { id title } } totalCount }
        fragment B on TaskConnection { edges { node { ... on Node { id } version } } pageInfo { hasNextPage } }
    """
    data = await seen.answer(query)

    assert list(data["tasks"]) == ["edges", "totalCount", "pageInfo", "nodes"]
    assert list(data["tasks"]["edges"][0]) == ["node", "cursor"]
    assert list(data["tasks"]["edges"][0]["node"]) == ["title", "id", "version"]


async def test_a_repeated_field_stands_once(seen: Seen) -> None:
    """A field that is selected twice appears once."""
    response = await seen.user.post(
        "query ($id: ID!) { task(id: $id) { id id ...F } } fragment F on Task { id }", {"id": seen.task["id"]}
    )

    assert response.text == f'{{"data":{{"task":{{"id":"{seen.task["id"]}"}}}}}}'


async def test_fields_of_a_payload_merge(alice: User) -> None:
    """Fields of a payload are merged like those of any object."""
    query = """
        mutation { createTask(input: {title: " "}) { userErrors { code } ...A ...B } }
        fragment A on TaskPayload { task { id } userErrors { field } }
        fragment B on TaskPayload { task { title } userErrors { code __typename } }
    """
    data = await alice.data(query)

    errors = [{"code": "BLANK", "field": ["input", "title"], "__typename": "UserError"}]
    assert list(data["createTask"].items()) == [("userErrors", errors), ("task", None)]


# @skip and @include


async def test_switches_alternate_in_one_operation(seen: Seen) -> None:
    """Each response follows its own variables, whatever earlier requests had."""
    for shown, hidden in [*product([True, False], repeat=2)] * 2:
        data = await seen.of_task(SWITCHED, shown=shown, hidden=hidden)

        keys = [key for key, there in [("id", shown), ("title", not hidden), ("version", shown)] if there]
        assert list(data["task"]) == keys + (["completed"] if shown and not hidden else [])
        assert ("viewer" in data) == shown


async def test_a_switch_with_a_default(seen: Seen) -> None:
    """An omitted variable of a directive has its default."""
    data = await seen.of_task(SWITCHED, shown=True)

    assert list(data["task"]) == ["id", "title", "version", "completed"]


async def test_a_switch_that_is_null(seen: Seen) -> None:
    """A null condition of a directive is rejected, and the mutation is not executed."""
    mutation = "mutation ($id: ID!, $no: Boolean = true) { deleteTask(id: $id) { task { id @skip(if: $no) } } }"
    answer = await seen.user.ask(mutation, id=seen.task["id"], no=None)

    assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_USER_INPUT"]
    assert (await seen.of_task(TASK))["task"] == seen.task


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("{ viewer { id @skip(if: true) } }", {"viewer": {}}),
        ("{ viewer { taskStats { total @skip(if: true) } } }", {"viewer": {"taskStats": {}}}),
        ("{ tasks { totalCount @skip(if: true) } }", {"tasks": {}}),
        ("{ tasks { nodes { id @skip(if: true) } } }", {"tasks": {"nodes": [{}]}}),
        ("{ tasks { edges { node { id @skip(if: true) } } } }", {"tasks": {"edges": [{"node": {}}]}}),
        ("{ tasks { edges { cursor @include(if: false) } } }", {"tasks": {"edges": [{}]}}),
        ("{ tasks { pageInfo { endCursor @include(if: false) } } }", {"tasks": {"pageInfo": {}}}),
        ("{ ... @include(if: false) { viewer { id } } }", {}),
    ],
)
async def test_everything_skipped(seen: Seen, query: str, expected: dict[str, Any]) -> None:
    """An object with all fields skipped is an empty object."""
    assert await seen.answer(query) == expected


async def test_everything_skipped_in_a_payload(seen: Seen) -> None:
    """A mutation with an empty payload is still executed."""
    data = await seen.user.data(
        "mutation ($id: ID!) { deleteTask(id: $id) { task { id @skip(if: true) } ... @skip(if: true) { token } } }",
        id=seen.task["id"],
    )

    assert data == {"deleteTask": {"task": {}}}
    assert (await seen.of_task(TASK))["task"]["deletedAt"] is not None


async def test_variants_of_a_selection_are_bounded() -> None:
    """An operation keeps a bounded number of the selections that its directives produce."""

    @dataclass
    class Nobody:
        operation: execution.Operation

        async def on_thread(self, work: Callable[[], Any]) -> Any:
            return work()

        def selection(self, info: Any, type_name: str) -> object:
            return self.operation.selection(info, type_name)

        def viewer(self) -> "Nobody":
            return self

        async def account(self, _selection: object) -> str:
            return "{}"

    names = [f"s{place}" for place in range(11)]
    fields = " ".join(f"f{name}: email @include(if: ${name})" for name in names)
    query = f"query ({', '.join(f'${name}: Boolean!' for name in names)}) {{ viewer {{ {fields} }} }}"
    engine = Engine(core(schema))
    operation = engine.prepared(query, None)
    for values in product([True, False], repeat=len(names)):
        await engine.execute(operation, dict(zip(names, values, strict=True)), Nobody(operation))

    assert 1 < len(operation.variants) <= execution.MOST_VARIANTS


# __typename


async def test_typename_everywhere(seen: Seen) -> None:
    """Every object has __typename."""
    data = await seen.of_task(TYPENAMES)

    assert data == {
        "__typename": "Query",
        "viewer": {"__typename": "User", "taskStats": {"__typename": "TaskStats"}},
        "node": {"kind": "Task"},
        "task": {"__typename": "Task", "also": "Task"},
        "tasks": {
            "__typename": "TaskConnection",
            "edges": [{"__typename": "TaskEdge", "node": {"__typename": "Task"}}],
            "nodes": [{"__typename": "Task"}],
            "pageInfo": {"__typename": "PageInfo"},
        },
    }


async def test_typename_among_other_fields(seen: Seen) -> None:
    """__typename appears where it was selected: first, between or last."""
    data = await seen.of_task(
        "query ($id: ID!) { task(id: $id) { a: __typename title b: __typename id c: __typename } }"
    )

    assert list(data["task"]) == ["a", "title", "b", "id", "c"]


async def test_typename_in_a_mutation(alice: User) -> None:
    """The parts of a payload have __typename."""
    query = """
        mutation ($title: String!) {
            __typename
            createTask(input: {title: $title}) { __typename task { __typename } userErrors { __typename } }
        }
    """
    made = {"__typename": "TaskPayload", "task": {"__typename": "Task"}, "userErrors": []}
    refused = {"__typename": "TaskPayload", "task": None, "userErrors": [{"__typename": "UserError"}]}

    assert await alice.data(query, title="New") == {"__typename": "Mutation", "createTask": made}
    assert await alice.data(query, title=" ") == {"__typename": "Mutation", "createTask": refused}


# Values


async def test_nulls(alice: User) -> None:
    """Missing optional values are null."""
    task = await alice.add()
    data = await alice.data(NULLABLE, id=task["id"])

    assert set(data["task"].values()) == set(data["viewer"].values()) == {None}


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("pageInfo { __typename }", {"pageInfo": {"__typename": "PageInfo"}}),
        ("pageInfo { hasPreviousPage }", {"pageInfo": {"hasPreviousPage": False}}),
        ("pageInfo { hasNextPage @skip(if: true) }", {"pageInfo": {}}),
        ("pageInfo { startCursor hasNextPage }", {"pageInfo": {"startCursor": None, "hasNextPage": False}}),
        ("nodes { __typename }", {"nodes": []}),
        ("edges { cursor }", {"edges": []}),
        ("totalCount", {"totalCount": 0}),
        ("__typename", {"__typename": "TaskConnection"}),
    ],
)
async def test_parts_of_an_empty_page(alice: User, selection: str, expected: dict[str, Any]) -> None:
    """Each part of an empty page can be selected on its own."""
    assert await alice.data(f"{{ tasks {{ {selection} }} }}") == {"tasks": expected}


# Mutations


async def test_a_payload_without_its_task(alice: User) -> None:
    """A mutation need not select the task that it changes."""
    data = await alice.data('mutation { createTask(input: {title: "New"}) { userErrors { code } } }')

    assert data == {"createTask": {"userErrors": []}}
    assert await alice.data("{ tasks { nodes { title } } }") == {"tasks": {"nodes": [{"title": "New"}]}}


MUTATIONS = {
    "create": ('createTask(input: {id: $id, title: "New", tags: [" a ", "a"], priority: HIGH})', None),
    "update": ('updateTask(id: $id, input: {title: "é \\\\ \\"", description: null, dueDate: "2024-02-29"})', "live"),
    "update nothing": ("updateTask(id: $id, input: {})", "live"),
    "complete": ("setTaskCompleted(id: $id, completed: true)", "live"),
    "delete": ("deleteTask(id: $id)", "live"),
    "delete again": ("deleteTask(id: $id)", "trashed"),
    "restore": ("restoreTask(id: $id)", "trashed"),
    "restore again": ("restoreTask(id: $id)", "live"),
    "move": ("moveTask(id: $id, to: {toStart: true})", "live"),
    "conflict": ("deleteTask(id: $id, expectedVersion: 99)", "live"),
    "id taken": ('createTask(input: {id: $id, title: "Another"})', "live"),
}


@pytest.mark.parametrize(("mutation", "before"), MUTATIONS.values(), ids=MUTATIONS)
async def test_a_mutation_shows_what_a_query_then_shows(alice: User, mutation: str, before: str | None) -> None:
    """The task in a payload equals the task in a later query, in all fields."""
    task_id = str(uuid4()) if before is None else (await alice.add(description="There", dueDate="9999-12-31"))["id"]
    if before == "trashed":
        await alice.data("mutation ($id: ID!) { deleteTask(id: $id) { task { id } } }", id=task_id)
    payload = await alice.data(f"mutation ($id: ID!) {{ payload: {mutation} {PAYLOAD_FIELDS} }}", id=task_id)

    assert payload["payload"]["task"] == (await alice.data(TASK, id=task_id))["task"]


MANY = {
    "create": 'createTasks(inputs: [{title: "B"}, {title: "A", tags: ["x"]}, {title: "B"}])',
    "update": 'updateTasks(where: {all: true}, input: {title: "é \\\\ \\"", priority: LOW, completed: true})',
    "update nothing": "updateTasks(where: {all: true}, input: {})",
    "dry run": 'updateTasks(where: {all: true}, input: {title: "Other"}, dryRun: true)',
    "delete": "deleteTasks(where: {all: true})",
    "restore": "restoreTasks(where: {all: true})",
}


@pytest.mark.parametrize("mutation", MANY.values(), ids=MANY)
async def test_many_tasks_are_shown_as_a_query_then_shows_them(alice: User, mutation: str) -> None:
    """The tasks in a payload, under any alias, equal the tasks in later queries."""
    for title in ("One", "Two", "Three"):
        await alice.add(title, description='"', tags=["tag"])
    await alice.data('mutation { deleteTasks(where: {filter: {search: "Two"}}) { token } }')
    data = await alice.data(f"mutation {{ payload: {mutation} {TASKS_PAYLOAD} }}")

    assert data["payload"]["all"]
    for task, short in zip(data["payload"]["all"], data["payload"]["some"], strict=True):
        assert task == (await alice.data(TASK, id=task["id"]))["task"]
        assert short == {"kind": "Task", "title": task["title"]}


async def test_mutations_of_one_operation(alice: User) -> None:
    """The mutations of an operation run in sequence, and each returns its own result."""
    query = """
        mutation ($id: ID!) {
            a: createTask(input: {id: $id, title: "One"}) { ...P }
            b: updateTask(id: $id, input: {title: "Two"}) { ...P }
            c: deleteTask(id: $id) { ...P }
            d: updateTask(id: $id, input: {title: "Three"}) { ...P }
        }
        fragment P on TaskPayload { task { title version } userErrors { code } }
    """
    data = await alice.data(query, id=str(uuid4()))

    assert data == {
        "a": {"task": {"title": "One", "version": 1}, "userErrors": []},
        "b": {"task": {"title": "Two", "version": 2}, "userErrors": []},
        "c": {"task": {"title": "Two", "version": 3}, "userErrors": []},
        "d": {"task": {"title": "Two", "version": 3}, "userErrors": [{"code": "IN_TRASH"}]},
    }


# Operations and statements


async def test_one_statement_for_each_root_field(seen: Seen, wire: Wire) -> None:
    """Each root field is one statement, whatever it selects; a skipped one is none."""
    query = """
        query ($id: ID!) {
            viewer { id taskStats { total open completed overdue } }
            node(id: $id) { id ... on Task { title } ... on User { email taskStats { total } } }
            task(id: $id) { a: title b: title }
            tasks { a: edges { cursor } b: edges { node { id } } nodes { id } pageInfo { endCursor } totalCount }
            done: tasks(filter: {completed: true}) { totalCount }
            ... @skip(if: true) { again: viewer { id } }
        }
    """
    await wire.statements()
    await seen.user.data(query, id=seen.task["id"])

    assert len(await wire.statements()) == 5


TWO_OPERATIONS = """
    query Short($id: ID!) { task(id: $id) { ...F } }
    query Long($id: ID!) { task(id: $id) { ...F title } }
    fragment F on Task { id }
"""


async def test_a_document_of_two_operations(seen: Seen) -> None:
    """OperationName selects the operation, in any order."""
    titles = {"Short": {}, "Long": {"title": "A task"}}
    for name in ("Short", "Long", "Long", "Short"):
        response = await seen.user.post(TWO_OPERATIONS, {"id": seen.task["id"]}, operationName=name)
        assert response.json() == {"data": {"task": {"id": seen.task["id"]} | titles[name]}}


@pytest.mark.parametrize("name", [None, "Other", ""])
async def test_an_unknown_operation_name(seen: Seen, name: str | None) -> None:
    """With several operations, a missing or unknown operationName is BAD_USER_INPUT."""
    response = await seen.user.post(TWO_OPERATIONS, {"id": seen.task["id"]}, operationName=name)

    assert [error["extensions"]["code"] for error in response.json()["errors"]] == ["BAD_USER_INPUT"]


async def test_a_text_is_prepared_once(seen: Seen, bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document is validated and its statement compiled once, for all users and values."""
    counts = {"validate": 0, "compiled": 0}

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            counts[name] += 1
            return function(*arguments, **named)

        return counted

    monkeypatch.setattr(execution, "validate", counting("validate", graphql.validate))
    monkeypatch.setattr(statements, "compiled", counting("compiled", statements.compiled))
    query = "query Once($id: ID!, $title: Boolean = true) { task(id: $id) { once: id title @include(if: $title) } }"
    for user, task_id in product([seen.user, bob], [seen.task["id"], str(uuid4())]):
        await user.data(query, id=task_id)

    assert counts == {"validate": 1, "compiled": 1}
    await seen.user.data(query, id=seen.task["id"], title=False)
    assert counts == {"validate": 1, "compiled": 2}


async def test_a_statement_that_several_ask_for_at_once_is_kept(
    seen: Seen, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that concurrent requests need is compiled once and reused."""
    counts: Counter[str] = Counter()
    compiled, built = statements.compiled, compiling.Statements.compiled

    def counting(construct: Any) -> Statement:
        counts["compiled"] += 1
        return compiled(construct)

    async def asking(self: compiling.Statements, *arguments: Any) -> Statement:
        counts["asked for"] += 1
        return await built(self, *arguments)

    monkeypatch.setattr(statements, "compiled", counting)
    monkeypatch.setattr(compiling.Statements, "compiled", asking)
    query = "query ($id: ID!) { task(id: $id) { atOnce: id title } }"
    await asyncio.gather(*(user.data(query, id=seen.task["id"]) for user in [seen.user, bob] * 4))
    assert counts["compiled"] == 1
    assert counts["asked for"] > 1  # otherwise the requests were not concurrent
    at_once = counts["asked for"]
    for user in (seen.user, bob):
        await user.data(query, id=seen.task["id"])

    assert counts == {"compiled": 1, "asked for": at_once}


async def test_one_operation_for_two_users_at_once(seen: Seen, bob: User) -> None:
    """Concurrent requests with the same document each get their own user's response."""
    await bob.add("Bob's")
    query = "query Both { viewer { id } tasks { nodes { title } } }"
    answers = await asyncio.gather(*(user.data(query) for user in [seen.user, bob] * 10))

    expected = [
        {"viewer": {"id": str(user.id)}, "tasks": {"nodes": [{"title": title}]}}
        for user, title in ((seen.user, "A task"), (bob, "Bob's"))
    ]
    assert answers == expected * 10


async def test_operations_that_ask_for_the_same_share_a_statement(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents that differ only in inlined arguments share a statement."""
    tasks = [await alice.add(f"Task {number}") for number in range(3)]
    built = []
    original = reading.one

    def build(entity: Entity, selection: Selection, pages: reading.Pages) -> Statement:
        built.append(selection)
        return original(entity, selection, pages)

    monkeypatch.setattr(reading, "one", build)
    for task in tasks:
        text = f'query Q{task["id"][:8]} {{ task(id: "{task["id"]}") {{ inline: title version }} }}'
        assert (await alice.data(text))["task"] == {"inline": task["title"], "version": task["version"]}

    assert len(built) == 1
