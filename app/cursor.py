"""Opaque cursors: the place of a task in an order, made by the statement that reads it, checked before any SQL.

A cursor is base64url of six bytes of SHA-256 and a JSON array: the order's name, then the sort keys. The hash
covers the user's id: a damaged cursor and somebody else's are refused. It is no secret: a forged cursor would
only be a place to start reading one's own tasks.
"""

import base64
import hashlib
import json
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, LargeBinary, Text, cast, func, literal_column

from app.errors import BadUserInput
from app.statements import text_literal, user_id

HASH_BYTES = 6


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
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        seal, content = raw[:HASH_BYTES], raw[HASH_BYTES:]
        # Encoding it again refuses the other spellings that decoding lets pass.
        if _text(raw) != cursor or _seal(owner, content) != seal:
            raise ValueError
        name, *keys = json.loads(content)
    except (ValueError, TypeError, RecursionError):
        raise BadUserInput("The cursor is damaged, or comes from another user's list.") from None
    if name != order:
        raise BadUserInput("The cursor comes from a list in another order; use it with the orderBy it was made with.")
    return list(keys)


def sync_token(version: int, owner: UUID) -> str:
    """The clock of a user as an opaque token, sealed as cursors are."""
    content = str(version).encode()
    return _text(_seal(owner, content) + content)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _seal(owner: UUID, content: bytes) -> bytes:
    return hashlib.sha256(str(owner).encode() + content).digest()[:HASH_BYTES]
