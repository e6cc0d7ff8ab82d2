"""Distributes the tables of user data over the machines of a Citus cluster, with each user's data on one machine.

Statements filter every table by user, so that Citus can route each statement to that user's machine.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, TextClause, text

from app.database.checks import FORCED
from app.database.functions import CHECK_TASK
from app.errors import StartupError

# The functions that statements, policies, constraints and triggers call on workers.
FUNCTIONS = (
    "act_as(uuid)",
    "begin_write(uuid)",
    "position_between(text, text)",
    "positions_between(text, text, integer)",
    "positions_around(text, text, integer, integer)",
    "search_key(text)",
    "title_key(text)",
    "tag_name(text)",
    "tag_key(text)",
    "tag_keys(text[])",
    "retagged(text[], text[], text[])",
    "name_task_tags()",
    "derive_task()",
    CHECK_TASK,
    "keep_task_tags()",
    "stamp_task()",
    "forget_tasks()",
    "stamp_list()",
    "clear_list()",
    "forget_lists()",
    "is_distributed()",
    "tell(uuid, integer)",
)
# Settings of sessions that migrate; without Citus they have no effect. Several distributed tables can be changed in one
# transaction only if shards are modified sequentially. Citus considers triggers unsafe because they may access other
# machines; these access only rows of the same user.
SETTINGS = {"citus.multi_shard_modify_mode": "sequential", "citus.enable_unsafe_triggers": "on"}

_HAS_CITUS = text("SELECT 1 FROM pg_extension WHERE extname = 'citus'")
_KNOWN = text("SELECT 1 FROM pg_dist_partition WHERE logicalrelid = to_regclass(:table)")
_REFERENCES = text("""
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = to_regclass(:table) AND contype = 'f' AND confrelid <> to_regclass('users')
""")
_TRIGGERS = text("""
    SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = to_regclass(:table) AND NOT tgisinternal
""")


def is_distributed(connection: Connection) -> bool:
    """Whether the database's tables are distributed already."""
    return _has_citus(connection) and _known(connection, "users")


def distribute(connection: Connection) -> None:
    """Distribute everything that is not distributed yet: tables by user, `users` to every machine, and functions.

    Runs in the caller's transaction. Raises StartupError if the database has no Citus.
    """
    if not _has_citus(connection):
        raise StartupError("Citus is not installed: as a superuser, run CREATE EXTENSION citus; and add the workers.")
    tables = [table for table in FORCED if not _known(connection, table)]
    for statement in _statements(connection, tables):
        connection.exec_driver_sql(statement)


def either(usual: Sequence[str], distributed: Sequence[str]) -> str:
    """SQL of a revision: the usual statements, or others if the tasks are distributed, for what Citus does not support.

    It can be written without a connection.
    """
    usually, otherwise = (" ".join(f"{statement};" for statement in part) for part in (usual, distributed))
    return f"DO $$ BEGIN IF public.is_distributed() THEN {otherwise} ELSE {usually} END IF; END $$"


def computed(column: str, expression: str) -> list[str]:
    """Statements that compute a column of all tasks, which stay as they are otherwise: no trigger fires.

    Forced row-level security would hide all tasks from the owner.
    """
    return [
        "ALTER TABLE tasks NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE tasks DISABLE TRIGGER USER",
        f"UPDATE tasks SET {column} = {expression}",  # noqa: S608 - constants of revisions
        "ALTER TABLE tasks ENABLE TRIGGER USER",
        "ALTER TABLE tasks FORCE ROW LEVEL SECURITY",
    ]


def _has_citus(connection: Connection) -> bool:
    return connection.execute(_HAS_CITUS).first() is not None


def _known(connection: Connection, table: str) -> bool:
    return connection.execute(_KNOWN, {"table": table}).first() is not None


def _statements(connection: Connection, tables: Sequence[str]) -> Iterator[str]:
    """The statements that distribute the tables.

    Triggers are dropped meanwhile: tags are copied, too. So are references: both tables must be distributed first.
    """
    triggers = [found for table in tables for found in _definitions(connection, _TRIGGERS, table)]
    references = [found for table in tables for found in _definitions(connection, _REFERENCES, table)]
    yield from (f"ALTER TABLE {table} DROP CONSTRAINT {name}" for table, name, _ in references)
    yield from (f"DROP TRIGGER {name} ON {table}" for table, name, _ in triggers)
    # Forced row-level security would hide all rows from the owner, who copies them.
    yield from (f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY" for table in tables)
    yield from (f"SELECT create_distributed_function('{function}')" for function in FUNCTIONS)
    if not _known(connection, "users"):
        # Reference tables cannot have triggers. On a cluster, the clocks of new users therefore start at 0.
        yield "DROP TRIGGER IF EXISTS begin_clock_of_user ON users"
        yield "SELECT create_reference_table('users')"
    for table in tables:
        beside = "none" if table == FORCED[0] else FORCED[0]
        yield f"SELECT create_distributed_table('{table}', 'user_id', colocate_with => '{beside}')"
    yield from (f"SELECT truncate_local_data_after_distributing_table('{table}')" for table in tables)
    yield from (f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}" for table, name, definition in references)
    yield from (f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY" for table in tables)
    yield from (definition for _, _, definition in triggers)


def _definitions(connection: Connection, query: TextClause, table: str) -> list[tuple[str, str, str]]:
    """The table, name and definition of each trigger or constraint that a query finds of a table."""
    return [(table, name, definition) for name, definition in connection.execute(query, {"table": table})]
