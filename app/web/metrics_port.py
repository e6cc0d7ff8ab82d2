"""The port for metrics. It is separate, so that a proxy in front of the API cannot expose metrics."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.server import ServerState

from app.observability import metrics
from app.settings import Settings
from app.web.connections import Connections
from app.web.endpoint import handlers
from app.web.http_protocol import BoundedRequests

METRICS = "/metrics"


def application(settings: Settings) -> Starlette:
    """Serves /metrics in Prometheus' text format, for all worker processes together."""
    return Starlette(routes=[Route(METRICS, partial(_show, settings))], exception_handlers=handlers(METRICS))


async def _show(settings: Settings, _request: Request) -> Response:
    metrics.tally.settle()
    body = await asyncio.to_thread(metrics.exposition, settings)
    return Response(body, media_type=metrics.CONTENT_TYPE)


@asynccontextmanager
async def exposed(settings: Settings, listener: socket.socket | None) -> AsyncIterator[None]:
    """Serve metrics on the listener, if there is one, until this context ends."""
    if listener is None:
        yield
        return
    # uvicorn's server would replace the signal handlers of the process; its protocol does not.
    protocol = partial(BoundedRequests, Connections(settings))
    config = uvicorn.Config(
        application(settings),
        http=protocol,  # type: ignore[arg-type]  # it is only called
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
    )
    config.load()
    state = ServerState()
    connected = partial(protocol, config=config, server_state=state, app_state={})
    server = await asyncio.get_running_loop().create_server(connected, sock=listener)
    try:
        yield
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.close()
