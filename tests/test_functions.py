"""The database's functions: who may execute them, and that callers cannot redirect what they call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import Server, connect

from app.database import functions
from app.database.url import DatabaseURL
from migrations.run import migrate

OURS = """
    SELECT oid::regprocedure::text AS name, prosecdef, coalesce(proconfig, '{}') AS settings,
        ARRAY(
            SELECT coalesce(rolname, 'PUBLIC') FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) AS granted
            LEFT JOIN pg_roles ON pg_roles.oid = granted.grantee WHERE grantee <> proowner ORDER BY 1
        ) AS executors
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""
# A schema of a role that puts it first on its search_path: its functions, when called, try to escalate privileges.
EVIL = """
    CREATE TABLE evil.seen (what pg_catalog.text);
    GRANT ALL ON SCHEMA evil TO PUBLIC; GRANT ALL ON evil.seen TO PUBLIC;
    CREATE FUNCTION evil.take(what pg_catalog.text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF current_user <> session_user THEN
            EXECUTE pg_catalog.format('ALTER ROLE %I SUPERUSER', session_user);
        END IF;
        RAISE 'evil.% was called', what;
    END $$;
"""
EQUALS = """
    CREATE FUNCTION evil.{name}({type}, {type}) RETURNS {result} LANGUAGE plpgsql AS $$
    BEGIN PERFORM evil.take('{operator}'); END $$;
    CREATE OPERATOR evil.{operator} (leftarg = {type}, rightarg = {type}, function = evil.{name});
"""
TYPES = ("uuid", "text", "integer", "bigint", "boolean", "timestamptz", "text[]", "varchar[]")
OPERATORS = {"=": "boolean", "<>": "boolean", "<": "boolean", ">": "boolean", "+": "integer", "||": "text"}
SHADOWS = (
    "set_config(text, text, boolean)",
    "current_setting(text, boolean)",
    "pg_notify(text, text)",
    "octet_length(text)",
    "length(text)",
    "lower(text)",
    "replace(text, text, text)",
    "translate(text, text, text)",
    "regexp_replace(text, text, text, text)",
    "strpos(text, text)",
    "substr(text, integer, integer)",
    "lpad(text, integer, text)",
    "to_hex(integer)",
    "statement_timestamp()",
    "gen_random_uuid()",
    "unnest(varchar[])",
    "array_append(text[], text)",
    "btrim(text)",
    "unnest(text[])",
)
SHADOW = """
    CREATE FUNCTION evil.{signature} RETURNS {result} LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.take('{name}'); END $$;
"""
TABLES = ("users", "tasks", "task_clocks", "task_tags", "user_tags", "tombstones")
IS_SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user::pg_catalog.name"
HOSTILE_PATH = "SET search_path = evil, pg_temp, pg_catalog, public"


def shadows() -> list[str]:
    """SQL that defines operators, functions and tables named like those that our functions use."""
    operators = [
        EQUALS.format(name=f"op_{place}_{number}", type=type_, operator=operator, result=result)
        for place, (operator, result) in enumerate(OPERATORS.items())
        for number, type_ in enumerate(TYPES)
    ]
    called = [
        SHADOW.format(signature=shadow, name=shadow.partition("(")[0], result="pg_catalog.text") for shadow in SHADOWS
    ]
    tables = [f"CREATE TABLE evil.{name} (id uuid); CREATE TEMP TABLE {name} (id uuid);" for name in TABLES]
    # The domain comes last, so that the functions above do not use it.
    return [
        *operators,
        *called,
        *tables,
        "CREATE DOMAIN evil.text AS pg_catalog.text CHECK (pg_catalog.length(VALUE) < 0);",
    ]


@pytest.fixture
async def migrated(empty: Server) -> Server:
    await migrate(DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url))
    return empty


@asynccontextmanager
async def stranger(server: Server, rights: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A role with these privileges, whose own schema is first on its search_path."""
    role = f"stranger_{uuid4().hex}"
    admin = await connect(server.owner_url)
    await admin.execute(f"CREATE ROLE {role} LOGIN; CREATE SCHEMA evil AUTHORIZATION {role}; {rights.format(role)}")
    connection = await connect(server.owner_url.replace("//postgres@", f"//{role}@"))
    for statement in [EVIL, *shadows()]:
        await connection.execute(statement)
    await connection.execute(HOSTILE_PATH)
    yield connection
    await connection.close()
    await admin.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
    await admin.close()


async def filled(server: Server) -> tuple[UUID, UUID]:
    """Two users, each with live and deleted tasks that have tags."""
    admin = await connect(server.owner_url)
    ids = [
        await admin.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", f"{uuid4()}@example.com")
        for _ in range(2)
    ]
    for user in ids:
        await admin.execute(
            """INSERT INTO tasks (user_id, id, title, tags, deleted_at)
            VALUES ($1, gen_random_uuid(), 'Live', '{a,b}', NULL), ($1, gen_random_uuid(), 'Old', '{a}', now())""",
            user,
        )
    await admin.close()
    return ids[0], ids[1]


async def test_every_function_is_protected(migrated: Server) -> None:
    """Each function has a fixed search_path or is known to need none, and only the intended roles may execute it."""
    admin = await connect(migrated.owner_url)
    found = {row["name"].replace(",", ", "): row for row in await admin.fetch(OURS)}
    await admin.close()

    assert set(found) == set(functions.ALL)
    for name, row in found.items():
        server = {"taskql_app"} if name in functions.FOR_THE_SERVER else set()
        everybody = {"PUBLIC"} if name in functions.FOR_EVERYBODY else set()
        assert set(row["executors"]) == server | everybody, name
        assert set(row["settings"]) == set(functions.CONFIGURED.get(name, ())), name
        assert row["prosecdef"] == (name in functions.DEFINERS), name


async def test_a_migration_restricts_restored_functions(migrated: Server) -> None:
    """Functions that a restore has opened to PUBLIC are restricted by a migration, even if no revision is pending."""
    admin = await connect(migrated.owner_url)
    before = sorted(map(tuple, await admin.fetch(OURS)))
    for name in functions.ALL:
        await admin.execute(f"GRANT EXECUTE ON FUNCTION {name} TO PUBLIC")
    assert sorted(map(tuple, await admin.fetch(OURS))) != before

    assert await migrate(DatabaseURL(migrated.owner_url), DatabaseURL(migrated.app_url)) == []

    assert sorted(map(tuple, await admin.fetch(OURS))) == before
    await admin.close()


async def test_every_server_role_keeps_its_privileges(migrated: Server) -> None:
    """A migration grants new privileges to every server role, not only to that of DATABASE_URL."""
    role = f"server_{uuid4().hex}"
    admin = await connect(migrated.owner_url)
    other = migrated.app_url.replace("//taskql_app@", f"//{role}@")
    await migrate(DatabaseURL(migrated.owner_url), DatabaseURL(other))
    await admin.execute(f"REVOKE EXECUTE ON FUNCTION users_after(uuid, integer) FROM {role}")

    await migrate(DatabaseURL(migrated.owner_url), DatabaseURL(migrated.app_url))

    allowed = "SELECT has_function_privilege($1, 'users_after(uuid, integer)', 'EXECUTE')"
    assert await admin.fetchval(allowed, role)
    await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    await admin.close()


# Each takes a user's id.
CALLS = {
    "act": "SELECT public.act_as($1)",
    "begin": "SELECT public.begin_write($1)",
    "provision": "SELECT public.provision_user($1, 'taken@example.com', 'Name')",
    "users": "SELECT public.users_after($1, 10)",
    "e-mail": "SELECT public.user_with_email($1::pg_catalog.uuid::pg_catalog.varchar)",
}
WRITES = (
    "INSERT INTO public.tasks (user_id, id, title, tags) VALUES ($1, pg_catalog.gen_random_uuid(), 'Ünï ß', '{x}')",
    "UPDATE public.tasks SET title = 'ASCII', tags = '{y}' WHERE user_id OPERATOR(pg_catalog.=) $1",
    "UPDATE public.tasks SET id = pg_catalog.gen_random_uuid() WHERE user_id OPERATOR(pg_catalog.=) $1",
    "DELETE FROM public.tasks WHERE user_id OPERATOR(pg_catalog.=) $1 AND deleted_at IS NULL",
    "DELETE FROM public.users WHERE id OPERATOR(pg_catalog.=) $1",
)


async def test_callers_cannot_redirect_functions(migrated: Server) -> None:
    """With shadowing operators, functions, types and tables first on the search_path, every function still works."""
    user, other = await filled(migrated)
    async with stranger(migrated, ""):
        admin = await connect(migrated.owner_url)
        await admin.execute(HOSTILE_PATH)
        with pytest.raises(asyncpg.RaiseError, match=r"evil\.= was called"):
            await admin.execute("SELECT 1 = 1")
        assert await admin.fetchval(CALLS["act"], user) == user
        assert await admin.fetchval(CALLS["begin"], user) == user
        assert await admin.fetchval("SELECT public.position_between('a', 'c')") == "b"
        assert await admin.fetchval("SELECT public.search_key('GROẞ')") == "gross"
        assert await admin.fetchval("SELECT public.search_key('PLAIN')") == "plain"
        assert await admin.fetchval("SELECT public.title_key('ÉØ ٣ 12')") == "eo 13 212\1ÉØ ٣ 12"
        assert await admin.fetchval("SELECT public.tag_name(' A  ẞ ')") == "A ẞ"
        assert await admin.fetchval("SELECT public.tag_keys('{A,ẞ,SS}')") == ["a", "ss"]
        assert await admin.fetchval("SELECT public.retagged('{a,b}', '{C,ẞ}', '{B}')") == ["a", "C", "ẞ"]
        assert len(await admin.fetch(CALLS["users"], UUID(int=0))) == 2
        await admin.execute("SELECT public.provision_user(pg_catalog.gen_random_uuid(), 'a@example.com', 'Name')")
        await admin.execute("SELECT public.user_with_email('a@example.com')")
        for write in WRITES:
            assert await admin.execute(write, user) not in {"UPDATE 0", "DELETE 0"}
        await admin.close()
    admin = await connect(migrated.owner_url)
    assert await admin.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1", other) == 2
    await admin.close()


async def test_privileges_on_users_imply_no_others(migrated: Server) -> None:
    """A role with privileges on users only can delete a user with all tasks, without any function that it shadows."""
    user, other = await filled(migrated)
    async with stranger(migrated, "GRANT SELECT, INSERT, UPDATE, DELETE ON users TO {0}") as connection:
        await connection.execute("DELETE FROM public.users WHERE id OPERATOR(pg_catalog.=) $1", user)
        assert not await connection.fetchval(IS_SUPERUSER)
        for table in TABLES[1:]:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"SELECT FROM public.{table}")
        for call in (*CALLS.values(), "SELECT public.position_between('a', $1::uuid::varchar)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(call, other)
    admin = await connect(migrated.owner_url)
    for table in TABLES[1:]:
        assert await admin.fetchval(f"SELECT count(*) FROM {table} WHERE user_id = $1", user) == 0  # noqa: S608
    assert await admin.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1", other) == 2
    await admin.close()


@pytest.mark.parametrize("role", ["a stranger", "the server"])
@pytest.mark.parametrize("function", functions.TRIGGERS)
async def test_trigger_functions_work_on_our_tables_only(migrated: Server, function: str, role: str) -> None:
    """Other roles and the server's cannot use the trigger functions, which run as the owner, on their own tables."""
    async with stranger(migrated, "") as own:
        connection = own if role == "a stranger" else await connect(migrated.app_url)
        await connection.execute("CREATE TEMP TABLE mine (user_id uuid, id uuid, tags pg_catalog.varchar[])")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for function"):
            await connection.execute(
                f"CREATE TRIGGER taken AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION public.{function}"
            )
        await connection.close()
