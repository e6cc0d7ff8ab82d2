"""Python clients: the library gql, and the client that ariadne-codegen generates."""

import hashlib
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import live
import pytest
from conftest import CREATE, Server, User, run
from gql import Client, GraphQLRequest, gql
from gql.client import AsyncClientSession
from gql.transport.exceptions import TransportQueryError
from gql.transport.httpx import HTTPXAsyncTransport
from gql.transport.websockets import WebsocketsTransport

from app.main import create_app
from app.settings import Settings

TITLES = gql("{ tasks { nodes { title } } }")
TICKS = gql("subscription { ticks(count: 3) }")
BAD_ID = gql('{ task(id: "x") { id } }')


@pytest.fixture(scope="module")
async def address(settings: Settings) -> AsyncIterator[str]:
    async with live.served(create_app(settings, schema=live.schema)) as address:
        yield address


def by_http(address: str, user: User) -> Client:
    headers = {"Authorization": f"Bearer {user.token}"}
    return Client(transport=HTTPXAsyncTransport(f"http://{address}/graphql", headers=headers))


def by_socket(address: str, user: User) -> Client:
    payload = {"Authorization": f"Bearer {user.token}"}
    return Client(transport=WebsocketsTransport(f"ws://{address}/graphql", init_payload=payload))


@asynccontextmanager
async def session(client: Client) -> AsyncIterator[AsyncClientSession]:
    async with client as connected:
        yield connected


@pytest.mark.parametrize("connect", [by_http, by_socket])
async def test_gql_reads_writes_and_sees_errors(address: str, alice: User, bob: User, connect: Any) -> None:
    """The client gql works over both transports, with separate users."""
    async with session(connect(address, alice)) as hers, session(connect(address, bob)) as his:
        created = await hers.execute(GraphQLRequest(CREATE, variable_values={"input": {"title": "By gql"}}))
        assert created["createTask"]["task"]["title"] == "By gql"
        assert await hers.execute(TITLES) == {"tasks": {"nodes": [{"title": "By gql"}]}}
        assert await his.execute(TITLES) == {"tasks": {"nodes": []}}
        with pytest.raises(TransportQueryError, match="BAD_USER_INPUT"):
            await hers.execute(BAD_ID)


async def test_gql_subscribes(address: str, alice: User) -> None:
    """The client gql receives each event and the end."""
    async with session(by_socket(address, alice)) as hers:
        assert [event["ticks"] async for event in hers.subscribe(TICKS)] == [1, 2, 3]


async def test_gql_fetches_the_schema(address: str, alice: User) -> None:
    """The client gql fetches the schema by introspection."""
    client = by_http(address, alice)
    client.fetch_schema_from_transport = True
    async with session(client):
        assert client.schema
        assert {"tasks", "viewer"} <= set(client.schema.query_type.fields if client.schema.query_type else ())


@pytest.fixture(scope="session")
def python_of_ariadne(repository: Path) -> Path:
    """The Python of an environment with ariadne-codegen, which later runs reuse."""
    lock = repository / "requirements" / "codegen.txt"
    folder = repository / "build" / f"ariadne-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not (folder / "installed").exists():
        run(repository, sys.executable, "-m", "venv", "--clear", folder)
        run(repository, folder / "bin" / "pip", "install", "-qq", "--require-hashes", "-r", lock)
        (folder / "installed").touch()
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def ariadne(repository: Path, tmp_path_factory: pytest.TempPathFactory, python_of_ariadne: Path) -> Path:
    """A folder with the client that ariadne-codegen generates from our schema and the client's operations."""
    folder = shutil.copytree(repository / "tests" / "conformance", tmp_path_factory.mktemp("ariadne") / "client")
    shutil.copy(repository / "schema" / "schema.graphql", folder)
    run(folder, python_of_ariadne.parent / "ariadne-codegen", "--config", "ariadne.toml")
    return folder


def test_what_ariadne_codegen_makes(
    ariadne: Path, python_of_ariadne: Path, server: Server, alice: User, bob: User
) -> None:
    """The generated client reads, writes and gets errors as two users; its script has the assertions."""
    with live.process(server) as process:
        tokens = {"ALICE": alice.token, "BOB": bob.token}
        run(ariadne, python_of_ariadne, "ariadne.py", URL=f"{process.url}/graphql", **tokens)
