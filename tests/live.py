"""Subscriptions for testing the transports, served in the test's event loop or in a separate process."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import strawberry
import uvicorn
from conftest import SECRET, Server, Serving, announced, python
from orjson import Fragment
from patience import PATIENCE_SECONDS, relax
from starlette.types import ASGIApp

from app import cli
from app.errors import Unavailable
from app.identity.tokens import LEEWAY_SECONDS
from app.main import create_app
from app.settings import Settings, load
from app.web import event_streams, sockets
from app.web.connections import Connections
from app.web.http_protocol import BoundedRequests
from schema.context import Info
from schema.engine.direct import direct
from schema.engine.execution import Rendered
from schema.mutations import Mutation
from schema.queries import Query
from schema.types import CONFIG, Task, User


class Still:
    def __init__(self, now: float) -> None:
        self._now = now

    def time(self) -> float:
        return self._now


def soon() -> int:
    """An `exp` for short-lived tokens: later than any test ends, and earlier than that of users' tokens."""
    return int(time.time()) + 1800


def brief(patch: Callable[[Any, str, Any], None], until: int, seconds: float) -> None:
    """Make sockets and streams with a token that expires at `until` end this many seconds after they start."""
    clock = Still(until + LEEWAY_SECONDS - seconds)
    for module in (event_streams, sockets):
        patch(module, "time", clock)


def expiring(user_id: UUID, until: int) -> str:
    return jwt.encode({"sub": str(user_id), "iat": 1, "exp": until}, SECRET)


class Watch:
    """The number of open event sources."""

    def __init__(self) -> None:
        self.open = 0
        self._changed = asyncio.Condition()

    async def change(self, by: int) -> None:
        async with self._changed:
            self.open += by
            self._changed.notify_all()

    async def until(self, open_: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: self.open == open_)


watch = Watch()


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def ticks(self, info: Info, count: int) -> AsyncGenerator[int, None]:
        """1, 2 and so on, up to `count`, for any authenticated caller."""
        assert info.context.principal.expires_at
        for number in range(1, count + 1):
            yield number

    @strawberry.subscription
    async def silence(self) -> AsyncGenerator[int, None]:
        """Never sends an event."""
        await watch.change(+1)
        try:
            await asyncio.Event().wait()
            yield 0
        finally:
            await watch.change(-1)

    @strawberry.subscription
    async def tick_then_silence(self) -> AsyncGenerator[int, None]:
        """Sends one event, then stays open."""
        yield 1
        await asyncio.Event().wait()

    @strawberry.subscription
    async def flood(self) -> AsyncGenerator[str, None]:
        """Sends more than the client reads, without end."""
        await watch.change(+1)
        try:
            while True:
                yield "x" * 50_000
        finally:
            await watch.change(-1)

    @strawberry.subscription(graphql_type=Task | None)  # type: ignore[untyped-decorator]  # untyped with graphql_type
    async def task(self, info: Info, id: strawberry.ID) -> AsyncGenerator[Rendered | None, None]:  # noqa: A002 - the schema's name
        """The current state of a task, once."""
        text = await info.context.tasks().find(info.context.selection(info, "Task"), id)
        yield None if text is None else Rendered(Fragment(text))

    @strawberry.subscription
    async def outage(self) -> AsyncGenerator[int, None]:
        """One event, then the source fails with Unavailable."""
        yield 1
        raise Unavailable("The source is gone.")

    @strawberry.subscription
    async def bug(self) -> AsyncGenerator[int, None]:
        """One event, then an internal error, which must be masked."""
        yield 1
        raise ZeroDivisionError("secret")


schema = direct(strawberry.Schema(Query, Mutation, Subscription, types=[Task, User], config=CONFIG))


def protocol(settings: Settings) -> Any:
    """The value of uvicorn's option `http`: makes the protocol of each connection."""
    return partial(BoundedRequests, Connections(settings))


@asynccontextmanager
async def served(app: ASGIApp, **options: Any) -> AsyncIterator[str]:
    """Serve an application with uvicorn as `taskql serve` does; yields its address."""
    with cli.listening(load(port=0)) as listener:
        usual = {**cli.WEB_SOCKETS, "http": protocol(load()), "log_config": None, "access_log": False}
        server = _UvicornServer(uvicorn.Config(app, **usual | options))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.ready.wait()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


class _UvicornServer(uvicorn.Server):
    """A uvicorn server that reports when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def process(server: Server, **more: str) -> AbstractContextManager[Serving]:
    """Run `taskql serve` with these subscriptions in a separate process; `more` is added to its environment."""
    environment = {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url, "AUTH_SECRET": SECRET}
    return announced(python(__file__, "serve", "--port", "0", **environment, **more), has_demo=False)


def demo(data_dir: Path, **environment: str) -> AbstractContextManager[Serving]:
    """The same on an embedded database, with a demo user."""
    return announced(python(__file__, "serve", "--port", "0", "--data-dir", data_dir, **environment), has_demo=True)


if __name__ == "__main__":
    relax(setattr)
    if given := os.environ.get("BRIEF_UNTIL"):
        brief(setattr, int(given), 2)
    cli.create_app = partial(create_app, schema=schema)  # type: ignore[attr-defined]  # it imports the name itself
    cli.main()
