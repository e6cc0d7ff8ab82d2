"""The commands seed, reset, users, export and import as processes: questions, refusals, interruptions, output."""

import asyncio
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from click.testing import CliRunner
from conftest import BLOCKED, SECRET, Server, User, connect, taskql
from patience import PATIENCE_SECONDS

from app.cli import main
from app.data import files, seeding
from app.data.resetting import refuse_remote
from app.database.database import Database
from app.database.transfers import Transfers
from app.database.url import DatabaseURL
from app.errors import StartupError
from app.observability import logs
from app.tasks.recount import recount
from migrations.run import migrate

# The number of sessions that wait for the caller, in a database that is not distributed.
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"
QUOTAS = {"tasks": 100_000, "lists": 500}


def environment(server: Server) -> dict[str, str]:
    return {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url, "AUTH_SECRET": SECRET}


async def run(server: Server, *arguments: str | Path, said: str = "", **more: str) -> tuple[int, str, str]:
    """The exit code and the output of a command that gets this input, in a thread of this process."""
    runner = CliRunner(env={"LOG_LEVEL": "warning", **environment(server), **more})
    ended = await asyncio.to_thread(
        runner.invoke, main, list(map(str, arguments)), input=said, catch_exceptions=False, prog_name="taskql"
    )
    return ended.exit_code, ended.stdout, ended.stderr


@pytest.fixture(autouse=True)
def _logged_by_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands run in this process, whose logging they must leave as it is."""
    monkeypatch.setattr(logs, "configure", lambda _settings: None)


@pytest.fixture
async def migrated(empty: Server) -> Server:
    """A database for this test, with the tables of Better Auth, which belong to the owner."""
    await migrate(DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url))
    admin = await connect(empty.owner_url)
    await admin.execute("""
        CREATE TABLE session (id text PRIMARY KEY, "userId" uuid NOT NULL REFERENCES users ON DELETE CASCADE);
        CREATE TABLE "Devices" (id text PRIMARY KEY, session text REFERENCES session ON DELETE CASCADE);
        CREATE TABLE jwks (id text PRIMARY KEY)
    """)
    await admin.close()
    return empty


async def made_users(server: Server, *names: str) -> list[UUID]:
    """Users with a session, and with one task and a list each."""
    admin, made = await connect(server.owner_url), list[UUID]()
    for name in names:
        user: UUID = await admin.fetchval("INSERT INTO users (email, name) VALUES ($1, $1) RETURNING id", name)
        await admin.execute("INSERT INTO session VALUES ($1, $2)", str(user), user)
        await admin.execute('INSERT INTO "Devices" VALUES ($1, $1)', str(user))
        await admin.execute("INSERT INTO task_lists (user_id, id, name) VALUES ($1, $2, 'A list')", user, uuid4())
        await admin.execute(
            "INSERT INTO tasks (user_id, id, title, tags) VALUES ($1, $2, 'A task', '{a}')", user, uuid4()
        )
        made.append(user)
    await admin.execute("INSERT INTO jwks VALUES ('a key')")
    await admin.close()
    return made


async def counts(server: Server) -> dict[str, int]:
    """The numbers of rows of all tables of users."""
    admin = await connect(server.owner_url)
    tables = ("users", "tasks", "task_lists", "task_tags", "task_clocks", "session", '"Devices"', "jwks")
    found = {table: await admin.fetchval(f"SELECT count(*) FROM {table}") for table in tables}  # noqa: S608 - constants
    await admin.close()
    return found


async def titles(server: Server, user: UUID) -> list[str]:
    admin = await connect(server.owner_url)
    rows = await admin.fetch("SELECT title FROM tasks WHERE user_id = $1 ORDER BY position", user)
    await admin.close()
    return [row[0] for row in rows]


PLAN = seeding.Plan(3, 300, 7, date(2026, 5, 31))
SEEDED = """
    SELECT email, tasks.id::text, title, description, completed, completed_at, priority, due_date, tags, list.name,
        tasks.created_at, tasks.updated_at, tasks.deleted_at, tasks.position
    FROM users JOIN tasks ON user_id = users.id
    LEFT JOIN task_lists AS list ON list.user_id = tasks.user_id AND list.id = list_id
    ORDER BY email, tasks.position
"""


async def test_seeding(empty: Server) -> None:
    """The same seed and day give the same data, all valid: clocks, counters, tags, order and dates."""
    await migrate(DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url))
    admin = await connect(empty.owner_url)
    async with Transfers(DatabaseURL(empty.app_url)) as transfers:
        made = list[Any]()
        for plan in (PLAN, PLAN, PLAN._replace(seed=8)):
            await admin.execute("DELETE FROM users")
            done = await seeding.seed(transfers, plan, QUOTAS, lambda _more: None)
            assert done == (3, 0)
            made.append(await admin.fetch(SEEDED))
        assert await seeding.seed(transfers, PLAN._replace(users=4, seed=8), QUOTAS, lambda _more: None) == (1, 3)
    assert made[0] == made[1]
    assert made[0] != made[2]

    assert await admin.fetchval("SELECT count(*) FROM tasks") == 1200
    assert (
        await admin.fetchval("SELECT count(*) FROM tasks WHERE greatest(created_at, updated_at) >= '2026-05-31'") == 0
    )
    assert await admin.fetchval("SELECT count(*) FROM tasks WHERE due_date > '2026-05-31'") > 0
    assert await admin.fetchval("SELECT count(*) FROM tasks WHERE version <> 1 OR search IS NULL") == 0
    assert await admin.fetchval("SELECT count(DISTINCT (user_id, position)) FROM tasks") == 1200
    unindexed = "SELECT user_id, unnest(tags), id FROM tasks EXCEPT SELECT user_id, tag, task_id FROM task_tags"
    assert await admin.fetch(unindexed) == []
    await admin.close()
    database = Database(DatabaseURL(empty.app_url), pool_size=1, quotas=QUOTAS)
    assert [wrong async for _, wrong in recount(database)] == [0, 0, 0, 0]
    await database.close()


async def test_seed_and_reset(migrated: Server) -> None:
    """`seed` says what it has created, twice is once; `reset` asks, deletes everything of users and nothing else."""
    plan = ("seed", "--users", "2", "--tasks", "30")
    assert await run(migrated, *plan) == (0, "Created 2 users with 60 tasks.\n", "")
    code, out, _ = await run(migrated, *plan)
    assert (code, "2 users were there already" in out) == (0, True)
    await made_users(migrated, "a@example.com")

    code, out, err = await run(migrated, "reset", said="n\n")
    assert (code, "Nothing was deleted." in err) == (1, True)
    assert "3 users" in out
    assert all(table in out for table in ('"Devices"', "session", "task_clocks", "task_lists", "task_tags", "users"))
    assert "jwks" not in out
    assert (await counts(migrated))["tasks"] == 61

    assert (await run(migrated, "reset", "--yes"))[0] == 0
    assert await counts(migrated) == {**dict.fromkeys(await counts(migrated), 0), "jwks": 1}
    assert (await run(migrated, *plan))[0] == 0


async def test_seeding_more_than_the_quota(migrated: Server) -> None:
    """No user is created whose tasks exceed the limit; the error names the setting."""
    code, _, err = await run(migrated, "seed", "--users", "1", "--tasks", "11", LIMIT_TASKS="10")

    assert (code, err.count("\n")) == (1, 1)
    assert "LIMIT_TASKS" in err
    assert (await counts(migrated))["users"] == 0


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("postgresql://u:p@/db?host=/run/postgresql", True),
        ("postgresql://u:p@localhost/db", True),
        ("postgresql://u:p@127.0.0.2:6432/db", True),
        ("postgresql://u:p@[::1]/db", True),
        ("postgresql:///db", True),
        ("postgresql://u:p@db.example.com/db", False),
        ("postgresql://u:p@localhost.example.com/db", False),
        ("postgresql://u:p@192.168.0.1/db", False),
        ("postgresql://u:p@localhost,db.example.com/db", False),
        ("postgresql://u:p@/db?host=db.example.com", False),
        ("postgresql://u:p@0.0.0.0/db", False),
    ],
)
def test_which_databases_are_local(url: str, *, is_local: bool) -> None:
    """A reset accepts Unix sockets, localhost and loopback addresses."""
    if is_local:
        refuse_remote(DatabaseURL(url))
        return
    with pytest.raises(StartupError, match="only a database on this machine"):
        refuse_remote(DatabaseURL(url))


@pytest.mark.parametrize("variable", ["DATABASE_URL", "DATABASE_OWNER_URL"])
async def test_reset_refuses_a_remote_database(server: Server, variable: str) -> None:
    """Both URLs must be local. No connection is opened, and the password is not shown."""
    code, _, err = await run(server, "reset", "--yes", **{variable: "postgresql://u:hidden@db.example.com/db"})

    assert (code, err.count("\n")) == (1, 1)
    assert f"{variable} names the host db.example.com" in err
    assert "hidden" not in err


async def test_listing_and_finding_users(migrated: Server) -> None:
    """All users are listed; control characters of their names do not reach the terminal."""
    first, second = await made_users(migrated, "ann@example.com", "bob\x1b[2J@example.com")

    code, out, _ = await run(migrated, "users", "list")
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == [str(first), str(second)]
    assert "\x1b" not in out

    for words in ("ANN@", str(first), "ann@example.com"):
        code, out, _ = await run(migrated, "users", "find", words)
        assert code == 0
        assert str(first) in out
        assert str(second) not in out
        assert "tasks    1, 0 of them completed, 0 in the trash" in out
    for words in ("carol", "100%", "_"):
        assert (await run(migrated, "users", "find", words))[0] == 1


async def test_users_are_hidden_from_the_server(migrated: Server) -> None:
    """With the server's role instead of the owner's, commands fail instead of finding nobody."""
    await made_users(migrated, "a@example.com")
    for command in (("users", "list"), ("export", "--email", "a@example.com"), ("users", "delete", "a@example.com")):
        code, _, err = await run(migrated, *command, DATABASE_OWNER_URL=migrated.app_url)
        assert (code, err.count("\n")) == (1, 1)
        assert "use the tables' owner in DATABASE_OWNER_URL" in err


async def test_deleting_a_user(migrated: Server) -> None:
    """A dry run and a no delete nothing; then everything of the user goes, and nothing of others."""
    gone, kept = await made_users(migrated, "gone@example.com", "kept@example.com")
    before = await counts(migrated)

    code, out, _ = await run(migrated, "users", "delete", "gone@example.com", "--dry-run")
    assert (code, "Nothing was deleted" in out) == (0, True)
    assert all(f"{table}: 1 rows, deleted with the user" in out for table in ("session", "tasks", "task_lists"))
    assert (await run(migrated, "users", "delete", "gone@example.com", said="\n"))[0] == 1
    assert await counts(migrated) == before

    assert (await run(migrated, "users", "delete", "GONE@example.com", said="y\n"))[0] == 0
    assert await counts(migrated) == {**dict.fromkeys(before, 1)}
    assert (await titles(migrated, kept), await titles(migrated, gone)) == (["A task"], [])

    code, _, err = await run(migrated, "users", "delete", str(gone), "--yes")
    assert (code, "There is no user" in err) == (1, True)


async def test_a_user_with_rows_in_the_way(migrated: Server) -> None:
    """A table whose rows do not follow their user is named, and nothing is deleted."""
    (user,) = await made_users(migrated, "a@example.com")
    admin = await connect(migrated.owner_url)
    await admin.execute("CREATE TABLE invoices (owner uuid REFERENCES users)")
    await admin.execute("INSERT INTO invoices VALUES ($1)", user)
    await admin.close()

    code, _, err = await run(migrated, "users", "delete", "a@example.com", "--yes")

    assert (code, "rows of invoices refer to the user" in err) == (1, True)
    assert await titles(migrated, user) == ["A task"]


async def test_export_and_import(migrated: Server, tmp_path: Path) -> None:
    """Files and pipes; an export replaces a file as a whole and is readable by its owner only."""
    first, second = await made_users(migrated, "a@example.com", "b@example.com")
    path = tmp_path / "a.jsonl"
    path.write_text("an older export")

    code, out, err = await run(migrated, "export", "--email", "a@example.com", "--output", path)
    assert (code, out, err) == (0, "", "Exported 1 lists and 1 tasks.\n")
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["a.jsonl"]  # noqa: PTH208 - in an asynchronous test
    code, out, _ = await run(migrated, "export", "--email", str(first))
    assert out == path.read_text()

    code, said, _ = await run(migrated, "import", path, "--email", "b@example.com", "--dry-run")
    assert (code, said) == (0, "Would import 1 lists and 1 tasks.\n")
    code, said, _ = await run(migrated, "import", "-", "--email", "b@example.com", said=out)
    assert (code, said) == (0, "Imported 1 lists and 1 tasks.\n")
    code, said, _ = await run(migrated, "import", path, "--email", "b@example.com")
    assert "2 were there already, by their ids, and were left as they are." in said
    assert await titles(migrated, second) == ["A task", "A task"]


def test_a_file_is_written_as_a_whole(tmp_path: Path) -> None:
    """An export that fails leaves the file as it was, and nothing beside it."""
    path = tmp_path / "a.jsonl"
    path.write_text("an older export")
    with suppress(InterruptedError), files.writing(path) as write:
        write(b"half")
        raise InterruptedError

    assert path.read_text() == "an older export"
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_to_a_pipe(tmp_path: Path) -> None:
    """A pipe or a device is written to and not replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(pipe.read_bytes)
        with files.writing(pipe) as write:
            write(b"all")

    assert reading.result() == b"all"
    assert pipe.is_fifo()


async def test_files_that_cannot_be_used(migrated: Server, tmp_path: Path) -> None:
    """Errors name the file or the line, and no text of tasks."""
    (user,) = await made_users(migrated, "a@example.com")
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"type": "Export", "format": 1}) + '\n{"type": "Task", "title": "a secret"}\n')

    for command, words in (
        (("export", "--email", "a@example.com", "--output", tmp_path / "no" / "a.jsonl"), "cannot be written"),
        (("import", tmp_path / "none.jsonl", "--email", "a@example.com"), "none.jsonl cannot be read"),
        (("import", bad, "--email", "a@example.com"), "line 2: id: Field required"),
        (("import", bad, "--email", "nobody@example.com"), "There is no user 'nobody@example.com'"),
    ):
        code, out, err = await run(migrated, *command)
        assert (code, out) == (1, "")
        assert words in err
        assert "secret" not in err
        assert "Traceback" not in err
    assert await titles(migrated, user) == ["A task"]


async def interrupted(
    server: Server, blocker: "asyncpg.Connection[Any]", blocked: str, *arguments: str | Path
) -> tuple[int, str]:
    """Press Ctrl-C when a command waits for what the `blocker` holds. Returns the exit code and the error."""
    process = taskql(*arguments, **environment(server))
    with process:
        while not await blocker.fetchval(blocked):
            assert process.poll() is None
            await blocker.execute("SELECT pg_stat_clear_snapshot()")  # which a transaction keeps
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_SECONDS)
    return process.returncode, err


async def test_an_interrupted_import(server: Server, alice: User, tmp_path: Path) -> None:
    """Ctrl-C in the middle of an import leaves nothing of it, although batches were written before."""
    lines = [{"type": "Task", "id": str(uuid4()), "title": "Half done"} for _ in range(2500)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in ({"type": "Export", "format": 1}, *lines)))
    blocker = await connect(server.owner_url)
    # The last row, with a version so that it does not lock the user's clock.
    async with blocker.transaction():
        await blocker.execute(
            "INSERT INTO tasks (user_id, id, title, version) VALUES ($1, $2, 'In the way', 1)",
            alice.id,
            lines[-1]["id"],
        )
        code, err = await interrupted(server, blocker, BLOCKED, "import", path, "--email", alice.email)

    assert (code, err) == (1, "taskql: Interrupted. Nothing was imported.\n")
    await blocker.execute("DELETE FROM tasks WHERE user_id = $1 AND title = 'In the way'", alice.id)
    await blocker.close()
    assert await titles(server, alice.id) == []
    assert (await alice.add())["version"] == 1


async def test_an_interrupted_seed(migrated: Server) -> None:
    """Ctrl-C in the middle of a user leaves complete users only; the next run creates the others."""
    assert (await run(migrated, "seed", "--users", "1", "--tasks", "20"))[0] == 0
    blocker = await connect(migrated.owner_url)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE task_tags IN SHARE MODE")
        code, err = await interrupted(migrated, blocker, WAITING, "seed", "--users", "2", "--tasks", "20")
    await blocker.close()

    assert (code, "Interrupted. Users are complete or missing" in err) == (1, True)
    found = await counts(migrated)
    assert (found["users"], found["tasks"]) == (1, 20)
    assert "Created 1 users with 20 tasks" in (await run(migrated, "seed", "--users", "2", "--tasks", "20"))[1]


@pytest.mark.parametrize("command", [["seed"], ["reset"], ["users"], ["users", "delete"], ["export"], ["import"]])
async def test_help(server: Server, command: list[str]) -> None:
    """Every command has a help text."""
    code, out, _ = await run(server, *command, "--help")

    assert code == 0
    assert len(out.splitlines()) > 4


def test_a_reader_that_ends(server: Server, alice: User) -> None:
    """A command whose output is no longer read ends without an error message."""
    assert alice.email  # there is something to print
    process = taskql("users", "list", **environment(server))
    assert process.stdout
    assert process.stderr
    with process:
        process.stdout.close()
        err = process.stderr.read()
        process.wait(PATIENCE_SECONDS)
    assert process.returncode == 1
    assert err == ""
