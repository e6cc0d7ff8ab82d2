"""Negotiation of media types and encodings. Headers are parsed, with weights, instead of searched for substrings.

Clients send the same few headers with every request, so results are cached.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

JSON = "application/json"
GRAPHQL_JSON = "application/graphql-response+json"
HTML = "text/html"
EVENT_STREAM = "text/event-stream"

# Longer headers are truncated, which bounds the caches.
LONGEST = 500
REMEMBERED = 256

_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)
_UTF_8 = {"utf-8", "utf8", '"utf-8"'}


def preferred(accept: bytes, offered: tuple[str, ...]) -> str | None:
    """The offered type that an Accept header prefers; None if it allows none of them.

    With equal weights, a type that is named precedes one that matches a wildcard. Among named types the first offer
    wins, among those that match a wildcard JSON.
    """
    return _preferred(accept[:LONGEST], offered)


def names(accept: bytes, media_type: str) -> bool:
    """Whether an Accept header names a type, and does not merely match it with a wildcard."""
    return any(name == media_type and weight > 0 for name, weight, _ in _weighed(accept[:LONGEST]))


def is_json(content_type: bytes) -> bool:
    """Whether a Content-Type header is JSON in UTF-8."""
    return _is_json(content_type[:LONGEST])


def is_identity(content_encoding: bytes) -> bool:
    """Whether a Content-Encoding header means that the body is not encoded."""
    return {part.strip() for part in content_encoding.lower().split(b",")} <= {b"", b"identity"}


def takes_gzip(accept_encoding: bytes) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    return _takes_gzip(accept_encoding[:LONGEST])


@lru_cache(REMEMBERED)
def _preferred(accept: bytes, offered: tuple[str, ...]) -> str | None:
    ranges = {name: weight for name, weight, charset in _weighed(accept or b"*/*") if charset in _UTF_8}
    ranked = [(*_rank(ranges, name), -place, name) for place, name in enumerate(offered)]
    weight, *_, best = max(ranked)
    return best if weight else None


def _rank(ranges: dict[str, float], name: str) -> tuple[float, int, bool]:
    """The weight of a type, how specific the matching range is, and whether it is JSON matched by a wildcard."""
    for precision, media_range in ((2, name), (1, name.partition("/")[0] + "/*"), (0, "*/*")):
        if media_range in ranges:
            return ranges[media_range], precision, precision < 2 and name == JSON  # noqa: PLR2004 - named is 2
    return 0, 0, False


@lru_cache(REMEMBERED)
def _is_json(content_type: bytes) -> bool:
    return [(name, charset in _UTF_8) for name, _, charset in _weighed(content_type)] == [(JSON, True)]


@lru_cache(REMEMBERED)
def _takes_gzip(accept_encoding: bytes) -> bool:
    weights = {name: weight for name, weight, _ in _weighed(accept_encoding)}
    return weights.get("gzip", weights.get("*", 0)) > 0


def _weighed(header: bytes) -> Iterator[tuple[str, float, str]]:
    """The elements of a header in lower case: name, weight, and charset (UTF-8 by default).

    Commas within quotes are treated as separators; none of the offered types has such parameters.
    """
    for element in header.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in element.split(";"))
        given = {key.rstrip(): value.lstrip() for key, _, value in (part.partition("=") for part in parameters)}
        weight = given.get("q", "1")
        if name and _WEIGHT.fullmatch(weight):
            yield name, float(weight), given.get("charset", "utf-8")
