"""Alembic's environment: connects as the owner, and sees only TaskQL's tables, or it would drop Better Auth's."""

from alembic import context
from sqlalchemy import Connection

from app.models import Base

OURS = set(Base.metadata.tables)


def _include(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "table" or name in OURS


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, include_name=_include)
    with context.begin_transaction():
        context.run_migrations()


_run(context.config.attributes["connection"])
