"""The locks of a process for its followed users, which make writes send notifications: see app.database.notices."""

from typing import Any

from sqlalchemy import ARRAY, Uuid, bindparam, column, func, select

from app.database.notices import lock
from app.database.statements import compiled


def _for_each(function: Any) -> str:
    users = func.unnest(bindparam("users", type_=ARRAY(Uuid))).table_valued(column("id", Uuid), name="followed")
    users = users.render_derived()
    return compiled(select(function(*lock(users.c.id))).select_from(users)).text


WATCH = _for_each(func.pg_advisory_lock_shared)
UNWATCH = _for_each(func.pg_advisory_unlock_shared)
