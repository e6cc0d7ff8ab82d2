"""The tags of a user: lists them with counts of their tasks, renames, merges and deletes them."""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Subquery,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
)
from sqlalchemy import delete as sql_delete
from sqlalchemy import update as sql_update
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.sql.dml import ReturningDelete

from app.database.compiling import Statements
from app.database.rendering import Selection, joined, json_object, json_text, plain
from app.database.statements import Reader, Statement, read, text_literal, user_id, write
from app.entities.problems import Problem, storable
from app.entities.repository import Database, Written
from app.entities.steps import Rejected, Step
from app.entities.writing import clock, is_there, notice, version_after
from app.errors import BadUserInput
from app.models import MOST_TAGS_OF_USER, TAGS, TASKS, USER_TAGS
from app.tasks.tags import tag_problems

DEFAULT_TAGS = 100

Counts = Mapping[str, ColumnElement[Any]]

_NOT_FOUND = Problem("NOT_FOUND", "You have neither this tag nor one with the new name.", ("from",))
_FROM, _TO = (func.tag_key(bindparam(name, type_=Text), type_=Text) for name in ("from", "to"))
_ZERO: ColumnElement[int] = literal_column("0")
_YES = text_literal("yes")
_NOW = clock()
_MINE = USER_TAGS.c.user_id == user_id()


class UserTags:
    """The tags of one user."""

    def __init__(self, database: Database, owner: UUID, statements: Statements) -> None:
        self._database = database
        self._owner = owner
        self._statements = statements

    async def page(self, selection: Selection, first: int | None, after: str | None) -> str | None:
        """The first tags in the order of their keys, after a tag, as a JSON list."""
        size = DEFAULT_TAGS if first is None else first
        if not 1 <= size <= MOST_TAGS_OF_USER:
            raise BadUserInput(f"first must be from 1 to {MOST_TAGS_OF_USER:,}; it is {size}.", "first")
        values = {"user_id": self._owner, "size": size, "after": storable(after or "", "after")}
        statement = selection.statements.get("tags") or await self._compiled(selection, "tags", lambda: tags(selection))
        return await self._database.read(self._owner, statement, values)

    async def rename(self, payload: Selection, name: str, new: str) -> Written:
        """Give a tag another name, or merge it into the tag that has this name."""
        if wrong := _new_name_problems(new):
            return Written(problems=wrong)
        return await self._written(payload, "rename", {"from": storable(name, "from"), "to": new})

    async def delete(self, payload: Selection, name: str) -> Written:
        """Remove a tag from all tasks, and forget it."""
        return await self._written(payload, "delete", {"from": storable(name, "name")})

    async def _written(self, payload: Selection, kind: str, names: Mapping[str, str]) -> Written:
        build, key = {"rename": rename, "delete": delete}[kind], kind + " tag"
        statement = payload.statements.get(key) or await self._compiled(payload, key, lambda: build(payload))
        row = await self._database.write(self._owner, statement, {"user_id": self._owner, **names})
        shown = {entry.key: row[f"tag_{place}"] for place, entry in enumerate(payload.entries("tag"))}
        return Written(row["version"], shown, [_NOT_FOUND] if row["code"] else [], row["affected"])

    def _compiled(self, selection: Selection, key: Hashable, build: Callable[[], Statement]) -> Awaitable[Statement]:
        return self._statements.compiled(self._owner, selection, key, build)


class TagSteps:
    """Makes the steps of a batch that change tags, for one user. Each method raises Rejected for invalid input."""

    def __init__(self, owner: UUID) -> None:
        self._owner = owner

    def rename(self, name: str, new: str) -> Step:
        """Rename a tag, as `UserTags.rename` does."""
        if wrong := _new_name_problems(new):
            raise Rejected(wrong)
        return self._step("rename tag", rename, {"from": storable(name, "from"), "to": new})

    def delete(self, name: str) -> Step:
        """Delete a tag."""
        return self._step("delete tag", delete, {"from": storable(name, "name"), "to": ""})

    def _step(self, key: str, build: Callable[..., Statement], names: Mapping[str, str]) -> Step:
        return Step(
            key,
            lambda payload: build(payload, in_batch=True),
            {"user_id": self._owner, **names},
            refusals=lambda _row: [_NOT_FOUND],
            missing=lambda _row_id: _NOT_FOUND,
            unnamed=lambda error: Problem("LIMIT_EXCEEDED", str(error)),
        )


def _new_name_problems(new: str) -> list[Problem]:
    return [Problem(problem.code, problem.message, ("to",)) for problem in tag_problems(new)]


def tags(selection: Selection) -> Statement:
    """A page of tags, with their counts if these are selected."""
    return read(lambda me: _page(selection, me))


def _page(selection: Selection, me: Reader) -> Select[Any]:
    after, row = func.tag_key(bindparam("after", type_=Text), type_=Text), USER_TAGS.c
    page = select(row.key, row.name).where(me.owns(USER_TAGS), row.key > after).order_by(row.key)
    names = page.limit(bindparam("size", type_=Integer)).correlate(me.row).subquery("names")
    rows: FromClause = names
    counts: Counts = {}
    if selection.entries("open") or selection.entries("total"):
        counted = _counted(me, TAGS.c.tag > after)
        counts = {name: func.coalesce(counted.c[name], _ZERO) for name in ("open", "total")}
        rows = names.outerjoin(counted, counted.c.tag == names.c.key)
    shown = _json(selection, names.c.name, counts)
    listed = func.string_agg(shown, aggregate_order_by(text_literal(","), names.c.key))
    body = joined([text_literal("["), func.coalesce(listed, text_literal(""), type_=Text), text_literal("]")])
    return select(body.label("body")).select_from(rows)


def _counted(me: Reader, some: ColumnElement[bool]) -> Subquery:
    """The counts of the tags that tasks have, from two indexes alone.

    A full join, because the planner can execute it only by scanning each index once, whatever numbers of rows it
    expects. The tasks without tags that it adds are a group that no name matches.
    """
    tagged = _part(me, select(TAGS.c.user_id, TAGS.c.tag, TAGS.c.task_id).where(me.owns(TAGS), some), "tagged")
    live = select(TASKS.c.user_id, TASKS.c.id, TASKS.c.completed).where(me.owns(TASKS), TASKS.c.deleted_at.is_(None))
    task = _part(me, live, "task")
    pairs = tagged.join(task, and_(task.c.user_id == tagged.c.user_id, task.c.id == tagged.c.task_id), full=True)
    total, open_ = func.count(task.c.id).label("total"), func.count().filter(~task.c.completed).label("open")
    grouped = select(tagged.c.tag, total, open_).select_from(pairs).group_by(tagged.c.tag)
    return _part(me, grouped, "counted")


def _part(me: Reader, rows: Select[Any], name: str) -> Subquery:
    return rows.correlate(me.row).subquery(name)


def rename(payload: Selection, *, in_batch: bool = False) -> Statement:
    """Rename a tag, or merge it into the one that has the new name already, which then keeps its name.

    If only the latter exists, the tag has been renamed before, and nothing changes.
    """
    source, target = _tag(_FROM, "source"), _tag(_TO, "target", USER_TAGS.c.key != _FROM)
    name = func.tag_name(bindparam("to", type_=Text), type_=Text)
    renamed = (
        sql_update(USER_TAGS)
        .values(key=_TO, name=name)
        .where(_MINE, USER_TAGS.c.key == _FROM, USER_TAGS.c.name != name, ~is_there(target))
        .returning(USER_TAGS.c.name)
        .cte("renamed")
    )
    merged = _forgotten(is_there(target)).cte("merged")
    before, given, there = (select(rows.c.name).scalar_subquery() for rows in (source, renamed, target))
    written = _retagged(
        case((there == any_(TASKS.c.tags), _without(before)), else_=_replaced(before, func.coalesce(given, there))),
        is_there(source) & (is_there(renamed) | is_there(target)),
    )
    refusal = case((or_(is_there(source), is_there(target)), null()), else_=text_literal("NOT_FOUND"))
    shown = func.coalesce(given, there, before, type_=Text)
    return _outcome(payload, written, refusal, shown, merged, *_reindexed(), in_batch=in_batch)


def delete(payload: Selection, *, in_batch: bool = False) -> Statement:
    """Delete a tag. Changes nothing if there is none."""
    source = _tag(_FROM, "source")
    written = _retagged(_without(select(source.c.name).scalar_subquery()), is_there(source))
    entries = sql_delete(TAGS).where(TAGS.c.user_id == user_id(), TAGS.c.tag == _FROM).returning(TAGS.c.task_id)
    more = _forgotten().cte("gone"), entries.cte("unindexed")
    return _outcome(payload, written, null(), None, *more, in_batch=in_batch)


def _tag(key: ColumnElement[str], name: str, *more: ColumnElement[bool]) -> CTE:
    """The tag with this key before the statement."""
    return select(USER_TAGS.c.name).where(_MINE, USER_TAGS.c.key == key, *more).cte(name)


def _forgotten(*more: ColumnElement[bool]) -> ReturningDelete[Any]:
    return sql_delete(USER_TAGS).where(_MINE, USER_TAGS.c.key == _FROM, *more).returning(USER_TAGS.c.key)


def _reindexed() -> tuple[CTE, CTE]:
    """Give the entries of the index the new key, and delete those of tasks that have both tags."""
    row, others = TAGS.c, TAGS.alias("others").c
    # IS TRUE and NOT keep the planner from a join, which it would plan for a single row: the subquery is hashed.
    both = row.task_id.in_(select(others.task_id).where(others.user_id == user_id(), others.tag == _TO))
    some = and_(row.user_id == user_id(), row.tag == _FROM, _FROM != _TO)
    moved = sql_update(TAGS).values(tag=_TO).where(some, ~both).returning(row.task_id)
    doubled = sql_delete(TAGS).where(some, both.is_(true())).returning(row.task_id)
    return moved.cte("reindexed"), doubled.cte("unindexed")


def _without(name: ColumnElement[str]) -> ColumnElement[Any]:
    return func.array_remove(TASKS.c.tags, name)


def _replaced(name: ColumnElement[str], new: ColumnElement[str]) -> ColumnElement[Any]:
    return func.array_replace(TASKS.c.tags, name, new)


def _retagged(values: ColumnElement[Any], due: ColumnElement[bool]) -> CTE:
    """Set the tags of all tasks, also of those in the trash, that have the tag.

    The triggers, which would maintain the other tables task by task, are told that this statement does so itself.
    """
    told = func.set_config(text_literal("app.tags_kept"), _YES, literal_column("true"))
    kept = select(told.label("value")).cte("kept")
    tagged = select(TAGS.c.task_id).where(TAGS.c.user_id == user_id(), TAGS.c.tag == _FROM)
    return (
        sql_update(TASKS)
        .values(tags=values, version=_NOW.c.version, updated_at=_NOW.c.at)
        .where(TASKS.c.user_id == user_id(), TASKS.c.user_id == _NOW.c.user_id, due)
        .where(select(kept.c.value).scalar_subquery() == _YES)
        .where(TASKS.c.id == any_(func.array(tagged.scalar_subquery(), type_=ARRAY(Uuid))))
        .returning(TASKS.c.id)
        .cte("written")
    )


def _outcome(
    payload: Selection,
    written: CTE,
    refusal: ColumnElement[Any],
    name: ColumnElement[Any] | None,
    *more: CTE,
    in_batch: bool,
) -> Statement:
    """One row: the error code, the clock, the number of tasks written, and the tag for each response key."""
    now, changed = _NOW, is_there(written)
    entries = enumerate(payload.entries("tag"))
    shown = [(null() if name is None else _shown(entry.inner, name)).label(f"tag_{place}") for place, entry in entries]
    affected = select(func.count()).select_from(written).scalar_subquery()
    row = select(
        refusal.label("code"),
        version_after(now, changed).label("version"),
        affected.label("affected"),
        notice(now, changed),
        *shown,
    )
    if in_batch:
        # Other writes of the transaction leave it to the triggers. Evaluated when all tasks are written.
        told = func.set_config(text_literal("app.tags_kept"), text_literal("no"), literal_column("true"))
        row = row.add_columns(case((affected >= _ZERO, told)).label("kept"))
    return write(row.select_from(now).add_cte(*more), changed, in_batch=in_batch)


def _shown(selection: Selection, name: ColumnElement[str]) -> ColumnElement[Any]:
    counts = {"open": _tasks_after(~TASKS.c.completed), "total": _tasks_after()}
    return case((name.is_not(None), _json(selection, name, counts)), else_=null())


def _tasks_after(*some: ColumnElement[bool]) -> ColumnElement[int]:
    """The number of live tasks that have either tag before the statement, and so the new one after it."""
    either = or_(TAGS.c.tag == _FROM, TAGS.c.tag == _TO)
    live = select(TASKS.c.id).where(TASKS.c.user_id == user_id(), TASKS.c.deleted_at.is_(None), *some)
    # As a filter of the aggregate, the subquery is hashed, and not planned as a join of a single row.
    count = func.count(TAGS.c.task_id.distinct()).filter(TAGS.c.task_id.in_(live))
    return select(count).where(TAGS.c.user_id == user_id(), either).scalar_subquery()


def _json(selection: Selection, name: ColumnElement[str], counts: Counts) -> ColumnElement[str]:
    return json_object(selection, lambda entry: json_text(name) if entry.name == "name" else plain(counts[entry.name]))
