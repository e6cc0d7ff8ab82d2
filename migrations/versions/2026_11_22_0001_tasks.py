"""Create users, tasks and their clocks, with row-level security."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NO_DUE_DATE_LAST = "(CASE WHEN due_date IS NULL THEN 'infinity'::date ELSE due_date END)"
MINE = "user_id = nullif(current_setting('app.user_id', true), '')::uuid"


def upgrade() -> None:
    _users()
    _clocks()
    _tasks()
    _indexes()
    _walls()


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)


def _users() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("email_verified", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("image", sa.Text()),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_index("ix_users_created_at", "users", ["created_at"])


def _clocks() -> None:
    op.create_table(
        "task_clocks",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("purged_through", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_task_clocks"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_task_clocks_user_id_users", ondelete="CASCADE"),
    )


def _tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("description", sa.String(1000)),
        sa.Column("completed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True)),
        sa.Column("priority", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_date", sa.Date()),
        sa.Column("tags", postgresql.ARRAY(sa.String(50)), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("position", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        _time("created_at"),
        _time("updated_at"),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("user_id", "id", name="pk_tasks"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_tasks_user_id_users", ondelete="CASCADE"),
        sa.CheckConstraint(r"title ~ '\S'", name=op.f("ck_tasks_title_not_blank")),
        sa.CheckConstraint("priority between 0 and 4", name=op.f("ck_tasks_priority_known")),
        sa.CheckConstraint("completed = (completed_at is not null)", name=op.f("ck_tasks_completed_at_with_completed")),
        sa.CheckConstraint("isfinite(due_date)", name=op.f("ck_tasks_due_date_finite")),
        sa.CheckConstraint("cardinality(tags) <= 20", name=op.f("ck_tasks_tags_few")),
        sa.CheckConstraint("array_position(tags, null) is null", name=op.f("ck_tasks_tags_not_null")),
    )


def _indexes() -> None:
    op.create_index("ix_tasks_created", "tasks", ["user_id", "created_at", "id"])
    op.create_index("ix_tasks_completed_created", "tasks", ["user_id", "completed", "created_at", "id"])
    op.create_index("ix_tasks_updated", "tasks", ["user_id", "updated_at", "id"])
    op.create_index("ix_tasks_due", "tasks", ["user_id", sa.text(NO_DUE_DATE_LAST), "id"])
    op.create_index("ix_tasks_position", "tasks", ["user_id", "position", "id"])
    op.create_index("ix_tasks_version", "tasks", ["user_id", "version"])


def _walls() -> None:
    for table in ("tasks", "task_clocks"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        # nullif: after a transaction with SET LOCAL the value is '', for which the cast would fail.
        op.execute(f"CREATE POLICY {table}_of_user ON {table} USING ({MINE}) WITH CHECK ({MINE})")
    op.execute("""
        CREATE FUNCTION act_as(actor uuid) RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
            PERFORM pg_catalog.set_config('app.user_id', actor::text, true);
            RETURN actor;
        END
        $$
    """)
    op.execute("COMMENT ON FUNCTION act_as(uuid) IS 'Sets the user of this transaction and returns it.'")


def downgrade() -> None:
    op.execute("DROP FUNCTION act_as(uuid)")
    op.drop_table("tasks")
    op.drop_table("task_clocks")
    op.drop_table("users")
