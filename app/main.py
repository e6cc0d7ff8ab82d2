"""The composition root: settings become a running application."""

import asyncio
import ipaddress
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from types import FrameType
from uuid import UUID

from graphql import ExecutionResult, GraphQLError, located_error
from starlette.applications import Starlette
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route, WebSocketRoute
from strawberry import Schema

from app import explorer
from app.auth import Authenticator, Principal
from app.database import Database
from app.errors import RequestError, StartupError
from app.events import EventStreams
from app.http import ExplorerFiles, GraphQLEndpoint, live, readiness
from app.operations import Execute, GraphQLAnswer, GraphQLRequest, ResponseStream
from app.settings import Settings
from app.sockets import SocketEndpoint
from schema import schema as taskql
from schema.context import Context
from schema.execution import Engine, RequestErrors, formatted

DEMO_TOKEN_LIFETIME = timedelta(days=7)


def create_app(
    settings: Settings,
    demo_user: UUID | None = None,
    schema: Schema = taskql,
    origins: frozenset[str] = frozenset(),
) -> Starlette:
    """The ASGI application. The explorer signs in as `demo_user` where only this machine can see it.

    Pages of `origins` may open sockets besides the server's own.
    """
    database = connect(settings)
    authenticator = Authenticator(settings.secret(), settings.auth_issuer, settings.auth_audience)
    streams = EventStreams()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        _before_stopping(streams.close)
        try:
            yield
        finally:
            await database.close()

    async def verify(authorization: str | None) -> Principal:
        return authenticator.principal(authorization)

    execute = executing(schema, database, authenticator)
    routes = [
        Route("/", RedirectResponse("/graphql")),
        Route("/graphql", GraphQLEndpoint(execute, streams, _explorer_token(settings, authenticator, demo_user))),
        WebSocketRoute("/graphql", SocketEndpoint(execute, verify, origins)),
        Route("/livez", live),
        Route("/readyz", readiness(database.check)),
        *([Mount("/explorer", ExplorerFiles(directory=explorer.ASSETS))] if explorer.ASSETS.is_dir() else []),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.database = database
    return app


def connect(settings: Settings) -> Database:
    """The database that serves requests; nothing is opened yet."""
    if settings.database_url is None:
        raise StartupError("DATABASE_URL is not set.")
    return Database(
        settings.database_url.get_secret_value(),
        pool_size=settings.db_pool_size,
        max_overflow=settings.db_max_overflow,
    )


def executing(schema: Schema, database: Database, authenticator: Authenticator) -> Execute:
    """What the transports call for each request."""
    engine = Engine(schema._schema)  # noqa: SLF001 - Strawberry has no public name for graphql-core's schema

    async def execute(request: GraphQLRequest) -> GraphQLAnswer | ResponseStream:
        try:
            operation = engine.prepare(request.query, request.operation_name)
            context = Context(authenticator, database, request.authorization, operation)
            if operation.is_subscription:
                results = engine.subscribe(operation, request.variables, context)
                return ResponseStream(_answers(results, request), context.principal.expires_at)
            result = await engine.execute(operation, request.variables, context)
        except RequestErrors as refused:
            return _refused(refused.errors, request)
        except RequestError as error:
            return _refused([located_error(error)], request)
        return _answer(result, request)

    return execute


async def _answers(
    results: AsyncGenerator[ExecutionResult, None], request: GraphQLRequest
) -> AsyncGenerator[GraphQLAnswer, None]:
    try:
        async with aclosing(results):
            async for result in results:
                yield _answer(result, request)
    except RequestErrors as refused:
        yield _refused(refused.errors, request)
    except GraphQLError as error:
        yield _refused([error], request)


def _answer(result: ExecutionResult, request: GraphQLRequest) -> GraphQLAnswer:
    errors = {"errors": _formatted(result.errors, request)} if result.errors else {}
    return GraphQLAnswer(errors | {"data": result.data}, executed=True)


def _refused(errors: list[GraphQLError], request: GraphQLRequest) -> GraphQLAnswer:
    return GraphQLAnswer({"errors": _formatted(errors, request)}, executed=False)


def _formatted(errors: list[GraphQLError], request: GraphQLRequest) -> list[dict[str, object]]:
    return [formatted(error, request.request_id) for error in errors]


def _explorer_token(
    settings: Settings, authenticator: Authenticator, demo_user: UUID | None
) -> Callable[[str], str | None]:
    """A token for the explorer's headers, only where the server and the page's address are this machine's own.

    The Host header is checked too: a foreign page may have its own name resolve to this address.
    """

    def token(host: str) -> str | None:
        name = host.rsplit(":", 1)[0].strip("[]")
        if demo_user is None or not (is_loopback(settings.host) and is_loopback(name)):
            return None
        return authenticator.token(demo_user, DEMO_TOKEN_LIFETIME)

    return token


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _before_stopping(act: Callable[[], None]) -> None:
    """Act when the process is told to stop.

    uvicorn waits for all answers to end before it tells the application, and event streams do not end by themselves.
    """
    loop, stop = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    if not callable(stop):
        return

    def act_and_stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(act)
        stop(number, frame)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, act_and_stop)
