"""Payloads show rows as edges, which fit into the pages of the default orders; and a bad argument spoils one field."""

from typing import Any

import pytest
from conftest import User
from test_bulk import inputs

NODE = "id title version createdAt"
EDGE = f"taskEdge {{ cursor node {{ {NODE} }} }}"
CREATE = f"mutation ($input: CreateTaskInput!) {{ createTask(input: $input) {{ {EDGE} userErrors {{ code }} }} }}"
CREATE_MANY = """mutation ($inputs: [CreateTaskInput!]!) {
    createTasks(inputs: $inputs) { taskEdges { cursor node { id } } tasks { id } }
}"""
PAGE = f"query ($after: String) {{ tasks(after: $after, first: 100) {{ edges {{ cursor node {{ {NODE} }} }} }} }}"
LISTS = "query ($after: String) { lists(after: $after) { edges { cursor node { id name } } } }"
CREATE_LIST = """mutation ($name: String!) {
    createList(input: { name: $name }) { listEdge { cursor node { id name } } list { id } }
}"""

Json = dict[str, Any]


async def page(user: User, query: str = PAGE, **variables: Any) -> list[Json]:
    """The edges of a page."""
    (connection,) = (await user.data(query, **variables)).values()
    edges: list[Json] = connection["edges"]
    return edges


async def test_a_new_task_is_an_edge(alice: User, bob: User) -> None:
    """The edge of a created task is the one that the default page shows, also if the create is repeated."""
    await alice.add("older")
    await bob.add("Bob's")
    wanted = inputs(1)[0]

    created = (await alice.data(CREATE, input=wanted))["createTask"]
    repeated = (await alice.data(CREATE, input=wanted))["createTask"]
    with_server_id = (await alice.data(CREATE, input={"title": "newest"}))["createTask"]

    newest, second, older = await page(alice)
    assert created["taskEdge"] == repeated["taskEdge"] == second
    assert with_server_id["taskEdge"] == newest
    assert await page(alice, after=second["cursor"]) == [older]


async def test_there_is_no_edge_without_a_task(alice: User) -> None:
    """A refused create has no edge."""
    assert (await alice.data(CREATE, input={"title": " "}))["createTask"] == {
        "taskEdge": None,
        "userErrors": [{"code": "BLANK"}],
    }


async def test_new_tasks_are_edges(alice: User) -> None:
    """The edges of several tasks are in their order, each as the default page shows it."""
    payload = (await alice.data(CREATE_MANY, inputs=inputs(5)))["createTasks"]

    edges = [{"cursor": edge["cursor"], "node": {"id": edge["node"]["id"]}} for edge in await page(alice)]
    assert payload["taskEdges"] == edges[::-1]
    assert [edge["node"] for edge in payload["taskEdges"]] == payload["tasks"]


async def test_a_new_list_is_an_edge(alice: User) -> None:
    """The cursor of a list is that of the manual order."""
    for name in ("Home", "Work"):
        created = (await alice.data(CREATE_LIST, name=name))["createList"]
        assert (await page(alice, LISTS))[-1] == created["listEdge"]

    first, second = await page(alice, LISTS)
    assert await page(alice, LISTS, after=first["cursor"]) == [second]


@pytest.mark.parametrize(
    "mutation",
    [
        'updateTask(id: $id, input: { title: "New" })',
        "updateTask(id: $id, input: { listId: $list })",
        "setTaskCompleted(id: $id, completed: true)",
        "moveTask(id: $id, to: { toEnd: true })",
    ],
)
async def test_changed_tasks_are_edges(alice: User, mutation: str) -> None:
    """Every payload of a task has its edge, with aliases and with what other rows contribute."""
    list_id = (await alice.data(CREATE_LIST, name="Home"))["createList"]["list"]["id"]
    task = await alice.add("Old", listId=list_id)
    await alice.add("Newer")
    variables = {"id": task["id"]} | ({"list": list_id} if "$list" in mutation else {})
    query = f"""mutation ({" ".join(f"${name}: ID!" for name in variables)}) {{ {mutation} {{
        plain: taskEdge {{ at: cursor node {{ id title }} }}
        taskEdge {{ __typename cursor node {{ id list {{ name taskStats {{ total }} }} }} again: node {{ title }} }}
        task {{ title }}
    }} }}"""

    (payload,) = (await alice.data(query, **variables)).values()

    _, shown = await page(alice)
    title = payload["task"]["title"]
    assert payload["plain"] == {"at": shown["cursor"], "node": {"id": task["id"], "title": title}}
    assert payload["taskEdge"] == {
        "__typename": "TaskEdge",
        "cursor": shown["cursor"],
        "node": {"id": task["id"], "list": {"name": "Home", "taskStats": {"total": 1}}},
        "again": {"title": title},
    }


async def test_edges_of_many_with_their_lists(alice: User) -> None:
    """Edges of several tasks may show their lists."""
    list_id = (await alice.data(CREATE_LIST, name="Home"))["createList"]["list"]["id"]
    query = CREATE_MANY.replace("node { id }", "node { id list { name taskStats { total } } }")

    payload = (await alice.data(query, inputs=inputs(3, listId=list_id)))["createTasks"]

    home = {"name": "Home", "taskStats": {"total": 3}}
    assert [edge["node"] for edge in payload["taskEdges"]] == [{**task, "list": home} for task in payload["tasks"]]
    assert [edge["cursor"] for edge in payload["taskEdges"]] == [edge["cursor"] for edge in await page(alice)][::-1]


@pytest.mark.parametrize(
    "wrong",
    [
        "tasks(first: 0) { nodes { id } }",
        'tasks(after: "x") { nodes { id } }',
        "lists(first: 101) { nodes { id } }",
        "tags(first: 0) { name }",
        "changes(first: 0) { token }",
        'task(id: "1") { id }',
    ],
)
async def test_a_bad_argument_spoils_one_field(alice: User, wrong: str) -> None:
    """The other fields of the query have their values."""
    await alice.add("Here")

    answer = await alice.ask(f"{{ viewer {{ id }} wrong: {wrong} tasks {{ nodes {{ title }} }} }}")

    assert answer["data"] == {"viewer": {"id": str(alice.id)}, "wrong": None, "tasks": {"nodes": [{"title": "Here"}]}}
    (error,) = answer["errors"]
    assert (error["path"], error["extensions"]["code"]) == (["wrong"], "BAD_USER_INPUT")


@pytest.mark.parametrize("more", ["", " viewer { id }"])
async def test_all_fields_fail_alike(alice: User, more: str) -> None:
    """A failed field is null at its place, with one field and with several."""
    answer = await alice.ask(f"{{ wrong: tasks(first: 0) {{ nodes {{ id }} }}{more} }}")

    assert answer["data"]["wrong"] is None
    assert [error["path"] for error in answer["errors"]] == [["wrong"]]


async def test_without_a_token_the_status_is_401(alice: User) -> None:
    """Nullable fields leave the status of requests without a valid token as it is."""
    answer = await alice.http.post("/graphql", json={"query": "{ tasks { nodes { id } } viewer { id } }"})

    assert answer.status_code == 401
    assert answer.json()["data"] == {"tasks": None, "viewer": None}
