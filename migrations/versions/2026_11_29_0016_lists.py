"""Add lists of tasks, with row-level security, triggers and a counter as for tasks."""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

MINE = "user_id = nullif(current_setting('app.user_id', true), '')::uuid"
CONTROL = r"\u0001-\u001f\u007f-\u009f\u2028\u2029"
NEW = (
    "stamp_list()",
    "clear_list()",
    "forget_lists()",
    "begin_distributed_write(uuid, integer, integer)",
)
# The triggers must work for roles without privileges on the tables. They find rows by an index, also in a plan that was
# cached while the tables were empty.
DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
ATTRIBUTES = {
    **dict.fromkeys(("stamp_task()", "stamp_list()", "clear_list()"), f"{DEFINER} SET enable_seqscan = off"),
    "forget_lists()": DEFINER,
}

# The clock's lock is held when the list is looked up, so the list cannot be moved to the trash meanwhile.
STAMP_TASK = """
    CREATE OR REPLACE FUNCTION stamp_task() RETURNS trigger LANGUAGE plpgsql AS $$
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
        IF (NEW.user_id, NEW.id) IS DISTINCT FROM (OLD.user_id, OLD.id) AND EXISTS (
            SELECT FROM public.task_lists AS list WHERE list.user_id = NEW.user_id AND list.id = NEW.id
        ) THEN
            RAISE unique_violation USING MESSAGE = 'a list of the user has the id ' || NEW.id;
        END IF;
        IF NEW.deleted_at IS NULL THEN
            NEW.trashed_with_list := false;
            IF NEW.list_id IS NOT NULL AND EXISTS (
                SELECT FROM public.task_lists AS list
                WHERE list.user_id = NEW.user_id AND list.id = NEW.list_id AND list.deleted_at IS NOT NULL
            ) THEN
                IF OLD.deleted_at IS NULL OR NEW.list_id <> OLD.list_id THEN
                    RAISE check_violation USING MESSAGE = 'the list ' || NEW.list_id || ' is in the trash';
                END IF;
                NEW.list_id := NULL;
            END IF;
        END IF;
        IF NEW.position = '' THEN
            NEW.position := 'a' || lpad(to_hex(NEW.version), 8, '0') || 'V';
        END IF;
        IF TG_OP = 'UPDATE' AND NEW.updated_at = OLD.updated_at THEN
            NEW.updated_at := statement_timestamp();
        END IF;
        PERFORM public.tell(NEW.user_id, NEW.version);
        IF TG_OP = 'UPDATE' AND (NEW.user_id, NEW.id) <> (OLD.user_id, OLD.id) THEN
            PERFORM set_config('app.user_id', OLD.user_id::text, true);
            UPDATE public.task_clocks SET
                version = version + 1,
                purged_through = version + 1,
                tasks = greatest(tasks - (NEW.user_id <> OLD.user_id)::integer, 0)
            WHERE user_id = OLD.user_id RETURNING version INTO OLD.version;
            PERFORM public.tell(OLD.user_id, OLD.version);
        END IF;
        PERFORM set_config('app.user_id', caller, true);
        RETURN NEW;
    END
    $$
"""
# The tasks of a list go to the trash with it, and come back with it.
STAMP_LIST = """
    CREATE FUNCTION stamp_list() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        caller CONSTANT text := current_setting('app.user_id', true);
        known uuid;
    BEGIN
        PERFORM set_config('app.user_id', NEW.user_id::text, true);
        INSERT INTO public.task_clocks AS clock (user_id, version, lists) VALUES (NEW.user_id, 1, 1)
        ON CONFLICT (user_id) DO UPDATE SET
            version = clock.version + 1,
            lists = clock.lists + (NEW.user_id IS DISTINCT FROM OLD.user_id)::integer
        RETURNING version INTO NEW.version;
        IF TG_OP = 'INSERT' THEN
            SELECT list.id INTO known FROM public.task_lists AS list
            WHERE list.user_id = NEW.user_id AND list.id >= NEW.id ORDER BY list.id LIMIT 1;
            IF known = NEW.id THEN
                UPDATE public.task_clocks SET lists = lists - 1 WHERE user_id = NEW.user_id;
            END IF;
        END IF;
        IF (NEW.user_id, NEW.id) IS DISTINCT FROM (OLD.user_id, OLD.id) AND EXISTS (
            SELECT FROM public.tasks AS task WHERE task.user_id = NEW.user_id AND task.id = NEW.id
        ) THEN
            RAISE unique_violation USING MESSAGE = 'a task of the user has the id ' || NEW.id;
        END IF;
        IF NEW.position = '' THEN
            NEW.position := 'a' || lpad(to_hex(NEW.version), 8, '0') || 'V';
        END IF;
        IF TG_OP = 'UPDATE' AND NEW.updated_at = OLD.updated_at THEN
            NEW.updated_at := statement_timestamp();
        END IF;
        IF TG_OP = 'UPDATE' AND NEW.deleted_at IS NOT NULL AND OLD.deleted_at IS NULL THEN
            UPDATE public.tasks SET
                deleted_at = NEW.deleted_at,
                trashed_with_list = true,
                version = NEW.version,
                updated_at = NEW.updated_at
            WHERE user_id = OLD.user_id AND list_id = OLD.id AND deleted_at IS NULL;
        ELSIF TG_OP = 'UPDATE' AND NEW.deleted_at IS NULL AND OLD.deleted_at IS NOT NULL THEN
            UPDATE public.tasks SET
                deleted_at = NULL,
                trashed_with_list = false,
                version = NEW.version,
                updated_at = NEW.updated_at
            WHERE user_id = OLD.user_id AND list_id = OLD.id AND deleted_at IS NOT NULL AND trashed_with_list;
        END IF;
        PERFORM public.tell(NEW.user_id, NEW.version);
        IF TG_OP = 'UPDATE' AND (NEW.user_id, NEW.id) <> (OLD.user_id, OLD.id) THEN
            PERFORM set_config('app.user_id', OLD.user_id::text, true);
            UPDATE public.task_clocks SET
                version = version + 1,
                purged_through = version + 1,
                lists = greatest(lists - (NEW.user_id <> OLD.user_id)::integer, 0)
            WHERE user_id = OLD.user_id RETURNING version INTO OLD.version;
            PERFORM public.tell(OLD.user_id, OLD.version);
        END IF;
        PERFORM set_config('app.user_id', caller, true);
        RETURN NEW;
    END
    $$
"""
# Tasks stay when their list is deleted permanently. ON DELETE SET NULL (list_id) would do the same, but Citus lacks it
# for keys with the user. All tasks get one version. A user who is being deleted may have no clock any more; then any
# version that differs keeps the trigger of tasks from creating one.
CLEAR_LIST = """
    CREATE FUNCTION clear_list() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        caller CONSTANT text := current_setting('app.user_id', true);
        moved_to integer;
    BEGIN
        PERFORM set_config('app.user_id', OLD.user_id::text, true);
        IF EXISTS (SELECT FROM public.tasks WHERE user_id = OLD.user_id AND list_id = OLD.id) THEN
            UPDATE public.task_clocks SET version = version + 1 WHERE user_id = OLD.user_id
            RETURNING version INTO moved_to;
            UPDATE public.tasks SET
                list_id = NULL,
                trashed_with_list = false,
                version = coalesce(moved_to, version + 1),
                updated_at = statement_timestamp()
            WHERE user_id = OLD.user_id AND list_id = OLD.id;
            IF moved_to IS NOT NULL THEN
                PERFORM public.tell(OLD.user_id, moved_to);
            END IF;
        END IF;
        PERFORM set_config('app.user_id', caller, true);
        RETURN OLD;
    END
    $$
"""
FORGET_LISTS = """
    CREATE FUNCTION forget_lists() RETURNS trigger LANGUAGE plpgsql AS $$
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
                lists = greatest(clock.lists - removed.number, 0)
            WHERE clock.user_id = removed.user_id
            RETURNING clock.version INTO moved_to;
            IF FOUND AND removed.live THEN
                PERFORM public.tell(removed.user_id, moved_to);
            END IF;
        END LOOP;
        PERFORM set_config('app.user_id', caller, true);
        RETURN NULL;
    END
    $$
"""
TRIGGERS = (
    """
    CREATE TRIGGER stamp_inserted_list BEFORE INSERT ON task_lists
    FOR EACH ROW WHEN (NEW.version = 0) EXECUTE FUNCTION stamp_list()
    """,
    """
    CREATE TRIGGER stamp_updated_list BEFORE UPDATE ON task_lists
    FOR EACH ROW WHEN (NEW.version = OLD.version) EXECUTE FUNCTION stamp_list()
    """,
    """
    CREATE TRIGGER clear_deleted_list BEFORE DELETE ON task_lists
    FOR EACH ROW EXECUTE FUNCTION clear_list()
    """,
    """
    CREATE TRIGGER forget_deleted_lists AFTER DELETE ON task_lists
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION forget_lists()
    """,
)
# Beside the function with two arguments, which servers of the previous version call.
BEGIN = """
    CREATE FUNCTION begin_distributed_write(actor uuid, more_tasks integer, more_lists integer) RETURNS void
    LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        PERFORM public.act_in_transaction(actor);
        INSERT INTO public.task_clocks AS clock (user_id, version, tasks, lists)
        VALUES (actor, 1, more_tasks, more_lists)
        ON CONFLICT (user_id) DO UPDATE SET
            version = clock.version OPERATOR(pg_catalog.+) 1,
            tasks = clock.tasks OPERATOR(pg_catalog.+) more_tasks,
            lists = clock.lists OPERATOR(pg_catalog.+) more_lists;
    END
    $$
"""


def upgrade() -> None:
    op.add_column("task_clocks", sa.Column("lists", sa.Integer(), server_default=sa.text("0"), nullable=False))
    _lists()
    _tasks()
    for statement in (STAMP_TASK, STAMP_LIST, CLEAR_LIST, FORGET_LISTS, *TRIGGERS, BEGIN):
        op.execute(statement)
    for function, attributes in ATTRIBUTES.items():
        op.execute(f"ALTER FUNCTION {function} {attributes}")
    op.execute("""
        COMMENT ON FUNCTION begin_distributed_write(uuid, integer, integer) IS
        'Sets the user of this transaction on a cluster, and moves the user''s clock and counters on.'
    """)
    for function in NEW:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)


def _lists() -> None:
    op.create_table(
        "task_lists",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("icon", sa.String(32)),
        sa.Column("position", sa.Text(collation="C"), server_default=sa.text("''"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _time("created_at"),
        _time("updated_at"),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("user_id", "id", name="pk_task_lists"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_task_lists_user_id_users", ondelete="CASCADE"),
        sa.CheckConstraint(r"name ~ '\S'", name=op.f("ck_task_lists_name_not_blank")),
        sa.CheckConstraint(f"name !~ '[{CONTROL}]'", name=op.f("ck_task_lists_name_one_line")),
        sa.CheckConstraint(r"icon ~ '\S'", name=op.f("ck_task_lists_icon_not_blank")),
        sa.CheckConstraint(f"icon !~ '[{CONTROL}]'", name=op.f("ck_task_lists_icon_one_line")),
    )
    op.create_index("ix_task_lists_position", "task_lists", ["user_id", "position", "id"])
    op.create_index("ix_task_lists_version", "task_lists", ["user_id", "version", "id"])
    op.execute("ALTER TABLE task_lists ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE task_lists FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY task_lists_of_user ON task_lists USING ({MINE}) WITH CHECK ({MINE})")
    # A distributed table can refer only to another one.
    op.execute("""
        DO $$
        BEGIN
            IF public.is_distributed() THEN
                PERFORM create_distributed_table('task_lists', 'user_id', colocate_with => 'tasks');
            END IF;
        END
        $$
    """)


def _tasks() -> None:
    op.add_column("tasks", sa.Column("list_id", sa.Uuid()))
    op.add_column(
        "tasks", sa.Column("trashed_with_list", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.create_foreign_key(
        "fk_tasks_user_id_list_id_task_lists",
        "tasks",
        "task_lists",
        ["user_id", "list_id"],
        ["user_id", "id"],
        postgresql_not_valid=True,
    )
    _index_of_counts("user_id, list_id, completed, due_date")


def _index_of_counts(columns: str) -> None:
    # In the transaction of the migration: writes of tasks wait while it is built, reads do not.
    op.execute("""
        -- squawk-ignore require-concurrent-index-deletion
        DROP INDEX ix_tasks_counts
    """)
    op.execute(f"""
        -- squawk-ignore require-concurrent-index-creation
        CREATE INDEX ix_tasks_counts ON tasks ({columns}) WHERE deleted_at IS NULL
    """)


def downgrade() -> None:
    clusters = import_module("migrations.versions.2026_11_28_0014_clusters")
    op.execute(clusters.STAMP.format(**clusters.TOLD))
    _index_of_counts("user_id, completed, due_date")
    op.drop_constraint("fk_tasks_user_id_list_id_task_lists", "tasks")
    op.drop_column("tasks", "trashed_with_list")
    op.drop_column("tasks", "list_id")
    op.drop_table("task_lists")
    for function in NEW:
        op.execute(f"DROP FUNCTION {function}")
    op.drop_column("task_clocks", "lists")
