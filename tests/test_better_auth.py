"""The real Better Auth, from examples/better-auth, on one database with TaskQL: from sign-up to deletion."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import jwt
import pytest
from alembic import command
from conftest import CREATE, Server, Serving, connect, free_port, serving
from patience import PATIENCE_SECONDS
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.database.url import DatabaseURL
from migrations.run import config, migrate

pytestmark = pytest.mark.node

VIEWER = "{ viewer { id email name } }"
TITLES = "{ tasks { nodes { title } } }"
EMAIL, PASSWORD = "ada@example.com", "a password of Ada's"
EXPIRE = """UPDATE jwks SET "expiresAt" = now() - interval '1 second'"""


@dataclass
class BetterAuth:
    """A running Better Auth, with the session of the user who signed in last."""

    http: httpx.Client
    session: str = ""

    def post(self, path: str, **body: str) -> dict[str, Any]:
        response = self.http.post(f"/api/auth{path}", json=body, headers=self._headers())
        assert response.status_code == 200, response.text
        self.session = response.headers.get("set-auth-token", self.session)
        self.http.cookies.clear()
        answer: dict[str, Any] = response.json()
        return answer

    def token(self) -> str:
        """A new JWT for the session."""
        response = self.http.get("/api/auth/token", headers=self._headers())
        assert response.status_code == 200, response.text
        return str(response.json()["token"])

    def _headers(self) -> dict[str, str]:
        origin = {"Origin": str(self.http.base_url).rstrip("/")}
        return origin | ({"Authorization": f"Bearer {self.session}"} if self.session else {})


@pytest.fixture(scope="module")
def example(repository_of_module: Path) -> Path:
    """The example with its pinned packages, in a folder that later runs reuse."""
    source = repository_of_module / "examples" / "better-auth"
    files = ["package.json", "package-lock.json", ".npmrc"]
    version = sha256(b"".join((source / name).read_bytes() for name in files)).hexdigest()[:16]
    folder = repository_of_module / "build" / f"better-auth-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        shutil.copy(source / name, folder)
    if not (folder / "installed").exists():
        npm = shutil.which("npm")
        assert npm, "npm is missing; on Debian: apt-get install npm"
        subprocess.run([npm, "ci"], cwd=folder, check=True, capture_output=True)  # noqa: S603 - the example's own packages
        (folder / "installed").touch()
    for path in source.glob("*.mjs"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def repository_of_module() -> Path:
    return Path(__file__).parent.parent


@dataclass
class Shared:
    """A database that both use: its URLs, and a superuser connection."""

    server: Server
    admin: "asyncpg.Connection[Any]"


@pytest.fixture
async def shared(empty: Server) -> AsyncIterator[Shared]:
    """As on a managed host: the owner is not a superuser and is subject to row-level security."""
    admin = await connect(empty.owner_url)
    owner, role = f"owner_{uuid4().hex}", f"role_{uuid4().hex}"
    await admin.execute(f"CREATE ROLE {owner} LOGIN CREATEROLE NOSUPERUSER NOBYPASSRLS")
    database = await admin.fetchval("SELECT current_database()")
    await admin.execute(f"ALTER DATABASE {database} OWNER TO {owner}")
    server = Server(
        empty.owner_url.replace("//postgres@", f"//{owner}@"), empty.app_url.replace("//taskql_app@", f"//{role}@")
    )
    assert await migrate(DatabaseURL(server.owner_url), DatabaseURL(server.app_url))
    yield Shared(server, admin)
    await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    await admin.execute(f"REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}; DROP ROLE {owner}")
    await admin.close()


@contextmanager
def started(example: Path, database: str) -> Iterator[BetterAuth]:
    """Better Auth on a free port of this machine."""
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_OWNER_URL": database,
        "BETTER_AUTH_URL": url,
        "BETTER_AUTH_SECRET": "a secret of Better Auth's own, for the tests",
    }
    node = shutil.which("node")
    assert node, "node is missing"
    process = subprocess.Popen([node, "server.mjs"], cwd=example, env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603 - the example
    with process:
        try:
            assert process.stdout
            assert process.stdout.readline().startswith("Better Auth serves ")
            with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as http:
                yield BetterAuth(http)
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


@pytest.fixture
async def better_auth(example: Path, shared: Shared) -> AsyncIterator[BetterAuth]:
    with started(example, shared.server.owner_url) as running:
        yield running


@pytest.fixture
def taskql(better_auth: BetterAuth, shared: Shared) -> Iterator[Serving]:
    """TaskQL configured as docs/authentication.md describes."""
    url = str(better_auth.http.base_url).rstrip("/")
    with serving(
        DATABASE_URL=shared.server.app_url,
        DATABASE_OWNER_URL=shared.server.owner_url,
        AUTH_JWKS_URL=f"{url}/api/auth/jwks",
        AUTH_ISSUER=url,
        AUTH_AUDIENCE=url,
    ) as served:
        yield served


async def alembic_check(url: str) -> None:
    engine = create_async_engine(DatabaseURL(url).sqlalchemy, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(lambda given: command.check(config(given)))
    await engine.dispose()


async def patiently(taskql: Serving, query: str, token: str) -> dict[str, Any]:
    """The data of a response; retries while the issuer's new keys cannot be fetched yet."""
    while True:
        answer = taskql.ask(query, token)
        if "errors" not in answer:
            data: dict[str, Any] = answer["data"]
            return data
        assert answer["errors"][0]["extensions"]["code"] == "UNAVAILABLE"
        await asyncio.sleep(answer["errors"][0]["extensions"]["retryAfter"])


async def test_from_sign_up_to_deletion(better_auth: BetterAuth, taskql: Serving, shared: Shared) -> None:
    """A user signs up and in and writes tasks with her JWT, across key rotation; her tasks go with her account."""
    better_auth.post("/sign-up/email", email=EMAIL, password=PASSWORD, name="Ada")
    user = better_auth.post("/sign-in/email", email=EMAIL, password=PASSWORD)["user"]
    first = better_auth.token()
    assert UUID(user["id"]).version == 4
    assert jwt.get_unverified_header(first)["alg"] == "EdDSA"

    seen = taskql.ask(VIEWER, first)["data"]["viewer"]
    assert seen == {"id": user["id"], "email": EMAIL, "name": "Ada"}
    created = taskql.ask(CREATE, first, input={"title": "Hers"})["data"]["createTask"]
    assert created["userErrors"] == []

    opaque = taskql.ask(VIEWER, better_auth.session)["errors"][0]
    assert opaque["extensions"]["code"] == "UNAUTHENTICATED"
    assert "/api/auth/token" in opaque["message"]

    await shared.admin.execute(EXPIRE)
    second = better_auth.token()
    kids = {jwt.get_unverified_header(token)["kid"] for token in (first, second)}
    assert len(kids) == 2
    for token in (second, first):
        assert (await patiently(taskql, TITLES, token))["tasks"]["nodes"] == [{"title": "Hers"}]

    better_auth.post("/delete-user", password=PASSWORD)
    assert await shared.admin.fetchval("SELECT count(*) FROM users") == 0
    assert await shared.admin.fetchval("SELECT count(*) FROM tasks") == 0
    gone = taskql.ask(VIEWER, second)["errors"][0]
    assert (gone["extensions"]["code"], "no longer exists" in gone["message"]) == ("UNAUTHENTICATED", True)


async def test_two_users(better_auth: BetterAuth, taskql: Serving) -> None:
    """Each user's token shows her own tasks."""
    tokens = {}
    for name in ("Ada", "Bea"):
        better_auth.session = ""
        better_auth.post("/sign-up/email", email=f"{name}@example.com", password=PASSWORD, name=name)
        tokens[name] = better_auth.token()
        taskql.ask(CREATE, tokens[name], input={"title": f"{name}'s"})

    for name, token in tokens.items():
        assert taskql.ask(TITLES, token)["data"]["tasks"]["nodes"] == [{"title": f"{name}'s"}]


async def test_each_leaves_the_others_tables_alone(better_auth: BetterAuth, shared: Shared) -> None:
    """`alembic check` reports no changes for Better Auth's tables or the columns it may add to `users`."""
    better_auth.post("/sign-up/email", email=EMAIL, password=PASSWORD, name="Ada")
    tables = {row[0] for row in await shared.admin.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert {"users", "session", "account", "verification", "jwks", "tasks"} <= tables
    await shared.admin.execute("ALTER TABLE users ADD COLUMN role text; CREATE INDEX users_role ON users (role)")

    await alembic_check(shared.server.owner_url)

    assert await migrate(DatabaseURL(shared.server.owner_url), DatabaseURL(shared.server.app_url)) == []
    assert await shared.admin.fetchval("SELECT email FROM users") == EMAIL


def test_the_documented_commands(better_auth: BetterAuth, taskql: Serving, repository: Path) -> None:
    """The commands in docs/authentication.md sign up, get a JWT and create a task."""
    block = (repository / "docs" / "authentication.md").read_text().partition("```sh\nsession=")[2].partition("```")[0]
    issuer = str(better_auth.http.base_url).rstrip("/")
    shown = subprocess.run(  # noqa: S602 - as pasted
        "session=" + block.replace("http://127.0.0.1:8000", taskql.url),
        shell=True,
        env={"PATH": os.environ["PATH"], "AUTH_ISSUER": issuer},
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(shown.stdout) == {"data": {"createTask": {"task": {"title": "Mine"}, "userErrors": []}}}
