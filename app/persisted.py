"""Documents that are known by an id: those that clients leave here, or those of a manifest and no others."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import orjson

from app.errors import BadUserInput, PersistedQueryNotFound, PersistedQueryNotSupported, StartupError, UntrustedDocument

# Ids say how they were made where it is not plain: sha256:…
PREFIX = "sha256:"
MOST_TEXT = 1_000_000


class Documents(Protocol):
    """Finds the text of a request's document."""

    def text(self, query: str | None, document_id: str | None) -> str: ...

    def keep(self, query: str | None, document_id: str | None) -> None: ...


class PersistedQueries:
    """Automatic persisted queries: a document that came with its hash can be asked for by the hash alone.

    The store is bounded by the text it holds; what was not asked for longest goes first.
    """

    def __init__(self) -> None:
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._size = 0

    def text(self, query: str | None, document_id: str | None) -> str:
        """The text of a document; PersistedQueryNotFound asks the client to send it along."""
        if query is None:
            return self._found(document_id or "")
        if document_id is not None and _sha256(query) != document_id.removeprefix(PREFIX):
            raise BadUserInput("The hash is not the SHA-256 of the query.")
        return query

    def keep(self, query: str | None, document_id: str | None) -> None:
        """Remember a document that came with its hash, and can run."""
        if query is None or document_id is None or (key := document_id.removeprefix(PREFIX)) in self._texts:
            return
        self._texts[key] = query
        self._size += len(query)
        while self._size > MOST_TEXT:
            self._size -= len(self._texts.popitem(last=False)[1])

    def _found(self, document_id: str) -> str:
        key = document_id.removeprefix(PREFIX)
        if key not in self._texts:
            raise PersistedQueryNotFound("PersistedQueryNotFound")
        self._texts.move_to_end(key)
        return self._texts[key]


class FullTexts:
    """No persisted queries: documents come as text alone."""

    def text(self, query: str | None, document_id: str | None) -> str:
        """The text as it came; PersistedQueryNotSupported lets the client send it from now on."""
        if query is None:
            raise PersistedQueryNotSupported("PersistedQueryNotSupported")
        del document_id
        return query

    def keep(self, query: str | None, document_id: str | None) -> None:
        """Keep nothing."""


class TrustedDocuments:
    """The documents of a manifest, by their id or their exact text; everything else is refused."""

    def __init__(self, documents: Mapping[str, str]) -> None:
        self._documents = documents
        self._texts = frozenset(documents.values())

    def text(self, query: str | None, document_id: str | None) -> str:
        """The text of a document; UntrustedDocument for one that is not in the manifest."""
        known = self._documents.get(document_id or "") or self._documents.get((document_id or "").removeprefix(PREFIX))
        found = known if query is None else query
        if found not in self._texts:
            raise UntrustedDocument("This server answers the operations of its manifest alone; this is none of them.")
        return found

    def keep(self, query: str | None, document_id: str | None) -> None:
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
