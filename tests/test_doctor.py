"""What `serve` rejects and `doctor` explains: each finding disappears when its own fix is applied."""

import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from conftest import SECRET, Server, connect, taskql
from issuer import made_key, published
from patience import PATIENCE_SECONDS
from pydantic import SecretStr
from test_rate import redis_server

from app.database import checks, embedded
from app.database.checks import Finding
from app.database.embedded import EmbeddedPostgres
from app.database.functions import FIRED
from app.database.url import DatabaseURL
from app.errors import StartupError
from app.settings import Settings
from app.startup import findings, refuse_failures, report
from migrations.run import migrate

PASSWORD = "pass'w%rd of the role"


@dataclass
class Stage:
    """A migrated database for this test, its server's role, and a connection of its owner."""

    database: Server
    role: str
    owner: "asyncpg.Connection[Any]"

    @property
    def settings(self) -> Settings:
        return Settings(
            database_url=SecretStr(self.database.app_url),
            database_owner_url=SecretStr(self.database.owner_url),
            auth_secret=SecretStr(SECRET),
        )

    async def failures(self) -> list[Finding]:
        return [finding for finding in await findings(self.settings) if finding.level == "failure"]


@pytest.fixture
async def stage(empty: Server) -> AsyncIterator[Stage]:
    role = f"role {uuid4().hex}"
    app_url = empty.app_url.replace("//taskql_app@", f"//{role.replace(' ', '%20')}:{PASSWORD.replace('%', '%25')}@")
    await migrate(DatabaseURL(empty.owner_url), DatabaseURL(app_url))
    owner = await connect(empty.owner_url)
    database = await owner.fetchval("SELECT current_database()")
    await owner.execute(f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
    yield Stage(Server(empty.owner_url, app_url), role, owner)
    await owner.execute(f'REASSIGN OWNED BY "{role}" TO CURRENT_USER; DROP OWNED BY "{role}"; DROP ROLE "{role}"')
    await owner.close()


@pytest.fixture
async def other(stage: Stage) -> AsyncIterator[str]:
    """Another role, of which the server's role may become a member."""
    name = f"other_{uuid4().hex}"
    await stage.owner.execute(f"CREATE ROLE {name}")
    yield name
    await stage.owner.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}")


POLICY = "CREATE POLICY tasks_of_user ON theirs.tasks USING ({0}) WITH CHECK ({0})".format(
    "user_id = nullif(current_setting('app.user_id', true), '')::uuid"
)
BREACHES = {
    "a superuser": ['ALTER ROLE "{role}" SUPERUSER'],
    "BYPASSRLS": ['ALTER ROLE "{role}" BYPASSRLS'],
    "the owner of a table": ['ALTER TABLE tasks OWNER TO "{role}"'],
    "a member of a superuser": ["ALTER ROLE {other} SUPERUSER", 'GRANT {other} TO "{role}"'],
    "a member of a role with BYPASSRLS": ["ALTER ROLE {other} BYPASSRLS", 'GRANT {other} TO "{role}"'],
    "a member of the owner": ["ALTER TABLE task_clocks OWNER TO {other}", 'GRANT {other} TO "{role}"'],
    "a member without inheriting": [
        "ALTER ROLE {other} BYPASSRLS",
        'GRANT {other} TO "{role}"',
        'ALTER ROLE "{role}" NOINHERIT',
    ],
    "row security not forced": ["ALTER TABLE tasks NO FORCE ROW LEVEL SECURITY"],
    "row security not enabled": ["ALTER TABLE task_clocks DISABLE ROW LEVEL SECURITY"],
    "a policy that lets all through": ['CREATE POLICY "o ops" ON tasks USING (true)'],
    "a policy that was changed": ["ALTER POLICY tasks_of_user ON tasks USING (true)"],
    "no policy, but for a table of the same name": [
        "DROP POLICY tasks_of_user ON tasks",
        f"CREATE SCHEMA theirs; CREATE TABLE theirs.tasks (user_id uuid); {POLICY}",
    ],
    "no right to act": ['REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC, "{role}"'],
    "no policy": ["DROP POLICY task_clocks_of_user ON task_clocks"],
    "the policy for another role": ["ALTER POLICY tasks_of_user ON tasks TO {other}"],
    "the policy for one kind of statement": [
        "DROP POLICY tasks_of_user ON tasks",
        POLICY.replace("theirs.tasks", "tasks FOR UPDATE"),
    ],
    "a policy that only narrows": [
        "DROP POLICY tasks_of_user ON tasks",
        POLICY.replace("theirs.tasks", "tasks AS RESTRICTIVE"),
    ],
    "row security of users forced": ["ALTER TABLE users FORCE ROW LEVEL SECURITY"],
    "row security of users not enabled": ["ALTER TABLE users DISABLE ROW LEVEL SECURITY"],
    "the owner of users": ['ALTER TABLE users OWNER TO "{role}"'],
    "no policy of users": ["DROP POLICY users_of_user ON users"],
    "a policy of users that lets all through": ["ALTER POLICY users_of_user ON users USING (true)"],
    "a second policy of users": ["CREATE POLICY everybody ON users FOR SELECT USING (true)"],
    "a function that takes its caller's path": ["ALTER FUNCTION stamp_task() RESET search_path"],
    "a function with another path": ["ALTER FUNCTION position_between(text, text) SET search_path = public"],
    "a function that row security may hold": ["ALTER FUNCTION users_after(uuid, integer) RESET row_security"],
    "a trigger that runs as its caller": ["ALTER FUNCTION forget_tasks() SECURITY INVOKER"],
    "a function that runs as its owner": ["ALTER FUNCTION act_as(uuid) SECURITY DEFINER"],
    "a function for everybody": ["GRANT EXECUTE ON FUNCTION user_with_email(text) TO PUBLIC"],
    "a trigger for everybody": ["GRANT EXECUTE ON FUNCTION keep_task_tags() TO PUBLIC"],
    "a function for a role that is no server's": ["GRANT EXECUTE ON FUNCTION users_after(uuid, integer) TO {other}"],
    "all functions for a role that is no server's": ["GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {other}"],
    "a trigger that does not fire": ["ALTER TABLE tasks DISABLE TRIGGER stamp_updated_task"],
    "no trigger that fires": ["ALTER TABLE tasks DISABLE TRIGGER USER"],
    "a trigger of users that does not fire": ["ALTER TABLE users DISABLE TRIGGER ALL"],
    "a trigger for replicas": ["ALTER TABLE tasks ENABLE REPLICA TRIGGER forget_deleted_tasks"],
    **{f"no trigger {name}": [f"DROP TRIGGER {name} ON {FIRED[name][0]}"] for name in FIRED},
    "a function of another owner": [
        "GRANT CREATE ON SCHEMA public TO {other}; ALTER FUNCTION users_after(uuid, integer) OWNER TO {other}",
    ],
    "a policy for a role that the server's may become": [
        'GRANT {other} TO "{role}"',
        "CREATE POLICY reporting ON tasks FOR SELECT TO {other} USING (true)",
    ],
}


@pytest.mark.parametrize("name", BREACHES)
async def test_each_fix_removes_its_finding(stage: Stage, other: str, name: str) -> None:
    """The server refuses to start; the SQL in the message, run unchanged, removes the finding."""
    assert await stage.failures() == []
    for statement in BREACHES[name]:
        await stage.owner.execute(statement.format(role=stage.role, other=other))

    found = await stage.failures()
    assert found
    with pytest.raises(StartupError, match=re.escape(found[0].seen)):
        await refuse_failures(stage.settings)
    for finding in found:
        statements = re.findall(r"(?:ALTER|REVOKE|DROP|CREATE) [^;]+;", finding.fix)
        assert len(statements) == 1 or "Run `taskql migrate`" in finding.fix
        for statement in statements:
            await stage.owner.execute(statement)
    await migrate(DatabaseURL(stage.database.owner_url), DatabaseURL(stage.database.app_url))

    assert await stage.failures() == []
    await refuse_failures(stage.settings)


async def test_a_recreated_trigger_equals_the_original(stage: Stage) -> None:
    """Triggers recreated from the definitions that doctor prints equal those of the migrations."""
    definitions = """
        SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger
        WHERE NOT tgisinternal AND tgrelid IN ('tasks'::regclass, 'task_lists'::regclass, 'users'::regclass) ORDER BY 1
    """
    made = await stage.owner.fetch(definitions)
    for name, (table, event, function) in FIRED.items():
        await stage.owner.execute(f"DROP TRIGGER {name} ON {table}")
        await stage.owner.execute(f"CREATE TRIGGER {name} {event} EXECUTE FUNCTION {function}")

    assert [row["tgname"] for row in made] == sorted(FIRED)
    assert await stage.owner.fetch(definitions) == made


async def test_a_trigger_that_always_fires(stage: Stage) -> None:
    """ENABLE ALWAYS, with which a trigger fires in replication sessions too, is not a finding."""
    await stage.owner.execute("ALTER TABLE tasks ENABLE ALWAYS TRIGGER stamp_updated_task")

    assert await stage.failures() == []


async def test_a_migration_grants_nothing_to_other_roles(stage: Stage, other: str) -> None:
    """A role that an administrator granted EXECUTE on all functions gets no privileges on tasks from a migration."""
    await stage.owner.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {other}")
    await migrate(DatabaseURL(stage.database.owner_url), DatabaseURL(stage.database.app_url))

    rights = "SELECT has_table_privilege($1, 'tasks', 'SELECT')"
    assert [await stage.owner.fetchval(rights, role) for role in (stage.role, other.strip('"'))] == [True, False]


async def test_membership_of_a_harmless_role(stage: Stage, other: str) -> None:
    """Membership of an unprivileged role is not a finding."""
    await stage.owner.execute(f'GRANT {other} TO "{stage.role}"')

    assert await stage.failures() == []


async def test_tables_of_the_same_names_in_other_schemas(stage: Stage) -> None:
    """Policies of tables with the same names in other schemas are ignored."""
    await stage.owner.execute("CREATE SCHEMA theirs; CREATE TABLE theirs.tasks (a int)")
    await stage.owner.execute("CREATE POLICY all_of_them ON theirs.tasks USING (true)")

    assert await stage.failures() == []


async def test_a_policy_for_others(stage: Stage, other: str) -> None:
    """A policy for a role that the server's role cannot become is not a finding."""
    await stage.owner.execute(f"CREATE POLICY reporting ON tasks FOR SELECT TO {other} USING (true)")

    assert await stage.failures() == []


async def test_one_role_for_owner_and_server(stage: Stage) -> None:
    """If the server's role owns a table, the first fix is another role in DATABASE_URL."""
    await stage.owner.execute(f'ALTER TABLE tasks OWNER TO "{stage.role}"')

    (owned,) = await stage.failures()
    assert owned.fix.startswith("Use another role in DATABASE_URL, and this one in DATABASE_OWNER_URL")


async def test_settings_that_the_role_should_bring(stage: Stage) -> None:
    """Behind a pooler the role must have the session settings; `taskql migrate` sets them."""
    await stage.owner.execute(f'ALTER ROLE "{stage.role}" RESET ALL')
    pooled = stage.settings.model_copy(update={"db_pooler": True})

    (warning,) = [finding for finding in await findings(pooled) if finding.level == "warning"]
    assert "statement_timeout" in warning.seen
    assert "taskql migrate" in warning.fix
    await migrate(DatabaseURL(stage.database.owner_url), DatabaseURL(stage.database.app_url))
    assert {finding.level for finding in await findings(pooled)} == {"ok"}


def doctor(**environment: str) -> tuple[int, list[str]]:
    """The exit code and output lines of `taskql doctor`, which must not contain a secret."""
    with taskql("doctor", **environment) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert err == ""
    for secret in (SECRET, "s3cret", PASSWORD, PASSWORD.replace("%", "%25")):
        assert secret not in out
    return process.returncode, out.splitlines()


def in_order(stage: Stage) -> dict[str, str]:
    return {
        "DATABASE_URL": stage.database.app_url,
        "DATABASE_OWNER_URL": stage.database.owner_url,
        "AUTH_SECRET": SECRET,
    }


async def test_all_is_well(stage: Stage) -> None:
    """On a correct database every check is one line that says ok, and the exit code is 0."""
    code, lines = doctor(**in_order(stage))

    assert code == 0
    assert {line.split()[0] for line in lines} == {"ok"}
    for words in (
        "AUTH_SECRET",
        "connection to the database",
        "PostgreSQL",
        "connects to",
        "migrations",
        "row-level security",
        "Row-level security of tasks",
        "privileges",
        "Sessions",
        "Migrations and live changes connect",
    ):
        assert any(words in line for line in lines), words


async def test_a_warning(stage: Stage) -> None:
    """A pooler without a direct URL is a warning with its fix, and the exit code is 1."""
    code, lines = doctor(DATABASE_URL=stage.database.app_url, AUTH_SECRET=SECRET, DB_POOLER="1")

    assert code == 1
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert "DATABASE_DIRECT_URL" in warning


async def test_a_database_open_to_all(stage: Stage) -> None:
    """A database that any role may connect to is a warning; the printed SQL fixes it, and the server still serves."""
    database = await stage.owner.fetchval("SELECT current_database()")
    await stage.owner.execute(f"GRANT CONNECT ON DATABASE {database} TO PUBLIC")
    code, lines = doctor(**in_order(stage))

    assert code == 1
    (warning,) = [line for line in lines if line.startswith("warning")]
    grant, revoke = re.findall(r"(?:GRANT|REVOKE) [^;]+;", warning)
    for statement in (grant, revoke):
        await stage.owner.execute(statement)
    assert doctor(**in_order(stage))[0] == 0


@pytest.mark.parametrize("place", ["DATABASE {database}", 'ROLE "{role}"', 'ROLE "{role}" IN DATABASE {database}'])
async def test_a_read_only_database(stage: Stage, place: str) -> None:
    """A read-only database is a warning; the printed SQL fixes it, even from a read-only session."""
    name = await stage.owner.fetchval("SELECT current_database()")
    place = place.format(database=name, role=stage.role)
    await stage.owner.execute(f"ALTER {place} SET default_transaction_read_only = on")
    code, lines = doctor(**in_order(stage))

    assert code == 1
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert "accepts no writes" in warning
    new_session = await connect(stage.database.owner_url)
    try:
        for statement in re.findall(r"(?:SET|ALTER) [^;]+;", warning):
            await new_session.execute(statement)
    finally:
        await new_session.close()
    assert doctor(**in_order(stage))[0] == 0


async def test_a_failure(stage: Stage) -> None:
    """Missing row-level security is a failure with its fix, the other checks still run, and the exit code is 2."""
    await stage.owner.execute("ALTER TABLE tasks NO FORCE ROW LEVEL SECURITY")
    code, lines = doctor(**in_order(stage))

    assert code == 2
    (failure,) = [line for line in lines if line.startswith("failure")]
    assert "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;" in failure
    assert any(line.startswith("ok") and "privileges" in line for line in lines)


@pytest.mark.parametrize("right", ["CONNECT ON DATABASE {database}", "SELECT ON alembic_version"])
async def test_rights_that_a_restore_leaves_out(stage: Stage, right: str) -> None:
    """If a restore omitted the role's privileges, the failure names the command that grants them again."""
    database = await stage.owner.fetchval("SELECT current_database()")
    await stage.owner.execute(f'REVOKE {right.format(database=database)} FROM "{stage.role}"')
    code, lines = doctor(**in_order(stage))

    assert code == 2
    assert any(line.startswith("failure") and "`taskql migrate`" in line for line in lines)
    await migrate(DatabaseURL(stage.database.owner_url), DatabaseURL(stage.database.app_url))
    assert doctor(**in_order(stage))[0] == 0


async def test_a_database_without_tables(empty: Server) -> None:
    """Missing migrations are reported."""
    code, lines = doctor(DATABASE_URL=empty.app_url, DATABASE_OWNER_URL=empty.owner_url, AUTH_SECRET=SECRET)

    assert code == 2
    assert any(line.startswith("failure") and "taskql migrate" in line for line in lines)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"AUTH_SECRET": "s3cret"}, "AUTH_SECRET must be"),
        ({}, "AUTH_SECRET must be"),
        ({"AUTH_SECRET": SECRET, "AUTH_JWKS_URL": "https://a.example"}, "both set"),
        ({"AUTH_JWKS_URL": "https://a.example"}, "AUTH_ISSUER"),
        ({"AUTH_SECRET": SECRET, "PORT": "http"}, "PORT"),
    ],
)
async def test_invalid_settings(stage: Stage, environment: dict[str, str], words: str) -> None:
    """An invalid setting is reported as one line."""
    code, lines = doctor(DATABASE_URL=stage.database.app_url, **environment)

    assert code == 2
    assert any(line.startswith("failure") and words in line for line in lines)


def below(folder: Path) -> dict[str, str]:
    """All paths below a folder, with their status."""
    return {str(path.relative_to(folder)): oct(path.stat().st_mode) for path in folder.rglob("*")}


@pytest.mark.parametrize("there", [False, True])
def test_no_database_at_all(tmp_path: Path, *, there: bool) -> None:
    """Without a database doctor reports that, and creates no directory, data or secret."""
    folder = tmp_path / "data"
    if there:
        folder.mkdir()
    before = below(tmp_path)
    code, lines = doctor(TASKQL_DATA_DIR=str(folder))

    assert code == 2
    (failure,) = [line for line in lines if line.startswith("failure")]
    assert "DATABASE_URL is not set" in failure
    assert "`taskql serve` creates one" in failure
    assert below(tmp_path) == before


async def test_an_embedded_database(tmp_path: Path) -> None:
    """An embedded database without secret and database is inspected as it is, and stopped unless it was running."""
    with EmbeddedPostgres.start(tmp_path) as postgres:
        connection = await connect(postgres.owner_url.replace("/taskql?", "/postgres?"))
        await connection.execute("DROP DATABASE taskql WITH (FORCE)")
        await connection.close()
    code, lines = doctor(TASKQL_DATA_DIR=str(tmp_path))

    assert code == 2
    failures = [line for line in lines if line.startswith("failure")]
    assert any('database "taskql" does not exist' in line for line in failures)
    assert any("AUTH_SECRET" in line for line in failures)
    assert not (tmp_path / "secret").exists()
    assert not (tmp_path / "postgres/postmaster.pid").exists()


def test_a_missing_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, doctor looks up the account that runs PostgreSQL, and does not create it."""
    EmbeddedPostgres.start(tmp_path).close()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(embedded, "_SYSTEM_ACCOUNT", "taskql-of-nobody")
    monkeypatch.setattr(embedded, "_run", lambda *_: pytest.fail("a program was run"))

    with pytest.raises(StartupError, match="as the account taskql-of-nobody"):
        EmbeddedPostgres.start(tmp_path, create=False)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:s3cret@localhost:9/db", "cannot be reached"),
        ("postgresql://u:s3cret@localhost/db?sslmod=require", "sslmod"),
        ("mysql://u:s3cret@localhost/db", "postgresql://"),
    ],
)
def test_an_unreachable_database(url: str, words: str) -> None:
    """An unreachable database is reported with the reason, without the password."""
    code, lines = doctor(DATABASE_URL=url, AUTH_SECRET=SECRET)

    assert code == 2
    assert any(line.startswith("failure") and words in line for line in lines)
    assert any(line.startswith("ok") and "AUTH_SECRET" in line for line in lines)


async def test_an_owner_who_cannot_log_in(stage: Stage) -> None:
    """A failed login with the owner's URL is reported with the fix for that URL, not for DATABASE_URL."""
    nobody = stage.database.owner_url.replace("//postgres@", "//nobody:s3cret@")
    code, lines = doctor(**in_order(stage) | {"DATABASE_OWNER_URL": nobody})

    assert code == 2
    (failure,) = [line for line in lines if line.startswith("failure")]
    assert "DATABASE_OWNER_URL" in failure
    assert "creates the role" not in failure
    assert any("Row-level security" in line for line in lines)


async def owned_by(stage: Stage, owner: str, password: str) -> dict[str, str]:
    """Settings for a database whose owner may only log in."""
    await stage.owner.execute(f"ALTER ROLE {owner} LOGIN PASSWORD '{password}'")
    database = await stage.owner.fetchval("SELECT current_database()")
    await stage.owner.execute(f"GRANT CONNECT ON DATABASE {database} TO {owner}")
    await stage.owner.execute(f"ALTER TABLE alembic_version OWNER TO {owner}")
    url = stage.database.owner_url.replace("//postgres@", f"//{owner}:{password}@")
    return in_order(stage) | {"DATABASE_OWNER_URL": url}


async def test_an_owner_who_may_not_make_the_role(stage: Stage, other: str) -> None:
    """If the server's role is missing and the owner lacks CREATEROLE, doctor reports it with a fix that works."""
    environment = await owned_by(stage, other, "s3cret")
    environment["DATABASE_URL"] = environment["DATABASE_URL"].replace("//role%20", "//new%20")
    lacking = [line for line in doctor(**environment)[1] if "may not create the server's role" in line]

    assert lacking == [
        f"failure  The owner {other} may not create the server's role. As a superuser: ALTER ROLE {other} CREATEROLE;"
    ]
    await stage.owner.execute(f"ALTER ROLE {other} CREATEROLE")
    assert any(line.startswith("ok") and "may create the server's role" in line for line in doctor(**environment)[1])


async def test_an_owner_who_may_not_change_the_role(stage: Stage, other: str) -> None:
    """From PostgreSQL 16 on, changing a role requires the ADMIN option; doctor reports its absence with the fix."""
    environment = await owned_by(stage, other, "s3cret")
    await stage.owner.execute(f"ALTER ROLE {other} CREATEROLE")
    lacking = [line for line in doctor(**environment)[1] if "may not change the server's role" in line]

    if stage.owner.get_server_version().major < 16:
        assert lacking == []
        return
    assert len(lacking) == 1
    await stage.owner.execute(lacking[0].partition("As a superuser: ")[2])
    assert doctor(**environment)[0] == 0


async def test_a_valid_manifest(stage: Stage, tmp_path: Path) -> None:
    """The operations of a valid manifest are read and checked."""
    manifest = tmp_path / "documents.json"
    manifest.write_text('{"one": "{ viewer { id } }"}')
    code, lines = doctor(**in_order(stage), TRUSTED_DOCUMENTS=str(manifest))

    assert code == 0
    assert f"ok       All operations of {manifest} are valid." in lines


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ('{"one": "query Gone { gone }"}', "operation Gone (one) is invalid"),
    ],
)
async def test_an_invalid_manifest(stage: Stage, tmp_path: Path, text: str | None, words: str) -> None:
    """A manifest that prevents the server from starting is a failure, and the other checks still run."""
    manifest = tmp_path / "documents.json"
    if text is not None:
        manifest.write_text(text)
    code, lines = doctor(**in_order(stage), TRUSTED_DOCUMENTS=str(manifest))

    assert code == 2
    (failure,) = [line for line in lines if line.startswith("failure")]
    assert words in failure
    assert any("Row-level security" in line for line in lines)


async def test_redis_that_answers(stage: Stage) -> None:
    """If Redis responds, processes share their rate limits."""
    with redis_server() as port:
        code, lines = doctor(**in_order(stage), RATE_LIMIT_REDIS_URL=f"redis://127.0.0.1:{port}")

    assert code == 0
    assert any(line.startswith("ok") and "share the counts" in line for line in lines)


async def test_redis_that_does_not(stage: Stage) -> None:
    """An unreachable Redis is only a warning, without the password, as the server works without it."""
    code, lines = doctor(**in_order(stage), RATE_LIMIT_REDIS_URL="redis://:s3cret@127.0.0.1:9/0")

    assert code == 1
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert "RATE_LIMIT_REDIS_URL" in warning


def keyed(stage: Stage, url: str) -> dict[str, str]:
    environment = in_order(stage)
    del environment["AUTH_SECRET"]
    return environment | {"AUTH_JWKS_URL": url, "AUTH_ISSUER": "https://issuer.example", "AUTH_AUDIENCE": "none"}


async def test_a_key_set_that_answers(stage: Stage) -> None:
    """The usable keys are counted, and their algorithms listed."""
    async with published(made_key("EdDSA", "a"), made_key("RS256", "b"), made_key("ES384", "c")) as issuer:
        found = await report(configured(stage, issuer.url))

    assert found[0] == Finding("ok", "The key set of https://issuer.example has 2 usable keys, for EdDSA, RS256")


async def test_a_key_set_without_use(stage: Stage) -> None:
    """A key set that is missing or has no usable key is a failure that says where to look."""
    async with published() as issuer:
        empty_set = (await report(configured(stage, issuer.url)))[0]
        issuer.status = "404 Not Found"
        missing = (await report(configured(stage, issuer.url)))[0]
    nobody = (await report(configured(stage, issuer.url)))[0]

    assert {empty_set.level, missing.level, nobody.level} == {"failure"}
    assert "none of its 0 keys" in empty_set.seen
    assert "404" in missing.seen
    assert "/api/auth/jwks" in nobody.fix


def configured(stage: Stage, url: str) -> Settings:
    given = {name.lower(): value for name, value in keyed(stage, url).items()}
    secret = {"database_url", "database_owner_url"}
    return Settings(**{name: SecretStr(value) if name in secret else value for name, value in given.items()})  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("url", "level", "words"),
    [
        ("postgresql://u:p@localhost/db", "ok", "stays on this machine"),
        ("postgresql://u:p@ep-a-1.eu-central-1.aws.neon.tech/db?sslmode=require", "ok", "certificate is verified"),
        ("postgresql://u:p@db.example/db?sslmode=verify-full", "ok", "certificate is verified"),
        ("postgresql://u:p@db.example/db?sslmode=require", "warning", "not verified"),
        ("postgresql://u:p@db.example/db", "warning", "may be unencrypted"),
        ("postgresql://u:p@db.example/db?sslmode=disable", "warning", "may be unencrypted"),
    ],
)
def test_the_line_to_the_database(url: str, level: str, words: str) -> None:
    """An unencrypted connection to another machine is a warning that names sslmode."""
    finding = checks.encryption(DatabaseURL(url))

    assert finding.level == level
    assert words in finding.seen
    assert ("sslmode=verify-full" in finding.fix) == (level == "warning")


@pytest.mark.parametrize(("levels", "code"), [(["ok"], 0), (["ok", "warning"], 1), (["failure", "warning", "ok"], 2)])
def test_the_exit_code_is_that_of_the_worst_finding(levels: list[Any], code: int) -> None:
    """The exit code is that of the worst finding: 0 for ok, 1 for a warning, 2 for a failure."""
    assert checks.worst(Finding(level, "Seen") for level in levels) == code
