"""Tasks: every statement on the tasks of one user, and on the user's own row."""

import json
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import orjson

from app.database.compiling import Statements
from app.database.rendering import Selection
from app.database.statements import Statement
from app.errors import BadUserInput, FullSyncRequired, LimitExceeded, Unauthenticated
from app.identifiers import identifier, uuid7
from app.live.followers import Changes
from app.tasks import bulk, changes, moving, reading, writing
from app.tasks.cursors import BEGINNING, SyncPoint, sync_point
from app.tasks.filters import Filter, Shape
from app.tasks.ordering import OrderBy, ordered
from app.tasks.problems import Problem, cleaned, problems
from app.tasks.reading import Page

DEFAULT_PAGE = 20
LARGEST_PAGE = 100
DEFAULT_CHANGE_PAGE = 100
LARGEST_CHANGE_PAGE = 1000
MOST_CREATED = 100
MOST_AT_ONCE = 1000

Values = Mapping[str, Any]


class Database(Protocol):
    """What Tasks needs of the database: a read in one round trip, and a write in a transaction of the user.

    `quota` is how many tasks each user may own, those in the trash included.
    """

    @property
    def quota(self) -> int: ...

    async def read(self, owner: UUID, statement: Statement, values: Values) -> str | None: ...

    async def write(self, owner: UUID, statement: Statement, values: Values) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a list to show, in Relay's terms."""

    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None

    @property
    def backward(self) -> bool:
        return self.last is not None

    @property
    def size(self) -> int:
        """The page size; BadUserInput for one that is out of range."""
        if self.first is not None and self.last is not None:
            raise BadUserInput("Give first or last, not both.")
        name, size = ("first", self.first) if self.last is None else ("last", self.last)
        if size is not None and not 1 <= size <= LARGEST_PAGE:
            raise BadUserInput(f"{name} must be from 1 to {LARGEST_PAGE}; it is {size}.")
        return size or DEFAULT_PAGE


class Written(NamedTuple):
    """What a mutation did: the user's clock, the JSON of its task or tasks for each response key, what it refused."""

    version: int | None = None
    tasks: Mapping[str, str | None] = MappingProxyType({})
    problems: Sequence[Problem] = ()
    affected: int = 0


_CLOCK = changes.clock()
_FOLLOWED = changes.page(changes.whole())
REFUSALS = {
    "NOT_FOUND": Problem("NOT_FOUND", "You have no such task.", ("id",)),
    "VERSION_CONFLICT": Problem(
        "VERSION_CONFLICT", "The task was changed since; look at it and try again.", ("expectedVersion",)
    ),
    "ANCHOR_NOT_FOUND": Problem("NOT_FOUND", "You have no such task to move to.", ("to",)),
    "ID_TAKEN": Problem("ID_TAKEN", "You have another task with this id.", ("input", "id")),
}


class Crowded(Exception):
    """The key of a place would be too long."""


class Tasks:
    """The tasks of one user; nothing here can reach another's."""

    def __init__(self, database: Database, owner: UUID, statements: Statements) -> None:
        self._database = database
        self._owner = owner
        self._statements = statements

    async def viewer(self, selection: Selection) -> str:
        """The user as JSON; Unauthenticated when the account is gone."""
        statement = selection.statements.get("viewer") or await self._compiled(
            selection, "viewer", lambda: reading.viewer(selection)
        )
        found = await self._read(statement)
        if found is None:
            raise Unauthenticated("The account of this token no longer exists.")
        return found

    async def find(self, selection: Selection, task_id: str) -> str | None:
        """One task as JSON, in the trash or not."""
        wanted = identifier(task_id, "id")
        statement = selection.statements.get("task") or await self._compiled(
            selection, "task", lambda: reading.task(selection)
        )
        return await self._read(statement, id=wanted)

    async def node(self, task: Selection, user: Selection, node_id: str) -> str | None:
        """The task or the user with this id, as JSON."""
        wanted, key = identifier(node_id, "id"), ("node", user)
        statement = task.statements.get(key) or await self._compiled(task, key, lambda: reading.node(task, user))
        return await self._read(statement, id=wanted)

    async def page(
        self, selection: Selection, matching: Values, order_by: Sequence[OrderBy], window: Window
    ) -> str | None:
        """A keyset page of tasks as a connection's JSON."""
        order, wanted = ordered(tuple(order_by)), Filter(matching)
        values = wanted.values | {"size": window.size}
        values |= order.bound("after", window.after, self._owner) | order.bound("before", window.before, self._owner)
        shape = wanted.shape, window.backward, window.after is not None, window.before is not None
        key = order.name, *shape
        statement = selection.statements.get(key) or await self._compiled(
            selection, key, lambda: reading.page(selection, Page(order, *shape))
        )
        return await self._read(statement, **values)

    async def changes(self, selection: Selection, since: str | None, first: int | None) -> str | None:
        """The first changes since a sync token, or all from the beginning, as a page's JSON."""
        point, size = sync_point(since, self._owner), DEFAULT_CHANGE_PAGE if first is None else first
        if not 1 <= size <= LARGEST_CHANGE_PAGE:
            raise BadUserInput(f"first must be from 1 to {LARGEST_CHANGE_PAGE}; it is {size}.")
        statement = selection.statements.get("changes") or await self._compiled(
            selection, "changes", lambda: changes.page(selection)
        )
        return await self._read(statement, **_from(point), size=size)

    async def token(self, since: str | None) -> str:
        """The token to go on from: what is given, or that of now. FullSyncRequired where it is none of this user."""
        if since is None:
            return await self._read(_CLOCK) or ""
        if sync_point(since, self._owner) == BEGINNING:
            raise FullSyncRequired
        return since

    async def changes_since(self, token: str) -> Changes:
        """The next changes since a token, whole, for those who follow them."""
        values = _from(sync_point(token, self._owner))
        page = orjson.loads(await self._read(_FOLLOWED, **values, size=DEFAULT_CHANGE_PAGE) or "")
        clock = sync_point(page["token"], self._owner).version
        return Changes(page["changes"], page["token"], clock, more=page["hasMore"], full=page["fullSync"])

    async def create(self, payload: Selection, task: Values) -> Written:
        """Create a task. With an id of the client's, the same call again gives the task that is there."""
        content = dict(task)
        given, quota = content.pop("id", None), self._database.quota
        if given is None:
            return await self._write(payload, writing.create_new, "create new", content, id=uuid7(), quota=quota)
        task_id = identifier(given, "input.id")
        if task_id == self._owner:
            return Written(problems=[_own_id("input")])
        return await self._write(payload, writing.create, "create", content, id=task_id, quota=quota)

    async def update(self, payload: Selection, task_id: str, changes: Values, expected: int | None) -> Written:
        """Change the fields that are given; a task that has them already stays as it is."""
        return await self._write(payload, writing.update, "update", changes, **_one(task_id, expected))

    async def delete(self, payload: Selection, task_id: str, expected: int | None) -> Written:
        """Put a task in the trash."""
        return await self._write(payload, writing.delete, "delete", {}, **_one(task_id, expected))

    async def restore(self, payload: Selection, task_id: str) -> Written:
        """Take a task out of the trash."""
        return await self._write(payload, writing.restore, "restore", {}, **_one(task_id, None))

    async def move(self, payload: Selection, task_id: str, place: str, anchor: str | None) -> Written:
        """Put a task at the start or end of the manual order, or before or after another."""
        values = {"anchor": identifier(anchor, f"to.{place}")} if anchor is not None else {}
        values["id"] = identifier(task_id, "id")
        try:
            return await self._write(payload, moving.move, place, {}, **values)
        except Crowded:
            await self._database.write(self._owner, moving.spread(), {"user_id": self._owner})
            return await self._write(payload, moving.move, place, {}, **values)

    async def create_many(self, payload: Selection, tasks: Sequence[Values]) -> Written:
        """Create tasks, all or none."""
        if wrong := self._wrong(tasks):
            return Written(problems=wrong)
        rows, quota = [_row(place, task) for place, task in enumerate(tasks)], self._database.quota
        statement = payload.statements.get("createTasks") or await self._compiled(
            payload, "createTasks", lambda: bulk.create(payload)
        )
        values = {"user_id": self._owner, "rows": _json(rows), "quota": quota}
        row = await self._database.write(self._owner, statement, values)
        found = [_taken(place) for place in row["places"]]
        if row["owned"] is not None:
            found.append(_too_many(row["owned"], quota, "inputs"))
        return _many(payload, row, found)

    async def change_many(  # noqa: PLR0913 - the arguments of the field
        self, payload: Selection, kind: str, where: Values, changes: Values, *, at_most: int, dry_run: bool
    ) -> Written:
        """Update, delete or restore the tasks that are selected, unless they are more than `at_most`."""
        if not 1 <= at_most <= MOST_AT_ONCE:
            raise BadUserInput(f"atMost must be from 1 to {MOST_AT_ONCE}; it is {at_most}.")
        if wrong := problems(changes):
            return Written(problems=wrong)
        stored = cleaned(changes)
        shape, selecting = _selected(kind, where)
        many = bulk.Many(kind, tuple(stored), shape)
        statement = payload.statements.get(many) or await self._compiled(
            payload, many, lambda: bulk.change(payload, many)
        )
        values = {"user_id": self._owner, "at_most": at_most, "dry_run": dry_run, **stored, **selecting}
        row = await self._database.write(self._owner, statement, values)
        return _many(payload, row, _bulk_problems(row, at_most))

    def _wrong(self, tasks: Sequence[Values]) -> list[Problem]:
        """What is wrong with tasks to create, with their places in the field paths."""
        if not 1 <= len(tasks) <= MOST_CREATED:
            few = f"createTasks takes 1 to {MOST_CREATED} tasks; these are {len(tasks)}."
            return [Problem("LIMIT_EXCEEDED", few, ("inputs",))]
        ids = [identifier(task["id"], "inputs.id") if "id" in task else None for task in tasks]
        found = [wrong for place, task in enumerate(tasks) for wrong in problems(task, ("inputs", str(place)))]
        found += [_taken(place) for place, given in enumerate(ids) if given and given in ids[:place]]
        return found + [_own_id("inputs", str(place)) for place, given in enumerate(ids) if given == self._owner]

    async def _write(
        self,
        payload: Selection,
        build: Callable[[Selection, writing.Change], Statement],
        kind: str,
        changes: Values,
        **values: Any,
    ) -> Written:
        if wrong := problems(changes):
            return Written(problems=wrong)
        stored = cleaned(changes)
        change = writing.Change(kind, tuple(stored), "expected" in values)
        statement = payload.statements.get(change) or await self._compiled(
            payload, change, lambda: build(payload, change)
        )
        row = await self._database.write(self._owner, statement, {"user_id": self._owner, **stored, **values})
        if row["code"] == "CROWDED":
            raise Crowded
        tasks = {entry.key: row[f"task_{place}"] for place, entry in enumerate(payload.entries("task"))}
        refusal = [self._refusal(row)] if row["code"] else []
        return Written(row["version"], tasks, refusal)

    def _compiled(self, selection: Selection, key: Hashable, build: Callable[[], Statement]) -> Awaitable[Statement]:
        """The statement of a selection that it does not have yet."""
        return self._statements.compiled(self._owner, selection, key, build)

    def _refusal(self, row: Mapping[str, Any]) -> Problem:
        if row["code"] == "LIMIT_EXCEEDED":
            return _too_many(row["owned"], self._database.quota, "input")
        return REFUSALS[row["code"]]

    def _read(self, statement: Statement, **values: Any) -> Awaitable[str | None]:
        return self._database.read(self._owner, statement, {"user_id": self._owner, **values})


def _from(point: SyncPoint) -> dict[str, Any]:
    """What says where a page of changes begins."""
    return point._asdict() | {"safe": point.safe, "latest": point.latest}


def _one(task_id: str, expected: int | None) -> dict[str, Any]:
    """What says which task a change is for."""
    values: dict[str, Any] = {"id": identifier(task_id, "id")}
    return values if expected is None else {**values, "expected": expected}


def _own_id(*path: str) -> Problem:
    return Problem("INVALID", "This id is your account's; choose another.", (*path, "id"))


def _taken(place: int | str) -> Problem:
    return Problem("ID_TAKEN", REFUSALS["ID_TAKEN"].message, ("inputs", str(place), "id"))


def _too_many(owned: int, quota: int, field: str) -> Problem:
    text = (
        f"You own {owned:,} tasks, those in the trash included, and may own {quota:,}: nothing was created. Create"
        " fewer, or ask who runs this server to empty the trash or to raise the limit."
    )
    return Problem("LIMIT_EXCEEDED", text, (field,))


def _row(place: int, task: Values) -> dict[str, Any]:
    """A task to create as a row of the statement's JSON."""
    content = cleaned({"description": None, "priority": 0, "due_date": None, "tags": [], **task})
    return {**content, "place": place, "id": str(task.get("id") or uuid7())}


def _json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, ensure_ascii=False)


def _selected(kind: str, where: Values) -> tuple[Shape | None, dict[str, Any]]:
    """The shape of a selector, and the values bound in it. What is restored is in the trash."""
    if "ids" in where:
        if len(where["ids"]) > MOST_AT_ONCE:
            raise LimitExceeded(f"where.ids lists {len(where['ids'])} ids; the most is {MOST_AT_ONCE}.")
        return None, {"ids": [str(identifier(task_id, "where.ids")) for task_id in where["ids"]]}
    wanted = Filter(where["filter"])
    if wanted.trashed and kind != "restore":
        raise BadUserInput("Tasks in the trash can only be restored; leave trashed out.")
    return (kind == "restore", *wanted.shape[1:]), wanted.values


def _many(payload: Selection, row: Mapping[str, Any], found: list[Problem]) -> Written:
    tasks = {entry.key: row[f"tasks_{place}"] for place, entry in enumerate(payload.entries("tasks"))}
    refused = any(problem.code != "NOT_FOUND" for problem in found)
    return Written(row["version"], tasks, found, 0 if refused else row["affected"])


def _bulk_problems(row: Mapping[str, Any], at_most: int) -> list[Problem]:
    if row["affected"] > at_most:
        text = f"{row['affected']} tasks match, and atMost is {at_most}; nothing was changed."
        return [Problem("LIMIT_EXCEEDED", text, ("atMost",))]
    return [
        Problem("NOT_FOUND", REFUSALS["NOT_FOUND"].message, ("where", "ids", str(place)))
        for place in row["places"] or []
    ]
