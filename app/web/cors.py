"""Cross-origin requests: preflights are answered here, and answers tell browsers which pages may read them.

No cookies are used, so credentials are never allowed: a caller is known by its token alone.
"""

from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BadUserInput
from app.origins import Header, Origins

DAY_SECONDS = 86_400
_PREFLIGHT: list[Header] = [
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-max-age", b"%d" % DAY_SECONDS),
    (b"vary", b"access-control-request-headers"),
]
_MESSAGE = "Pages of this origin may not call this server; CORS_ORIGINS lists those that may."
_REFUSED = orjson.dumps({"errors": [{"message": _MESSAGE, "extensions": {"code": BadUserInput.code}}]})


class CrossOrigin:
    """An ASGI application whose answers carry CORS headers, refusals included; HTML pages never do."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app, self._origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        own = self._origins.headers_for(headers.get(b"origin"))
        if is_preflight(scope["method"], headers):
            return await self._answer_preflight(headers, own, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start" and not _is_page(message):
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        return await self._app(scope, receive, send_with_headers)

    async def _answer_preflight(self, headers: dict[bytes, bytes], own: list[Header], send: Send) -> None:
        origin = headers[b"origin"].decode("latin-1")
        if not self._origins.is_allowed(origin):
            self._origins.log_refused(origin)
            return await _respond(send, 403, [(b"content-type", b"application/json; charset=utf-8"), *own], _REFUSED)
        wanted = headers.get(b"access-control-request-headers")
        more = [(b"access-control-allow-headers", wanted)] if wanted else []
        return await _respond(send, 200, [*own, *_PREFLIGHT, *more], b"")


def is_preflight(method: str, headers: Any) -> bool:
    """Whether a browser asks if a page may send the actual request."""
    return method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers


def _is_page(message: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/html") for name, value in message["headers"])


async def _respond(send: Send, status: int, headers: list[Header], body: bytes) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
