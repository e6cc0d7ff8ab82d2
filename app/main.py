"""The composition root: settings become a running application."""

import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

from graphql import GraphQLError
from starlette.applications import Starlette
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route

from app import explorer
from app.auth import Authenticator
from app.database import Database
from app.errors import StartupError
from app.http import Execute, ExplorerFiles, GraphQLAnswer, GraphQLEndpoint, GraphQLRequest, live, readiness
from app.settings import Settings
from schema import schema
from schema.context import Context
from schema.execution import Engine, RequestErrors, formatted

DEMO_TOKEN_LIFETIME = timedelta(days=7)


def create_app(settings: Settings, demo_user: UUID | None = None) -> Starlette:
    """The ASGI application. The explorer signs in as `demo_user` where only this machine can see it."""
    database = connect(settings)
    authenticator = Authenticator(settings.secret(), settings.auth_issuer, settings.auth_audience)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await database.close()

    endpoint = GraphQLEndpoint(executing(database, authenticator), _explorer_token(settings, authenticator, demo_user))
    routes = [
        Route("/", RedirectResponse("/graphql")),
        Route("/graphql", endpoint),
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
    )


def executing(database: Database, authenticator: Authenticator) -> Execute:
    """What the endpoint calls for each request."""
    engine = Engine(schema._schema)  # noqa: SLF001 - Strawberry has no public name for graphql-core's schema

    async def execute(request: GraphQLRequest) -> GraphQLAnswer:
        try:
            operation = engine.prepare(request.query, request.operation_name)
            context = Context(authenticator, database, request.authorization, operation)
            result = await engine.execute(operation, request.variables, context)
        except RequestErrors as refused:
            return GraphQLAnswer({"errors": _formatted(refused.errors, request)}, executed=False)
        errors = {"errors": _formatted(result.errors, request)} if result.errors else {}
        return GraphQLAnswer(errors | {"data": result.data}, executed=True)

    return execute


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
