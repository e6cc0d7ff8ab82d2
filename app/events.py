"""GraphQL over server-sent events, in the distinct connections mode of graphql-sse: one request, one operation."""

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import aclosing, suppress

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from app.operations import GraphQLAnswer, ResponseStream, answers

EVENT_STREAM = "text/event-stream"
KEEP_ALIVE_SECONDS = 12.0  # proxies close what is silent for half a minute or more
WRITE_SECONDS = 10.0

# Nothing on the way may hold events back: nginx is told by a header of its own.
HEADERS = {"Content-Type": f"{EVENT_STREAM}; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
# A browser drops events without a data line.
COMPLETE = b"event: complete\ndata:\n\n"
COMMENT = b":\n\n"


def wants_events(accept: str, answered: GraphQLAnswer | ResponseStream) -> bool:
    """Whether an Accept header asks for events: by name for a subscription, else before JSON of any kind."""
    qualities = dict(_quality(part) for part in accept.lower().split(","))
    events = qualities.pop(EVENT_STREAM, 0.0)
    others = 0.0 if isinstance(answered, ResponseStream) else max(qualities.values(), default=0.0)
    return events > others


def _quality(part: str) -> tuple[str, float]:
    """A media type of an Accept header, and how welcome it is: 0 to 1."""
    media_type, *parameters = (piece.strip() for piece in part.split(";"))
    given = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    return media_type, float(given) if re.fullmatch(r"[01](\.\d{0,3})?", given, re.ASCII) else 0.0


class _Stalled(Exception):
    """The client has stopped reading."""


class EventStreams:
    """The open event streams of a process."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """End them all, but as unfinished: clients come again, to a server that stays."""
        for sending in self._open:
            sending.cancel()

    def response(self, answered: GraphQLAnswer | ResponseStream, headers: Mapping[str, str]) -> ASGIApp:
        """The answers as an event stream; 200 even for an error, which a client could not read otherwise."""

        async def respond(_scope: Scope, receive: Receive, send: Send) -> None:
            named = {**HEADERS, **headers}
            encoded = [(name.lower().encode(), value.encode()) for name, value in named.items()]
            await send({"type": "http.response.start", "status": 200, "headers": encoded})
            with suppress(_Stalled):
                await self._stream(answered, receive, send)
                await send({"type": "http.response.body", "body": b""})

        return respond

    async def _stream(self, answered: GraphQLAnswer | ResponseStream, receive: Receive, send: Send) -> None:
        """Send until the answers end, the client goes, the token expires or the process stops."""
        sending = asyncio.create_task(_send_answers(answered, send))
        self._open.add(sending)
        gone = asyncio.create_task(_disconnected(receive))
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_seconds_left(answered)):
                    await _keep_alive({sending, gone}, send)
        finally:
            self._open.discard(sending)
            sending.cancel()
            gone.cancel()
            await asyncio.wait({sending, gone})
        if not sending.cancelled():
            sending.result()


def _seconds_left(answered: GraphQLAnswer | ResponseStream) -> float | None:
    return answered.expires_at - time.time() if isinstance(answered, ResponseStream) else None


async def _keep_alive(ends: set[asyncio.Task[None]], send: Send) -> None:
    """Say something now and then until one of these tasks has ended."""
    while not (await asyncio.wait(ends, timeout=KEEP_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED))[0]:
        await _write(send, COMMENT)


async def _send_answers(answered: GraphQLAnswer | ResponseStream, send: Send) -> None:
    async with aclosing(answers(answered)) as each:
        async for answer in each:
            await _write(send, b"event: next\ndata: %b\n\n" % orjson.dumps(answer.entries))
    await _write(send, COMPLETE)


async def _write(send: Send, data: bytes) -> None:
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await send({"type": "http.response.body", "body": data, "more_body": True})
    except TimeoutError:
        raise _Stalled from None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
