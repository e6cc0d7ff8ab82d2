"""Records the SQL that TaskQL sends for an operation."""

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from pydantic import SecretStr
from sqlalchemy import event

from app.main import create_app
from app.settings import load
from benchmarks import data


@dataclass(frozen=True, slots=True)
class Sent:
    """A statement, and the arguments of each execution."""

    text: str
    rounds: list[list[Any]]


async def sent(app_url: str, owner: UUID, query: str, variables: dict[str, Any]) -> list[Sent]:
    """The statements that the application sends for an operation, which is executed. Raises RuntimeError on errors."""
    app = create_app(load(database_url=SecretStr(app_url), auth_secret=SecretStr(data.SECRET)))
    found: list[Sent] = []

    async def record(logged: Any) -> None:
        arguments = list(logged.args or [])
        is_write = "begin_write(" in logged.query
        found.append(Sent(logged.query, arguments if is_write else [arguments]))

    def watch(connection: Any, _entry: object) -> None:
        connection.driver_connection.add_query_logger(record)

    event.listen(app.state.database.engine.sync_engine, "connect", watch)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        headers = {"Authorization": f"Bearer {data.token(owner)}"}
        body = {"query": query, "variables": variables}
        answer = (await client.post("http://127.0.0.1/graphql", json=body, headers=headers)).json()
        if "errors" in answer:
            raise RuntimeError(f"TaskQL answers {answer['errors']}")
        await asyncio.sleep(0)  # the driver logs a statement in the next iteration of the loop
    return found
