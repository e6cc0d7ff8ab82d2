"""Compiled statements take their values by name only."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import ColumnElement, Integer, bindparam, column, literal, literal_column, select

from app.database.rendering import Field, Selection
from app.database.statements import compiled
from app.entities.writing import Change, create, create_new
from app.models import TASKS
from app.tasks.fields import TASK

PAYLOAD = Selection("TaskPayload", (Field("task", "task", Selection("Task", (Field("id", "id"),))),))
NUMBER = column("number", Integer)
UNNAMED: dict[str, Callable[[], ColumnElement[Any]]] = {
    "a value compared with": lambda: NUMBER == 5,
    "a value of its own": lambda: literal(5),
    "a value in a function": lambda: TASKS.c.title.startswith("a"),
    "values of a list": lambda: NUMBER.in_([1, 2]),
    "a list with a name": lambda: NUMBER.in_(bindparam("numbers", expanding=True)),
    "no name": lambda: bindparam(None, type_=Integer),
    "a name and a value": lambda: bindparam("number", 5),
    "a value that is written into the text": lambda: bindparam("number", type_=Integer, literal_execute=True),
}


@pytest.mark.parametrize("unnamed", UNNAMED.values(), ids=UNNAMED)
def test_unnamed_parameters_are_rejected(unnamed: Callable[[], ColumnElement[Any]]) -> None:
    """Otherwise such a value would be missing, or stay the first one, in later executions."""
    with pytest.raises(ValueError, match="not bound by a name"):
        compiled(select(unnamed()))


def test_named_parameters_stand_in_their_order() -> None:
    """A repeated name is one parameter, and literal columns are none."""
    first, second = bindparam("first", type_=Integer), bindparam("second", type_=Integer)
    statement = compiled(select(second, first + second, literal_column("1")))

    assert statement.arguments({"first": 1, "second": 2, "third": 3}) == [2, 1]
    assert "$1" in statement.text
    assert "$2" in statement.text


def test_a_create_has_other_forms() -> None:
    """A create that begins its write itself names its forms for a retry and for a cluster."""
    change = Change("create new", ("title",))
    new, other = create_new(TASK, PAYLOAD, change), create(TASK, PAYLOAD, change)

    assert new.after_loss is not None
    assert new.after_loss.text == other.text
    assert new.creation is not None
    assert other.after_loss is None
    assert other.creation is not None
