"""The expected response to any operation: the schema resolved field by field over ORM rows.

Slow and simple on purpose: no rendered SQL, no prepared operations, filters and pages in plain Python. The database is
asked only for what it alone decides: when a write happened, and the sort key of a position in the manual order.
"""

import base64
import hashlib
import json
import re
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

from declared import empty, given, is_derived, snake
from folding import has_controls, is_blank, is_found, is_line, words_of
from graphql import (
    ExecutionResult,
    GraphQLEnumType,
    GraphQLError,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    OperationDefinitionNode,
    build_schema,
    execute,
    get_operation_ast,
    parse,
    validate,
)
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from app.database.url import DatabaseURL
from app.errors import BadUserInput, LimitExceeded
from app.models import PRIORITIES, Task, TaskClock, TaskList, Tombstone, User, UserTag
from app.tag_names import tag_key, tag_name, tag_names
from schema import sdl

Json = dict[str, Any]
Kind = TypeVar("Kind", bound=Task | TaskList)
Term = tuple[str, bool]
Problem = tuple[str, list[str]]
Errors = list[tuple[str, list[Any] | None]]

Row = Task | TaskList
STORED = {
    kind: [column.name for column in kind.__table__.columns if not is_derived(column)] for kind in (Task, TaskList)
}
NEWEST_FIRST: list[Term] = [("CREATED_AT", True)]
MANUALLY: list[Term] = [("POSITION", False)]
# The orders by fields that can be null, and what marks an order with null below all values.
NULLABLE = {"DUE_DATE", "COMPLETED_AT", "DELETED_AT"}
LOW = " low"
UUID_FORM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """A response: data as JSON text, so that the order of keys counts, and the code and path of every error."""

    data: str
    errors: Errors

    @classmethod
    def of_json(cls, text: str) -> "Answer":
        """A response received over HTTP."""
        entries = json.loads(text, object_pairs_hook=_without_repeated_keys)
        return cls.of(entries.get("data"), entries.get("errors", []))

    @classmethod
    def of(cls, data: Json | None, errors: Sequence[Mapping[str, Any]]) -> "Answer":
        found = [(error.get("extensions", {}).get("code"), error.get("path")) for error in errors]
        return cls(json.dumps(data), sorted(found, key=repr))


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> Json:
    keys = [key for key, _ in pairs]
    assert len(set(keys)) == len(keys), f"an object repeats a key: {keys}"
    return dict(pairs)


class Oracle:
    """One user's rows as stored, and the expected responses to operations on them.

    The public methods with a parameter `info` or `_info` resolve the root field of their name.
    """

    def __init__(self, sessions: AsyncEngine, user_id: UUID) -> None:
        self.user_id = user_id
        self._engine = sessions
        self.user: User
        self.rows: dict[UUID, Task] = {}
        self.task_lists: dict[UUID, TaskList] = {}
        # What was deleted permanently: the kind, the version of the deletion, and that of the row in the trash.
        self.stones: dict[UUID, tuple[str, int, int]] = {}
        # What each of them was created with.
        self.made: dict[UUID, Json] = {}
        # The names of the user's tags, by their keys.
        self.names: dict[str, str] = {}
        self.clock = 0
        self.purged_through = 0

    @classmethod
    @asynccontextmanager
    async def of(cls, owner_url: str, user_id: UUID) -> AsyncIterator["Oracle"]:
        """An oracle on a superuser session, which bypasses row-level security."""
        url = DatabaseURL(owner_url)
        engine = create_async_engine(url.sqlalchemy, connect_args=url.connect_arguments({"timezone": "UTC"}))
        oracle = cls(engine, user_id)
        try:
            await oracle.load()
            yield oracle
        finally:
            await engine.dispose()

    async def load(self) -> None:
        """Read all rows of the user again."""
        tasks = select(Task).where(Task.user_id == self.user_id)
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            self.user = await session.get_one(User, self.user_id)
            clock = await session.get(TaskClock, self.user_id)
            found = (await session.scalars(tasks)).all()
            lists = (await session.scalars(select(TaskList).where(TaskList.user_id == self.user_id))).all()
            names = await session.execute(select(UserTag.key, UserTag.name).where(UserTag.user_id == self.user_id))
            self.names = {row.key: row.name for row in names}
            stones = (await session.scalars(select(Tombstone).where(Tombstone.user_id == self.user_id))).all()
            kinds = ("list", "task")
            self.stones = {row.id: (kinds[row.kind], row.version, row.trashed_version) for row in stones}
        self.task_lists = {row.id: row for row in lists}
        self.clock, self.purged_through = (clock.version, clock.purged_through) if clock else (0, 0)
        self.rows = {row.id: row for row in found}

    def state(self) -> tuple[int, Json, Any, Json]:
        """The clock, the names of tags, the tombstones, and every column of every task and list."""
        rows: list[Row] = [
            *self.sorted(self.rows.values(), MANUALLY),
            *self.sorted(self.task_lists.values(), MANUALLY),
        ]
        stored = {str(row.id): {name: getattr(row, name) for name in STORED[type(row)]} for row in rows}
        return self.clock, self.names, self.stones, stored

    async def answer(self, query: str, variables: Json | None = None, operation_name: str | None = None) -> Answer:
        """Execute an operation; returns the expected response."""
        prepared = _prepared(query)
        if isinstance(prepared, Answer):
            return prepared
        if get_operation_ast(prepared, operation_name) is None:
            return _refusal(BadUserInput.code)
        result = execute(
            SCHEMA,
            prepared,
            root_value=self,
            variable_values=variables,
            operation_name=operation_name,
            field_resolver=_resolve,
            type_resolver=lambda value, _info, _type: (
                value["kind"] if isinstance(value, dict) else type(value).__name__
            ),
        )
        done = result if isinstance(result, ExecutionResult) else await result
        assert isinstance(done, ExecutionResult)
        return Answer.of(done.data, [_formatted(error) for error in done.errors or []])

    # Query

    def viewer(self, _info: object) -> User:
        return self.user

    def node(self, _info: object, id: str) -> Row | User | None:  # noqa: A002 - the schema's argument names
        wanted = _uuid(id)
        return self.user if wanted == self.user_id else self.rows.get(wanted) or self.task_lists.get(wanted)

    def task(self, _info: object, id: str) -> Task | None:  # noqa: A002 - as above
        return self.rows.get(_uuid(id))

    def list_(self, _info: object, id: str) -> TaskList | None:  # noqa: A002 - as above
        return self.task_lists.get(_uuid(id))

    async def tasks(self, _info: object, **arguments: Any) -> Json:
        return await self._page(self.rows.values(), NEWEST_FIRST, **arguments)

    async def lists(self, _info: object, **arguments: Any) -> Json:
        return await self._page(self.task_lists.values(), MANUALLY, **arguments)

    async def tasks_of(self, one: TaskList, **arguments: Any) -> Json:
        return await self._page(self.rows.values(), NEWEST_FIRST, within=one.id, **arguments)

    async def _page(  # noqa: PLR0913 - the schema's arguments
        self,
        rows: Iterable[Any],
        usual: Sequence[Term],
        *,
        filter: Json | None = None,  # noqa: A002 - as above
        orderBy: Sequence[Json] | None = None,  # noqa: N803 - as above
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
        within: UUID | None = None,
    ) -> Json:
        rows, order = [*rows], _order(orderBy or []) or [*usual]
        _check(filter or {})
        size = _page_size(first, last)
        everything = self.sorted(rows, order)
        places = {self.cursor(row, order): place for place, row in enumerate(everything)}
        start, end = _place(after, places, -1), _place(before, places, len(everything))
        inside = [row for row in rows if within is None or row.list_id == within]
        matching = self._matching(inside, filter or {})
        shown = [(place, row) for place, row in enumerate(everything) if row.id in matching]
        inside = [row for place, row in shown if start < place < end]
        page = inside[:size] if last is None else inside[-size:]
        cut = len(inside) > size
        # As in Relay: if the size does not cut the page, only the cursor that it starts from tells whether tasks
        # precede it.
        before_it, after_it = any(place <= start for place, _ in shown), any(place >= end for place, _ in shown)
        cursors = [self.cursor(row, order) for row in page]
        return {
            "edges": [{"cursor": mark, "node": row} for mark, row in zip(cursors, page, strict=True)],
            "nodes": page,
            "pageInfo": {
                "hasNextPage": cut if last is None else after_it,
                "hasPreviousPage": before_it if last is None else cut,
                "startCursor": cursors[0] if page else None,
                "endCursor": cursors[-1] if page else None,
            },
            "totalCount": len(matching),
        }

    async def changes(
        self, _info: object, *, since: str | None = None, first: int | None = None, trash: bool | None = False
    ) -> Json:
        end = " trash" if trash else ""
        point = self._point(since, end)
        version, last, base = point or (0, None, 0)
        size = 100 if first is None else first
        if not 1 <= size <= 1000:
            raise BadUserInput("no such page size")
        # A token without a row covers its whole version.
        seen = max(base, version if last is None else version - 1)
        full = point is None or max(version, base) > self.clock or self.purged_through > seen
        if full:
            version, last, base = 0, None, self.clock
        both: list[Row] = [*self.task_lists.values(), *self.rows.values()]
        places: list[tuple[tuple[int, str, UUID], Row | None]] = [
            (_order_of(row), row) for row in both if trash or row.deleted_at is None or row.version > base
        ]
        places += [
            ((gone, one, row_id), None)
            for row_id, (one, gone, trashed) in self.stones.items()
            if gone > base and (trash or trashed > base)
        ]
        places.sort(key=lambda each: each[0])
        after = [each for each in places if (each[0][0] > version if last is None else each[0] > (version, *last))]
        tokens = [self.sealed(f"{v} {one} {row_id} {base}{end}") for (v, one, row_id), _ in after[:size]]
        more = len(after) > size
        return {
            "changes": [
                _change(place, row, token, is_gone=row is None or (row.deleted_at is not None and not trash))
                for (place, row), token in zip(after, tokens, strict=False)
            ],
            "token": tokens[-1] if more else self.sealed(f"{self.clock} all{end}"),
            "hasMore": more,
            "fullSync": full,
        }

    def token(self) -> str:
        """The sync token of the clock."""
        return self.sealed(f"{self.clock} all")

    def _point(self, token: str | None, end: str) -> tuple[int, tuple[str, UUID] | None, int] | None:
        """The token's version, the last row shown of it, and the version the sync began at; None for a full sync."""
        content = None if token is None else _decoded(token)
        if content is None or self.sealed(content) != token or not content.endswith(end):
            return None
        match content.removesuffix(end).split(" "):
            case [version, "all"]:
                return int(version), None, int(version)
            case [version, "list" | "task" as one, row_id, base]:
                return int(version), (one, UUID(row_id)), int(base)
        return None

    def stats(self, within: UUID | None = None, today: date | None = None) -> Json:
        live = [row for row in self.rows.values() if row.deleted_at is None and within in {None, row.list_id}]
        today = today or datetime.now(UTC).date()
        return {
            "total": len(live),
            "open": sum(not row.completed for row in live),
            "completed": sum(row.completed for row in live),
            "overdue": sum(not row.completed and row.due_date is not None and row.due_date < today for row in live),
            "dueToday": sum(not row.completed and row.due_date == today for row in live),
        }

    def tags(self, _info: object, *, first: int | None = None, after: str | None = None) -> list[Json]:
        size = 100 if first is None else first
        if not 1 <= size <= 1000:
            raise BadUserInput("no such page size")
        start = tag_key(_text(after or "")).encode()
        keys = sorted((key for key in self.names if key.encode() > start), key=str.encode)
        return [self._tag(key) for key in keys[:size]]

    def _tag(self, key: str) -> Json:
        live = [row for row in self.rows.values() if row.deleted_at is None and key in _keys(row.tags)]
        return {"name": self.names[key], "open": sum(not row.completed for row in live), "total": len(live)}

    # Orders and cursors

    def sorted(self, rows: Iterable[Kind], order: Sequence[Term]) -> Sequence[Kind]:
        """Rows ordered by all terms and then by id, in the direction of the last term."""
        result = list(rows)
        for name, descending in reversed(_total(order)):
            result.sort(key=self._sort_key(name), reverse=descending)
        return result

    def _sort_key(self, name: str) -> Callable[[Any], Any]:
        keys: dict[str, Callable[[Any], Any]] = {
            "NAME": lambda row: title_key(row.name).encode(),
            "POSITION": lambda row: row.position.encode(),
            "TITLE": lambda row: title_key(row.title).encode(),
        }
        field, low, _ = name.partition(LOW)
        return keys.get(name, lambda row: (((value := getattr(row, field.lower())) is None) != bool(low), value))

    def cursor(self, row: Any, order: Sequence[Term]) -> str:
        """The cursor format of app.entities.cursors: base64url of checksum and a JSON array in PostgreSQL's format."""
        terms = _total(order)
        name = " ".join(["tasks" if isinstance(row, Task) else "lists", *(_in_name(term) for term in terms)])
        keys = [self._key(row, field) for field, _ in terms]
        return self.sealed(json.dumps([name, *keys], ensure_ascii=False, separators=(",", ":")))

    def _key(self, row: Any, name: str) -> Any:
        """A sort key as a cursor encodes it."""
        field, low, _ = name.partition(LOW)
        value = getattr(row, field.lower())
        if field in {"TITLE", "NAME"}:
            return title_key(value)
        if value is None:
            return "-infinity" if low else "infinity"
        return (
            instant(value) if isinstance(value, datetime) else str(value) if isinstance(value, date | UUID) else value
        )

    def sealed(self, text: str) -> str:
        content = text.encode()
        seal = hashlib.sha256(self.user_id.bytes + content).digest()[:6]
        return base64.urlsafe_b64encode(seal + content).decode().rstrip("=")

    # Filters

    def _matching(self, of: Iterable[Any], wanted: Json) -> set[UUID]:
        trashed = bool(wanted.get("trashed"))
        rows = [row for row in of if (row.deleted_at is not None) == trashed]
        return {row.id for row in rows if _meets(row, wanted, self.task_lists)}

    # Mutation

    async def create_task(  # noqa: PLR0911 - one for each refusal
        self,
        _info: object,
        input: Json,  # noqa: A002 - the schema's argument names
    ) -> Json:
        task_id = _uuid(input["id"])
        if task_id == self.user_id:
            return _payload([("INVALID", ["input", "id"])])
        if errors := _problems(given(input), ["input"]):
            return _payload(errors)
        content = _created(input)
        present = self.rows.get(task_id)
        if present is None:
            if task_id in self.stones and task_id not in self.task_lists:
                return self._unchanged(None, ("GONE", ["input", "id"]))
            if refused := self._refused(content, ["input"]):
                return self._unchanged(None, refused)
            if task_id in self.task_lists:
                return self._unchanged(None, ("ID_TAKEN", ["input", "id"]))
            await self._insert([(0, task_id, content)])
            return self._unchanged(self.rows[task_id])
        return self._unchanged(present, None if self._is_repeated(present, content) else ("ID_TAKEN", ["input", "id"]))

    async def update_task(
        self,
        _info: object,
        id: str,  # noqa: A002 - as above
        input: Json,  # noqa: A002 - as above
        expectedVersion: int | None = None,  # noqa: N803 - as above
    ) -> Json:
        _check_tags(input)
        task_id = _uuid(id)
        if errors := _problems(input, ["input"]):
            return _payload(errors)
        present, changes = self.rows.get(task_id), _stored(input)
        if present is None or present.deleted_at is not None:
            return self._unchanged(present, ("IN_TRASH" if present else "NOT_FOUND", ["id"]))
        if expectedVersion not in {None, present.version}:
            return self._unchanged(present, ("VERSION_CONFLICT", ["expectedVersion"]))
        if refused := self._refused(changes, ["input"]):
            return self._unchanged(present, refused)
        if _is_overfull(present, changes):
            return self._unchanged(present, ("LIMIT_EXCEEDED", ["input", "addTags"]))
        await self._update([present], changes)
        return self._unchanged(present)

    async def set_task_completed(
        self,
        info: object,
        id: str,  # noqa: A002 - as above
        completed: bool,  # noqa: FBT001 - as above
        expectedVersion: int | None = None,  # noqa: N803 - as above
    ) -> Json:
        return await self.update_task(info, id, {"completed": completed}, expectedVersion)

    async def delete_task(
        self,
        _info: object,
        id: str,  # noqa: A002 - as above
        expectedVersion: int | None = None,  # noqa: N803 - as above
    ) -> Json:
        present = self.rows.get(_uuid(id))
        if present is None:
            return self._unchanged(None, ("NOT_FOUND", ["id"]))
        if expectedVersion not in {None, present.version}:
            return self._unchanged(present, ("VERSION_CONFLICT", ["expectedVersion"]))
        await self._trash([present], trashed=True)
        return self._unchanged(present)

    async def restore_task(self, _info: object, id: str) -> Json:  # noqa: A002 - as above
        present = self.rows.get(_uuid(id))
        if present is None:
            return self._unchanged(None, ("NOT_FOUND", ["id"]))
        await self._trash([present], trashed=False)
        return self._unchanged(present)

    async def move_task(self, _info: object, id: str, to: Json) -> Json:  # noqa: A002 - as above
        return await self._move(self.rows, id, to)

    async def _move(self, rows: Mapping[UUID, Row], id: str, to: Json) -> Json:  # noqa: A002 - as above
        ((place, target),) = to.items()
        if target is False:
            raise BadUserInput("nowhere")
        anchor = rows.get(_uuid(target)) if place in {"before", "after"} else None
        row = rows.get(_uuid(id))
        if row is None or row.deleted_at is not None:
            return self._unchanged(row, ("IN_TRASH" if row else "NOT_FOUND", ["id"]))
        if place in {"before", "after"} and (anchor is None or anchor.deleted_at is not None):
            return self._unchanged(row, ("IN_TRASH" if anchor else "NOT_FOUND", ["to"]))
        now = self.sorted(rows.values(), MANUALLY)
        wished = [other for other in now if other is not row]
        beside = wished.index(anchor) if anchor in wished else 0
        wished.insert({"toStart": 0, "toEnd": len(wished), "before": beside, "after": beside + 1}[place], row)
        if wished != now and anchor is not row:
            position = await self._of_row(row.id, "position", type(row))
            self._write([row], await self._time_of_write(row.id, type(row)), position=position)
            assert self.sorted(rows.values(), MANUALLY) == wished
        return self._unchanged(row)

    async def create_tasks(self, _info: object, inputs: list[Json]) -> Json:
        if not 1 <= len(inputs) <= 100:
            return _payload([("LIMIT_EXCEEDED", ["inputs"])])
        ids = [_uuid(each["id"]) for each in inputs]
        errors = [
            wrong for place, each in enumerate(inputs) for wrong in _problems(given(each), ["inputs", str(place)])
        ]
        errors += [_taken(place) for place, task_id in enumerate(ids) if task_id in ids[:place]]
        errors += [("INVALID", ["inputs", str(place), "id"]) for place, key in enumerate(ids) if key == self.user_id]
        if errors:
            return _payload(errors)
        contents = [_created(each) for each in inputs]
        present = {task_id: self.rows[task_id] for task_id in ids if task_id in self.rows}
        pairs = list(zip(ids, contents, strict=True))
        if errors := [
            _taken(place)
            for place, (key, content) in enumerate(pairs)
            if (key in present and not self._is_repeated(present[key], content))
            or (key not in present and key in self.task_lists)
        ]:
            return self._many([], [*errors, *self._all_refused(pairs)])
        if errors := self._all_refused(pairs):
            return self._many([], errors)
        new = [(place, key, content) for place, (key, content) in enumerate(pairs) if key not in present]
        await self._insert(new)
        return self._many([self.rows[task_id] for task_id in ids])

    async def update_tasks(self, _info: object, where: Json, input: Json, **limits: Any) -> Json:  # noqa: A002 - as above
        return await self._of_many("update", where, input, **limits)

    async def delete_tasks(self, _info: object, where: Json, **limits: Any) -> Json:
        return await self._of_many("delete", where, {}, **limits)

    async def restore_tasks(self, _info: object, where: Json, **limits: Any) -> Json:
        return await self._of_many("restore", where, {}, **limits)

    async def purge_tasks(self, _info: object, where: Json, **limits: Any) -> Json:
        return await self._of_many("purge", where, {}, **limits)

    async def empty_trash(self, _info: object, atMost: int | None, dryRun: bool | None) -> Json:  # noqa: N803, FBT001 - as above
        most = 100 if atMost is None else atMost
        if not 1 <= most <= 1000:
            raise BadUserInput("no such limit")
        rows: list[Row] = [*self.rows.values(), *self.task_lists.values()]
        rows = [row for row in rows if row.deleted_at is not None]
        if len(rows) > most:
            return _payload([("LIMIT_EXCEEDED", ["atMost"])], affectedCount=0, token=self.token())
        if not dryRun:
            tasks = [row for row in rows if isinstance(row, Task)]
            self._purge(tasks, [row for row in rows if isinstance(row, TaskList)])
        return _payload([], affectedCount=len(rows), token=self.token())

    async def rename_tag(self, _info: object, **names: str) -> Json:
        source, target, new = tag_key(_text(names["from"])), tag_key(_text(names["to"])), tag_name(names["to"])
        if errors := _tag_problems([names["to"]], ["to"]):
            return _payload([(code, ["to"]) for code, _ in errors])
        if not {source, target} & self.names.keys():
            return self._of_tag(None, [], ("NOT_FOUND", ["from"]))
        rows = [row for row in self.rows.values() if source in _keys(row.tags)]
        if source not in self.names or (source == target and self.names[source] == new):
            rows = []
        else:
            del self.names[source]
        self.names.setdefault(target, new)
        await self._retag(rows, source, self.names[target])
        return self._of_tag(self._tag(target), rows)

    async def delete_tag(self, _info: object, name: str) -> Json:
        key = tag_key(_text(name))
        rows = [row for row in self.rows.values() if key in _keys(row.tags)]
        self.names.pop(key, None)
        await self._retag(rows, key, None)
        return self._of_tag(None, rows)

    async def _retag(self, rows: list[Task], key: str, name: str | None) -> None:
        """Replace a tag of these tasks, or remove it if there is no new name, or if they have the new one, too."""
        if rows:
            now = await self._time_of_write(rows[0].id)
            for row in rows:
                kept = None if name in row.tags else name
                tags = [kept if tag_key(tag) == key else tag for tag in row.tags]
                row.tags = [tag for tag in tags if tag is not None]
            self._write(rows, now)

    def _of_tag(self, tag: Json | None, rows: list[Task], *errors: Problem) -> Json:
        return _payload(errors, tag=tag, affectedCount=len(rows), token=self.sealed(f"{self.clock} all"))

    async def _of_many(
        self,
        kind: str,
        where: Json,
        changes: Json,
        atMost: int | None,  # noqa: N803 - as above
        dryRun: bool | None,  # noqa: N803, FBT001 - as above
    ) -> Json:
        _check_tags(changes)
        if where.get("all") is False or _has_null(where.get("filter")):
            raise BadUserInput("null")
        most = 100 if atMost is None else atMost
        if not 1 <= most <= 1000:
            raise BadUserInput("no such limit")
        if errors := _problems(changes, ["input"]):
            return _payload(errors)
        rows, missing = await self._selected(kind, where)
        if len(rows) > most:
            return self._many([], [("LIMIT_EXCEEDED", ["atMost"])])
        if refused := self._refused(_stored(changes), ["input"]):
            return self._many([], [refused])
        if any(_is_overfull(row, _stored(changes)) for row in rows):
            return self._many([], [("LIMIT_EXCEEDED", ["input", "addTags"])])
        if not dryRun and kind == "purge":
            self._purge(rows)
        elif not dryRun:
            await (self._update(rows, _stored(changes)) if kind == "update" else self._trash(rows, kind == "delete"))
        return self._many(rows, [(code, ["where", "ids", str(place)]) for place, code in missing])

    async def _selected(self, kind: str, where: Json) -> tuple[list[Task], list[tuple[int, str]]]:
        """The tasks that a bulk write selects, in the order of their ids, and the indexes of other ids, with codes."""
        ((way, wanted),) = where.items()
        if way == "ids":
            ids = [_uuid(task_id) for task_id in wanted]
            there = {key for key, row in self.rows.items() if kind != "update" or row.deleted_at is None}
            there = {key for key in there if kind != "purge" or self.rows[key].deleted_at is not None}
            chosen = there & set(ids)
            codes = ["IN_TRASH" if key in self.rows and kind == "update" else "NOT_FOUND" for key in ids]
            missing = [(place, codes[place]) for place, key in enumerate(ids) if key not in there]
        else:
            wanted = wanted if way == "filter" else {}
            _check(wanted)
            if way == "filter" and selects_all(wanted):
                raise BadUserInput("no condition")
            trashed = kind in {"restore", "purge"}
            if wanted.get("trashed") and not trashed:
                raise BadUserInput("trashed")
            chosen, missing = self._matching(self.rows.values(), {**wanted, "trashed": trashed}), []
        return [self.rows[key] for key in sorted(chosen)], missing

    def _is_repeated(self, row: Row, content: Json) -> bool:
        """Whether a create has the content of an earlier one. Rows that no create has made are compared."""
        return self.made[row.id] == _canonical(content) if row.id in self.made else _is(row, content)

    async def _insert(self, tasks: list[tuple[int, UUID, Json]]) -> None:
        """Insert new tasks, each at the end of the list, and later than the write by its place in microseconds."""
        rows: list[Task] = []
        for place, task_id, content in tasks:
            self.made[task_id] = _canonical(content)
            now, position = await self._time_of_write(task_id), await self._of_row(task_id, "position")
            assert all(row.position.encode() < position.encode() for row in [*self.rows.values(), *rows])
            done = bool(content.get("completed") or content.get("completed_at"))
            decided: Json = {"created_at": now, "completed_at": now if done else None} | content | {"completed": done}
            set_ = {"deleted_at": None, "trashed_with_list": False, "updated_at": now, "position": position}
            tagged = decided | {"tags": self._named(content["tags"])}
            rows.append(Task(user_id=self.user_id, id=task_id, **set_, **tagged))
            assert now == rows[0].updated_at + timedelta(microseconds=place - tasks[0][0])
        if rows:
            self._write(rows)

    async def _update(self, rows: list[Task], changes: Json) -> None:
        rows = [row for row in rows if not _is(row, _merged(row, changes))]
        if rows:
            now = await self._time_of_write(rows[0].id)
            for row in rows if "completed" in changes else []:
                row.completed_at = (row.completed_at or now) if changes["completed"] else None
            for row in rows:
                row.tags = self._named(_merged(row, changes).get("tags", row.tags))
            self._write(rows, now, **{name: value for name, value in changes.items() if "tags" not in name})

    def _named(self, tags: Iterable[str]) -> list[str]:
        """Tags by the names that they had first."""
        return [self.names.setdefault(tag_key(tag), tag) for tag in tags]

    async def _trash(self, rows: Sequence[Task], trashed: bool) -> None:  # noqa: FBT001 - a state of the tasks
        """Tasks that went to the trash with their list can be deleted again; those restored alone leave the list."""
        rows = [row for row in rows if (row.deleted_at is not None) != trashed or (trashed and row.trashed_with_list)]
        if rows:
            now = await self._time_of_write(rows[0].id)
            for row in rows:
                row.deleted_at = (row.deleted_at or now) if trashed else None
                if not trashed and self._is_trashed(row.list_id):
                    row.list_id = None
            self._write(rows, now, trashed_with_list=False)

    def _purge(self, *kinds: Sequence[Row]) -> None:
        """Delete rows. The write and each kind of rows advance the clock by one."""
        if any(kinds):
            self.clock += 1
        for rows in filter(None, kinds):
            self.clock += 1
            for row in rows:
                self.stones[row.id] = _one(row), self.clock, row.version
                (self.rows if isinstance(row, Task) else self.task_lists).pop(row.id)

    # Lists

    def _is_trashed(self, list_id: UUID | None) -> bool:
        one = None if list_id is None else self.task_lists[list_id]
        return one is not None and one.deleted_at is not None

    def _refused(self, content: Json, path: Sequence[str]) -> Problem | None:
        """Why a task with this content cannot be in its list."""
        list_id = content.get("list_id")
        if list_id is None:
            return None
        if list_id not in self.task_lists:
            return "NOT_FOUND", [*path, "listId"]
        return ("IN_TRASH", [*path, "listId"]) if self._is_trashed(list_id) else None

    def _all_refused(self, pairs: Sequence[tuple[UUID, Json]]) -> list[Problem]:
        gone = [
            ("GONE", ["inputs", str(place), "id"])
            for place, (key, _) in enumerate(pairs)
            if key in self.stones and key not in self.rows
        ]
        found = [
            self._refused(content, ["inputs", str(place)])
            for place, (key, content) in enumerate(pairs)
            if key not in self.rows
        ]
        refused = [problem for problem in found if problem]
        return [*gone, *sorted(refused, key=lambda problem: problem[0], reverse=True)]

    async def create_list(self, _info: object, input: Json) -> Json:  # noqa: A002 - as above
        list_id = _uuid(input["id"])
        if list_id == self.user_id:
            return _payload([("INVALID", ["input", "id"])])
        if errors := _list_problems(input):
            return _payload(errors)
        content, present = {"icon": None} | _stored(input), self.task_lists.get(list_id)
        if present is not None:
            is_repeated = self._is_repeated(present, content)
            return self._unchanged(present, None if is_repeated else ("ID_TAKEN", ["input", "id"]))
        if list_id in self.stones:
            return self._unchanged(None, ("GONE", ["input", "id"]))
        if list_id in self.rows:
            return self._unchanged(None, ("ID_TAKEN", ["input", "id"]))
        self.made[list_id] = _canonical(content)
        now, position = [await self._of_row(list_id, name, TaskList) for name in ("updated_at", "position")]
        assert all(row.position.encode() < position.encode() for row in self.task_lists.values())
        made = TaskList(user_id=self.user_id, id=list_id, position=position, created_at=now, **content)
        made.deleted_at = None
        self._write([made], await self._time_of_write(list_id, TaskList))
        return self._unchanged(made)

    async def update_list(
        self,
        _info: object,
        id: str,  # noqa: A002 - as above
        input: Json,  # noqa: A002 - as above
        expectedVersion: int | None = None,  # noqa: N803 - as above
    ) -> Json:
        list_id = _uuid(id)
        if errors := _list_problems(input):
            return _payload(errors)
        present = self.task_lists.get(list_id)
        if present is None or present.deleted_at is not None:
            return self._unchanged(present, ("IN_TRASH" if present else "NOT_FOUND", ["id"]))
        if expectedVersion not in {None, present.version}:
            return self._unchanged(present, ("VERSION_CONFLICT", ["expectedVersion"]))
        if not _is(present, _stored(input)):
            self._write([present], await self._time_of_write(list_id, TaskList), **_stored(input))
        return self._unchanged(present)

    async def move_list(self, _info: object, id: str, to: Json) -> Json:  # noqa: A002 - as above
        return await self._move(self.task_lists, id, to)

    async def delete_list(
        self,
        _info: object,
        id: str,  # noqa: A002 - as above
        expectedVersion: int | None = None,  # noqa: N803 - as above
    ) -> Json:
        present = self.task_lists.get(_uuid(id))
        if present is None:
            return self._unchanged(None, ("NOT_FOUND", ["id"]))
        if expectedVersion not in {None, present.version}:
            return self._unchanged(present, ("VERSION_CONFLICT", ["expectedVersion"]))
        if present.deleted_at is None:
            now = await self._time_of_write(present.id, TaskList)
            gone = [row for row in self.rows.values() if row.list_id == present.id and row.deleted_at is None]
            for row in gone:
                row.trashed_with_list = True
            self._write([present, *gone], now, deleted_at=now)
        return self._unchanged(present)

    async def restore_list(self, _info: object, id: str) -> Json:  # noqa: A002 - as above
        present = self.task_lists.get(_uuid(id))
        if present is None:
            return self._unchanged(None, ("NOT_FOUND", ["id"]))
        if present.deleted_at is not None:
            now = await self._time_of_write(present.id, TaskList)
            back = [row for row in self.rows.values() if row.list_id == present.id and row.trashed_with_list]
            for row in back:
                row.trashed_with_list = False
            self._write([present, *back], now, deleted_at=None)
        return self._unchanged(present)

    def _write(self, rows: Sequence[Row], now: datetime | None = None, **values: Any) -> None:
        """One write, which advances the user's clock. New tasks have their times already."""
        self.clock += 1
        at = {"updated_at": now} if now else {}
        for row in rows:
            for name, value in {**values, **at, "version": self.clock}.items():
                setattr(row, name, value)
            if isinstance(row, Task):
                self.rows[row.id] = row
            else:
                self.task_lists[row.id] = row

    def _unchanged(self, row: Row | None, refusal: Problem | None = None) -> Json:
        (edge,) = self._edges([row]) if row else [None]
        shown: Json = {"task": row, "taskEdge": edge, "list": row, "listEdge": edge}
        return _payload([refusal] if refusal else [], **shown, token=self.token())

    def _many(self, rows: Sequence[Task], errors: Sequence[Problem] = ()) -> Json:
        return _payload(errors, tasks=rows, taskEdges=self._edges(rows), affectedCount=len(rows), token=self.token())

    def _edges(self, rows: Sequence[Row]) -> list[Json]:
        """The edges of rows in the default orders."""
        orders = [NEWEST_FIRST if isinstance(row, Task) else MANUALLY for row in rows]
        return [{"cursor": self.cursor(row, order), "node": row} for row, order in zip(rows, orders, strict=True)]

    async def _time_of_write(self, row_id: UUID, kind: type[Row] = Task) -> datetime:
        """The time at which the application, which ran first, wrote the row; it is later than every earlier write."""
        now: datetime = await self._of_row(row_id, "updated_at", kind)
        rows: list[Row] = [*self.rows.values(), *self.task_lists.values()]
        assert all(row.updated_at < now for row in rows)
        return now

    async def _of_row(self, row_id: UUID, column: str, kind: type[Row] = Task) -> Any:
        async with AsyncSession(self._engine) as session:
            return getattr(await session.get_one(kind, (self.user_id, row_id)), column)


@lru_cache(maxsize=1)
def _prepared(query: str) -> Any:
    """The parsed document, or the response that rejects it."""
    try:
        parse(query, max_tokens=1000)
        document = parse(query)
    except GraphQLError as error:
        return _refusal("LIMIT_EXCEEDED" if "tokens" in error.message else "GRAPHQL_PARSE_FAILED")
    if wrong := validate(SCHEMA, document):
        return Answer("null", [("GRAPHQL_VALIDATION_FAILED", None)] * min(len(wrong), 5))
    assert any(isinstance(node, OperationDefinitionNode) for node in document.definitions)
    return document


def _refusal(code: str) -> Answer:
    return Answer("null", [(code, None)])


def _formatted(error: GraphQLError) -> Json:
    """The formatted error; errors that are not the application's are bad variables or arguments."""
    return {"extensions": {"code": BadUserInput.code}, **error.formatted}


def _schema() -> GraphQLSchema:
    """The committed schema with plain resolvers."""
    schema = build_schema(sdl())
    moment, day, token = (schema.type_map[name] for name in ("DateTime", "Date", "SyncToken"))
    query = schema.query_type
    assert query
    priority, user = schema.type_map["TaskPriority"], schema.type_map["User"]
    task, task_list = schema.type_map["Task"], schema.type_map["TaskList"]
    assert isinstance(task, GraphQLObjectType)
    assert isinstance(task_list, GraphQLObjectType)
    assert isinstance(moment, GraphQLScalarType)
    assert isinstance(day, GraphQLScalarType)
    assert isinstance(token, GraphQLScalarType)
    assert isinstance(priority, GraphQLEnumType)
    assert isinstance(user, GraphQLObjectType)
    moment.coerce_output_value, moment.coerce_input_value = instant, _parsed_instant
    token.coerce_input_value = _parsed_token
    day.coerce_output_value, day.coerce_input_value = date.isoformat, _parsed_day
    for name, value in priority.values.items():
        value.value = PRIORITIES.index(name)
    user.fields["taskStats"].resolve = lambda _user, info, **day: info.root_value.stats(**day)
    query.fields["list"].resolve = lambda oracle, info, **arguments: oracle.list_(info, **arguments)
    task.fields["list"].resolve = lambda row, info: info.root_value.task_lists.get(row.list_id)
    task_list.fields["taskStats"].resolve = lambda one, info, **day: info.root_value.stats(one.id, **day)
    task_list.fields["tasks"].resolve = lambda one, info, **arguments: info.root_value.tasks_of(one, **arguments)
    return schema


def _one(row: Row) -> str:
    return "task" if isinstance(row, Task) else "list"


def _order_of(row: Row) -> tuple[int, str, UUID]:
    """The place of a row in the feed: by version, lists before tasks, and by id."""
    return row.version, _one(row), row.id


def _change(place: tuple[int, str, UUID], row: Row | None, token: str, *, is_gone: bool) -> Json:
    version, one, row_id = place
    if not is_gone:
        return {"kind": f"{one.capitalize()}Upserted", one: row, "token": token}
    return {"kind": f"{one.capitalize()}Removed", f"{one}Id": row_id, "version": version, "token": token}


def _decoded(token: str) -> str | None:
    """The content of a token, or None if it is invalid."""
    try:
        return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[6:].decode()
    except ValueError:
        return None


def _resolve(source: Any, info: Any, **arguments: Any) -> Any:
    """Resolve a field to the attribute or key of its name; methods are called."""
    if isinstance(source, dict):
        return source[info.field_name]
    value = getattr(source, snake(info.field_name))
    return value(info, **arguments) if callable(value) else value


# Letters that sort beside others, although Unicode does not decompose them.
BESIDE = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "þ": "th"}
    | {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t", "ı": "i", "ð": "d", "ς": "σ"}  # noqa: RUF001
)


def title_key(title: str) -> str:
    """The key by which titles are sorted: without case and accents, numbers by their value, then the title."""
    plain = "".join(map(_folded, unicodedata.normalize("NFKD", title))).translate(BESIDE)
    return re.sub(r"[0-9]+", lambda run: _number(run[0].lstrip("0")), plain)[:400] + "\1" + title


def _folded(letter: str) -> str:
    if "\u0300" <= letter <= "\u036f":
        return ""
    if unicodedata.category(letter) == "Nd" and letter < "\U00010000":
        return str(unicodedata.decimal(letter))
    has_case = letter < "\u0557" or "\u1c90" <= letter <= "\u1cbf" or letter == "ẞ"
    return letter.lower() if has_case else letter


def _number(digits: str) -> str:
    """A number after its length, which has one digit, or a 9 and three digits."""
    size = len(digits)
    return (str(size) if size < 9 else f"9{size:03}") + digits


def instant(value: datetime) -> str:
    """RFC 3339 in UTC with the shortest fraction: 2026-11-22T05:33:58.69+00:00."""
    fraction = f".{value.microsecond:06}".rstrip("0").rstrip(".")
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + fraction + "+00:00"


def _parsed_instant(value: Any) -> datetime:
    parsed = datetime.fromisoformat(value)
    if parsed.tzinfo is None:
        raise ValueError("no offset")
    return parsed


def _parsed_day(value: Any) -> date:
    return datetime.strptime(value, "%Y-%m-%d").date()  # noqa: DTZ007 - a date has no time zone


def _parsed_token(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _uuid(value: str) -> UUID:
    if not UUID_FORM.fullmatch(value):
        raise BadUserInput("no UUID")
    return UUID(value)


def _text(value: str) -> str:
    if "\0" in value:
        raise BadUserInput("U+0000")
    return value


def _order(terms: Sequence[Json]) -> list[Term]:
    names = [term["field"] for term in terms]
    if len(set(names)) < len(names):
        raise BadUserInput("a field twice")
    return [_term(term) for term in terms]


def _term(term: Json) -> Term:
    """A term; its name says so if tasks without a value come before all others in ascending order."""
    field, descending, nulls = term["field"], term["direction"] == "DESC", term.get("nulls")
    if nulls and field not in NULLABLE:
        raise BadUserInput("never null")
    return field + (LOW if nulls == ("LAST" if descending else "FIRST") else ""), descending


def _in_name(term: Term) -> str:
    """A term in the name of an order, which cursors contain."""
    (name, descending) = term
    return ("-" if descending else "+") + name.replace(LOW, ":LAST" if descending else ":FIRST")


def _total(order: Sequence[Term]) -> list[Term]:
    return [*order, ("ID", order[-1][1])]


def _page_size(first: int | None, last: int | None) -> int:
    if first is not None and last is not None:
        raise BadUserInput("first and last")
    size = 20 if first is None and last is None else first if last is None else last
    assert size is not None
    if not 1 <= size <= 100:
        raise BadUserInput("no such page size")
    return size


def _place(cursor: str | None, places: Mapping[str, int], otherwise: int) -> int:
    """The index of a cursor; only the cursors of the user's tasks in this order are valid."""
    if cursor is None:
        return otherwise
    if cursor not in places:
        raise BadUserInput("no such cursor")
    return places[cursor]


def _check(wanted: Json) -> None:
    """Reject invalid filters, in the order of the schema's input fields."""
    for count, (name, value) in enumerate(_conditions({**wanted, "trashed": None}), start=1):
        if count > 50:
            raise LimitExceeded("conditions")
        if isinstance(value, list) and len(value) > 1000:
            raise LimitExceeded("values")
        for item in value if name in {"ids", "tagsAll", "tagsAny", "list.ids"} else []:
            _text(item) if name.startswith("tags") else _uuid(item)
        if name == "search":
            _text(value)


def _has_null(wanted: Any) -> bool:
    inner = wanted.values() if isinstance(wanted, dict) else wanted if isinstance(wanted, list) else []
    return any(value is None or _has_null(value) for value in inner)


def selects_all(wanted: Json) -> bool:
    """Whether a filter, or one within it, excludes no task, or searches for blank text."""
    inner = [*wanted.get("and", []), *wanted.get("or", []), *([wanted["not"]] if "not" in wanted else [])]
    blank = not words_of(wanted.get("search", "text"))
    return blank or _is_met("", wanted) is True or any(map(selects_all, inner))


def _is_met(name: str, value: Any) -> bool | None:
    """Whether all tasks meet a condition, or none do, whatever they contain; None if that depends on the task."""
    if name in {"and", "or"}:
        met = {_is_met("", branch) for branch in value}
        decisive = name == "or"
        return decisive if decisive in met else None if None in met else not decisive
    if name == "not":
        met_inside = _is_met("", value)
        return None if met_inside is None else not met_inside
    if isinstance(value, dict):
        met = {_is_met(inner, one) for inner, one in value.items() if inner != "trashed"}
        return False if False in met else None if None in met else True
    return (name == "tagsAll") if value == [] else None


def _conditions(wanted: Json) -> Iterable[tuple[str, Any]]:
    """The conditions of a filter and of all nested filters; `trashed` is allowed in the outermost one only."""
    for name, value in wanted.items():
        if value is None or name == "trashed":
            continue
        if isinstance(value, dict) and name != "not":
            yield from ((f"{name}.{end}", bound) for end, bound in value.items() if bound is not None)
        elif name in {"and", "or", "not"}:
            for branch in [value] if name == "not" else value:
                if all(condition is None for part, condition in branch.items() if part != "trashed"):
                    yield "nothing", None
                if branch.get("trashed"):
                    raise BadUserInput("trashed within")
                yield from _conditions(branch)
        elif name == "search":
            yield from ((name, word) for word in words_of(value) or [""])
        else:
            yield name, value


def _meets(row: Task, wanted: Json, lists: Mapping[UUID, TaskList]) -> bool:
    conditions = {name: value for name, value in wanted.items() if value is not None and name != "trashed"}
    return all(_holds(row, name, value, lists) for name, value in conditions.items())


def _holds(row: Task, name: str, value: Any, lists: Mapping[UUID, TaskList]) -> bool:
    tests: dict[str, Callable[[], bool]] = {
        "ids": lambda: row.id in {UUID(item) for item in value},
        "completed": lambda: row.completed == value,
        "search": lambda: _is_found(row, value, lists),
        "priority": lambda: row.priority in value,
        "tagsAll": lambda: _keys(value) <= _keys(row.tags),
        "tagsAny": lambda: bool(_keys(value) & _keys(row.tags)),
        "list": lambda: _is_in_list(row, value),
        "due": lambda: _within(row.due_date, value),
        "created": lambda: _within(row.created_at, value),
        "updated": lambda: _within(row.updated_at, value),
        "and": lambda: all(_meets(row, branch, lists) for branch in value),
        "or": lambda: any(_meets(row, branch, lists) for branch in value),
        "not": lambda: not _meets(row, value, lists),
    }
    return tests[name]() if name in tests else _within(getattr(row, snake(name)), value)


def _is_found(row: Task, words: str, lists: Mapping[UUID, TaskList]) -> bool:
    names = [] if row.list_id is None else [lists[row.list_id].name]
    return is_found(words, [row.title, row.description or "", *row.tags, *names])


def _is_in_list(row: Task, wanted: Json) -> bool:
    ids, is_null = wanted.get("ids"), wanted.get("isNull")
    return (ids is None or row.list_id in {UUID(item) for item in ids}) and (
        is_null is None or (row.list_id is None) == is_null
    )


def _within(value: Any, span: Json) -> bool:
    """Whether a date or time is in a range; a missing value is in no range with bounds."""
    gte, lt, is_null = span.get("gte"), span.get("lt"), span.get("isNull")
    return (
        (gte is None or (value is not None and value >= gte))
        and (lt is None or (value is not None and value < lt))
        and (is_null is None or (value is None) == is_null)
    )


def _stored(values: Json) -> Json:
    """Input values in the types of the columns."""
    result = {snake(name): value for name, value in values.items() if name != "id"}
    for name in {"tags", "add_tags", "remove_tags"} & result.keys():
        result[name] = tag_names(result[name] or [])
    if "priority" in result:
        result["priority"] = result["priority"] or 0
    if result.get("list_id") is not None:
        result["list_id"] = _uuid(result["list_id"])
    return result


def _created(values: Json) -> Json:
    """The content of a new task; omitted fields have their empty value, unless the server decides them."""
    return _stored(dict.fromkeys(empty("CreateTaskInput")) | given(values))


def _canonical(content: Json) -> Json:
    """The content of a new row without what it has by default."""
    keyed = {name: [*map(tag_key, value)] if name == "tags" else value for name, value in content.items()}
    return {name: value for name, value in keyed.items() if value not in (None, False, 0, [])}


def _is(row: Row, content: Json) -> bool:
    return all(
        [*map(tag_key, getattr(row, name))] == [*map(tag_key, value)] if name == "tags" else getattr(row, name) == value
        for name, value in content.items()
    )


def _keys(tags: Iterable[str]) -> set[str]:
    return set(map(tag_key, tags))


def _merged(row: Task, changes: Json) -> Json:
    """The columns to change, with the tags after additions and removals."""
    rest = {name: value for name, value in changes.items() if name not in {"add_tags", "remove_tags"}}
    added, removed = changes.get("add_tags"), changes.get("remove_tags")
    if not added and not removed:
        return rest
    added, removed = added or [], removed or []
    kept = [tag for tag in row.tags if tag_key(tag) not in _keys(removed) - _keys(added)]
    return {**rest, "tags": kept + [tag for tag in added if tag_key(tag) not in _keys(kept)]}


def _is_overfull(row: Task, changes: Json) -> bool:
    return bool(changes.get("add_tags")) and len(_merged(row, changes)["tags"]) > 20


def _check_tags(changes: Json) -> None:
    """Reject new tags together with changes of tags."""
    if "tags" in changes and any(changes.get(name) is not None for name in ("addTags", "removeTags")):
        raise BadUserInput("tags twice")


def _taken(place: int) -> Problem:
    return "ID_TAKEN", ["inputs", str(place), "id"]


def _problems(values: Json, path: list[str]) -> list[Problem]:
    """The user errors of an input, in the order of its fields."""
    result: list[Problem] = []
    title, description = values.get("title"), values.get("description")
    lists = {name: values[name] for name in ("tags", "addTags", "removeTags") if values.get(name)}
    if values.get("listId") is not None:
        _uuid(values["listId"])
    for text in (title, description, *(tag for tags in lists.values() for tag in tags)):
        _text(text or "")
    if "title" in values and (wrong := _title_problem(title or "")):
        result.append((wrong, [*path, "title"]))
    if description is not None and has_controls(description):
        result.append(("INVALID", [*path, "description"]))
    elif description is not None and len(description) > 1000:
        result.append(("TOO_LONG", [*path, "description"]))
    if "completed" in values and values["completed"] is None:
        result.append(("INVALID", [*path, "completed"]))
    result += [problem for name, tags in lists.items() for problem in _tag_problems(tags, [*path, name])]
    for name in ("completedAt", "createdAt"):
        if (values.get(name) or datetime.now(UTC)) > datetime.now(UTC) + timedelta(seconds=30):
            result.append(("INVALID", [*path, name]))
    if values.get("completedAt") and values.get("completed") is False:
        result.append(("INVALID", [*path, "completedAt"]))
    return result


def _title_problem(title: str) -> str | None:
    if is_blank(title):
        return "BLANK"
    return "INVALID" if not is_line(title) else "TOO_LONG" if len(title) > 200 else None


def _list_problems(values: Json) -> list[Problem]:
    """The user errors of a list's input."""
    result: list[Problem] = []
    for name, most in (("name", 100), ("icon", 32)):
        value = values.get(name) if name == "icon" or values.get(name) else ""
        if name not in values or value is None:
            continue
        path = ["input", name]
        if is_blank(_text(value)):
            result.append(("BLANK", path))
        elif len(value) > most:
            result.append(("TOO_LONG", path))
        elif not is_line(value):
            result.append(("INVALID", path))
    return result


def _tag_problems(tags: list[str], path: list[str]) -> list[Problem]:
    few: list[Problem] = [] if len(_keys(tags)) <= 20 or path[-1] == "removeTags" else [("LIMIT_EXCEEDED", path)]
    wrong = [(_tag_problem(tag_name(tag)), place) for place, tag in enumerate(tags)]
    return few + [(code, [*path, str(place)]) for code, place in wrong if code]


def _tag_problem(name: str) -> str | None:
    if is_blank(name):
        return "BLANK"
    return "INVALID" if not is_line(name) else "TOO_LONG" if len(name) > 50 else None


def _payload(errors: Sequence[Problem], **more: Any) -> Json:
    """A payload of a single or bulk mutation; it has no token unless the write was attempted."""
    told = [{"code": code, "field": field} for code, field in errors]
    no_rows: Json = {"task": None, "taskEdge": None, "list": None, "listEdge": None, "tasks": [], "taskEdges": []}
    empty: Json = {**no_rows, "tag": None, "affectedCount": 0, "token": None}
    return {**empty, "userErrors": told, **more}


SCHEMA = _schema()
