"""Applies a subscriber's selection to a change, which was read once for all subscribers of the user."""

from collections.abc import Mapping
from typing import Any

from app.database.rendering import Selection
from app.live.followers import Change


def shown(members: Mapping[str, Selection], change: Change) -> dict[str, Any]:
    """The selected fields of a change. `members` has the selection for each type of the union."""
    return _selected(members[change["__typename"]], change)


def _selected(selection: Selection, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        entry.key: _selected(entry.selection, values[entry.name]) if entry.selection else values[entry.name]
        for entry in selection.fields
    }
