"""Timeouts that a busy machine does not reach. As a program, this is `taskql` with these timeouts, also in workers."""

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from app import cli
from app.database import connections, database
from app.identity import key_sets
from app.live import followers, listener
from app.sharing import preparing, rate_limits
from app.web import endpoint, event_streams, health, probe, socket_protocol, sockets

# Seconds to wait for something that must not hang. Long enough not to decide any test.
PATIENCE_SECONDS = 240
# The server's own timeouts that a regular request may exceed when other processes use the CPU.
LIMITS: Mapping[ModuleType, Sequence[str]] = {
    connections: ["PATIENCE_SECONDS"],
    database: ["COMMAND_TIMEOUT"],
    event_streams: ["WRITE_SECONDS"],
    health: ["PATIENCE_SECONDS"],
    key_sets: ["FETCH_TIMEOUT"],
    listener: ["ECHO_SECONDS"],
    preparing: ["PATIENCE_SECONDS"],
    probe: ["PATIENCE", "WORKER_PATIENCE"],
    socket_protocol: ["HANDSHAKE_SECONDS"],
    rate_limits: ["PATIENCE_SECONDS"],
    followers: ["WATCHED_SECONDS"],
    sockets: ["INIT_SECONDS", "WRITE_SECONDS"],
}
PROMISED = {f"{module.__name__}.{name}": getattr(module, name) for module, names in LIMITS.items() for name in names}
"""Their values in production."""


def relax(patch: Callable[[Any, str, Any], None]) -> None:
    """Raise the timeouts with a function like `setattr`."""
    for module, names in LIMITS.items():
        for name in names:
            patch(module, name, float(PATIENCE_SECONDS))
    patch(endpoint, "PAUSE_SECONDS", 0.0)  # the pauses before rejections would add up
    limits = {"statement_timeout": f"{PATIENCE_SECONDS}s", "lock_timeout": f"{PATIENCE_SECONDS}s"}
    for module in (database, probe):
        patch(module, "SESSION", {**database.SESSION, **limits})


if __name__ in {"__main__", "__mp_main__"}:
    relax(setattr)
if __name__ == "__main__":
    cli.main()
