"""Allow descriptions of 4,000 characters, and add functions that make several keys of the manual order."""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

COMMENTS = {
    "positions_between(text, text, integer)": "Keys of the manual order between two others, in their order.",
    "positions_around(text, text, integer, integer)": (
        "Keys of the manual order between two others: some beside either of these, and one in the middle."
    ),
}
UPDATED = "UPDATE OF title, description, search, title_key"


def upgrade() -> None:
    # A longer limit of a varchar changes the catalog alone: the table is not rewritten.
    _limit_description("varchar(4000)")
    _positions()


def _positions() -> None:
    # The middle key first, then those on either side of it: so they are short.
    op.execute("""
        CREATE FUNCTION positions_between(low text, high text, number integer) RETURNS text[]
        LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
        DECLARE
            before CONSTANT integer := (number - 1) / 2;
            middle text;
        BEGIN
            IF number < 1 THEN
                RETURN '{}';
            END IF;
            middle := public.position_between(low, high);
            RETURN public.positions_between(low, middle, before) || middle
                || public.positions_between(middle, high, number - 1 - before);
        END
        $$
    """)
    # Next to the ends there is room for 2^18 keys at either side, about three digits; the rest is for further moves.
    op.execute("""
        CREATE FUNCTION positions_around(low text, high text, ahead integer, behind integer) RETURNS text[]
        LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
        DECLARE
            middle CONSTANT text := public.position_between(low, high);
            first text := middle;
            last text := middle;
        BEGIN
            FOR half IN 1..18 LOOP
                first := public.position_between(low, first);
                last := public.position_between(last, high);
            END LOOP;
            RETURN public.positions_between(low, first, ahead) || middle
                || public.positions_between(last, high, behind);
        END
        $$
    """)
    for function, comment in COMMENTS.items():
        op.execute(f"COMMENT ON FUNCTION {function} IS '{comment}'")
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")


def _limit_description(type_: str) -> None:
    # A column of a trigger cannot be changed.
    op.execute("DROP TRIGGER derive_updated_task ON tasks")
    op.execute(f"-- squawk-ignore changing-column-type\nALTER TABLE tasks ALTER description TYPE {type_}")
    op.execute(f"""
        CREATE TRIGGER derive_updated_task BEFORE {UPDATED} ON tasks FOR EACH ROW EXECUTE FUNCTION derive_task()
    """)


def downgrade() -> None:
    for function in reversed(COMMENTS):
        op.execute(f"DROP FUNCTION {function}")
    # Fails if a description is longer: nothing may be lost.
    _limit_description("varchar(1000)")
