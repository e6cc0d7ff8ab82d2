"""Bring a database to the newest revision, and make the role that the server uses."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from sqlalchemy import Connection, bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from app.database import fingerprint
from app.database.checks import FORCED
from app.database.database import SESSION
from app.database.failures import driver_error
from app.database.functions import ALL, FOR_EVERYBODY, FOR_THE_SERVER
from app.database.url import DatabaseURL
from app.errors import StartupError
from migrations import citus

LOCK = 7_236_815_240  # any number of ours: migrations of one database wait for one another
# How long a migration may wait for a table, with all others behind it; and before it tries again, in seconds.
LOCK_TIMEOUT = "1s"
PAUSES = (1.0, 2.0, 4.0, 8.0)
HEAD = "head"
INI = Path(__file__).parent.parent / "alembic.ini"
_SERVERS = text("""
    SELECT rolname FROM pg_proc CROSS JOIN LATERAL aclexplode(proacl) AS granted
    JOIN pg_roles ON pg_roles.oid = granted.grantee
    WHERE pg_proc.oid = 'public.act_as(uuid)'::regprocedure AND granted.grantee <> proowner
    AND has_table_privilege(granted.grantee, 'public.task_clocks', 'UPDATE') ORDER BY rolname
""")


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration for a connection."""
    result = Config(INI)
    result.attributes["connection"] = connection
    return result


def missing(connection: Connection) -> list[str]:
    """The revisions this database lacks, oldest first; StartupError where it has one that is not known here."""
    current = MigrationContext.configure(connection).get_current_heads()
    script = ScriptDirectory.from_config(config())
    try:
        found = [step.revision for step in script.iterate_revisions("heads", current or "base")]
    except ResolutionError:
        raise StartupError(
            f"The database is at revision {', '.join(current)}, of another TaskQL than this one: run that, or a newer."
        ) from None
    return found[::-1]


async def migrate(
    owner: DatabaseURL, server: DatabaseURL | None, revision: str = HEAD, *, spread: bool = False
) -> list[str]:
    """Apply what is missing and grant the server's role what it needs; the revisions that were applied.

    With `spread`, the tables are distributed over the machines of a Citus cluster, as later ones are from then on.
    """
    engine = create_async_engine(owner.sqlalchemy, connect_args=owner.connect_arguments({}), poolclass=NullPool)
    try:
        return await _between_others(
            engine, partial(_migrate, owner=owner, server=server, revision=revision, spread=spread)
        )
    finally:
        await engine.dispose()


async def _between_others(engine: AsyncEngine, work: Callable[[Connection], list[str]]) -> list[str]:
    """Do it when no long transaction is in the way: whoever waits for a table has everybody else wait behind."""
    for pause in (*PAUSES, None):
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(work)
        except DBAPIError as error:
            if not isinstance(driver_error(error), asyncpg.LockNotAvailableError):
                raise
        if pause is not None:
            await asyncio.sleep(pause)
    raise StartupError(
        "Nothing was migrated: a long transaction holds a table that is to change. Find it in pg_stat_activity by its"
        " xact_start, let it end, and migrate again."
    )


def _migrate(
    connection: Connection, *, owner: DatabaseURL, server: DatabaseURL | None, revision: str, spread: bool
) -> list[str]:
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
    try:
        applied = missing(connection)
        for name, value in {"lock_timeout": LOCK_TIMEOUT, **citus.SETTINGS}.items():
            connection.execute(text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value})
        connection.commit()
        command.upgrade(config(connection), revision)
        if not missing(connection):
            _note(connection)
        if spread or (revision == HEAD and citus.is_distributed(connection)):
            citus.distribute(connection)
        if revision == HEAD:
            _close_functions(connection)
        if server is not None and server.role and server.role != owner.role:
            _make(connection, server.role, server.password or "", SESSION)
            for role in {server.role, *_servers(connection)}:
                _grant(connection, role)
        connection.commit()
        return applied
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})


def _note(connection: Connection) -> None:
    """Note which database this is; not where another was seen, for then it was restored: see `taskql restored`."""
    with Session(connection) as session:
        if fingerprint.seen(session) is None:
            fingerprint.remember(session)
            session.commit()


def _close_functions(connection: Connection) -> None:
    """Leave no function to everybody that is not for everybody: a restore without privileges opens them all."""
    for name in ALL:
        if name not in FOR_EVERYBODY:
            connection.exec_driver_sql(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")


def _make(connection: Connection, role: str, password: str, settings: Mapping[str, str]) -> None:
    """Make the role if it is missing, without any right that would walk through row security."""
    known = connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}).first()
    if known is None:
        _say(connection, "CREATE ROLE %I LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE PASSWORD %L", role, password)
    database = connection.execute(text("SELECT current_database()")).scalar_one()
    _say(connection, "GRANT CONNECT ON DATABASE %I TO %I", database, role)
    _say(connection, "GRANT EXECUTE ON FUNCTION act_as(uuid) TO %I", role)
    for name, value in settings.items():
        # A transaction pooler takes no session settings, so the role brings them along.
        _say(connection, "ALTER ROLE %I SET %I = %L", role, name, value)


def _servers(connection: Connection) -> Sequence[str]:
    """The roles that this has made for servers before.

    The right to act as users alone does not tell: somebody may have granted EXECUTE on all functions of the schema.
    """
    return connection.execute(_SERVERS).scalars().all()


def _grant(connection: Connection, role: str) -> None:
    """What a server's role needs. It reads its caller's row of `users`, and has functions for the rest."""
    for statement in (
        "GRANT USAGE ON SCHEMA public TO %I",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(FORCED)} TO %I",
        "GRANT SELECT ON users, alembic_version, taskql_state TO %I",
        *(f"GRANT EXECUTE ON FUNCTION {name} TO %I" for name in FOR_THE_SERVER),
    ):
        _say(connection, statement, role)


def _say(connection: Connection, template: str, *names: str) -> None:
    """Run a statement whose names the server itself has quoted."""
    places = ", ".join(f":n{place}" for place in range(len(names)))
    values = {f"n{place}": name for place, name in enumerate(names)}
    quoting = text(f"SELECT format(:template, {places})").bindparams(bindparam("template", template), **values)
    quoted = connection.execute(quoting).scalar_one()
    connection.exec_driver_sql(quoted)
