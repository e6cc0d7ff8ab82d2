"""The writes of a batch: each holds the arguments of the mutation after which it is named."""

from typing import Annotated, Any

import strawberry
from strawberry import UNSET

from app.entities.naming import api_name
from app.entities.steps import Step
from app.tasks.batch import Kinds
from schema.bases import UpdateListBase, UpdateTaskBase
from schema.engine.prices import ROWS_OF_CHANGES
from schema.inputs import CreateTaskInput, MoveTarget, UpdateTaskInput
from schema.lists import CreateListInput, UpdateListInput

# A field object belongs to one class, so each gets its own.


def _id(row: str = "task") -> Any:
    return strawberry.field(description=f"The id of the {row}.")


def _expected() -> Any:
    return strawberry.field(
        description="The `version` that you last read; with any other, nothing is changed, and the error is"
        " VERSION_CONFLICT. An earlier write of the same request may change the version."
    )


def _base() -> Any:
    return strawberry.field(description="What you have last seen of the fields that you change.")


def _input() -> Any:
    return strawberry.field(description="The changes. Omitted fields keep their values.")


def _to() -> Any:
    return strawberry.field(description="The new place in the manual order.")


def _as(mutation: str) -> Any:
    more = " Costs 100 rows." if mutation in ROWS_OF_CHANGES else ""
    return strawberry.field(default=UNSET, description=f"As `{mutation}`.{more}")


@strawberry.input(description="The arguments of `updateTask`.")
class UpdateTaskWrite:
    id: strawberry.ID = _id()
    input: UpdateTaskInput = _input()
    base: UpdateTaskBase | None = _base()
    expected_version: int | None = _expected()

    def step(self, kinds: Kinds) -> Step:
        base = self.base.seen() if self.base else {}
        return kinds.tasks.update(self.id, self.input.changes(), self.expected_version, base)


@strawberry.input(description="The arguments of `setTaskCompleted`.")
class SetTaskCompletedWrite:
    id: strawberry.ID = _id()
    completed: bool = strawberry.field(description="true: the task is done; false: it is open.")
    expected_version: int | None = _expected()

    def step(self, kinds: Kinds) -> Step:
        return kinds.tasks.update(self.id, {"completed": self.completed}, self.expected_version)


@strawberry.input(description="The arguments of `moveTask`.")
class MoveTaskWrite:
    id: strawberry.ID = _id()
    to: MoveTarget = _to()

    def step(self, kinds: Kinds) -> Step:
        return kinds.tasks.move(self.id, *self.to.place())


@strawberry.input(description="The arguments of `deleteTask`.")
class DeleteTaskWrite:
    id: strawberry.ID = _id()
    expected_version: int | None = _expected()

    def step(self, kinds: Kinds) -> Step:
        return kinds.tasks.delete(self.id, self.expected_version)


@strawberry.input(description="The arguments of `restoreTask`.")
class RestoreTaskWrite:
    id: strawberry.ID = _id()

    def step(self, kinds: Kinds) -> Step:
        return kinds.tasks.restore(self.id)


@strawberry.input(description="The arguments of `updateList`.")
class UpdateListWrite:
    id: strawberry.ID = _id("list")
    input: UpdateListInput = _input()
    base: UpdateListBase | None = _base()
    expected_version: int | None = _expected()

    def step(self, kinds: Kinds) -> Step:
        base = self.base.seen() if self.base else {}
        return kinds.lists.update(self.id, self.input.changes(), self.expected_version, base)


@strawberry.input(description="The arguments of `moveList`.")
class MoveListWrite:
    id: strawberry.ID = _id("list")
    to: MoveTarget = _to()

    def step(self, kinds: Kinds) -> Step:
        return kinds.lists.move(self.id, *self.to.place())


@strawberry.input(description="The arguments of `deleteList`.")
class DeleteListWrite:
    id: strawberry.ID = _id("list")
    expected_version: int | None = _expected()

    def step(self, kinds: Kinds) -> Step:
        return kinds.lists.delete(self.id, self.expected_version)


@strawberry.input(description="The arguments of `restoreList`.")
class RestoreListWrite:
    id: strawberry.ID = _id("list")

    def step(self, kinds: Kinds) -> Step:
        return kinds.lists.restore(self.id)


@strawberry.input(description="The arguments of `renameTag`.")
class RenameTagWrite:
    from_: str = strawberry.field(name="from", description="The tag to rename. Case makes no difference.")
    to: str = strawberry.field(description="The new name: 1 to 50 characters. It may differ by case alone.")

    def step(self, kinds: Kinds) -> Step:
        return kinds.tags.rename(self.from_, self.to)


@strawberry.input(description="The arguments of `deleteTag`.")
class DeleteTagWrite:
    name: str = strawberry.field(description="The tag to delete. Case makes no difference.")

    def step(self, kinds: Kinds) -> Step:
        return kinds.tags.delete(self.name)


@strawberry.input(one_of=True, description="A write of a batch. Set exactly one field.")
class Write:
    create_task: CreateTaskInput | None = strawberry.field(default=UNSET, description="The `input` of `createTask`.")
    update_task: UpdateTaskWrite | None = _as("updateTask")
    set_task_completed: SetTaskCompletedWrite | None = _as("setTaskCompleted")
    move_task: MoveTaskWrite | None = _as("moveTask")
    delete_task: DeleteTaskWrite | None = _as("deleteTask")
    restore_task: RestoreTaskWrite | None = _as("restoreTask")
    create_list: CreateListInput | None = strawberry.field(default=UNSET, description="The `input` of `createList`.")
    update_list: UpdateListWrite | None = _as("updateList")
    move_list: MoveListWrite | None = _as("moveList")
    delete_list: DeleteListWrite | None = _as("deleteList")
    restore_list: RestoreListWrite | None = _as("restoreList")
    rename_tag: RenameTagWrite | None = _as("renameTag")
    delete_tag: DeleteTagWrite | None = _as("deleteTag")

    @property
    def name(self) -> str:
        """The field that is set."""
        return next(api_name(name) for name, value in vars(self).items() if value)

    def step(self, kinds: Kinds) -> Step:
        """Raises Rejected or RequestError for invalid input."""
        if self.create_task:
            return kinds.tasks.create(self.create_task.content())
        if self.create_list:
            return kinds.lists.create(self.create_list.content())
        given: Any = next(filter(None, vars(self).values()))
        step: Step = given.step(kinds)
        return step


WritesGiven = Annotated[
    list[Write],
    strawberry.argument(
        description="At most 100 writes. Later ones see what earlier ones have written. The cost is one row for each,"
        " besides what the fields say."
    ),
]
