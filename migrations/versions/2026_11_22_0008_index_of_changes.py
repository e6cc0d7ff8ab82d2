"""Extend the index of the change feed by the id, to order rows with the same version."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_tasks_version", "tasks")
    op.create_index("ix_tasks_version", "tasks", ["user_id", "version", "id"])


def downgrade() -> None:
    op.drop_index("ix_tasks_version", "tasks")
    op.create_index("ix_tasks_version", "tasks", ["user_id", "version"])
