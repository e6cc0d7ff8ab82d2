"""The Python that servers run on: this one, or another one in its own environment."""

import hashlib
import subprocess
from pathlib import Path

from benchmarks.servers import ROOT

LOCK = ROOT / "requirements" / "server.txt"


def environment(folder: Path, python: Path) -> Path:
    """The interpreter of an environment with the locked packages. Creates it with `python` if it is missing."""
    name = hashlib.sha256(str(python).encode() + LOCK.read_bytes()).hexdigest()[:12]
    made, ready = folder / f"python-{name}", folder / f"python-{name}" / "ready"
    if not ready.exists():
        _run(str(python), "-m", "venv", "--clear", str(made))
        pip = (str(made / "bin" / "pip"), "install", "-qq", "--disable-pip-version-check")
        _run(*pip, "--require-hashes", "-r", str(LOCK))
        ready.touch()
    return made / "bin" / "python"


def description(python: Path) -> str:
    """The version and build of a Python."""
    return _run(str(python), "-c", "import sys; print(sys.version)").strip()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603 - ours
