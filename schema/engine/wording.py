"""Errors about invalid variables: in the words of the API, each with the field of the input that it is about.

graphql-core shows values in Python's notation, callers get JSON.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import reduce
from typing import Any

import orjson
from graphql import (
    FieldNode,
    GraphQLError,
    GraphQLInputType,
    GraphQLSchema,
    ListValueNode,
    Node,
    ObjectValueNode,
    OperationDefinitionNode,
    Undefined,
    ValueNode,
    VariableDefinitionNode,
    VariableNode,
    type_from_ast,
)
from graphql.execution.values import input_is_nested_too_deeply
from graphql.language.visitor import Visitor, visit
from graphql.pyutils import inspect
from graphql.utilities import validate_input_value

# The maximum length of a value quoted in a message, and of a message, in characters.
LONGEST_SHOWN = 100
LONGEST_MESSAGE = 500
_LONG_WORD = re.compile(rf"([^\s'\"]{{{LONGEST_SHOWN}}})[^\s'\"…]+…?")
_NOT_NULL = " not to be None."
# Errors of an object about one of its fields. graphql-core reports them with the path of the object.
_OF_A_FIELD = re.compile(
    r"Expected value of type '\w+!?' (?:to include required|not to include unknown) field '(.*?)',"
)

Path = tuple[str | int, ...]


def null(message: str) -> str:
    """A message of graphql-core with "null" in place of Python's "None"."""
    return message.removesuffix(_NOT_NULL) + " not to be null." if message.endswith(_NOT_NULL) else message


def short(message: str) -> str:
    """A message in which long names and values of the request are truncated."""
    if len(message) <= LONGEST_SHOWN:
        return message
    message = _LONG_WORD.sub(r"\1…", message)
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}…"


def explain(
    errors: list[GraphQLError],
    schema: GraphQLSchema,
    operation: OperationDefinitionNode,
    fragments: Iterable[Node],
    given: Mapping[str, Any],
) -> None:
    """Reword graphql-core's errors about variables, and add the field that each is about to its extensions."""
    uses = _uses([operation, *fragments])
    places: dict[str, Iterator[tuple[Path, Path]]] = {}
    for error in errors:
        definition = error.nodes[0] if error.nodes else _unnamed(operation, schema, given, places)
        if not isinstance(definition, VariableDefinitionNode):
            continue
        name = definition.variable.name.value
        value = given.get(name, Undefined)
        if name not in places:
            places[name] = iter(_places(value, type_from_ast(schema, definition.type)))
        at, found = next(places[name], (Path(), Path()))
        if error.original_error is not None:
            error.message = _reworded(error.message, reduce(lambda part, key: part[key], at, value))
        error.extensions = {"field": ".".join(map(str, (*uses.get(name, (name,)), *found)))}


class _Uses(Visitor):
    """The places of variables in the arguments of fields: the first one of each variable."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Path] = {}

    def enter_field(self, node: FieldNode, *_args: Any) -> None:
        for argument in node.arguments or ():
            self._visit(argument.value, (argument.name.value,))

    def _visit(self, value: ValueNode, path: Path) -> None:
        match value:
            case VariableNode():
                self.found.setdefault(value.name.value, path)
            case ObjectValueNode():
                for field in value.fields:
                    self._visit(field.value, (*path, field.name.value))
            case ListValueNode():
                for place, item in enumerate(value.values):
                    self._visit(item, (*path, place))


def _uses(nodes: Iterable[Node]) -> dict[str, Path]:
    uses = _Uses()
    for node in nodes:
        visit(node, uses)
    return uses.found


def _unnamed(
    operation: OperationDefinitionNode, schema: GraphQLSchema, given: Mapping[str, Any], named: Container[str]
) -> VariableDefinitionNode | None:
    """The variable of an error that does not name it: of a value with several fields of a @oneOf input, or too deep."""
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        if name in given and name not in named and _places(given[name], type_from_ast(schema, definition.type)):
            return definition
    return None


def _places(value: Any, type_: Any) -> list[tuple[Path, Path]]:
    """The paths of invalid values and of the fields that are wrong, in the order of graphql-core's errors.

    They differ if a field is missing or unknown: the invalid value is then the object.
    """
    found: list[tuple[Path, Path]] = []
    if input_is_nested_too_deeply(value, type_):
        return [(Path(), Path())]

    def note(error: GraphQLError, path: list[str | int]) -> None:
        of_field = _OF_A_FIELD.match(error.message)
        found.append((tuple(path), (*path, of_field[1]) if of_field else tuple(path)))

    input_type: GraphQLInputType = type_
    validate_input_value(value, input_type, note, hide_suggestions=True)
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
