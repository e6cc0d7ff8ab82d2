"""Applies a subscriber's selection to a page of changes, which was read once for all subscribers of the user."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import orjson
from orjson import Fragment

from app.database.rendering import TYPE_NAME, Field, Selection
from app.entities.entity import Entity
from app.errors import BadUserInput
from app.live.followers import Change, Changes
from schema.engine.execution import Rendered

# A page with more bytes of JSON is delivered in parts: many clients do not accept messages of more than 1 MB.
MOST_BYTES = 500_000
# What was rendered of pages that are still in use, by selection.
_rendered: WeakKeyDictionary[Changes, dict[Selection, list[Fragment]]] = WeakKeyDictionary()


def shown(selection: Selection, page: Changes) -> list[Rendered]:
    """The selected fields of a page, or of parts of it. Rendered once for all subscribers with this selection."""
    known = _rendered.setdefault(page, {})
    if selection not in known:
        known[selection] = list(_parts(selection, page))
    return [Rendered(part) for part in known[selection]]


def _parts(selection: Selection, page: Changes) -> Iterator[Fragment]:
    text = orjson.dumps({entry.key: field_of_page(entry, selection, page) for entry in selection.fields})
    if len(text) <= MOST_BYTES or len(page.items) == 1:
        yield Fragment(text)
        return
    for half in page.halves():
        yield from _parts(selection, half)


def field_of_page(entry: Field, selection: Selection, page: Changes) -> Any:
    match entry.name:
        case "changes":
            members = {member.typename: member for member in entry.members}
            return [_selected(members[change[TYPE_NAME]], change) for change in page.items]
        case "token":
            return page.token
        case "upToDate":
            return not page.more
        case "fullSync":
            return page.full
    return selection.typename


def refuse_what_is_not_followed(entities: Sequence[Entity], selection: Selection) -> None:
    """Raise BadUserInput if a subscriber selects what changes do not contain: what rows show of other rows."""
    members = [member for entry in selection.entries("changes") for member in entry.members]
    for entity, member in product(entities, members):
        for entry in member.entries(entity.one):
            for name in _not_followed(entity, entry.inner):
                raise BadUserInput(f"`{name}` is not available in a subscription; query it after the change.")


def _not_followed(entity: Entity, selection: Selection) -> Iterator[str]:
    for one in selection.fields:
        related = entity.related.get(one.name)
        if related is not None and related.shows is None:
            yield one.name
        elif related is not None and related.shows is not None:
            yield from (inner.name for inner in one.inner.fields if inner.name in related.shows.related)


def _selected(selection: Selection, values: Change) -> dict[str, Any]:
    return {entry.key: _shown(entry, values[entry.name]) for entry in selection.fields}


def _shown(entry: Field, value: Any) -> Any:
    return value if entry.selection is None or value is None else _selected(entry.selection, value)
