"""The commands and queries in docs/operations.md do what the page says, with the roles it names."""

import asyncio
import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import asyncpg
import psutil
import pytest
from conftest import (
    ALL_FIELDS,
    SECRET,
    Server,
    Serving,
    User,
    announced,
    connect,
    made_settings,
    run,
    running,
    serving,
    taskql,
)
from patience import PATIENCE_SECONDS

from app.database import embedded
from app.database.embedded import EmbeddedPostgres
from app.identity.tokens import Signer

PAGE = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()
PROGRAMS = embedded._binaries()  # noqa: SLF001 - psql and similar programs, in the embedded server's version
TASKQL = Path(sys.executable).parent / "taskql"
PASSWORD = "a password"
DELETE = "mutation ($id: ID!) { deleteTask(id: $id) { task { id } } }"
CREATE_LIST = "mutation ($name: String!) { createList(input: { name: $name }) { list { id } } }"
EVERYTHING = f"""{{
    tasks(first: 100) {{ nodes {{ {ALL_FIELDS} list {{ id name version position }} }} }}
    trash: tasks(first: 100, filter: {{ trashed: true }}) {{ nodes {{ {ALL_FIELDS} }} }}
    tagged: tasks(first: 100, filter: {{ tagsAny: ["home"] }}) {{ nodes {{ id }} }}
}}"""
TITLES = "{ tasks { nodes { title } } }"
CREATE = 'mutation { createTask(input: { title: "Kept" }) { userErrors { code } } }'

# Everything but rows: relations with row-level security and privileges, columns, indexes, constraints, etc.
CATALOGS = (
    """SELECT 'relation', relname, relkind::text, relrowsecurity, relforcerowsecurity, relowner::regrole::text,
        array(SELECT unnest(relacl)::text ORDER BY 1), reloptions::text
        FROM pg_class WHERE relnamespace = 'public'::regnamespace""",
    """SELECT 'column', attrelid::regclass::text, attname,
        row_number() OVER (PARTITION BY attrelid ORDER BY attnum), format_type(atttypid, atttypmod), attnotnull,
        attgenerated::text, attcollation::regcollation::text, attacl::text, pg_get_expr(adbin, adrelid)
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
        AND attnum > 0 AND NOT attisdropped""",
    "SELECT 'index', indexdef FROM pg_indexes WHERE schemaname = 'public'",
    """SELECT 'constraint', conrelid::regclass::text, conname, convalidated, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "SELECT 'policy', * FROM pg_policies",
    """SELECT 'function', pg_get_functiondef(oid), proowner::regrole::text, obj_description(oid, 'pg_proc'),
        array(SELECT unnest(proacl)::text ORDER BY 1)
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace""",
    "SELECT 'trigger', pg_get_triggerdef(oid), tgenabled::text FROM pg_trigger WHERE NOT tgisinternal",
    """SELECT 'role', rolname, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolcanlogin, rolconfig
        FROM pg_roles WHERE rolname NOT LIKE 'pg%' AND rolname <> 'taskql_monitor'""",
)
# An account without files; the capability lets it read a Python below /root, but not write.
ROOT = os.geteuid() == 0
NOBODY_IDS = pwd.getpwnam("nobody")[2:4]
NOBODY = (
    "setpriv",
    f"--reuid={NOBODY_IDS[0]}",
    f"--regid={NOBODY_IDS[1]}",
    "--clear-groups",
    "--securebits=+no_setuid_fixup",
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search",
)


def blocks(language: str) -> list[str]:
    """The page's fenced code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


# Every block has a name here, so that none is left untested.
COMMANDS = dict(
    zip(
        [
            *("make the backup's role", "dump", "make a database", "restore", "checksums", "all that is no row"),
            *("after a restore", "dump the embedded database", "restore the embedded database"),
            *("after the embedded restore", "put the data aside"),
            *("make the monitor's role", "make a new role", "drop the old role"),
        ],
        blocks("sh"),
        strict=True,
    )
)
QUERIES = [query for query in blocks("sql") if query.startswith("-- As ")]


@dataclass
class Site:
    """A database server on which TaskQL's database belongs to a role that is not a superuser."""

    embedded: EmbeddedPostgres
    folder: Path
    role: str = "shop"

    def url(self, role: str, database: str = "prod") -> str:
        return self.embedded.owner_url.replace("//postgres@/taskql?", f"//{role}@/{database}?")

    @property
    def server(self) -> Server:
        return Server(self.url("owner"), self.url(f"{self.role}:{PASSWORD.replace(' ', '%20')}"))

    def execute(self, name: str, **environment: str) -> str:
        """The output of a command of the page; a failure shows all output."""
        return run(self.folder, "sh", "-euc", COMMANDS[name], **self.environment(**environment))

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": f"{PROGRAMS}:{TASKQL.parent}:{os.environ['PATH']}",
            "DATABASE_URL": self.server.app_url,
            "DATABASE_OWNER_URL": self.server.owner_url,
            "AUTH_SECRET": SECRET,
            "ADMIN_URL": self.url("postgres"),
            "BACKUP_URL": self.url("taskql_backup"),
            "BACKUP_PASSWORD": "it's a password",
            "MONITOR_URL": self.url("taskql_monitor"),
            "MONITOR_PASSWORD": PASSWORD,
            "OLD_ROLE": self.role,
            "OWNER": "owner",
            "DATABASE": "prod",
            **more,
        }


async def told(site: Site, *statements: str, database: str = "prod") -> None:
    """Execute statements as the superuser."""
    connection = await connect(site.url("postgres", database))
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


def made(folder: Path) -> EmbeddedPostgres:
    """A database server that collects the statistics the page requires."""
    with EmbeddedPostgres.start(folder) as first:
        setting = "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'"
        run(folder, PROGRAMS / "psql", first.owner_url, "--command", setting)
    return EmbeddedPostgres.start(folder)


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A site with the page's roles."""
    folder = tmp_path_factory.mktemp("site")
    with made(folder / "data") as postgres:
        found = Site(postgres, folder)
        await told(found, "CREATE ROLE owner LOGIN CREATEROLE", "CREATE DATABASE prod OWNER owner", database="taskql")
        await told(found, "CREATE EXTENSION pg_stat_statements", database="postgres")
        run(folder, TASKQL, "migrate", **found.environment())
        found.execute("make the backup's role")
        found.execute("make the monitor's role")
        yield found


@pytest.fixture
async def other_site(tmp_path: Path) -> AsyncIterator[Site]:
    """Another server without TaskQL's database and roles."""
    with EmbeddedPostgres.start(tmp_path / "data") as postgres:
        found = Site(postgres, tmp_path)
        await told(found, "CREATE ROLE owner LOGIN CREATEROLE", database="taskql")
        yield found


@asynccontextmanager
async def users_of(site: Site, *ids: Any) -> AsyncIterator[list[User]]:
    async with running(made_settings(site.server)) as application:
        tokens = [Signer(SECRET).token(id_, timedelta(hours=1)) for id_ in ids]
        yield [User(id_, "", token, application.http) for id_, token in zip(ids, tokens, strict=True)]


async def new_ids(site: Site, count: int) -> list[Any]:
    connection = await connect(site.url("postgres"))
    rows = [
        await connection.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", f"{uuid4()}@example.com")
        for _ in range(count)
    ]
    await connection.close()
    return rows


async def shape(site: Site) -> list[tuple[Any, ...]]:
    """The catalogs' rows for a site's database and its roles."""
    connection = await connect(site.url("postgres"))
    rows = [row for query in CATALOGS for row in await connection.fetch(query)]
    await connection.close()
    return sorted((tuple(row) for row in rows), key=repr)


PURGE = "mutation ($id: ID!) { purgeTasks(where: { ids: [$id] }) { affectedCount } }"


async def fill(site: Site) -> list[Any]:
    """Two users with all kinds of tasks, a list and a tombstone; returns their ids."""
    ids = await new_ids(site, 2)
    async with users_of(site, *ids) as users:
        for user in users:
            await user.add("Plain")
            home = (await user.data(CREATE_LIST, name="Home"))["createList"]["list"]["id"]
            await user.add("In a list", listId=home)
            await user.add("Full", description="é\n\t\\ ☃", tags=["home", "a,b"], dueDate="2030-01-31", priority="HIGH")
            for query in (DELETE, PURGE):
                await user.data(DELETE, id=(gone := (await user.add("Gone", tags=["home"]))["id"]))
                await user.data(query, id=gone)
    return ids


async def test_a_restore_brings_everything_back(site: Site, other_site: Site) -> None:
    """A restore on another server brings back data and schema, with privileges and row-level security."""
    ids = await fill(site)
    async with users_of(site, *ids) as users:
        before = [await user.data(EVERYTHING) for user in users]

    site.execute("dump")
    (site.folder / "taskql.dump").rename(other_site.folder / "taskql.dump")
    maintenance = other_site.url("postgres", "postgres")
    other_site.execute("make a database", ADMIN_URL=maintenance)
    await told(other_site, "REVOKE CONNECT ON DATABASE prod FROM PUBLIC")
    other_site.execute("restore")
    other_site.execute("make the backup's role", ADMIN_URL=maintenance)
    await told(other_site, "GRANT CONNECT ON DATABASE prod TO taskql_backup")

    assert await shape(other_site) == await shape(site)
    sums = [place.execute("checksums").splitlines() for place in (site, other_site)]
    assert sums[0] == sums[1]
    assert {line.split("|")[0] for line in sums[0]} >= {
        "users",
        "tasks",
        "task_clocks",
        "task_tags",
        "task_lists",
        "user_tags",
        "tombstones",
        "alembic_version",
    }
    assert not [line for line in sums[0] if line.split("|")[1] == "0"]
    for place in (site, other_site):
        place.execute("all that is no row")
    described = [(place.folder / "schema.sql").read_text() for place in (site, other_site)]
    assert described[0] == described[1]
    assert "FORCE ROW LEVEL SECURITY" in described[0]
    async with users_of(other_site, *ids) as users:
        assert [await user.data(EVERYTHING) for user in users] == before
    said = other_site.execute("after a restore")
    assert "Advanced the clocks of" in said
    assert "warning" not in said
    async with users_of(other_site, *ids) as users:
        after = [await user.data(EVERYTHING) for user in users]
    assert versions(after) > versions(before)
    assert unversioned(after) == unversioned(before)


def versions(answers: Any) -> int:
    """The lowest version in the responses."""
    return min(map(int, re.findall(r'"version": (\d+)', json.dumps(answers))))


def unversioned(answers: Any) -> str:
    return re.sub(r'"version": \d+', "", json.dumps(answers))


async def test_checksums_tell_a_change(site: Site) -> None:
    """One changed character in a row changes the checksum of its table only."""
    (alice, _) = await fill(site)
    before = site.execute("checksums").splitlines()
    await told(site, f"UPDATE users SET name = 'plain' WHERE id = '{alice}'")  # noqa: S608 - a generated id
    after = site.execute("checksums").splitlines()

    assert [line.split("|")[0] for line in after if line not in before] == ["users"]


def dumped_by_owner(site: Site, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - pg_dump, from the wheel
        [PROGRAMS / "pg_dump", *options, site.server.owner_url], capture_output=True, text=True, check=False, env={}
    )


async def test_an_owner_cannot_dump(site: Site) -> None:
    """pg_dump as the owner fails; with --enable-row-security it succeeds without any task."""
    await fill(site)
    refused = dumped_by_owner(site)
    empty = dumped_by_owner(site, "--enable-row-security", "--data-only", "--table=tasks")

    assert refused.returncode == 1
    assert "query would be affected by row-level security policy" in refused.stderr
    assert empty.returncode == 0
    assert re.search(r"^COPY public\.tasks .*;\n\\\.$", empty.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("taskql_backup", "DELETE FROM tasks"),
        ("taskql_backup", "INSERT INTO users (email) VALUES ('a@example.com')"),
        ("taskql_monitor", "SELECT FROM tasks"),
        ("taskql_monitor", "SELECT FROM users"),
    ],
)
async def test_what_the_roles_of_the_page_must_not_do(site: Site, role: str, statement: str) -> None:
    """The backup role cannot write, and the monitoring role cannot read data."""
    connection = await connect(site.url(role))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)
    await connection.close()


def test_every_query_says_who_asks() -> None:
    """Every query of the page names its role and is thus tested."""
    assert len(QUERIES) == len(blocks("sql")) > 5


@pytest.mark.parametrize("query", QUERIES)
async def test_a_query_runs(site: Site, query: str) -> None:
    """Each query runs as the role in its first line, and returns columns."""
    variable, _, database = query.partition("\n")[0].removeprefix("-- As ").partition(", in the database ")
    url = site.environment()[variable]
    connection = await connect(url.replace("/prod?", f"/{database}?") if database else url)
    statement = await connection.prepare(query)
    assert statement.get_attributes()
    await statement.fetch()
    await connection.close()


async def test_the_query_of_locks_names_the_holder(site: Site) -> None:
    """The query of locks shows the waiting and the blocking session in one row."""
    (query,) = [query for query in QUERIES if "pg_blocking_pids" in query]
    (alice,) = await new_ids(site, 1)
    holder, waiter, monitor = [await connect(site.url(role)) for role in ("postgres", "postgres", "taskql_monitor")]
    lock = f"SELECT FROM users WHERE id = '{alice}' FOR UPDATE"
    pids = [(waiter.get_server_pid(), holder.get_server_pid())]
    async with holder.transaction():
        await holder.execute(lock)
        waiting = asyncio.create_task(waiter.execute(lock))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (rows := await monitor.fetch(query)):
                pass
    await waiting
    for connection in (holder, waiter, monitor):
        await connection.close()

    assert [(row["pid"], row["holder"]) for row in rows] == pids


async def old_trash(site: Site) -> None:
    """Create a task that was deleted long ago."""
    (alice, _) = await fill(site)
    await told(site, f"UPDATE tasks SET deleted_at = '2020-01-01' WHERE title = 'Gone' AND user_id = '{alice}'")  # noqa: S608 - a generated id


def scheduled(kind: str) -> str:
    """The command that one of the page's schedulers runs."""
    if kind == "cron":
        (line,) = blocks("crontab")
        *when, user, command = line.strip().split(" ", 6)
        assert (len(when), user) == (5, "taskql")
        assert "%" not in command  # cron turns it into a newline
        return str(command)
    if kind == "systemd":
        (command,) = re.findall(r"^ExecStart=(.*)$", blocks("ini")[0], re.MULTILINE)
        return f"set -a; . /etc/taskql.env; {command}"
    (arguments,) = re.findall(r"^ *args: (.*)$", blocks("yaml")[0], re.MULTILINE)
    return f"set -a; . /etc/taskql.env; /srv/taskql/.venv/bin/taskql {shlex.join(json.loads(arguments))}"


@pytest.mark.parametrize("kind", ["cron", "systemd", "kubernetes"])
async def test_scheduled_purges(site: Site, tmp_path: Path, kind: str) -> None:
    """The commands for cron, systemd and Kubernetes purge old trash with the server's URL only."""
    await old_trash(site)
    settings = tmp_path / "taskql.env"
    settings.write_text(f"DATABASE_URL='{site.server.app_url}'\n")
    command = scheduled(kind).replace("/etc/taskql.env", shlex.quote(str(settings)))
    command = command.replace("/srv/taskql/.venv/bin/taskql", shlex.quote(str(TASKQL)))

    assert "Deleted 1 tasks" in run(tmp_path, "sh", "-euc", command)


async def test_a_new_role_for_the_server(site: Site) -> None:
    """A new role takes over while the old one still serves; then the old role is dropped."""
    ids = await fill(site)
    new = Site(site.embedded, site.folder, role="shop2")
    new.execute("make a new role")
    async with users_of(site, *ids) as old_users, users_of(new, *ids) as new_users:
        assert await old_users[0].data(EVERYTHING) == await new_users[0].data(EVERYTHING)
    new.execute("drop the old role", OLD_ROLE=site.role)
    async with users_of(new, *ids) as users:
        await users[0].add("By the new role")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await connect(site.server.app_url)

    run(site.folder, TASKQL, "migrate", **site.environment())
    new.execute("drop the old role", OLD_ROLE=new.role)


async def test_a_full_disk(site: Site) -> None:
    """A full disk makes writes UNAVAILABLE, and reads still work."""
    (alice,) = await new_ids(site, 1)
    await told(
        site,
        """CREATE FUNCTION fill_disk() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$""",
        "CREATE TRIGGER fill_disk BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION fill_disk()",
    )
    async with users_of(site, alice) as (user,):
        written, seen = await user.post(CREATE), await user.ask(TITLES)
    await told(site, "DROP FUNCTION fill_disk CASCADE")

    assert written.status_code == 503
    assert [error["extensions"]["code"] for error in written.json()["errors"]] == ["UNAVAILABLE"]
    assert seen["data"]["tasks"]["nodes"] == []


async def test_an_old_server_refuses_a_newer_database(site: Site) -> None:
    """A server does not start on a database that a newer version migrated, and names the revision."""
    await told(site, "UPDATE alembic_version SET version_num = 'newer_' || version_num")
    with taskql("serve", "--port", "0", **site.environment()) as process:
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    await told(site, "UPDATE alembic_version SET version_num = substr(version_num, 7)")

    assert process.returncode == 1
    assert re.search(
        r"at revision newer_\d+, which this version of TaskQL does not know: run the version that migrated it", said
    )


@pytest.fixture
def sealed(tmp_path: Path, repository: Path) -> Iterator[Path]:
    """A read-only copy of the repository's files in the image."""
    tree = tmp_path / "tree"
    for name in ("app", "schema", "migrations"):
        shutil.copytree(repository / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*tree.rglob("*"), tree):
        path.chmod(path.stat().st_mode & ~0o222)
    yield tree
    for path in (tree, *tree.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


def sealed_server(site: Site, tree: Path, scratch: Path) -> subprocess.Popen[str]:
    """A server from a read-only tree, run by an account that can only write to a temporary directory."""
    scratch.mkdir()
    os.chown(scratch, *(NOBODY_IDS if ROOT else (-1, -1)))
    return subprocess.Popen(  # noqa: S603 - the server
        [*(NOBODY if ROOT else ()), sys.executable, "-m", "app", "serve", "--port", "0", "--workers", "2"],
        env={**site.environment(), "TMPDIR": str(scratch)},
        cwd=tree,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_the_server_writes_temporary_files_alone(site: Site, sealed: Path, tmp_path: Path) -> None:
    """The server with workers needs write access to a temporary directory only."""
    (alice,) = await new_ids(site, 1)
    token = Signer(SECRET).token(alice, timedelta(hours=1))
    with announced(sealed_server(site, sealed, tmp_path / "scratch"), has_demo=False) as served:
        assert psutil.Process(served.process.pid).cwd() == str(sealed)
        assert served.ask(CREATE, token)["data"]["createTask"] == {"userErrors": []}


def test_base_images_are_pinned(repository: Path) -> None:
    """The Dockerfile pins base images by digest."""
    dockerfile = (repository / "Dockerfile").read_text()
    images = dict(re.findall(r"^ARG (\S+_IMAGE)=(\S+)", dockerfile, re.MULTILINE))

    assert len(images) == 2
    assert re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) == [f"${{{name}}}" for name in images]
    for image in images.values():
        assert re.fullmatch(r"[a-z]+:[0-9]+\.[0-9]+\.[0-9]+-[a-z-]+@sha256:[0-9a-f]{64}", image)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a virtual environment, as scripts/serve creates it."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.fixture
def first_run(checkout: Path) -> Iterator[Serving]:
    with serving("--data-dir", checkout / ".taskql") as served:
        served.ask(CREATE)
        yield served


def titles(served: Serving, token: str) -> list[str]:
    return [node["title"] for node in served.ask(TITLES, token=token)["data"]["tasks"]["nodes"]]


ASKED = 'mutation { createTask(input: { title: "Meanwhile" }) { token } }'


def test_an_embedded_restore_while_the_server_runs(checkout: Path, first_run: Serving) -> None:
    """During a restore each response has data or UNAVAILABLE, and afterwards everything is there."""
    run(checkout, "sh", "-euc", COMMANDS["dump the embedded database"])
    before, seen, stopped = titles(first_run, first_run.token), Counter[str](), Event()

    def work() -> None:
        while not stopped.is_set():
            for query in (TITLES, ASKED):
                answer = first_run.ask(query)
                codes = [error["extensions"]["code"] for error in answer.get("errors", [])] or ["data"]
                seen.update(codes)
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        run(checkout, "sh", "-euc", COMMANDS["restore the embedded database"])
        run(checkout, TASKQL, "migrate", "--data-dir", checkout / ".taskql")
        stopped.set()
        working.result()

    assert set(seen) == {"data", "UNAVAILABLE"}
    assert set(titles(first_run, first_run.token)) >= set(before)
    assert first_run.ask(ASKED).get("errors") is None


def test_the_embedded_database_moves_to_new_data(checkout: Path, first_run: Serving) -> None:
    """Restored into a new data directory, the embedded database has its tasks, and tokens stay valid."""
    run(checkout, "sh", "-euc", COMMANDS["dump the embedded database"])
    before = titles(first_run, first_run.token)
    first_run.stop()
    run(checkout, "sh", "-euc", COMMANDS["put the data aside"])
    with serving("--data-dir", checkout / ".taskql") as fresh:
        run(checkout, "sh", "-euc", COMMANDS["restore the embedded database"])
        fresh.stop()

    with serving("--data-dir", checkout / ".taskql") as restored:
        assert titles(restored, first_run.token) == before
        said = run(checkout, "sh", "-euc", COMMANDS["after the embedded restore"])
        assert "Advanced the clocks of 1 users, and gave 8 tasks and lists new versions." in said
        assert titles(restored, first_run.token) == before
    assert "Kept" in before
    assert (checkout / "taskql.secret").read_text() == (checkout / ".taskql/secret").read_text()


CHANGES = """
    query ($since: SyncToken) {
        changes(since: $since) { token fullSync changes { ... on TaskUpserted { task { id title } } } }
    }
"""


def test_a_copy_of_the_data_directory(checkout: Path, first_run: Serving) -> None:
    """After restoring a copy of the data directory and the page's command, a newer sync token gets a full sync."""
    data = checkout / ".taskql/postgres"
    first_run.stop()
    shutil.copytree(data, checkout / "copy")
    ownership = data.stat()
    with serving("--data-dir", checkout / ".taskql") as lost:
        lost.ask(CREATE)
        token = lost.ask(CHANGES)["data"]["changes"]["token"]
    shutil.rmtree(data)
    (checkout / "copy").rename(data)
    for path in (data, *data.rglob("*")):
        os.chown(path, ownership.st_uid, ownership.st_gid)

    with serving("--data-dir", checkout / ".taskql") as restored:
        run(checkout, "sh", "-euc", COMMANDS["after the embedded restore"])
        for _ in range(3):
            restored.ask(CREATE)
        page = restored.ask(CHANGES, since=token)["data"]["changes"]
        shown = sorted(change["task"]["title"] for change in page["changes"] if "task" in change)
        assert page["fullSync"] is True
        assert shown == sorted(titles(restored, restored.token))
