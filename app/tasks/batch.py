"""Several writes of tasks, lists and tags in one transaction, each with its own result."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol
from uuid import UUID

import orjson

from app.database.batches import Batch, Item, Result
from app.database.compiling import Statements
from app.database.rendering import Selection
from app.entities.repository import NO_ROWS, Repository, Written
from app.entities.steps import Rejected, Step, Steps, rejected
from app.entities.writing import FIRST_RANK
from app.errors import LimitExceeded, RequestError, TooManyTags
from app.tasks.user_tags import TagSteps

MOST_WRITES = 100


class Kinds(NamedTuple):
    """What makes steps of each kind."""

    tasks: Steps
    lists: Steps
    tags: TagSteps


# Makes the step of a write, which raises Rejected or RequestError for invalid input.
Write = Callable[[Kinds], Step]


class Database(Protocol):
    """The database as batches use it."""

    async def write_all(self, owner: UUID, batch: Batch) -> list[Result]: ...


class Writes:
    """The batches of one user."""

    def __init__(
        self, database: Database, owner: UUID, statements: Statements, tasks: Repository, lists: Repository
    ) -> None:
        self._database, self._owner, self._statements = database, owner, statements
        self._repositories = tasks, lists
        self._kinds = Kinds(Steps(tasks), Steps(lists), TagSteps(owner))

    async def run(self, payload: Selection, writes: Sequence[Write]) -> list[Written]:
        """Run the writes in their order. One that is rejected does not prevent the others."""
        if len(writes) > MOST_WRITES:
            raise LimitExceeded(f"A request can have at most {MOST_WRITES} writes; this one has {len(writes)}.")
        steps = [self._step(write) for write in writes]
        items = [await self._item(payload, place, step) for place, step in enumerate(steps)]
        results: list[Result] = [None] * len(items)
        if any(item.statement for item in items):
            results = await self._database.write_all(self._owner, Batch(items))
        written = [_written(payload, *each) for each in zip(steps, results, strict=True)]
        return await self._with_related(payload, items, steps, written)

    def _step(self, write: Write) -> Step | Rejected:
        try:
            return write(self._kinds)
        except Rejected as rejection:
            return rejection
        except RequestError as error:
            return rejected(error)

    async def _item(self, payload: Selection, place: int, step: Step | Rejected) -> Item:
        if isinstance(step, Rejected):
            return Item(None, {}, step.makes)
        statement = payload.statements.get(step.key) or await self._statements.compiled(
            self._owner, payload, step.key, partial(step.build, payload)
        )
        values = {**step.values, "rank": FIRST_RANK + place}
        remedy = step.remedy and partial(step.remedy, payload)
        return Item(statement, values, step.makes, step.names, remedy)

    async def _with_related(
        self, payload: Selection, items: Sequence[Item], steps: Sequence[Step | Rejected], written: list[Written]
    ) -> list[Written]:
        """Read the rows that statements have only named, because the payload shows other rows with them."""
        for repository in self._repositories:
            one = repository.entity.one
            named = [
                place
                for place, (item, step) in enumerate(zip(items, steps, strict=True))
                if item.statement
                and item.statement.names_only
                and isinstance(step, Step)
                and step.repository is repository
            ]
            for entry in payload.entries(one):
                shown = [place for place in named if written[place].shown.get(entry.key)]
                ids = [orjson.loads(written[place].shown[entry.key] or "")["id"] for place in shown]
                rows = orjson.loads(await repository.found_many(entry.inner, ids) or NO_ROWS) if ids else []
                for place, row in zip(shown, rows, strict=True):
                    changed = {**written[place].shown, entry.key: orjson.dumps(row).decode()}
                    written[place] = written[place]._replace(shown=changed)
        return written


def _written(payload: Selection, step: Step | Rejected, result: Result) -> Written:
    if isinstance(step, Rejected):
        return Written(problems=step.problems)
    if isinstance(result, TooManyTags):
        return Written(problems=[step.unnamed(result)])
    if isinstance(result, UUID):
        return Written(problems=[step.missing(result)])
    assert result is not None  # noqa: S101 - each step has a result
    one = step.repository.entity.one if step.repository else None
    entries = enumerate(payload.entries(one)) if one else ()
    shown = {entry.key: result[f"{one}_{place}"] for place, entry in entries}
    return Written(result["version"], shown, step.refusals(result) if result["code"] else [])
