"""Lists of tasks: the fields of a list, each declared once."""

import re
from collections.abc import Sequence

from sqlalchemy import Text, collate, func

from app.database.rendering import json_or_null, json_text
from app.entities.entity import Content, Entity, Field, SortKey
from app.entities.kinds import fields_of_rows, text_value
from app.entities.problems import Problem, storable, too_long
from app.models import CLOCKS, CONTROL, ICON_LENGTH, LIST_NAME_LENGTH, LISTS
from app.tasks.fields import LISTED

_CONTROL = re.compile(f"[{CONTROL}]")


def _line(value: str, name: str, most: int) -> Sequence[Problem]:
    """The problems of a text of one line, which is not blank."""
    if not storable(value, name).strip():
        return [Problem("BLANK", f"The {name} must not be blank.")]
    if len(value) > most:
        return [too_long(f"The {name}", value, most)]
    if _CONTROL.search(value):
        return [Problem("INVALID", f"The {name} must not contain line breaks or control characters.")]
    return ()


def _name(value: str | None) -> Sequence[Problem]:
    return _line(value or "", "name", LIST_NAME_LENGTH)


def _icon(value: str | None) -> Sequence[Problem]:
    return () if value is None else _line(value, "icon", ICON_LENGTH)


LIST = Entity(
    type_name="TaskList",
    one="list",
    many="lists",
    table=LISTS,
    counter=CLOCKS.c.lists,
    declared=(
        *fields_of_rows(LISTS, by_time=False),
        Field(
            LISTS.c.name,
            json_text,
            Content(Text(), check=_name),
            # Ignores case and accents. A user has few lists, so it needs no index.
            SortKey(collate(func.search_key(LISTS.c.name), "C"), Text(), text_value),
        ),
        Field(LISTS.c.icon, json_or_null, Content(Text(), check=_icon)),
    ),
    order=("POSITION", False),
    container=LISTED,
)
