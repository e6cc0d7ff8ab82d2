"""Mutation: what can be changed. Each may be sent again: what is so already stays so."""

from typing import Annotated

import strawberry
from strawberry import UNSET

from schema.context import Info
from schema.execution import Rendered
from schema.inputs import CreateTaskInput, UpdateTaskInput, given
from schema.payloads import payload
from schema.queries import Id
from schema.types import TaskPayload

Expected = Annotated[
    int | None,
    strawberry.argument(description="The version you last saw; with another nothing is changed: VERSION_CONFLICT."),
]
NewTask = Annotated[CreateTaskInput, strawberry.argument(description="The task to make.")]
Changes = Annotated[UpdateTaskInput, strawberry.argument(description="What to change; what is omitted stays.")]
Completed = Annotated[bool, strawberry.argument(description="true: done; false: open.")]


@strawberry.type(description="What you can change. What a form can mend comes back as `userErrors`.")
class Mutation:
    @strawberry.mutation(graphql_type=TaskPayload, description="Make a task, at the end of the manual order.")
    async def create_task(self, info: Info, input: NewTask) -> Rendered:
        selection = info.context.selection(info, "TaskPayload")
        written = await info.context.tasks().create(selection, input.content())
        return payload(selection, written, info.context.principal.user_id)

    @strawberry.mutation(graphql_type=TaskPayload, description="Change a task that is not in the trash.")
    async def update_task(
        self,
        info: Info,
        id: Id,
        input: Changes,
        expected_version: Expected = UNSET,
    ) -> Rendered:
        selection = info.context.selection(info, "TaskPayload")
        written = await info.context.tasks().update(selection, id, input.changes(), given(expected_version))
        return payload(selection, written, info.context.principal.user_id)

    @strawberry.mutation(graphql_type=TaskPayload, description="Say whether a task is done; nothing toggles.")
    async def set_task_completed(
        self,
        info: Info,
        id: Id,
        completed: Completed,
        expected_version: Expected = UNSET,
    ) -> Rendered:
        selection = info.context.selection(info, "TaskPayload")
        written = await info.context.tasks().update(selection, id, {"completed": completed}, given(expected_version))
        return payload(selection, written, info.context.principal.user_id)

    @strawberry.mutation(graphql_type=TaskPayload, description="Put a task in the trash; `restoreTask` takes it out.")
    async def delete_task(self, info: Info, id: Id, expected_version: Expected = UNSET) -> Rendered:
        selection = info.context.selection(info, "TaskPayload")
        written = await info.context.tasks().delete(selection, id, given(expected_version))
        return payload(selection, written, info.context.principal.user_id)

    @strawberry.mutation(graphql_type=TaskPayload, description="Take a task out of the trash, as it was.")
    async def restore_task(self, info: Info, id: Id) -> Rendered:
        selection = info.context.selection(info, "TaskPayload")
        written = await info.context.tasks().restore(selection, id)
        return payload(selection, written, info.context.principal.user_id)
