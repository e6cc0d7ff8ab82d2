"""Give versions to tasks that other SQL clients write, and notify subscribers."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The version 0 lets the trigger set the version. The server's own writes set it themselves.
    op.execute("ALTER TABLE tasks ALTER version SET DEFAULT 0, ALTER position SET DEFAULT ''")
    op.execute("""
        CREATE FUNCTION stamp_task() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.task_clocks AS clock (user_id, version) VALUES (NEW.user_id, 1)
            ON CONFLICT (user_id) DO UPDATE SET version = clock.version + 1
            RETURNING version INTO NEW.version;
            IF NEW.position = '' THEN
                NEW.position := 'a' || lpad(to_hex(NEW.version), 8, '0') || 'V';
            END IF;
            IF TG_OP = 'UPDATE' AND NEW.updated_at = OLD.updated_at THEN
                NEW.updated_at := statement_timestamp();
            END IF;
            PERFORM pg_notify('taskql', NEW.user_id || ' ' || NEW.version);
            IF TG_OP = 'UPDATE' AND (NEW.user_id, NEW.id) <> (OLD.user_id, OLD.id) THEN
                UPDATE public.task_clocks SET version = version + 1, purged_through = version + 1
                WHERE user_id = OLD.user_id RETURNING version INTO OLD.version;
                PERFORM pg_notify('taskql', OLD.user_id || ' ' || OLD.version);
            END IF;
            RETURN NEW;
        END
        $$
    """)
    op.execute("""
        CREATE TRIGGER stamp_inserted_task BEFORE INSERT ON tasks
        FOR EACH ROW WHEN (NEW.version = 0) EXECUTE FUNCTION stamp_task()
    """)
    op.execute("""
        CREATE TRIGGER stamp_updated_task BEFORE UPDATE ON tasks
        FOR EACH ROW WHEN (NEW.version = OLD.version) EXECUTE FUNCTION stamp_task()
    """)
    # The removal cannot be delivered to clients, so older tokens become invalid. Users are deleted with their clocks.
    # The role that deletes them may have no privileges on clocks, and before PostgreSQL 18 it is the trigger's role.
    op.execute("""
        CREATE FUNCTION forget_tasks() RETURNS trigger LANGUAGE plpgsql AS $$
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
                )
            FROM (
                SELECT user_id, max(version) AS through, bool_or(deleted_at IS NULL) AS live FROM gone GROUP BY user_id
            ) AS gone
            WHERE clock.user_id = gone.user_id;
            PERFORM pg_notify('taskql', clock.user_id || ' ' || clock.version) FROM public.task_clocks AS clock
            WHERE user_id IN (SELECT user_id FROM gone WHERE deleted_at IS NULL);
            RETURN NULL;
        END
        $$
    """)
    op.execute("""
        CREATE TRIGGER forget_deleted_tasks AFTER DELETE ON tasks
        REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION forget_tasks()
    """)


def downgrade() -> None:
    op.execute("DROP TRIGGER forget_deleted_tasks ON tasks")
    op.execute("DROP TRIGGER stamp_updated_task ON tasks")
    op.execute("DROP TRIGGER stamp_inserted_task ON tasks")
    op.execute("DROP FUNCTION forget_tasks()")
    op.execute("DROP FUNCTION stamp_task()")
    op.execute("ALTER TABLE tasks ALTER version DROP DEFAULT, ALTER position DROP DEFAULT")
