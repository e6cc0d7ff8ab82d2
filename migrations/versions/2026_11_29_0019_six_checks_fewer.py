"""Validate the check of tasks by a function, and remove the six constraints that it replaces."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

REPLACED = {
    "title_not_blank": r"title ~ '\S'",
    "priority_known": "priority between 0 and 4",
    "completed_at_with_completed": "completed = (completed_at is not null)",
    "due_date_finite": "isfinite(due_date)",
    "tags_few": "cardinality(tags) <= 20",
    "tags_not_null": "array_position(tags, null) is null",
}


def upgrade() -> None:
    op.execute("ALTER TABLE tasks VALIDATE CONSTRAINT ck_tasks_valid")
    for name in REPLACED:
        # The function has the same rule, and its error the same name.
        op.execute(f"-- squawk-ignore ban-drop-constraint\nALTER TABLE tasks DROP CONSTRAINT ck_tasks_{name}")


def downgrade() -> None:
    for name, condition in REPLACED.items():
        op.create_check_constraint(op.f(f"ck_tasks_{name}"), "tasks", sa.text(condition))
    # Valid constraints cannot be made invalid again.
    op.drop_constraint(op.f("ck_tasks_valid"), "tasks")
    checked = "check_task(title, priority, completed, completed_at, due_date, tags)"
    op.create_check_constraint(op.f("ck_tasks_valid"), "tasks", sa.text(checked), postgresql_not_valid=True)
