"""Add a counter of tasks to the clock's row, so that the quota can be checked without counting."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

STAMP = """
    CREATE OR REPLACE FUNCTION stamp_task() RETURNS trigger LANGUAGE plpgsql{settings} AS $${variables}
    BEGIN
        {clock}
        IF NEW.position = '' THEN
            NEW.position := 'a' || lpad(to_hex(NEW.version), 8, '0') || 'V';
        END IF;
        IF TG_OP = 'UPDATE' AND NEW.updated_at = OLD.updated_at THEN
            NEW.updated_at := statement_timestamp();
        END IF;
        PERFORM pg_notify('taskql', NEW.user_id || ' ' || NEW.version);
        IF TG_OP = 'UPDATE' AND (NEW.user_id, NEW.id) <> (OLD.user_id, OLD.id) THEN
            UPDATE public.task_clocks SET version = version + 1, purged_through = version + 1{given_away}
            WHERE user_id = OLD.user_id RETURNING version INTO OLD.version;
            PERFORM pg_notify('taskql', OLD.user_id || ' ' || OLD.version);
        END IF;
        RETURN NEW;
    END
    $$
"""
# An insert of an existing id adds no row: it fails, or ON CONFLICT applies. The clock's lock is held while the id is
# looked up, so there are no concurrent inserts for the user. The lookup selects the next id in order, so that only the
# primary key can serve it: a session may have cached its plan while the table was empty, when a scan of the table, or
# of all of the user's entries in another index, seemed as cheap.
BY_INDEX = " SET enable_seqscan = off"
KNOWN = """
    DECLARE
        known uuid;
"""
CLOCK_COUNTS = """
        INSERT INTO public.task_clocks AS clock (user_id, version, tasks) VALUES (NEW.user_id, 1, 1)
        ON CONFLICT (user_id) DO UPDATE SET
            version = clock.version + 1,
            tasks = clock.tasks + (NEW.user_id IS DISTINCT FROM OLD.user_id)::integer
        RETURNING version INTO NEW.version;
        IF TG_OP = 'INSERT' THEN
            SELECT task.id INTO known FROM public.tasks AS task
            WHERE task.user_id = NEW.user_id AND task.id >= NEW.id ORDER BY task.id LIMIT 1;
            IF known = NEW.id THEN
                UPDATE public.task_clocks SET tasks = tasks - 1 WHERE user_id = NEW.user_id;
            END IF;
        END IF;
"""
GIVEN_AWAY = ", tasks = greatest(tasks - (NEW.user_id <> OLD.user_id)::integer, 0)"
CLOCK_BEFORE = """
        INSERT INTO public.task_clocks AS clock (user_id, version) VALUES (NEW.user_id, 1)
        ON CONFLICT (user_id) DO UPDATE SET version = clock.version + 1
        RETURNING version INTO NEW.version;
"""
FORGET = """
    CREATE OR REPLACE FUNCTION forget_tasks() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_catalog.has_column_privilege('public.users', 'id', 'SELECT') THEN
            IF NOT EXISTS (SELECT FROM gone JOIN public.users ON users.id = gone.user_id) THEN
                RETURN NULL;
            END IF;
        END IF;
        UPDATE public.task_clocks AS clock SET
            version = clock.version + gone.live::integer,
            purged_through = greatest(
                clock.purged_through, gone.through, (clock.version + 1) * gone.live::integer
            ){removed}
        FROM (
            SELECT user_id, max(version) AS through, bool_or(deleted_at IS NULL) AS live{number}
            FROM gone GROUP BY user_id
        ) AS gone
        WHERE clock.user_id = gone.user_id;
        PERFORM pg_notify('taskql', clock.user_id || ' ' || clock.version) FROM public.task_clocks AS clock
        WHERE user_id IN (SELECT user_id FROM gone WHERE deleted_at IS NULL);
        RETURN NULL;
    END
    $$
"""
NUMBER = ", count(*) AS number"
# Never below 0, in case tasks were not counted when they were inserted.
REMOVED = ",\n            tasks = greatest(clock.tasks - gone.number, 0)"


def make_functions() -> None:
    """Replace both functions. Also called by the downgrade of the next revision."""
    op.execute(STAMP.format(settings=BY_INDEX, variables=KNOWN, clock=CLOCK_COUNTS, given_away=GIVEN_AWAY))
    op.execute(FORGET.format(number=NUMBER, removed=REMOVED))


def upgrade() -> None:
    # Statements of servers may lock the two tables in the opposite order. PostgreSQL resolves a deadlock after a second
    # by aborting either one. With this shorter timeout it is the migration, and `taskql migrate` retries it.
    op.execute("SET LOCAL lock_timeout = '500ms'")
    # Forced row-level security would hide all tasks from the owner. The tables are locked while it is not forced.
    for table in ("task_clocks", "tasks"):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.add_column("task_clocks", sa.Column("tasks", sa.Integer(), server_default=sa.text("0"), nullable=False))
    make_functions()
    op.execute("""
        UPDATE task_clocks AS clock SET tasks = counted.number
        FROM (SELECT user_id, count(*) AS number FROM tasks GROUP BY user_id) AS counted
        WHERE clock.user_id = counted.user_id
    """)
    for table in ("task_clocks", "tasks"):
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.execute(FORGET.format(number="", removed=""))
    op.execute(STAMP.format(settings="", variables="", clock=CLOCK_BEFORE, given_away=""))
    op.drop_column("task_clocks", "tasks")
