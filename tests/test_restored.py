"""`taskql restored`: after a restore every copy catches up with the database, and no version is reused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from conftest import SECRET, Application, Server, User, connect, made_settings, run, running, serving, taskql
from live import served
from mirror import CHANGES, Mirror, stored
from patience import PATIENCE_SECONDS

from app.database import embedded, functions
from app.database.checks import FORCED
from app.database.database import Database
from app.database.url import DatabaseURL
from app.identity.tokens import Signer
from app.main import create_app
from app.startup import findings
from app.tasks import restored
from migrations.run import migrate

PROGRAMS = embedded._binaries()  # noqa: SLF001 - pg_dump and pg_restore
UPDATE = """
    mutation ($id: ID!, $title: String!, $expected: Int) {
        updateTask(id: $id, input: { title: $title }, expectedVersion: $expected) {
            task { title version } userErrors { code } token
        }
    }
"""
DELETE = "mutation ($id: ID!) { deleteTask(id: $id) { userErrors { code } } }"
FOLLOW = "subscription ($since: SyncToken) { changes(since: $since) { fullSync } }"
LOCKS = "SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database WHERE locktype = 'advisory' AND datname = $1"


@dataclass
class Place:
    """A database with its own server."""

    server: Server
    application: Application
    owner: "asyncpg.Connection[Any]"

    def user(self, user: User) -> User:
        """The same user as a client of this server."""
        return replace(user, http=self.application.http)

    async def new_user(self) -> User:
        email = f"{uuid4()}@example.com"
        user_id = await self.owner.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", email)
        return User(user_id, email, Signer(SECRET).token(user_id, timedelta(hours=1)), self.application.http)

    async def command(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """The exit code and output of a command on this database."""
        urls = {"DATABASE_URL": self.server.app_url, "DATABASE_OWNER_URL": self.server.owner_url}
        process = taskql(*arguments, **{**urls, "AUTH_SECRET": SECRET, **environment})
        out, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_SECONDS)
        return process.returncode, out + err

    async def restored(self) -> str:
        code, said = await self.command("restored")
        assert code == 0, said
        return said

    async def warnings(self) -> list[str]:
        found = await findings(made_settings(self.server))
        return [str(finding) for finding in found if finding.level == "warning"]


@asynccontextmanager
async def place(server: Server, **settings: Any) -> AsyncIterator[Place]:
    await migrate(DatabaseURL(server.owner_url), DatabaseURL(server.app_url))
    owner = await connect(server.owner_url)
    async with running(made_settings(server, **settings)) as application:
        yield Place(server, application, owner)
    await owner.close()


@pytest.fixture
async def before(empty: Server) -> AsyncIterator[Place]:
    """The database before the dump and the restore."""
    async with place(empty) as found:
        yield found


class Restores:
    """Restores a dump into new databases with servers."""

    def __init__(self, server: Server, folder: Path, stack: AsyncExitStack) -> None:
        self._server, self._file, self._stack = server, folder / "taskql.dump", stack

    def dump(self, of: Place) -> None:
        self._run("pg_dump", "--format=custom", f"--file={self._file}", of.server.owner_url)

    async def restore(self, **settings: Any) -> Place:
        name = f"test_{uuid4().hex}"
        admin = await self._stack.enter_async_context(connected(self._server))
        await admin.execute(f"CREATE DATABASE {name}")
        self._stack.push_async_callback(admin.execute, f"DROP DATABASE {name} WITH (FORCE)")
        there = self._server.database(name)
        self._run("pg_restore", "--no-owner", "--no-privileges", f"--dbname={there.owner_url}", str(self._file))
        return await self._stack.enter_async_context(place(there, **settings))

    def _run(self, program: str, *arguments: str) -> None:
        run(self._file.parent, PROGRAMS / program, *arguments)


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    connection = await connect(server.owner_url)
    yield connection
    await connection.close()


@pytest.fixture
async def restores(server: Server, tmp_path: Path) -> AsyncIterator[Restores]:
    async with AsyncExitStack() as stack:
        yield Restores(server, tmp_path, stack)


async def caught_up(user: User) -> Mirror:
    mirror = Mirror(user)
    await mirror.catch_up()
    return mirror


def moved(mirror: Mirror, user: User) -> Mirror:
    """The same copy, as a client of another server."""
    return Mirror(user).copy_of(mirror)


async def update(user: User, task_id: str, title: str, expected: int | None = None) -> dict[str, Any]:
    payload: dict[str, Any] = (await user.data(UPDATE, id=task_id, title=title, expected=expected))["updateTask"]
    return payload


async def test_every_copy_becomes_what_the_database_has(before: Place, restores: Restores) -> None:
    """Copies of several users from any time, also from the lost period, become exact."""
    alice, bob = await before.new_user(), await before.new_user()
    kept, changed, deleted = [(await alice.add(title))["id"] for title in ("Kept", "Changed", "Deleted")]
    await bob.add("Bob's")
    copies = [await caught_up(alice), await caught_up(bob)]
    restores.dump(before)
    lost = await alice.add("Lost")
    await update(alice, changed, "Changed in what is lost")
    await alice.data(DELETE, id=deleted)
    await bob.add("Bob's, lost")
    copies += [await caught_up(alice), await caught_up(bob)]
    between = Mirror(alice)
    await between.pull(2)
    there = await restores.restore()
    for title in ("One", "Two", "Three", "Four", "Five"):
        await there.user(alice).add(title)
    await update(there.user(alice), changed, "Changed in the restored")
    owners = [alice, bob, alice, bob, alice]
    copies = [moved(copy, there.user(user)) for copy, user in zip([*copies, between], owners, strict=True)]
    copies += [await caught_up(there.user(alice))]

    query = "{ lists { nodes { id version } } }"
    await there.user(alice).data('mutation { createList(input: { name: "Home" }) { token } }')
    (before_it,) = (await there.user(alice).data(query))["lists"]["nodes"]
    said = await there.restored()
    await there.user(alice).add("Afterwards")

    assert "Advanced the clocks of 2 users, and gave 10 tasks and lists new versions." in said
    (after_it,) = (await there.user(alice).data(query))["lists"]["nodes"]
    assert after_it["version"] > before_it["version"] + 1000
    for copy in copies:
        pages = await copy.catch_up(2)
        assert [page["fullSync"] for page in pages] == [True, *[False] * (len(pages) - 1)]
        assert await copy.is_exact(there.owner)
        assert (await copy.pull())["fullSync"] is False
    assert lost["id"] not in copies[0].tasks
    assert kept in copies[0].tasks


async def test_a_lost_version_matches_nothing(before: Place, restores: Restores) -> None:
    """A version of lost content is a VERSION_CONFLICT, even if the clock has reached it again."""
    alice = await before.new_user()
    task = await alice.add("As it was")
    restores.dump(before)
    seen = (await update(alice, task["id"], "Lost"))["task"]["version"]
    there = await restores.restore()
    user = there.user(alice)
    assert (await update(user, task["id"], "Another"))["task"]["version"] == seen
    await there.restored()

    refused = await update(user, task["id"], "By somebody who saw what is lost", seen)

    assert refused["userErrors"] == [{"code": "VERSION_CONFLICT"}]
    assert refused["task"]["title"] == "Another"
    assert (await update(user, task["id"], "Seen", refused["task"]["version"]))["userErrors"] == []


async def test_the_same_dump_is_restored_twice(before: Place, restores: Restores) -> None:
    """A second restore reuses no version of the first one."""
    alice = await before.new_user()
    await alice.add("Kept")
    restores.dump(before)
    first = await restores.restore()
    await first.restored()
    await first.user(alice).add("Lost again")
    copy = moved(await caught_up(first.user(alice)), alice)
    second = await restores.restore()
    await second.restored()
    for number in range(3):
        await second.user(alice).add(str(number))
    copy = moved(copy, second.user(alice))

    assert (await copy.catch_up())[0]["fullSync"] is True
    assert copy.tasks == await stored(second.owner, alice)


async def test_a_user_who_is_missing_after_the_restore(before: Place, restores: Restores) -> None:
    """A user provisioned again from a token starts with a clock beyond all lost versions."""
    restores.dump(before)
    alice = await before.new_user()
    await alice.add("Lost")
    copy = await caught_up(alice)
    there = await restores.restore(auth_provision=True)
    await there.restored()
    for title in ("One", "Two"):
        await there.user(alice).add(title)
    copy = moved(copy, there.user(alice))

    assert (await copy.catch_up())[0]["fullSync"] is True
    assert copy.tasks == await stored(there.owner, alice)


async def test_a_user_without_a_clock_in_the_dump(before: Place, restores: Restores) -> None:
    """The clock of a user who had none in the dump starts beyond all lost versions."""
    alice = await before.new_user()
    restores.dump(before)
    await alice.add("Lost")
    copy = await caught_up(alice)
    there = await restores.restore()
    await there.restored()
    await there.user(alice).add("One")
    copy = moved(copy, there.user(alice))

    assert (await copy.catch_up())[0]["fullSync"] is True
    assert copy.tasks == await stored(there.owner, alice)


async def test_the_warning(before: Place, restores: Restores) -> None:
    """After a restore `doctor` and `serve` warn until the command ran; without one they do not."""
    restores.dump(before)
    assert await before.warnings() == []
    there = await restores.restore()

    (warning,) = await there.warnings()
    assert "restored or copied, or a standby was promoted" in warning
    assert "run `taskql restored`" in warning
    code, lines = await there.command("doctor")
    assert code == 1
    assert "warning  The database was restored" in lines
    assert "The database was restored or copied" in await asyncio.to_thread(logged, there)
    await there.restored()
    assert await there.warnings() == []


def logged(at: Place) -> str:
    """What a server logs while it starts."""
    environment = {"DATABASE_URL": at.server.app_url, "DATABASE_OWNER_URL": at.server.owner_url, "AUTH_SECRET": SECRET}
    with serving(**environment) as served:
        served.stop()
        assert served.process.stderr
        return served.process.stderr.read()


@pytest.mark.parametrize("field", ["system_identifier = '1'", "timeline = 7", "database_oid = 1"])
async def test_what_identifies_another_database(before: Place, field: str) -> None:
    """Another cluster, timeline or database causes a warning until `restored --nothing-lost`."""
    alice = await before.new_user()
    await alice.add()
    copy = await caught_up(alice)
    await before.owner.execute(f"UPDATE taskql_state SET {field}")  # noqa: S608 - a constant above
    assert len(await before.warnings()) == 1

    assert await before.command("restored", "--nothing-lost") == (0, "Recorded this database as the current one.\n")

    assert await before.warnings() == []
    assert (await copy.pull())["fullSync"] is False


async def test_without_access_to_control_data(before: Place) -> None:
    """Without access to PostgreSQL's control data there is no error and no false warning."""
    functions = "pg_control_system(), pg_control_checkpoint()"
    await before.owner.execute(f"REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC")

    assert await before.warnings() == []
    await before.owner.execute("UPDATE taskql_state SET database_oid = 1")
    assert len(await before.warnings()) == 1


async def first_full_sync(address: str, user: User, since: str | None) -> None:
    """Wait until a subscription begins anew."""
    headers = {"Authorization": f"Bearer {user.token}", "Accept": "text/event-stream"}
    body = {"query": FOLLOW, "variables": {"since": since}}
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE_SECONDS) as http,
        http.stream("POST", "/graphql", json=body, headers=headers) as response,
    ):
        async for line in response.aiter_lines():
            if '"fullSync":true' in line:
                return


async def test_subscribers_need_a_full_sync(before: Place) -> None:
    """Subscribers immediately get everything anew, and so does their next query."""
    alice = await before.new_user()
    await alice.add()
    copy = await caught_up(alice)
    name = await before.owner.fetchval("SELECT current_database()")
    async with served(create_app(made_settings(before.server))) as address:
        following = asyncio.create_task(first_full_sync(address, alice, copy.token))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await before.owner.fetchval(LOCKS, name):  # noqa: ASYNC110 - PostgreSQL sends no event
                await asyncio.sleep(0.01)

        await before.restored()

        await following
    assert (await copy.catch_up())[0]["fullSync"] is True
    assert copy.tasks == await stored(before.owner, alice)


async def test_it_runs_during_writes(before: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks advance in small batches while the server writes; no write is lost, and copies are exact."""
    monkeypatch.setattr(restored, "BATCH", 7)
    alice = await before.new_user()
    ids = [(await alice.add(str(number)))["id"] for number in range(30)]
    copy, database = (
        await caught_up(alice),
        Database(DatabaseURL(before.server.owner_url), pool_size=1, quotas={"tasks": 100_000}),
    )

    async def jumped() -> list[restored.Progress]:
        return [progress async for progress in restored.jump(database)]

    jumping, written = asyncio.create_task(jumped()), 0
    while not jumping.done():
        assert (await update(alice, ids[written % 30], f"Written {written}"))["userErrors"] == []
        await copy.pull(5)
        written += 1
    await database.close()

    assert (await jumping)[-1].users == 1
    await copy.catch_up()
    assert copy.tasks == await stored(before.owner, alice)
    clock = await before.owner.fetchval("SELECT version FROM task_clocks")
    versions = [task["version"] for task in copy.tasks.values()]
    assert restored.SMALLEST_JUMP < min(versions) <= max(versions) <= clock


async def test_it_may_be_run_again(before: Place) -> None:
    """Each run advances the clocks further, the promised number of times, and copies stay exact."""
    alice = await before.new_user()
    await alice.add()
    copy = await caught_up(alice)
    database = Database(DatabaseURL(before.server.owner_url), pool_size=1, quotas={"tasks": 100_000})
    for number in range(20):
        progress = [progress async for progress in restored.jump(database)]
        assert progress[-1] == (1, 1 + number, 0)
        await alice.add(str(number))
        assert (await copy.catch_up())[0]["fullSync"] is True
        assert copy.tasks == await stored(before.owner, alice)
    await database.close()


async def test_a_clock_that_cannot_advance(before: Place) -> None:
    """A clock near its maximum stays and is reported; other clocks advance, and the warning remains."""
    alice, bob = await before.new_user(), await before.new_user()
    for user in (alice, bob):
        await user.add()
    last = restored.LAST_START + 1
    await before.owner.execute("UPDATE task_clocks SET version = $2 WHERE user_id = $1", alice.id, last)
    await before.owner.execute("UPDATE taskql_state SET timeline = 7")

    code, said = await before.command("restored")

    assert code == 1
    assert "The clocks of 1 of 2 users cannot be advanced" in said
    clocks = dict(await before.owner.fetch("SELECT user_id, version FROM task_clocks"))
    assert clocks[alice.id] == last
    assert clocks[bob.id] > restored.SMALLEST_JUMP
    assert len(await before.warnings()) == 1


REFUSED = {
    "users are hidden": (
        ["ALTER TABLE users ENABLE ROW LEVEL SECURITY"],
        {"DATABASE_OWNER_URL": ""},
        "hides users",
    ),
    "revisions are missing": (["DELETE FROM alembic_version"], {}, "taskql migrate"),
    "an option that is none": ([], {"LOG_LEVEL": "x"}, "LOG_LEVEL"),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_what_is_refused(before: Place, why: str) -> None:
    """An invalid setup fails with one line, and no clock advances."""
    alice = await before.new_user()
    await alice.add()
    statements, environment, words = REFUSED[why]
    for statement in statements:
        await before.owner.execute(statement)

    code, said = await before.command("restored", **environment)

    assert code == 1
    assert words in said
    assert said.count("\n") == 1
    assert await before.owner.fetchval("SELECT version FROM task_clocks") == 1


async def test_an_owner_subject_to_row_level_security(before: Place) -> None:
    """An owner subject to row-level security acts as each user, and advances all clocks."""
    alice, bob = await before.new_user(), await before.new_user()
    for user in (alice, bob):
        await user.add()
    role = f"owner_{uuid4().hex}"
    await before.owner.execute(f"CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA public TO {role}")
    tables = ("users", *FORCED, "taskql_state", "alembic_version")
    for table in tables:
        await before.owner.execute(f"ALTER TABLE {table} OWNER TO {role}")
    for function in functions.ALL:
        await before.owner.execute(f"ALTER FUNCTION {function} OWNER TO {role}")

    url = before.server.owner_url.replace("//postgres@", f"//{role}@")
    code, said = await before.command("restored", DATABASE_OWNER_URL=url)
    await before.owner.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")

    assert code == 0, said
    assert "Advanced the clocks of 2 users, and gave 2 tasks and lists new versions." in said
    assert min(await versions(before)) > restored.SMALLEST_JUMP


async def versions(at: Place) -> list[int]:
    return [
        row[0] for row in await at.owner.fetch("SELECT version FROM task_clocks UNION ALL SELECT version FROM tasks")
    ]


# Invalid sync tokens


async def test_one_response_for_all_invalid_sync_tokens(before: Place) -> None:
    """Any invalid sync token gets a full sync, from the query and from the subscription."""
    alice, bob = await before.new_user(), await before.new_user()
    await bob.add()
    await alice.add()
    old = (await caught_up(alice)).token
    await before.restored()
    foreign = (await caught_up(bob)).token
    await alice.add()
    future = (await caught_up(alice)).token
    await before.owner.execute("UPDATE task_clocks SET version = version - 1 WHERE user_id = $1", alice.id)
    assert foreign

    async with served(create_app(made_settings(before.server))) as address:
        for token in (old, foreign, future, foreign[1:], "", "garbage", "é", "\0"):
            page = (await alice.data(CHANGES, since=token))["changes"]
            assert page["fullSync"] is True, token
            assert {change["task"]["title"] for change in page["changes"]} == {"A task"}
            await first_full_sync(address, alice, token)


async def test_clocks_of_new_users(before: Place) -> None:
    """New users' clocks start at 1, or beyond all earlier versions after a restore, for every role."""
    alice = await before.new_user()
    assert (await alice.add())["version"] == 1
    await before.restored()
    bob = await before.new_user()
    role = f"auth_{uuid4().hex}"
    await before.owner.execute(f"CREATE ROLE {role}; GRANT SELECT, INSERT ON users TO {role}; SET ROLE {role}")
    carol = await before.new_user()
    await before.owner.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")

    for user in (bob, carol):
        version = (await user.add())["version"]
        assert version > restored.SMALLEST_JUMP
        assert isinstance(user.id, UUID)
