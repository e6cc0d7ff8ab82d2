"""Tags are the same regardless of case and Unicode form: add the tags of users, and index tasks by the keys of tags."""

import sqlalchemy as sa
from alembic import op

from migrations.unicode_14 import FOLDS, INVISIBLE, JOINING, LONG_FOLDS, WHITE_SPACE

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

MINE = "user_id = nullif(current_setting('app.user_id', true), '')::uuid"
# Of functions that may be called with any search_path.
PURE = "LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE"
# Of triggers: they work for roles without privileges on the tables that they maintain.
TRIGGER = "RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
NEW = (
    "tag_name(text)",
    "tag_key(text)",
    "tag_keys(text[])",
    "retagged(text[], text[], text[])",
    "name_task_tags()",
)
# A statement that changes a tag of many tasks maintains the other tables itself, and sets `app.tags_kept` to say so.
NOT_KEPT = "current_setting('app.tags_kept', true) IS DISTINCT FROM 'yes'"
CHANGED = "(OLD.user_id, OLD.id, OLD.tags) <> (NEW.user_id, NEW.id, NEW.tags)"
# The function before this revision, when the index had names of tags.
KEEP_NAMES = """
    CREATE OR REPLACE FUNCTION keep_task_tags() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        DECLARE
            caller CONSTANT text := current_setting('app.user_id', true);
        BEGIN
            IF TG_OP <> 'INSERT' THEN
                PERFORM set_config('app.user_id', OLD.user_id::text, true);
                DELETE FROM public.task_tags
                WHERE user_id = OLD.user_id AND tag = ANY (OLD.tags) AND task_id = OLD.id;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                PERFORM set_config('app.user_id', NEW.user_id::text, true);
                INSERT INTO public.task_tags (user_id, tag, task_id)
                SELECT NEW.user_id, tag, NEW.id FROM unnest(NEW.tags) AS tag
                ON CONFLICT DO NOTHING;
            END IF;
            PERFORM set_config('app.user_id', caller, true);
            RETURN NULL;
        END
        $$
"""
# Each has a tag's name and key as they are in a task, and the task.
TAGS_OF_TASKS = """
    tasks CROSS JOIN LATERAL unnest(tasks.tags) WITH ORDINALITY AS given (tag, place)
    CROSS JOIN LATERAL (SELECT tag_key(given.tag) AS key, tag_name(given.tag) AS name) AS same
"""


def upgrade() -> None:
    # Statements of servers may lock the tables in the opposite order: see revision 0011.
    op.execute("SET LOCAL lock_timeout = '500ms'")
    op.create_table(
        "user_tags",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.String(50), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "key", name="pk_user_tags"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_user_tags_user_id_users", ondelete="CASCADE"),
    )
    # The statements below join it with distributed tables.
    op.execute("""
        DO $$
        BEGIN
            IF public.is_distributed() THEN
                PERFORM create_distributed_table('user_tags', 'user_id', colocate_with => 'tasks');
            END IF;
        END
        $$
    """)
    _functions()
    _drop_triggers()
    # Forced row-level security would hide all rows from the owner. The tables are locked while it is not forced.
    for table in ("tasks", "task_tags"):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    _convert()
    op.execute("DELETE FROM task_tags")
    op.execute(f"""
        INSERT INTO task_tags (user_id, tag, task_id)
        SELECT tasks.user_id, same.key, tasks.id
        FROM {TAGS_OF_TASKS}
    """)  # noqa: S608 - constants of this module
    for table in ("tasks", "task_tags"):
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE user_tags ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE user_tags FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY user_tags_of_user ON user_tags USING ({MINE}) WITH CHECK ({MINE})")
    _keep_task_tags()
    _add_triggers(f"{CHANGED} AND {NOT_KEPT}")
    _add_new_triggers()
    # Counts of tags join it with the index of tags.
    _index_of_completed(" INCLUDE (deleted_at)")


def _functions() -> None:
    _tag_name()
    _tag_key()
    _tag_keys()
    _retagged()
    _name_task_tags()
    for function in NEW:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")


# The next four qualify all names instead of having a SET clause, which would cost more than they do themselves. The
# triggers avoid expressions, too: PL/pgSQL prepares each anew in each transaction. Most tags are their own keys.
# normalize() is SQL syntax that always calls the function in pg_catalog. Text in ASCII has nothing to normalize, and
# lower() with the collation C changes ASCII letters alone, in any locale.


def _single_spaces(words: str) -> str:
    return f"pg_catalog.btrim(pg_catalog.regexp_replace({words}, '[{WHITE_SPACE}]+', ' ', 'g'))"


def _without(characters: str) -> str:
    return f"pg_catalog.regexp_replace(words, '[{characters}]', '', 'g')"


def _tag_name() -> None:
    op.execute(rf"""
        CREATE FUNCTION tag_name(words text) RETURNS text {PURE} AS $$
        BEGIN
            IF pg_catalog.octet_length(words) OPERATOR(pg_catalog.<>) pg_catalog.length(words) THEN
                words := normalize({_without(INVISIBLE)}, NFC);
            END IF;
            RETURN {_single_spaces("words")};
        END
        $$
    """)
    op.execute("COMMENT ON FUNCTION tag_name(text) IS 'A tag as it is shown.'")


def _tag_key() -> None:
    longer = "words"
    for letter, folded in LONG_FOLDS.items():
        longer = f"pg_catalog.replace({longer}, '{letter}', '{folded}')"
    folded = f"pg_catalog.translate(words, '{''.join(FOLDS)}', '{''.join(FOLDS.values())}')"
    op.execute(rf"""
        CREATE FUNCTION tag_key(words text) RETURNS text {PURE} AS $$
        BEGIN
            IF words COLLATE pg_catalog."C" OPERATOR(pg_catalog.~) '^[!-@\[-~]+( [!-@\[-~]+)*$' THEN
                RETURN words;
            END IF;
            IF pg_catalog.octet_length(words) OPERATOR(pg_catalog.=) pg_catalog.length(words) THEN
                RETURN {_single_spaces('pg_catalog.lower(words COLLATE pg_catalog."C")')};
            END IF;
            words := normalize({_without(INVISIBLE + JOINING)}, NFD);
            IF words OPERATOR(pg_catalog.~) '[{"".join(LONG_FOLDS)}]' THEN
                words := {longer};
            END IF;
            words := normalize({folded}, NFC);
            RETURN {_single_spaces("words")};
        END
        $$
    """)
    op.execute("COMMENT ON FUNCTION tag_key(text) IS 'What all names of a tag have in common.'")


def _tag_keys() -> None:
    op.execute(f"""
        CREATE FUNCTION tag_keys(names text[]) RETURNS text[] {PURE} AS $$
        DECLARE
            name pg_catalog.text;
            key pg_catalog.text;
            keys pg_catalog.text[] := '{{}}';
        BEGIN
            FOREACH name IN ARRAY names LOOP
                key := public.tag_key(name);
                IF key OPERATOR(pg_catalog.<>) ALL (keys) THEN
                    keys := pg_catalog.array_append(keys, key);
                END IF;
            END LOOP;
            RETURN keys;
        END
        $$
    """)
    op.execute("COMMENT ON FUNCTION tag_keys(text[]) IS 'The keys of tags, each once, in the order of the tags.'")


def _retagged() -> None:
    op.execute(f"""
        CREATE FUNCTION retagged(names text[], added text[], removed text[]) RETURNS text[] {PURE} AS $$
        DECLARE
            name pg_catalog.text;
            key pg_catalog.text;
            wanted CONSTANT pg_catalog.text[] := public.tag_keys(added);
            unwanted CONSTANT pg_catalog.text[] := public.tag_keys(removed);
            kept pg_catalog.text[] := '{{}}';
            keys pg_catalog.text[] := '{{}}';
        BEGIN
            FOREACH name IN ARRAY names LOOP
                key := public.tag_key(name);
                IF key OPERATOR(pg_catalog.=) ANY (wanted) OR key OPERATOR(pg_catalog.<>) ALL (unwanted) THEN
                    kept := pg_catalog.array_append(kept, name);
                    keys := pg_catalog.array_append(keys, key);
                END IF;
            END LOOP;
            FOREACH name IN ARRAY added LOOP
                key := public.tag_key(name);
                IF key OPERATOR(pg_catalog.<>) ALL (keys) THEN
                    kept := pg_catalog.array_append(kept, name);
                    keys := pg_catalog.array_append(keys, key);
                END IF;
            END LOOP;
            RETURN kept;
        END
        $$
    """)
    op.execute("""
        COMMENT ON FUNCTION retagged(text[], text[], text[]) IS
        'Tags without those removed, and then with those added that are not among them.'
    """)


# Triggers act as the user of their row, and then restore the caller's user: see revision 0012.


def _name_task_tags() -> None:
    # The first name of a tag stays. The lookup must use the primary key, also in a cached plan from when the table was
    # empty. An error code of our own, because a cluster passes on no other sign of the rule that was broken.
    op.execute(f"""
        CREATE FUNCTION name_task_tags() {TRIGGER} SET enable_seqscan = off AS $$
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
                    IF wanted = '' THEN
                        RAISE check_violation USING MESSAGE = 'a tag must not be blank';
                    END IF;
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


def _keep_task_tags() -> None:
    # One statement for each key: for a condition on an array, PostgreSQL would plan anew each time, which takes longer
    # than the statement. The plans must use the primary key as well.
    op.execute("""
        CREATE OR REPLACE FUNCTION keep_task_tags() RETURNS trigger LANGUAGE plpgsql
        SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
        DECLARE
            caller CONSTANT text := current_setting('app.user_id', true);
            kept text[] := '{}';
            name text;
            key text;
        BEGIN
            IF TG_OP <> 'INSERT' THEN
                PERFORM set_config('app.user_id', OLD.user_id::text, true);
                IF TG_OP = 'UPDATE' AND (OLD.user_id, OLD.id) = (NEW.user_id, NEW.id) THEN
                    kept := public.tag_keys(NEW.tags);
                END IF;
                FOREACH key IN ARRAY public.tag_keys(OLD.tags) LOOP
                    CONTINUE WHEN key = ANY (kept);
                    DELETE FROM public.task_tags WHERE user_id = OLD.user_id AND tag = key AND task_id = OLD.id;
                END LOOP;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                PERFORM set_config('app.user_id', NEW.user_id::text, true);
                FOREACH name IN ARRAY NEW.tags LOOP
                    key := public.tag_key(name);
                    INSERT INTO public.task_tags (user_id, tag, task_id) VALUES (NEW.user_id, key, NEW.id)
                    ON CONFLICT DO NOTHING;
                END LOOP;
            END IF;
            PERFORM set_config('app.user_id', caller, true);
            RETURN NULL;
        END
        $$
    """)


def _convert() -> None:
    """Take the tags of users from their tasks, the oldest name of each, and give these names to the tasks."""
    op.execute(f"""
        INSERT INTO user_tags (user_id, key, name)
        SELECT DISTINCT ON (tasks.user_id, same.key) tasks.user_id, same.key, same.name
        FROM {TAGS_OF_TASKS} WHERE same.key <> ''
        ORDER BY tasks.user_id, same.key, tasks.created_at, tasks.id, given.place
    """)  # noqa: S608 - constants of this module
    # A task with other tags than before gets a new version, by a trigger, so that clients fetch it.
    op.execute(f"""
        UPDATE tasks SET tags = named.tags FROM (
            SELECT named.user_id, named.id, array_agg(named.name ORDER BY named.place) AS tags FROM (
                SELECT tasks.user_id, tasks.id, user_tags.name, min(given.place) AS place
                FROM {TAGS_OF_TASKS} JOIN user_tags ON user_tags.user_id = tasks.user_id AND user_tags.key = same.key
                GROUP BY tasks.user_id, tasks.id, user_tags.name
            ) AS named GROUP BY named.user_id, named.id
        ) AS named
        WHERE tasks.user_id = named.user_id AND tasks.id = named.id AND tasks.tags <> named.tags
    """)  # noqa: S608 - constants of this module
    op.execute("UPDATE tasks SET tags = '{}' WHERE tags <> '{}' AND tag_keys(tags) = '{\"\"}'")


def _drop_triggers() -> None:
    for name in ("insert", "update", "delete"):
        op.execute(f"DROP TRIGGER keep_task_tags_on_{name} ON tasks")


def _add_triggers(updated: str) -> None:
    """Add the triggers that keep the index. They do not fire for tasks without tags."""
    for name, event, changed in (
        ("insert", "INSERT", "NEW.tags <> '{}'"),
        ("update", "UPDATE OF user_id, id, tags", updated),
        ("delete", "DELETE", "OLD.tags <> '{}'"),
    ):
        op.execute(
            f"CREATE TRIGGER keep_task_tags_on_{name} AFTER {event} ON tasks "
            f"FOR EACH ROW WHEN ({changed}) EXECUTE FUNCTION keep_task_tags()"
        )


def _index_of_completed(included: str) -> None:
    # In the transaction of the migration: writes of tasks wait while it is built, reads do not.
    op.execute("""
        -- squawk-ignore require-concurrent-index-deletion
        DROP INDEX ix_tasks_completed_created
    """)
    op.execute(f"""
        -- squawk-ignore require-concurrent-index-creation
        CREATE INDEX ix_tasks_completed_created ON tasks (user_id, completed, created_at, id){included}
    """)


def _add_new_triggers() -> None:
    # By their names, these fire after the triggers that take the lock of the user's clock. In the opposite order two
    # writes could block one another.
    for name, event, changed in (
        ("tag_inserted_task", "BEFORE INSERT", "NEW.tags <> '{}'"),
        (
            "tag_updated_task",
            "BEFORE UPDATE OF user_id, tags",
            f"NEW.tags <> '{{}}' AND (OLD.user_id, OLD.tags) <> (NEW.user_id, NEW.tags) AND {NOT_KEPT}",
        ),
    ):
        op.execute(
            f"CREATE TRIGGER {name} {event} ON tasks FOR EACH ROW WHEN ({changed}) EXECUTE FUNCTION name_task_tags()"
        )


def downgrade() -> None:
    _index_of_completed("")
    for name in ("tag_inserted_task", "tag_updated_task"):
        op.execute(f"DROP TRIGGER {name} ON tasks")
    _drop_triggers()
    for table in ("tasks", "task_tags"):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute("DELETE FROM task_tags")
    op.execute("INSERT INTO task_tags SELECT DISTINCT user_id, unnest(tags), id FROM tasks")
    for table in ("tasks", "task_tags"):
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(KEEP_NAMES)
    _add_triggers(CHANGED)
    for function in reversed(NEW):
        op.execute(f"DROP FUNCTION {function}")
    op.drop_table("user_tags")
