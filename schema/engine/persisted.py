"""Documents that are known by an id: those that clients leave here, or those of a manifest and no others."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import orjson

from app.errors import BadUserInput, PersistedQueryNotFound, PersistedQueryNotSupported, StartupError, UntrustedDocument
from app.sharing.caches import FairCache

# Ids say how they were made where it is not plain: sha256:…
PREFIX = "sha256:"
# Of all documents that are kept; strangers have a part of that size for themselves.
MOST_TOKENS = 200_000
STRANGERS_PART = 8
LEAST_TOKENS = 15
LONGEST_TOKEN = 50

# A document's text, and how many tokens it has.
Kept = tuple[str, int]


class Documents(Protocol):
    """Finds the text of a request's document; `payer` tells callers apart."""

    def text(self, query: str | None, document_id: str | None, payer: str, *, is_user: bool) -> str: ...

    def keep(self, query: str, document_id: str, tokens: int, payer: str, *, is_user: bool) -> None: ...


class PersistedQueries:
    """Automatic persisted queries: a document that came with its hash can be asked for by the hash alone.

    Callers share fairly what is kept, and strangers have a store of their own, whose documents become a user's as soon
    as one asks for them.
    """

    def __init__(self) -> None:
        self._users = FairCache[str, Kept](MOST_TOKENS)
        self._strangers = FairCache[str, Kept](MOST_TOKENS // STRANGERS_PART)

    def text(self, query: str | None, document_id: str | None, payer: str, *, is_user: bool) -> str:
        """The text of a document; PersistedQueryNotFound asks the client to send it along."""
        if query is None:
            return self._found((document_id or "").removeprefix(PREFIX), payer, is_user=is_user)
        if document_id is not None and _sha256(query) != document_id.removeprefix(PREFIX):
            raise BadUserInput("The hash is not the SHA-256 of the query.")
        return query

    def keep(self, query: str, document_id: str, tokens: int, payer: str, *, is_user: bool) -> None:
        """Remember a document that came with its hash, and can run."""
        key = document_id.removeprefix(PREFIX)
        is_known = self._users.peek(key) or self._strangers.peek(key)
        if not is_known and not is_padded(query, tokens):
            store = self._users if is_user else self._strangers
            store.put(key, (query, tokens), payer, weight(tokens))

    def _found(self, key: str, payer: str, *, is_user: bool) -> str:
        kept = self._users.get(key) or self._strangers.get(key)
        if kept is None:
            raise PersistedQueryNotFound("PersistedQueryNotFound")
        if is_user and self._strangers.drop(key):
            self._users.put(key, kept, payer, weight(kept[1]))
        return kept[0]


def weight(tokens: int) -> int:
    """What a document weighs in a store: its tokens, and not the characters that it is padded with."""
    return max(tokens, LEAST_TOKENS)


def is_padded(query: str, tokens: int) -> bool:
    """Whether a document is mostly comments and blanks. It is not stored, where it would take more than it weighs."""
    return len(query) > LONGEST_TOKEN * weight(tokens)


class FullTexts:
    """No persisted queries: documents come as text alone."""

    def text(self, query: str | None, document_id: str | None, payer: str, *, is_user: bool) -> str:
        """The text as it came; PersistedQueryNotSupported lets the client send it from now on."""
        if query is None:
            raise PersistedQueryNotSupported("PersistedQueryNotSupported")
        del document_id, payer, is_user
        return query

    def keep(self, query: str, document_id: str, tokens: int, payer: str, *, is_user: bool) -> None:
        """Keep nothing."""


class TrustedDocuments:
    """The documents of a manifest, by their id or their exact text; everything else is refused."""

    def __init__(self, documents: Mapping[str, str]) -> None:
        self._documents = documents
        self._texts = frozenset(documents.values())

    def text(self, query: str | None, document_id: str | None, payer: str, *, is_user: bool) -> str:
        """The text of a document; UntrustedDocument for one that is not in the manifest."""
        del payer, is_user
        known = self._documents.get(document_id or "") or self._documents.get((document_id or "").removeprefix(PREFIX))
        found = known if query is None else query
        if found not in self._texts:
            raise UntrustedDocument("This server answers the operations of its manifest alone; this is none of them.")
        return found

    def keep(self, query: str, document_id: str, tokens: int, payer: str, *, is_user: bool) -> None:
        """Keep nothing: the manifest is all there is."""


def manifest(path: Path) -> dict[str, str]:
    """The documents of a file by their id, as graphql-codegen's client preset writes it; or a StartupError."""
    try:
        documents = orjson.loads(path.read_bytes())
    except OSError as error:
        raise StartupError(f"TRUSTED_DOCUMENTS: {path} cannot be read: {error.strerror}.") from None
    except orjson.JSONDecodeError as error:
        raise StartupError(f"TRUSTED_DOCUMENTS: {path} is not JSON: {error}.") from None
    if not isinstance(documents, dict) or not all(isinstance(text, str) for text in documents.values()):
        raise StartupError(f"TRUSTED_DOCUMENTS: {path} must be one JSON object of ids and documents.")
    return documents


def _sha256(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()
