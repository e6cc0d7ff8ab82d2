"""Leave a tombstone of each task and list that is deleted permanently, so that clients learn of it."""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

MINE = "user_id = nullif(current_setting('app.user_id', true), '')::uuid"
DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
BY_INDEX = f"{DEFINER} SET enable_seqscan = off"

# The user, the id, the kind, the version of the deletion, and that of the row in the trash.
BURY = """
    INSERT INTO public.tombstones (user_id, id, kind, version, trashed_version)
    VALUES ({user}, {row}, {kind}, {version}, {trashed})
    ON CONFLICT (user_id, id) DO UPDATE SET
        kind = excluded.kind,
        version = excluded.version,
        trashed_version = excluded.trashed_version,
        purged_at = excluded.purged_at;
"""
# All rows of a user in one statement get one version. A row that was not in the trash left the copies of clients only
# now: `least` then takes this version. A user who is being deleted gets no tombstones. They are inserted one by one,
# because a cluster does not insert what a trigger selects.
FORGET = """
    CREATE OR REPLACE FUNCTION forget_{many}() RETURNS trigger LANGUAGE plpgsql {attributes} AS $$
    DECLARE
        caller CONSTANT text := current_setting('app.user_id', true);
        removed record;
        moved_to integer;
    BEGIN
        FOR removed IN
            SELECT
                user_id,
                count(*)::integer AS number,
                array_agg(id ORDER BY id) AS ids,
                array_agg(CASE WHEN deleted_at IS NULL THEN 2147483647 ELSE version END ORDER BY id) AS versions
            FROM gone GROUP BY user_id ORDER BY user_id
        LOOP
            PERFORM set_config('app.user_id', removed.user_id::text, true);
            UPDATE public.task_clocks AS clock SET
                version = clock.version + 1,
                {many} = greatest(clock.{many} - removed.number, 0)
            WHERE clock.user_id = removed.user_id
            RETURNING clock.version INTO moved_to;
            IF FOUND AND EXISTS (SELECT FROM public.users AS account WHERE account.id = removed.user_id) THEN
                FOR place IN 1..removed.number LOOP
                    {bury}
                END LOOP;
                PERFORM public.tell(removed.user_id, moved_to);
            END IF;
        END LOOP;
        PERFORM set_config('app.user_id', caller, true);
        RETURN NULL;
    END
    $$
"""
# The tasks of a list get the version that forget_lists() gives to the list at the end of the statement.
CLEAR_LIST = """
    CREATE OR REPLACE FUNCTION clear_list() RETURNS trigger LANGUAGE plpgsql {attributes} AS $$
    DECLARE
        caller CONSTANT text := current_setting('app.user_id', true);
        moved_to integer;
    BEGIN
        PERFORM set_config('app.user_id', OLD.user_id::text, true);
        IF EXISTS (SELECT FROM public.tasks WHERE user_id = OLD.user_id AND list_id = OLD.id) THEN
            SELECT version + 1 INTO moved_to FROM public.task_clocks WHERE user_id = OLD.user_id FOR UPDATE;
            UPDATE public.tasks SET
                list_id = NULL,
                trashed_with_list = false,
                version = coalesce(moved_to, version + 1),
                updated_at = statement_timestamp()
            WHERE user_id = OLD.user_id AND list_id = OLD.id;
        END IF;
        PERFORM set_config('app.user_id', caller, true);
        RETURN OLD;
    END
    $$
"""
# What a row leaves behind that gets another user or id: until now, nothing, so that older tokens became invalid.
INVALIDATED = """
                purged_through = version + 1,"""
TOLD = """
            PERFORM public.tell(OLD.user_id, OLD.version);"""


def upgrade() -> None:
    _table()
    lists = import_module("migrations.versions.2026_11_29_0016_lists")
    for kind, many in enumerate(("lists", "tasks")):
        bury = BURY.format(
            user="removed.user_id",
            row="removed.ids[place]",
            kind=kind,
            version="moved_to",
            trashed="least(removed.versions[place], moved_to)",
        )
        op.execute(FORGET.format(many=many, attributes=DEFINER, bury=bury))
    op.execute(CLEAR_LIST.format(attributes=BY_INDEX))
    for kind, (stamp, name) in enumerate(((lists.STAMP_LIST, "stamp_list()"), (lists.STAMP_TASK, "stamp_task()"))):
        left = BURY.format(user="OLD.user_id", row="OLD.id", kind=kind, version="OLD.version", trashed="OLD.version")
        body = stamp.replace(INVALIDATED, "").replace(TOLD, f"IF FOUND THEN {left} END IF;{TOLD}")
        _replace(body, name, BY_INDEX)


def _replace(body: str, name: str, attributes: str) -> None:
    """Replace a function that exists. Its attributes are reset by that."""
    op.execute(body.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute(f"ALTER FUNCTION {name} {attributes}")


def _table() -> None:
    op.create_table(
        "tombstones",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("trashed_version", sa.Integer(), nullable=False),
        sa.Column("purged_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "id", name="pk_tombstones"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_tombstones_user_id_users", ondelete="CASCADE"),
    )
    op.create_index("ix_tombstones_version", "tombstones", ["user_id", "version", "kind", "id"])
    op.execute("ALTER TABLE tombstones ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE tombstones FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tombstones_of_user ON tombstones USING ({MINE}) WITH CHECK ({MINE})")
    # Statements join it with distributed tables.
    op.execute("""
        DO $$
        BEGIN
            IF public.is_distributed() THEN
                PERFORM create_distributed_table('tombstones', 'user_id', colocate_with => 'tasks');
            END IF;
        END
        $$
    """)


def downgrade() -> None:
    # Removals that are no longer recorded: tokens from before them become invalid.
    for table in ("task_clocks", "tombstones"):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute("""
        UPDATE task_clocks AS clock SET purged_through = greatest(clock.purged_through, gone.version)
        FROM (SELECT user_id, max(version) AS version FROM tombstones GROUP BY user_id) AS gone
        WHERE clock.user_id = gone.user_id
    """)
    op.execute("ALTER TABLE task_clocks FORCE ROW LEVEL SECURITY")
    clusters = import_module("migrations.versions.2026_11_28_0014_clusters")
    lists = import_module("migrations.versions.2026_11_29_0016_lists")
    op.execute(clusters.FORGET.format(**clusters.TOLD))
    for body, name in (
        (lists.STAMP_TASK, "stamp_task()"),
        (lists.STAMP_LIST, "stamp_list()"),
        (lists.CLEAR_LIST, "clear_list()"),
        (lists.FORGET_LISTS, "forget_lists()"),
    ):
        _replace(body, name, lists.ATTRIBUTES[name])
    op.drop_table("tombstones")
