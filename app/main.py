"""The composition root: builds the application from the settings."""

import logging
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from graphql import ExecutionResult, GraphQLError, OperationType, located_error
from starlette.applications import Starlette
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from strawberry import Schema

from app.addresses import FORWARDED_FOR, Proxies, headers_of, networks
from app.database.compiling import Statements
from app.database.connections import Spend
from app.database.database import Database, for_free
from app.database.url import server_url
from app.errors import RequestError, StartupError
from app.identity import accounts
from app.identity.tokens import Authenticator, Principal, Signer
from app.live.followers import Realtime
from app.observability.metrics import Record, Recorded, Telemetry
from app.operations import GraphQLRequest, GraphQLResponse, ResponseStream
from app.origins import Origins
from app.settings import OFF, Settings
from app.sharing.places import Places
from app.sharing.preparing import Preparation
from app.sharing.rate_limits import OtherRequests, Rates, SharedCounters, Windows, network
from app.web import explorer, health, metrics_port
from app.web.cors import CrossOrigin
from app.web.endpoint import ExplorerFiles, GraphQLEndpoint, handlers
from app.web.event_streams import EventStreams
from app.web.health import Readiness
from app.web.long_messages import LongMessages
from app.web.other_requests import is_charged, limited
from app.web.probe import Probe
from app.web.refusals import no_address
from app.web.sockets import SocketEndpoint
from app.web.stopping import before_stopping
from schema import schema as taskql
from schema.context import Context, Services
from schema.engine.admission import Admission
from schema.engine.direct import core
from schema.engine.document_limits import Limits
from schema.engine.execution import MOST_ERRORS, Engine, RequestErrors, formatted
from schema.engine.persisted import Documents, FullTexts, PersistedQueries, TrustedDocuments, manifest

if TYPE_CHECKING:
    from app.observability.tracing import Tracing

log = logging.getLogger(__name__)

GRAPHQL = "/graphql"
DEMO_TOKEN_LIFETIME = timedelta(days=7)


def create_app(settings: Settings, metrics_listener: socket.socket | None = None, schema: Schema = taskql) -> Starlette:
    """The ASGI application. It serves its metrics on `metrics_listener`, if there is one."""
    rates = _rates(settings)
    preparation = Preparation(rates.spend)
    admission = Admission(*engine_of(settings, schema), rates, preparation, settings.introspection)
    database = connect(settings, rates.spend)
    authenticator = Authenticator(
        settings.issuers(), partial(accounts.provision, database) if settings.auth_provision else None
    )
    realtime = Realtime(server_url(settings), database.notify, rates, settings.limit_subscriptions)
    streams, tracing = EventStreams(), _tracing(settings)
    services = Services(database, realtime, Statements(preparation.run), preparation)
    places = Places(settings.limit_concurrency)
    telemetry = Telemetry(settings, tracing.describe if tracing else None)
    probe = Probe(
        server_url(settings), lambda: database.connections.last_lent, last_trouble=lambda: database.last_trouble
    )
    readiness = Readiness(
        [probe.states, health.key_sets(authenticator)], lambda: {**health.pool(database), **probe.notes()}
    )

    execute = telemetry.recorded(executing(admission, authenticator, places, services))
    origins = Origins(settings.cors_origins)
    long = LongMessages(authenticator.principal)
    endpoint = GraphQLEndpoint(execute, streams, rates, origins, telemetry.refused, long)
    sockets = SocketEndpoint(execute, authenticator.principal, origins, settings.limit_sockets, long)

    def stopping() -> None:
        readiness.stopping()
        endpoint.stop()

    on_start = partial(before_stopping, stopping, streams.close, settings.drain_seconds)
    ends = [realtime.close, authenticator.close, preparation.close, rates.close, probe.close, database.close]
    last = [telemetry.close, *([tracing.close] if tracing else [])]
    routes = [*health.routes(readiness), *_routes(settings.root_path)]
    lifespan = _lifespan(on_start, ends, last, partial(metrics_port.exposed, settings, metrics_listener))
    app = Application(routes=routes, lifespan=lifespan, exception_handlers=handlers(settings.root_path + GRAPHQL))
    app.proxies = Proxies(networks(settings.forwarded_allow_ips), settings.forwarded_hops)
    app.state.database, app.state.probe, app.state.readiness, app.state.rates = database, probe, readiness, rates
    app.place(endpoint, sockets, origins, settings.root_path)
    app.graphql = tracing.around(app.graphql) if tracing else app.graphql
    return app


def _lifespan(
    begin: Callable[[], None],
    ends: Sequence[Callable[[], Awaitable[None]]],
    last: Sequence[Callable[[], None]],
    meanwhile: Callable[[], AbstractAsyncContextManager[None]],
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """The lifespan of the application: everything is closed in this order, even if one part fails."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        begin()
        async with AsyncExitStack() as stack:
            for close_at_once in reversed(last):
                stack.callback(close_at_once)
            for close in reversed(ends):
                stack.push_async_callback(close)
            await stack.enter_async_context(meanwhile())
            yield

    return lifespan


class Application(Starlette):
    """Starlette, with the GraphQL endpoint in front of its middleware and router, because it must be fast."""

    graphql: ASGIApp
    proxies: Proxies

    def place(self, graphql: ASGIApp, sockets: ASGIApp, origins: Origins, root_path: str) -> None:
        """Route GraphQL requests to `graphql` and `sockets`, with and without `root_path`; allow `origins`."""
        self._requests = requests = OtherRequests()
        self.graphql = CrossOrigin(graphql, origins, requests) if origins else graphql
        self._sockets, self._origins = sockets, origins
        self._others = CrossOrigin(limited(super().__call__, requests, health.PATHS), origins, requests)
        self._root_path, self._addresses = root_path, {GRAPHQL, root_path + GRAPHQL}
        # Such redirects contain the Host header, which a proxy may have changed.
        self.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and FORWARDED_FOR in headers_of(scope):
            self.proxies.see_through(scope)
        if scope["type"] == "http" and scope["path"] in self._addresses:
            await self.graphql(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._open(scope, receive, send)
        else:
            await self._others(_below(self._root_path, scope), receive, send)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        cors = self._origins.headers_for(headers_of(scope).get(b"origin"))
        if not await is_charged(self._requests, scope, send, cors):
            return None
        if scope["path"] in self._addresses:
            return await self._sockets(scope, receive, send)
        return await no_address(self._root_path + GRAPHQL).send(scope, send, cors)


def _below(root_path: str, scope: Scope) -> Scope:
    """A scope whose path contains the prefix, as ASGI requires, whether or not a proxy has stripped it."""
    if not root_path or "path" not in scope:
        return scope
    path = scope["path"]
    has_prefix = path == root_path or path.startswith(root_path + "/")
    whole = path if has_prefix else root_path + path
    return {**scope, "root_path": root_path, "path": whole + "/" if whole == root_path else whole}


def _routes(root_path: str) -> list[BaseRoute]:
    files = ExplorerFiles(explorer.ASSETS) if explorer.ASSETS.is_dir() else None
    return [
        Route("/", RedirectResponse(root_path + GRAPHQL)),
        *([Mount("/explorer", files)] if files else []),
    ]


def connect(settings: Settings, spend: Spend = for_free) -> Database:
    """The database for requests, not connected yet. `spend` is called with the time of each user's statements."""
    return Database(server_url(settings), pool_size=settings.db_pool_size, quotas=settings.quotas, spend=spend)


def executing(admission: Admission, authenticator: Authenticator, places: Places, services: Services) -> Recorded:
    """The function that transports call for each request."""
    engine, limit = admission.engine, admission.engine.gauge.limits.cost

    async def execute(request: GraphQLRequest, record: Record) -> GraphQLResponse | ResponseStream:
        remembered = authenticator.remembered(request.authorization)
        caller = remembered or await _caller(authenticator, request)
        record.user_id = user_id = caller.user_id if isinstance(caller, Principal) else None
        request.payer = network(request.address) if user_id is None else str(user_id)
        try:
            places.take(request, is_user=user_id is not None)
            operation, record.rows = await admission.admit(request, caller)
            record.operation, record.kind = operation.name, operation.kind
            context = Context(caller, request.payer, operation, services)
            if operation.node.operation is OperationType.SUBSCRIPTION:
                results = engine.subscribe(operation, request.variables, context)
                request.leave()  # subscriptions have their own limit
                return ResponseStream(
                    _responses(results, request, partial(record.cost, limit)), context.principal.expires_at
                )
            result = await engine.execute(operation, request.variables, context, is_large=request.is_large)
        except RequestErrors as refused:
            return _refused(refused.errors, request)
        except RequestError as error:
            return _refused([located_error(error)], request)
        return _response(result, request, partial(record.cost, limit))

    return execute


async def _responses(
    results: AsyncGenerator[ExecutionResult, None], request: GraphQLRequest, cost: Callable[[], Any]
) -> AsyncGenerator[GraphQLResponse, None]:
    try:
        async with aclosing(results):
            async for result in results:
                yield _response(result, request, cost)
    except RequestErrors as refused:
        yield _refused(refused.errors, request)
    except GraphQLError as error:
        yield _refused([error], request)


async def _caller(authenticator: Authenticator, request: GraphQLRequest) -> Principal | RequestError:
    """The authenticated user, or the error. Fields raise it, because introspection may need no user."""
    try:
        return await authenticator.principal(request.authorization, request.address)
    except RequestError as refusal:
        return refusal


def signer(settings: Settings) -> Signer | None:
    """Creates tokens that this server accepts; None if only the issuer can create them."""
    issuer = settings.issuers()[0]
    if issuer.secret is None or issuer.derives_ids:
        return None
    return Signer(issuer.secret, issuer.name, issuer.audience)


def engine_of(settings: Settings, schema: Schema = taskql) -> tuple[Engine, Documents]:
    """The engine and the known documents; raises StartupError if an operation of the manifest is invalid."""
    limits = {name: getattr(settings, f"limit_{name}") for name in Limits.__slots__}
    engine = Engine(core(schema), Limits(**limits))
    return engine, _documents(settings, engine)


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
            raise StartupError(f"TRUSTED_DOCUMENTS: operation {name} ({document_id}) is invalid: {reason}") from None
    return TrustedDocuments(trusted)


def _rates(settings: Settings) -> Rates:
    limits = settings.rate_limit, settings.rate_limit_anonymous, settings.time_limit
    users, addresses, seconds = (None if text == OFF else text for text in limits)
    url = settings.rate_limit_redis_url
    return Rates(users, addresses, seconds, SharedCounters(url.get_secret_value()) if url else Windows())


def _response(result: ExecutionResult, request: GraphQLRequest, cost: Callable[[], Any]) -> GraphQLResponse:
    entries: dict[str, Any] = {"errors": _formatted(result.errors, request)} if result.errors else {}
    entries["data"] = result.data
    if request.extensions and request.extensions.get("cost") is True:
        entries["extensions"] = {"cost": cost()}
    return GraphQLResponse(entries, executed=True)


def _refused(errors: list[GraphQLError], request: GraphQLRequest) -> GraphQLResponse:
    return GraphQLResponse({"errors": _formatted(errors, request)}, executed=False)


def _formatted(errors: list[GraphQLError], request: GraphQLRequest) -> list[dict[str, object]]:
    return [formatted(error, request.request_id) for error in errors[:MOST_ERRORS]]


def _tracing(settings: Settings) -> "Tracing | None":
    """The exporter of traces, if tracing is on and OpenTelemetry is installed."""
    if settings.traces == "none":
        return None
    try:
        from app.observability.tracing import Tracing  # noqa: PLC0415 - not installed everywhere
    except ImportError:
        log.warning("tracing is on, but OpenTelemetry is not installed; install taskql[otel]")
        return None
    return Tracing(settings)
