"""Add a hash of what tasks and lists were created with, by which a repeated create is recognized."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Null in existing rows, which a repeated create compares as they are now.
    for table in ("tasks", "task_lists"):
        op.add_column(table, sa.Column("create_hash", sa.BigInteger))


def downgrade() -> None:
    for table in ("task_lists", "tasks"):
        op.drop_column(table, "create_hash")
