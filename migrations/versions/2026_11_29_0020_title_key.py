"""Store the sort key of titles: the same on every database, accents beside their letters, numbers by their value."""

from alembic import op

from migrations import citus

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# lower() of other collations than "C" depends on the database. So these are the letters with case that Unicode does not
# decompose: Latin, Greek, Cyrillic, Armenian and Georgian.
RANGES = (range(0xC0, 0x557), range(0x1C90, 0x1CC0))
# Letters that stand beside others although Unicode does not decompose them.
BESIDE = {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t", "ı": "i", "ð": "d", "ς": "σ", "ẞ": "ß"}  # noqa: RUF001
SPELLED = (("ß", "ss"), ("æ", "ae"), ("œ", "oe"), ("þ", "th"))
# The zeros of scripts with digits of their own, each followed by its other digits.
ZEROS = (
    "\u0660\u06f0\u07c0\u0966\u09e6\u0a66\u0ae6\u0b66\u0be6\u0c66\u0ce6\u0d66\u0de6\u0e50\u0ed0\u0f20"
    "\u1040\u1090\u17e0\u1810\u1946\u19d0\u1a80\u1a90\u1b50\u1bb0\u1c40\u1c50\ua620\ua8d0\ua900\ua9d0"
    "\ua9f0\uaa50\uabf0"
)
MOST = 400
UPDATED = "UPDATE OF title, description, search"


def upgrade() -> None:
    _title_key()
    # A generated column is computed in one pass, which fires no triggers. It takes as long as an update of all tasks
    # would, and leaves no dead rows. PostgreSQL would recompute it with each update, also of other columns, so a
    # trigger maintains the column from now on. Citus cannot drop an expression.
    column = 'ALTER TABLE tasks ADD COLUMN title_key text COLLATE "C"'
    op.execute(
        citus.either(
            [
                f"{column} GENERATED ALWAYS AS (title_key(title)) STORED",
                "ALTER TABLE tasks ALTER title_key DROP EXPRESSION",
            ],
            [column, *citus.computed("title_key", "title_key(title)")],
        )
    )
    _derive("NEW.title_key := public.title_key(NEW.title);", f"{UPDATED}, title_key")


def _derive(more: str, event: str) -> None:
    op.execute(f"""
        CREATE OR REPLACE FUNCTION derive_task() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.search := public.search_key(NEW.title) OPERATOR(pg_catalog.||) pg_catalog.chr(768)
                OPERATOR(pg_catalog.||) public.search_key(coalesce(NEW.description, ''));
            {more}
            RETURN NEW;
        END
        $$
    """)
    op.execute(f"""
        CREATE OR REPLACE TRIGGER derive_updated_task BEFORE {event} ON tasks
        FOR EACH ROW EXECUTE FUNCTION derive_task()
    """)


def _title_key() -> None:
    # The folded title, its numbers with their lengths in front, and then the title, which orders equal ones. Below 9
    # digits the length has one digit, otherwise a 9 and three digits. The key has a limited size, since cursors contain
    # it. All names are qualified: callers choose the search_path, and a SET clause would cost 4 to 6 µs.
    upper, lower = _letters()
    digits = "".join(chr(ord(zero) + value) for zero in ZEROS for value in range(10))
    plain = f"pg_catalog.translate(rest, '{upper}', '{lower}')"
    for letter, spelled in SPELLED:
        plain = f"pg_catalog.replace({plain}, '{letter}', '{spelled}')"
    op.execute(f"""
        CREATE FUNCTION title_key(title text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
        DECLARE
            rest pg_catalog.text := title;
            folded pg_catalog.text := '';
            digits pg_catalog.text;
            number pg_catalog.text;
            place integer;
            size integer;
        BEGIN
            IF pg_catalog.octet_length(title) OPERATOR(pg_catalog.<>) pg_catalog.length(title) THEN
                rest := pg_catalog.regexp_replace(normalize(title, NFKD), '[\\u0300-\\u036f]', '', 'g');
                IF pg_catalog.octet_length(rest) OPERATOR(pg_catalog.<>) pg_catalog.length(rest) THEN
                    rest := {plain};
                    IF rest OPERATOR(pg_catalog.~) '[{digits}]' THEN
                        rest := pg_catalog.translate(rest, '{digits}', '{"0123456789" * len(ZEROS)}');
                    END IF;
                END IF;
            END IF;
            rest := pg_catalog.lower(rest COLLATE pg_catalog."C");
            LOOP
                digits := pg_catalog.substring(rest, '[0-9]+');
                EXIT WHEN digits IS NULL OR pg_catalog.length(folded) OPERATOR(pg_catalog.>) {MOST};
                place := pg_catalog.strpos(rest, digits);
                number := pg_catalog.ltrim(digits, '0');
                size := pg_catalog.length(number);
                folded := pg_catalog.concat(
                    folded, pg_catalog.left(rest, place OPERATOR(pg_catalog.-) 1),
                    CASE WHEN size OPERATOR(pg_catalog.<) 9 THEN size::pg_catalog.text
                        ELSE pg_catalog.concat('9', pg_catalog.lpad(size::pg_catalog.text, 3, '0')) END,
                    number
                );
                rest := pg_catalog.substr(rest, place OPERATOR(pg_catalog.+) pg_catalog.length(digits));
            END LOOP;
            RETURN pg_catalog.concat(
                pg_catalog.left(pg_catalog.concat(folded, rest), {MOST}), pg_catalog.chr(1), title
            );
        END
        $$
    """)
    op.execute("""
        COMMENT ON FUNCTION title_key(text) IS
        'The key by which titles are sorted, byte by byte: without case and accents, and numbers by their value.'
    """)


def _letters() -> tuple[str, str]:
    letters = [chr(code) for codes in RANGES for code in codes]
    pairs = {letter: letter.lower() for letter in letters if len(letter.lower()) == 1 and letter.lower() != letter}
    pairs = {letter: BESIDE.get(lower, lower) for letter, lower in pairs.items()} | BESIDE
    return "".join(pairs), "".join(pairs.values())


def downgrade() -> None:
    _derive("", UPDATED)
    op.drop_column("tasks", "title_key")
    op.execute("DROP FUNCTION title_key(text)")
