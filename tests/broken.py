"""`taskql serve`, but closing a connection fails if its last request had the header X-Broken; in workers too."""

from typing import Any

from patience import relax
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app import cli
from app.web.http_protocol import BoundedRequests

_is_idle, _end = BoundedRequests._is_idle, WebSocketsSansIOProtocol.shutdown  # noqa: SLF001 - the methods called to close a connection


def _fail(connection: Any) -> None:
    if connection.scope and b"x-broken" in dict(connection.scope["headers"]):
        raise ZeroDivisionError


def _broken_is_idle(self: BoundedRequests) -> bool:
    if self._stopping:
        _fail(self)
    return _is_idle(self)


def _broken_end(self: WebSocketsSansIOProtocol) -> None:
    _fail(self)
    _end(self)


relax(setattr)
BoundedRequests._is_idle = _broken_is_idle  # type: ignore[method-assign]  # noqa: SLF001 - as above
WebSocketsSansIOProtocol.shutdown = _broken_end  # type: ignore[method-assign]  # for this process

if __name__ == "__main__":
    cli.main()
