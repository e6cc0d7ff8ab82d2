"""Measures batches of 100 writes next to 100 single mutations: python -m benchmarks.batches.

It runs on an embedded PostgreSQL, or on the database of two URLs: that of the tables' owner, and that of the server.
The application is called directly, by one client that waits for each response.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

import asyncpg
import click
import httpx
from pydantic import SecretStr

from app.database.embedded import EmbeddedPostgres
from app.database.url import DatabaseURL
from app.identity.tokens import Signer
from app.main import create_app
from app.settings import Settings
from migrations.run import migrate

Json = dict[str, Any]
Ask = Callable[[str, Json], Awaitable[Json]]

SECRET = "the secret of a benchmark, which signs nothing else"  # noqa: S105 - not used elsewhere
WRITES, ROUNDS = 100, 15
WRITE = "mutation ($writes: [Write!]!) { write(writes: $writes) { task { id version } userErrors { code } } }"
CREATE = "mutation ($input: CreateTaskInput!) { createTask(input: $input) { task { id } userErrors { code } } }"
COMPLETE = """mutation ($id: ID!, $completed: Boolean!) {
    setTaskCompleted(id: $id, completed: $completed) { task { id } userErrors { code } }
}"""


class Batches:
    """The measured requests of one user, on tasks that exist."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._numbers = ask, count()
        self.ids = [str(uuid4()) for _ in range(WRITES)]

    async def prepare(self) -> None:
        await self._write([self._create(task_id) for task_id in self.ids])

    def measured(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "creates, one by one": self._creates_alone,
            "creates in a batch": lambda: self._write([self._create() for _ in self.ids]),
            "completions, one by one": self._completions_alone,
            "completions in a batch": lambda: self._write(self._completions()),
            "mixed batch, ten writes of a kind in a row": lambda: self._write(self._mixed(10)),
            "mixed batch, each write of another kind": lambda: self._write(self._mixed(1)),
        }

    async def _write(self, writes: Sequence[Json]) -> None:
        results = (await self._ask(WRITE, {"writes": writes}))["write"]
        if any(result["userErrors"] for result in results):
            raise click.ClickException(f"A write was rejected: {results}")

    async def _creates_alone(self) -> None:
        for _ in self.ids:
            await self._ask(CREATE, {"input": {"id": str(uuid4()), "title": "A task"}})

    async def _completions_alone(self) -> None:
        for write in self._completions():
            await self._ask(COMPLETE, write["setTaskCompleted"])

    @staticmethod
    def _create(task_id: str | None = None) -> Json:
        return {"createTask": {"id": task_id or str(uuid4()), "title": "A task"}}

    def _completions(self) -> list[Json]:
        completed = bool(next(self._numbers) % 2)
        return [{"setTaskCompleted": {"id": task_id, "completed": completed}} for task_id in self.ids]

    def _mixed(self, in_a_row: int) -> list[Json]:
        completed = bool(next(self._numbers) % 2)
        kinds: list[Callable[[str], Json]] = [
            lambda task_id: {"setTaskCompleted": {"id": task_id, "completed": completed}},
            lambda _task_id: self._create(),
            lambda task_id: {"moveTask": {"id": task_id, "to": {"toEnd": True}}},
        ]
        return [kinds[place // in_a_row % len(kinds)](task_id) for place, task_id in enumerate(self.ids)]


async def measure(owner: str, server: str) -> None:
    await migrate(DatabaseURL(owner), DatabaseURL(server))
    connection = await asyncpg.connect(owner)
    user_id = await connection.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", f"{uuid4()}@example.com")
    settings = Settings(
        database_url=SecretStr(server), auth_secret=SecretStr(SECRET), rate_limit="off", log_level="warning"
    )
    app = create_app(settings)
    headers = {"Authorization": f"Bearer {Signer(SECRET).token(user_id, timedelta(hours=1))}"}
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers, timeout=60) as client,
    ):

        async def ask(query: str, variables: Json) -> Json:
            answer = (await client.post("/graphql", json={"query": query, "variables": variables})).json()
            data: Json = answer["data"]
            return data

        batches = Batches(ask)
        await batches.prepare()
        for name, run in batches.measured().items():
            # Without statistics PostgreSQL takes the tables for small, and reads all rows of the user for each write.
            await connection.execute("VACUUM ANALYZE")
            click.echo(f"| {name} | {await timed(run):.1f} |")
    await connection.close()


async def timed(run: Callable[[], Awaitable[None]]) -> float:
    """The median time in milliseconds, after two runs that compile and plan."""
    times = []
    for _ in range(ROUNDS + 2):
        begun = perf_counter()
        await run()
        times.append(1000 * (perf_counter() - begun))
    return median(times[2:])


@click.command()
@click.argument("urls", nargs=-1)
def main(urls: Sequence[str]) -> None:
    """Measure on an embedded PostgreSQL, or on a database: the URLs of its owner and of the server's role."""
    with ExitStack() as stack:
        if not urls:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="taskql-batches-"))
            embedded = stack.enter_context(EmbeddedPostgres.start(Path(folder) / "data"))
            urls = [embedded.owner_url, embedded.app_url]
        asyncio.run(measure(*urls))


if __name__ == "__main__":
    main()
