"""The composition root: settings become a running application."""

import ipaddress
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
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

from app import accounts, explorer, health
from app.auth import Authenticator, Principal, Signer
from app.database import Database
from app.errors import RequestError, StartupError
from app.events import EventStreams
from app.health import Readiness
from app.http import ExplorerFiles, GraphQLEndpoint, refusal
from app.intake import Intake
from app.operations import GraphQLAnswer, GraphQLRequest, ResponseStream
from app.persisted import Documents, FullTexts, PersistedQueries, TrustedDocuments, manifest
from app.probe import Probe
from app.rate import Rates, SharedCounters, Windows
from app.realtime import Realtime
from app.settings import OFF, Settings
from app.sockets import SocketEndpoint
from app.stopping import before_stopping
from app.telemetry import Record, Recorded, Telemetry
from app.url import server_url
from schema import schema as taskql
from schema.admission import Admission
from schema.context import Context
from schema.execution import MOST_ERRORS, Engine, RequestErrors, formatted
from schema.limits import Limits

if TYPE_CHECKING:
    from app.tracing import Tracing

log = logging.getLogger(__name__)

GRAPHQL = "/graphql"
DAY_SECONDS = 86_400
DEMO_TOKEN_LIFETIME = timedelta(days=7)


def create_app(settings: Settings, demo_user: UUID | None = None, schema: Schema = taskql) -> Starlette:
    """The ASGI application. The explorer signs in as `demo_user` where only this machine can see it."""
    database, door = connect(settings), admission(settings, schema)
    authenticator = Authenticator(
        settings.issuers(), partial(accounts.provision, database) if settings.auth_provision else None
    )
    streams, realtime, tracing = EventStreams(), Realtime(server_url(settings), database.notify), _tracing(settings)
    telemetry = Telemetry(settings, tracing.describe if tracing else None)
    probe = Probe(
        server_url(settings), lambda: database.connections.last_lent, last_trouble=lambda: database.last_trouble
    )
    readiness = Readiness([probe.states, health.key_sets(authenticator)], partial(health.pool, database))

    execute = telemetry.recorded(executing(settings, door, database, authenticator, realtime))
    endpoint = GraphQLEndpoint(execute, streams, _explorer_token(settings, demo_user), telemetry.refused)
    sockets = SocketEndpoint(execute, authenticator.principal, frozenset(settings.cors_origins), settings.limit_sockets)
    intake = Intake(endpoint, streams, settings.limit_concurrency, telemetry.refused)

    def stopping() -> None:
        readiness.stopping()
        intake.stop()

    told = partial(before_stopping, stopping, streams.close, settings.drain_seconds)
    ends = [realtime.close, authenticator.close, door.rates.close, probe.close, database.close]
    last = [telemetry.close, *([tracing.close] if tracing else [])]
    routes = [*health.routes(settings, readiness), *_routes(sockets)]
    app = Application(routes=routes, lifespan=_lifespan(told, ends, last), exception_handlers={HTTPException: refusal})
    app.state.database, app.state.probe, app.state.readiness = database, probe, readiness
    app.graphql = shared_with(intake, settings.cors_origins) if settings.cors_origins else intake
    app.graphql = tracing.around(app.graphql) if tracing else app.graphql
    return app


def _lifespan(
    begin: Callable[[], None], ends: Sequence[Callable[[], Awaitable[None]]], last: Sequence[Callable[[], None]]
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """What is done when the server starts, and closed when it ends: all of it in this order, whatever fails."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        begin()
        async with AsyncExitStack() as stack:
            for close_at_once in reversed(last):
                stack.callback(close_at_once)
            for close in reversed(ends):
                stack.push_async_callback(close)
            yield

    return lifespan


class Application(Starlette):
    """Starlette, with the one address that must be quick in front of its middleware and router."""

    graphql: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == GRAPHQL:
            await self.graphql(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _routes(sockets: ASGIApp) -> list[BaseRoute]:
    files = GZipMiddleware(ExplorerFiles(directory=explorer.ASSETS)) if explorer.ASSETS.is_dir() else None
    return [
        Route("/", RedirectResponse(GRAPHQL)),
        WebSocketRoute(GRAPHQL, sockets),
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
    return Database(server_url(settings), pool_size=settings.db_pool_size)


def executing(
    settings: Settings, door: Admission, database: Database, authenticator: Authenticator, realtime: Realtime
) -> Recorded:
    """What the transports call for each request."""
    engine = door.engine

    async def execute(request: GraphQLRequest, record: Record) -> GraphQLAnswer | ResponseStream:
        remembered = authenticator.remembered(request.authorization)
        caller = remembered or await _caller(authenticator, request.authorization)
        record.user_id = caller.user_id if isinstance(caller, Principal) else None
        try:
            operation, rows = await door.admit(request, caller)
            record.operation, record.kind = operation.name, operation.kind
            context, cost = Context(caller, database, operation, realtime), {"rows": rows, "limit": settings.limit_cost}
            if operation.node.operation is OperationType.SUBSCRIPTION:
                results = engine.subscribe(operation, request.variables, context)
                return ResponseStream(_answers(results, request, cost), context.principal.expires_at)
            result = await engine.execute(operation, request.variables, context)
        except RequestErrors as refused:
            return _refused(refused.errors, request)
        except RequestError as error:
            return _refused([located_error(error)], request)
        return _answer(result, request, cost)

    return execute


async def _answers(
    results: AsyncGenerator[ExecutionResult, None], request: GraphQLRequest, cost: dict[str, int]
) -> AsyncGenerator[GraphQLAnswer, None]:
    try:
        async with aclosing(results):
            async for result in results:
                yield _answer(result, request, cost)
    except RequestErrors as refused:
        yield _refused(refused.errors, request)
    except GraphQLError as error:
        yield _refused([error], request)


async def _caller(authenticator: Authenticator, authorization: str | None) -> Principal | RequestError:
    """Whom a request speaks for; a refusal is for the fields that need a caller, since introspection needs none."""
    try:
        return await authenticator.principal(authorization)
    except RequestError as refusal:
        return refusal


def signer(settings: Settings) -> Signer | None:
    """What makes tokens that this server takes; None where the issuer alone makes them."""
    issuer = settings.issuers()[0]
    if issuer.secret is None or issuer.derives_ids:
        return None
    return Signer(issuer.secret, issuer.name, issuer.audience)


def admission(settings: Settings, schema: Schema = taskql) -> Admission:
    """The checks of a server; StartupError for a manifest that it cannot answer."""
    limits = {name: getattr(settings, f"limit_{name}") for name in Limits.__slots__}
    engine = Engine(schema._schema, Limits(**limits))  # noqa: SLF001 - Strawberry has no public name for graphql-core's
    return Admission(engine, _documents(settings, engine), _rates(settings), settings.introspection)


def _documents(settings: Settings, engine: Engine) -> Documents:
    if settings.trusted_documents is None:
        return PersistedQueries() if settings.persisted_queries else FullTexts()
    trusted = manifest(settings.trusted_documents)
    for document_id, text in trusted.items():
        try:
            engine.pin(text)
        except RequestErrors as refused:
            name = " ".join(re.findall(r"\b(?:query|mutation|subscription)\s+(\w+)", text)) or "without a name"
            reason = refused.errors[0].message
            raise StartupError(f"TRUSTED_DOCUMENTS: operation {name} ({document_id}) cannot run: {reason}") from None
    return TrustedDocuments(trusted)


def _rates(settings: Settings) -> Rates:
    users, addresses = (None if text == OFF else text for text in (settings.rate_limit, settings.rate_limit_anonymous))
    url = settings.rate_limit_redis_url
    return Rates(users, addresses, partial(SharedCounters, url.get_secret_value()) if url else Windows)


def _answer(result: ExecutionResult, request: GraphQLRequest, cost: dict[str, int]) -> GraphQLAnswer:
    entries: dict[str, Any] = {"errors": _formatted(result.errors, request)} if result.errors else {}
    entries["data"] = result.data
    if request.extensions and request.extensions.get("cost") is True:
        entries["extensions"] = {"cost": cost}
    return GraphQLAnswer(entries, executed=True)


def _refused(errors: list[GraphQLError], request: GraphQLRequest) -> GraphQLAnswer:
    return GraphQLAnswer({"errors": _formatted(errors, request)}, executed=False)


def _formatted(errors: list[GraphQLError], request: GraphQLRequest) -> list[dict[str, object]]:
    return [formatted(error, request.request_id) for error in errors[:MOST_ERRORS]]


def _explorer_token(settings: Settings, demo_user: UUID | None) -> Callable[[str], str | None]:
    """A token for the explorer's headers, only where the server and the page's address are this machine's own.

    The Host header is checked too: a foreign page may have its own name resolve to this address.
    """
    signs = signer(settings)

    def token(host: str) -> str | None:
        name = host.rsplit(":", 1)[0].strip("[]")
        if signs is None or demo_user is None or not (is_loopback(settings.host) and is_loopback(name)):
            return None
        return signs.token(demo_user, DEMO_TOKEN_LIFETIME)

    return token


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tracing(settings: Settings) -> "Tracing | None":
    """What sends traces, where they are asked for and OpenTelemetry is installed."""
    if settings.traces == "none":
        return None
    try:
        from app.tracing import Tracing  # noqa: PLC0415 - not installed everywhere
    except ImportError:
        log.warning("traces are asked for, but OpenTelemetry is not installed: pip install -e '.[otel]'")
        return None
    return Tracing(settings)
