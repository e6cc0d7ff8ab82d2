"""uvicorn's protocols with a bound on what strangers make them keep before any code of ours runs."""

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.errors import LimitExceeded

MOST_BYTES = 100_000
# More than the largest answer, which may be on its way when a ping comes.
MOST_UNSENT = 5_000_000
LARGE_READ = 30_000

_MESSAGE = f"The head of a request must be at most {MOST_BYTES:,} bytes."
_BODY = orjson.dumps({"errors": [{"message": _MESSAGE, "extensions": {"code": LimitExceeded.code}}]})
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-type: application/json; charset=utf-8\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, which answers 431 and closes when a head or a trailer goes on and on.

    What has come since the last head or part of a body was whole is what the parser holds.
    """

    _held = 0

    def data_received(self, data: bytes) -> None:
        self._held += len(data)
        super().data_received(data)
        if self._held > MOST_BYTES and not self.transport.is_closing():
            self.transport.write(_REFUSAL)
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._held = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._held = 0
        super().on_body(body)


class BoundedSockets(WebSocketsSansIOProtocol):
    """uvicorn's protocol, which drops a client that sends pings and reads no pongs, and lets others have their turn.

    The event loop would read on for as long as more comes; thousands of tiny frames take a while each time.
    """

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if len(data) >= LARGE_READ and not self.read_paused and not self.transport.is_closing():
            self.transport.pause_reading()
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MOST_UNSENT:
            self.transport.abort()
