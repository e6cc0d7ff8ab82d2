"""`taskql purge` permanently deletes old trash, and nothing else."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import SECRET, Application, Server, User, connect, taskql, untold
from patience import PATIENCE_SECONDS

from app.database.database import Database
from app.database.url import DatabaseURL
from app.errors import StartupError
from app.tasks import purge as purging
from migrations.run import migrate

DELETE = "mutation ($id: ID!) { deleteTask(id: $id) { task { id version } } }"
TRASH = "{ tasks(filter: { trashed: true }, first: 100) { nodes { id title } } live: tasks { totalCount } }"
RESTORE = "mutation ($id: ID!) { restoreTask(id: $id) { task { id } userErrors { code } } }"


def purge(server: Server, older_than: str) -> tuple[int, str]:
    environment = {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url, "AUTH_SECRET": SECRET}
    with taskql("purge", "--older-than", older_than, **environment) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out + err


@pytest.fixture(scope="module", autouse=True)
def emptied(server: Server, settings: object) -> None:
    """Purge the old trash of other tests."""
    del settings
    assert purge(server, "1d")[0] == 0


async def trashed(user: User, title: str) -> dict[str, Any]:
    task = await user.add(title)
    deleted: dict[str, Any] = (await user.data(DELETE, id=task["id"]))["deleteTask"]["task"]
    return deleted


async def test_only_old_trash_goes(server: Server, alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Only tasks deleted before the given age are purged, of all users, and each leaves a tombstone."""
    old, young = await trashed(alice, "Old"), await trashed(alice, "Young")
    await alice.add("Live")
    others = await trashed(bob, "Old")
    async with untold(owner):
        await owner.execute(
            "UPDATE tasks SET deleted_at = now() - interval '31 days' WHERE (user_id, id) IN (($1, $2), ($3, $4))",
            alice.id, old["id"], bob.id, others["id"],
        )  # fmt: skip

    code, said = purge(server, "30d")

    assert code == 0, said
    assert "Deleted 2 tasks" in said
    seen = await alice.data(TRASH)
    assert [node["id"] for node in seen["tasks"]["nodes"]] == [young["id"]]
    assert seen["live"]["totalCount"] == 1
    assert (await bob.data(TRASH))["tasks"]["nodes"] == []
    stones = await owner.fetch(
        """SELECT id::text, kind, stone.version, trashed_version, purged_through FROM tombstones AS stone
           JOIN task_clocks AS clock ON clock.user_id = stone.user_id AND clock.version = stone.version
           WHERE stone.user_id = $1""",
        alice.id,
    )
    live = (await alice.add())["version"]
    assert [tuple(stone) for stone in stones] == [(old["id"], 1, live - 1, old["version"], 0)]


async def test_a_second_run_finds_nothing(server: Server, alice: User) -> None:
    """Another run purges nothing more and advances no clock."""
    await trashed(alice, "Young")
    version = (await alice.add())["version"]

    assert "Deleted 0 tasks" in purge(server, "1d")[1]
    assert (await alice.add())["version"] == version + 1


async def test_more_than_one_batch(server: Server, alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """A user's trash is purged in batches until nothing is left."""
    await alice.add()
    await owner.execute(
        """INSERT INTO tasks (user_id, id, title, position, version, deleted_at)
           SELECT $1, gen_random_uuid(), 'x', 'b' || i, 1, '2000-01-01' FROM generate_series(1, 2500) AS i""",
        alice.id,
    )

    assert "Deleted 2500 tasks" in purge(server, "30d")[1]
    assert await owner.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1", alice.id) == 1


async def test_what_was_purged_cannot_be_restored(
    server: Server, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """Restoring a purged task is NOT_FOUND."""
    task = await trashed(alice, "Old")
    async with untold(owner):
        await owner.execute("UPDATE tasks SET deleted_at = '2000-01-01' WHERE user_id = $1", alice.id)
    purge(server, "30d")

    assert (await alice.data(RESTORE, id=task["id"]))["restoreTask"]["userErrors"] == [{"code": "NOT_FOUND"}]


async def test_users_who_cannot_be_listed(empty: Server) -> None:
    """If row-level security would hide users, a purge fails with the reason instead of finding nobody."""
    await migrate(DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url))
    role = f"held_{uuid4().hex}"
    admin = await connect(empty.owner_url)
    await admin.execute(f"CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role}; GRANT SELECT ON users TO {role}")
    await admin.execute(f"ALTER FUNCTION users_after(uuid, integer) OWNER TO {role}")
    database = Database(DatabaseURL(empty.app_url), pool_size=1, quotas={"tasks": 100})
    with pytest.raises(StartupError, match=r"users cannot be listed.*row-level security"):
        [seen async for seen in purging.purge(database, timedelta(days=1), timedelta(days=30))]
    await database.close()

    code, said = purge(empty, "1d")
    await admin.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")
    await admin.close()

    assert code == 1
    assert "ALTER FUNCTION users_after(uuid, integer) OWNER TO" in said


async def test_more_users_than_a_page(
    application: Application, alice: User, bob: User, owner: "asyncpg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purge covers all users once, also if there are more than fit a page."""
    monkeypatch.setattr(purging, "BATCH", 10)
    await owner.execute("INSERT INTO users (email) SELECT gen_random_uuid() FROM generate_series(1, 28)")
    seen = [user async for user in purging.each_user(application.database)]

    assert {alice.id, bob.id} < set(seen)
    assert seen == [row[0] for row in await owner.fetch("SELECT id FROM users ORDER BY id")]


async def test_the_whole_trash(server: Server, alice: User, bob: User) -> None:
    """With 0d even tasks that were deleted a moment ago are purged, those of every user; other tasks stay."""
    await alice.add()
    for user in (alice, bob):
        await trashed(user, "Young")

    code, _ = purge(server, "0d")

    assert code == 0
    assert await alice.data(TRASH) == {"tasks": {"nodes": []}, "live": {"totalCount": 1}}
    assert (await bob.data(TRASH))["tasks"]["nodes"] == []


def test_an_invalid_age(server: Server) -> None:
    """An invalid --older-than is an error that names the option."""
    code, said = purge(server, "soon")

    assert code == 1
    assert "--older-than" in said


async def test_old_lists_go_with_their_tasks(
    server: Server, alice: User, bob: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """A list is purged after its tasks; a task in no trash stays, and a younger list, too."""
    create = "mutation ($name: String!) { createList(input: { name: $name }) { list { id } } }"
    delete = "mutation ($id: ID!) { deleteList(id: $id) { list { version } } }"
    old, young, theirs = [
        (await user.data(create, name=name))["createList"]["list"]["id"]
        for user, name in ((alice, "old"), (alice, "young"), (bob, "live"))
    ]
    for user, list_id in ((alice, old), (alice, young), (bob, theirs)):
        await user.add("A task", listId=list_id)
    for one in (old, young):
        await alice.data(delete, id=one)
    async with untold(owner):
        for table, column in (("tasks", "list_id"), ("task_lists", "id")):
            await owner.execute(
                f"UPDATE {table} SET deleted_at = '2000-01-01' WHERE user_id = $1 AND {column} = $2",  # noqa: S608 - constants
                alice.id,
                UUID(old),
            )

    assert "Deleted 1 tasks and 1 lists" in purge(server, "30d")[1]

    rows = "SELECT id::text FROM task_lists WHERE user_id = $1"
    assert [row[0] for row in await owner.fetch(rows, alice.id)] == [young]
    assert [row[0] for row in await owner.fetch(rows, bob.id)] == [theirs]
    clock = await owner.fetchrow("SELECT tasks, lists, purged_through FROM task_clocks WHERE user_id = $1", alice.id)
    assert clock == (1, 1, 0)
    kinds = await owner.fetch("SELECT kind FROM tombstones WHERE user_id = $1 ORDER BY version", alice.id)
    assert [row[0] for row in kinds] == [1, 0]


async def test_old_tombstones_go(server: Server, alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Tombstones of more than TOMBSTONE_DAYS are deleted, in batches, and only then older tokens become invalid."""
    await alice.add()
    insert = """
        INSERT INTO tombstones SELECT $1, gen_random_uuid(), 1, n, n, now() - $2::interval
        FROM generate_series($3::int, $4::int) AS n
    """
    for user, first, last, days in ((alice, 1, 2500, 31), (alice, 2501, 2600, 29), (bob, 1, 3, 29)):
        await owner.execute(insert, user.id, timedelta(days=days), first, last)
    await bob.add()

    assert purge(server, "30d")[0] == 0

    left = "SELECT count(*), min(version) FROM tombstones WHERE user_id = $1"
    assert tuple(await owner.fetchrow(left, alice.id) or ()) == (100, 2501)
    assert tuple(await owner.fetchrow(left, bob.id) or ()) == (3, 1)
    through = "SELECT purged_through FROM task_clocks WHERE user_id = $1"
    assert [await owner.fetchval(through, user.id) for user in (alice, bob)] == [2500, 0]
