"""Mutation: what can be changed. Each may be sent again: what is so already stays so."""

from typing import Annotated, Any

import strawberry
from strawberry import UNSET

from schema.context import Info
from schema.engine.execution import Rendered
from schema.inputs import CreateTaskInput, MoveTarget, TaskSelector, UpdateTaskInput, given
from schema.payloads import payload
from schema.queries import Id
from schema.types import TaskPayload, TasksPayload

Expected = Annotated[
    int | None,
    strawberry.argument(description="The version you last saw; with another nothing is changed: VERSION_CONFLICT."),
]
NewTask = Annotated[CreateTaskInput, strawberry.argument(description="The task to make.")]
Changes = Annotated[UpdateTaskInput, strawberry.argument(description="What to change; what is omitted stays.")]
NewTasks = Annotated[list[CreateTaskInput], strawberry.argument(description="1 to 100 tasks to make, in this order.")]
Selector = Annotated[TaskSelector, strawberry.argument(description="Which tasks.")]
AtMost = Annotated[
    int | None, strawberry.argument(description="If more are selected nothing is changed: LIMIT_EXCEEDED. 1 to 1,000.")
]
DryRun = Annotated[bool | None, strawberry.argument(description="true: only say what would be changed.")]
Target = Annotated[MoveTarget, strawberry.argument(description="Where to.")]
Completed = Annotated[bool, strawberry.argument(description="true: done; false: open.")]


@strawberry.type(description="What you can change. What a form can mend comes back as `userErrors`.")
class Mutation:
    @strawberry.mutation(graphql_type=TaskPayload, description="Make a task, at the end of the manual order.")
    async def create_task(self, info: Info, input: NewTask) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TaskPayload")
        written = await context.tasks().create(selection, input.content())
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(graphql_type=TaskPayload, description="Change a task that is not in the trash.")
    async def update_task(
        self,
        info: Info,
        id: Id,
        input: Changes,
        expected_version: Expected = UNSET,
    ) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TaskPayload")
        written = await context.tasks().update(selection, id, input.changes(), given(expected_version))
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(graphql_type=TaskPayload, description="Say whether a task is done; nothing toggles.")
    async def set_task_completed(
        self,
        info: Info,
        id: Id,
        completed: Completed,
        expected_version: Expected = UNSET,
    ) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TaskPayload")
        written = await context.tasks().update(selection, id, {"completed": completed}, given(expected_version))
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(graphql_type=TaskPayload, description="Put a task in the trash; `restoreTask` takes it out.")
    async def delete_task(self, info: Info, id: Id, expected_version: Expected = UNSET) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TaskPayload")
        written = await context.tasks().delete(selection, id, given(expected_version))
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(graphql_type=TaskPayload, description="Take a task out of the trash, as it was.")
    async def restore_task(self, info: Info, id: Id) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TaskPayload")
        written = await context.tasks().restore(selection, id)
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(graphql_type=TaskPayload, description="Move a task in the manual order.")
    async def move_task(self, info: Info, id: Id, to: Target) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TaskPayload")
        written = await context.tasks().move(selection, id, *to.place())
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(graphql_type=TasksPayload, description="Make up to 100 tasks, all or none.")
    async def create_tasks(self, info: Info, inputs: NewTasks) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TasksPayload")
        written = await context.tasks().create_many(selection, [task.content() for task in inputs])
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(graphql_type=TasksPayload, description="Change many tasks that are not in the trash.")
    async def update_tasks(
        self, info: Info, where: Selector, input: Changes, at_most: AtMost = 100, dry_run: DryRun = False
    ) -> Rendered:
        return await _change_many(info, "update", where, input.changes(), at_most, dry_run)

    @strawberry.mutation(graphql_type=TasksPayload, description="Put many tasks in the trash.")
    async def delete_tasks(
        self, info: Info, where: Selector, at_most: AtMost = 100, dry_run: DryRun = False
    ) -> Rendered:
        return await _change_many(info, "delete", where, {}, at_most, dry_run)

    @strawberry.mutation(graphql_type=TasksPayload, description="Take many tasks out of the trash, as they were.")
    async def restore_tasks(
        self, info: Info, where: Selector, at_most: AtMost = 100, dry_run: DryRun = False
    ) -> Rendered:
        return await _change_many(info, "restore", where, {}, at_most, dry_run)


async def _change_many(
    info: Info, kind: str, where: TaskSelector, changes: dict[str, Any], at_most: int | None, dry_run: bool | None
) -> Rendered:
    selection, most = info.context.selection(info, "TasksPayload"), 100 if at_most is None else at_most
    written = await info.context.tasks().change_many(
        selection, kind, where.selector(), changes, at_most=most, dry_run=bool(dry_run)
    )
    return payload(selection, written, info.context.principal.user_id)
