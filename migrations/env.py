"""Alembic's environment. Includes only TaskQL's tables and columns: otherwise Alembic would drop Better Auth's."""

from collections.abc import Mapping
from typing import Any

from alembic import context
from sqlalchemy import Connection

from app.models import Base

OURS = Base.metadata.tables


def _include(name: str | None, kind: str, parents: Mapping[Any, str | None]) -> bool:
    """Include our tables. In `users`, to which others may add, include our columns, indexes and constraints."""
    if kind == "table":
        return name in OURS
    if parents.get("table_name") != "users":
        return True
    users = OURS["users"]
    named = {item.name for item in (*users.columns, *users.indexes, *users.constraints)}
    return name in named


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, include_name=_include)
    with context.begin_transaction():
        context.run_migrations()


_run(context.config.attributes["connection"])
