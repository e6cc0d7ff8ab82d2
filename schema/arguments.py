"""Arguments that several fields share."""

from collections.abc import Mapping
from typing import Annotated, Any

import strawberry

from app.database.rendering import Field
from app.entities.repository import Wanted, Window
from app.tasks.fields import TASK
from schema.engine.arguments import Arguments
from schema.inputs import TaskFilter, TaskOrder, tree

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


def page_of_tasks(entry: Field, variables: Mapping[str, Any]) -> Wanted:
    """What a connection of tasks below a root field asks for."""
    assert isinstance(entry.arguments, Arguments)  # noqa: S101 - only such fields are nested
    given = entry.arguments.values(variables)
    window = Window(**{name: given.get(name) for name in ("first", "after", "last", "before")})
    order = [term.term() for term in given.get("order_by") or ()]
    return Wanted(TASK, tree(given.get("filter")) or {}, order, window)
