"""What each kind of role may do with users and tasks by SQL, and that triggers keep derived data consistent."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import Server, connect

from app.database.url import DatabaseURL
from migrations.run import migrate

ALL = "SELECT, INSERT, UPDATE, DELETE"
# An owner, an importer that bypasses row-level security, and an auth service.
MADE = """
    CREATE ROLE {owner} LOGIN; CREATE ROLE {bypassing} LOGIN BYPASSRLS; CREATE ROLE {auth} LOGIN;
    GRANT CREATE ON SCHEMA public TO {owner};
"""
GRANTED = f"GRANT {ALL} ON users TO {{auth}}, {{bypassing}}; GRANT {ALL} ON tasks TO {{bypassing}};"
ROLES = ("superuser", "bypassing", "owner", "auth", "server")
SEES_ALL = ("superuser", "bypassing")
ASTRAY = """
    WITH meant AS (SELECT user_id, tag_key(unnest(tags)), id FROM tasks)
    (TABLE meant EXCEPT TABLE task_tags) UNION ALL (TABLE task_tags EXCEPT TABLE meant)
"""


@dataclass
class Cast:
    """A database owned by an ordinary role, and roles of every kind."""

    server: Server
    names: dict[str, str]
    admin: "asyncpg.Connection[Any]"

    async def connected(self, role: str) -> "asyncpg.Connection[Any]":
        return await connect(self.server.owner_url.replace("//postgres@", f"//{self.names[role]}@"))

    async def user(self) -> UUID:
        """Create a user with a live and a trashed task, both with tags."""
        email = f"{uuid4()}@example.com"
        user: UUID = await self.admin.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", email)
        for deleted in (False, True):
            await self.admin.execute(
                """INSERT INTO tasks (user_id, id, title, tags, deleted_at)
                VALUES ($1, gen_random_uuid(), 'Task', '{a,b}', CASE WHEN $2 THEN now() END)""",
                user,
                deleted,
            )
        return user

    async def clock(self, user: UUID) -> "asyncpg.Record | None":
        return await self.admin.fetchrow("SELECT version, purged_through FROM task_clocks WHERE user_id = $1", user)


@pytest.fixture(scope="module")
async def stage(server: Server) -> AsyncIterator[Cast]:
    suffix = uuid4().hex
    names = {role: f"{role}_{suffix}" for role in ROLES} | {"superuser": "postgres"}
    outer = await connect(server.owner_url)
    await outer.execute(f"CREATE DATABASE test_{suffix}")
    database = server.database(f"test_{suffix}")
    admin = await connect(database.owner_url)
    await admin.execute(MADE.format(**names))
    await admin.execute(f"ALTER ROLE {names['owner']} CREATEROLE")
    found = Cast(database, names, admin)
    urls = [database.owner_url.replace("//postgres@", f"//{names[role]}@") for role in ("owner", "server")]
    await migrate(DatabaseURL(urls[0]), DatabaseURL(urls[1]))
    await admin.execute(GRANTED.format(**names))
    yield found
    await admin.close()
    await outer.execute(f"DROP DATABASE test_{suffix} WITH (FORCE)")
    for role in ROLES[1:]:
        await outer.execute(f"DROP ROLE {names[role]}")
    await outer.close()


@pytest.fixture(params=ROLES)
async def role(stage: Cast, request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, "asyncpg.Connection[Any]"]]:
    """A role's name and its connection, in a transaction that is rolled back unless the test ends it."""
    connection = await stage.connected(request.param)
    await connection.execute("BEGIN")
    yield request.param, connection
    await connection.close()


async def acting(connection: "asyncpg.Connection[Any]", user: UUID) -> None:
    await connection.execute(f"SET LOCAL app.user_id = '{user}'")


async def still_acting(connection: "asyncpg.Connection[Any]") -> str | None:
    value: str | None = await connection.fetchval("SELECT current_setting('app.user_id', true)")
    return value


USERS = {
    "insert": "INSERT INTO users (id, email, name) VALUES ($1, $1::uuid || '@example.com', 'New') RETURNING name",
    "update": "UPDATE users SET name = 'New' WHERE id = $1 RETURNING name",
    "delete": "DELETE FROM users WHERE id = $1 RETURNING 'New'",
    "upsert": """INSERT INTO users (id, email) VALUES ($1, $1::uuid || '@example.com')
        ON CONFLICT (id) DO UPDATE SET name = 'New' RETURNING name""",
}


@pytest.mark.parametrize("operation", USERS)
async def test_users(stage: Cast, role: tuple[str, "asyncpg.Connection[Any]"], operation: str) -> None:
    """All roles but the server's can write users with all their data, without affecting other users."""
    name, connection = role
    user, other = await stage.user(), await stage.user()
    untouched = await stage.admin.fetch("SELECT * FROM tasks WHERE user_id = $1 ORDER BY id", other)
    subject = uuid4() if operation == "insert" else user
    if name == "server":
        await acting(connection, subject)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(USERS[operation], subject)
        return
    assert await connection.fetchval("SELECT count(*) > 1 FROM users")
    assert await connection.fetchval(USERS[operation], subject) == "New"
    assert not await still_acting(connection)
    await connection.execute("COMMIT")

    tables = {"delete": 0, "insert": 1}
    left = await stage.admin.fetchval("SELECT count(*) FROM users WHERE id = $1", subject)
    assert left == tables.get(operation, 1)
    if operation == "delete":
        for table in ("tasks", "task_clocks", "task_tags", "user_tags", "tombstones"):
            assert await stage.admin.fetchval(f"SELECT count(*) FROM {table} WHERE user_id = $1", user) == 0  # noqa: S608
    assert await stage.admin.fetch("SELECT * FROM tasks WHERE user_id = $1 ORDER BY id", other) == untouched
    assert await stage.admin.fetch(ASTRAY) == []


TASKS = {
    "insert": "INSERT INTO tasks (user_id, id, title, tags) VALUES ($1, gen_random_uuid(), 'New', '{b,c}')",
    "update": "UPDATE tasks SET title = 'New', tags = '{c}' WHERE user_id = $1",
    "renumber": "UPDATE tasks SET id = gen_random_uuid() WHERE user_id = $1",
    "delete": "DELETE FROM tasks WHERE user_id = $1",
}
DONE = {"insert": "INSERT 0 1", "update": "UPDATE 2", "renumber": "UPDATE 2", "delete": "DELETE 2"}
NOTHING_DONE = {"update": "UPDATE 0", "renumber": "UPDATE 0", "delete": "DELETE 0"}


@pytest.mark.parametrize("operation", TASKS)
async def test_tasks(stage: Cast, role: tuple[str, "asyncpg.Connection[Any]"], operation: str) -> None:
    """Writing tasks needs no privileges on clocks and tags; both follow, and the current user stays."""
    name, connection = role
    user, other = await stage.user(), await stage.user()
    before, others = await stage.clock(user), await stage.clock(other)
    if name == "auth":
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(TASKS[operation], user)
        return
    acts_as = other if name in SEES_ALL else user
    await acting(connection, acts_as)
    assert await connection.execute(TASKS[operation], user) == DONE[operation]
    assert await still_acting(connection) == str(acts_as)
    await connection.execute("COMMIT")

    after = await stage.clock(user)
    assert before
    assert after
    assert after["version"] > before["version"]
    assert after["purged_through"] == before["purged_through"]
    stones = await stage.admin.fetchval("SELECT count(*) FROM tombstones WHERE user_id = $1", user)
    assert stones == (2 if operation in {"renumber", "delete"} else 0)
    assert await stage.clock(other) == others
    assert await stage.admin.fetch(ASTRAY) == []
    tags = "SELECT array_agg(DISTINCT tag ORDER BY tag) FROM task_tags WHERE user_id = $1"
    expected = {"insert": ["a", "b", "c"], "update": ["c"], "renumber": ["a", "b"], "delete": None}[operation]
    assert await stage.admin.fetchval(tags, user) == expected


@pytest.mark.parametrize("acts", ["as nobody", "as another"])
@pytest.mark.parametrize("operation", TASKS)
async def test_tasks_of_others(
    stage: Cast, role: tuple[str, "asyncpg.Connection[Any]"], operation: str, acts: str
) -> None:
    """Roles subject to row-level security, also the owner, cannot change another user's tasks or clock."""
    name, connection = role
    if name not in {"owner", "server"}:
        return
    user, other = await stage.user(), await stage.user()
    before = await stage.clock(user)
    if acts == "as another":
        await acting(connection, other)
    if operation == "insert":
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await connection.execute(TASKS[operation], user)
        await connection.execute("ROLLBACK")
    else:
        assert await connection.execute(TASKS[operation], user) == NOTHING_DONE[operation]
        await connection.execute("COMMIT")

    assert await stage.clock(user) == before
    assert await stage.admin.fetch(ASTRAY) == []


async def test_a_task_is_given_away(stage: Cast, role: tuple[str, "asyncpg.Connection[Any]"]) -> None:
    """Only roles that bypass row-level security can give tasks away: both clocks advance, and tags follow."""
    name, connection = role
    user, other = await stage.user(), await stage.user()
    before = [await stage.clock(user), await stage.clock(other)]
    give = "UPDATE tasks SET user_id = $2 WHERE user_id = $1"
    await acting(connection, user)
    if name not in SEES_ALL:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(give, user, other)
        return
    assert await connection.execute(give, user, other) == "UPDATE 2"
    assert await still_acting(connection) == str(user)
    await connection.execute("COMMIT")

    for was, now in zip(before, [await stage.clock(user), await stage.clock(other)], strict=True):
        assert was
        assert now
        assert now["version"] == was["version"] + 2
    assert await stage.admin.fetchval("SELECT count(*) FROM task_tags WHERE user_id = $1", other) == 8
    assert await stage.admin.fetch(ASTRAY) == []


async def test_several_users_at_once(stage: Cast) -> None:
    """A statement that deletes tasks of several users advances each one's clock once."""
    users = [await stage.user() for _ in range(3)]
    before = [await stage.clock(user) for user in users]
    importer = await stage.connected("bypassing")
    await importer.execute("DELETE FROM tasks WHERE user_id = ANY ($1)", users[:2])
    await importer.close()

    for user, was in zip(users, before, strict=True):
        now = await stage.clock(user)
        assert was
        assert now
        moved = 1 if user in users[:2] else 0
        assert now["version"] == was["version"] + moved
        assert now["purged_through"] == was["purged_through"]


async def test_the_servers_role_sees_its_caller_alone(stage: Cast) -> None:
    """Of `users` the server's role sees the current user's row only."""
    user, other = await stage.user(), await stage.user()
    connection = await stage.connected("server")
    assert await connection.fetch("SELECT FROM users") == []
    await connection.execute("BEGIN")
    await acting(connection, user)
    assert [row["id"] for row in await connection.fetch("SELECT id FROM users")] == [user]
    assert await connection.fetch("SELECT FROM users WHERE id = $1", other) == []
    assert await connection.fetchval("SELECT count(*) FROM users AS mine JOIN users AS all_of_them ON true") == 1
    await connection.execute("COMMIT")
    assert await connection.fetch("SELECT FROM users") == []
    await connection.close()


async def test_a_missing_user(stage: Cast) -> None:
    """The foreign key accepts an existing user, and rejects a missing one, as the server's role."""
    connection = await stage.connected("server")
    for user in (await stage.user(), uuid4()):
        await connection.execute("BEGIN")
        await acting(connection, user)
        if await stage.clock(user):
            await connection.execute(TASKS["insert"], user)
        else:
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await connection.execute(TASKS["insert"], user)
        await connection.execute("ROLLBACK")
    await connection.close()
