"""Add begin_write(), which sets the user of a write and advances the user's clock."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # STRICT: without a user it does nothing.
    op.execute("""
        CREATE FUNCTION begin_write(actor uuid) RETURNS uuid LANGUAGE plpgsql VOLATILE STRICT AS $$
        BEGIN
            PERFORM pg_catalog.set_config('app.user_id', actor::text, true);
            INSERT INTO public.task_clocks AS clock (user_id, version) VALUES (actor, 1)
            ON CONFLICT (user_id) DO UPDATE SET version = clock.version + 1;
            RETURN actor;
        END
        $$
    """)
    op.execute("COMMENT ON FUNCTION begin_write(uuid) IS 'Sets the user of this transaction and moves her clock on.'")


def downgrade() -> None:
    op.execute("DROP FUNCTION begin_write(uuid)")
