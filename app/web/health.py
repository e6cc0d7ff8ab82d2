"""Health checks over HTTP: /livez says whether the process responds, /readyz whether it can serve requests."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from app.database.database import Database
from app.errors import Unavailable
from app.identity.tokens import Authenticator

OK = "ok"
PATHS = LIVE, READY = "/livez", "/readyz"
PATIENCE_SECONDS = 1.5
NO_STORE = {"Cache-Control": "no-store"}

Ask = Callable[[], Awaitable[Mapping[str, str]]]


class Readiness:
    """Whether this process can serve requests.

    Each of `checks` returns `ok` or a problem for each name, within two seconds. `notes` are included in the response,
    but do not change its status.
    """

    def __init__(self, checks: list[Ask], notes: Callable[[], Mapping[str, str]] = dict) -> None:
        self._checks, self._notes = checks, notes
        self._is_stopping = False

    def stopping(self) -> None:
        """Answer 503 from now on, so that load balancers send no more requests."""
        self._is_stopping = True

    async def answer(self, _request: Request) -> Response:
        if self._is_stopping:
            return JSONResponse({"status": "stopping"}, 503, NO_STORE)
        parts = await asyncio.gather(*(ask() for ask in self._checks))
        found = {name: state for part in parts for name, state in part.items()}
        ready = set(found.values()) <= {OK}
        body = {"status": OK if ready else "unavailable", "checks": {**found, **self._notes()}}
        return JSONResponse(body, 200 if ready else 503, NO_STORE)


async def live(_request: Request) -> Response:
    """Answer 200: the process responds."""
    return JSONResponse({"status": OK})


def routes(readiness: Readiness) -> list[BaseRoute]:
    """The routes of the health checks."""
    return [Route(LIVE, live), Route(READY, readiness.answer)]


def key_sets(authenticator: Authenticator) -> Ask:
    """A check that the keys of all issuers are available."""

    async def ask() -> Mapping[str, str]:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await authenticator.keys_had()
        except (Unavailable, TimeoutError):
            return {"key_sets": "cannot be fetched"}
        return {"key_sets": OK}

    return ask


def pool(database: Database) -> Mapping[str, str]:
    """A note on the connection pool. A process whose connections are all in use is still ready."""
    return {"pool": "all connections are in use" if database.connections.are_all_lent else OK}
