"""What the log shows of an error: its type and location. Its text may quote tokens, tasks or SQL."""

import logging
import traceback
from pathlib import Path
from typing import Any

from app.errors import RequestError

log = logging.getLogger(__name__)

MASKED = "Something went wrong here; it has been logged."
MOST_CALLS = 12
MOST_CAUSES = 5


def masked(error: BaseException, request_id: str) -> dict[str, Any]:
    """Log a bug, and return the GraphQL error for it."""
    log.error("request %s failed: %s", request_id, outline(error))
    return {"message": MASKED, "extensions": {"code": RequestError.code, "requestId": request_id}}


def outline(error: BaseException) -> str:
    """One line with the types of an error and its causes, and the calls that led to it, innermost first."""
    frames = list(traceback.walk_tb(error.__traceback__))[-MOST_CALLS:]
    calls = [f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}" for frame, line in frames]
    return f"{' from '.join(_types(error))} at {' < '.join(reversed(calls))}"


def _types(error: BaseException) -> list[str]:
    names: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(names) < MOST_CAUSES:
        names.append(type(cause).__name__)
        cause = cause.__cause__
    return names
