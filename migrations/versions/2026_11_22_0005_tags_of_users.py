"""Delete tags with their user by a foreign key: forced row-level security hides them from triggers run by the owner."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NAME = "fk_task_tags_user_id_users"


def upgrade() -> None:
    # Forced row-level security would hide all rows from the owner. The table is locked while it is not forced.
    op.execute("ALTER TABLE task_tags NO FORCE ROW LEVEL SECURITY")
    op.execute("DELETE FROM task_tags WHERE user_id NOT IN (SELECT id FROM users)")
    op.create_foreign_key(NAME, "task_tags", "users", ["user_id"], ["id"], ondelete="CASCADE")
    op.execute("ALTER TABLE task_tags FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.drop_constraint(NAME, "task_tags")
