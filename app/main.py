"""The composition root: settings become a running application."""

import ipaddress
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from uuid import UUID

from graphql import GraphQLError, OperationType
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app import accounts, explorer
from app.auth import Authenticator, Principal, Signer
from app.database import Database
from app.errors import BadUserInput, RequestError
from app.http import Execute, ExplorerFiles, GraphQLAnswer, GraphQLEndpoint, live, readiness, refusal
from app.requests import ALLOW_POST, GraphQLRequest, Refused
from app.settings import Settings
from app.url import server_url
from schema import schema
from schema.context import Context
from schema.execution import MOST_ERRORS, Engine, RequestErrors, formatted

GRAPHQL = "/graphql"
DAY_SECONDS = 86_400
DEMO_TOKEN_LIFETIME = timedelta(days=7)


def create_app(settings: Settings, demo_user: UUID | None = None) -> Starlette:
    """The ASGI application. The explorer signs in as `demo_user` where only this machine can see it."""
    database = connect(settings)
    authenticator = Authenticator(
        settings.issuers(), partial(accounts.provision, database) if settings.auth_provision else None
    )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await authenticator.close()
            await database.close()

    endpoint = GraphQLEndpoint(executing(database, authenticator), _explorer_token(settings, demo_user))
    app = Application(routes=_routes(database), lifespan=lifespan, exception_handlers={HTTPException: refusal})
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


def _routes(database: Database) -> list[BaseRoute]:
    files = GZipMiddleware(ExplorerFiles(directory=explorer.ASSETS)) if explorer.ASSETS.is_dir() else None
    return [
        Route("/", RedirectResponse(GRAPHQL)),
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
    return Database(server_url(settings), pool_size=settings.db_pool_size)


def executing(database: Database, authenticator: Authenticator) -> Execute:
    """What the endpoint calls for each request."""
    engine = Engine(schema._schema)  # noqa: SLF001 - Strawberry has no public name for graphql-core's schema

    async def execute(request: GraphQLRequest) -> GraphQLAnswer:
        try:
            operation = engine.prepare(request.query or "", request.operation_name)
            if request.safe and operation.node.operation is not OperationType.QUERY:
                raise Refused(405, "Send mutations by POST.", BadUserInput.code, ALLOW_POST)
            context = Context(await _caller(authenticator, request.authorization), database, operation)
            result = await engine.execute(operation, request.variables, context)
        except RequestErrors as refused:
            return GraphQLAnswer({"errors": _formatted(refused.errors, request)}, executed=False)
        errors = {"errors": _formatted(result.errors, request)} if result.errors else {}
        return GraphQLAnswer(errors | {"data": result.data}, executed=True)

    return execute


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
