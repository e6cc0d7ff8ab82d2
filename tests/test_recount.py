"""`taskql doctor` compares the task counters with the tasks, and corrects wrong ones."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from conftest import SECRET, Application, Server, User, connect, made_settings, taskql
from patience import PATIENCE_SECONDS
from test_doctor import doctor

from app import startup
from app.database.url import DatabaseURL
from app.tasks.recount import recount
from migrations.run import migrate

VERSIONS = "SELECT user_id, version FROM task_clocks WHERE version > 0 ORDER BY 1"
COUNTERS = "SELECT user_id, tasks FROM task_clocks"
NUMBERS = "SELECT user_id, count(*) FROM tasks GROUP BY 1"
INSERT = "INSERT INTO tasks (user_id, id, title) SELECT $1, gen_random_uuid(), 'x' FROM generate_series(1, $2)"
UNCOUNTED = INSERT.replace("title)", "title, version)").replace("'x' FROM", "'x', 1 FROM")


class Counted:
    """The test's own migrated database with three users, of 0, 1 and 2 tasks."""

    def __init__(self, server: Server, owner: "asyncpg.Connection[Any]") -> None:
        self.server = server
        self.owner = owner
        self.users: list[UUID] = []

    async def fill(self) -> None:
        for number in range(3):
            made = "INSERT INTO users (email) VALUES ($1) RETURNING id"
            self.users.append(await self.owner.fetchval(made, f"{number}@example.com"))
            await self.owner.execute(INSERT, self.users[-1], number)

    async def counters(self) -> dict[UUID, int]:
        return {row[0]: row[1] for row in await self.owner.fetch(COUNTERS) if row[1]}

    async def numbers(self) -> dict[UUID, int]:
        return {row[0]: row[1] for row in await self.owner.fetch(NUMBERS)}

    def doctor(self, *options: str) -> tuple[int, str, str]:
        """The exit code, the line about the counters, and standard error."""
        with taskql("doctor", *options, **self.environment) as process:
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
        (line,) = [line for line in out.splitlines() if "task counters" in line]
        return process.returncode, line, err

    @property
    def environment(self) -> dict[str, str]:
        urls = {"DATABASE_URL": self.server.app_url, "DATABASE_OWNER_URL": self.server.owner_url}
        return {**urls, "AUTH_SECRET": SECRET}


@pytest.fixture
async def there(empty: Server) -> AsyncIterator[Counted]:
    await migrate(DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url))
    owner = await connect(empty.owner_url)
    # Otherwise doctor would warn about it.
    name = await owner.fetchval("SELECT current_database()")
    await owner.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    there = Counted(empty, owner)
    await there.fill()
    yield there
    await owner.close()


async def test_counters_that_are_right(there: Counted) -> None:
    """Correct counters stay unchanged, and the exit code is 0."""
    assert there.doctor() == (0, "ok       The task counters of all 3 users are correct.", "")
    assert await there.counters() == await there.numbers()


async def test_counters_that_are_wrong(there: Counted) -> None:
    """Counters that are too low, too high or missing are corrected once, and no clock advances."""
    await there.owner.execute(UNCOUNTED, there.users[0], 1)
    await there.owner.execute(UNCOUNTED, there.users[1], 3)
    await there.owner.execute("UPDATE task_clocks SET tasks = 9, lists = 4 WHERE user_id = $1", there.users[2])
    clocks = await there.owner.fetch(VERSIONS)

    assert there.doctor() == (
        1,
        "warning  The task counters of 3 of all 3 users were wrong, and have been corrected.",
        "",
    )
    assert await there.counters() == await there.numbers()
    assert await there.owner.fetchval("SELECT sum(lists) FROM task_clocks") == 0
    assert await there.owner.fetch(VERSIONS) == clocks
    assert there.doctor()[0] == 0


async def test_more_users_than_there_is_time_for(there: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time limit the report says how many users were compared; --recount compares all."""
    monkeypatch.setattr(startup, "RECOUNT_SECONDS", -1)
    await there.owner.execute("UPDATE task_clocks SET tasks = 9")
    report = await startup.report(made_settings(there.server))
    (seen,) = [str(finding) for finding in report if "task counters" in finding.seen]
    assert "first 1 users" in seen
    assert "taskql doctor --recount" in seen
    assert await there.counters() != await there.numbers()

    await there.owner.execute("INSERT INTO users (email) SELECT n || '@example.org' FROM generate_series(1, 997) AS n")
    code, line, progress = there.doctor("--recount")
    assert (code, "of all 1000 users were wrong" in line) == (1, True)
    assert progress.startswith("1000 users, ")
    assert await there.counters() == await there.numbers()


async def test_without_row_level_security_nothing_is_counted(there: Counted) -> None:
    """If row-level security is not intact, nothing is counted: the role would see the wrong rows."""
    await there.owner.execute("ALTER TABLE tasks NO FORCE ROW LEVEL SECURITY")
    code, lines = doctor(**there.environment)

    assert code == 2
    assert not any("task counters" in line for line in lines)


async def test_counting_while_users_write(
    application: Application, alice: User, bob: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """Counters corrected during writes are correct afterwards."""
    done = asyncio.Event()

    async def write(user: User) -> None:
        for number in range(60):
            await user.add(str(number))
            await owner.execute("UPDATE task_clocks SET tasks = tasks + 7 WHERE user_id = $1", user.id)
        done.set()

    async def correct() -> None:
        while not done.is_set():
            async for _ in recount(application.database):
                pass

    await asyncio.gather(write(alice), correct())
    async for _ in recount(application.database):
        pass
    await bob.add()

    for user in (alice, bob):
        number = await owner.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1", user.id)
        assert await owner.fetchval("SELECT tasks FROM task_clocks WHERE user_id = $1", user.id) == number
