"""Media types and encodings as HTTP negotiates them: parsed and weighed, never searched for.

Clients send the same few headers with every request, so each answer is remembered.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

JSON = "application/json"
GRAPHQL_JSON = "application/graphql-response+json"
HTML = "text/html"
EVENT_STREAM = "text/event-stream"

# A longer header is cut off: what is remembered of strangers stays small.
LONGEST = 500
REMEMBERED = 256

_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)
_UTF_8 = {"utf-8", "utf8", '"utf-8"'}


def preferred(accept: bytes, offered: tuple[str, ...]) -> str | None:
    """The offered type that an Accept header likes best, None where it takes none of them.

    Among equals a type that is named goes before one that only a wildcard covers; among named ones the earlier offer
    wins, among covered ones JSON.
    """
    return _preferred(accept[:LONGEST], offered)


def names(accept: bytes, media_type: str) -> bool:
    """Whether an Accept header takes a type by its name, not by a wildcard."""
    return any(name == media_type and weight > 0 for name, weight, _ in _weighed(accept[:LONGEST]))


def is_json(content_type: bytes) -> bool:
    """Whether a Content-Type header says JSON in UTF-8."""
    return _is_json(content_type[:LONGEST])


def is_identity(content_encoding: bytes) -> bool:
    """Whether a Content-Encoding header says that the body comes as it is."""
    return {part.strip() for part in content_encoding.lower().split(b",")} <= {b"", b"identity"}


def takes_gzip(accept_encoding: bytes) -> bool:
    """Whether an Accept-Encoding header takes gzip."""
    return _takes_gzip(accept_encoding[:LONGEST])


@lru_cache(REMEMBERED)
def _preferred(accept: bytes, offered: tuple[str, ...]) -> str | None:
    ranges = {name: weight for name, weight, charset in _weighed(accept or b"*/*") if charset in _UTF_8}
    ranked = [(*_rank(ranges, name), -place, name) for place, name in enumerate(offered)]
    weight, *_, best = max(ranked)
    return best if weight else None


def _rank(ranges: dict[str, float], name: str) -> tuple[float, int, bool]:
    """Weight, how exactly the name was meant, and whether JSON is what to send to whom all is one."""
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
    """The elements of a header in lower case: name, weight, and charset, which is UTF-8 unless told otherwise.

    Commas within quotes are not told apart; no type of ours has such parameters.
    """
    for element in header.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in element.split(";"))
        given = {key.rstrip(): value.lstrip() for key, _, value in (part.partition("=") for part in parameters)}
        weight = given.get("q", "1")
        if name and _WEIGHT.fullmatch(weight):
            yield name, float(weight), given.get("charset", "utf-8")
