"""Limits of time that a busy machine does not reach. Run as a program it is `taskql` with these, its workers too."""

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from app import cli
from app.database import connections, database
from app.identity import key_sets
from app.live import followers, listener
from app.sharing import preparing, rate_limits
from app.web import endpoint, event_streams, health, probe, protocols, sockets

# For what must not hang, in seconds: so long that it decides no test.
PATIENCE_SECONDS = 240
# Of the server's own limits, those that an honest request may exceed where other processes take the CPU.
LIMITS: Mapping[ModuleType, Sequence[str]] = {
    connections: ["PATIENCE_SECONDS"],
    database: ["COMMAND_TIMEOUT"],
    event_streams: ["WRITE_SECONDS"],
    health: ["PATIENCE_SECONDS"],
    key_sets: ["FETCH_TIMEOUT"],
    listener: ["ECHO_SECONDS"],
    preparing: ["PATIENCE_SECONDS"],
    probe: ["PATIENCE", "WORKER_PATIENCE"],
    protocols: ["HANDSHAKE_SECONDS"],
    rate_limits: ["PATIENCE_SECONDS"],
    followers: ["WATCHED_SECONDS"],
    sockets: ["INIT_SECONDS", "WRITE_SECONDS"],
}
PROMISED = {f"{module.__name__}.{name}": getattr(module, name) for module, names in LIMITS.items() for name in names}
"""What they are outside of tests."""


def relax(patch: Callable[[Any, str, Any], None]) -> None:
    """Set the limits, in the way of `setattr`."""
    for module, names in LIMITS.items():
        for name in names:
            patch(module, name, float(PATIENCE_SECONDS))
    patch(endpoint, "PAUSE_SECONDS", 0.0)  # refusals make callers wait, which would add up
    limits = {"statement_timeout": f"{PATIENCE_SECONDS}s", "lock_timeout": f"{PATIENCE_SECONDS}s"}
    for module in (database, probe):
        patch(module, "SESSION", {**database.SESSION, **limits})


if __name__ in {"__main__", "__mp_main__"}:
    relax(setattr)
if __name__ == "__main__":
    cli.main()
