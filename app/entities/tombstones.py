"""Conditions on tombstones: what remains of rows that were deleted permanently."""

from typing import Any

from sqlalchemy import ColumnElement, Integer, ScalarSelect, exists, func, literal_column, select

from app.database.statements import user_id
from app.models import TOMBSTONES

_ONE: ColumnElement[int] = literal_column("1", Integer)


def is_gone(row_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the user had a row with this id that was deleted permanently."""
    row = TOMBSTONES.c
    return exists(select(_ONE).where(row.user_id == user_id(), row.id == row_id).correlate_except(TOMBSTONES))


def number(most: ColumnElement[int]) -> ScalarSelect[int]:
    """The number of the user's tombstones. Counts at most one more than `most`."""
    some = select(_ONE.label("one")).where(TOMBSTONES.c.user_id == user_id()).limit(most + _ONE).subquery("some")
    return select(func.count()).select_from(some).scalar_subquery()
