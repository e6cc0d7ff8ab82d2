"""GraphQL over WebSocket: the subprotocol graphql-transport-ws.

Where the protocol leaves a choice: a socket belongs to one user and is closed when the token expires (4403), so there
are no anonymous sockets; an operation beyond the limit gets an error; a socket whose client does not read is dropped.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, aclosing, contextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

import orjson
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from app.errors import BadUserInput, LimitExceeded, RequestError, Unauthenticated, Unavailable
from app.observability.masking import masked
from app.observability.metrics import SOCKETS
from app.operations import Execute, GraphQLRequest, GraphQLResponse, each, request
from app.origins import Origins, is_same
from app.sharing.rate_limits import Pace, network
from app.web.bounded_json import parse
from app.web.lobby import Lobby
from app.web.long_messages import LONGEST_BYTES, MOST_BYTES, LongMessages, Verify
from app.web.refusals import FOREIGN
from app.web.requests import Refused, refuse_conflicts
from app.web.socket_protocol import end_of, lengthen

SUBPROTOCOL = "graphql-transport-ws"
INIT_SECONDS = 5.0
# The delay of a socket that exceeds its limit of operations.
PAUSE_SECONDS = 0.05
WRITE_SECONDS = 10.0
MOST_OPERATIONS = 50
MOST_PINGED = 1_000
# Sockets that have not sent connection_init yet: per network, and in total.
UNKNOWN_OF_A_NETWORK = 100
MOST_UNKNOWN = 500
# Messages that are not charged in rows, such as pings and rejected operations: a user may send a hundred at once, and a
# hundred per second on all sockets together. Faster ones wait.
SECONDS_OF_A_MESSAGE, MESSAGES_AT_ONCE = 0.01, 100
LONGEST_REASON = 123  # bytes, the limit of a close frame

_FORBIDDEN = {Unauthenticated.EXPIRED: "Expired", Unauthenticated.NOT_YET_VALID: "Not yet valid"}


class _Closing(Exception):
    """The server closes the socket, with a code and a reason for the client."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


_SILENT = _Closing(4408, "Connection initialisation timeout")
_CROWDED = _Closing(1013, "Too many sockets have not sent connection_init; send it at once, or retry later.")
_EXPIRED = _Closing(4403, "Expired: The token has expired; get a new one.")


class _Disconnected(Exception):
    """Nothing can be sent any more: the client has disconnected, or does not read."""


class _Callers:
    """Authenticates sockets, and limits their number per user, and before authentication.

    The sockets of a user share one limit of uncharged messages.
    """

    def __init__(self, verify: Verify, most: int, long: LongMessages) -> None:
        self.verify, self._most, self.long = verify, most, long
        self.lobby = Lobby(UNKNOWN_OF_A_NETWORK, MOST_UNKNOWN)
        self._taken: Counter[UUID] = Counter()
        self._paces: dict[UUID, Pace] = {}

    @contextmanager
    def place(self, user_id: UUID) -> Iterator[Pace]:
        if self._taken[user_id] >= self._most:
            raise _Closing(1013, f"A user may have {self._most} sockets here; close others, or retry later.")
        self._taken[user_id] += 1
        try:
            yield self._paces.setdefault(user_id, _pace())
        finally:
            self._taken[user_id] -= 1
            if not self._taken[user_id]:
                del self._taken[user_id], self._paces[user_id]


class SocketEndpoint:
    """The ASGI endpoint. Pages of the server's own origin and of `origins` are accepted, others get 403.

    A user may have `most` open sockets.
    """

    def __init__(self, execute: Execute, verify: Verify, origins: Origins, most: int, long: LongMessages) -> None:
        self._execute, self._callers, self._origins = execute, _Callers(verify, most, long), origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if not self._is_allowed(Headers(scope=scope)):
            return await FOREIGN.send(scope, send, self._origins.headers_for(None))
        chosen = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": chosen})
        if chosen is None:
            return await send(_close(_Closing(4406, f"Subprotocol not acceptable; use {SUBPROTOCOL}.")))
        try:
            refuse_conflicts(scope["headers"])
        except Refused as refusal:
            return await send(_close(_Closing(4400, str(refusal))))
        with SOCKETS.track_inprogress():
            return await _Socket(self._execute, self._callers, scope, receive, send).serve()

    def _is_allowed(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or is_same(origin, headers.get("host", "")) or self._origins.is_allowed(origin):
            return True
        self._origins.log_refused(origin)
        return False


class _Socket:
    """One accepted socket, with a loop that receives messages, and a task for each operation."""

    def __init__(self, execute: Execute, callers: _Callers, scope: Scope, receive: Receive, send: Send) -> None:
        self._execute, self._callers, self._receive, self._send = execute, callers, receive, send
        self._authorization, client = Headers(scope=scope).get("authorization"), scope["client"]
        self._address = client[0] if client else ""
        self._initialised = False
        self._place, self._pace = ExitStack(), _pace()
        self._scope, self._end = scope, end_of(scope)
        self._operations: dict[str, asyncio.Task[None]] = {}
        self._writing = asyncio.Lock()
        self._tasks = asyncio.TaskGroup()
        # One timer, for connection_init first and for the token's expiry then, and the reason to close when it fires.
        self._deadline, self._late = asyncio.timeout(INIT_SECONDS), _SILENT

    async def serve(self) -> None:
        closing = None
        try:
            async with self._deadline, self._tasks:
                with self._place:
                    self._place.enter_context(self._callers.lobby.wait(network(self._address), self._make_room))
                    closing = await self._converse()
        except* _Disconnected:
            closing = None
        except* TimeoutError:
            closing = self._late
        if closing is not None:
            with suppress(_Disconnected):
                await self._transmit(_close(closing))

    def _make_room(self) -> None:
        if not self._deadline.expired():
            self._late = _CROWDED
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def _converse(self) -> _Closing | None:
        """Handle messages until the client disconnects or must be disconnected."""
        try:
            while await self._receive_and_handle():
                pass
        except _Closing as closing:
            return closing
        finally:
            for operation in self._operations.values():
                operation.cancel()
        return None

    async def _receive_and_handle(self) -> bool:
        """Handle one message, which is not kept in memory until the next one; returns False after a disconnect."""
        event = await self._receive()
        if event["type"] != "websocket.receive":
            return False
        await self._handle(*_message(event, LONGEST_BYTES if self._initialised else MOST_BYTES))
        await asyncio.sleep(0)  # serve others first, even if the next message has arrived already
        return True

    async def _handle(self, message: Mapping[str, Any], size: int) -> None:
        match message:
            case {"type": "connection_init"}:
                await self._initialise(_optional_payload(message))
            case {"type": "ping"}:
                await self._pong(_optional_payload(message))
                await self._slow_down()
            case {"type": "pong"}:
                _optional_payload(message)
                await self._slow_down()
            case {"type": "subscribe", "id": str(id_), "payload": dict(payload)} if id_:
                await self._subscribe(id_, payload, size)
            case {"type": "complete", "id": str(id_)}:
                await self._cancel(id_)
                await self._slow_down()
            case _:
                raise _Closing(4400, "The message is not a valid message of graphql-transport-ws.")

    async def _slow_down(self) -> None:
        """Read no further messages until the limit allows it."""
        await self._pause(self._pace.delay())

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than the connection lasts."""
        if seconds and (await asyncio.wait({self._end}, timeout=seconds))[0]:
            raise _Disconnected

    async def _pong(self, payload: Mapping[str, Any]) -> None:
        try:
            text = orjson.dumps(payload)
        except orjson.JSONEncodeError:  # orjson parses deeper nesting than it can write
            raise _Closing(4400, "The payload is nested too deeply.") from None
        if len(text) > MOST_PINGED:
            raise _Closing(4400, f"The payload of a ping must be at most {MOST_PINGED:,} bytes.")
        await self._write({"type": "pong"} | ({"payload": payload} if payload else {}))

    async def _initialise(self, payload: Mapping[str, Any]) -> None:
        if self._initialised:
            raise _Closing(4429, "Too many initialisation requests")
        self._authorization = _authorization(payload) or self._authorization
        try:
            principal = await self._callers.verify(self._authorization, self._address)
        except Unauthenticated as refusal:
            raise _forbidden(refusal) from None
        except Unavailable as failure:
            raise _Closing(1013, str(failure)) from None
        except Exception as error:  # noqa: BLE001 - the client gets a masked error for any exception
            raise _Closing(1011, masked(error, secrets.token_hex(8))["message"]) from None
        self._place.close()
        self._pace = self._place.enter_context(self._callers.place(principal.user_id))
        self._initialised, self._late = True, _EXPIRED
        long, user_id = self._callers.long, principal.user_id
        lengthen(self._scope, partial(long.take, user_id), partial(long.give, user_id))
        self._deadline.reschedule(asyncio.get_running_loop().time() + principal.expires_at - time.time())
        await self._write({"type": "connection_ack"})

    async def _subscribe(self, id_: str, payload: dict[str, Any], size: int) -> None:
        if not self._initialised:
            raise _Closing(4401, "Unauthorized")
        if id_ in self._operations:
            raise _Closing(4409, f"Subscriber for {id_} already exists")
        try:
            asked = request(payload, self._authorization, secrets.token_hex(8), address=self._address)
        except BadUserInput as refusal:
            raise _Closing(4400, str(refusal)) from None
        asked.size = size
        if len(self._operations) >= MOST_OPERATIONS:
            limit = LimitExceeded(f"A socket may run {MOST_OPERATIONS} operations at a time; complete others first.")
            await self._pause(max(PAUSE_SECONDS, self._pace.delay()))  # no messages are read meanwhile
            await self._pass_on(id_, _refused({"message": str(limit), "extensions": limit.extensions}))
            return
        self._operations[id_] = operation = self._tasks.create_task(self._run(id_, asked))
        operation.add_done_callback(lambda _: self._operations.pop(id_))

    async def _cancel(self, id_: str) -> None:
        operation = self._operations.get(id_)
        if operation is not None:
            operation.cancel()
            await asyncio.wait({operation})

    async def _run(self, id_: str, asked: GraphQLRequest) -> None:
        try:
            await self._execute_and_send(id_, asked)
        finally:
            asked.leave()

    async def _execute_and_send(self, id_: str, asked: GraphQLRequest) -> None:
        try:
            outcome = await self._execute(asked)
        except Exception as error:  # noqa: BLE001 - the client gets a GraphQL error for any exception
            outcome = _refused(masked(error, asked.request_id))
        async with aclosing(each(outcome)) as responses:
            async for response in responses:
                if not response.executed:
                    asked.leave()  # keep neither its place nor its text while the response waits
                    await self._slow_down()
                    return await self._pass_on(id_, response)
                await self._pass_on(id_, response)
        return await self._write({"id": id_, "type": "complete"})

    async def _pass_on(self, id_: str, response: GraphQLResponse) -> None:
        kind, payload = ("next", response.entries) if response.executed else ("error", response.entries["errors"])
        await self._write({"id": id_, "type": kind, "payload": payload})

    async def _write(self, message: Mapping[str, Any]) -> None:
        """Send messages one after the other, with a time limit for each. Operations wait for slow clients here."""
        text = orjson.dumps(message).decode()
        async with self._writing:
            await self._transmit({"type": "websocket.send", "text": text})

    async def _transmit(self, event: Message) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._send(event)
        # Both mean that the socket is closed. RuntimeError: the server has closed it, as after an unanswered ping.
        except (OSError, RuntimeError):
            raise _Disconnected from None


def _pace() -> Pace:
    return Pace(SECONDS_OF_A_MESSAGE, MESSAGES_AT_ONCE)


def _refused(error: dict[str, Any]) -> GraphQLResponse:
    return GraphQLResponse({"errors": [error]}, executed=False)


def _forbidden(refusal: Unauthenticated) -> _Closing:
    """The close of a socket without a valid token. The first word of the reason says whether a new token helps."""
    return _Closing(4403, f"{_FORBIDDEN.get(refusal.reason, 'Forbidden')}: {refusal}")


def _close(closing: _Closing) -> Message:
    short = closing.reason.encode()[:LONGEST_REASON].decode(errors="ignore")
    return {"type": "websocket.close", "code": closing.code, "reason": short}


def _message(event: Message, most: int) -> tuple[dict[str, Any], int]:
    """The message of an event, which may have `most` bytes, and its size."""
    text = event.get("text")
    if text is None or len(text) > most or (not text.isascii() and len(text.encode()) > most):
        raise _Closing(4400, f"A message must be text of at most {most:,} bytes.")
    try:
        message, size = parse(text, "The message")
    except RequestError as refusal:
        raise _Closing(4400, str(refusal)) from None
    if not isinstance(message, dict):
        raise _Closing(4400, "The message must be a JSON object.")
    return message, size


def _optional_payload(message: Mapping[str, Any]) -> dict[str, Any]:
    payload = message.get("payload")
    if payload is None or isinstance(payload, dict):
        return payload or {}
    raise _Closing(4400, "The payload must be an object.")


def _authorization(payload: Mapping[str, Any]) -> str | None:
    """The token in the payload of connection_init: at the top level or in `headers`, the name in any case."""
    headers = payload.get("headers")
    for members in (payload, headers if isinstance(headers, dict) else {}):
        for name, value in members.items():
            if name.lower() == "authorization" and isinstance(value, str):
                return value
    return None
