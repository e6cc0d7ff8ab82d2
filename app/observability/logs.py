"""The log: readable lines on a terminal, JSON everywhere else. It contains no text written by callers."""

import asyncio
import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import Processor

from app.observability.masking import outline
from app.settings import Settings

OURS = ("app", "schema", "migrations")
FLUSH_SECONDS = 0.1
# The size of an atomic write to a pipe (PIPE_BUF), so that lines of several processes never interleave.
MOST_AT_ONCE = 4096

Entry = MutableMapping[str, Any]


def configure(settings: Settings) -> None:
    """Log to stderr: TaskQL's own messages from LOG_LEVEL, those of libraries from warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(settings))
    logging.basicConfig(handlers=[handler], level=max(_level(settings), logging.WARNING), force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(_level(settings))


class RequestLog:
    """A line for each request. Lines are written in batches every tenth of a second, as each write is expensive."""

    def __init__(self, settings: Settings) -> None:
        self._level, self._people = _level(settings), _is_for_people(settings)
        self._waiting: list[bytes] = []
        self._size = 0

    def has(self, level: int) -> bool:
        """Whether lines of this level are logged."""
        return level >= self._level

    def write(self, level: int, event: str, fields: Entry) -> None:
        entry = {"timestamp": datetime.now(UTC), "level": logging.getLevelName(level).lower(), "event": event, **fields}
        line = _coloured(entry) if self._people else orjson.dumps(entry, option=_LINE)
        if self._size + len(line) > MOST_AT_ONCE:
            self.flush()
        if not self._waiting:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        self._waiting.append(line)
        self._size += len(line)

    def flush(self) -> None:
        """Write the pending lines. A failure is ignored: it must not fail a request."""
        waiting, self._waiting, self._size = self._waiting, [], 0
        with suppress(OSError, ValueError):
            sys.stderr.buffer.write(b"".join(waiting))
            sys.stderr.buffer.flush()


_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
_console = structlog.dev.ConsoleRenderer(pad_event_to=0)


def _coloured(entry: Entry) -> bytes:
    shown = {**entry, "timestamp": f"{entry['timestamp']:%H:%M:%S}"}
    return f"{_console(None, '', shown)}\n".encode()


def _formatter(settings: Settings) -> ProcessorFormatter:
    people = _is_for_people(settings)
    time = structlog.processors.TimeStamper("%H:%M:%S" if people else "iso", utc=True)
    before: list[Processor] = [time, structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, _masked]
    renderer: Processor = _console if people else structlog.processors.JSONRenderer(_json)
    return ProcessorFormatter(
        foreign_pre_chain=before, processors=[ProcessorFormatter.remove_processors_meta, renderer]
    )


def _masked(_logger: object, _method: str, entry: Entry) -> Entry:
    """Reduce errors to type and location, and messages of libraries to the first line: others may quote an error."""
    error = entry.pop("exc_info", None)
    if not str(entry["logger"]).startswith(OURS):
        entry["event"] = str(entry["event"]).partition("\n")[0]
    if isinstance(error, tuple) and error[1] is not None:
        entry["error"] = outline(error[1])
    return entry


def _json(entry: Entry, **_options: object) -> str:
    return orjson.dumps(entry, default=str).decode()


def _is_for_people(settings: Settings) -> bool:
    return settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())


def _level(settings: Settings) -> int:
    return logging.getLevelNamesMapping()[settings.log_level.upper()]
