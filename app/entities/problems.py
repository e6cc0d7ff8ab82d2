"""Input errors that a form can show, and checks of single values before any SQL."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from app.errors import BadUserInput

_CANONICAL_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class Problem:
    """An error that a user can correct: a code of UserErrorCode, a message, and the path of the input field."""

    code: str
    message: str
    field: tuple[str, ...] | None = None


def storable(value: str, name: str) -> str:
    """Text that PostgreSQL can store. Raises BadUserInput with its path `name` for U+0000 and unpaired surrogates."""
    if "\0" in value:
        raise BadUserInput(f"{name} contains the character U+0000, which cannot be stored.", name)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadUserInput(f"{name} contains an unpaired surrogate; send valid Unicode.", name) from None
    return value


def utc(instant: datetime) -> str:
    """A time in UTC, as PostgreSQL accepts only offsets below 16 hours. OverflowError outside of years 1 to 9999."""
    return instant.astimezone(UTC).isoformat()


def too_long(what: str, text: str, most: int) -> Problem:
    return Problem("TOO_LONG", f"{what} has {len(text)} characters; the maximum is {most}.")
