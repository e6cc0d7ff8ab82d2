"""A reverse proxy that publishes a server below a path prefix, in its own thread."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from urllib.parse import urlsplit

from patience import PATIENCE_SECONDS

_CONNECTION = re.compile(rb"(?im)^connection:[^\r]*\r\n")


@contextmanager
def proxied(server: str, prefix: str, *, strips: bool) -> Iterator[str]:
    """Run a proxy and yield its address. `strips`: it removes the prefix from forwarded paths."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    proxy = _Proxy(server, prefix.encode(), strips=strips)
    try:
        port = asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(PATIENCE_SECONDS)
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result(PATIENCE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Proxy:
    """Forwards one request per connection, then copies data in both directions."""

    def __init__(self, server: str, prefix: bytes, *, strips: bool) -> None:
        self._server, self._prefix, self._strips = urlsplit(server), prefix, strips
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._listening.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._pass_on(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pass_on(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path, rest = head.split(b" ", 2)
        if not path.startswith(self._prefix):
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        path = (path.removeprefix(self._prefix) or b"/") if self._strips else path
        if b"upgrade: websocket" not in rest.lower():
            line, rest = rest.split(b"\r\n", 1)
            rest = line + b"\r\nconnection: close\r\n" + _CONNECTION.sub(b"", rest)
        there, back = await asyncio.open_connection(self._server.hostname, self._server.port)
        back.write(b" ".join((method, path, rest)))
        try:
            async with asyncio.TaskGroup() as both:
                upwards = both.create_task(_copy(reader, back))
                await _copy(there, writer)
                upwards.cancel()
        finally:
            back.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
