"""GraphQL over server-sent events, in the distinct connections mode of graphql-sse: one request, one operation."""

import asyncio
import time
from contextlib import aclosing, suppress

import orjson
from starlette.types import Receive, Send

from app.observability.metrics import STREAMS
from app.operations import GraphQLResponse, ResponseStream, each
from app.web.media import EVENT_STREAM
from app.web.requests import Header

KEEP_ALIVE_SECONDS = 12.0  # proxies close what is silent for half a minute or more
WRITE_SECONDS = 10.0

# Proxies must not buffer events. X-Accel-Buffering tells nginx.
HEADERS: list[Header] = [
    (b"content-type", f"{EVENT_STREAM}; charset=utf-8".encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
# Browsers ignore events without a data line.
COMPLETE = b"event: complete\ndata:\n\n"
COMMENT = b":\n\n"


class _Stalled(Exception):
    """The client does not read."""


class EventStreams:
    """Sends event streams, and keeps track of the open ones of subscriptions."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """End all subscriptions without `complete`, so that clients reconnect, to another server."""
        for sending in self._open:
            sending.cancel()

    async def send(
        self, outcome: GraphQLResponse | ResponseStream, headers: list[Header], receive: Receive, send: Send
    ) -> None:
        """Respond with an event stream. The status is 200 also for errors, because clients can only read those."""
        await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *headers]})
        with STREAMS.track_inprogress(), suppress(_Stalled):
            await self._stream(outcome, receive, send)
            await send({"type": "http.response.body", "body": b""})

    async def _stream(self, outcome: GraphQLResponse | ResponseStream, receive: Receive, send: Send) -> None:
        """Send until the responses end, the client disconnects, the token expires or the process stops."""
        sending = asyncio.create_task(_send_responses(outcome, send))
        if isinstance(outcome, ResponseStream):
            self._open.add(sending)
        gone = asyncio.create_task(_disconnected(receive))
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_seconds_left(outcome)):
                    await _keep_alive({sending, gone}, send)
        finally:
            self._open.discard(sending)
            sending.cancel()
            gone.cancel()
            await asyncio.wait({sending, gone})
        if not sending.cancelled():
            sending.result()


def _seconds_left(outcome: GraphQLResponse | ResponseStream) -> float | None:
    return outcome.expires_at - time.time() if isinstance(outcome, ResponseStream) else None


async def _keep_alive(ends: set[asyncio.Task[None]], send: Send) -> None:
    """Send comments until one of these tasks has ended."""
    while not (await asyncio.wait(ends, timeout=KEEP_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED))[0]:
        await _write(send, COMMENT)


async def _send_responses(outcome: GraphQLResponse | ResponseStream, send: Send) -> None:
    async with aclosing(each(outcome)) as responses:
        async for response in responses:
            await _write(send, b"event: next\ndata: %b\n\n" % orjson.dumps(response.entries))
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
