"""Search finds Greek words by either sigma, and takes eth and thorn for d and th."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BEFORE = "'øłđħı', 'oldhi'"
AFTER = "'øłđħıςð', 'oldhiσd'"  # noqa: RUF001 - Greek indeed


def upgrade() -> None:
    _search(f"translate(replace({{}}, 'þ', 'th'), {AFTER})")


def downgrade() -> None:
    _search(f"translate({{}}, {BEFORE})")


def _search(folded: str) -> None:
    """Make the function anew, and with it the column: what is stored was made by the function of before."""
    op.drop_column("tasks", "search")
    plain = r"lower(regexp_replace(normalize(words, NFKD), '[\u0300-\u036f]', '', 'g'))"
    spelled = f"replace(replace(replace({plain}, 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe')"
    op.execute(f"""
        CREATE OR REPLACE FUNCTION search_key(words text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN {folded.format(spelled)}
    """)
    text = sa.Computed("search_key(title) || chr(768) || search_key(coalesce(description, ''))", persisted=True)
    op.add_column("tasks", sa.Column("search", sa.Text(), text, nullable=True))
