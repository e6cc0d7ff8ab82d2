"""The fingerprint of a database, to detect that it was restored or replaced since it was last checked.

A restored dump has another database oid. A recovered base backup and a promoted standby have another timeline.
"""

from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Integer, Text, and_, cast, column, func, literal, select, table, update
from sqlalchemy.orm import Session

from app.models import State

_databases = table("pg_database", column("oid"), column("datname", Text))
_CONTROL = ("pg_control_system()", "pg_control_checkpoint()")


class Identity(NamedTuple):
    """The cluster, its timeline, and the database in it. None for what the role may not read."""

    system_identifier: str | None
    timeline: int | None
    database_oid: int


def current(session: Session) -> Identity:
    """The identity of the session's database."""
    oid = select(cast(cast(_databases.c.oid, Text), BigInteger)).where(_databases.c.datname == func.current_database())
    database_oid: int = session.execute(oid).scalar_one()
    allowed = [func.has_function_privilege(name, literal("EXECUTE", Text)) for name in _CONTROL]
    if not session.execute(select(and_(*allowed))).scalar_one():  # some hosting providers do not allow it
        return Identity(None, None, database_oid)
    system = func.pg_control_system().table_valued(column("system_identifier"))
    checkpoint = func.pg_control_checkpoint().table_valued(column("timeline_id", Integer))
    return Identity(
        session.execute(select(cast(system.c.system_identifier, Text))).scalar_one(),
        session.execute(select(checkpoint.c.timeline_id)).scalar_one(),
        database_oid,
    )


def seen(session: Session) -> Identity | None:
    """The identity that was stored last; None if there is none."""
    state = session.get(State, 1, populate_existing=True)
    if state is None or state.database_oid is None:
        return None
    return Identity(state.system_identifier, state.timeline, state.database_oid)


def remember(session: Session) -> None:
    """Store the current identity."""
    values: dict[str, Any] = current(session)._asdict()
    session.execute(update(State).values(values))


def differs(session: Session) -> bool:
    """Whether the current identity differs from the stored one, in the parts that are known of both."""
    before = seen(session)
    if before is None:
        return False
    pairs = zip(before, current(session), strict=True)
    return any(then != now for then, now in pairs if then is not None and now is not None)
