"""Arguments that several fields share."""

from collections.abc import Mapping
from typing import Annotated, Any

import strawberry

from app.database.rendering import Field
from app.entities.repository import Values, Wanted, Window
from app.tasks.fields import TASK
from app.tasks.stats import TODAY
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


def given_to(entry: Field, variables: Mapping[str, Any]) -> Wanted | Values:
    """The arguments of a field below a root field: of a connection of tasks, or the day of counts."""
    assert isinstance(entry.arguments, Arguments)  # noqa: S101 - only such fields are nested
    given = entry.arguments.values(variables)
    return _day(given) if entry.name == "taskStats" else _page_of_tasks(given)


def _day(given: Mapping[str, Any]) -> Values:
    # As text: asyncpg would encode 9999-12-31 as infinity.
    day = given.get(TODAY)
    return {TODAY: day and day.isoformat()}


def _page_of_tasks(given: Mapping[str, Any]) -> Wanted:
    window = Window(**{name: given.get(name) for name in ("first", "after", "last", "before")})
    order = [term.term() for term in given.get("order_by") or ()]
    return Wanted(TASK, tree(given.get("filter")) or {}, order, window)
