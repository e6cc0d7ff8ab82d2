"""The mutations. All by id are idempotent: a task or list that is already in the requested state is not changed."""

from typing import Annotated, Any, TypedDict

import strawberry
from strawberry import UNSET

from schema.arguments import Id
from schema.bases import ListBase, TaskBase
from schema.context import Info
from schema.engine.execution import Rendered
from schema.inputs import CreateTaskInput, MoveTarget, TaskSelector, UpdateTaskInput, given
from schema.lists import CreateListInput, TaskListSelector, UpdateListInput
from schema.payloads import payload, results
from schema.types import ListPayload, ListsPayload, TagPayload, TaskPayload, TasksPayload, TrashPayload, WriteResult
from schema.writes import WritesGiven

Expected = Annotated[
    int | None,
    strawberry.argument(
        description="The `version` that you last read. If it is not the current version, nothing is changed, and the"
        " error is VERSION_CONFLICT. Omit it to change any version. If you retry a mutation that succeeded, you get"
        " this error, too."
    ),
]
NewTask = Annotated[CreateTaskInput, strawberry.argument(description="The task to create.")]
Changes = Annotated[UpdateTaskInput, strawberry.argument(description="The changes. Omitted fields keep their values.")]
NewTasks = Annotated[
    list[CreateTaskInput],
    strawberry.argument(
        description="1 to 100 tasks to create. They keep this order in every list: each is a microsecond later than the"
        " one before, and ids that the server chooses ascend."
    ),
]
Selector = Annotated[TaskSelector, strawberry.argument(description="The tasks to change.")]
AtMost = Annotated[
    int | None,
    strawberry.argument(
        description="1 to 1,000. If more tasks or lists are selected, nothing is changed, and the error is"
        " LIMIT_EXCEEDED. The number is also the cost of the mutation, in rows."
    ),
]
DryRun = Annotated[
    bool | None, strawberry.argument(description="true: change nothing, only report what would be changed.")
]
Trashed = Annotated[
    TaskSelector, strawberry.argument(description="The tasks to delete. Only those in the trash match.")
]
TrashedLists = Annotated[
    TaskListSelector, strawberry.argument(description="The lists to delete. Only those in the trash match.")
]
Target = Annotated[MoveTarget, strawberry.argument(description="The new place in the manual order.")]
NewList = Annotated[CreateListInput, strawberry.argument(description="The list to create.")]
ListChanges = Annotated[
    UpdateListInput, strawberry.argument(description="The changes. Omitted fields keep their values.")
]
From = Annotated[str, strawberry.argument(name="from", description="The tag to rename. Case makes no difference.")]
To = Annotated[
    str,
    strawberry.argument(description="The new name: 1 to 50 characters. It may differ by case alone."),
]
TagName = Annotated[str, strawberry.argument(description="The tag to delete. Case makes no difference.")]
Completed = Annotated[bool, strawberry.argument(description="true: the task is done; false: it is open.")]


class Limits(TypedDict):
    """The limits of a purge."""

    at_most: int
    dry_run: bool


@strawberry.type(
    description="Changes to the user's tasks and lists. Errors that the user can correct are returned in `userErrors`,"
    " all others as GraphQL errors with `extensions.code`."
)
class Mutation:
    @strawberry.mutation(
        graphql_type=TaskPayload,
        description="Create a task at the end of the manual order. Safe to retry if you set `id` in the input.",
    )
    async def create_task(self, info: Info, input: NewTask) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TaskPayload")
        written = await context.tasks().create(selection, input.content())
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=TaskPayload,
        description="Change a task that is not in the trash. Safe to retry without `expectedVersion`.",
    )
    async def update_task(
        self,
        info: Info,
        id: Id,
        input: Changes,
        base: TaskBase = UNSET,
        expected_version: Expected = UNSET,
    ) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TaskPayload")
        seen = base.seen() if base else {}
        written = await context.tasks().update(selection, id, input.changes(), given(expected_version), seen)
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=TaskPayload,
        description="Set whether a task is done. It must not be in the trash. It does not toggle, so it is safe to"
        " retry.",
    )
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

    @strawberry.mutation(
        graphql_type=TaskPayload, description="Move a task to the trash. `restoreTask` undoes it. Safe to retry."
    )
    async def delete_task(self, info: Info, id: Id, expected_version: Expected = UNSET) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TaskPayload")
        written = await context.tasks().delete(selection, id, given(expected_version))
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=TaskPayload,
        description="Restore a task from the trash, with the content and the position it had. If its list is in the"
        " trash, the task moves to the inbox. Safe to retry.",
    )
    async def restore_task(self, info: Info, id: Id) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TaskPayload")
        written = await context.tasks().restore(selection, id)
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=TaskPayload,
        description="Move a task in the manual order. It must not be in the trash. Safe to retry.",
    )
    async def move_task(self, info: Info, id: Id, to: Target) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TaskPayload")
        written = await context.tasks().move(selection, id, *to.place())
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=TasksPayload,
        description="Create up to 100 tasks: all of them, or none if there is an error. Safe to retry if you set all"
        " ids.",
    )
    async def create_tasks(self, info: Info, inputs: NewTasks) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TasksPayload")
        written = await context.tasks().create_many(selection, [task.content() for task in inputs])
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(graphql_type=TasksPayload, description="Change several tasks that are not in the trash.")
    async def update_tasks(
        self, info: Info, where: Selector, input: Changes, at_most: AtMost = 100, dry_run: DryRun = False
    ) -> Rendered:
        return await _change_many(info, "update", where, input.changes(), at_most, dry_run)

    @strawberry.mutation(graphql_type=TasksPayload, description="Move several tasks to the trash.")
    async def delete_tasks(
        self, info: Info, where: Selector, at_most: AtMost = 100, dry_run: DryRun = False
    ) -> Rendered:
        return await _change_many(info, "delete", where, {}, at_most, dry_run)

    @strawberry.mutation(
        graphql_type=TasksPayload,
        description="Restore several tasks from the trash, with the content and the positions they had. Those whose"
        " list is in the trash move to the inbox.",
    )
    async def restore_tasks(
        self, info: Info, where: Selector, at_most: AtMost = 100, dry_run: DryRun = False
    ) -> Rendered:
        return await _change_many(info, "restore", where, {}, at_most, dry_run)

    @strawberry.mutation(
        graphql_type=ListPayload,
        description="Create a list at the end of their manual order. Safe to retry if you set `id` in the input.",
    )
    async def create_list(self, info: Info, input: NewList) -> Rendered:
        context, selection = info.context, info.context.selection(info, "ListPayload")
        written = await context.lists().create(selection, input.content())
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=ListPayload,
        description="Change a list that is not in the trash. Safe to retry without `expectedVersion`.",
    )
    async def update_list(
        self, info: Info, id: Id, input: ListChanges, base: ListBase = UNSET, expected_version: Expected = UNSET
    ) -> Rendered:
        context, selection = info.context, info.context.selection(info, "ListPayload")
        seen = base.seen() if base else {}
        written = await context.lists().update(selection, id, input.changes(), given(expected_version), seen)
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=ListPayload,
        description="Move a list in the manual order of lists. It must not be in the trash. Its tasks stay where they"
        " are in the manual order of tasks. Safe to retry.",
    )
    async def move_list(self, info: Info, id: Id, to: Target) -> Rendered:
        context, selection = info.context, info.context.selection(info, "ListPayload")
        written = await context.lists().move(selection, id, *to.place())
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=ListPayload,
        description="Move a list and its tasks to the trash. `restoreList` undoes it. Safe to retry. Costs 100 rows.",
    )
    async def delete_list(self, info: Info, id: Id, expected_version: Expected = UNSET) -> Rendered:
        context, selection = info.context, info.context.selection(info, "ListPayload")
        written = await context.lists().delete(selection, id, given(expected_version))
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=ListPayload,
        description="Restore a list from the trash, and the tasks that `deleteList` moved there with it, unless they"
        " were deleted or restored since. Safe to retry. Costs 100 rows.",
    )
    async def restore_list(self, info: Info, id: Id) -> Rendered:
        context, selection = info.context, info.context.selection(info, "ListPayload")
        written = await context.lists().restore(selection, id)
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=TasksPayload,
        description="Permanently delete several tasks that are in the trash. This cannot be undone, and their ids"
        " cannot be used again. The payload shows them as they were.",
    )
    async def purge_tasks(self, info: Info, where: Trashed, at_most: AtMost = 100, dry_run: DryRun = False) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TasksPayload")
        limits: Limits = {"at_most": 100 if at_most is None else at_most, "dry_run": bool(dry_run)}
        written = await context.tasks().purge(selection, where.selector(), **limits)
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=ListsPayload,
        description="Permanently delete several lists that are in the trash. This cannot be undone, and their ids"
        " cannot be used again. Their tasks stay in the trash, in no list. The payload shows the lists as they were.",
    )
    async def purge_lists(
        self, info: Info, where: TrashedLists, at_most: AtMost = 100, dry_run: DryRun = False
    ) -> Rendered:
        context, selection = info.context, info.context.selection(info, "ListsPayload")
        limits: Limits = {"at_most": 100 if at_most is None else at_most, "dry_run": bool(dry_run)}
        written = await context.lists().purge(selection, where.selector(), **limits)
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=TrashPayload,
        description="Permanently delete all tasks and lists that are in the trash. This cannot be undone, and their ids"
        " cannot be used again. If there are more than 1,000, delete them in parts with `purgeTasks`.",
    )
    async def empty_trash(self, info: Info, at_most: AtMost = 100, dry_run: DryRun = False) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TrashPayload")
        limits: Limits = {"at_most": 100 if at_most is None else at_most, "dry_run": bool(dry_run)}
        written = await context.empty_trash(**limits)
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=TagPayload,
        description="Rename a tag of all tasks, also of those in the trash. If another tag has the new name already,"
        " the two become one, which keeps its name. Costs 100 rows. Safe to retry: if only the tag with the new name"
        " exists, nothing is changed.",
    )
    async def rename_tag(self, info: Info, from_: From, to: To) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TagPayload")
        written = await context.tags().rename(selection, from_, to)
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=TagPayload,
        description="Remove a tag from all tasks, also from those in the trash, and from the list of tags. Costs 100"
        " rows. Safe to retry: if there is no such tag, nothing is changed.",
    )
    async def delete_tag(self, info: Info, name: TagName) -> Rendered:
        context, selection = info.context, info.context.selection(info, "TagPayload")
        written = await context.tags().delete(selection, name)
        return payload(selection, written, context.principal.user_id)

    @strawberry.mutation(
        graphql_type=list[WriteResult],
        description="Run up to 100 writes in their order, in one transaction, and return the result of each. A write"
        " that is rejected does not prevent the others; one that names the id of a create that was rejected here is"
        " NOT_FOUND. Safe to retry if creates have ids, and updates a `base`.",
    )
    async def write(self, info: Info, writes: WritesGiven) -> Rendered:
        context, selection = info.context, info.context.selection(info, "WriteResult")
        written = await context.writes().run(selection, [one.step for one in writes])
        named = zip((one.name for one in writes), written, strict=True)
        return results(selection, list(named), context.principal.user_id)


async def _change_many(
    info: Info, kind: str, where: TaskSelector, changes: dict[str, Any], at_most: int | None, dry_run: bool | None
) -> Rendered:
    selection, most = info.context.selection(info, "TasksPayload"), 100 if at_most is None else at_most
    written = await info.context.tasks().change_many(
        selection, kind, where.selector(), changes, at_most=most, dry_run=bool(dry_run)
    )
    return payload(selection, written, info.context.principal.user_id)
