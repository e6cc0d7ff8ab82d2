"""A running Citus cluster: which servers a request reaches, and what users see while workers join, leave and fail."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import nodes
import pytest
from alembic import command
from conftest import (
    SECRET,
    Application,
    Server,
    User,
    connect,
    distributed,
    made_settings,
    running,
)
from nodes import DATABASE, HOST, OWNER, SERVER, Cluster, execute
from patience import PATIENCE_SECONDS
from sqlalchemy import event
from test_data_commands import run as taskql
from test_migrations import run
from test_partitions import READS, WRITES
from test_routable import LIST, LISTS, OUTBOX

from app.database.checks import FORCED, Finding
from app.database.url import DatabaseURL
from app.identity.tokens import Signer
from app.startup import findings
from app.tasks.purge import purge
from migrations import run as migrations
from migrations.run import config, migrate

pytestmark = pytest.mark.citus

CREATE = """mutation ($title: String!) {
    createTask(input: { title: $title, tags: ["home", "work"] }) { task { id title version } }
}"""
UPDATE = """mutation ($id: ID!, $title: String!) {
    updateTask(id: $id, input: { title: $title }) { task { id title version } }
}"""
CREATE_LIST = 'mutation { createList(input: { name: "Home" }) { list { id } } }'
PURGE = """mutation ($id: ID!) {
    deleteTask(id: $id) { token } purgeTasks(where: { ids: [$id] }) { affectedCount }
}"""
PAGE = "{ tasks(first: 1) { nodes { id title version } } }"
# Enough users, and enough writes of each, to overlap with the operation under test.
USERS, ROUNDS = 6, 8
OPERATIONS = {**READS, **WRITES, **LISTS}
# For each operation: the number of commands the coordinator sends, and of workers it reaches.
READ, WRITE, WRITE_AND_READ = (1, 1), (4, 1), (5, 1)
COMMANDS = {
    **{name: WRITE if query.startswith("mutation") else READ for name, query in OPERATIONS.items()},
    "create many": (5, 1),
    # Their payloads show what other rows contribute.
    **{name: WRITE_AND_READ for name, query in LISTS.items() if query.startswith("mutation") and LIST in query},
    "create in a list": WRITE_AND_READ,
    "restore from a list": WRITE_AND_READ,
    "create many in a list": (6, 1),
    # These look at what they are about to purge, and then purge it.
    **dict.fromkeys(("purge with lists", "purge the list"), (9, 1)),
    # The ids exist.
    "create the purged list": (6, 1),
    "create a task with its id": (5, 1),
}


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with nodes.running() as cluster:
        await cluster.distribute()
        yield cluster


@pytest.fixture(scope="module")
async def application(cluster: Cluster) -> AsyncIterator[Application]:
    async with running(made_settings(cluster.server)) as application:
        yield application


@pytest.fixture(autouse=True)
def _all_run(cluster: Cluster) -> Iterator[None]:
    """A test that fails leaves no server ended for the next."""
    yield
    for node in cluster.nodes:
        if node.process is None:
            cluster.start(node)


@pytest.fixture
async def admin(cluster: Cluster) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A superuser connection to the coordinator."""
    connection = await connect(cluster.server.owner_url)
    yield connection
    await connection.close()


async def new_user(admin: "asyncpg.Connection[Any]", application: Application) -> User:
    email = f"{uuid4()}@example.com"
    user_id = await admin.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", email)
    return User(user_id, email, Signer(SECRET).token(user_id, timedelta(hours=1)), application.http)


async def port_of(admin: "asyncpg.Connection[Any]", user_id: UUID) -> int:
    """The port of the worker that holds a user's data."""
    port: int = await admin.fetchval(
        """SELECT nodeport FROM citus_shards
        WHERE shardid = get_shard_id_for_distribution_column('tasks', $1::uuid)""",
        user_id,
    )
    return port


async def some_users(admin: "asyncpg.Connection[Any]", application: Application) -> dict[int, list[User]]:
    """Users on every worker, grouped by the worker's port."""
    found: dict[int, list[User]] = {}
    workers = await admin.fetchval("SELECT count(*) FROM citus_get_active_worker_nodes()")
    while len(found) < workers or min(map(len, found.values())) < USERS // workers:
        user = await new_user(admin, application)
        found.setdefault(await port_of(admin, user.id), []).append(user)
    return found


# Commands per request


@dataclass
class Remote:
    """The commands that the coordinator sends to workers, collected from the notices it logs to the client."""

    commands: list[tuple[str, str]] = field(default_factory=list)

    def watch(self, connection: Any, _entry: object) -> None:
        connection.driver_connection.add_log_listener(self._told)

    def _told(self, _connection: object, message: Any) -> None:
        if message.message.startswith("issuing "):
            place = re.search(r"@(\S+:\d+) ", message.detail)
            assert place
            self.commands.append((message.message.removeprefix("issuing "), place[1]))

    def taken(self) -> tuple[int, int]:
        """The number of commands since the last call, and of workers that received them."""
        found, self.commands = self.commands, []
        return len(found), len({place for _, place in found})


@pytest.fixture
async def remote(cluster: Cluster, admin: "asyncpg.Connection[Any]") -> AsyncIterator[tuple[Application, Remote]]:
    """An application that records the commands its connections send to workers."""
    await admin.execute(f"ALTER ROLE {SERVER} SET citus.log_remote_commands = on")
    remote = Remote()
    async with running(made_settings(cluster.server, db_pool_size=1)) as application:
        event.listen(application.database.engine.sync_engine, "connect", remote.watch)
        yield application, remote
    await admin.execute(f"ALTER ROLE {SERVER} RESET citus.log_remote_commands")


async def test_a_request_goes_to_one_worker(
    remote: tuple[Application, Remote], admin: "asyncpg.Connection[Any]", repository: Path
) -> None:
    """Every operation reaches only the worker of its user, with the documented number of commands."""
    application, told = remote
    user = await new_user(admin, application)
    tasks = [(await user.add(f"A task {n}", tags=["home", "work"]))["id"] for n in range(5)]
    found = {}
    for name, query in OPERATIONS.items():
        names = {name: task for name, task in zip(("id", "other"), tasks, strict=False) if f"${name}:" in query}
        told.taken()
        await user.data(query, **names)
        found[name] = told.taken()

    assert found == COMMANDS
    assert {place for _, place in found.values()} == {1}
    assert documented(repository) == {commands for commands, _ in found.values()}


def documented(repository: Path) -> set[int]:
    """The documented numbers of commands per request."""
    text = (repository / "docs" / "citus.md").read_text()
    table = text.partition("| Operation | Messages to the coordinator | Commands to the worker |\n")[2].partition(
        "\n\n"
    )[0]
    return {int(row.rsplit("|")[-2]) for row in table.split("\n")[1:]}


async def test_creating_again_goes_to_one_worker(
    remote: tuple[Application, Remote], admin: "asyncpg.Connection[Any]"
) -> None:
    """Repeated, rejected and partly new creates reach no other worker."""
    application, told = remote
    user = await new_user(admin, application)
    ids = [str(uuid4()) for _ in range(3)]
    many = (
        "mutation ($inputs: [CreateTaskInput!]!) { createTasks(inputs: $inputs) { affectedCount userErrors { code } } }"
    )
    one = "mutation ($input: CreateTaskInput!) { createTask(input: $input) { task { id } userErrors { code } } }"

    async def asked(query: str, **variables: Any) -> Any:
        told.taken()
        (answer,) = (await user.data(query, **variables)).values()
        assert told.taken()[1] == 1
        return answer

    rows = [{"id": each, "title": "New"} for each in ids]
    assert (await asked(many, inputs=rows[:2]))["affectedCount"] == 2
    assert (await asked(many, inputs=rows[:2]))["affectedCount"] == 2
    assert (await asked(many, inputs=rows))["affectedCount"] == 3
    assert (await asked(many, inputs=[{**rows[0], "title": "Other"}]))["userErrors"] == [{"code": "ID_TAKEN"}]
    assert (await asked(one, input=rows[0]))["task"] == {"id": ids[0]}
    assert (await asked(one, input={**rows[0], "title": "Other"}))["userErrors"] == [{"code": "ID_TAKEN"}]
    stats = await user.data("{ viewer { taskStats { total } } }")
    assert stats["viewer"]["taskStats"]["total"] == 3
    assert await admin.fetchval("SELECT tasks FROM task_clocks WHERE user_id = $1", user.id) == 3


async def test_a_batch_goes_to_one_worker(remote: tuple[Application, Remote], admin: "asyncpg.Connection[Any]") -> None:
    """A batch of every kind of write reaches the worker of its user alone, also again."""
    application, told = remote
    user = await new_user(admin, application)
    tasks = [(await user.add(f"A task {n}", tags=["home"]))["id"] for n in range(2)]
    for _ in range(2):
        told.taken()
        await user.data(OUTBOX, id=tasks[0], other=tasks[1])
        assert told.taken()[1] == 1


async def test_purging_goes_to_one_worker_at_a_time(
    remote: tuple[Application, Remote], admin: "asyncpg.Connection[Any]"
) -> None:
    """Purging empties each user's trash with a write to that user's worker only."""
    application, told = remote
    user = await new_user(admin, application)
    await user.data(WRITES["delete"], id=(await user.add("Waste"))["id"])
    told.taken()
    assert [seen async for seen in purge(application.database, timedelta(0), timedelta(0))]

    assert not await admin.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1", user.id)
    begun = [place for text, place in told.commands if text.startswith("BEGIN")]
    committed = [place for text, place in told.commands if text.startswith("COMMIT")]
    assert begun == committed


# Row-level security

ATTEMPTS = (
    "SELECT FROM {} WHERE user_id = '{}'",
    "UPDATE {} SET title = title WHERE user_id = '{}'",
    "DELETE FROM {} WHERE user_id = '{}' AND title = 'None'",
)
INSERTION = "INSERT INTO {} (user_id, id, title) VALUES ('{}', '{}', 'Theirs')"


async def test_row_security_holds_on_the_workers(
    cluster: Cluster, application: Application, admin: "asyncpg.Connection[Any]"
) -> None:
    """A direct login to a worker as the server's role is subject to row-level security, also on the shards."""
    alice, bob = [await new_user(admin, application) for _ in range(2)]
    for user in (alice, bob):
        await user.add("Secret", tags=["home"])
        await user.data(CREATE_LIST)
        await user.data(PURGE, id=(await user.add("Waste"))["id"])
    port = await port_of(admin, alice.id)
    (worker,) = [node for node in cluster.workers if node.port == port]
    shard = await admin.fetchval("SELECT 'tasks_' || get_shard_id_for_distribution_column('tasks', $1::uuid)", alice.id)
    connection = await connect(worker.url(SERVER))
    for table in ("tasks", shard):
        done = {}
        for name, user_id in (("nobody", ""), ("alice", alice.id), ("bob", bob.id)):
            async with connection.transaction():
                await connection.execute(f"SET LOCAL app.user_id = '{user_id}'")
                done[name] = [await connection.execute(text.format(table, alice.id)) for text in ATTEMPTS]
        assert done == {
            "nobody": ["SELECT 0", "UPDATE 0", "DELETE 0"],
            "alice": ["SELECT 1", "UPDATE 1", "DELETE 0"],
            "bob": ["SELECT 0", "UPDATE 0", "DELETE 0"],
        }
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await connection.execute(INSERTION.format(table, alice.id, uuid4()))
    seen = {}
    for user in (alice, bob):
        async with connection.transaction():
            await connection.execute(f"SET LOCAL app.user_id = '{user.id}'")
            seen[user.id] = [
                await connection.fetchval(f"SELECT count(*) FROM {table} WHERE user_id = $1", alice.id)  # noqa: S608
                for table in FORCED
            ]
    assert seen == {alice.id: [1] * len(FORCED), bob.id: [0] * len(FORCED)}
    await connection.close()


async def test_row_security_is_forced_on_every_shard(cluster: Cluster) -> None:
    """Row-level security is enabled and forced on each shard of each table, on every worker."""
    for node in cluster.workers:
        connection = await connect(node.url())
        await connection.execute("SET citus.show_shards_for_app_name_prefixes = '*'")
        rows = await connection.fetch(
            """SELECT relrowsecurity AND relforcerowsecurity AS walled, count(*) AS number FROM pg_class
            WHERE relname ~ $1 AND relkind = 'r' GROUP BY 1""",
            f"^({'|'.join(FORCED)})_[0-9]+$",
        )
        await connection.close()
        assert [row["walled"] for row in rows] == [True]
        assert rows[0]["number"] >= len(FORCED)


# Migrations


async def test_migrating_again(cluster: Cluster, application: Application, admin: "asyncpg.Connection[Any]") -> None:
    """The owner may migrate again, with --citus or without, while a server is running."""
    user = await new_user(admin, application)
    for _ in range(2):
        await cluster.distribute()
        await migrate(DatabaseURL(cluster.owner_url), DatabaseURL(cluster.coordinator.url(SERVER)))
        await user.add()


REVISION = '''"""A column, a table of user data's index, and a function that workers call."""

from alembic import op
import sqlalchemy as sa

revision = "next"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("extra", sa.Integer(), server_default=sa.text("7"), nullable=False))
    op.create_index("ix_tasks_extra", "tasks", ["user_id", "extra"])
    op.execute("""
        CREATE OR REPLACE FUNCTION act_as(actor uuid) RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
            PERFORM pg_catalog.set_config('app.user_id', actor::pg_catalog.text, true);
            RETURN actor; -- as in the next version
        END
        $$
    """)


def downgrade() -> None:
    op.drop_index("ix_tasks_extra", "tasks")
    op.drop_column("tasks", "extra")
'''


async def test_upgrading(
    cluster: Cluster,
    application: Application,
    admin: "asyncpg.Connection[Any]",
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A later revision reaches every worker while servers keep running."""
    user = await new_user(admin, application)
    await user.add()
    head = await admin.fetchval("SELECT version_num FROM alembic_version")
    (tmp_path / "next.py").write_text(REVISION.format(head=head))

    def with_next(connection: Any = None) -> Any:
        known = config(connection)
        known.set_main_option("path_separator", "space")
        known.set_main_option("version_locations", f"{Path(migrations.__file__).parent / 'versions'} {tmp_path}")
        return known

    monkeypatch.setattr(migrations, "config", with_next)
    owner = DatabaseURL(cluster.owner_url)
    assert await migrate(owner, DatabaseURL(cluster.coordinator.url(SERVER))) == ["next"]
    for node in cluster.workers:
        worker = await connect(node.url())
        assert "next version" in await worker.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'act_as'")
        await worker.close()
    assert await admin.fetchval("SELECT DISTINCT extra FROM tasks WHERE user_id = $1", user.id) == 7
    await user.add()

    await run(cluster.owner_url, lambda connection: command.downgrade(with_next(connection), head))
    await user.add()


# Workers that join, leave and fail


@dataclass
class Load:
    """A client of one user that reads and writes until stopped, with a record of acknowledged and failed writes."""

    user: User
    rounds: int = 0
    slowest: float = 0.0
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            task = await self._write("createTask", CREATE, title=f"{self.rounds}")
            if task is not None:
                await self._write("updateTask", UPDATE, id=task["id"], title=f"{self.rounds} again")
                await self._read()
            self.rounds += 1
            self.moved.set()
            await asyncio.sleep(0.005)

    async def _write(self, name: str, query: str, **variables: str) -> dict[str, Any] | None:
        answer = await self._ask(query, **variables)
        if answer is None:
            # A write that was not acknowledged may have taken effect or not.
            return None
        task: dict[str, Any] = answer[name]["task"]
        self.tasks[task["id"]] = task
        return task

    async def _read(self) -> None:
        answer = await self._ask(PAGE)
        if answer is not None:
            (shown,) = answer["tasks"]["nodes"]
            known = self.tasks.get(shown["id"])
            if known is not None and shown["version"] < known["version"]:
                self.wrong.append(f"{shown} is older than {known}")

    async def _ask(self, query: str, **variables: str) -> dict[str, Any] | None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer = await self.user.ask(query, **variables)
        self.slowest = max(self.slowest, loop.time() - began)
        for error in answer.get("errors", ()):
            self.refused[error["extensions"]["code"]] += 1
        return None if "errors" in answer else answer["data"]

    async def more(self, rounds: int = ROUNDS) -> None:
        """Wait until this many more rounds are done."""
        until = self.rounds + rounds
        while self.rounds < until:
            self.moved.clear()
            await self.moved.wait()


@asynccontextmanager
async def under_load(users: Sequence[User]) -> AsyncIterator[list[Load]]:
    loads, stop = [Load(user) for user in users], asyncio.Event()
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        for load in loads:
            group.create_task(load.run(stop))
        await everybody(loads)
        yield loads
        stop.set()


async def everybody(loads: Sequence[Load]) -> None:
    await asyncio.gather(*(load.more() for load in loads))


async def assert_kept(admin: "asyncpg.Connection[Any]", loads: Sequence[Load]) -> int:
    """Every acknowledged task is stored with its tags, in the acknowledged version or a later one."""
    number = 0
    for load in loads:
        rows = await admin.fetch("SELECT id::text, title, version FROM tasks WHERE user_id = $1", load.user.id)
        tags = await admin.fetch("SELECT task_id::text, tag FROM task_tags WHERE user_id = $1", load.user.id)
        stored = {row["id"]: (row["title"], row["version"]) for row in rows}
        tagged = Counter(row["task_id"] for row in tags)
        for known in load.tasks.values():
            title, version = stored[known["id"]]
            assert version >= known["version"]
            assert version > known["version"] or title == known["title"]
            assert tagged[known["id"]] == 2
            number += 1
        assert set(tagged) == set(stored)
        counted = await admin.fetchval("SELECT tasks FROM task_clocks WHERE user_id = $1", load.user.id)
        assert counted == len(stored)
        assert load.wrong == []
    return number


async def workers_of(application: Application) -> tuple[int, str]:
    answer = await application.http.get("/readyz")
    return answer.status_code, answer.json()["checks"]["workers"]


async def found(cluster: Cluster) -> list[Finding]:
    """The doctor's findings about the workers."""
    return [one for one in await findings(made_settings(cluster.server)) if "worker" in one.seen]


async def test_a_worker_is_killed_and_returns(
    cluster: Cluster, application: Application, admin: "asyncpg.Connection[Any]", record_property: Callable[..., None]
) -> None:
    """Only users of a killed worker get errors, which tell them to retry, until it is back; no write is lost."""
    users = await some_users(admin, application)
    killed = cluster.workers[0]
    async with under_load([user for port in users for user in users[port]]) as loads:
        lost = [load for load in loads if load.user in users[killed.port]]
        others = [load for load in loads if load not in lost]
        assert await workers_of(application) == (200, "ok")

        cluster.kill(killed)
        await everybody(loads)
        # /readyz repeats its last finding for a moment.
        while (state := await workers_of(application)) == (200, "ok"):
            await others[0].more(1)
        assert state == (200, "1 of 2 do not serve; the log says which")
        told = [str(one) for one in await found(cluster) if one.level != "ok"]
        assert len(told) == 1
        assert f"The worker {HOST}:{killed.port} does not respond" in told[0]
        assert [one.level for one in await found(cluster)].count("warning") == 1

        cluster.start(killed)
        while await workers_of(application) != (200, "ok"):
            await lost[0].more(1)
        refused = sum((load.refused for load in lost), Counter[str]())
        await everybody(loads)

    assert [load.refused for load in others] == [Counter()] * len(others)
    assert set(refused) == {"UNAVAILABLE"}
    assert all(load.tasks for load in loads)
    kept = await assert_kept(admin, loads)
    figures = {
        "requests of others": sum(3 * load.rounds for load in others),
        "refused of others": sum(sum(load.refused.values()) for load in others),
        "refused of its own users": sum(refused.values()),
        "acknowledged creations that are there": kept,
    }
    for name, figure in figures.items():
        record_property(name, figure)
    print("killed worker:", figures)  # noqa: T201 - figures for docs/citus.md, shown by pytest -s


async def test_no_new_accounts_while_a_worker_is_lost(
    cluster: Cluster, application: Application, admin: "asyncpg.Connection[Any]"
) -> None:
    """While a worker is down no accounts can be created, but existing users on other workers are served."""
    users = await some_users(admin, application)
    killed, other = cluster.workers
    cluster.kill(killed)
    try:
        with pytest.raises(asyncpg.PostgresError):
            await new_user(admin, application)
        await users[other.port][0].add()
    finally:
        cluster.start(killed)
    await new_user(admin, application)


async def test_a_worker_that_refuses_the_server(cluster: Cluster, admin: "asyncpg.Connection[Any]") -> None:
    """If the workers reject the role's password, every request fails, and doctor and /readyz report it."""
    passwords = cluster.passwords.read_text()
    cluster.passwords.write_text(passwords.replace(f":{SERVER}:", ":nobody:"))
    try:
        async with running(made_settings(cluster.server)) as application:
            user = await new_user(admin, application)
            answer = await user.ask(PAGE)
            assert answer["errors"][0]["extensions"]["code"] == "UNAVAILABLE"
            status, state = await workers_of(application)
            assert (status, state) == (503, "2 of 2 do not serve; the log says which")
            assert [one.level for one in await found(cluster)] == ["failure"] * 2
    finally:
        cluster.passwords.write_text(passwords)


async def test_a_role_on_a_worker_that_bypasses_row_security(cluster: Cluster) -> None:
    """Doctor reports a worker on which the role has more privileges than on the coordinator."""
    worker = cluster.workers[0]
    alter = ("SET citus.enable_ddl_propagation = off", f"ALTER ROLE {SERVER} {{}}")
    await execute(worker.url(), alter[0], alter[1].format("BYPASSRLS"))
    try:
        assert [one.level for one in await found(cluster)].count("failure") == 1
    finally:
        await execute(worker.url(), alter[0], alter[1].format("NOBYPASSRLS"))
    assert {one.level for one in await findings(made_settings(cluster.server))} == {"ok"}


async def test_a_third_worker(cluster: Cluster, application: Application, admin: "asyncpg.Connection[Any]") -> None:
    """Adding a worker and rebalancing under load causes no errors and loses no write."""
    users = await some_users(admin, application)
    async with under_load([user for port in users for user in users[port]]) as loads:
        added = await cluster.add_node()
        await cluster.join(added)
        await admin.execute("SELECT citus_rebalance_start(shard_transfer_mode => 'block_writes')")
        await admin.execute("SELECT citus_rebalance_wait()")
        await everybody(loads)

    assert [load.refused for load in loads] == [Counter()] * len(loads)
    kept = await assert_kept(admin, loads)
    shards = Counter(
        row["nodeport"]
        for row in await admin.fetch("SELECT nodeport FROM citus_shards WHERE table_name = 'tasks'::regclass")
    )
    assert len(shards) == 3
    assert max(shards.values()) - min(shards.values()) <= 1
    slowest = max(load.slowest for load in loads)
    print("rebalanced:", shards, f"{kept} kept, the slowest request {slowest:.1f} s")  # noqa: T201 - as above
    await test_row_security_is_forced_on_every_shard(cluster)


# Commands for data


SEEDED = """
    SELECT count(DISTINCT user_id), count(*), count(search), count(DISTINCT (user_id, position)),
        count(DISTINCT version)
    FROM tasks JOIN users ON users.id = user_id WHERE email = ANY ($1)
"""


async def test_commands_for_data(
    cluster: Cluster, application: Application, admin: "asyncpg.Connection[Any]", tmp_path: Path
) -> None:
    """An ordinary owner seeds, exports, imports, deletes users and resets."""
    server = Server(cluster.owner_url, cluster.server.app_url)
    plan = ("seed", "--users", "3", "--tasks", "40")
    assert await taskql(server, *plan) == (0, "Created 3 users with 120 tasks.\n", "")
    users = await admin.fetch("SELECT id, email FROM users WHERE email LIKE '%@example.com' ORDER BY created_at DESC")
    emails = [user["email"] for user in users[:3]]
    assert (await admin.fetchrow(SEEDED, emails)) == (3, 120, 120, 120, 1)
    # A run may be interrupted after it has created a user.
    for table in ("tasks", "task_lists"):
        await admin.execute(f"DELETE FROM {table} WHERE user_id = $1", users[0]["id"])  # noqa: S608 - constants
    assert (await taskql(server, *plan))[1].startswith("Created 1 users with 40 tasks.\n2 users were there already")
    assert await admin.fetchval("SELECT tasks FROM task_clocks WHERE user_id = $1", users[0]["id"]) == 40

    file, other = tmp_path / "export.jsonl", await new_user(admin, application)
    exported = await taskql(server, "export", "--email", emails[1], "--output", file)
    assert exported[0] == 0, exported
    imported = await taskql(server, "import", file, "--email", other.email)
    assert "and 40 tasks" in imported[1], imported
    assert await admin.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1", other.id) == 40

    assert (await taskql(server, "users", "delete", emails[1], "--yes"))[0] == 0
    left = [
        await admin.fetchval(f"SELECT count(*) FROM {table} WHERE user_id = $1", users[1]["id"])  # noqa: S608
        for table in FORCED
    ]
    assert left == [0] * len(FORCED)
    assert await admin.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1", other.id) == 40

    reset = await taskql(server, "reset", "--yes")
    assert reset[0] == 0, reset
    assert [await admin.fetchval(f"SELECT count(*) FROM {table}") for table in ("users", *FORCED)] == [0] * 7  # noqa: S608
    assert (await taskql(server, *plan))[0] == 0


# Backups


CHECKSUM = """
    SELECT count(*), md5(string_agg({0}::text, ' ' ORDER BY {0}::text)) FROM {0}
"""


async def checksums(url: str) -> dict[str, Any]:
    connection = await connect(url)
    tables = ("users", *FORCED)
    result = {table: tuple(await connection.fetchrow(CHECKSUM.format(table)) or ()) for table in tables}
    await connection.close()
    return result


async def test_a_backup_is_restored_and_distributed(
    cluster: Cluster, application: Application, admin: "asyncpg.Connection[Any]"
) -> None:
    """An ordinary owner restores a dump of the coordinator and distributes it again while a server is running."""
    user = await new_user(admin, application)
    home = (await user.data(CREATE_LIST))["createList"]["list"]["id"]
    await user.add("Saved", tags=["home"], listId=home)
    before = await checksums(cluster.server.owner_url)
    where = ("--host", str(cluster.coordinator.folder), "--port", str(cluster.coordinator.port))
    dump = cluster.run("pg_dump", *where, "--username", "postgres", "--extension", "plpgsql", DATABASE)
    name = f"restored_{uuid4().hex}"
    for node in cluster.nodes:
        await execute(node.url(), "SET citus.enable_ddl_propagation = off", f"CREATE DATABASE {name} OWNER {OWNER}")
        await execute(node.url(database=name), "CREATE EXTENSION citus")
    await execute(
        cluster.coordinator.url(database=name),
        f"SELECT citus_set_coordinator_host('{HOST}', {cluster.coordinator.port})",
        *(f"SELECT citus_add_node('{HOST}', {node.port})" for node in cluster.workers),
    )
    cluster.write("dump", dump)
    cluster.run("psql", *where, "--username", OWNER, "--quiet", "--file", cluster.folder / "dump", name)
    there = cluster.server.database(name)
    owner = DatabaseURL(cluster.owner_url.replace("/taskql?", f"/{name}?"))
    server = DatabaseURL(cluster.coordinator.url(SERVER, name))
    assert await checksums(there.owner_url) == before
    await migrate(owner, server)

    async with running(made_settings(there)) as restored:
        same = User(user.id, user.email, user.token, restored.http)
        await same.add("Before it is distributed")
        before = await checksums(there.owner_url)
        await migrate(owner, server, spread=True)
        assert await distributed(there)
        assert await checksums(there.owner_url) == before
        task = await same.add("After it")
        await same.data(WRITES["complete"], id=task["id"])
        titles = (await same.data("{ tasks { nodes { title } } }"))["tasks"]["nodes"]
        assert [row["title"] for row in titles] == ["After it", "Before it is distributed", "Saved"]
