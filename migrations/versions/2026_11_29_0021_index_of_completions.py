"""Add an index of completed tasks by time, and order the trash by time and id."""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # In the transaction of the migration: writes of tasks wait while they are built, reads do not.
    op.execute("""
        -- squawk-ignore require-concurrent-index-creation
        CREATE INDEX ix_tasks_completed_at ON tasks (user_id, completed_at, id) WHERE completed_at IS NOT NULL
    """)
    _index_of_trash("user_id, deleted_at, id")


def _index_of_trash(columns: str) -> None:
    op.execute("""
        -- squawk-ignore require-concurrent-index-deletion
        DROP INDEX ix_tasks_trash
    """)
    op.execute(f"""
        -- squawk-ignore require-concurrent-index-creation
        CREATE INDEX ix_tasks_trash ON tasks ({columns}) WHERE deleted_at IS NOT NULL
    """)


def downgrade() -> None:
    _index_of_trash("user_id, deleted_at")
    op.drop_index("ix_tasks_completed_at", "tasks")
