"""uvicorn's protocol for WebSockets, with limits that apply before a message reaches the application."""

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets import http11
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader, InvalidMethod
from websockets.frames import CloseCode
from websockets.server import ServerProtocol

from app.origins import Header, Origins
from app.shapes import require
from app.web import heads, refusals
from app.web.connections import closed_alone
from app.web.long_messages import LONGEST_BYTES, MOST_BYTES
from app.web.refusals import MALFORMED, STALLED, STOPPING, Refusal

# More than the largest response, which may be in the send buffer when a ping arrives.
MOST_UNSENT = 20_000_000
LARGE_READ = 30_000
# How long the application may take to accept or reject a socket.
HANDSHAKE_SECONDS = 9.0
# How long a peer may take to answer the close of its socket.
CLOSE_SECONDS = 1.0
# The keys in the state of a scope.
_END, _LENGTHEN = "end", "lengthen"
# More than the longest message, so that the application can say that one is too long.
LONGEST_FRAME = LONGEST_BYTES + MOST_BYTES
_CROWDED = "Too many long messages are being received; retry later."

# Takes a place for a long message, if one is free.
Take = Callable[[], bool]
Give = Callable[[], None]

_WITH_BODY = refusals.handshake(HTTPStatus.BAD_REQUEST, "A WebSocket handshake must be a GET without a body.")

require(
    hasattr(http11, "MAX_LINE_LENGTH") and hasattr(http11, "MAX_NUM_HEADERS"),
    "websockets.http11 had its limits in MAX_LINE_LENGTH and MAX_NUM_HEADERS.",
)
# The limits of HTTP already apply to a handshake's head before websockets parses it. These must not be lower.
http11.MAX_LINE_LENGTH = http11.MAX_NUM_HEADERS = 2 * MOST_BYTES


def refusal_of_handshake(method: bytes, url: bytes, asked: list[tuple[bytes, bytes]]) -> Refusal | None:
    """The refusal of an invalid WebSocket handshake; None if it is valid."""
    if heads.has_body(asked):
        return _WITH_BODY
    try:
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in asked])
        ServerProtocol().process_request(http11.Request(url.decode("ascii"), headers, method.decode()))
    except InvalidMethod:
        return refusals.handshake(HTTPStatus.METHOD_NOT_ALLOWED, _WITH_BODY.message)
    except InvalidHeader as error:
        return refusals.handshake(HTTPStatus.BAD_REQUEST, f"The handshake's header {error.name} is missing or invalid.")
    return None


def end_of(scope: Scope) -> "asyncio.Future[None]":
    """Done when the connection of a socket has ended, or its process stops. Other servers do not tell applications."""
    state = scope.get("state", {})
    return state.get(_END) or asyncio.get_running_loop().create_future()


def lengthen(scope: Scope, take: Take, give: Give) -> None:
    """Accept long messages from now on. `take` gets a place for each while it is received, `give` gives it back."""
    lengthened = scope.get("state", {}).get(_LENGTHEN)
    if lengthened is not None:
        lengthened(take, give)


class BoundedSockets(WebSocketsSansIOProtocol):
    """uvicorn's protocol for WebSockets, with limits.

    It drops clients that send pings but do not read pongs. After a large read, which may have thousands of tiny frames,
    it serves other connections first. It receives handshakes that BoundedRequests has validated, and rejects those that
    the application does not answer in time. Long messages need a place, once the application accepts them at all.
    """

    def __init__(self, asked: list[Header], origins: Origins, **options: Any) -> None:
        super().__init__(**options)
        self._asked, self._origins, self._early = asked, origins, b""
        self._end = self.loop.create_future()
        # The places of long messages, once the application accepts these, and whether one is held.
        self._take: Take | None = None
        self._give: Give | None = None
        self._is_long = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.close_timeout = CLOSE_SECONDS
        self._timer = self.loop.call_later(HANDSHAKE_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._tell_end()
        self._shorten()
        super().connection_lost(exc)
        self.conn.parser.close()  # it refers to `conn`: both would stay in memory until a full garbage collection

    def _tell_end(self) -> None:
        if not self._end.done():
            self._end.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self.conn.parser_exc is not None:
            return None
        if self.handshake_initiated and not self.handshake_complete:
            return self._keep(data)
        super().data_received(data)
        if self._take is not None and not self._is_long and self._unread() > MOST_BYTES:
            self._make_long(self._take)
        if not self.handshake_initiated:  # the head is complete, so websockets has rejected it
            self._refuse(MALFORMED)
        elif len(data) >= LARGE_READ and not self.read_paused and not self.transport.is_closing():
            self.transport.pause_reading()
            self.loop.call_soon(self._read_on)
        return None

    def _lengthen(self, take: Take, give: Give) -> None:
        self._take, self._give = take, give
        self.conn.max_message_size = LONGEST_FRAME

    def _unread(self) -> int:
        """The bytes of an incomplete message."""
        return len(self.conn.reader.buffer) + (self.conn.current_size or 0)

    def _make_long(self, take: Take) -> None:
        """Take a place for a message that is long already, and not complete."""
        self._is_long = take()
        if not self._is_long and self.conn.parser_exc is None and not self.close_sent:
            self.conn.fail(CloseCode.TRY_AGAIN_LATER, _CROWDED)
            self.handle_parser_exception()

    def _shorten(self) -> None:
        """Give back the place of a long message, which is complete."""
        if self._is_long and self._give is not None:
            self._is_long = False
            self._give()

    async def receive(self) -> Any:
        """Called by uvicorn's application for the next event, when it has parsed the last one."""
        if self.queue.empty():
            self._shorten()
        return await super().receive()

    def _keep(self, data: bytes) -> None:
        """Keep frames that arrive before the handshake is complete, because websockets cannot parse them yet."""
        self._early += data
        if len(self._early) > MOST_BYTES:
            self.transport.abort()

    def start_keepalive(self) -> None:
        """Called by uvicorn when the application has accepted the socket."""
        super().start_keepalive()
        self._timer.cancel()
        if self._early:
            self.data_received(self._early)
            self._early = b""

    def handle_parser_exception(self) -> None:
        """Like uvicorn's, but data is discarded for a moment: a client that still sends would lose the close frame."""
        close = self.conn.close_sent
        assert close is not None  # noqa: S101 - websockets sets it for each error
        self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._resume()
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.transport.close)

    def send_receive_event_to_app(self) -> None:
        """Like uvicorn's, without a traceback in the log for text that is not UTF-8."""
        try:
            if self.curr_msg_data_type == "text":
                b"".join(self.frames).decode()
        except UnicodeDecodeError:
            self.frames = []
            self.conn.fail(CloseCode.INVALID_DATA, "The message is not valid UTF-8.")
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()

    def _resume(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def _read_on(self) -> None:
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _give_up(self) -> None:
        if not self.handshake_complete:
            self._refuse(STALLED)

    def _refuse(self, refusal: Refusal) -> None:
        if not self.transport.is_closing():
            self.transport.write(refusal.answer(self._asked, self._origins))
            self.transport.close()

    async def run_asgi(self) -> None:
        self.scope["state"] |= {_END: self._end, _LENGTHEN: self._lengthen}
        app = self.app
        self.app = partial(self._run, app)
        try:
            await super().run_asgi()
        finally:
            self.app = app  # the other one refers to this connection, as the state does
            del self.scope["state"][_LENGTHEN]
            self._shorten()
            self._take = self._give = None

    async def _run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)
        # uvicorn does not mark a handshake as complete that was rejected with a body, and would log an error.
        self.handshake_complete = self.handshake_complete or self.close_sent

    def send_500_response(self) -> None:
        """Called by uvicorn if the application has returned without a response to the handshake."""
        if self.initial_response is None and not self.handshake_complete:
            self._refuse(refusals.FAILED)

    def shutdown(self) -> None:
        with closed_alone(self.transport):
            self._tell_end()
            if not self.handshake_complete:
                self._refuse(STOPPING)
            super().shutdown()

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MOST_UNSENT:
            self.transport.abort()
