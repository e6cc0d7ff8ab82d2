"""Bytes to a server and all that it says to them, until it hangs up."""

import asyncio
import re
from collections.abc import Sequence

from patience import PATIENCE_SECONDS


async def exchange(address: str, *pieces: bytes, pause: float = 0.05) -> bytes:
    """Send each piece as a segment of its own, then read to the end."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for number, piece in enumerate(pieces):
                if number:
                    await asyncio.sleep(pause)  # else the kernel may join them
                writer.write(piece)
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()


def statuses(said: bytes) -> list[int]:
    """The status of each answer."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]


def headers(answer: bytes) -> dict[str, str]:
    """The headers of an answer, by name."""
    lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


def request(start: str, *lines: str, body: bytes = b"") -> bytes:
    """A request with a Host header, and with a Content-Length where it has a body."""
    given: Sequence[str] = [start, "Host: x", *lines, *([f"Content-Length: {len(body)}"] if body else [])]
    return "\r\n".join([*given, "", ""]).encode("latin-1") + body
