"""Applies a subscriber's selection to a change, which was read once for all subscribers of the user."""

from collections.abc import Iterator, Mapping
from typing import Any

from app.database.rendering import Selection
from app.entities.entity import Entity
from app.errors import BadUserInput
from app.live.followers import Change


def shown(members: Mapping[str, Selection], change: Change) -> dict[str, Any]:
    """The selected fields of a change. `members` has the selection for each type of the union."""
    return _selected(members[change["__typename"]], change)


def refuse_what_is_not_followed(entity: Entity, member: Selection) -> None:
    """Raise BadUserInput if a subscriber selects what changes do not contain: what rows show of other rows."""
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


def _selected(selection: Selection, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        entry.key: _selected(entry.selection, values[entry.name]) if entry.selection else values[entry.name]
        for entry in selection.fields
    }
