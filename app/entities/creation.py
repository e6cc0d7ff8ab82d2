"""Recognizes a repeated create by a hash of what was created, whatever has changed since."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson
from sqlalchemy import BigInteger, ColumnElement, bindparam, literal_column

from app.database.rendering import Columns
from app.entities.entity import Entity
from app.entities.naming import api_name

# The lowest byte of a hash. Rows with a hash of another format are compared as if they had none.
FORMAT = 1
HASH: ColumnElement[int] = bindparam("create_hash", type_=BigInteger)


def creation_hash(entity: Entity, content: Mapping[str, Any]) -> int:
    """The hash of a new row's content, as it is bound. Omitted fields, null and defaults make no difference."""
    members = {
        api_name(name): canonical(value) if (canonical := entity.contents[name].canonical) else value
        for name, value in content.items()
        if value is not None and value != entity.contents[name].default
    }
    digest = blake2b(orjson.dumps(members, option=orjson.OPT_SORT_KEYS), digest_size=6)
    return int.from_bytes(digest.digest()) << 8 | FORMAT


def has_hash(row: Columns) -> ColumnElement[bool]:
    """Whether a row has a hash of this format. Rows of other SQL clients and those made before have none."""
    byte: ColumnElement[int] = literal_column("256")
    return row.create_hash % byte == literal_column(str(FORMAT))
