"""Add an index of completed tasks by time, and order the trash by time and id."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

IN_TRASH = sa.text("deleted_at IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        "ix_tasks_completed_at",
        "tasks",
        ["user_id", "completed_at", "id"],
        postgresql_where=sa.text("completed_at IS NOT NULL"),
    )
    op.drop_index("ix_tasks_trash", "tasks")
    op.create_index("ix_tasks_trash", "tasks", ["user_id", "deleted_at", "id"], postgresql_where=IN_TRASH)


def downgrade() -> None:
    op.drop_index("ix_tasks_trash", "tasks")
    op.create_index("ix_tasks_trash", "tasks", ["user_id", "deleted_at"], postgresql_where=IN_TRASH)
    op.drop_index("ix_tasks_completed_at", "tasks")
