"""Documents identified by id: persisted queries that clients register, or the trusted documents of a manifest."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import orjson

from app.errors import BadUserInput, PersistedQueryNotFound, PersistedQueryNotSupported, StartupError, UntrustedDocument
from app.sharing.caches import FairCache

# Optional prefix of ids that are hashes.
PREFIX = "sha256:"
# Total tokens of the stored documents of users. Those of anonymous callers have a store of their own, a part as large.
MOST_TOKENS = 200_000
ANONYMOUS_PART = 8
LEAST_TOKENS = 15
LONGEST_TOKEN = 50

# A document's text, and its number of tokens.
Kept = tuple[str, int]


class Documents(Protocol):
    """Finds the text of a request's document. `payer` identifies the caller."""

    def text(self, query: str | None, document_id: str | None, payer: str, *, is_user: bool) -> str: ...

    def keep(self, query: str, document_id: str, tokens: int, payer: str, *, is_user: bool) -> None: ...


class PersistedQueries:
    """Automatic persisted queries: after a document arrived with its hash, the hash alone is enough.

    Callers share the store fairly. Anonymous callers have their own store; a document in it that a user requests moves
    to the users' store.
    """

    def __init__(self) -> None:
        self._users = FairCache[str, Kept](MOST_TOKENS)
        self._anonymous = FairCache[str, Kept](MOST_TOKENS // ANONYMOUS_PART)

    def text(self, query: str | None, document_id: str | None, payer: str, *, is_user: bool) -> str:
        """The text of a document; PersistedQueryNotFound tells the client to send it with its hash."""
        if query is None:
            return self._found((document_id or "").removeprefix(PREFIX), payer, is_user=is_user)
        if document_id is not None and _sha256(query) != document_id.removeprefix(PREFIX):
            raise BadUserInput("The hash or documentId is not the SHA-256 of the query.")
        return query

    def keep(self, query: str, document_id: str, tokens: int, payer: str, *, is_user: bool) -> None:
        """Store a valid document that arrived with its hash."""
        key = document_id.removeprefix(PREFIX)
        is_known = self._users.peek(key) or self._anonymous.peek(key)
        if not is_known and not is_padded(query, tokens):
            store = self._users if is_user else self._anonymous
            store.put(key, (query, tokens), payer, weight(tokens))

    def _found(self, key: str, payer: str, *, is_user: bool) -> str:
        kept = self._users.get(key) or self._anonymous.get(key)
        if kept is None:
            raise PersistedQueryNotFound("PersistedQueryNotFound")
        if is_user and self._anonymous.drop(key):
            self._users.put(key, kept, payer, weight(kept[1]))
        return kept[0]


def weight(tokens: int) -> int:
    """The size of a document in a store: its tokens, whatever its padding."""
    return max(tokens, LEAST_TOKENS)


def is_padded(query: str, tokens: int) -> bool:
    """Whether a document is mostly comments and white space. It is not stored: it would use more than its `weight`."""
    return len(query) > LONGEST_TOKEN * weight(tokens)


class FullTexts:
    """Persisted queries are off: requests must contain the document."""

    def text(self, query: str | None, document_id: str | None, payer: str, *, is_user: bool) -> str:
        """The text of the request; PersistedQueryNotSupported tells the client to always send it."""
        if query is None:
            raise PersistedQueryNotSupported("PersistedQueryNotSupported")
        del document_id, payer, is_user
        return query

    def keep(self, query: str, document_id: str, tokens: int, payer: str, *, is_user: bool) -> None:
        """Store nothing."""


class TrustedDocuments:
    """The documents of a manifest, by their id or their exact text. All others are rejected."""

    def __init__(self, documents: Mapping[str, str]) -> None:
        self._documents = documents
        self._texts = frozenset(documents.values())

    def text(self, query: str | None, document_id: str | None, payer: str, *, is_user: bool) -> str:
        """The text of a document; raises UntrustedDocument if it is not in the manifest."""
        del payer, is_user
        known = self._documents.get(document_id or "") or self._documents.get((document_id or "").removeprefix(PREFIX))
        found = known if query is None else query
        if found not in self._texts:
            raise UntrustedDocument(
                "This server accepts only its trusted documents; the query or documentId is not among them."
            )
        return found

    def keep(self, query: str, document_id: str, tokens: int, payer: str, *, is_user: bool) -> None:
        """Store nothing: the manifest is fixed."""


def manifest(path: Path) -> dict[str, str]:
    """The documents of a file by id, as graphql-codegen's client preset writes them; StartupError if it is invalid."""
    try:
        documents = orjson.loads(path.read_bytes())
    except OSError as error:
        raise StartupError(f"TRUSTED_DOCUMENTS: {path} cannot be read: {error.strerror}.") from None
    except orjson.JSONDecodeError as error:
        raise StartupError(f"TRUSTED_DOCUMENTS: {path} is not JSON: {error}.") from None
    if not isinstance(documents, dict) or not all(isinstance(text, str) for text in documents.values()):
        raise StartupError(f"TRUSTED_DOCUMENTS: {path} must contain one JSON object that maps ids to documents.")
    return documents


def _sha256(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()
