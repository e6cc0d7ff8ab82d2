r"""Search: fold all accents and vowel points, on any locale, and search the names of tags and lists, too.

Titles are checked with their text: they are one line, in which something can be seen. Descriptions may have several.
"""

from alembic import op

from migrations import citus
from migrations.unicode_14 import FOLDS, INVISIBLE, JOINING, WHITE_SPACE

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

# The marks with a combining class (Unicode 15.1, and 16 where it added to these scripts), without those of the scripts
# of India and South East Asia, in which they make other words: viramas, vowel signs, nuktas and tones. Of those scripts
# only Vedic accents and the signs of Balinese music are among them. And the marks that enclose, and the Arabic tatweel.
MARKS = (
    r"\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670"
    r"\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a\u07eb-\u07f3\u07fd\u0816-\u0819"
    r"\u081b-\u0823\u0825-\u0827\u0829-\u082d\u0859-\u085b\u0897-\u089f\u08ca-\u08e1\u08e3-\u08ff\u0951-\u0954"
    r"\u135d-\u135f\u18a9\u1ab0-\u1aff\u1b6b-\u1b73\u1cd0-\u1cd2\u1cd4-\u1ce0\u1ce2-\u1ce8\u1ced\u1cf4\u1cf8\u1cf9"
    r"\u1dc0-\u1dff\u20d0-\u20ff\u2cef-\u2cf1\u2d7f\u2de0-\u2dff\u302a-\u302f\u3099\u309a\ua66f-\ua672\ua674-\ua67d"
    r"\ua69e\ua69f\ua6f0\ua6f1\ua8e0-\ua8f1\ufb1e\ufe20-\ufe2f\U000101fd\U000102e0\U00010376-\U0001037a\U00010ae5"
    r"\U00010ae6\U00010d24-\U00010d27\U00010d69-\U00010d6d\U00010eab\U00010eac\U00010efd-\U00010eff"
    r"\U00010f46-\U00010f50\U00010f82-\U00010f85\U00011366-\U0001136c\U00011370-\U00011374\U00016af0-\U00016af4"
    r"\U00016b30-\U00016b36\U00016ff0\U00016ff1\U0001bc9e\U0001d165-\U0001d169\U0001d16d-\U0001d172"
    r"\U0001d17b-\U0001d182\U0001d185-\U0001d18b\U0001d1aa-\U0001d1ad\U0001d242-\U0001d244\U0001e000-\U0001e02a"
    r"\U0001e08f\U0001e130-\U0001e136\U0001e2ae\U0001e2ec-\U0001e2ef\U0001e4ec-\U0001e4ef\U0001e8d0-\U0001e8d6"
    r"\U0001e944-\U0001e94a"
)
# Characters that Unicode decomposes into a space and marks, such as the diaeresis alone. They do not separate words.
SPACING_MARKS = (
    r"\u00a8\u00af\u00b8\u02d8-\u02dd\u037a\u0385\u1fc0\u1fc1\u1fcd-\u1fcf\u1fdd-\u1fdf\u1fed\u1fee\u1ffe\u2017\u203e"
    r"\u309b\u309c\ufc5e-\ufc63\ufe49-\ufe4c\ufe70\ufe72\ufe74\ufe76\ufe78\ufe7a\ufe7c\ufe7e\uffe3"
)
IGNORABLE = INVISIBLE + JOINING
# What keyboards have instead of typographic quotes, primes and dashes. The first ones are replaced before the text is
# decomposed, which would make a space and an accent of the acute accent, and two single primes of a double one.
_QUOTES_FIRST = {"'": "\u00b4\u0384\u1fbd\u1fbf\u1ffd", '"': "\u2033\u2036"}
_QUOTES = {
    "'": "\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u055a\u05f3\u2018\u2019\u201a\u201b\u2032\u2035\u2039\u203a\u275b\u275c"
    "\u275f\ua78b\ua78c",
    '"': "\u00ab\u00bb\u02ba\u05f4\u201c\u201d\u201e\u201f\u275d\u275e\u2760\u2e42\u301d\u301e\u301f",
    "-": "\u058a\u05be\u1400\u1806\u2010\u2012\u2013\u2014\u2015\u2043\u2212\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u2e5d\u301c"
    "\u30a0\u3030\U00010ead",
}
QUOTES_FIRST, QUOTES = (
    {other: plain for plain, others in table.items() for other in others} for table in (_QUOTES_FIRST, _QUOTES)
)
# Letters that Unicode does not decompose, and that many users cannot type.
LATIN = dict(zip("øłđħŧıðØŁĐĦŦÐẞÆŒÞ", "oldhtidoldhtdßæœþ", strict=True))
SPELLED = {"ß": "ss", "æ": "ae", "œ": "oe", "þ": "th"}
# A table replaces capital letters, because lower() depends on the locale. Usual ones come first: translate() compares a
# letter with those of its table one by one.
CAPITALS = {letter: FOLDS[letter] for letter in sorted(FOLDS, key=lambda letter: not "\u0391" <= letter <= "\u0556")}
REPLACED = {
    **QUOTES,
    **LATIN,
    **{letter: letter for letter in SPELLED},
    **{letter: small for letter, small in CAPITALS.items() if letter > "\x7f" and letter not in {*QUOTES, *LATIN}},
}
# A text that has more of them than this is asked for different ones.
MANY = 50

CONTROL = r"\u0001-\u001f\u007f-\u009f\u2028\u2029"
# Besides tabs and line breaks.
CONTROL_IN_LINES = r"\u0001-\u0008\u000b\u000c\u000e-\u001f\u007f-\u0084\u0086-\u009f"
# What cannot be seen: also the blank of Braille, the marks of annotations, and a head of a note.
UNSEEN = rf"{WHITE_SPACE}{IGNORABLE}\u2800\ufff9-\ufffb\U0001d159"

# Of triggers: they work for roles without privileges on the tables that they maintain.
TRIGGER = "RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"


def upgrade() -> None:
    # Statements of servers may lock the tables in the opposite order: see revision 0011.
    op.execute("SET LOCAL lock_timeout = '500ms'")
    # Text that PostgreSQL compresses takes a search several times as long. It compresses rows above 2 KB by default.
    op.execute("ALTER TABLE tasks SET (toast_tuple_target = 4080)")
    _search_key()
    _clean()
    _recompute(r"search_key(title) || E'\n' || search_key(coalesce(description, ''))")
    _derive_task(LINE_BREAK, CHECKED)
    _name_task_tags(CHECKED_TAG)
    for table in ("task_lists", "user_tags"):
        # PostgreSQL computes it with each update of a row. These tables have few.
        op.execute(f"""
            -- squawk-ignore adding-field-with-default
            ALTER TABLE {table} ADD COLUMN search text GENERATED ALWAYS AS (search_key(name)) STORED
        """)
    _checks_of_lists(f"[^{UNSEEN}]")


def _search_key() -> None:
    # All names are qualified: callers choose the search_path, and a SET clause would cost 4 to 6 µs. normalize() is SQL
    # syntax that always calls the function in pg_catalog. With the collation C, lower() changes ASCII letters alone.
    lower = 'pg_catalog.lower({} COLLATE pg_catalog."C")'
    spelled = "words"
    for letter, letters in SPELLED.items():
        spelled = f"pg_catalog.replace({spelled}, '{letter}', '{letters}')"
    # The letters to be replaced are found first: a text has few, and translate() compares each of its letters with all
    # of a table.
    op.execute(rf"""
        CREATE OR REPLACE FUNCTION search_key(words text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
        DECLARE
            found pg_catalog.text;
        BEGIN
            IF pg_catalog.octet_length(words) OPERATOR(pg_catalog.=) pg_catalog.length(words) THEN
                RETURN {lower.format("words")};
            END IF;
            words := pg_catalog.regexp_replace(words, '[{IGNORABLE}{SPACING_MARKS}]+', '', 'g');
            IF words OPERATOR(pg_catalog.~) '[{"".join(QUOTES_FIRST)}]' THEN
                words := {_translated("words", QUOTES_FIRST)};
            END IF;
            words := {lower.format(f"pg_catalog.regexp_replace(normalize(words, NFKD), '[{MARKS}]+', '', 'g')")};
            IF pg_catalog.octet_length(words) OPERATOR(pg_catalog.=) pg_catalog.length(words) THEN
                RETURN words;
            END IF;
            found := pg_catalog.regexp_replace(words, '[^{"".join(REPLACED)}]+', '', 'g');
            IF found OPERATOR(pg_catalog.<>) '' THEN
                IF pg_catalog.length(found) OPERATOR(pg_catalog.>) {MANY} THEN
                    SELECT pg_catalog.string_agg(DISTINCT letter, '') INTO found
                    FROM pg_catalog.regexp_split_to_table(found, '') AS letter;
                END IF;
                words := pg_catalog.translate(words, found, {_translated("found", REPLACED)});
                words := {spelled};
            END IF;
            RETURN words;
        END
        $$
    """)  # noqa: S608 - constants of this module


def _translated(words: str, table: dict[str, str]) -> str:
    characters = "".join(table.values()).replace("'", "''")
    return f"pg_catalog.translate({words}, '{''.join(table)}', '{characters}')"


def _clean() -> None:
    """Make titles and names of lists single lines that can be seen, and remove other control characters."""
    # Forced row-level security would hide all rows from the owner. The tables are locked while it is not forced.
    for table in ("tasks", "task_lists"):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    for table, name in (("tasks", "title"), ("task_lists", "name")):
        line = f"regexp_replace({name}, '[{CONTROL}]+', ' ', 'g')"
        op.execute(f"UPDATE {table} SET {name} = {line} WHERE {name} ~ '[{CONTROL}]'")  # noqa: S608 - constants of this module
        op.execute(f"UPDATE {table} SET {name} = 'Untitled' WHERE {name} !~ '[^{UNSEEN}]'")  # noqa: S608
    op.execute(f"UPDATE task_lists SET icon = NULL WHERE icon !~ '[^{UNSEEN}]'")  # noqa: S608
    op.execute(f"""
        UPDATE tasks SET description = regexp_replace(description, '[{CONTROL_IN_LINES}]+', '', 'g')
        WHERE description ~ '[{CONTROL_IN_LINES}]'
    """)  # noqa: S608
    for table in ("tasks", "task_lists"):
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def _recompute(text: str) -> None:
    # A generated column is computed in one pass, which fires no triggers: the tasks get no new version. PostgreSQL
    # would recompute it with each update, also of other columns, so a trigger maintains the column from now on.
    # Citus cannot drop an expression.
    op.execute("DROP TRIGGER derive_updated_task ON tasks")
    op.execute("-- squawk-ignore ban-drop-column\nALTER TABLE tasks DROP COLUMN search")
    column = "ALTER TABLE tasks ADD COLUMN search text"
    op.execute(
        citus.either(
            [f"{column} GENERATED ALWAYS AS ({text}) STORED", "ALTER TABLE tasks ALTER search DROP EXPRESSION"],
            [column, *citus.computed("search", text)],
        )
    )
    op.execute("""
        CREATE TRIGGER derive_updated_task BEFORE UPDATE OF title, description, search, title_key ON tasks
        FOR EACH ROW EXECUTE FUNCTION derive_task()
    """)


# A check constraint would run with each write, also of other columns. Its error has the names that it would have.
REFUSED = """
    RAISE check_violation USING
        SCHEMA = 'public', TABLE = 'tasks', CONSTRAINT = pg_catalog.concat('ck_tasks_', violated),
        MESSAGE = pg_catalog.format(
            'new row for relation "tasks" violates check constraint "ck_tasks_%s"', violated
        );
"""
CHECKED = rf"""
    IF NEW.title OPERATOR(pg_catalog.!~) '^[^{CONTROL}]*[^{CONTROL}{UNSEEN}][^{CONTROL}]*$'
        OR NEW.description OPERATOR(pg_catalog.~) '[{CONTROL_IN_LINES}]'
    THEN
        violated := CASE
            WHEN NEW.title OPERATOR(pg_catalog.!~) '[^{UNSEEN}]' THEN 'title_not_blank'
            WHEN NEW.title OPERATOR(pg_catalog.~) '[{CONTROL}]' THEN 'title_one_line'
            ELSE 'description_printable'
        END;
        {REFUSED}
    END IF;
"""
LINE_BREAK = "pg_catalog.chr(10)"


def _derive_task(separator: str, checked: str) -> None:
    declared = "DECLARE violated pg_catalog.text;" if checked else ""
    op.execute(f"""
        CREATE OR REPLACE FUNCTION derive_task() RETURNS trigger LANGUAGE plpgsql AS $$
        {declared}
        BEGIN
            {checked}
            NEW.search := public.search_key(NEW.title) OPERATOR(pg_catalog.||) {separator}
                OPERATOR(pg_catalog.||) public.search_key(coalesce(NEW.description, ''));
            NEW.title_key := public.title_key(NEW.title);
            RETURN NEW;
        END
        $$
    """)


# Of tags, only those that the user does not have yet are checked.
BLANK_TAG = """
    IF wanted = '' THEN
        RAISE check_violation USING MESSAGE = 'a tag must not be blank';
    END IF;
"""
CHECKED_TAG = rf"""
    IF wanted !~ '[^{UNSEEN}]' THEN
        RAISE check_violation USING MESSAGE = 'a tag must not be blank';
    END IF;
    IF public.tag_name(given) ~ '[{CONTROL}]' THEN
        RAISE check_violation USING MESSAGE = 'a tag must not contain control characters';
    END IF;
"""


def _name_task_tags(checked: str) -> None:
    # As in revision 0022, with other checks.
    op.execute(f"""
        CREATE OR REPLACE FUNCTION name_task_tags() {TRIGGER} SET enable_seqscan = off AS $$
        DECLARE
            caller CONSTANT text := current_setting('app.user_id', true);
            given text;
            wanted text;
            shown text;
            names text[] := '{{}}';
        BEGIN
            PERFORM set_config('app.user_id', NEW.user_id::text, true);
            FOREACH given IN ARRAY NEW.tags LOOP
                wanted := public.tag_key(given);
                SELECT name INTO shown FROM public.user_tags WHERE user_id = NEW.user_id AND key = wanted;
                IF NOT FOUND THEN
                    EXIT WHEN given IS NULL;  -- a check of the table rejects it
                    {checked}
                    IF (SELECT count(*) FROM public.user_tags WHERE user_id = NEW.user_id) >= 1000 THEN
                        RAISE 'a user can have at most 1000 tags' USING ERRCODE = 'TQ001';
                    END IF;
                    INSERT INTO public.user_tags AS tag (user_id, key, name)
                    VALUES (NEW.user_id, wanted, public.tag_name(given))
                    ON CONFLICT (user_id, key) DO UPDATE SET name = tag.name RETURNING name INTO shown;
                END IF;
                IF shown <> ALL (names) THEN
                    names := array_append(names, shown);
                END IF;
            END LOOP;
            PERFORM set_config('app.user_id', caller, true);
            IF given IS NOT NULL THEN
                NEW.tags := names;
            END IF;
            RETURN NEW;
        END
        $$
    """)  # noqa: S608 - constants of this module


def _checks_of_lists(seen: str) -> None:
    # Lists are few, so their checks are validated at once.
    for name in ("name", "icon"):
        check = f"ck_task_lists_{name}_not_blank"
        op.execute(f"-- squawk-ignore ban-drop-constraint\nALTER TABLE task_lists DROP CONSTRAINT {check}")
        op.execute(f"""
            -- squawk-ignore constraint-missing-not-valid
            ALTER TABLE task_lists ADD CONSTRAINT {check} CHECK ({name} ~ '{seen}')
        """)


def downgrade() -> None:
    _checks_of_lists(r"\S")
    for table in ("task_lists", "user_tags"):
        op.drop_column(table, "search")
    _name_task_tags(BLANK_TAG)
    _derive_task("pg_catalog.chr(768)", "")
    _search_key_of_0012()
    op.execute("ALTER TABLE tasks RESET (toast_tuple_target)")
    _recompute("search_key(title) || chr(768) || search_key(coalesce(description, ''))")


def _search_key_of_0012() -> None:
    plain = r"pg_catalog.regexp_replace(normalize(words, NFKD), '[\u0300-\u036f]', '', 'g')"
    folded = f"pg_catalog.lower({plain})"
    for letter, spelled in SPELLED.items():
        folded = f"pg_catalog.replace({folded}, '{letter}', '{spelled}')"
    op.execute(f"""
        CREATE OR REPLACE FUNCTION search_key(words text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
        BEGIN
            IF pg_catalog.octet_length(words) OPERATOR(pg_catalog.=) pg_catalog.length(words) THEN
                RETURN pg_catalog.replace(pg_catalog.lower(words), 'ı', 'i');
            END IF;
            RETURN pg_catalog.translate({folded}, 'øłđħıςð', 'oldhiσd');
        END
        $$
    """)  # noqa: RUF001 - Turkish and Greek letters
