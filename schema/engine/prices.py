"""What an operation costs before it runs: an estimate in rows, from its fields and arguments.

What it then takes is measured, and charged as time (app.sharing.rate_limits).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    FieldNode,
    GraphQLField,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    ValueNode,
    VariableNode,
)

from app.entities.repository import (
    DEFAULT_CHANGE_PAGE,
    DEFAULT_PAGE,
    LARGEST_CHANGE_PAGE,
    LARGEST_PAGE,
    MOST_AT_ONCE,
    MOST_CREATED,
)
from app.tasks.fields import TASK

ENTITIES = (TASK,)

# The arguments that say how many rows a field touches, and the most they can be: beyond that the field itself refuses
# them, before it touches any.
ARGUMENTS = {"first": LARGEST_PAGE, "last": LARGEST_PAGE, "atMost": MOST_AT_ONCE, "inputs": MOST_CREATED}
# The queries and subscriptions of changes. A query may ask for larger pages than other fields; a subscription takes
# pages of a size that nobody is asked for, of which the first is charged.
FEEDS = {f"{entity.one}Changes" for entity in ENTITIES}
LARGER = {(feed, "first"): LARGEST_CHANGE_PAGE for feed in FEEDS}
PAGES = dict.fromkeys(FEEDS, DEFAULT_CHANGE_PAGE)
# What counts all tasks of a user, and what that is worth in rows of a page.
COUNTS = {"totalCount", "taskStats"}
ROWS_OF_A_COUNT = 100
# How many values of the schema are worth a row: its answer is made once.
VALUES_OF_A_ROW = 1000
# The arguments that hold conditions and orders. Every node of a filter costs a row, and these cost more: a search looks
# at every task, the others at more tasks than they show.
FILTERS, ORDER = ("filter", "where"), "orderBy"
ROWS_OF = {"search": 100, "tagsAll": 20, "tagsAny": 20, "or": 20}
# An order that no index has sorts all tasks.
ROWS_OF_A_SORT = 100
SORT_KEYS = [key for entity in ENTITIES for key in entity.sort_keys.items()]
INDEXED = {name for name, key in SORT_KEYS if key.indexed} - {name for name, key in SORT_KEYS if not key.indexed}
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
class Argument:
    """A filter or an order whose value, or a part of it, is a variable's."""

    name: str
    node: ValueNode

    def rows(self, values: Mapping[str, Any]) -> int:
        return _argument_rows(self.name, _literal(self.node, values))


@dataclass(frozen=True, slots=True)
class Cost:
    """A number of rows, what variables add to it, and the defaults of these variables."""

    rows: int
    pages: tuple[tuple[Page, int], ...] = ()
    arguments: tuple[Argument, ...] = ()
    defaults: Mapping[str, Any] | None = None

    def of(self, variables: Mapping[str, Any] | None) -> int:
        """The rows with the variables of a request, which nobody has checked yet."""
        if not self.pages and not self.arguments:
            return self.rows
        values = {**(self.defaults or {}), **(variables or {})}
        rows = self.rows + sum(page.rows(values) * times for page, times in self.pages)
        return rows + sum(argument.rows(values) for argument in self.arguments)


def page(node: FieldNode, definition: GraphQLField) -> Page | int | None:
    """How often a field does what it does; None for one that has no say in it."""
    names = definition.args.keys() & ARGUMENTS.keys()
    if not names:
        return PAGES.get(node.name.value)
    most = max(LARGER.get((node.name.value, name), ARGUMENTS[name]) for name in names)
    given = [argument.value for argument in node.arguments or () if argument.name.value in names]
    known = [_rows(_literal(value, {})) for value in given if not isinstance(value, VariableNode | NullValueNode)]
    variables = tuple(value.name.value for value in given if isinstance(value, VariableNode))
    default = min(max(known, default=_omitted(definition, names)), most)
    return Page(variables, default, most) if variables else default


def conditions(node: FieldNode) -> tuple[int, list[Argument]]:
    """The rows of a field's filters and orders, and those that variables decide about."""
    rows, open_ = 0, list[Argument]()
    for argument in node.arguments or ():
        if (name := argument.name.value) in FILTERS or name == ORDER:
            if _has_variable(argument.value):
                open_.append(Argument(name, argument.value))
            else:
                rows += _argument_rows(name, _literal(argument.value, {}))
    return rows, open_


def _has_variable(node: ValueNode) -> bool:
    if isinstance(node, ListValueNode):
        return any(map(_has_variable, node.values))
    if isinstance(node, ObjectValueNode):
        return any(_has_variable(field.value) for field in node.fields)
    return isinstance(node, VariableNode)


def _argument_rows(name: str, value: Any) -> int:
    if name == "where":
        value = value.get("filter") if isinstance(value, dict) else None
    return _order_rows(value) if name == ORDER else _filter_rows(value)


def _filter_rows(tree: Any) -> int:
    """One row for each node of a filter, and what some of them cost beyond. What is no filter is refused later."""
    rows, waiting = 0, [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += [item for item in node if isinstance(item, dict | list)]
        elif isinstance(node, dict):
            rows += 1 + sum(ROWS_OF.get(name, 0) for name, value in node.items() if value is not None)
            waiting += [value for value in node.values() if isinstance(value, dict | list)]
    return rows


def _order_rows(terms: Any) -> int:
    listed = terms if isinstance(terms, list) else [terms]
    fields = [term.get("field") for term in listed if isinstance(term, dict)]
    unindexed = [field for field in fields if not isinstance(field, str) or field not in INDEXED]
    # An index has one field, and the id.
    return ROWS_OF_A_SORT if unindexed or len(fields) > 1 else 0


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


def defaults(operation: OperationDefinitionNode) -> dict[str, Any]:
    """The defaults of an operation's variables, as JSON."""
    definitions = {node.variable.name.value: node.default_value for node in operation.variable_definitions or ()}
    return {name: _literal(value, {}) for name, value in definitions.items() if value}


def _literal(node: ValueNode | None, values: Mapping[str, Any]) -> Any:
    """A literal with the values of its variables, as JSON has it; no conversion of thousands of digits."""
    match node:
        case VariableNode():
            return values.get(node.name.value)
        case ListValueNode():
            return [_literal(item, values) for item in node.values]
        case ObjectValueNode():
            return {field.name.value: _literal(field.value, values) for field in node.fields}
        case IntValueNode():
            return int(node.value[:MOST_DIGITS])
    return getattr(node, "value", None)


def _rows(value: Any) -> int:
    """The rows that a value asks for, at least one; what is no number is refused later."""
    if isinstance(value, list):
        value = len(value)
    return int(min(max(value, 1), MOST_AT_ONCE)) if isinstance(value, int | float) else 1
