"""Responses to HEAD requests, which have no body, and to HTTP/1.0 clients, which cannot read chunks."""

import asyncio
from typing import Any

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_END: Any = {"type": "http.response.body", "body": b""}


async def send_head(cycle: RequestResponseCycle, message: Any) -> None:
    """Respond to HEAD with the head only. An event stream then sees that its client has disconnected."""
    if message["type"] == "http.response.start":
        await cycle.send(message)
        await cycle.send(_END)
    else:
        await asyncio.sleep(0)


def without_chunks(cycle: RequestResponseCycle) -> Send:
    """Respond to HTTP/1.0 without chunks: a response without Content-Length ends with the connection."""
    has_length = True

    async def send(message: Any) -> None:
        nonlocal has_length
        if message["type"] == "http.response.start":
            has_length = b"content-length" in dict(message["headers"])
            if not has_length:
                cycle.chunked_encoding = False
        elif not has_length:
            cycle.expected_content_length = len(message.get("body", b""))
        await cycle.send(message)

    return send
