"""The packages in build/dist, and a TaskQL installed from them. scripts/test-wheel builds and installs them."""

import ast
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
from conftest import Serving, announced
from patience import PATIENCE_SECONDS

INSTALLED = Path(os.environ["TEST_DEPLOYMENT"])
DIST = Path(__file__).parent.parent.parent / "build" / "dist"


def built(pattern: str) -> Path:
    (package,) = DIST.glob(pattern)
    return package


def files() -> set[str]:
    return set(ZipFile(built("*.whl")).namelist())


def metadata() -> Message:
    with ZipFile(built("*.whl")) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(wheel.read(name).decode())


def command(*arguments: str | Path, folder: Path) -> "subprocess.Popen[str]":
    """Run the installed command in another folder than the repository's, with nothing of its environment."""
    return subprocess.Popen(  # noqa: S603 - the arguments come from the tests
        [INSTALLED / "bin" / "taskql", *arguments],
        env={"PATH": os.environ["PATH"], "DRAIN_SECONDS": "0", "METRICS_PORT": "0", "LOG_FORMAT": "json"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(*arguments: str | Path, folder: Path) -> str:
    """What a command that must succeed prints."""
    with command(*arguments, folder=folder) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Serving]:
    process = command("serve", "--port", "0", folder=folder)
    with announced(process, has_demo=True, has_metrics=True) as served:
        yield served


def test_the_packages_are_whole(repository: Path) -> None:
    """The wheel has all modules of the repository, the built explorer and the licence; and nothing else."""
    sources = {
        str(path.relative_to(repository))
        for package in ("app", "schema", "migrations")
        for path in (repository / package).rglob("*")
        if path.suffix in {".py", ".typed", ".mako", ".graphql"} and "static" not in path.parts
    }
    built = {name for name in files() if name.startswith("app/web/static/explorer/")}
    about = {name for name in files() if ".dist-info/" in name}

    assert {"explorer.js", "explorer.css", "version"} <= {Path(name).name for name in built}
    assert any(name.endswith("licenses/LICENSE") for name in about)
    assert files() - built - about == sources


def test_the_sdist_builds_the_same(repository: Path) -> None:
    """The sdist has what the wheel is built from, and the settings for writing revisions; and no tests."""
    with tarfile.open(built("*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {name for name in files() if ".dist-info/" not in name} <= names
    assert {"alembic.ini", "LICENSE", "README.md", "CHANGELOG.md", "setup.py", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith(("tests", "scripts"))]
    assert (repository / "alembic.ini").exists()


def test_the_metadata_is_complete() -> None:
    found = metadata()

    assert found["License-Expression"] == "Apache-2.0"
    assert found["Requires-Python"] == ">=3.11"
    assert found["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in found.get_all("Classifier", [])
    assert set(found.get_all("Provides-Extra", [])) == {"embedded", "otel"}


def test_the_version_is_the_same_everywhere(served: Serving, folder: Path) -> None:
    """In the metadata, in --version, in the metrics and in the log."""
    version = metadata()["Version"]
    python = subprocess.check_output([INSTALLED / "bin" / "python", "--version"], text=True).split()[1]  # noqa: S603 - ours
    assert served.process.stderr
    first = json.loads(served.process.stderr.readline())

    assert said("--version", folder=folder).split()[-1] == version
    metrics = httpx.get(served.metrics, timeout=PATIENCE_SECONDS).text
    assert f'taskql_build_info{{python="{python}",version="{version}"}} 1.0' in metrics
    assert first["event"] == f"TaskQL {version} on Python {python}"


def test_the_first_query(served: Serving) -> None:
    """It serves the demo user's tasks from a migrated embedded database."""
    answer = served.ask("{ viewer { email } tasks { totalCount } }")

    assert answer == {"data": {"viewer": {"email": "demo@example.com"}, "tasks": {"totalCount": 5}}}


def test_the_explorer(served: Serving) -> None:
    """The page and every file that it refers to are there."""
    page = httpx.get(f"{served.url}/graphql", headers={"Accept": "text/html"}, timeout=PATIENCE_SECONDS).text
    links = re.findall(r'(?:src|href)="(explorer/[^"]+)"', page)

    assert len(links) == 2
    for link in links:
        assert httpx.get(f"{served.url}/{link}", timeout=PATIENCE_SECONDS).status_code == 200


def test_the_other_commands(served: Serving, folder: Path) -> None:
    """They find the migrations and the committed schema in the installed packages."""
    del served
    assert said("migrate", folder=folder) == "Nothing to apply: the database is up to date.\n"
    assert said("schema", "--check", folder=folder) == ""
    assert "failure" not in said("doctor", folder=folder)
    assert said("token", "--email", "you@example.com", folder=folder).startswith("ey")


def texts(path: Path) -> Iterator[str]:
    """The strings of a module, without its docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    yield from (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_nothing_refers_to_scripts_of_the_repository() -> None:
    """An installed TaskQL has none. The page without explorer names the script only where that exists."""
    (packages,) = (INSTALLED / "lib").glob("python3*/site-packages")
    modules = [path for name in ("app", "schema", "migrations") for path in (packages / name).rglob("*.py")]
    named = {path.name for path in modules if any("scripts/" in text for text in texts(path))}
    page = subprocess.check_output(  # noqa: S603 - the installed TaskQL
        [
            INSTALLED / "bin" / "python",
            "-c",
            "from pathlib import Path; from app.web import explorer; explorer.ASSETS = Path(); print(explorer.page())",
        ],
        text=True,
        cwd="/",
    )

    assert len(modules) > 100
    assert named == {"explorer.py"}
    assert "was installed without it" in page
    assert "scripts/" not in page
