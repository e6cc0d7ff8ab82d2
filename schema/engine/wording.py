"""The wording of errors about invalid values: graphql-core shows values in Python's notation, callers get JSON."""

import re
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

import orjson
from graphql import GraphQLError, GraphQLInputType, GraphQLSchema, Undefined, VariableDefinitionNode, type_from_ast
from graphql.pyutils import inspect
from graphql.utilities import validate_input_value

# The maximum length of a value quoted in a message, and of a message, in characters.
LONGEST_SHOWN = 100
LONGEST_MESSAGE = 500
_LONG_WORD = re.compile(rf"([^\s'\"]{{{LONGEST_SHOWN}}})[^\s'\"…]+…?")
_NOT_NULL = " not to be None."


def null(message: str) -> str:
    """A message of graphql-core with "null" in place of Python's "None"."""
    return message.removesuffix(_NOT_NULL) + " not to be null." if message.endswith(_NOT_NULL) else message


def short(message: str) -> str:
    """A message in which long names and values of the request are truncated."""
    if len(message) <= LONGEST_SHOWN:
        return message
    message = _LONG_WORD.sub(r"\1…", message)
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}…"


def show_as_json(errors: list[GraphQLError], schema: GraphQLSchema, given: Mapping[str, Any]) -> None:
    """Reword graphql-core's errors about variables, each of which ends with the invalid value."""
    places: dict[str, Iterator[list[str | int]]] = {}
    for error in errors:
        node = error.nodes[0] if error.nodes else None
        if isinstance(node, VariableDefinitionNode) and error.original_error is not None:
            name = node.variable.name.value
            value = given.get(name, Undefined)
            if name not in places:
                places[name] = iter(_places(value, type_from_ast(schema, node.type)))
            error.message = _reworded(error.message, reduce(lambda part, key: part[key], next(places[name]), value))


def _places(value: Any, type_: Any) -> list[list[str | int]]:
    """The paths of invalid values, in the order of graphql-core's errors."""
    found: list[list[str | int]] = []
    input_type: GraphQLInputType = type_
    validate_input_value(value, input_type, lambda _error, path: found.append(path), hide_suggestions=True)
    return found


def _reworded(message: str, value: Any) -> str:
    before, shown, after = message.rpartition(inspect(value))
    return before + _json(value) + after if shown and after in {"", "."} else message


def _json(value: Any) -> str:
    try:
        text = orjson.dumps(value).decode()
    except TypeError:  # nested too deeply for orjson
        return "a deeply nested value"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
