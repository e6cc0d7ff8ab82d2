"""Normalize more letters for search: both forms of sigma, eth as d, thorn as th."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BEFORE = "'øłđħı', 'oldhi'"
AFTER = "'øłđħıςð', 'oldhiσd'"  # noqa: RUF001 - Greek letters


def upgrade() -> None:
    _search(f"translate(replace({{}}, 'þ', 'th'), {AFTER})")


def downgrade() -> None:
    _search(f"translate({{}}, {BEFORE})")


def _search(folded: str) -> None:
    """Replace the function, and recreate the column, whose stored values come from the previous function."""
    op.drop_column("tasks", "search")
    plain = r"lower(regexp_replace(normalize(words, NFKD), '[\u0300-\u036f]', '', 'g'))"
    spelled = f"replace(replace(replace({plain}, 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe')"
    op.execute(f"""
        CREATE OR REPLACE FUNCTION search_key(words text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN {folded.format(spelled)}
    """)
    text = sa.Computed("search_key(title) || chr(768) || search_key(coalesce(description, ''))", persisted=True)
    op.add_column("tasks", sa.Column("search", sa.Text(), text, nullable=True))
