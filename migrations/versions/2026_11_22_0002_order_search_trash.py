"""Add keys for the manual order, normalized text for search, and an index of the trash."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _positions()
    _search()
    op.create_index(
        "ix_tasks_trash",
        "tasks",
        ["user_id", "deleted_at"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )


def _positions() -> None:
    # The digits are in byte order. A key never ends in '0', so that another key always fits before it.
    op.execute("""
        CREATE FUNCTION position_between(low text, high text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
        DECLARE
            digits CONSTANT text COLLATE "C" :=
                '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
            result text := '';
            place int := 1;
            floor int;
            ceiling int;
        BEGIN
            LOOP
                -- Behind its end a low key goes on with the lowest digit, and a missing high key with one above all.
                floor := greatest(strpos(digits, substr(coalesce(low, ''), place, 1)) - 1, 0);
                IF substr(coalesce(low, ''), place, 1) = '' THEN
                    floor := 0;
                END IF;
                ceiling := CASE WHEN high IS NULL THEN 62 ELSE strpos(digits, substr(high, place, 1)) - 1 END;
                IF ceiling - floor > 1 THEN
                    RETURN result || substr(digits, (floor + ceiling) / 2 + 1, 1);
                END IF;
                result := result || substr(digits, floor + 1, 1);
                IF ceiling > floor THEN
                    high := NULL;
                END IF;
                place := place + 1;
                IF place > 1000 THEN
                    RAISE 'there is no place between % and %', low, high;
                END IF;
            END LOOP;
        END
        $$
    """)


def _search() -> None:
    # Letters without diacritics, in lower case. Letters that NFKD does not decompose are replaced explicitly.
    op.execute(r"""
        CREATE FUNCTION search_key(words text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN translate(
            replace(replace(replace(
                lower(regexp_replace(normalize(words, NFKD), '[\u0300-\u036f]', '', 'g')),
                'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'),
            'øłđħı', 'oldhi')
    """)
    op.add_column(
        "tasks",
        sa.Column(
            "search",
            sa.Text(),
            sa.Computed("search_key(title) || chr(768) || search_key(coalesce(description, ''))", persisted=True),
            nullable=True,
        ),
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_trash", "tasks")
    op.drop_column("tasks", "search")
    op.execute("DROP FUNCTION search_key(text)")
    op.execute("DROP FUNCTION position_between(text, text)")
