"""The image of the Dockerfile. scripts/test-image builds it, and mounts its files."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from conftest import ALL_FIELDS, Server, Serving, free_port
from patience import PATIENCE_SECONDS

FILES = Path(os.environ["TEST_DEPLOYMENT"])
CONFIG: dict[str, Any] = json.loads(Path(os.environ["TEST_IMAGE"]).read_text())["Docker"]["config"]
SECRET = "0123456789abcdef0123456789abcdef"
# The image's files as an engine shows them with --read-only --tmpfs /tmp, and the sockets of the tests' PostgreSQL.
CONFINED = """
    mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t tmpfs none "$0/tmp" &&
        mkdir "$0/tmp/run" && mount --bind "$SOCKETS" "$0/tmp/run" || exit
    user=$1 folder=$2; shift 2
    exec chroot --userspec="$user:$user" "$0" sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
"""
PAGE = f"{{ viewer {{ id }} tasks {{ nodes {{ {ALL_FIELDS} }} }} }}"


def container(*command: str, **environment: str) -> "subprocess.Popen[str]":
    """Run a command with the image's user, folder and variables, and with a file system that is read-only."""
    confined = ["unshare", "--mount", "sh", "-c", CONFINED, FILES, CONFIG["User"], CONFIG["WorkingDir"]]
    return subprocess.Popen(  # noqa: S603 - the arguments come from the tests
        [*confined, *command],
        env=dict(pair.split("=", 1) for pair in CONFIG["Env"]) | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> str:
    """What a command that must succeed prints."""
    with process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    return out


def sockets(server: Server) -> str:
    """The folder of PostgreSQL's sockets."""
    return parse_qs(urlsplit(server.app_url).query)["host"][0]


def inside(url: str) -> str:
    """The URL of the tests' PostgreSQL for a process in the container."""
    return re.sub("(?<=host=)[^&]+", "/tmp/run", url)  # noqa: S108 - a mount of the container's own


@pytest.fixture(scope="module")
def environment(server: Server) -> dict[str, str]:
    Path(sockets(server)).chmod(0o755)  # the image's user has another number than the database's
    return {
        "SOCKETS": sockets(server),
        "DATABASE_URL": inside(server.app_url),
        "AUTH_SECRET": SECRET,
        "PORT": str(free_port()),
        "DRAIN_SECONDS": "0",
    }


@pytest.fixture(scope="module")
def served(server: Server, environment: dict[str, str]) -> Iterator[Serving]:
    """The image as an engine runs it, after its `migrate`."""
    ended(container(*CONFIG["Entrypoint"], "migrate", **environment, DATABASE_OWNER_URL=inside(server.owner_url)))
    with container(*CONFIG["Entrypoint"], *CONFIG["Cmd"], **environment) as process:
        try:
            assert process.stdout
            assert process.stdout.readline().startswith("TaskQL serves "), process.stderr and process.stderr.read()
            yield Serving(process, f"http://127.0.0.1:{environment['PORT']}")
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def token(environment: dict[str, str], email: str, owner_url: str) -> str:
    """An access token by the image's own command."""
    command = (*CONFIG["Entrypoint"], "token", "--email", email)
    return ended(container(*command, **environment, DATABASE_OWNER_URL=inside(owner_url))).split()[-1]


def test_two_users(served: Serving, server: Server, environment: dict[str, str]) -> None:
    """The image serves what a user writes, and to no other user."""
    alice, bob = (token(environment, f"{name}@example.com", server.owner_url) for name in ("alice", "bob"))
    create = 'mutation { createTask(input: {title: "In the image"}) { task { title } userErrors { code } } }'

    assert served.ask(create, alice)["data"]["createTask"] == {"task": {"title": "In the image"}, "userErrors": []}
    assert [task["title"] for task in served.ask(PAGE, alice)["data"]["tasks"]["nodes"]] == ["In the image"]
    assert served.ask(PAGE, bob)["data"]["tasks"]["nodes"] == []


def test_the_explorer(served: Serving) -> None:
    """The image has the explorer as its own stage built it."""
    page = httpx.get(f"{served.url}/graphql", headers={"Accept": "text/html"}, timeout=PATIENCE_SECONDS)
    assert "explorer.js" in page.text
    version = (FILES / "srv/taskql/app/web/static/explorer/version").read_text().strip()
    assert version.isdecimal()


def test_the_health_check(served: Serving, environment: dict[str, str]) -> None:
    """It succeeds while the server serves, and fails for a port where none does."""
    kind, *command = CONFIG["Healthcheck"]["Test"]
    assert kind == "CMD"
    assert served.process.poll() is None

    ended(container(*command, **environment))
    with container(*command, **environment | {"PORT": str(free_port())}) as failing:
        failing.communicate(timeout=PATIENCE_SECONDS)
    assert failing.returncode == 1


def test_the_image_describes_itself() -> None:
    labels = CONFIG["Labels"]
    assert {name: labels[f"org.opencontainers.image.{name}"] for name in ("title", "licenses")} == {
        "title": "TaskQL",
        "licenses": "Apache-2.0",
    }
    assert CONFIG["User"] == "10001"
    assert list(CONFIG["ExposedPorts"]) == ["8000/tcp"]


def test_the_image_has_the_server_alone() -> None:
    """It has no tests, no scripts, and nothing else of a checkout."""
    assert {path.name for path in (FILES / "srv/taskql").iterdir()} == {
        "LICENSE", "README.md", "app", "migrations", "pyproject.toml", "requirements", "schema",
    }  # fmt: skip


def test_sigterm_ends_the_server(served: Serving, environment: dict[str, str]) -> None:
    """A second server ends on SIGTERM with exit code 0, while the first one serves."""
    more = environment | {"PORT": str(free_port())}
    with container(*CONFIG["Entrypoint"], *CONFIG["Cmd"], **more) as process:
        assert process.stdout
        process.stdout.readline()
        process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert served.process.poll() is None
