"""Support Citus clusters: begin writes on the coordinator, and send no notifications from triggers on workers."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

NEW = (
    "is_distributed()",
    "tell(uuid, integer)",
    "act_in_transaction(uuid)",
    "begin_distributed_write(uuid, integer)",
)

STAMP = """
    CREATE OR REPLACE FUNCTION stamp_task() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    DECLARE
        caller CONSTANT text := current_setting('app.user_id', true);
        known uuid;
    BEGIN
        PERFORM set_config('app.user_id', NEW.user_id::text, true);
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
        IF NEW.position = '' THEN
            NEW.position := 'a' || lpad(to_hex(NEW.version), 8, '0') || 'V';
        END IF;
        IF TG_OP = 'UPDATE' AND NEW.updated_at = OLD.updated_at THEN
            NEW.updated_at := statement_timestamp();
        END IF;
        PERFORM {tell_new};
        IF TG_OP = 'UPDATE' AND (NEW.user_id, NEW.id) <> (OLD.user_id, OLD.id) THEN
            PERFORM set_config('app.user_id', OLD.user_id::text, true);
            UPDATE public.task_clocks SET
                version = version + 1,
                purged_through = version + 1,
                tasks = greatest(tasks - (NEW.user_id <> OLD.user_id)::integer, 0)
            WHERE user_id = OLD.user_id RETURNING version INTO OLD.version;
            PERFORM {tell_old};
        END IF;
        PERFORM set_config('app.user_id', caller, true);
        RETURN NEW;
    END
    $$
"""
FORGET = """
    CREATE OR REPLACE FUNCTION forget_tasks() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        caller CONSTANT text := current_setting('app.user_id', true);
        removed record;
        moved_to integer;
    BEGIN
        FOR removed IN
            SELECT user_id, max(version) AS through, bool_or(deleted_at IS NULL) AS live, count(*) AS number
            FROM gone GROUP BY user_id ORDER BY user_id
        LOOP
            PERFORM set_config('app.user_id', removed.user_id::text, true);
            UPDATE public.task_clocks AS clock SET
                version = clock.version + removed.live::integer,
                purged_through = greatest(
                    clock.purged_through, removed.through, (clock.version + 1) * removed.live::integer
                ),
                tasks = greatest(clock.tasks - removed.number, 0)
            WHERE clock.user_id = removed.user_id
            RETURNING clock.version INTO moved_to;
            IF FOUND AND removed.live THEN
                PERFORM {tell_removed};
            END IF;
        END LOOP;
        PERFORM set_config('app.user_id', caller, true);
        RETURN NULL;
    END
    $$
"""
TOLD = {
    "tell_new": "public.tell(NEW.user_id, NEW.version)",
    "tell_old": "public.tell(OLD.user_id, OLD.version)",
    "tell_removed": "public.tell(removed.user_id, moved_to)",
}
NOTIFIED = {
    "tell_new": "pg_notify('taskql', NEW.user_id || ' ' || NEW.version)",
    "tell_old": "pg_notify('taskql', OLD.user_id || ' ' || OLD.version)",
    "tell_removed": "pg_notify('taskql', removed.user_id || ' ' || moved_to)",
}


def upgrade() -> None:
    _is_distributed()
    _tell()
    _act_in_transaction()
    _begin_distributed_write()
    for function in NEW:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    for function in (STAMP, FORGET):
        op.execute(function.format(**TOLD))


def _is_distributed() -> None:
    # PL/pgSQL plans the second part only when it is executed: without Citus the table does not exist.
    op.execute("""
        CREATE FUNCTION is_distributed() RETURNS boolean LANGUAGE plpgsql STABLE AS $$
        BEGIN
            IF pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NULL THEN
                RETURN false;
            END IF;
            RETURN EXISTS (
                SELECT FROM pg_catalog.pg_dist_partition
                WHERE logicalrelid OPERATOR(pg_catalog.=) 'public.tasks'::pg_catalog.regclass
            );
        END
        $$
    """)
    op.execute("COMMENT ON FUNCTION is_distributed() IS 'Whether Citus distributes the tasks over several servers.'")


def _tell() -> None:
    # On workers there are no listeners, and a transaction with a notification cannot be prepared there.
    op.execute("""
        CREATE FUNCTION tell(follower uuid, version integer) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
            IF NOT public.is_distributed() THEN
                PERFORM pg_catalog.pg_notify('taskql', pg_catalog.concat_ws(' ', follower, version));
            END IF;
        END
        $$
    """)
    op.execute("""
        COMMENT ON FUNCTION tell(uuid, integer) IS 'Notifies the servers of a write, but not on a cluster''s workers.'
    """)


def _act_in_transaction() -> None:
    # Citus propagates SET LOCAL to the worker that executes a statement, but not settings made by functions. It
    # propagates the text of the whole message: with EXECUTE, that is only this SET LOCAL.
    op.execute("""
        CREATE FUNCTION act_in_transaction(actor uuid) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
            PERFORM pg_catalog.set_config('citus.propagate_set_commands', 'local', true);
            EXECUTE pg_catalog.format('SET LOCAL app.user_id = %L', actor);
        END
        $$
    """)
    op.execute("""
        COMMENT ON FUNCTION act_in_transaction(uuid) IS
        'Sets the user of this transaction, also on the workers of a cluster that its statements reach.'
    """)


def _begin_distributed_write() -> None:
    op.execute("""
        CREATE FUNCTION begin_distributed_write(actor uuid, more integer) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
            PERFORM public.act_in_transaction(actor);
            INSERT INTO public.task_clocks AS clock (user_id, version, tasks) VALUES (actor, 1, more)
            ON CONFLICT (user_id) DO UPDATE SET
                version = clock.version OPERATOR(pg_catalog.+) 1, tasks = clock.tasks OPERATOR(pg_catalog.+) more;
        END
        $$
    """)
    op.execute("""
        COMMENT ON FUNCTION begin_distributed_write(uuid, integer) IS
        'Sets the user of this transaction on a cluster, and moves the user''s clock and counter of tasks on.'
    """)


def downgrade() -> None:
    for function in (STAMP, FORGET):
        op.execute(function.format(**NOTIFIED))
    for function in reversed(NEW):
        op.execute(f"DROP FUNCTION {function}")
