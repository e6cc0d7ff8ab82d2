"""Store a fingerprint of the database, to detect that it was restored, and the first clock of new users."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "taskql_state",
        sa.Column("id", sa.SmallInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("system_identifier", sa.Text()),
        sa.Column("timeline", sa.Integer()),
        sa.Column("database_oid", sa.BigInteger()),
        sa.Column("first_version", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_taskql_state"),
        sa.CheckConstraint("id = 1", name=op.f("ck_taskql_state_one_row")),
    )
    op.execute("INSERT INTO taskql_state DEFAULT VALUES")
    # If a restore removed a user, and the issuer recreates it, clients still have tokens and versions from before.
    op.execute("""
        CREATE FUNCTION begin_clock() RETURNS trigger LANGUAGE plpgsql
        SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        DECLARE
            caller CONSTANT text := current_setting('app.user_id', true);
            begins CONSTANT integer := (SELECT first_version FROM public.taskql_state);
        BEGIN
            IF begins > 0 THEN
                PERFORM set_config('app.user_id', NEW.id::text, true);
                INSERT INTO public.task_clocks (user_id, version, purged_through) VALUES (NEW.id, begins, begins)
                ON CONFLICT DO NOTHING;
                PERFORM set_config('app.user_id', caller, true);
            END IF;
            RETURN NULL;
        END
        $$
    """)
    op.execute("REVOKE ALL ON FUNCTION begin_clock() FROM PUBLIC")
    op.execute("CREATE TRIGGER begin_clock_of_user AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION begin_clock()")


def downgrade() -> None:
    op.execute("DROP TRIGGER begin_clock_of_user ON users")
    op.execute("DROP FUNCTION begin_clock()")
    op.drop_table("taskql_state")
