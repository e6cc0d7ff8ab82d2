"""Limits requests that run no operation: to other paths than /graphql, preflight requests, WebSocket handshakes."""

import asyncio
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import RateLimited
from app.origins import Header
from app.sharing.rate_limits import OtherRequests
from app.web.refusals import too_many

# The delay of an address that sends too many of them.
PAUSE_SECONDS = 1.0


async def is_charged(
    requests: OtherRequests, scope: Scope, send: Send, cors: Iterable[Header] = (), *, is_probe: bool = False
) -> bool:
    """Charge a request to its address. Beyond the limit, answer it with 429 after a pause and return False."""
    client = scope.get("client")
    try:
        await requests.charge(client[0] if client else "", is_probe=is_probe)
    except RateLimited as error:
        await asyncio.sleep(PAUSE_SECONDS)
        await too_many(error).send(scope, send, cors)
        return False
    return True


def limited(app: ASGIApp, requests: OtherRequests, probes: tuple[str, ...]) -> ASGIApp:
    """Limits the requests to an application that runs no operations.

    `probes` are suffixes of paths with a limit of their own, for health checks.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or await is_charged(requests, scope, send, is_probe=scope["path"].endswith(probes)):
            await app(scope, receive, send)

    return call
