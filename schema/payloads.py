"""The payloads of mutations: PostgreSQL renders the rows, this module adds the other selected fields."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from orjson import Fragment

from app.database.rendering import TYPE_NAME, Field, Selection
from app.entities.cursors import sync_token
from app.entities.problems import Problem
from app.entities.repository import Written
from schema.engine.execution import Rendered


def payload(selection: Selection, written: Written, owner: UUID) -> Rendered:
    """The payload of a mutation of one row or of several."""
    return Rendered({entry.key: _payload_field(entry, selection, written, owner) for entry in selection.fields})


def results(selection: Selection, writes: Sequence[tuple[str, Written]], owner: UUID) -> Rendered:
    """The results of a batch of writes, each with the name of the mutation."""
    shown = [
        payload(selection, written._replace(problems=_in_batch(written.problems, str(place), name)), owner).value
        for place, (name, written) in enumerate(writes)
    ]
    return Rendered(shown)


def _in_batch(problems: Sequence[Problem], place: str, name: str) -> list[Problem]:
    """Problems with paths from the argument of the batch. A create is its own `input`."""
    first = 1 if name.startswith("create") else 0
    return [replace(one, field=("writes", place, name, *(one.field or ())[first:])) for one in problems]


def _payload_field(entry: Field, selection: Selection, written: Written, owner: UUID) -> Any:
    if entry.selection is not None and entry.name != "userErrors":
        return Fragment(written.shown.get(entry.key) or written.absent)
    match entry.name:
        case "userErrors":
            return [_error(entry.inner, problem) for problem in written.problems]
        case "affectedCount":
            return written.affected
        case "token":
            return None if written.version is None else sync_token(written.version, owner)
    return selection.typename


def _error(selection: Selection, problem: Problem) -> dict[str, Any]:
    values = {"code": problem.code, "message": problem.message, "field": problem.field, TYPE_NAME: selection.typename}
    return {entry.key: values[entry.name] for entry in selection.fields}
