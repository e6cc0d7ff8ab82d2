"""Opaque cursors and sync tokens: positions among a user's rows, checked before any SQL.

Both are base64url of a checksum, which is six bytes of SHA-256, followed by their content. A cursor contains a JSON
array: the name of the list and its order, then the sort keys. A sync token contains a clock and the word `all`; between
the pages of one sync, it contains the version of a row, its kind, its id, and the base. That of a copy with the trash
ends with the word `trash`.

The hash covers the user's id: a cursor that is damaged or belongs to another user is rejected, and such a token starts
from the beginning. The hash is not a secret: with a forged cursor or token, a caller still reads only their own rows.

Read statements compute them where they are shown, so a connection can be nested anywhere in a response.
"""

import base64
import json
import re
from binascii import b2a_base64
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, LargeBinary, Text, cast, func, literal_column

from app.database.statements import text_literal, user_id
from app.errors import BadUserInput

SEAL_BYTES = 6
_URL_SAFE = bytes.maketrans(b"+/", b"-_")

_POINT = re.compile(r"(?:new|(\d{1,10}) (?:all|([a-z]{1,20}) ([0-9a-f-]{36}) (\d{1,10})))( trash)?", re.ASCII)


class SyncPoint(NamedTuple):
    """The progress of a client's copy: it contains all writes up to `version`.

    Of the rows of that version, it contains those up to a row of this kind and id, or all of them if `row` is None. It
    contains no rows that were deleted permanently when the clock was at `base`, and unless it is a copy with the
    `trash`, none that were in the trash.
    """

    version: int
    row: tuple[str, UUID] | None
    base: int
    trash: bool = False

    @property
    def safe(self) -> int:
        """The clock up to which removals are harmless: the copy contains no row that was removed before that."""
        return max(self.base, self.version if self.row is None else self.version - 1)

    @property
    def latest(self) -> int:
        """The latest clock that the client has seen. The clock never goes back, unless the database is restored."""
        return max(self.base, self.version)


BEGINNING = SyncPoint(-1, None, -1)


def complete(version: ColumnElement[int], *, trash: bool) -> ColumnElement[str]:
    """The SQL of the content of a token for all writes up to a version."""
    return cast(version, Text).concat(text_literal(" all" + suffix(trash=trash)))


def suffix(*, trash: bool) -> str:
    """The end of the content of a token."""
    return " trash" if trash else ""


def sealed(content: ColumnElement[str]) -> ColumnElement[str]:
    """The SQL of a cursor or token from its content, which is evaluated twice. Takes about 5 microseconds."""
    held = func.convert_to(content, text_literal("UTF8"), type_=LargeBinary)
    checksum = func.sha256(func.uuid_send(user_id(), type_=LargeBinary).concat(held))
    size: ColumnElement[int] = literal_column(str(SEAL_BYTES))
    both = func.substr(checksum, literal_column("1"), size, type_=LargeBinary).concat(held)
    encoded: ColumnElement[str] = func.encode(both, text_literal("base64"), type_=Text)
    # translate() would do the same in one call, and take several times as long.
    for found, wanted in (("+", "-"), ("/", "_"), ("=", ""), ("\n", "")):
        encoded = func.replace(encoded, text_literal(found), text_literal(wanted), type_=Text)
    return encoded


def decoded(cursor: str, order: str, owner: UUID) -> list[Any]:
    """The sort keys in a cursor. Raises BadUserInput unless it was created for this order and user."""
    try:
        name, *keys = json.loads(_opened(cursor, owner))
    except (ValueError, TypeError, RecursionError):
        raise BadUserInput("The cursor is damaged, or belongs to another user.") from None
    if name != order:
        raise _of_another(str(name), order)
    return list(keys)


def _of_another(name: str, order: str) -> BadUserInput:
    wanted, made_for = order.partition(" ")[0], name.partition(" ")[0]
    if made_for == wanted:
        return BadUserInput("The cursor belongs to another order; use it with the orderBy that it was created with.")
    return BadUserInput(f"The cursor does not belong to the list `{wanted}`; use it with the field that returned it.")


def sync_token(version: int, owner: UUID) -> str:
    """A user's clock as an opaque sync token."""
    return _encoded(b"%d all" % version, owner)


def sync_token_with_trash(version: int, owner: UUID) -> str:
    """The same for copies with the trash."""
    return _encoded(b"%d all trash" % version, owner)


def first_token(owner: UUID, *, trash: bool) -> str:
    """The sync token of an empty copy."""
    return _encoded(f"new{suffix(trash=trash)}".encode(), owner)


def sync_point(token: str | None, owner: UUID) -> SyncPoint:
    """The position in a sync token of this user. The beginning if there is no token, or it is not valid."""
    try:
        found = token is not None and _POINT.fullmatch(_opened(token, owner).decode())
        if not found:
            return BEGINNING
        version, kind, row_id, base, trash = found.groups()
        if version is None:
            return BEGINNING._replace(trash=bool(trash))
        row = (kind, UUID(row_id)) if kind else None
        return SyncPoint(_clock(version), row, _clock(base or version), trash=bool(trash))
    except ValueError:
        return BEGINNING


def _clock(digits: str) -> int:
    if int(digits) >= 2**31:
        raise ValueError
    return int(digits)


def _opened(text: str, owner: UUID) -> bytes:
    """The content of a cursor or token. Raises ValueError unless it was created for this user."""
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    seal, content = raw[:SEAL_BYTES], raw[SEAL_BYTES:]
    # Decoding accepts several encodings of the same bytes; only the canonical one is valid.
    if _text(raw) != text or _seal(owner, content) != seal:
        raise ValueError
    return content


def _encoded(content: bytes, owner: UUID) -> str:
    return _text(_seal(owner, content) + content)


def _text(raw: bytes) -> str:
    return b2a_base64(raw, newline=False).translate(_URL_SAFE, b"=").decode()


def _seal(owner: UUID, content: bytes) -> bytes:
    return sha256(owner.bytes + content).digest()[:SEAL_BYTES]
