"""What probes ask over HTTP: whether the process lives, and whether it can serve."""

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
    """Whether requests can be served here: each of `checks` gives `ok` or what is wrong, by name, within two seconds.

    `notes` are shown beside them and decide nothing.
    """

    def __init__(self, checks: list[Ask], notes: Callable[[], Mapping[str, str]] = dict) -> None:
        self._checks, self._notes = checks, notes
        self._is_stopping = False

    def stopping(self) -> None:
        """From now on no more requests shall be sent here."""
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
    """Whether the process answers."""
    return JSONResponse({"status": OK})


def routes(readiness: Readiness) -> list[BaseRoute]:
    """The addresses for probes."""
    return [Route(LIVE, live), Route(READY, readiness.answer)]


def key_sets(authenticator: Authenticator) -> Ask:
    """A check whether tokens can be verified."""

    async def ask() -> Mapping[str, str]:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await authenticator.keys_had()
        except (Unavailable, TimeoutError):
            return {"key_sets": "cannot be fetched"}
        return {"key_sets": OK}

    return ask


def pool(database: Database) -> Mapping[str, str]:
    """A note on the connections for requests. That they are all in use is no reason to send nobody here any more."""
    return {"pool": "all connections are in use" if database.connections.are_all_lent else OK}
