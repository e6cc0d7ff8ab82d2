"""A Citus cluster for tests: a coordinator and workers on loopback, in a temporary folder.

Nodes log in to one another with passwords, as in production: as the superuser, as the owner of the tables, and as the
server's role. Tests connect to the coordinator through its Unix socket, which needs no password.

As a program (scripts/test-citus), it starts a cluster and runs the test suite on it.
"""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil
from conftest import Server, connect, free_port

from app.database.url import DatabaseURL
from migrations.run import migrate

HOST = "127.0.0.1"
DATABASE = "taskql"
SUPERUSER, OWNER, SERVER = "postgres", "taskql_owner", "taskql_app"
PASSWORD = "a password between nodes"
START_SECONDS, STOP_SECONDS = 60, 60
# PostgreSQL refuses to run as root.
ACCOUNT = "nobody"
CONFIGURATION = f"""
shared_preload_libraries = 'citus'
listen_addresses = '{HOST}'
max_connections = 200
max_prepared_transactions = 200
password_encryption = 'scram-sha-256'
timezone = 'UTC'
fsync = off
# Where a server connects to itself, as it does to move shards.
citus.local_hostname = '{HOST}'
"""


class NoCitus(Exception):
    """PostgreSQL with Citus is not installed here."""


@dataclass
class Node:
    """A PostgreSQL server."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, role: str = SUPERUSER, database: str = DATABASE) -> str:
        """The URL for connecting over TCP as a role."""
        return f"postgresql://{role}:{PASSWORD.replace(' ', '%20')}@{HOST}:{self.port}/{database}?sslmode=prefer"


@dataclass
class Cluster:
    """A coordinator, which is the first node, and its workers."""

    binaries: Path
    folder: Path
    nodes: list[Node] = field(default_factory=list)

    @property
    def coordinator(self) -> Node:
        return self.nodes[0]

    @property
    def workers(self) -> list[Node]:
        return self.nodes[1:]

    @property
    def server(self) -> Server:
        """The URLs of the coordinator for the superuser and for the server's role."""
        there = f"@/{DATABASE}?host={self.coordinator.folder}&port={self.coordinator.port}"
        return Server(f"postgresql://{SUPERUSER}{there}", f"postgresql://{SERVER}{there}")

    @property
    def owner_url(self) -> str:
        """The URL of the tables' owner, who is not a superuser."""
        return self.server.owner_url.replace(f"//{SUPERUSER}@", f"//{OWNER}@")

    @property
    def passwords(self) -> Path:
        """The file with the passwords that nodes use to log in to one another."""
        return self.folder / "passwords"

    def write(self, name: str, content: str) -> None:
        """Write a file that only the nodes may read."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(content)
        _give(path)

    def run(self, program: str, *arguments: str | Path, **environment: str) -> str:
        """Run a PostgreSQL program; returns its output."""
        ended: subprocess.CompletedProcess[str] = subprocess.run(  # noqa: S603 - the arguments come from the tests
            [self.binaries / program, *arguments],
            env={"LC_ALL": "C", "PGPASSWORD": PASSWORD, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **account(),
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    async def add_node(self) -> Node:
        """Create and start a server with the database and the extension, not yet part of the cluster."""
        folder = self.folder / f"node-{len(self.nodes)}"
        folder.mkdir(mode=0o700)
        _give(folder)
        node = Node(folder, free_port())
        secret = self.folder / "secret"
        options = ("--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync")
        self.run("initdb", "--pgdata", node.data, "--pwfile", secret, "--locale", "C.UTF-8", *options)
        with (node.data / "postgresql.conf").open("a") as configuration:
            configuration.write(f"{CONFIGURATION}port = {node.port}\nunix_socket_directories = '{folder}'\n")
        if not self.nodes:
            access = node.data / "pg_hba.conf"
            access.write_text(f"local all all trust\n{access.read_text()}")
        self.nodes.append(node)
        self.start(node)
        await execute(node.url(database="postgres"), f"CREATE DATABASE {DATABASE}")
        await execute(node.url(), "CREATE EXTENSION citus")
        return node

    def start(self, node: Node) -> None:
        """Start a stopped server, and wait until it accepts connections."""
        with (node.folder / "log").open("ab") as log:
            node.process = subprocess.Popen(  # noqa: S603 - as above
                [self.binaries / "postgres", "-D", node.data],
                env={"LC_ALL": "C", "PGPASSFILE": str(self.passwords)},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only the tests, which then stop the servers in order
                **account(),
            )
        asked: list[str | Path] = [self.binaries / "pg_isready", "-q", "-h", HOST, "-p", str(node.port)]
        for _ in range(10 * START_SECONDS):
            if subprocess.run(asked, check=False).returncode == 0:  # noqa: S603 - as above
                return
            with suppress(subprocess.TimeoutExpired):
                node.process.wait(0.1)
                break
        raise AssertionError((node.folder / "log").read_text())

    def kill(self, node: Node) -> None:
        """Send SIGKILL to all processes of a server, if it is running."""
        if node.process is None:
            return
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(node.process.pid)
            for process in (postmaster, *postmaster.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        node.process.wait()
        node.process = None

    def stop(self, node: Node) -> None:
        """Stop a server with SIGINT, or kill it after a timeout."""
        if node.process is not None:
            node.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                node.process.wait(STOP_SECONDS)
        self.kill(node)

    async def join(self, node: Node) -> None:
        """Add a server to the cluster as a worker."""
        await execute(self.coordinator.url(), f"SELECT citus_add_node('{HOST}', {node.port})")

    async def distribute(self) -> None:
        """Run `taskql migrate --citus` as the owner."""
        await migrate(DatabaseURL(self.owner_url), DatabaseURL(self.coordinator.url(SERVER)), spread=True)


def binaries() -> Path:
    """The bin directory of the PostgreSQL that PG_CONFIG names; raises NoCitus if the extension is missing."""
    program = os.environ.get("PG_CONFIG") or shutil.which("pg_config")
    if program is None or not Path(program).is_file():
        raise NoCitus("PG_CONFIG names no pg_config")

    def directory(option: str) -> Path:
        return Path(subprocess.check_output([program, option], text=True).strip())  # noqa: S603 - as above

    if not (directory("--sharedir") / "extension" / "citus.control").exists():
        raise NoCitus(f"the PostgreSQL of {program} has no Citus")
    return directory("--bindir")


def account() -> dict[str, Any]:
    """The arguments of `subprocess` that run PostgreSQL as an unprivileged account."""
    return {"user": ACCOUNT, "group": pwd.getpwnam(ACCOUNT).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(path, ACCOUNT)


async def execute(url: str, *statements: str) -> None:
    connection = await connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def running(workers: int = 2) -> AsyncIterator[Cluster]:
    """A cluster with an empty database, its owner and the server's role; raises NoCitus if Citus is missing."""
    programs = binaries()
    with tempfile.TemporaryDirectory(prefix="taskql-citus-") as name:
        cluster = Cluster(programs, Path(name))
        cluster.write("secret", PASSWORD)
        cluster.write("passwords", "".join(f"{HOST}:*:*:{role}:{PASSWORD}\n" for role in (SUPERUSER, OWNER, SERVER)))
        _give(cluster.folder)
        try:
            await _assemble(cluster, workers)
            yield cluster
        finally:
            for node in reversed(cluster.nodes):
                cluster.stop(node)


async def _assemble(cluster: Cluster, workers: int) -> None:
    for _ in range(1 + workers):
        await cluster.add_node()
    coordinator = cluster.coordinator
    await execute(coordinator.url(), f"SELECT citus_set_coordinator_host('{HOST}', {coordinator.port})")
    for worker in cluster.workers:
        await cluster.join(worker)
    await execute(
        coordinator.url(),
        f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{PASSWORD}'",
        f"ALTER DATABASE {DATABASE} OWNER TO {OWNER}",
    )


async def _tested(arguments: Sequence[str]) -> int:
    """Run the test suite on a cluster, including the cluster tests; returns pytest's exit code."""
    async with running() as cluster:
        await cluster.distribute()
        environment = {**os.environ, "TEST_DATABASE_URL": cluster.server.owner_url, "TEST_CITUS": "1"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest", *arguments), env=environment, start_new_session=True
        )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGINT)
                await process.wait()


def _ended(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _ended)
    # Shells let commands in the background ignore it, and so their children would; some tests interrupt commands.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(asyncio.run(_tested(sys.argv[1:])))
    except NoCitus as missing:
        print(f"taskql: no cluster to test on: {missing}", file=sys.stderr)  # noqa: T201 - the output of the command
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
