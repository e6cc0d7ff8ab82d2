"""The composition root: settings become a running application."""

import asyncio
import ipaddress
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from types import FrameType
from uuid import UUID

from graphql import ExecutionResult, GraphQLError, OperationType, located_error
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from strawberry import Schema

from app import explorer
from app.answers import Execute, GraphQLAnswer, ResponseStream
from app.auth import Authenticator, Principal
from app.database import Database
from app.errors import BadUserInput, RequestError, StartupError
from app.events import EventStreams
from app.http import ExplorerFiles, GraphQLEndpoint, live, readiness, refusal
from app.requests import ALLOW_POST, GraphQLRequest, Refused
from app.settings import Settings
from app.sockets import SocketEndpoint
from schema import schema as taskql
from schema.context import Context
from schema.execution import MOST_ERRORS, Engine, RequestErrors, formatted

GRAPHQL = "/graphql"
DAY_SECONDS = 86_400
DEMO_TOKEN_LIFETIME = timedelta(days=7)


def create_app(settings: Settings, demo_user: UUID | None = None, schema: Schema = taskql) -> Starlette:
    """The ASGI application. The explorer signs in as `demo_user` where only this machine can see it."""
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
    endpoint = GraphQLEndpoint(execute, streams, _explorer_token(settings, authenticator, demo_user))
    sockets = SocketEndpoint(execute, verify, frozenset(settings.cors_origins))
    app = Application(routes=_routes(database, sockets), lifespan=lifespan, exception_handlers={HTTPException: refusal})
    app.state.database = database
    app.graphql = shared_with(endpoint, settings.cors_origins) if settings.cors_origins else endpoint
    return app


class Application(Starlette):
    """Starlette, with the one address that must be quick in front of its middleware and router."""

    graphql: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == GRAPHQL:
            await self.graphql(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _routes(database: Database, sockets: ASGIApp) -> list[BaseRoute]:
    files = GZipMiddleware(ExplorerFiles(directory=explorer.ASSETS)) if explorer.ASSETS.is_dir() else None
    return [
        Route("/", RedirectResponse(GRAPHQL)),
        WebSocketRoute(GRAPHQL, sockets),
        Route("/livez", live),
        Route("/readyz", readiness(database.check)),
        *([Mount("/explorer", files)] if files else []),
    ]


def shared_with(endpoint: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The endpoint for pages of other origins too. No cookies: a caller is known by its token alone."""
    return CORSMiddleware(
        endpoint,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Request-ID", "Retry-After", "WWW-Authenticate"],
        max_age=DAY_SECONDS,
    )


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
            operation = engine.prepare(request.query or "", request.operation_name)
            if request.safe and operation.node.operation is OperationType.MUTATION:
                raise Refused(405, "Send mutations by POST.", BadUserInput.code, ALLOW_POST)
            context = Context(authenticator, database, request.authorization, operation)
            if operation.node.operation is OperationType.SUBSCRIPTION:
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
    return [formatted(error, request.request_id) for error in errors[:MOST_ERRORS]]


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
