"""Migrations run up, down and up again, produce what the models describe, and create named constraints."""

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from conftest import ON_CLUSTER, Server, User, connect, made_settings
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.database import checks
from app.database.url import DatabaseURL
from app.errors import StartupError
from app.settings import Settings
from app.startup import findings, refuse_failures
from migrations.run import config, migrate, missing

VERSIONS = Path(__file__).parent.parent / "migrations" / "versions"
REVISIONS = sorted(path.name.split("_")[3] for path in VERSIONS.glob("2*.py"))

# Functions whose bodies a downgrade of 0012 leaves as they are: they are equivalent.
BODIES_STAY = ("act_as(uuid)", "begin_write(uuid)", "keep_task_tags()", "search_key(text)")


def test_migrations_depend_on_nothing_that_changes() -> None:
    """A published migration must do the same forever, so it imports nothing from the application."""
    for path in [*VERSIONS.glob("2*.py"), VERSIONS.parent / "unicode_14.py"]:
        assert not re.search(r"^\s*(?:from|import) (?:app|schema)\b", path.read_text(), re.MULTILINE), path.name


@pytest.fixture
async def admin(empty: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A superuser's connection to the test's own database."""
    connection = await connect(empty.owner_url)
    yield connection
    await connection.close()


async def run(url: str, work: Any) -> Any:
    """Run a synchronous function on a connection as Alembic uses it."""
    engine = create_async_engine(DatabaseURL(url).sqlalchemy, poolclass=NullPool)
    async with engine.connect() as connection:
        result = await connection.run_sync(work)
        await connection.commit()
    await engine.dispose()
    return result


async def shape(url: str) -> list[tuple[Any, ...]]:
    """Every column, constraint, index, policy and function of the public schema."""
    connection = await connect(url)
    rows = await connection.fetch("""
        SELECT 'column', table_name::text, column_name::text,
            data_type::text || is_nullable || coalesce(column_default, '')
        FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT 'policy', tablename, policyname, qual || with_check FROM pg_policies
        UNION ALL SELECT 'function', '', proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        ORDER BY 1, 2, 3, 4
    """)
    await connection.close()
    return [tuple(row) for row in rows]


async def test_up_down_and_up_again(empty: Server) -> None:
    """A downgrade leaves nothing behind, and another upgrade gives the same schema."""
    owner, server = DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url)
    assert await migrate(owner, server) == REVISIONS
    first = await shape(empty.owner_url)

    await run(empty.owner_url, lambda connection: command.downgrade(config(connection), "base"))
    left = {row[1] for row in await shape(empty.owner_url)}
    assert left <= {"alembic_version"}
    await migrate(owner, server)

    assert await shape(empty.owner_url) == first


async def left_by(connection: "asyncpg.Connection[Any]") -> dict[str, Any]:
    """The functions, triggers, policies, row-level security and privileges that the revisions created so far."""
    rows = await connection.fetch("""
        SELECT 'function ' || oid::regprocedure, regexp_replace(prosrc, '[[:space:]]+', ' ', 'g'),
            concat_ws(' ', prosecdef, provolatile, proisstrict, proparallel, proconfig,
                (SELECT string_agg(item::text, ' ' ORDER BY item::text)
                 FROM unnest(coalesce(proacl, acldefault('f', proowner))) AS item))
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT 'trigger ' || tgname, pg_get_triggerdef(oid), tgenabled::text
        FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT 'policy ' || polname, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
        FROM pg_policy
        UNION ALL SELECT 'relation ' || relname, concat_ws(' ', relrowsecurity, relforcerowsecurity, relacl),
            (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull), ', '
                ORDER BY attname) FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped)
        FROM pg_class WHERE relnamespace = 'public'::regnamespace
    """)
    return {name: tuple(facts) for name, *facts in rows}


async def test_each_step_down_leaves_what_was_before(empty: Server, admin: "asyncpg.Connection[Any]") -> None:
    """Each downgrade restores functions, settings, privileges, triggers, policies and columns."""
    before: dict[str, Any] = {}
    for revision, below in zip(REVISIONS, ["base", *REVISIONS], strict=False):
        up, down = partial(_step, command.upgrade, revision), partial(_step, command.downgrade, below)
        await run(empty.owner_url, up)
        above = await left_by(admin)
        await run(empty.owner_url, down)
        left = await left_by(admin)
        for facts in (before, left):  # Alembic's own table, which no revision creates
            for name in [name for name in facts if "alembic_version" in name]:
                del facts[name]
        wrong = {name for name in before.keys() | left.keys() if before.get(name) != left.get(name)}
        stay = {f"function {name}" for name in BODIES_STAY} if revision == "0012" else set()
        assert wrong - stay == set(), revision
        assert [before[name][1] for name in stay] == [left[name][1] for name in stay]
        await run(empty.owner_url, up)
        assert await left_by(admin) == above
        before = above


def _step(move: Any, revision: str, connection: Any) -> None:
    move(config(connection), revision)


async def test_existing_tasks_are_counted(empty: Server, admin: "asyncpg.Connection[Any]") -> None:
    """An owner subject to row-level security counts each user's live and trashed tasks, and leaves it enabled."""
    owner = f"owner_{uuid4().hex}"
    await admin.execute(f"CREATE ROLE {owner} LOGIN CREATEROLE NOSUPERUSER NOBYPASSRLS")
    await admin.execute(f"ALTER DATABASE {await admin.fetchval('SELECT current_database()')} OWNER TO {owner}")
    owner_url = DatabaseURL(empty.owner_url.replace("//postgres@", f"//{owner}@"))
    await migrate(owner_url, None, "0010")
    many, one, none = [
        await admin.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", name) for name in ("a", "b", "c")
    ]
    await admin.execute(
        "INSERT INTO tasks (user_id, id, title, deleted_at)"
        " SELECT u, gen_random_uuid(), 'x', CASE WHEN n > 2 THEN now() END"
        " FROM (VALUES ($1::uuid, 4), ($2, 1)) AS users (u, most), generate_series(1, most) AS n",
        many,
        one,
    )
    await admin.execute("INSERT INTO task_clocks (user_id) VALUES ($1)", none)
    walls = "SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname LIKE 'task%'"
    before = await admin.fetch(walls)

    await migrate(owner_url, None, "0011")

    assert dict(await admin.fetch("SELECT user_id, tasks FROM task_clocks")) == {many: 4, one: 1, none: 0}
    assert await admin.fetch(walls) == before
    await admin.execute(f"REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}; DROP ROLE {owner}")


async def test_the_models_are_what_the_migrations_make(empty: Server) -> None:
    """`alembic check` finds no difference, and ignores tables that are not TaskQL's."""
    await migrate(DatabaseURL(empty.owner_url), None)
    stranger = await connect(empty.owner_url)
    await stranger.execute("CREATE TABLE sessions (id text PRIMARY KEY, token text)")
    await stranger.close()

    await run(empty.owner_url, lambda connection: command.check(config(connection)))


async def test_a_revision_of_a_newer_taskql(empty: Server) -> None:
    """A database migrated by a newer TaskQL is rejected with an error that names the revision, and stays as it is."""
    owner, server = DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url)
    await migrate(owner, server)
    newer = await connect(empty.owner_url)
    await newer.execute("UPDATE alembic_version SET version_num = '9999'")
    await newer.close()

    with pytest.raises(StartupError, match="revision 9999"):
        await findings(made_settings(empty))
    with pytest.raises(StartupError, match="revision 9999"):
        await migrate(owner, server)


async def test_several_at_once_wait_for_one_another(empty: Server) -> None:
    """Of concurrent migrations one applies the revisions, and the others find nothing to do."""
    owner, server = DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url)

    applied = await asyncio.gather(*(migrate(owner, server) for _ in range(4)))

    assert sorted(applied) == [[], [], [], REVISIONS]


async def test_the_servers_role_is_made_without_special_rights(empty: Server) -> None:
    """`migrate` creates the role in DATABASE_URL: it can serve, and is subject to row-level security."""
    role = f"role_{uuid4().hex}"
    app_url = empty.app_url.replace("//taskql_app@", f"//{role}:a%20quo'te@")
    await migrate(DatabaseURL(empty.owner_url), DatabaseURL(app_url))

    levels = {finding.level for finding in await findings(made_settings(Server(empty.owner_url, app_url)))}
    connection = await connect(empty.owner_url)
    rights = await connection.fetchrow(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = $1", role
    )
    await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    await connection.close()

    assert levels == {"ok"}
    assert rights is not None
    assert not any(rights)


async def test_missing_revisions_are_named(empty: Server) -> None:
    """A database without migrations is rejected, and the error names the missing revisions."""
    assert await run(empty.owner_url, missing) == REVISIONS

    with pytest.raises(StartupError, match="lacks the migrations 0001, 0002, 0003, 0004, 0005, 0006, 0007, 0008, 0009"):
        await refuse_failures(made_settings(empty))


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("ALTER TABLE tasks NO FORCE ROW LEVEL SECURITY", "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY, FORCE"),
        ("ALTER TABLE task_clocks DISABLE ROW LEVEL SECURITY", "ALTER TABLE task_clocks ENABLE"),
        ("ALTER TABLE tasks OWNER TO taskql_app", "owns tasks"),
        ("CREATE POLICY oops ON tasks USING (true)", "DROP POLICY oops ON tasks"),
        ("REVOKE INSERT ON tasks FROM taskql_app", "lacks privileges"),
        ("DROP FUNCTION begin_write(uuid)", "lacks privileges"),
        ("ALTER TABLE users DISABLE ROW LEVEL SECURITY", "ALTER TABLE users ENABLE ROW LEVEL SECURITY, NO FORCE"),
        ("GRANT EXECUTE ON FUNCTION users_after(uuid, integer) TO PUBLIC", "REVOKE EXECUTE ON FUNCTION users_after"),
    ],
)
async def test_missing_protection_is_rejected(empty: Server, statement: str, words: str) -> None:
    """Without intact row-level security and privileges the server does not start, and names the fix."""
    await migrate(DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url))
    connection = await connect(empty.owner_url)
    await connection.execute(statement)
    await connection.close()

    with pytest.raises(StartupError, match=words):
        await refuse_failures(made_settings(empty))


async def test_a_superuser_is_refused(empty: Server) -> None:
    """A role that bypasses row-level security cannot serve."""
    await migrate(DatabaseURL(empty.owner_url), None)

    with pytest.raises(StartupError, match="is a superuser"):
        await refuse_failures(made_settings(Server(empty.owner_url, empty.owner_url)))


async def test_an_old_server_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PostgreSQL older than the oldest supported version is rejected with its version."""
    monkeypatch.setattr(checks, "OLDEST_SERVER", 990000)

    with pytest.raises(StartupError, match=r"The server is PostgreSQL \d+"):
        await refuse_failures(settings)


@pytest.mark.parametrize(
    ("column", "value", "constraint"),
    [
        ("title", "' \t '", "ck_tasks_title_not_blank"),
        ("priority", "5", "ck_tasks_priority_known"),
        ("completed", "true", "ck_tasks_completed_at_with_completed"),
        ("due_date", "'infinity'", "ck_tasks_due_date_finite"),
        ("tags", "array(SELECT n::text FROM generate_series(1, 21) AS n)", "ck_tasks_tags_few"),
        ("tags", "'{a,null}'", "ck_tasks_tags_not_null"),
        ("user_id", "gen_random_uuid()", "fk_task_clocks_user_id_users"),
    ],
)
async def test_constraints_hold_in_the_database(
    alice: User, owner: "asyncpg.Connection[Any]", column: str, value: str, constraint: str
) -> None:
    """Named constraints in the database enforce what the API promises of a task, for all roles."""
    task = await alice.add()

    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as caught:
        await owner.execute(f"UPDATE tasks SET {column} = {value} WHERE id = $1", task["id"])  # noqa: S608 - from above
    # A cluster passes the name on in the message only, with the number of the shard.
    assert (constraint in str(caught.value)) if ON_CLUSTER else (caught.value.constraint_name == constraint)


@pytest.mark.parametrize(("column", "value"), [("title", "repeat('x', 201)"), ("tags", "array[repeat('x', 51)]")])
async def test_lengths_hold_in_the_database(
    alice: User, owner: "asyncpg.Connection[Any]", column: str, value: str
) -> None:
    """The database enforces the schema's maximum lengths."""
    task = await alice.add()

    with pytest.raises(asyncpg.StringDataRightTruncationError):
        await owner.execute(f"UPDATE tasks SET {column} = {value} WHERE id = $1", task["id"])  # noqa: S608 - a constant above
