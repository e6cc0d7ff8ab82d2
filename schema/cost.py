"""What an operation costs: the rows it may touch, as far as its arguments tell."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    FieldNode,
    GraphQLField,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    OperationDefinitionNode,
    ValueNode,
    VariableNode,
)

from app.tasks import DEFAULT_CHANGE_PAGE, DEFAULT_PAGE, LARGEST_CHANGE_PAGE, LARGEST_PAGE, MOST_AT_ONCE, MOST_CREATED

# The arguments that say how many rows a field touches, and the most they can be: beyond that the field itself refuses
# them, before it touches any.
ARGUMENTS = {"first": LARGEST_PAGE, "last": LARGEST_PAGE, "atMost": MOST_AT_ONCE, "inputs": MOST_CREATED}
LARGER = {("taskChanges", "first"): LARGEST_CHANGE_PAGE}
# What takes pages of a size that nobody is asked for: the subscription of this name, whose first page is charged.
PAGES = {"taskChanges": DEFAULT_CHANGE_PAGE}
# What counts all tasks of a user, and what that is worth in rows of a page.
COUNTS = {"totalCount", "taskStats"}
ROWS_OF_A_COUNT = 100
# How many values of the schema are worth a row.
VALUES_OF_A_ROW = 30
MOST_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Page:
    """A number of rows that variables decide: the largest that is given, or else the default, up to a most."""

    variables: tuple[str, ...]
    default: int
    most: int

    def rows(self, values: Mapping[str, Any]) -> int:
        given = [values[name] for name in self.variables if values.get(name) is not None]
        return min(max(map(_rows, given), default=self.default), self.most)


@dataclass(frozen=True, slots=True)
class Cost:
    """A number of rows, what variables add to it, and the defaults of these variables."""

    rows: int
    pages: tuple[tuple[Page, int], ...] = ()
    defaults: Mapping[str, Any] | None = None

    def of(self, variables: Mapping[str, Any] | None) -> int:
        """The rows with the variables of a request, which nobody has checked yet."""
        if not self.pages:
            return self.rows
        values = {**(self.defaults or {}), **(variables or {})}
        return self.rows + sum(page.rows(values) * times for page, times in self.pages)


def page(node: FieldNode, definition: GraphQLField) -> Page | int | None:
    """How often a field does what it does; None for one that has no say in it."""
    names = definition.args.keys() & ARGUMENTS.keys()
    if not names:
        return PAGES.get(node.name.value)
    most = max(LARGER.get((node.name.value, name), ARGUMENTS[name]) for name in names)
    given = [argument.value for argument in node.arguments or () if argument.name.value in names]
    known = [_rows(_value(value)) for value in given if not isinstance(value, VariableNode | NullValueNode)]
    variables = tuple(value.name.value for value in given if isinstance(value, VariableNode))
    default = min(max(known, default=_omitted(definition, names)), most)
    return Page(variables, default, most) if variables else default


def _omitted(definition: GraphQLField, names: Iterable[str]) -> int:
    """The rows of a field that is not told how many: as many as the schema says, or else a page."""
    declared = [definition.args[name].default_value for name in names]
    return max((value for value in declared if isinstance(value, int)), default=DEFAULT_PAGE)


def rows(shown: int, counts: int, values: int) -> int:
    """Rows, counts over all rows and values of the schema, in rows."""
    return shown + counts * ROWS_OF_A_COUNT + values // VALUES_OF_A_ROW


def largest(pages: Mapping[Page, int]) -> int:
    """What pages within a page are worth at most: their variables are not multiplied with one another."""
    return sum(times * page.most for page, times in pages.items())


def defaults(operation: OperationDefinitionNode, pages: Iterable[Page]) -> dict[str, Any]:
    """The defaults of the variables that decide about pages, as JSON."""
    names = {name for page in pages for name in page.variables}
    definitions = {node.variable.name.value: node.default_value for node in operation.variable_definitions or ()}
    return {name: _value(definitions[name]) for name in names if definitions.get(name)}


def _value(value: ValueNode | None) -> Any:
    """A literal as far as it tells a number of rows; no conversion of thousands of digits."""
    if isinstance(value, ListValueNode):
        return list(value.values)
    return int(value.value[:MOST_DIGITS]) if isinstance(value, IntValueNode) else None


def _rows(value: Any) -> int:
    """The rows that a value asks for, at least one; what is no number is refused later."""
    if isinstance(value, list):
        value = len(value)
    return int(min(max(value, 1), MOST_AT_ONCE)) if isinstance(value, int | float) else 1
