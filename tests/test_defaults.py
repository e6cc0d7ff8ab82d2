"""Optional inputs with a default are nullable, and null means the default: code generators require this."""

from typing import Any

import pytest
from conftest import User
from graphql import GraphQLInputObjectType, GraphQLInterfaceType, GraphQLObjectType, Undefined, is_non_null_type

from schema import schema
from schema.engine.direct import core

CREATE = """
    mutation Create($priority: TaskPriority) {
        createTask(input: { title: "x", priority: $priority }) { task { priority } }
    }
"""
CREATE_MANY = "mutation Many($inputs: [CreateTaskInput!]!) { createTasks(inputs: $inputs) { affectedCount } }"
ORDERED = "query Ordered($by: [TaskOrder!]) { tasks(orderBy: $by) { nodes { title } } }"
FILTERED = "query Filtered($filter: TaskFilter) { tasks(filter: $filter) { nodes { title } } }"
DELETE = """
    mutation Delete($where: TaskSelector!, $atMost: Int, $dryRun: Boolean) {
        deleteTasks(where: $where, atMost: $atMost, dryRun: $dryRun) { affectedCount userErrors { code } }
    }
"""


def test_no_default_is_hidden_behind_non_null() -> None:
    """No argument or input field is non-null with a default: many generators would treat it as required."""
    strict = []
    for name, type_ in core(schema).type_map.items():
        if isinstance(type_, GraphQLInputObjectType):
            strict += [f"{name}.{key}" for key, value in type_.fields.items() if _is_strict(value)]
        elif isinstance(type_, GraphQLObjectType | GraphQLInterfaceType) and not name.startswith("__"):
            for key, field in type_.fields.items():
                strict += [f"{name}.{key}({given})" for given, value in field.args.items() if _is_strict(value)]

    assert strict == []


def _is_strict(value: Any) -> bool:
    return is_non_null_type(value.type) and value.default_value is not Undefined


@pytest.mark.parametrize("given", [{}, {"priority": None}])
async def test_no_priority_is_none(alice: User, given: dict[str, Any]) -> None:
    """An omitted or null priority is NONE."""
    data = await alice.data(CREATE, **given)

    assert data["createTask"]["task"]["priority"] == "NONE"


@pytest.mark.parametrize("given", [{}, {"direction": None}])
async def test_no_direction_is_ascending(alice: User, given: dict[str, Any]) -> None:
    """An omitted or null direction is ascending."""
    for title in "ba":
        await alice.add(title)

    data = await alice.data(ORDERED, by=[{"field": "TITLE", **given}])

    assert [task["title"] for task in data["tasks"]["nodes"]] == ["a", "b"]


@pytest.mark.parametrize("given", [{}, {"trashed": None}])
async def test_without_trashed_the_trash_is_not_listed(alice: User, given: dict[str, Any]) -> None:
    """Without `trashed`, or with null, tasks in the trash are not listed."""
    task = await alice.add("Trash")
    await alice.add("Kept")
    await alice.data(DELETE, where={"ids": [task["id"]]})

    data = await alice.data(FILTERED, filter=given)

    assert [task["title"] for task in data["tasks"]["nodes"]] == ["Kept"]


@pytest.mark.parametrize("given", [{}, {"atMost": None, "dryRun": None}])
async def test_without_bounds_a_bulk_delete_deletes(alice: User, given: dict[str, Any]) -> None:
    """Without bounds, or with null, a bulk delete is not a dry run."""
    await alice.add("Gone")

    data = await alice.data(DELETE, where={"all": True}, **given)

    assert data["deleteTasks"] == {"affectedCount": 1, "userErrors": []}
    assert (await alice.data(FILTERED))["tasks"]["nodes"] == []


@pytest.mark.parametrize("given", [{}, {"atMost": None}])
async def test_without_bounds_the_default_limit_applies(alice: User, given: dict[str, Any]) -> None:
    """Without `atMost`, or with null, 101 tasks exceed the limit."""
    await alice.data(CREATE_MANY, inputs=[{"title": "One of many"}] * 100)
    await alice.add("One more")

    data = await alice.data(DELETE, where={"all": True}, **given)

    assert data["deleteTasks"]["userErrors"] == [{"code": "LIMIT_EXCEEDED"}]
