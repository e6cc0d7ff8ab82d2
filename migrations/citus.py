"""Tables of user data spread over the machines of a Citus cluster, each user's together on one of them.

Statements name the user of every table they touch, so that Citus sends each whole to that user's machine.
"""

from collections.abc import Iterator

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
)
# The triggers touch the rows of their own row's user alone: what Citus calls unsafe is reaching other machines.
SETTINGS = {
    "citus.propagate_set_commands": "local",
    "citus.multi_shard_modify_mode": "sequential",
    "citus.enable_unsafe_triggers": "on",
}
# As the role that serves: SET LOCAL of a write goes along to the machine where it is carried out.
ROLE_SETTINGS = {"citus.propagate_set_commands": "local"}

_TRIGGERS = text(
    "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'tasks'::regclass AND NOT tgisinternal"
)


def distribute(connection: Connection) -> bool:
    """Distribute the tables by user, with `users` on every machine; False where that was done before.

    StartupError where the database has no Citus. Everything happens in the caller's transaction.
    """
    if not connection.execute(text("SELECT 1 FROM pg_extension WHERE extname = 'citus'")).first():
        raise StartupError("The database has no Citus: as a superuser, CREATE EXTENSION citus; and add its workers.")
    if connection.execute(text("SELECT 1 FROM pg_dist_partition WHERE logicalrelid = 'tasks'::regclass")).first():
        return False
    triggers = connection.execute(_TRIGGERS).all()
    for statement in _statements([(name, definition) for name, definition in triggers]):
        connection.exec_driver_sql(statement)
    return True


def _statements(triggers: list[tuple[str, str]]) -> Iterator[str]:
    """What distributes the tables. The triggers rest meanwhile: the entries they keep are copied as they are."""
    yield from (f"SET LOCAL {name} = '{value}'" for name, value in SETTINGS.items())
    yield from (f"DROP TRIGGER {name} ON tasks" for name, _ in triggers)
    # Forced row security holds an owner, too, who would copy no row.
    yield from (f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY" for table in FORCED)
    yield from (f"SELECT create_distributed_function('{function}')" for function in FUNCTIONS)
    # A table on every machine has no trigger: there, clocks of new users begin at the beginning.
    yield "DROP TRIGGER begin_clock_of_user ON users"
    yield "SELECT create_reference_table('users')"
    yield "SELECT create_distributed_table('tasks', 'user_id', colocate_with => 'none')"
    for table in FORCED[1:]:
        yield f"SELECT create_distributed_table('{table}', 'user_id', colocate_with => 'tasks')"
    yield from (f"SELECT truncate_local_data_after_distributing_table('{table}')" for table in FORCED)
    yield from (f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY" for table in FORCED)
    yield from (definition for _, definition in triggers)
