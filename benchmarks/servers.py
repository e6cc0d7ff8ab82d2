"""The servers to measure, each in its own process, and their CPU time and memory."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.data import SECRET

ROOT = Path(__file__).parent.parent
SERVER_CORE, LOAD_CORE = 0, 1
ALL = (SERVER_CORE, LOAD_CORE)
PATIENCE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    role: str
    port: int
    process: psutil.Process

    def processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def cpu(self) -> float:
        """CPU seconds of the server and its children, in user and kernel mode."""
        return sum(times.user + times.system for times in (process.cpu_times() for process in self.processes()))

    def memory(self) -> float:
        """Private memory of the server in megabytes."""
        return sum(process.memory_full_info().uss for process in self.processes()) / 1e6


@dataclass(frozen=True, slots=True)
class Kind:
    """How to start a server: its name, its database role, its command, and its settings.

    The command contains {python}, {port} and {workers}.
    """

    name: str
    role: str
    command: Sequence[str]
    settings: Mapping[str, str]


def taskql(app_url: str) -> Kind:
    """TaskQL as `taskql serve` starts it."""
    command = ["{python}", "-m", "app", "serve", "--port", "{port}", "--workers", "{workers}"]
    return Kind("TaskQL", "taskql_app", command, {"DATABASE_URL": app_url})


def plain(plain_url: str) -> Kind:
    """The baseline."""
    command = ["{python}", "-m", "benchmarks.plain", "{port}", "{workers}"]
    return Kind("plain", "plain", command, {"PLAIN_DATABASE_URL": plain_url})


@contextmanager
def running(
    kind: Kind, python: Path, workers: int = 1, cores: Sequence[int] = (SERVER_CORE,), before: Sequence[str] = ()
) -> Iterator[Server]:
    """Within the block, run a server. Raises RuntimeError if it does not start. `before` is a prefix of its command."""
    port = _free_port()
    command = [*before, *(part.format(python=python, port=port, workers=workers) for part in kind.command)]
    # Rates are counted, but the load of one user must not be rejected. No request log, as the plain server has none.
    settings = {"AUTH_SECRET": SECRET, "RATE_LIMIT": "1000000000/minute", "LOG_LEVEL": "warning", **kind.settings}
    environment = {"PATH": os.environ["PATH"], **settings}
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL) as process:  # noqa: S603 - ours
        try:
            _wait(port, process)
            pin(process.pid, cores)
            yield Server(kind.name, kind.role, port, psutil.Process(process.pid))
        finally:
            process.terminate()


def pin(pid: int, cores: Sequence[int]) -> None:
    """Pin a process and its children to cores."""
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, cores)


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not listen on port {port}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
