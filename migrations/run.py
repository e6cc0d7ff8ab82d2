"""Migrates a database to the latest revision, and creates the server's role."""

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

LOCK = 7_236_815_240  # an arbitrary key: the advisory lock that serializes migrations of one database
# How long a migration may wait for a table lock, as other statements queue behind it; and the pauses between retries,
# in seconds.
LOCK_TIMEOUT = "1s"
PAUSES = (1.0, 2.0, 4.0, 8.0)
HEAD = "head"
FOLDER = Path(__file__).parent  # of this package, in a clone as well as in an installed TaskQL
_SERVERS = text("""
    SELECT rolname FROM pg_proc CROSS JOIN LATERAL aclexplode(proacl) AS granted
    JOIN pg_roles ON pg_roles.oid = granted.grantee
    WHERE pg_proc.oid = 'public.act_as(uuid)'::regprocedure AND granted.grantee <> proowner
    AND has_table_privilege(granted.grantee, 'public.task_clocks', 'UPDATE') ORDER BY rolname
""")


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration for a connection. alembic.ini has the settings for writing new revisions."""
    result = Config()
    result.set_main_option("script_location", str(FOLDER).replace("%", "%%"))  # Config interpolates its values
    result.attributes["connection"] = connection
    return result


def missing(connection: Connection) -> list[str]:
    """The revisions that this database lacks, oldest first.

    Raises StartupError if its revision is unknown, or if its encoding is not UTF-8.
    """
    _require_utf8(connection)
    current = MigrationContext.configure(connection).get_current_heads()
    script = ScriptDirectory.from_config(config())
    try:
        found = [step.revision for step in script.iterate_revisions("heads", current or "base")]
    except ResolutionError:
        raise StartupError(
            f"The database is at revision {', '.join(current)}, which this version of TaskQL does not know: run the"
            " version that migrated it, or a newer one."
        ) from None
    return found[::-1]


def _require_utf8(connection: Connection) -> None:
    """Raise StartupError for another encoding, which lacks characters, and in which PostgreSQL cannot fold text."""
    encoding = connection.execute(text("SELECT current_setting('server_encoding')")).scalar_one()
    if encoding != "UTF8":
        raise StartupError(
            f"The database has the encoding {encoding}, and TaskQL needs UTF8, for text in all languages. Use another:"
            " CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0."
        )


async def migrate(
    owner: DatabaseURL, server: DatabaseURL | None, revision: str = HEAD, *, spread: bool = False
) -> list[str]:
    """Apply missing revisions, and create the server's role with its privileges. Returns the applied revisions.

    With `spread`, the tables are distributed over the machines of a Citus cluster. Tables of later revisions then are,
    too.
    """
    engine = create_async_engine(owner.sqlalchemy, connect_args=owner.connect_arguments({}), poolclass=NullPool)
    try:
        return await _between_others(
            engine, partial(_migrate, owner=owner, server=server, revision=revision, spread=spread)
        )
    finally:
        await engine.dispose()


async def _between_others(engine: AsyncEngine, work: Callable[[Connection], list[str]]) -> list[str]:
    """Retry while a long transaction holds a table: waiting for its lock would block all other statements."""
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
        "Nothing was migrated: a long transaction holds a lock on a table to be changed. Find it in pg_stat_activity by"
        " its xact_start, wait until it ends, and migrate again."
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
    """Store the database's fingerprint, unless there is one: if it differs, the database was restored."""
    with Session(connection) as session:
        if fingerprint.seen(session) is None:
            fingerprint.remember(session)
            session.commit()


def _close_functions(connection: Connection) -> None:
    """Revoke EXECUTE from PUBLIC, which has it again after a restore without privileges."""
    for name in ALL:
        if name not in FOR_EVERYBODY:
            connection.exec_driver_sql(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")


def _make(connection: Connection, role: str, password: str, settings: Mapping[str, str]) -> None:
    """Create the role if it is missing, without attributes that bypass row-level security, and set its defaults."""
    known = connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}).first()
    if known is None:
        _say(connection, "CREATE ROLE %I LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE PASSWORD %L", role, password)
    database = connection.execute(text("SELECT current_database()")).scalar_one()
    _say(connection, "GRANT CONNECT ON DATABASE %I TO %I", database, role)
    _say(connection, "GRANT EXECUTE ON FUNCTION act_as(uuid) TO %I", role)
    for name, value in settings.items():
        # A transaction pooler rejects session settings, so they are defaults of the role.
        _say(connection, "ALTER ROLE %I SET %I = %L", role, name, value)


def _servers(connection: Connection) -> Sequence[str]:
    """The roles that were created for servers before.

    EXECUTE on act_as() is not enough to recognize them: it may have been granted on all functions of the schema.
    """
    return connection.execute(_SERVERS).scalars().all()


def _grant(connection: Connection, role: str) -> None:
    """Grant what a server's role needs. It reads the caller's row of `users`; functions do everything else."""
    for statement in (
        "GRANT USAGE ON SCHEMA public TO %I",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(FORCED)} TO %I",
        "GRANT SELECT ON users, alembic_version, taskql_state TO %I",
        *(f"GRANT EXECUTE ON FUNCTION {name} TO %I" for name in FOR_THE_SERVER),
    ):
        _say(connection, statement, role)


def _say(connection: Connection, template: str, *names: str) -> None:
    """Run a statement with names quoted by the database server."""
    places = ", ".join(f":n{place}" for place in range(len(names)))
    values = {f"n{place}": name for place, name in enumerate(names)}
    quoting = text(f"SELECT format(:template, {places})").bindparams(bindparam("template", template), **values)
    quoted = connection.execute(quoting).scalar_one()
    connection.exec_driver_sql(quoted)
