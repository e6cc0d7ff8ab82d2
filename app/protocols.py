"""uvicorn's protocols with bounds on what strangers make them do before any code of ours runs, and for how long."""

import asyncio
import logging
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.errors import BadUserInput, LimitExceeded
from app.requests import request_id
from app.telemetry import ERRORS

log = logging.getLogger(__name__)

MOST_BYTES = 100_000
# What comes byte by byte costs far more than what it holds.
MOST_PARTS = 5_000
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
_CLOSE = b"connection", b"close"


class _Refusal(NamedTuple):
    """Why a request is answered here, before any code of ours has seen it."""

    status: HTTPStatus
    message: str
    code: str

    def answer(self, request_id: str) -> bytes:
        body = orjson.dumps({"errors": [{"message": self.message, "extensions": {"code": self.code}}]})
        return (
            b"HTTP/1.1 %d %b\r\nconnection: close\r\ncontent-type: application/json; charset=utf-8\r\n"
            b"x-request-id: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (self.status, self.status.phrase.encode(), request_id.encode(), len(body), body)
        )


_LONG_HEAD = _Refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"The head of a request must be at most {MOST_BYTES:,} bytes.",
    LimitExceeded.code,
)
_MANY_PARTS = _Refusal(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    f"The body must come in at most {MOST_PARTS:,} parts.",
    LimitExceeded.code,
)
_LATE = _Refusal(HTTPStatus.REQUEST_TIMEOUT, "The request did not come whole in time.", BadUserInput.code)
_MALFORMED = _Refusal(HTTPStatus.BAD_REQUEST, "The request is not valid HTTP/1.1.", BadUserInput.code)


class _TooManyParts(Exception):
    """Makes the parser stop."""


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
                await self._cycle.send(head)
            await self._cycle.send(message)

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


class BoundedRequests(HttpToolsProtocol):
    """uvicorn's protocol for HTTP, which ends what goes on and on, what stands still, and what nobody waits for.

    What has come since the last head or part of a body was whole is what the parser holds: beyond the bound it is
    answered 431. A timer a connection looks now and then whether the client is still awaited, so that requests need
    none of their own. The task of a request whose client has left is cancelled.
    """

    _held = 0
    _parts = 0
    _looks = 0
    _unsent = 0
    _stopping = False
    _seen: tuple[RequestResponseCycle | None, bool] = None, False
    _answering: "asyncio.Task[None] | None" = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._timer.cancel()
        if self._answering is not None and not self._is_idle():
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        self._held += len(data)
        super().data_received(data)
        if self._held > MOST_BYTES:
            self._refuse(_LONG_HEAD)

    def on_headers_complete(self) -> None:
        self._held = self._parts = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._held = 0
        self._parts += 1
        if self._parts > MOST_PARTS:
            self._refuse(_MANY_PARTS)
            raise _TooManyParts
        super().on_body(body)

    def handle_websocket_upgrade(self) -> None:
        self._timer.cancel()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        del msg
        self._refuse(_MALFORMED)

    def _refuse(self, refusal: _Refusal) -> None:
        """Close, with an answer where none was begun."""
        if self.transport.is_closing():
            return
        if self._held if self._is_idle() else not self.cycle.response_started:
            self._tell(refusal)
        self.transport.close()

    def _tell(self, refusal: _Refusal) -> None:
        headers = dict(self.headers or ())  # None at first
        asked_as = request_id(headers.get(b"x-request-id"))
        ERRORS.labels(refusal.code).inc()
        log.info("request %s was refused with %d: %s", asked_as, refusal.status, refusal.message)
        self.transport.write(refusal.answer(asked_as))

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
            if not self.transport.is_closing():
                raise

    def on_response_complete(self) -> None:
        """As uvicorn has it, but with no timer for each request: the looks end idle connections too."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def resume_writing(self) -> None:
        self._looks = 0
        super().resume_writing()

    def shutdown(self) -> None:
        """Answer what has come. An idle client may just have sent a request; half of one is awaited a little longer."""
        self._stopping = True
        self._seen, self._looks = (self.cycle, self._held > 0), LOOKS_FOR_REQUEST - 2
        if self._is_idle():
            linger = LOOK_SECONDS if self._answering is None else LINGER_SECONDS
            self.loop.call_later(linger, self._leave, self.cycle)
        else:
            self.cycle.keep_alive = False

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # None at first

    def _leave(self, last: RequestResponseCycle | None) -> None:
        if self.cycle is last and not self._held:
            self.transport.close()

    def _look(self) -> None:
        """End the connection where the client has been awaited for too long."""
        unsent = self.transport.get_write_buffer_size()
        seen = self.cycle, self._held > 0
        waits = self._awaits_client() and seen == self._seen and unsent > self._unsent - LEAST_TAKEN
        self._looks = self._looks + 1 if waits else 0
        self._seen, self._unsent = seen, unsent
        if self._looks >= (LOOKS_FOR_ANSWER if unsent else LOOKS_FOR_REQUEST):
            self._give_up()
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)

    def _awaits_client(self) -> bool:
        """Whether the client's turn it is: to send a request or the rest of one, or to read the answer."""
        if self.pipeline:
            return False
        return self._is_idle() or self.cycle.more_body or self.flow.write_paused

    def _give_up(self) -> None:
        if self._unsent:
            self.transport.abort()
        elif self._held or not self._is_idle():
            self._refuse(_LATE)
        else:
            self.transport.close()


class BoundedSockets(WebSocketsSansIOProtocol):
    """uvicorn's protocol, which drops a client that sends pings and reads no pongs, and lets others have their turn.

    The event loop would read on for as long as more comes; thousands of tiny frames take a while each time.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.close_timeout = CLOSE_SECONDS

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
