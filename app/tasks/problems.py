"""Checks of input before any SQL: problems a form can show, and text that nobody's form would send."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from app.errors import BadUserInput
from app.models import DESCRIPTION_LENGTH, MOST_TAGS, TAG_LENGTH, TITLE_LENGTH


@dataclass(frozen=True, slots=True)
class Problem:
    """Something the caller can mend: a code of the schema's UserErrorCode, a message, the path of the input field."""

    code: str
    message: str
    field: tuple[str, ...] | None = None


def storable(value: str, name: str) -> str:
    """Text that PostgreSQL can hold: no U+0000, no half of a surrogate pair."""
    if "\0" in value:
        raise BadUserInput(f"{name} holds the character U+0000, which cannot be stored.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadUserInput(f"{name} holds half of a surrogate pair; send valid Unicode.") from None
    return value


def utc(instant: datetime) -> str:
    """A moment in UTC: PostgreSQL knows no offset beyond 16 hours. OverflowError outside of years 1 to 9999."""
    return instant.astimezone(UTC).isoformat()


def cleaned(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes as they are bound: null clears to the empty value of its column, tags trimmed and unique.

    A day is text: the driver would read 9999-12-31 as infinity.
    """
    result = dict(changes)
    if "tags" in result:
        result["tags"] = list(dict.fromkeys(map(str.strip, result["tags"] or [])))
    if "priority" in result:
        result["priority"] = result["priority"] or 0
    if result.get("due_date"):
        result["due_date"] = result["due_date"].isoformat()
    return result


def problems(changes: Mapping[str, Any], path: tuple[str, ...] = ("input",)) -> list[Problem]:
    """What is wrong with changes, each bound to its input field; nothing when they can be cleaned and stored."""
    found: list[Problem] = []
    for name, check in _CHECKS.items():
        if name in changes and (wrong := check(changes[name])):
            found += [replace(problem, field=(*path, name, *(problem.field or ()))) for problem in wrong]
    return found


def _title(value: str | None) -> Sequence[Problem]:
    if value is None or not storable(value, "title").strip():
        return [Problem("BLANK", "The title must not be blank.")]
    return () if len(value) <= TITLE_LENGTH else [_too_long("The title", value, TITLE_LENGTH)]


def _description(value: str | None) -> Sequence[Problem]:
    if value is None or len(storable(value, "description")) <= DESCRIPTION_LENGTH:
        return ()
    return [_too_long("The description", value, DESCRIPTION_LENGTH)]


def _completed(value: bool | None) -> Sequence[Problem]:  # noqa: FBT001 - a column's value
    return [Problem("INVALID", "completed is true or false; omit it to keep it.")] if value is None else ()


def _tags(value: list[str] | None) -> Sequence[Problem]:
    tags = [storable(tag, "tags").strip() for tag in value or ()]
    wrong = [replace(problem, field=(str(place),)) for place, tag in enumerate(tags) for problem in _tag(tag)]
    if len(set(tags)) > MOST_TAGS:
        many = f"A task has at most {MOST_TAGS} tags; these are {len(set(tags))}."
        return [Problem("LIMIT_EXCEEDED", many), *wrong]
    return wrong


def _tag(tag: str) -> Sequence[Problem]:
    if not tag:
        return [Problem("BLANK", "A tag must not be blank.")]
    return () if len(tag) <= TAG_LENGTH else [_too_long("A tag", tag, TAG_LENGTH)]


def _too_long(what: str, text: str, most: int) -> Problem:
    return Problem("TOO_LONG", f"{what} has {len(text)} characters; the most is {most}.")


# What is wrong with a value, with the path within it.
_CHECKS: Mapping[str, Callable[[Any], Sequence[Problem]]] = {
    "title": _title,
    "description": _description,
    "completed": _completed,
    "tags": _tags,
}
