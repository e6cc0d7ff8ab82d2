"""The repository of an entity: all reads and writes of a user's rows start here."""

import json
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import orjson

from app.database.compiling import Statements
from app.database.rendering import Field, Selection
from app.database.statements import Statement
from app.entities import bulk, edges, membership, moving, purging, reading, writing
from app.entities.content import seen, taken
from app.entities.creation import creation_hash
from app.entities.entity import Entity, Shape
from app.entities.filters import Filter
from app.entities.naming import api_name, words
from app.entities.ordering import OrderBy, ordered
from app.entities.problems import Problem
from app.entities.reading import LARGEST_PAGE, Page, Pages, Parameters
from app.errors import BadUserInput, LimitExceeded, TooManyTags
from app.identifiers import identifier, uuid7

DEFAULT_PAGE = 20
MOST_CREATED = 100
MOST_AT_ONCE = 1000
NO_ROWS = "[]"
NOTHING: Mapping[str, Any] = MappingProxyType({})

Values = Mapping[str, Any]


class Database(Protocol):
    """The database as repositories use it: a read in one round trip, and a write in a transaction of the user.

    `quotas` are the maximum numbers of rows that a user may own, including those in the trash, by the entity's `many`.
    """

    @property
    def quotas(self) -> Mapping[str, int]: ...

    async def read(self, owner: UUID, statement: Statement, values: Values) -> str | None: ...

    async def write(self, owner: UUID, statement: Statement, values: Values) -> Mapping[str, Any]: ...


class Wanted(NamedTuple):
    """A connection and its arguments: its entity, filter, order and window."""

    entity: Entity
    matching: Values
    order_by: Sequence[OrderBy]
    window: "Window"


# What the operation gives the fields with arguments below its root fields: connections, or values to bind.
Given = Mapping[Field, Wanted | Values]


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a list to show, as in Relay's connection specification."""

    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None

    @property
    def backward(self) -> bool:
        return self.last is not None

    @property
    def size(self) -> int:
        """The page size. Raises BadUserInput if it is out of range."""
        if self.first is not None and self.last is not None:
            raise BadUserInput("Pass first or last, not both.", "last")
        name, size = ("first", self.first) if self.last is None else ("last", self.last)
        if size is not None and not 1 <= size <= LARGEST_PAGE:
            raise BadUserInput(f"{name} must be from 1 to {LARGEST_PAGE}; it is {size}.", name)
        return size or DEFAULT_PAGE


class Written(NamedTuple):
    """The result of a mutation: the user's clock, the JSON for each response key, and the user errors.

    `absent` is the JSON for keys that are not in `shown`.
    """

    version: int | None = None
    shown: Mapping[str, str | None] = MappingProxyType({})
    problems: Sequence[Problem] = ()
    affected: int = 0
    absent: str = "null"


class Crowded(Exception):
    """The key of the new place would be too long."""


class Repository:
    """The rows of one entity and one user. All statements are limited to that user."""

    def __init__(
        self,
        entity: Entity,
        database: Database,
        owner: UUID,
        statements: Statements,
        wanted: Given = MappingProxyType({}),
    ) -> None:
        self.entity = entity
        self._database = database
        self.owner = owner
        self._statements = statements
        self._wanted = wanted

    async def find(self, selection: Selection, row_id: str) -> str | None:
        """One row as JSON, also from the trash."""
        return await self._found(selection, identifier(row_id, "id"))

    async def _found(self, selection: Selection, row_id: UUID) -> str | None:
        inner = nested(selection, self._wanted, self.owner)
        key = ("one", inner.key) if inner.key else "one"
        statement = selection.statements.get(key) or await self.compiled(
            selection, key, lambda: reading.one(self.entity, selection, inner.pages)
        )
        return await self._read(statement, id=row_id, **inner.values)

    async def found_many(self, selection: Selection, ids: Sequence[str]) -> str | None:
        """Rows as a JSON list in the order of their ids, also from the trash."""
        inner = nested(selection, self._wanted, self.owner)
        key = "many", inner.key
        statement = selection.statements.get(key) or await self.compiled(
            selection, key, lambda: reading.many(self.entity, selection, inner.pages)
        )
        return await self._read(statement, ids=ids, **inner.values)

    async def page(
        self, selection: Selection, matching: Values, order_by: Sequence[OrderBy], window: Window
    ) -> str | None:
        """A page as a connection's JSON."""
        shape, values = _page(Wanted(self.entity, matching, order_by, window), self.owner)
        inner = nested(selection, self._wanted, self.owner)
        key = shape.order.name, *shape[1:], *inner.key
        statement = selection.statements.get(key) or await self.compiled(
            selection, key, lambda: reading.page(self.entity, selection, shape, inner.pages)
        )
        return await self._read(statement, **values, **inner.values)

    async def create(self, payload: Selection, given: Values) -> Written:
        """Create a row. Idempotent if the client chooses the id: a repeated call returns the row as it is now."""
        content = dict(given)
        wanted, limits = content.pop("id", None), self.limits(1)
        try:
            if wanted is None and not self._is_contained(content):
                return await self._write(payload, writing.create_new, "create new", content, id=uuid7(), **limits)
            row_id = uuid7() if wanted is None else identifier(wanted, "input.id")
            if row_id == self.owner:
                return Written(problems=[own_id("input")])
            named = wanted is not None
            return await self._write(payload, writing.create, "create", content, is_named=named, id=row_id, **limits)
        except TooManyTags as error:
            return Written(problems=[too_many_tags(error, "input", "tags")])

    async def update(
        self, payload: Selection, row_id: str, changes: Values, expected: int | None, base: Values = NOTHING
    ) -> Written:
        """Change the given fields, if those in `base` have the value there, or already the new one.

        Writes nothing if the row already has these values.
        """
        wanted = _one(row_id, expected)
        if base:
            wanted |= seen(self.entity, base, changes)
        try:
            return await self._write(payload, writing.update, "update", changes, tuple(base), **wanted)
        except TooManyTags as error:
            # An update without changes returns the row as it is, or says why the row cannot be changed at all.
            kept = await self._write(payload, writing.update, "update", {}, **wanted)
            why = kept.problems or [too_many_tags(error, "input", tags_in(changes))]
            return kept._replace(problems=why)

    async def delete(self, payload: Selection, row_id: str, expected: int | None) -> Written:
        """Move a row to the trash."""
        return await self._write(payload, writing.delete, "delete", {}, **_one(row_id, expected))

    async def restore(self, payload: Selection, row_id: str) -> Written:
        """Take a row out of the trash."""
        return await self._write(payload, writing.restore, "restore", {}, **_one(row_id, None))

    async def move(self, payload: Selection, row_id: str, place: str, anchor: str | None) -> Written:
        """Move a row to the start or end of the manual order, or before or after another row."""
        values: dict[str, Any] = {"anchor": identifier(anchor, f"to.{place}")} if anchor is not None else {}
        values["id"] = identifier(row_id, "id")
        try:
            return await self._write(payload, moving.move, place, {}, **values)
        except Crowded:
            apart = place + moving.APART
            return await self._write(payload, moving.move_apart, apart, {}, **values)

    async def create_many(self, payload: Selection, given: Sequence[Values]) -> Written:
        """Create rows, all or none."""
        rows, wrong = self._rows(given)
        if wrong:
            return Written(problems=wrong, absent=NO_ROWS)
        statement = payload.statements.get("create many") or await self.compiled(
            payload, "create many", lambda: self.complete(payload, lambda shown: bulk.create(self.entity, shown))
        )
        values = {"user_id": self.owner, "rows": _json(rows), **self.limits(len(rows))}
        try:
            row = await self._database.write(self.owner, statement, values)
        except TooManyTags as error:
            return Written(problems=[too_many_tags(error, "inputs")], absent=NO_ROWS)
        found = [self._taken(place) for place in row["places"]]
        if row["owned"] is not None:
            found.append(self._too_many(row["owned"], "inputs"))
        found += [self._taken(place, "GONE") for place in row["gone"]]
        if self.entity.member:
            found += [self.not_contained(membership.NOT_FOUND, "inputs", place) for place in row["unknown"]]
            found += [self.not_contained(membership.IN_TRASH, "inputs", place) for place in row["trashed"]]
        return await self._many(payload, statement, row, found)

    async def change_many(  # noqa: PLR0913 - the arguments of the field
        self, payload: Selection, kind: str, where: Values, changes: Values, *, at_most: int, dry_run: bool
    ) -> Written:
        """Update, delete or restore the selected rows, unless there are more than `at_most`."""
        refuse_at_most(at_most)
        content, wrong = taken(self.entity, changes)
        if wrong:
            return Written(problems=wrong, absent=NO_ROWS)
        shape, selecting = self._selected(kind, where)
        many = bulk.Many(kind, tuple(content), shape)
        statement = payload.statements.get(many) or await self.compiled(
            payload, many, lambda: self.complete(payload, lambda shown: bulk.change(self.entity, shown, many))
        )
        values = {"user_id": self.owner, "at_most": at_most, "dry_run": dry_run, **content, **selecting}
        try:
            row = await self._database.write(self.owner, statement, values)
        except TooManyTags as error:
            return Written(problems=[too_many_tags(error, "input", tags_in(changes))], absent=NO_ROWS)
        return await self._many(payload, statement, row, self._bulk_problems(row, at_most))

    async def purge(self, payload: Selection, where: Values, *, at_most: int, dry_run: bool) -> Written:
        """Permanently delete the selected rows in the trash, unless there are more than `at_most`."""
        refuse_at_most(at_most)
        shape, selecting = self._selected("purge", where)
        statement = payload.statements.get(("purge", shape)) or await self.compiled(
            payload,
            ("purge", shape),
            lambda: self.complete(payload, lambda shown: purging.purge(self.entity, shown, shape)),
        )
        limits = {"at_most": at_most, "quota": self._database.quotas["tasks"]}
        values = {"user_id": self.owner, "dry_run": dry_run, **limits, **selecting}
        before: Mapping[str, str | None] = {}
        if statement.names_only:  # what other rows contribute cannot be read afterwards
            row = await self._database.write(self.owner, statement, {**values, "dry_run": True})
            before = await self._shown_many(payload, statement, row)
        row = await self._database.write(self.owner, statement, values)
        shown = before or await self._shown_many(payload, statement, row)
        problems = purge_problems(self.entity.many, row, limits)
        if problems:
            return Written(row["version"], {}, problems, 0, NO_ROWS)
        missing = Problem("NOT_FOUND", f"There is no such {words(self.entity.one)} in the trash.")
        skipped = [replace(missing, field=("where", "ids", str(place))) for place in row["places"] or []]
        return Written(row["version"], shown, skipped, row["affected"], NO_ROWS)

    def _rows(self, given: Sequence[Values]) -> tuple[list[dict[str, Any]], list[Problem]]:
        """The rows to create, for the statement's JSON, and their problems, with the rows' indexes in the paths."""
        if not 1 <= len(given) <= MOST_CREATED:
            many = self.entity.many
            few = f"create{many[0].upper()}{many[1:]} takes 1 to {MOST_CREATED} {words(many)}; these are {len(given)}."
            return [], [Problem("LIMIT_EXCEEDED", few, ("inputs",))]
        ids = [
            identifier(each["id"], f"inputs.{place}.id") if "id" in each else None for place, each in enumerate(given)
        ]
        # In their order, so that rows without an id keep the order of the input wherever ids decide.
        made = iter(sorted(uuid7() for wanted in ids if wanted is None))
        rows, found = list[dict[str, Any]](), list[Problem]()
        for place, each in enumerate(given):
            content = {**self.entity.omitted, **each}
            content.pop("id", None)
            bound, wrong = taken(self.entity, content, ("inputs", str(place)))
            content_hash = creation_hash(self.entity, bound) if ids[place] and not wrong else None
            rows.append({**bound, "place": place, "id": str(ids[place] or next(made)), "create_hash": content_hash})
            found += wrong
        found += [self._taken(place) for place, wanted in enumerate(ids) if wanted and wanted in ids[:place]]
        found += [own_id("inputs", str(place)) for place, wanted in enumerate(ids) if wanted == self.owner]
        return rows, found

    async def _write(  # noqa: PLR0913 - the parts of a write
        self,
        payload: Selection,
        build: Callable[[Entity, Selection, writing.Change], Statement],
        kind: str,
        changes: Values,
        compared: tuple[str, ...] = (),
        *,
        is_named: bool = False,
        **values: Any,
    ) -> Written:
        entity = self.entity
        content, wrong = taken(entity, changes)
        if wrong:
            return Written(problems=wrong)
        if is_named:
            values["create_hash"] = creation_hash(entity, content)
        change = writing.Change(kind, tuple(content), "expected" in values, compared)
        statement = payload.statements.get(change) or await self.compiled(
            payload, change, lambda: self.complete(payload, lambda shown: build(entity, shown, change))
        )
        row = await self._database.write(self.owner, statement, {"user_id": self.owner, **content, **values})
        if row["code"] == "CROWDED":
            raise Crowded
        one = entity.one
        shown = {entry.key: row[f"{one}_{place}"] for place, entry in enumerate(payload.entries(one, entity.edge))}
        if statement.names_only:
            shown = await self._shown_after(payload, shown)
        return Written(row["version"], shown, self.refusals(row) if row["code"] else [])

    def _is_contained(self, content: Values) -> bool:
        """Whether the row is in a container, which must be looked up while the clock is locked."""
        member = self.entity.member
        return member is not None and content.get(member.reference.name) is not None

    def limits(self, made: int) -> dict[str, Any]:
        """The values of a create of this many rows: the quota, and for a cluster the counter that they advance."""
        quota, counter = self._database.quotas[self.entity.many], self.entity.counter.name
        return {"quota": quota, "made": made, "counter": counter, "create_hash": None}

    def complete(self, payload: Selection, build: Callable[[Selection], Statement]) -> Statement:
        """The writing statement of a payload. If that shows other rows, the statement only names the rows."""
        entity = self.entity
        rows = payload.entries(entity.one, entity.edge) or payload.entries(entity.many, entity.edges)
        if all(entity.knows(node.inner) for entry in rows for node in edges.nodes(entity, entry)):
            return build(payload)
        named = tuple(
            replace(entry, selection=edges.naming(entity, entry)) if entry in rows else entry
            for entry in payload.fields
        )
        return replace(build(Selection(payload.typename, named)), names_only=True)

    async def _shown_after(self, payload: Selection, named: Mapping[str, str | None]) -> dict[str, str | None]:
        """The rows that a write has named, read after it."""
        shown = dict[str, str | None]()
        for entry in payload.entries(self.entity.one, self.entity.edge):
            name = named[entry.key]
            shown[entry.key] = name and await self._read_row(entry, orjson.loads(name))
        return shown

    async def _read_row(self, entry: Field, name: Mapping[str, str]) -> str | None:
        """The row that a write has named, or its edge, read after it."""
        shown = edges.nodes(self.entity, entry)
        read = {node.key: await self._found(node.inner, UUID(name["id"])) for node in shown}
        return read[entry.key] if entry.name == self.entity.one else edges.completed(entry, name, read)

    def compiled(self, selection: Selection, key: Hashable, build: Callable[[], Statement]) -> Awaitable[Statement]:
        """Compile a statement that the selection does not have yet."""
        return self._statements.compiled(self.owner, selection, key, build)

    def _selected(self, kind: str, where: Values) -> tuple[Shape | None, dict[str, Any]]:
        """The shape of a selector, and the values to bind. Restores and purges select rows in the trash."""
        if "ids" in where:
            if len(where["ids"]) > MOST_AT_ONCE:
                raise LimitExceeded(f"where.ids lists {len(where['ids'])} ids; the maximum is {MOST_AT_ONCE}.")
            return None, {
                "ids": [str(identifier(row_id, f"where.ids.{place}")) for place, row_id in enumerate(where["ids"])]
            }
        chosen = where.get("filter", {})
        wanted = Filter(self.entity, chosen, path="where.filter", strict="filter" in where)
        is_of_trash = kind in {"restore", "purge"}
        if wanted.trashed and not is_of_trash:
            many = words(self.entity.many).capitalize()
            only = f"{many} in the trash can only be restored or purged; omit trashed."
            raise BadUserInput(only, "where.filter.trashed")
        return (is_of_trash, *wanted.shape[1:]), wanted.values

    async def _many(
        self, payload: Selection, statement: Statement, row: Mapping[str, Any], found: list[Problem]
    ) -> Written:
        shown = await self._shown_many(payload, statement, row)
        # Ids that are not found, and those in the trash, are skipped; anything else is a refusal.
        refused = any(problem.field is None or problem.field[0] != "where" for problem in found)
        return Written(row["version"], shown, found, 0 if refused else row["affected"], NO_ROWS)

    async def _shown_many(
        self, payload: Selection, statement: Statement, row: Mapping[str, Any]
    ) -> dict[str, str | None]:
        """The rows that a bulk write returns, by response key. Read if the write has only named them."""
        many = self.entity.many
        entries = payload.entries(many, self.entity.edges)
        shown: dict[str, str | None] = {entry.key: row[f"{many}_{place}"] for place, entry in enumerate(entries)}
        for entry in entries if statement.names_only else ():
            shown[entry.key] = await self._read_rows(entry, orjson.loads(shown[entry.key] or NO_ROWS))
        return shown

    async def _read_rows(self, entry: Field, named: Sequence[Mapping[str, str]]) -> str | None:
        """The rows that a bulk write has named, or their edges, read after it."""
        ids = [name["id"] for name in named]
        if entry.name == self.entity.many:
            return await self.found_many(entry.inner, ids)
        read = [dict[str, str | None]() for _ in ids]
        for node in edges.nodes(self.entity, entry):
            rows = orjson.loads(await self.found_many(node.inner, ids) or NO_ROWS)
            for one, row in zip(read, rows, strict=True):
                one[node.key] = orjson.dumps(row).decode()
        return f"[{','.join(edges.completed(entry, *pair) for pair in zip(named, read, strict=True))}]"

    def _bulk_problems(self, row: Mapping[str, Any], at_most: int) -> list[Problem]:
        if row["affected"] > at_most:
            text = f"{row['affected']} {words(self.entity.many)} match, and atMost is {at_most}; nothing was changed."
            return [Problem("LIMIT_EXCEEDED", text, ("atMost",))]
        if row["code"]:
            return self.refusals(row)
        in_trash = row["in_trash"] or []
        missing = [place for place in row["places"] or [] if place not in in_trash]
        skipped = {**dict.fromkeys(missing, "NOT_FOUND"), **dict.fromkeys(in_trash, writing.IN_TRASH)}
        return [
            replace(refusal(self.entity, skipped[place]), field=("where", "ids", place))
            for place in sorted(skipped, key=int)
        ]

    def refusals(self, row: Mapping[str, Any]) -> list[Problem]:
        """The problems for the error code of a writing statement."""
        code, *columns = row["code"].split()
        if code == writing.CONFLICT:
            return [_conflict(column) for column in columns]
        if code == "LIMIT_EXCEEDED":
            return [self._too_many(row["owned"], "input")]
        if code in {membership.NOT_FOUND, membership.IN_TRASH}:
            return [self.not_contained(code, "input")]
        return [refusal(self.entity, code)]

    def not_contained(self, code: str, *path: str) -> Problem:
        """The problem of a container that does not exist or is in the trash, with the path of the object with it."""
        assert self.entity.member  # noqa: S101 - only members are refused for this
        column = self.entity.member.reference.name
        what, field = words(api_name(column.removesuffix("_id"))), (*path, api_name(column))
        if code == membership.NOT_FOUND:
            return Problem("NOT_FOUND", f"There is no such {what}.", field)
        return Problem("IN_TRASH", f"This {what} is in the trash; restore it first.", field)

    def _taken(self, place: int | str, code: str = "ID_TAKEN") -> Problem:
        return replace(refusal(self.entity, code), field=("inputs", str(place), "id"))

    def _too_many(self, owned: int, field: str) -> Problem:
        quota = self._database.quotas[self.entity.many]
        text = (
            f"You own {owned:,} {words(self.entity.many)}, including those in the trash, and may own"
            f" {quota:,}. Nothing was created. Create fewer, empty the trash, or ask the operator of this server"
            " to raise the limit."
        )
        return Problem("LIMIT_EXCEEDED", text, (field,))

    def _read(self, statement: Statement, **values: Any) -> Awaitable[str | None]:
        return self._database.read(self.owner, statement, {"user_id": self.owner, **values})


def refuse_at_most(at_most: int) -> None:
    """Raise BadUserInput for a limit of a bulk write that is out of range."""
    if not 1 <= at_most <= MOST_AT_ONCE:
        raise BadUserInput(f"atMost must be from 1 to {MOST_AT_ONCE}; it is {at_most}.", "atMost")


def purge_problems(what: str, row: Mapping[str, Any], limits: Mapping[str, int]) -> list[Problem]:
    """Why nothing was purged; empty if something was, or there was nothing to purge."""
    if row["affected"] > limits["at_most"]:
        text = f"{row['affected']} {words(what)} match, and atMost is {limits['at_most']}; nothing was deleted."
        return [Problem("LIMIT_EXCEEDED", text, ("atMost",))]
    if not row["affected"] or not row["is_full"]:
        return []
    text = (
        f"You can permanently delete at most {limits['quota']:,} tasks and lists until the server forgets that they"
        " existed. Nothing was deleted. Try again in some days, or leave them in the trash."
    )
    return [Problem("LIMIT_EXCEEDED", text)]


class Nested(NamedTuple):
    """The fields with arguments below a selection: their shapes, as part of a statement's key, and their values."""

    pages: Pages = MappingProxyType({})
    key: tuple[Hashable, ...] = ()
    values: Values = MappingProxyType({})


_NOTHING_NESTED = Nested()


def nested(selection: Selection, wanted: Given, owner: UUID, number: int = 0) -> Nested:
    """The fields with arguments below a selection, which has a number if a statement has several."""
    if not selection.nested:
        return _NOTHING_NESTED
    shapes, values = dict[Field, Page | Parameters](), dict[str, Any]()
    for place, entry in enumerate(selection.nested):
        shapes[entry], more = _shape(wanted[entry], owner, f"n{number}_{place}_")
        values |= more
    key = tuple((page.order.name, *page[1:]) for page in shapes.values() if isinstance(page, Page))
    return Nested(shapes, key, values)


def _shape(wanted: Wanted | Values, owner: UUID, prefix: str) -> tuple[Page | Parameters, Values]:
    if isinstance(wanted, Wanted):
        return _page(wanted, owner, prefix)
    return Parameters(prefix), {prefix + name: value for name, value in wanted.items()}


def _page(wanted: Wanted, owner: UUID, prefix: str = "") -> tuple[Page, dict[str, Any]]:
    """The shape of a page, and its values."""
    window, order = wanted.window, ordered(wanted.entity, tuple(wanted.order_by))
    matching = Filter(wanted.entity, wanted.matching, prefix)
    values = matching.values | {f"{prefix}size": window.size}
    values |= order.bound(f"{prefix}after", window.after, owner) | order.bound(f"{prefix}before", window.before, owner)
    has_after, has_before = window.after is not None, window.before is not None
    return Page(order, matching.shape, window.backward, has_after, has_before, prefix), values


def refusal(entity: Entity, code: str) -> Problem:
    """The problem for a code returned by a writing statement."""
    one = words(entity.one)
    return {
        "NOT_FOUND": Problem("NOT_FOUND", f"There is no such {one}.", ("id",)),
        writing.IN_TRASH: Problem("IN_TRASH", f"The {one} is in the trash; restore it first.", ("id",)),
        "VERSION_CONFLICT": Problem(
            "VERSION_CONFLICT", f"The {one} has changed since you read it; read it and try again.", ("expectedVersion",)
        ),
        "ANCHOR_IN_TRASH": Problem("IN_TRASH", f"The {one} to move to is in the trash; restore it first.", ("to",)),
        "ANCHOR_NOT_FOUND": Problem("NOT_FOUND", f"There is no such {one} to move to.", ("to",)),
        "ID_TAKEN": Problem("ID_TAKEN", f"You already have a {one}, or something else, with this id.", ("input", "id")),
        "GONE": Problem(
            "GONE",
            "What had this id was deleted permanently. Create it with another id, or not at all.",
            ("input", "id"),
        ),
        **entity.refusals,
    }[code]


def too_many_tags(error: TooManyTags, *path: str) -> Problem:
    return Problem("LIMIT_EXCEEDED", str(error), path)


def tags_in(changes: Values) -> str:
    """The input field with new tags."""
    return "addTags" if "add_tags" in changes else "tags"


def _one(row_id: str, expected: int | None) -> dict[str, Any]:
    """The values that select the row to change."""
    values: dict[str, Any] = {"id": identifier(row_id, "id")}
    return values if expected is None else {**values, "expected": expected}


def _conflict(column: str) -> Problem:
    name = api_name(column)
    return Problem(writing.CONFLICT, f"{name} has changed since you saw it; nothing was changed.", ("input", name))


def own_id(*path: str) -> Problem:
    return Problem("INVALID", "This is the id of your account; choose another one.", (*path, "id"))


def _json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, ensure_ascii=False)
