"""Conditions and changes for rows that are members of a row of another entity, such as tasks of a list."""

from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    ScalarSelect,
    Select,
    Update,
    Uuid,
    and_,
    any_,
    exists,
    false,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    true,
)
from sqlalchemy import update as sql_update
from sqlalchemy.dialects.postgresql import ARRAY

from app.database.rendering import Columns
from app.database.statements import text_literal, user_id
from app.entities.entity import Contents, Entity, Membership

NOT_FOUND, IN_TRASH = "CONTAINER_NOT_FOUND", "CONTAINER_IN_TRASH"
_NO: ColumnElement[bool] = literal_column("false")

Refusals = list[tuple[ColumnElement[bool], ColumnElement[str]]]


def refusals(entity: Entity, content: Contents | Columns) -> Refusals:
    """When a write of this content is rejected because of the container, each with its code. Never null."""
    if entity.member is None or entity.member.reference.name not in content:
        return []
    wanted = content[entity.member.reference.name]
    unknown = and_(wanted.is_not(None), not_(_exists(entity.member, wanted)))
    return [(unknown, text_literal(NOT_FOUND)), (is_trashed(entity.member, wanted), text_literal(IN_TRASH))]


def is_accepted(entity: Entity, content: Contents | Columns) -> ColumnElement[bool]:
    """The opposite of all refusals."""
    return and_(true(), *(not_(condition) for condition, _ in refusals(entity, content)))


def is_trashed(member: Membership, container: ColumnElement[Any]) -> ColumnElement[bool]:
    return _exists(member, container, member.containers.c.deleted_at.is_not(None))


def _exists(member: Membership, container: ColumnElement[Any], *more: ColumnElement[bool]) -> ColumnElement[bool]:
    row = member.containers.c
    found: Select[Any] = select(literal_column("1")).where(row.user_id == user_id(), row.id == container, *more)
    return exists(found.correlate_except(member.containers))


def is_namesake(entity: Entity, row_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a row of the other entity has this id."""
    tables = [entity.member.containers] if entity.member else []
    tables += [entity.container.members] if entity.container else []
    return or_(
        _NO,
        *(
            exists(
                select(literal_column("1"))
                .where(table.c.user_id == user_id(), table.c.id == row_id)
                .correlate_except(table)
            )
            for table in tables
        ),
    )


def deleted(entity: Entity, at: ColumnElement[Any]) -> tuple[Contents, ColumnElement[bool]]:
    """What moves a row to the trash, and the condition for rows to be changed.

    A member that went to the trash with its container loses the mark, and stays where it is.
    """
    row, member = entity.table.c, entity.member
    if member is None:
        return {"deleted_at": at}, row.deleted_at.is_(None)
    content = {"deleted_at": func.coalesce(row.deleted_at, at), member.mark.name: _NO}
    return content, or_(row.deleted_at.is_(None), row[member.mark.name])


def restored(entity: Entity) -> tuple[Contents, ColumnElement[bool]]:
    """What takes a row out of the trash, and the condition for rows to be changed.

    A member of a container in the trash leaves it.
    """
    row, member = entity.table.c, entity.member
    content: dict[str, ColumnElement[Any]] = {"deleted_at": null()}
    if member is not None:
        content |= {member.reference.name: _live(member), member.mark.name: _NO}
    return content, row.deleted_at.is_not(None)


def _live(member: Membership) -> ScalarSelect[Any]:
    """The id of the row's container, null if that is in the trash."""
    row = member.containers.c
    live = select(row.id).where(row.user_id == user_id(), row.id == member.reference, row.deleted_at.is_(None))
    live = live.where(member.members.c.user_id == user_id())  # implied, but each table of a part is routed by its own
    return live.correlate_except(member.containers).scalar_subquery()


def following(container: Membership, written: CTE, now: CTE, kind: str) -> Update:
    """The members that go to the trash with the containers that are written, or come back with them."""
    table, row = container.members, container.members.c
    if kind == "delete":
        content: Contents = {"deleted_at": now.c.at, container.mark.name: true()}
        due: ColumnElement[bool] = row.deleted_at.is_(None)
    else:
        content = {"deleted_at": null(), container.mark.name: false()}
        due = and_(row.deleted_at.is_not(None), container.mark)
    ids = func.array(select(written.c.id).scalar_subquery(), type_=ARRAY(Uuid))
    return (
        sql_update(table)
        .values(**content, version=now.c.version, updated_at=now.c.at)
        .where(table.c.user_id == user_id(), table.c.user_id == now.c.user_id, container.reference == any_(ids), due)
    )
