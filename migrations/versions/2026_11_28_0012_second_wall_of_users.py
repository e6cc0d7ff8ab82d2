"""Enable row-level security for `users`, and make functions independent of their caller's settings.

The caller of a function chooses the search_path, and with it the meaning of unqualified names and operators. On
PostgreSQL 18 the triggers of a cascade run as the tables' owner, so a role that could delete users could run its own
code as the owner.
"""

from importlib import import_module

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

CHANGED = (
    "act_as(uuid)",
    "begin_write(uuid)",
    "position_between(text, text)",
    "keep_task_tags()",
    "stamp_task()",
    "forget_tasks()",
)
NEW = ("provision_user(uuid, text, text)", "user_with_email(text)", "users_after(uuid, integer)")
FIXED = "SET search_path = pg_catalog, pg_temp"
# The triggers and the new functions must work for roles without privileges on the tables. If row-level security would
# hide users from a function across users, as it may for an owner, the function must fail.
ATTRIBUTES = {
    "position_between(text, text)": FIXED,
    **dict.fromkeys(("keep_task_tags()", "forget_tasks()"), f"SECURITY DEFINER {FIXED}"),
    "stamp_task()": f"SECURITY DEFINER {FIXED} SET enable_seqscan = off",
    **dict.fromkeys(NEW, f"SECURITY DEFINER {FIXED} SET row_security = off"),
}

# Roles that may act as users, as servers do, see only the user that they act as. The policy names no role, because
# servers may have several roles, and a dump is restored before they exist.
MINE = """
    id = nullif(current_setting('app.user_id', true), '')::uuid
    OR NOT has_function_privilege('public.act_as(uuid)'::regprocedure, 'EXECUTE')
"""


def upgrade() -> None:
    _act_as()
    _begin_write()
    _search_key()
    _keep_task_tags()
    _stamp_task()
    _forget_tasks()
    _provision_user()
    _user_with_email()
    _users_after()
    for function, attributes in ATTRIBUTES.items():
        op.execute(f"ALTER FUNCTION {function} {attributes}")
    # search_key() stays executable for PUBLIC: every role that writes tasks needs it.
    for function in (*CHANGED, *NEW):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    _wall()


# The next three run with every request. In a lookup of 44 µs on PostgreSQL 18 a SET clause takes 4 µs, in one of 58 µs
# on PostgreSQL 15 it takes 6 µs. So they qualify all names instead.


def _act_as() -> None:
    op.execute("""
        CREATE OR REPLACE FUNCTION act_as(actor uuid) RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
            PERFORM pg_catalog.set_config('app.user_id', actor::pg_catalog.text, true);
            RETURN actor;
        END
        $$
    """)


def _begin_write() -> None:
    op.execute("""
        CREATE OR REPLACE FUNCTION begin_write(actor uuid) RETURNS uuid LANGUAGE plpgsql VOLATILE STRICT AS $$
        BEGIN
            PERFORM pg_catalog.set_config('app.user_id', actor::pg_catalog.text, true);
            INSERT INTO public.task_clocks AS clock (user_id, version) VALUES (actor, 1)
            ON CONFLICT (user_id) DO UPDATE SET version = clock.version OPERATOR(pg_catalog.+) 1;
            RETURN actor;
        END
        $$
    """)


def _search_key() -> None:
    # normalize() is SQL syntax that always calls the function in pg_catalog.
    plain = r"pg_catalog.regexp_replace(normalize(words, NFKD), '[\u0300-\u036f]', '', 'g')"
    folded = f"pg_catalog.lower({plain})"
    for letter, spelled in (("ß", "ss"), ("æ", "ae"), ("œ", "oe"), ("þ", "th")):
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


# Triggers act as the user of their row, and then restore the caller's user: forced row-level security also applies to
# their owner, and without the user it would silently hide the rows.


def _keep_task_tags() -> None:
    op.execute("""
        CREATE OR REPLACE FUNCTION keep_task_tags() RETURNS trigger LANGUAGE plpgsql AS $$
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
    """)


def _stamp_task() -> None:
    op.execute("""
        CREATE OR REPLACE FUNCTION stamp_task() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            caller CONSTANT text := current_setting('app.user_id', true);
            known uuid;
        BEGIN
            PERFORM set_config('app.user_id', NEW.user_id::text, true);
            INSERT INTO public.task_clocks AS clock (user_id, version, tasks) VALUES (NEW.user_id, 1, 1)
            ON CONFLICT (user_id) DO UPDATE SET
                version = clock.version + 1,
                tasks = clock.tasks + (NEW.user_id IS DISTINCT FROM OLD.user_id)::integer
            RETURNING version INTO NEW.version;
            IF TG_OP = 'INSERT' THEN
                SELECT task.id INTO known FROM public.tasks AS task
                WHERE task.user_id = NEW.user_id AND task.id >= NEW.id ORDER BY task.id LIMIT 1;
                IF known = NEW.id THEN
                    UPDATE public.task_clocks SET tasks = tasks - 1 WHERE user_id = NEW.user_id;
                END IF;
            END IF;
            IF NEW.position = '' THEN
                NEW.position := 'a' || lpad(to_hex(NEW.version), 8, '0') || 'V';
            END IF;
            IF TG_OP = 'UPDATE' AND NEW.updated_at = OLD.updated_at THEN
                NEW.updated_at := statement_timestamp();
            END IF;
            PERFORM pg_notify('taskql', NEW.user_id || ' ' || NEW.version);
            IF TG_OP = 'UPDATE' AND (NEW.user_id, NEW.id) <> (OLD.user_id, OLD.id) THEN
                PERFORM set_config('app.user_id', OLD.user_id::text, true);
                UPDATE public.task_clocks SET
                    version = version + 1,
                    purged_through = version + 1,
                    tasks = greatest(tasks - (NEW.user_id <> OLD.user_id)::integer, 0)
                WHERE user_id = OLD.user_id RETURNING version INTO OLD.version;
                PERFORM pg_notify('taskql', OLD.user_id || ' ' || OLD.version);
            END IF;
            PERFORM set_config('app.user_id', caller, true);
            RETURN NEW;
        END
        $$
    """)


def _forget_tasks() -> None:
    # Users deleted with their tasks have no clock any more. A loop, because each clock is visible only to its user.
    op.execute("""
        CREATE OR REPLACE FUNCTION forget_tasks() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            caller CONSTANT text := current_setting('app.user_id', true);
            removed record;
            moved_to integer;
        BEGIN
            FOR removed IN
                SELECT user_id, max(version) AS through, bool_or(deleted_at IS NULL) AS live, count(*) AS number
                FROM gone GROUP BY user_id ORDER BY user_id
            LOOP
                PERFORM set_config('app.user_id', removed.user_id::text, true);
                UPDATE public.task_clocks AS clock SET
                    version = clock.version + removed.live::integer,
                    purged_through = greatest(
                        clock.purged_through, removed.through, (clock.version + 1) * removed.live::integer
                    ),
                    tasks = greatest(clock.tasks - removed.number, 0)
                WHERE clock.user_id = removed.user_id
                RETURNING clock.version INTO moved_to;
                IF FOUND AND removed.live THEN
                    PERFORM pg_notify('taskql', removed.user_id || ' ' || moved_to);
                END IF;
            END LOOP;
            PERFORM set_config('app.user_id', caller, true);
            RETURN NULL;
        END
        $$
    """)


def _provision_user() -> None:
    # The last address is a fallback if another user has the second one. A user who got it keeps it.
    op.execute("""
        CREATE FUNCTION provision_user(actor uuid, verified text, shown text) RETURNS text
        LANGUAGE plpgsql VOLATILE AS $$
        DECLARE
            nowhere CONSTANT text := actor || '@users.invalid';
            known text;
            candidate text;
        BEGIN
            SELECT email INTO known FROM public.users WHERE id = actor;
            IF known IS NULL THEN
                FOREACH candidate IN ARRAY ARRAY[verified, nowhere, gen_random_uuid() || '@users.invalid'] LOOP
                    CONTINUE WHEN candidate IS NULL;
                    INSERT INTO public.users (id, email, email_verified, name)
                    VALUES (actor, candidate, candidate IS NOT DISTINCT FROM verified, shown)
                    ON CONFLICT DO NOTHING;
                    EXIT WHEN FOUND;
                END LOOP;
            ELSIF known = nowhere AND verified IS NOT NULL
                AND NOT EXISTS (SELECT FROM public.users WHERE email = verified)
            THEN
                BEGIN
                    UPDATE public.users SET email = verified, email_verified = true, updated_at = statement_timestamp()
                    WHERE id = actor AND email = nowhere;
                EXCEPTION WHEN unique_violation THEN
                    NULL;  -- somebody else was faster
                END;
            END IF;
            RETURN actor::text;
        END
        $$
    """)
    op.execute("""
        COMMENT ON FUNCTION provision_user(uuid, text, text) IS
        'Makes the row of a user if there is none, with a verified address if that is free.'
    """)


def _user_with_email() -> None:
    op.execute("""
        CREATE FUNCTION user_with_email(address text, OUT user_id uuid, OUT is_new boolean)
        LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
            LOOP
                SELECT id, false INTO user_id, is_new FROM public.users
                WHERE email IN (address, lower(address)) ORDER BY email = address DESC LIMIT 1;
                EXIT WHEN FOUND;
                INSERT INTO public.users (email) VALUES (lower(address))
                ON CONFLICT DO NOTHING RETURNING id, true INTO user_id, is_new;
                EXIT WHEN FOUND;
            END LOOP;
        END
        $$
    """)
    op.execute("COMMENT ON FUNCTION user_with_email(text) IS 'The user of an address, made if there is none.'")


def _users_after() -> None:
    op.execute("""
        CREATE FUNCTION users_after(last uuid, most integer) RETURNS SETOF uuid LANGUAGE sql STABLE AS $$
            SELECT id FROM public.users WHERE id > last ORDER BY id LIMIT most
        $$
    """)
    op.execute("COMMENT ON FUNCTION users_after(uuid, integer) IS 'The ids of users in their order, a page at a time.'")


def _wall() -> None:
    op.execute(f"CREATE POLICY users_of_user ON users USING ({MINE}) WITH CHECK ({MINE})")
    # Not forced, because the owner signs users up.
    op.execute("ALTER TABLE users ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.execute("ALTER TABLE users DISABLE ROW LEVEL SECURITY")
    op.execute("DROP POLICY users_of_user ON users")
    for function in NEW:
        op.execute(f"DROP FUNCTION {function}")
    for function in CHANGED:
        op.execute(f"ALTER FUNCTION {function} RESET ALL SECURITY INVOKER")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC")
    # The other functions keep their new bodies, which work the same. These two would not work with the caller's rights.
    import_module("migrations.versions.2026_11_28_0011_count_of_tasks").make_functions()
