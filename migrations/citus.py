"""Tables of user data spread over the machines of a Citus cluster, each user's together on one of them.

Statements name the user of every table they touch, so that Citus sends each whole to that user's machine.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, text

from app.database.checks import FORCED
from app.errors import StartupError

# What statements, policies and triggers call where the data are.
FUNCTIONS = (
    "act_as(uuid)",
    "begin_write(uuid)",
    "position_between(text, text)",
    "search_key(text)",
    "keep_task_tags()",
    "stamp_task()",
    "forget_tasks()",
    "is_distributed()",
    "tell(uuid, integer)",
)
# Of sessions that migrate; without Citus they mean nothing. Statements about several distributed tables fit into one
# transaction only where each goes to one shard after the other. The triggers touch the rows of their own row's user
# alone: what Citus calls unsafe is reaching other machines.
SETTINGS = {"citus.multi_shard_modify_mode": "sequential", "citus.enable_unsafe_triggers": "on"}

_HAS_CITUS = text("SELECT 1 FROM pg_extension WHERE extname = 'citus'")
_KNOWN = text("SELECT 1 FROM pg_dist_partition WHERE logicalrelid = to_regclass(:table)")
_TRIGGERS = text("""
    SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = to_regclass(:table) AND NOT tgisinternal
""")


def is_distributed(connection: Connection) -> bool:
    """Whether the database's tables are distributed already."""
    return _has_citus(connection) and _known(connection, "users")


def distribute(connection: Connection) -> None:
    """Distribute what is not yet: the tables by user, `users` to every machine, and the functions.

    StartupError where the database has no Citus. Everything happens in the caller's transaction.
    """
    if not _has_citus(connection):
        raise StartupError("The database has no Citus: as a superuser, CREATE EXTENSION citus; and add its workers.")
    tables = [table for table in FORCED if not _known(connection, table)]
    for statement in _statements(connection, tables):
        connection.exec_driver_sql(statement)


def _has_citus(connection: Connection) -> bool:
    return connection.execute(_HAS_CITUS).first() is not None


def _known(connection: Connection, table: str) -> bool:
    return connection.execute(_KNOWN, {"table": table}).first() is not None


def _statements(connection: Connection, tables: Sequence[str]) -> Iterator[str]:
    """What distributes the tables. Their triggers rest meanwhile: the entries they keep are copied as they are."""
    triggers = [found for table in tables for found in _triggers(connection, table)]
    yield from (f"DROP TRIGGER {name} ON {table}" for table, name, _ in triggers)
    # Forced row security holds an owner, too, who would copy no row.
    yield from (f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY" for table in tables)
    yield from (f"SELECT create_distributed_function('{function}')" for function in FUNCTIONS)
    if not _known(connection, "users"):
        # A table on every machine has no trigger: there, clocks of new users begin at the beginning.
        yield "DROP TRIGGER IF EXISTS begin_clock_of_user ON users"
        yield "SELECT create_reference_table('users')"
    for table in tables:
        beside = "none" if table == FORCED[0] else FORCED[0]
        yield f"SELECT create_distributed_table('{table}', 'user_id', colocate_with => '{beside}')"
    yield from (f"SELECT truncate_local_data_after_distributing_table('{table}')" for table in tables)
    yield from (f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY" for table in tables)
    yield from (definition for _, _, definition in triggers)


def _triggers(connection: Connection, table: str) -> list[tuple[str, str, str]]:
    """The table, name and definition of each trigger of a table."""
    return [(table, name, definition) for name, definition in connection.execute(_TRIGGERS, {"table": table})]
