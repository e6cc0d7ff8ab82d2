"""Clients and code generators of others, as front ends use them."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import live
import pytest
from conftest import SECRET, Server, Serving, User

from app.auth import Authenticator
from app.settings import Settings

pytestmark = pytest.mark.node

CLIENTS = ["apollo", "graphql-request", "graphql-sse", "graphql-ws", "relay", "urql"]
SECONDS = 60
AUDITS = 61


@pytest.fixture(scope="session")
def packages(repository: Path) -> Path:
    """A folder with the pinned packages, which is kept for the next run, and with our files."""
    source = repository / "tests" / "conformance"
    pinned = [source / name for name in ("package.json", "package-lock.json", ".npmrc")]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in pinned)).hexdigest()[:16]
    folder = repository / "build" / f"conformance-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    shutil.copy(repository / "schema" / "schema.graphql", folder)
    if not (folder / "installed").exists():
        run(folder, "npm", "ci", "--prefer-offline")
        (folder / "installed").touch()
    return folder


def run(folder: Path, *command: str, **environment: str) -> str:
    """What a command prints; a failure shows all that it said."""
    ended = subprocess.run(  # noqa: S603 - the commands are the tests' own
        command,
        cwd=folder,
        env={
            "PATH": f"{folder / 'node_modules' / '.bin'}:{os.environ['PATH']}",
            "HOME": os.environ["HOME"],
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.fixture(scope="module")
def process(server: Server, settings: Settings) -> Iterator[Serving]:
    """A server in a process of its own, on the tests' database."""
    del settings  # it is migrated
    with live.process(server) as process:
        yield process


@pytest.fixture(scope="session")
def relay_artifacts(packages: Path) -> None:
    """What relay-compiler makes of our schema and a client's operations."""
    (packages / "relay" / "__generated__").mkdir(exist_ok=True)
    run(packages, "relay-compiler")


def test_the_official_audits_pass(packages: Path, process: Serving) -> None:
    """All that GraphQL over HTTP demands, recommends and allows."""
    results = json.loads(run(packages, "node", "audit.mjs", URL=f"{process.url}/graphql"))

    assert results == {"passed": AUDITS, "others": []}


@pytest.mark.usefixtures("relay_artifacts")
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reads_writes_subscribes_and_sees_errors(
    packages: Path, process: Serving, alice: User, bob: User, client: str
) -> None:
    """As Alice and as Bob; what is expected stands in the client's own script."""
    expiring = Authenticator(SECRET).token(alice.id, timedelta(seconds=2))
    tokens = {"ALICE": alice.token, "BOB": bob.token, "EXPIRING": expiring}

    run(packages, "node", f"{client}.mjs", URL=f"{process.url}/graphql", **tokens)
