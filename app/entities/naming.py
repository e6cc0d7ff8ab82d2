"""Converts names: columns use snake case, the API camel case, messages plain words."""

import re
from functools import cache


@cache
def api_name(name: str) -> str:
    """The API's name of a column or a Python attribute: `dueDate` for `due_date`, `and` for `and_`."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(word.capitalize() for word in rest)


@cache
def words(name: str) -> str:
    """A name of the API in words: `task list` for `taskList`."""
    return re.sub("[A-Z]", lambda letter: " " + letter[0].lower(), name)
