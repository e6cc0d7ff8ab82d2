"""Send raw bytes to a server and read its output until it closes the connection."""

import asyncio
import re
from collections.abc import Sequence

from patience import PATIENCE_SECONDS


async def exchange(address: str, *pieces: bytes, pause: float = 0.05) -> bytes:
    """Send each piece as a separate TCP segment, then read to the end."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for number, piece in enumerate(pieces):
                if number:
                    await asyncio.sleep(pause)  # otherwise the kernel may merge them
                writer.write(piece)
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()


def statuses(said: bytes) -> list[int]:
    """The status codes of all responses."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]


def headers(answer: bytes) -> dict[str, str]:
    """The headers of a response, by name."""
    lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


def request(start: str, *lines: str, body: bytes = b"") -> bytes:
    """A request with a Host header, and a Content-Length header if it has a body."""
    given: Sequence[str] = [start, "Host: x", *lines, *([f"Content-Length: {len(body)}"] if body else [])]
    return "\r\n".join([*given, "", ""]).encode("latin-1") + body
