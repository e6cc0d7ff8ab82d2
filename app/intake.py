"""Which requests are taken in: no more at a time than can be answered soon."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import orjson

from app.errors import Unavailable
from app.events import EventStreams
from app.media import GRAPHQL_JSON, JSON, preferred
from app.requests import Headers, Note, Receive, Scope, request_id

Send = Callable[[Any], Awaitable[None]]

_BUSY = Unavailable("The server has too many requests to answer; try again.")
_BODY = orjson.dumps({"errors": [{"message": str(_BUSY), "extensions": _BUSY.extensions}]})
_HEADERS = [(b"content-length", b"%d" % len(_BODY)), (b"retry-after", b"%d" % _BUSY.extensions["retryAfter"])]
_CLOSE = (b"connection", b"close")


class Intake:
    """An ASGI application in front of the endpoint: beyond `most` requests under way it answers 503 at once.

    Event streams do not count, since they wait for the most part. `note` is told of whoever is turned away.
    """

    def __init__(self, endpoint: Callable[..., Awaitable[None]], streams: EventStreams, most: int, note: Note) -> None:
        self._endpoint, self._streams, self._most, self._note = endpoint, streams, most, note
        self._under_way = 0
        self._stopping = False

    def stop(self) -> None:
        """Have clients leave: each answer from now on is the last of its connection."""
        self._stopping = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._under_way - self._streams.count >= self._most:
            return await self._shed(dict(scope["headers"]), send)
        self._under_way += 1
        try:
            await self._endpoint(scope, receive, _closing(send) if self._stopping else send)
        finally:
            self._under_way -= 1

    async def _shed(self, headers: Headers, send: Send) -> None:
        asked_as = request_id(headers.get(b"x-request-id"))
        self._note(asked_as, HTTPStatus.SERVICE_UNAVAILABLE, _BUSY.code)
        media_type = preferred(headers.get(b"accept", b""), (GRAPHQL_JSON, JSON)) or JSON
        own = [(b"content-type", f"{media_type}; charset=utf-8".encode()), (b"x-request-id", asked_as.encode())]
        await send({"type": "http.response.start", "status": 503, "headers": [*own, *_HEADERS]})
        await send({"type": "http.response.body", "body": _BODY})


def _closing(send: Send) -> Send:
    async def send_and_close(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], _CLOSE]
        await send(message)

    return send_and_close
