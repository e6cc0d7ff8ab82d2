"""Opaque cursors and sync tokens: places among a user's rows, made by what reads them, checked before any SQL.

Both are base64url of six bytes of SHA-256 and what they hold. A cursor holds a JSON array: the name of the list and its
order, then the sort keys. A sync token holds a clock; between the pages of one sync it is a row's last write, its id,
and the base.
The hash covers the user's id: a cursor that is damaged or somebody else's is refused, and such a token leads to the
beginning. It is no secret: a forgery would only be a place to start reading one's own tasks.
"""

import base64
import hashlib
import json
import re
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, LargeBinary, Text, cast, func, literal_column

from app.database.statements import text_literal, user_id
from app.errors import BadUserInput

HASH_BYTES = 6
LAST_ID = UUID(int=2**128 - 1)

_POINT = re.compile(r"(\d{1,10})(?: ([0-9a-f-]{36}) (\d{1,10}))?", re.ASCII)


class SyncPoint(NamedTuple):
    """How far a copy of a user's rows has come: all writes up to this one, of this row, are in it.

    It has nothing of what was in the trash when the clock stood at `base`.
    """

    version: int
    row_id: UUID
    base: int

    @property
    def safe(self) -> int:
        """The clock up to which purges remove nothing that the copy has, and was not told of."""
        return max(self.base, self.version if self.row_id == LAST_ID else self.version - 1)

    @property
    def latest(self) -> int:
        """What the user's clock has shown; it never goes back, but with the whole database."""
        return max(self.base, self.version)


BEGINNING = SyncPoint(-1, UUID(int=0), -1)


def content(order: str, keys: list[ColumnElement[Any]]) -> ColumnElement[str]:
    """The SQL of what the cursor of a row holds: cheap, and made for each row of a page."""
    return cast(func.json_build_array(text_literal(order), *keys), Text)


def sealed(held: ColumnElement[str]) -> ColumnElement[str]:
    """The SQL of a cursor from what it holds: some 6 microseconds, and made for what is shown alone."""
    content = func.convert_to(held, text_literal("UTF8"), type_=LargeBinary)
    seal = func.sha256(func.convert_to(cast(user_id(), Text), text_literal("UTF8"), type_=LargeBinary).concat(content))
    size: ColumnElement[int] = literal_column(str(HASH_BYTES))
    both = func.substr(seal, literal_column("1"), size, type_=LargeBinary).concat(content)
    base64_text = func.encode(both, text_literal("base64"))
    unwanted = text_literal("+/=").concat(func.chr(literal_column("10")))
    return func.translate(base64_text, unwanted, text_literal("-_"), type_=Text)


def decoded(cursor: str, order: str, owner: UUID) -> list[Any]:
    """The sort keys in a cursor of this order and user; BadUserInput for anything else."""
    try:
        name, *keys = json.loads(_opened(cursor, owner))
    except (ValueError, TypeError, RecursionError):
        raise BadUserInput("The cursor is damaged, or comes from another user's list.") from None
    if name != order:
        raise _of_another(str(name), order)
    return list(keys)


def _of_another(name: str, order: str) -> BadUserInput:
    wanted, made_for = order.partition(" ")[0], name.partition(" ")[0]
    if made_for == wanted:
        return BadUserInput("The cursor comes from a list in another order; use it with the orderBy it was made with.")
    return BadUserInput(f"The cursor does not come from the list `{wanted}`; use it with the field it was made by.")


def sync_token(version: int, owner: UUID) -> str:
    """The clock of a user as an opaque token, sealed as cursors are."""
    content = str(version).encode()
    return _text(_seal(owner, content) + content)


def sync_point(token: str | None, owner: UUID) -> SyncPoint:
    """The place that a token of this user holds; the beginning without one, and for whatever is no such token."""
    try:
        found = token is not None and _POINT.fullmatch(_opened(token, owner).decode())
        if not found:
            return BEGINNING
        version, row, base = found.groups()
        return SyncPoint(_clock(version), UUID(row) if row else LAST_ID, _clock(base or version))
    except ValueError:
        return BEGINNING


def _clock(digits: str) -> int:
    if int(digits) >= 2**31:
        raise ValueError
    return int(digits)


def _opened(text: str, owner: UUID) -> bytes:
    """What a cursor or token of this user holds; ValueError for anything else."""
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    seal, content = raw[:HASH_BYTES], raw[HASH_BYTES:]
    # Encoding it again refuses the other spellings that decoding lets pass.
    if _text(raw) != text or _seal(owner, content) != seal:
        raise ValueError
    return content


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _seal(owner: UUID, content: bytes) -> bytes:
    return hashlib.sha256(str(owner).encode() + content).digest()[:HASH_BYTES]
