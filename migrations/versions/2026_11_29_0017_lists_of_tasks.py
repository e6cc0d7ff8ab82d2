"""Validate that the list of each task exists."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

NAME = "fk_tasks_user_id_list_id_task_lists"


def upgrade() -> None:
    op.execute(f"ALTER TABLE tasks VALIDATE CONSTRAINT {NAME}")


def downgrade() -> None:
    op.drop_constraint(NAME, "tasks")
    op.create_foreign_key(
        NAME, "tasks", "task_lists", ["user_id", "list_id"], ["user_id", "id"], postgresql_not_valid=True
    )
