"""Let several writes of one transaction share a version of the user's clock."""

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

NEW = ("begin_writes(uuid)", "begin_distributed_writes(uuid)")
# A row that is written twice keeps its version, which otherwise means that the writer does not know of versions.
ALONE = "current_setting('app.together', true) IS DISTINCT FROM 'yes'"


def upgrade() -> None:
    # The statements that follow are large. Planning them anew for each execution would take longer than executing them.
    op.execute("""
        CREATE FUNCTION begin_writes(actor uuid) RETURNS uuid LANGUAGE plpgsql VOLATILE STRICT AS $$
        BEGIN
            PERFORM pg_catalog.set_config('app.together', 'yes', true);
            PERFORM pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true);
            RETURN public.begin_write(actor);
        END
        $$
    """)
    op.execute("""
        COMMENT ON FUNCTION begin_writes(uuid) IS
        'Sets the user of this transaction, and moves the user''s clock on, for several writes with one version.'
    """)
    # Citus propagates SET LOCAL to the workers, but not settings made by functions: see revision 0014.
    op.execute("""
        CREATE FUNCTION begin_distributed_writes(actor uuid) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
            PERFORM public.begin_distributed_write(actor, 0, 0);
            EXECUTE pg_catalog.format('SET LOCAL app.together = %L', 'yes');
        END
        $$
    """)
    op.execute("""
        COMMENT ON FUNCTION begin_distributed_writes(uuid) IS
        'The same on a cluster, also for the workers that the statements of this transaction reach.'
    """)
    for function in NEW:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    _stamp_if(f"NEW.version = OLD.version AND {ALONE}")


def _stamp_if(condition: str) -> None:
    for table, row in (("tasks", "task"), ("task_lists", "list")):
        op.execute(f"""
            CREATE OR REPLACE TRIGGER stamp_updated_{row} BEFORE UPDATE ON {table}
            FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION stamp_{row}()
        """)


def downgrade() -> None:
    _stamp_if("NEW.version = OLD.version")
    for function in reversed(NEW):
        op.execute(f"DROP FUNCTION {function}")
