"""uvicorn's protocols with bounds on what strangers make them do before any code of ours runs, and for how long."""

import asyncio
import logging
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from httptools import HttpParserError, HttpParserInvalidURLError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets import http11
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader, InvalidMethod
from websockets.server import ServerProtocol

from app.observability.masking import outline
from app.origins import Header, Origins
from app.settings import Settings
from app.web import heads, refusals
from app.web.heads import LONG_HEAD, MOST_BYTES
from app.web.idle import Waiting
from app.web.refusals import CROWDED, LATE, MALFORMED, NO_TUNNEL, STALLED, STOPPING, Refusal, RequestRefused

log = logging.getLogger(__name__)

# What comes byte by byte costs far more than what it holds.
MOST_PARTS = 5_000
# Requests that wait for the answers to those before them on their connection: reading thousands in one segment would
# hold up the event loop.
MOST_AHEAD = 100
# A head of more bytes is long. These connections of a process may have sent one: it is kept until the next request, and
# what is made of it while it is answered takes as much again.
LONG_BYTES = 16_000
MOST_LONG = 100
# More than the largest answer, which may be on its way when a ping comes.
MOST_UNSENT = 5_000_000
LARGE_READ = 30_000
LOOK_SECONDS = 1.5
# How many looks in a row may find that the request has not come, or that the answer is not taken: the kernel lets as
# much time pass for a client that takes nothing at all.
LOOKS_FOR_REQUEST = 5
LOOKS_FOR_ANSWER = 20
LEAST_TAKEN = 10_000
# A request may be on its way when a server that stops finds a connection idle; on a new one it probably is.
LINGER_SECONDS = 0.25
# A peer that does not answer when its socket is closed.
CLOSE_SECONDS = 1.0
# A connection that is closed while its client still sends is reset, and the client may lose the answer: for this long
# what comes after a refusal is read and thrown away.
DISCARD_SECONDS = 1.0
# Larger reads are parsed piece by piece: the parser does not tell where in a piece a head or a chunk has ended.
LARGEST_PIECE = 50_000
# Of a head that is not whole, what is kept of its end: an Origin line fits in.
ENOUGH_OF_END = 1_000
# How long the application may take to accept a socket or refuse it.
HANDSHAKE_SECONDS = 9.0
_CLOSE = b"connection", b"close"
_NO_HOST = b"\n"  # what no header can be
_END: Any = {"type": "http.response.body", "body": b""}

_MANY_AHEAD = refusals.many_ahead(MOST_AHEAD)
_MANY_PARTS = refusals.many_parts(MOST_PARTS)
_EARLY = refusals.handshake(HTTPStatus.BAD_REQUEST, "A handshake must wait for the answers to earlier requests.")
_WITH_BODY = refusals.handshake(HTTPStatus.BAD_REQUEST, "A WebSocket handshake is a GET without a body.")

# A handshake's head has passed HTTP's bounds before websockets parses it, which reads its own from here.
http11.MAX_LINE_LENGTH = http11.MAX_NUM_HEADERS = 2 * MOST_BYTES


class Connections:
    """What the connections of a process share: who may read refusals, and which of them wait for their clients.

    `idle` ones are between two requests; on `incomplete` ones a request, perhaps the first, has not come whole; `long`
    ones have sent a long head.
    """

    def __init__(self, settings: Settings) -> None:
        # Strangers must leave descriptors for others: of those of the process each kind has a quarter.
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = settings.limit_idle_connections
        if descriptors != resource.RLIM_INFINITY:
            most = min(most, descriptors // 4)
        self.idle, self.incomplete, self.long = Waiting(most), Waiting(most), Waiting(MOST_LONG)
        self.origins = Origins(settings.cors_origins)
        self.keep_alive_seconds = settings.keep_alive_seconds


class _Answer:
    """Sends an answer in one piece where its head tells the length: each write is dear, and wakes the client.

    All others are sent by uvicorn's cycle: streams, answers to HEAD, and the last one of a connection.
    """

    __slots__ = ("_cycle", "_head", "_length")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._head: Any = None
        self._length = b""

    async def send(self, message: Any) -> None:
        """What an application calls."""
        head, self._head = self._head, None
        if head is None and self._is_to_be_held(message):
            self._head = message
        elif head is not None and not message.get("more_body") and not self._cycle.flow.write_paused:
            self._write(head, message["body"])
        else:
            if head is not None:
                await self._pass_on(head)
            await self._pass_on(message)

    def give_up(self) -> None:
        """Have the cycle not miss the answer: uvicorn marks only the last of several pipelined requests as ended."""
        self._cycle.disconnected = True

    async def _pass_on(self, message: Any) -> None:
        cycle, begins = self._cycle, message["type"] == "http.response.start"
        if cycle.scope["method"] == "HEAD":
            if begins:
                await cycle.send(message)
                await cycle.send(_END)
            # An event stream goes on until it is told that nobody listens.
            return await asyncio.sleep(0)
        if not self._length and cycle.scope["http_version"] == "1.0":
            self._end_by_closing(message, begins=begins)
        return await cycle.send(message)

    def _end_by_closing(self, message: Any, *, begins: bool) -> None:
        """HTTP/1.0 knows no chunks: the cycle sends parts as they are, each as long as it was announced."""
        if begins:
            self._cycle.chunked_encoding = False
        else:
            self._cycle.expected_content_length = len(message.get("body", b""))

    def _is_to_be_held(self, message: Any) -> bool:
        if message["type"] != "http.response.start" or self._cycle.scope["method"] == "HEAD":
            return False
        headers = dict(message["headers"])
        self._length = headers.get(b"content-length", b"")
        return self._length != b"" and b"connection" not in headers

    def _write(self, message: Any, body: bytes) -> None:
        """As the cycle does it; RuntimeError for a head that would be read as another."""
        cycle = self._cycle
        headers = [*cycle.default_headers, *message["headers"], *(() if cycle.keep_alive else (_CLOSE,))]
        head = b"\r\n".join((*map(b": ".join, headers), b"\r\n"))
        ends = head.count(b"\r"), head.count(b"\n")
        if ends != (len(headers) + 1,) * 2 or int(self._length) != len(body):
            raise RuntimeError("The head of an answer is wrong.")
        cycle.response_started = cycle.response_complete = True
        if cycle.disconnected or cycle.transport.is_closing():
            return
        cycle.transport.write(STATUS_LINE[message["status"]] + head + body)
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


class _LongHead:
    """A connection that has sent a long head, among those that have: as such it gives way with another refusal."""

    def __init__(self, connection: "BoundedRequests") -> None:
        self._connection = connection

    def give_way(self) -> None:
        """End, for another long head needs the room."""
        self._connection.end(CROWDED)


class BoundedRequests(HttpToolsProtocol):
    """uvicorn's protocol for HTTP, which ends what goes on and on, what stands still, and what nobody waits for.

    It refuses what the parser cannot read and what other servers could read differently, after the requests that came
    before have been answered. A timer a connection looks now and then whether the client is still awaited, so that
    requests need none of their own. The task of a request whose client has left is cancelled.
    """

    # Found by place, for each request looks at them.
    __slots__ = (
        "_answering",
        "_direct",
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
        # The bytes since the last head or part of a body was whole, those of the piece in which it became whole, and
        # those of the piece that is read.
        self._held = self._tail = self._piece = 0
        self._parts = self._looks = self._unsent = 0
        self._end = b""  # of a head that is not whole, or of what the parser could not read
        self._stopping = False
        self._host = _NO_HOST  # the last one that was found valid
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
        elif self._waits is not None:  # as `_place` has it; for each request
            del self._waits[self]
            self._waits = None
        return None

    def _receive_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), LARGEST_PIECE):
            # It is another protocol once a socket was opened.
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
        self.headers = []  # for trailers, which must not pass for headers
        if self.scope["http_version"] != "1.1":
            self._treat_as_old()

    def _read_long(self) -> None:
        """Go on with a head that is long, and not whole."""
        if self._held > MOST_BYTES:
            self._refuse(LONG_HEAD)
        else:
            self._wait(self._place())
            self._count_long()

    def _count_long(self) -> None:
        """Be the last of the connections with a long head to give way."""
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
        """HTTP/1.0 knows no `100 Continue`."""
        if self.scope["http_version"] != "1.0":
            raise RequestRefused(heads.OTHER_VERSION)
        if not self.parser.should_upgrade():
            self.cycle.waiting_for_100_continue = False

    def on_body(self, body: bytes) -> None:
        """As uvicorn has it: what is left of a body whose request has been answered is thrown away."""
        self._held = 0
        self._tail = self._piece
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise RequestRefused(_MANY_PARTS)
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """As uvicorn has it, but also once the answer is complete: from now on the connection is idle."""
        if not self.parser.should_upgrade():
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def _should_upgrade(self) -> bool:
        """Leave the callbacks of any head with an Upgrade to `_after_upgrade`."""
        return True

    def _after_upgrade(self, rest: bytes) -> bytes:
        """What the parser shall read after a head that asks for another protocol, before which it has stopped.

        Its state after an upgrade is of no use: it would take a body for the next request.
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
        refusal = _EARLY if not self._is_idle() else _of_handshake(method, self.url, self.scope["headers"])  # type: ignore[arg-type]  # uvicorn makes a list of them
        if refusal is not None:
            return self._refuse(refusal)
        self._timer.cancel()
        self._wait(None)
        # uvicorn makes one of it for this handshake, and tells it nothing else.
        self.ws_protocol_class = partial(BoundedSockets, list(self.scope["headers"]), self._shared.origins)  # type: ignore[assignment]  # it is only called
        self.handle_websocket_upgrade()
        if rest:
            self.transport.get_protocol().data_received(rest)  # type: ignore[attr-defined]  # it is uvicorn's for sockets
        return None

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what came before, then say why no more is answered, and close."""
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
        """End the request whose body does not come, or is malformed."""
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
        """Whether the refusal was sent: a second answer to the same request would be taken for that to the next."""
        cycle = self.cycle
        if cycle is not None and cycle.response_started and (cycle.more_body or not cycle.response_complete):  # type: ignore[redundant-expr]  # None at first
            return False
        asked = list(self.scope["headers"]) if self.scope else []  # type: ignore[redundant-expr]  # None at first
        # The parser gives a header when the next one begins, which perhaps never came or is malformed.
        if self._is_partial() and b"origin" not in dict(asked) and (origin := heads.origin_in(self._end)):
            asked.append((b"origin", origin))
        has_body = self.parser.get_method() != b"HEAD"
        self.transport.write(refusal.answer(asked, self._shared.origins, has_body=has_body))
        return True

    def give_way(self) -> None:
        """End, for another connection needs the room."""
        self._waits = None
        self.end(LATE)

    def end(self, refusal: Refusal) -> None:
        """End with a refusal where a request is not answered; at once, for many may come in no time."""
        self._wait(None)
        if self._refusal is None and self._is_awaited() and not self.transport.is_closing():
            self._refusal = refusal
            self._abandon()
            if not self.pipeline:
                self._tell(refusal)
        self.transport.close()

    def _place(self) -> Waiting | None:
        """Among which connections this one waits; None while a request that has come whole is not answered."""
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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        del app  # another than ours only where uvicorn's own limit of concurrency is set
        cycle.keep_alive = cycle.keep_alive and not self._stopping
        self._answering = task = self.loop.create_task(cycle.run_asgi(partial(self._answer, _Answer(cycle))))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _answer(
        self, answer: _Answer, scope: Scope, receive: ASGIReceiveCallable, _send: ASGISendCallable
    ) -> None:
        try:
            await self.app(scope, receive, answer.send)
        except asyncio.CancelledError:
            if self._refusal is None and not self.transport.is_closing():
                raise
            answer.give_up()

    def on_response_complete(self) -> None:
        """As uvicorn has it, but with no timer for each request: the looks end idle connections too."""
        self.server_state.total_requests += 1
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
        else:  # as `_place` has it; for each request
            self._waits = idle = self._idle
            idle[self] = None
            if len(idle) > idle.most:
                idle.shorten()

    def resume_writing(self) -> None:
        self._looks = 0
        super().resume_writing()

    def shutdown(self) -> None:
        """Answer what has come. An idle client may just have sent a request; half of one is awaited a little longer."""
        with _alone(self.transport):
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
        """Whether a head has begun and is not whole."""
        return self.scope is not (None if self.cycle is None else self.cycle.scope)  # type: ignore[redundant-expr]  # None at first

    def _is_awaited(self) -> bool:
        """Whether part of a request has come that is not answered yet."""
        return self._is_partial() or not self._is_idle()

    def _leave(self, last: RequestResponseCycle | None) -> None:
        if self.cycle is last and not self._is_partial():
            self.transport.close()

    def _look(self) -> None:
        """End the connection where the client has been awaited for too long."""
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
        """Whether the client's turn it is: to send a request or the rest of one, or to read the answer."""
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
    """Why the parser has stopped."""
    cause = error.__context__
    if isinstance(cause, RequestRefused):
        return cause.refusal
    if cause is None or isinstance(cause, HttpParserInvalidURLError | UnicodeError):
        return MALFORMED
    log.error("the head of a request could not be read: %s", outline(cause))
    return refusals.FAILED


def _of_handshake(method: bytes, url: bytes, asked: list[tuple[bytes, bytes]]) -> Refusal | None:
    """Why a WebSocket handshake is refused, if it is."""
    if heads.has_body(asked):
        return _WITH_BODY
    try:
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in asked])
        ServerProtocol().process_request(http11.Request(url.decode("ascii"), headers, method.decode()))
    except InvalidMethod:
        return refusals.handshake(HTTPStatus.METHOD_NOT_ALLOWED, _WITH_BODY.message)
    except InvalidHeader as error:
        return refusals.handshake(HTTPStatus.BAD_REQUEST, f"The handshake's header {error.name} is missing or wrong.")
    return None


@contextmanager
def _alone(transport: asyncio.Transport) -> Iterator[None]:
    """Whatever fails while one connection is ended concerns no other."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the server must go on
        log.error("a connection could not be closed in order: %s", outline(error))  # noqa: TRY400 - its text stays here
        transport.abort()


class BoundedSockets(WebSocketsSansIOProtocol):
    """uvicorn's protocol, which drops a client that sends pings and reads no pongs, and lets others have their turn.

    The event loop would read on for as long as more comes; thousands of tiny frames take a while each time. It gets
    handshakes that BoundedRequests has found valid, and ends those that the application does not answer.
    """

    def __init__(self, asked: list[Header], origins: Origins, **options: Any) -> None:
        super().__init__(**options)
        self._asked, self._origins, self._early = asked, origins, b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.close_timeout = CLOSE_SECONDS
        self._timer = self.loop.call_later(HANDSHAKE_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self.handshake_complete:
            return self._keep(data)
        super().data_received(data)
        if not self.handshake_initiated:  # its head came at once, and websockets takes it for wrong
            self._refuse(MALFORMED)
        elif len(data) >= LARGE_READ and not self.read_paused and not self.transport.is_closing():
            self.transport.pause_reading()
            self.loop.call_soon(self._read_on)
        return None

    def _keep(self, data: bytes) -> None:
        """Frames must not come before the handshake is complete, and websockets cannot read them."""
        self._early += data
        if len(self._early) > MOST_BYTES:
            self.transport.abort()

    def start_keepalive(self) -> None:
        """What uvicorn calls when the application has accepted the socket."""
        super().start_keepalive()
        self._timer.cancel()
        if self._early:
            self.data_received(self._early)
            self._early = b""

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
        self.app = partial(self._run, self.app)
        await super().run_asgi()

    async def _run(
        self, app: ASGI3Application, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        await app(scope, receive, send)
        # uvicorn forgets that a handshake is complete which was refused with a body, and logs an error.
        self.handshake_complete = self.handshake_complete or self.close_sent

    def send_500_response(self) -> None:
        """What uvicorn calls for a handshake that the application has left without an answer."""
        if self.initial_response is None and not self.handshake_complete:
            self._refuse(refusals.FAILED)

    def shutdown(self) -> None:
        with _alone(self.transport):
            if not self.handshake_complete:
                self._refuse(STOPPING)
            super().shutdown()

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MOST_UNSENT:
            self.transport.abort()
