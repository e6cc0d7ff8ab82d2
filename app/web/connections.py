"""What connections of a process share: bounded sets of those that wait for their clients, and the allowed origins."""

import asyncio
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from app.observability.masking import outline
from app.origins import Origins
from app.settings import Settings

log = logging.getLogger(__name__)

# Connections of a process that have sent a long head: it is kept until the next request, and the scope of the request
# takes as much again.
MOST_LONG = 100


class Evictable(Protocol):
    """A connection that can be evicted."""

    def evict(self) -> None:
        """Close, to make room for another connection. It has been removed from the set."""


class Waiting(dict[Evictable, None]):
    """Connections in one state, the oldest first. A dict, because each request adds and removes one."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def shorten(self) -> None:
        """Evict the oldest connection if there are more than `most`."""
        if len(self) > self.most:
            longest = next(iter(self))
            del self[longest]
            longest.evict()


class Connections:
    """State that the connections of a process share: the allowed origins, and the connections that wait for clients.

    `idle` ones are between two requests; on `incomplete` ones a request, perhaps the first, is incomplete; `long` ones
    have sent a long head.
    """

    def __init__(self, settings: Settings) -> None:
        # Each kind may use a quarter of the file descriptors, so that some are left for everything else.
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = settings.limit_idle_connections
        if descriptors != resource.RLIM_INFINITY:
            most = min(most, descriptors // 4)
        self.idle, self.incomplete, self.long = Waiting(most), Waiting(most), Waiting(MOST_LONG)
        self.origins = Origins(settings.cors_origins)
        self.keep_alive_seconds = settings.keep_alive_seconds


@contextmanager
def closed_alone(transport: asyncio.Transport) -> Iterator[None]:
    """Log and ignore errors while one connection is closed, so that the others are closed too."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the other connections must be closed, whatever the error
        log.error("a connection could not be closed properly: %s", outline(error))  # noqa: TRY400 - its text is not logged
        transport.abort()
