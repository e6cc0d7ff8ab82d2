"""CORS: answers preflight requests, and adds CORS headers to responses.

Credentials are never allowed, because there are no cookies: the token alone identifies the caller.
"""

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.origins import Header, Origins
from app.sharing.rate_limits import OtherRequests
from app.web.other_requests import is_charged
from app.web.refusals import FOREIGN

DAY_SECONDS = 86_400
_PREFLIGHT: list[Header] = [
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-max-age", b"%d" % DAY_SECONDS),
    (b"vary", b"access-control-request-headers"),
]


class CrossOrigin:
    """An ASGI middleware that adds CORS headers to all responses, errors included, except HTML pages.

    Preflight requests are charged to `requests`.
    """

    def __init__(self, app: ASGIApp, origins: Origins, requests: OtherRequests) -> None:
        self._app, self._origins, self._requests = app, origins, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        own = self._origins.headers_for(headers.get(b"origin"))
        if is_preflight(scope["method"], headers):
            if await is_charged(self._requests, scope, send, own):
                await self._answer_preflight(scope, own, send)
            return None

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start" and not _is_page(message):
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        return await self._app(scope, receive, send_with_headers)

    async def _answer_preflight(self, scope: Scope, own: list[Header], send: Send) -> None:
        headers = dict(scope["headers"])
        origin = headers[b"origin"].decode("latin-1")
        if not self._origins.is_allowed(origin):
            self._origins.log_refused(origin)
            return await FOREIGN.send(scope, send, own)
        wanted = headers.get(b"access-control-request-headers")
        more = [(b"access-control-allow-headers", wanted)] if wanted else []
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [*own, *_PREFLIGHT, *more, (b"content-length", b"0")]})
        return await send({"type": "http.response.body", "body": b""})


def is_preflight(method: str, headers: Any) -> bool:
    """Whether a request is a preflight request."""
    return method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers


def _is_page(message: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/html") for name, value in message["headers"])
