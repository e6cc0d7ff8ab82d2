"""Parses JSON from clients, with limits on what the values occupy: a list of two bytes takes eighty in memory."""

from typing import Any

import orjson

from app.errors import BadUserInput, LimitExceeded

# A request has at most a hundred inputs with a few lists each, and at most 5,000 values in its variables.
MOST_CONTAINERS = 1_000
MOST_VALUES = 6_000
# What a list or object is counted as, in bytes of text: it may take 250 bytes in memory, text three times its length.
BYTES_OF_A_CONTAINER = 80


def parse(text: bytes | bytearray | str, what: str) -> tuple[Any, int]:
    """The value of a JSON text, and its size: its length, with more for each list and object of a long text.

    `what` names the text in errors: BadUserInput, or LimitExceeded before anything is parsed.
    """
    size = len(text)
    if size > MOST_CONTAINERS:
        size += BYTES_OF_A_CONTAINER * _containers(text, what)
    try:
        return orjson.loads(text), size
    except orjson.JSONDecodeError:
        raise BadUserInput(f"{what} is not valid JSON.") from None


def _containers(text: bytes | bytearray | str, what: str) -> int:
    """The number of lists and objects. Raises LimitExceeded if there are too many of them, or too many values."""
    containers, values = _count(text)
    if containers > MOST_CONTAINERS or values > MOST_VALUES:
        containers, values = _count(_without_strings(text if isinstance(text, bytes | bytearray) else text.encode()))
    if containers > MOST_CONTAINERS:
        raise LimitExceeded(f"{what} has more than {MOST_CONTAINERS:,} lists and objects.")
    if values > MOST_VALUES:
        raise LimitExceeded(f"{what} has more than {MOST_VALUES:,} values.")
    return containers


def _count(text: Any) -> tuple[int, int]:
    """The number of lists and objects, and of values: each but the first of its list or object follows a comma.

    Brackets and commas in strings are counted too.
    """
    square, curly, comma = "[{," if isinstance(text, str) else (b"[", b"{", b",")
    containers = text.count(square) + text.count(curly)
    return containers, containers + text.count(comma)


def _without_strings(text: bytes | bytearray) -> bytes:
    """The text without its strings. The quotes of a string are those that are left without the escaped ones."""
    return b"".join(text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
