"""Arguments that several fields share."""

from typing import Annotated

import strawberry

from schema.inputs import TaskFilter, TaskOrder

Id = Annotated[
    strawberry.ID,
    strawberry.argument(description="A UUID with hyphens, such as `01890a5d-ac96-774b-bcce-b302099a8057`."),
]
Filter = Annotated[
    TaskFilter | None,
    strawberry.argument(description="The tasks to list. By default all that are not in the trash."),
]
OrderBy = Annotated[
    list[TaskOrder] | None,
    strawberry.argument(
        description="The fields to sort by, the most significant one first. Each field at most once. By default the"
        " newest tasks come first."
    ),
]
First = Annotated[
    int | None,
    strawberry.argument(
        description="Return this many from the start: 1 to 100. 20 if both `first` and `last` are omitted. Set"
        " only one of them."
    ),
]
After = Annotated[
    str | None,
    strawberry.argument(description="Return only what follows this cursor, which must be from the same `orderBy`."),
]
Last = Annotated[int | None, strawberry.argument(description="Return this many from the end: 1 to 100.")]
Before = Annotated[
    str | None,
    strawberry.argument(description="Return only what precedes this cursor, which must be from the same `orderBy`."),
]
