"""Check tasks by one function, with the same errors as the six constraints that the next revision removes.

PostgreSQL reads and prepares the expression of each constraint anew in each statement that writes a row. For six this
took a sixth of the time of `createTask`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

CHECKED = "check_task(title, priority, completed, completed_at, due_date, tags)"


def upgrade() -> None:
    _check_task()
    op.create_check_constraint(op.f("ck_tasks_valid"), "tasks", sa.text(CHECKED), postgresql_not_valid=True)


def _check_task() -> None:
    # The names are qualified, because every role that writes tasks runs this. A single expression, because PL/pgSQL
    # prepares each anew in each transaction.
    op.execute(r"""
        CREATE FUNCTION check_task(
            title text, priority smallint, completed boolean, completed_at timestamptz, due_date date, tags text[]
        ) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
        DECLARE
            violated text;
        BEGIN
            IF title OPERATOR(pg_catalog.~) '\S'
                AND priority OPERATOR(pg_catalog.>=) 0 AND priority OPERATOR(pg_catalog.<=) 4
                AND completed OPERATOR(pg_catalog.=) (completed_at IS NOT NULL)
                AND pg_catalog.isfinite(due_date) IS NOT FALSE
                AND pg_catalog.cardinality(tags) OPERATOR(pg_catalog.<=) 20
                AND pg_catalog.array_position(tags, NULL) IS NULL
            THEN
                RETURN true;
            END IF;
            violated := CASE
                WHEN title OPERATOR(pg_catalog.!~) '\S' THEN 'title_not_blank'
                WHEN priority OPERATOR(pg_catalog.<) 0 OR priority OPERATOR(pg_catalog.>) 4 THEN 'priority_known'
                WHEN completed OPERATOR(pg_catalog.<>) (completed_at IS NOT NULL) THEN 'completed_at_with_completed'
                WHEN NOT pg_catalog.isfinite(due_date) THEN 'due_date_finite'
                WHEN pg_catalog.cardinality(tags) OPERATOR(pg_catalog.>) 20 THEN 'tags_few'
                ELSE 'tags_not_null'
            END;
            RAISE check_violation USING
                SCHEMA = 'public', TABLE = 'tasks', CONSTRAINT = pg_catalog.concat('ck_tasks_', violated),
                MESSAGE = pg_catalog.format(
                    'new row for relation "tasks" violates check constraint "ck_tasks_%s"', violated
                );
        END
        $$
    """)
    op.execute("""
        COMMENT ON FUNCTION check_task(text, smallint, boolean, timestamptz, date, text[]) IS
        'Whether the values of a task are valid. Raises an error that names the rule if not.'
    """)


def downgrade() -> None:
    op.drop_constraint(op.f("ck_tasks_valid"), "tasks")
    op.execute("DROP FUNCTION check_task(text, smallint, boolean, timestamptz, date, text[])")
