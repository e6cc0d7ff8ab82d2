"""Add the table of tags by user and task, which triggers on tasks maintain."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MINE = "user_id = nullif(current_setting('app.user_id', true), '')::uuid"


def upgrade() -> None:
    op.create_table(
        "task_tags",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("tag", sa.Text(collation="C"), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "tag", "task_id", name="pk_task_tags"),
    )
    _keep()
    _fill()
    op.execute("ALTER TABLE task_tags ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE task_tags FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY task_tags_of_user ON task_tags USING ({MINE}) WITH CHECK ({MINE})")


def _keep() -> None:
    # Triggers also cover writes by other SQL clients. They do not fire for tasks without tags.
    op.execute("""
        CREATE FUNCTION keep_task_tags() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP <> 'INSERT' THEN
                DELETE FROM public.task_tags
                WHERE user_id = OLD.user_id AND tag = ANY (OLD.tags) AND task_id = OLD.id;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                INSERT INTO public.task_tags (user_id, tag, task_id)
                SELECT NEW.user_id, tag, NEW.id FROM unnest(NEW.tags) AS tag
                ON CONFLICT DO NOTHING;
            END IF;
            RETURN NULL;
        END
        $$
    """)
    for name, event, changed in (
        ("insert", "INSERT", "NEW.tags <> '{}'"),
        ("update", "UPDATE OF user_id, id, tags", "(OLD.user_id, OLD.id, OLD.tags) <> (NEW.user_id, NEW.id, NEW.tags)"),
        ("delete", "DELETE", "OLD.tags <> '{}'"),
    ):
        op.execute(
            f"CREATE TRIGGER keep_task_tags_on_{name} AFTER {event} ON tasks "
            f"FOR EACH ROW WHEN ({changed}) EXECUTE FUNCTION keep_task_tags()"
        )


def _fill() -> None:
    # Forced row-level security would hide all tasks from the owner. The table is locked while it is not forced.
    op.execute("ALTER TABLE tasks NO FORCE ROW LEVEL SECURITY")
    op.execute("INSERT INTO task_tags SELECT DISTINCT user_id, unnest(tags), id FROM tasks")
    op.execute("ALTER TABLE tasks FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    for name in ("insert", "update", "delete"):
        op.execute(f"DROP TRIGGER keep_task_tags_on_{name} ON tasks")
    op.execute("DROP FUNCTION keep_task_tags()")
    op.drop_table("task_tags")
