"""A front end of what ariadne-codegen makes, run by the Python that has it."""

import asyncio
import os
from collections.abc import Awaitable
from datetime import date, datetime

from taskql_client import Client, CreateTaskInput, GraphQLClientGraphQLMultiError, MoveTarget, TaskFilter


def client(user: str) -> Client:
    return Client(os.environ["URL"], {"Authorization": f"Bearer {os.environ[user]}"})


async def main() -> None:
    hers, his = client("ALICE"), client("BOB")
    created = await hers.create_task(CreateTaskInput(title="Ariadne", due_date=date(2026, 1, 31)))
    task = created.create_task.task
    assert task
    assert (task.title, task.due_date) == ("Ariadne", date(2026, 1, 31))
    assert isinstance(task.created_at, datetime)
    assert task.created_at.tzinfo

    listed = await hers.tasks(filter_=TaskFilter(completed=False))
    assert listed.tasks
    assert [edge.node.title for edge in listed.tasks.edges] == ["Ariadne"]
    others = (await his.tasks()).tasks
    assert others
    assert others.edges == []

    page = (await hers.changes()).changes
    assert page
    assert [change.task.title for change in page.changes if change.typename__ == "TaskUpserted"] == ["Ariadne"]
    later = (await hers.changes(since=page.token)).changes
    assert later
    assert later.changes == []

    refused = await his.move_task(task.id, MoveTarget(to_start=True))
    assert [error.code for error in refused.move_task.user_errors] == ["NOT_FOUND"]
    error = await problem(hers.node("x"))
    assert error.errors[0].extensions == {"code": "BAD_USER_INPUT", "field": "id"}


async def problem(call: Awaitable[object]) -> GraphQLClientGraphQLMultiError:
    try:
        await call
    except GraphQLClientGraphQLMultiError as error:
        return error
    raise AssertionError("an id that is none was taken")


asyncio.run(main())
