"""uvicorn's protocol for HTTP, with limits on size and time that apply before a request reaches the application."""

import asyncio
import logging
import math
from functools import partial
from http import HTTPStatus
from typing import Any

from httptools import HttpParserError, HttpParserInvalidURLError, HttpParserUpgrade, HttpRequestParser
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.observability.masking import outline
from app.shapes import require
from app.web import heads, refusals
from app.web.connections import Connections, Waiting, closed_alone
from app.web.framing import send_head, without_chunks
from app.web.heads import LONG_HEAD, MOST_BYTES
from app.web.refusals import CROWDED, LATE, MALFORMED, NO_TUNNEL, Refusal, RequestRefused
from app.web.socket_protocol import BoundedSockets, refusal_of_handshake

log = logging.getLogger(__name__)

# A body that arrives byte by byte costs far more than its size.
MOST_PARTS = 5_000
# Bytes of a body that are kept until the application reads them. uvicorn's 65,536 would add up for many connections.
MOST_BUFFERED = 16_000
# Pipelined requests of a connection: parsing thousands from one segment would block the event loop.
MOST_AHEAD = 100
# A head of more bytes is long: `Connections` limits how many connections have sent one.
LONG_BYTES = 16_000
LOOK_SECONDS = 1.5
# How many looks in a row may find an incomplete request, or a client that does not read its response. The kernel waits
# as long for a client that acknowledges nothing (TCP_USER_TIMEOUT).
LOOKS_FOR_REQUEST = 5
LOOKS_FOR_ANSWER = 20
LEAST_TAKEN = 10_000
# When the server stops, a request may be on its way on an idle connection; on a new connection it probably is.
LINGER_SECONDS = 0.25
# If a connection is closed while its client still sends, it is reset, and the client may lose the response. So after a
# refusal, data is discarded for this long.
DISCARD_SECONDS = 1.0
# Larger reads are parsed in pieces: the parser does not tell where in a piece a head or a chunk has ended.
LARGEST_PIECE = 50_000
# How much of the end of an incomplete head is kept: enough for an Origin line.
ENOUGH_OF_END = 1_000
_NO_HOST = b"\n"  # not a possible value of a header

_MANY_AHEAD = refusals.many_ahead(MOST_AHEAD)
_MANY_PARTS = refusals.many_parts(MOST_PARTS)
_EARLY = refusals.handshake(HTTPStatus.BAD_REQUEST, "A handshake must wait for the responses to earlier requests.")

require(
    hasattr(HttpToolsProtocol, "_start_asgi_task") and hasattr(HttpToolsProtocol, "_should_upgrade"),
    "uvicorn's HttpToolsProtocol started requests with _start_asgi_task, and called _should_upgrade for a handshake.",
)


class _LongHead:
    """The entry of a connection in the set `long`, whose eviction sends another refusal than the other sets."""

    def __init__(self, connection: "BoundedRequests") -> None:
        self._connection = connection

    def evict(self) -> None:
        """Close the connection, to make room for another long head."""
        self._connection.end(CROWDED)


class BoundedRequests(HttpToolsProtocol):
    """uvicorn's protocol for HTTP, with limits for requests that are too large, too slow, or abandoned.

    It rejects malformed and ambiguous requests, after the responses to earlier requests on the connection. One timer
    per connection, instead of one per request, checks whether the client is too slow. The task of a request whose
    client disconnects is cancelled.
    """

    # Slots are faster, and each request uses these attributes.
    __slots__ = (
        "_answering",
        "_end",
        "_held",
        "_host",
        "_idle",
        "_long",
        "_looks",
        "_parts",
        "_piece",
        "_refusal",
        "_seen",
        "_shared",
        "_stopping",
        "_tail",
        "_timer",
        "_unsent",
        "_waits",
    )

    def __init__(self, shared: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._shared, self._idle = shared, shared.idle
        # The bytes since the last complete head or part of a body, those of the piece in which it was completed, and
        # those of the current piece.
        self._held = self._tail = self._piece = 0
        self._parts = self._looks = self._unsent = 0
        self._end = b""  # the end of an incomplete head, or of data that the parser could not read
        self._stopping = False
        self._host = _NO_HOST  # the last valid Host header
        self._refusal: Refusal | None = None
        self._waits: Waiting | None = None
        self._long: _LongHead | None = None
        self._seen: tuple[RequestResponseCycle | None, bool] = None, False
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
        self._wait(self._shared.incomplete)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._timer.cancel()
        self._wait(None)
        if self._long is not None:
            self._shared.long.pop(self._long, None)
        if self._answering is not None and not self._is_idle():
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return None
        self._piece = size = len(data)
        if size > LARGEST_PIECE:
            return self._receive_pieces(data)
        self._held += size
        while True:
            try:
                self.parser.feed_data(data)
                break
            except HttpParserUpgrade as upgrade:
                data = self._after_upgrade(data[upgrade.args[0] :])
                if not data:
                    return None
            except HttpParserError as error:
                self._end += data
                return self._refuse(_reason(error))
        if self._held > LONG_BYTES:
            self._end += data
            self._read_long()
        elif (cycle := self.cycle) is None or cycle.more_body or cycle.response_complete:  # type: ignore[redundant-expr]  # None at first
            self._wait(self._place())
            self._end = (self._end + data)[-ENOUGH_OF_END:] if self._is_partial() else b""
        elif self._waits is not None:  # the same as `self._wait(self._place())`, inlined for speed
            del self._waits[self]
            self._waits = None
        return None

    def _receive_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), LARGEST_PIECE):
            # The protocol changes when a WebSocket is opened.
            self.transport.get_protocol().data_received(data[start : start + LARGEST_PIECE])  # type: ignore[attr-defined]  # both are uvicorn's

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MOST_AHEAD:
            raise RequestRefused(_MANY_AHEAD)
        headers = self.headers
        names = dict(headers)
        if (
            names.get(b"host") != self._host
            or len(names) != len(headers)
            or self._held + self._tail > LONG_BYTES
            or b"transfer-encoding" in names
            or self.url[:1] != b"/"
        ):
            self._examine(names)
        self._held = self._parts = 0
        self._tail = self._piece
        super().on_headers_complete()
        self.scope["state"]["headers"] = names
        self.headers = []  # trailers are added here, and must not become headers
        if self.scope["http_version"] != "1.1":
            self._treat_as_old()

    def _read_long(self) -> None:
        """Handle an incomplete head that is long already."""
        if self._held > MOST_BYTES:
            self._refuse(LONG_HEAD)
        else:
            self._wait(self._place())
            self._count_long()

    def _count_long(self) -> None:
        """Add this connection to the set of those with long heads, as the newest."""
        if self._long is None:
            self._long = _LongHead(self)
        long = self._shared.long
        long.pop(self._long, None)
        long[self._long] = None
        long.shorten()

    def _examine(self, names: dict[bytes, bytes]) -> None:
        size = heads.size(self.parser.get_method(), self.url, self.headers)
        if size > MOST_BYTES:
            raise RequestRefused(LONG_HEAD)
        if size > LONG_BYTES:
            self._count_long()
        self.url = heads.check(self.parser.get_http_version(), self.url, self.headers)
        self._host = names.get(b"host", _NO_HOST)

    def _treat_as_old(self) -> None:
        """Send no `100 Continue` to HTTP/1.0 clients."""
        if self.scope["http_version"] != "1.0":
            raise RequestRefused(heads.OTHER_VERSION)
        if not self.parser.should_upgrade():
            self.cycle.waiting_for_100_continue = False

    def on_body(self, body: bytes) -> None:
        """The same as uvicorn's: the rest of a body is discarded after the response is complete."""
        self._held = 0
        self._tail = self._piece
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise RequestRefused(_MANY_PARTS)
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > MOST_BUFFERED:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Like uvicorn's, but also after the response is complete: the connection is then idle."""
        if not self.parser.should_upgrade():
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def _should_upgrade(self) -> bool:
        """Leave every head with an Upgrade header to `_after_upgrade`."""
        return True

    def _after_upgrade(self, rest: bytes) -> bytes:
        """Handle a head with an Upgrade header; returns the data that the parser must read next.

        The parser stops at such a head, and is replaced: it would read the body as the next request.
        """
        method, version, asked = self.parser.get_method(), self.parser.get_http_version(), self.scope["headers"]
        if method == b"CONNECT":
            self._refuse(NO_TUNNEL)
        elif self.ws_protocol_class is not None and heads.asks_for_socket(version, asked):  # type: ignore[arg-type]  # uvicorn makes a list of them
            self._open_socket(method, rest)
        else:
            self.parser = HttpRequestParser(self)
            return heads.without_upgrade(method, self.url, version, asked) + rest  # type: ignore[arg-type]  # the same
        return b""

    def _open_socket(self, method: bytes, rest: bytes) -> None:
        refusal = _EARLY if not self._is_idle() else refusal_of_handshake(method, self.url, self.scope["headers"])  # type: ignore[arg-type]  # uvicorn makes a list of them
        if refusal is not None:
            return self._refuse(refusal)
        self._timer.cancel()
        self._wait(None)
        # uvicorn creates the protocol of this handshake with it.
        self.ws_protocol_class = partial(BoundedSockets, list(self.scope["headers"]), self._shared.origins)  # type: ignore[assignment]  # it is only called
        self.handle_websocket_upgrade()
        # The parser refers to this protocol: both would stay in memory until a full garbage collection, which is rare.
        self.parser = None  # type: ignore[assignment]  # as uvicorn does at the end of a connection
        if rest:
            self.transport.get_protocol().data_received(rest)  # type: ignore[attr-defined]  # it is uvicorn's for sockets
        return None

    def _refuse(self, refusal: Refusal) -> None:
        """Send the responses to earlier requests, then the refusal, and close."""
        if self._refusal is not None or self.transport.is_closing():
            return
        self._refusal = refusal
        if self.pipeline or not (self._is_idle() or self.cycle.more_body):
            if self.cycle.more_body:
                self.pipeline.popleft()
            self._wait(None)
            return
        self._abandon()
        self._say_last(refusal)

    def _abandon(self) -> None:
        """Cancel the request whose body is incomplete or malformed."""
        if not self._is_idle():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self._answering is not None:
                self._answering.cancel()

    def _say_last(self, refusal: Refusal) -> None:
        if not self._tell(refusal):
            return self.transport.close()
        self.flow.resume_reading()
        self._wait(self._shared.incomplete)
        self.transport.write_eof()
        self.loop.call_later(DISCARD_SECONDS, self.transport.close)
        return None

    def _tell(self, refusal: Refusal) -> bool:
        """Send the refusal, unless a response has started; returns whether it was sent.

        A client would take a second response for the response to its next request.
        """
        cycle = self.cycle
        if cycle is not None and cycle.response_started and (cycle.more_body or not cycle.response_complete):  # type: ignore[redundant-expr]  # None at first
            return False
        asked = list(self.scope["headers"]) if self.scope else []  # type: ignore[redundant-expr]  # None at first
        # The parser reports a header when the next one begins, which may be missing or malformed.
        if self._is_partial() and b"origin" not in dict(asked) and (origin := heads.origin_in(self._end)):
            asked.append((b"origin", origin))
        has_body = self.parser.get_method() != b"HEAD"
        self.transport.write(refusal.answer(asked, self._shared.origins, has_body=has_body))
        return True

    def evict(self) -> None:
        """Close the connection, to make room for another."""
        self._waits = None
        self.end(LATE)

    def end(self, refusal: Refusal) -> None:
        """Close at once, since many connections may arrive in a short time; with a refusal if a request is pending."""
        self._wait(None)
        if self._refusal is None and self._is_awaited() and not self.transport.is_closing():
            self._refusal = refusal
            self._abandon()
            if not self.pipeline:
                self._tell(refusal)
        self.transport.close()

    def _place(self) -> Waiting | None:
        """The set that this connection belongs to; None while a complete request is being processed."""
        cycle = self.cycle
        if cycle is None or (cycle.more_body and not self.pipeline):  # type: ignore[redundant-expr]  # None at first
            return self._shared.incomplete
        if not cycle.response_complete:
            return None
        return self._shared.incomplete if self._is_partial() else self._idle

    def _wait(self, among: Waiting | None) -> None:
        if among is self._waits:
            return
        if self._waits is not None:
            del self._waits[self]
        self._waits = among
        if among is not None:
            among[self] = None
            among.shorten()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        del app  # it differs from self.app only if uvicorn's own limit of concurrency is set
        cycle.keep_alive = cycle.keep_alive and not self._stopping
        self._answering = task = self.loop.create_task(cycle.run_asgi(partial(self._answer, cycle)))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _answer(self, cycle: RequestResponseCycle, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            send = partial(send_head, cycle)
        elif scope["http_version"] == "1.0":
            send = without_chunks(cycle)
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            if self._refusal is None and not self.transport.is_closing():
                raise
            cycle.disconnected = True  # uvicorn marks only the last of several pipelined requests

    def on_response_complete(self) -> None:
        """Like uvicorn's, but without a timer per request, since `_look` closes idle connections.

        Requests are not counted either, which only uvicorn's limit of requests needs.
        """
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            self._wait(self._place())
        elif self._refusal is not None:
            self._say_last(self._refusal)
        elif self._waits is not None or self.cycle.more_body or self.cycle.scope is not self.scope:
            self._wait(self._place())
        else:  # the same as `self._wait(self._idle)`, inlined for speed
            self._waits = idle = self._idle
            idle[self] = None
            if len(idle) > idle.most:
                idle.shorten()

    def resume_writing(self) -> None:
        self._looks = 0
        super().resume_writing()

    def shutdown(self) -> None:
        """Finish pending requests. Wait briefly on idle connections, and for incomplete requests a little longer."""
        with closed_alone(self.transport):
            self._stopping = True
            self._seen, self._looks = (self.cycle, self._is_partial()), LOOKS_FOR_REQUEST - 2
            if self._is_idle():
                linger = LOOK_SECONDS if self._answering is None else LINGER_SECONDS
                self.loop.call_later(linger, self._leave, self.cycle)
            else:
                self.cycle.keep_alive = False

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # None at first

    def _is_partial(self) -> bool:
        """Whether a head has begun and is incomplete."""
        return self.scope is not (None if self.cycle is None else self.cycle.scope)  # type: ignore[redundant-expr]  # None at first

    def _is_awaited(self) -> bool:
        """Whether a request is pending, complete or not."""
        return self._is_partial() or not self._is_idle()

    def _leave(self, last: RequestResponseCycle | None) -> None:
        if self.cycle is last and not self._is_partial():
            self.transport.close()

    def _look(self) -> None:
        """Close the connection if the client has been waited for too long."""
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
        unsent = self.transport.get_write_buffer_size()
        seen = self.cycle, self._is_partial()
        waits = self._awaits_client() and seen == self._seen and unsent > self._unsent - LEAST_TAKEN
        self._looks = self._looks + 1 if waits else 0
        self._seen, self._unsent = seen, unsent
        if self._looks >= self._most_looks():
            self._give_up()

    def _most_looks(self) -> int:
        if self._unsent:
            return LOOKS_FOR_ANSWER
        if self._waits is self._idle:
            return math.ceil(self._shared.keep_alive_seconds / LOOK_SECONDS)
        return LOOKS_FOR_REQUEST

    def _awaits_client(self) -> bool:
        """Whether the client must act next: send a request or the rest of one, or read the response."""
        if self.pipeline:
            return self.flow.write_paused
        return self._is_idle() or self.cycle.more_body or self.flow.write_paused

    def _give_up(self) -> None:
        if self._unsent:
            self.transport.abort()
        elif self._is_awaited():
            self._refuse(LATE)
        else:
            self.transport.close()


def _reason(error: HttpParserError) -> Refusal:
    """The refusal for the error that stopped the parser."""
    cause = error.__context__
    if isinstance(cause, RequestRefused):
        return cause.refusal
    if cause is None or isinstance(cause, HttpParserInvalidURLError | UnicodeError):
        return MALFORMED
    log.error("the head of a request could not be read: %s", outline(cause))
    return refusals.FAILED
