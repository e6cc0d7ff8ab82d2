"""The estimated cost of an operation in rows, computed from its fields and arguments before it is executed.

The time that it actually takes is charged separately (app.sharing.rate_limits).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
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

from app.characters import words
from app.entities.changes import LARGEST_CHANGE_PAGE
from app.entities.feed import DEFAULT_CHANGE_PAGE
from app.entities.ordering import FIRST, LAST
from app.entities.reading import LARGEST_PAGE
from app.entities.repository import (
    DEFAULT_PAGE,
    MOST_AT_ONCE,
    MOST_CREATED,
)
from app.models import MOST_TAGS_OF_USER
from app.tasks.batch import MOST_WRITES
from app.tasks.fields import TASK
from app.tasks.lists import LIST

ENTITIES = (TASK, LIST)

# The arguments that determine how many rows a field touches, and their maxima. Fields reject larger values before they
# touch any row.
ARGUMENTS = {
    "first": LARGEST_PAGE,
    "last": LARGEST_PAGE,
    "atMost": MOST_AT_ONCE,
    "inputs": MOST_CREATED,
    "writes": MOST_WRITES,
}
# The argument of the query and the subscription of changes. The query may request larger pages than other fields. The
# subscription reads pages of a fixed size, and the first one is part of its cost.
SINCE = "since"
# A field that may request larger pages than others.
LARGER = {"tags": MOST_TAGS_OF_USER}
# Fields that count all tasks of a user, and the cost of counting. The lists of a page have different tasks, so together
# their counts, filters and orders cost as much as those of all tasks. The lists of the tasks of a page may be the same.
COUNTS = {"totalCount", "taskStats"}
REPEATED = {("Task", "list")}
# Long fields: a row stands for up to 4,000 characters of an answer.
LONG = {("Task", "description"): 1}
# Types whose objects have one of their fields that show rows: a write of a batch returns a task or a list.
ALTERNATIVES = {"WriteResult"}
ROWS_OF_A_COUNT = 100
# The fixed cost of fields that change all tasks of a list or with a tag, before the time that they take is charged.
ROWS_OF_CHANGES = dict.fromkeys(("deleteList", "restoreList", "renameTag", "deleteTag"), 100)
# Introspection costs one row for this many values, because its result is cached.
VALUES_OF_A_ROW = 1000
# The arguments with conditions and orders. Every node of a filter costs a row. These cost more: a search reads every
# task, and looks for another word in those that contain the words before; the others read more tasks than they return.
FILTERS, ORDER = ("filter", "where"), "orderBy"
# The writes of a batch, of which some have a fixed cost.
WRITES = "writes"
SEARCH, ROWS_OF_ANOTHER_WORD = "search", 20
ROWS_OF = {SEARCH: 100, "tagsAll": 20, "tagsAny": 20, "list": 20, "or": 20}
# An order without an index sorts all tasks.
ROWS_OF_A_SORT = 100
SORT_KEYS = [key for entity in ENTITIES for key in entity.sort_keys.items()]
INDEXED = {name for name, key in SORT_KEYS if key.indexed} - {name for name, key in SORT_KEYS if not key.indexed}
# The conditions of the outermost filter with which a nullable field has an index, wherever nulls are placed.
EXCLUDING_NULLS = {name: key.nulls.excluded_by for name, key in SORT_KEYS if key.nulls}
MOST_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Page:
    """A page whose size depends on variables: the largest one, or the default, but at most `most`."""

    variables: tuple[str, ...]
    default: int
    most: int

    def rows(self, values: Mapping[str, Any]) -> int:
        given = [values[name] for name in self.variables if values.get(name) is not None]
        return min(max(map(_rows, given), default=self.default), self.most)


@dataclass(frozen=True, slots=True)
class Argument:
    """A filter, or an order with the filter beside it, that contains variables."""

    name: str
    node: ValueNode
    beside: ValueNode | None = None

    def rows(self, values: Mapping[str, Any]) -> int:
        return _argument_rows(self.name, _literal(self.node, values), _literal(self.beside, values))


# Numbers of rows that depend on variables, to be multiplied: pages within pages.
Factors = tuple[Page | Argument, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """A fixed number of rows, the parts that depend on variables, and the defaults of these variables."""

    rows: int
    pages: tuple[tuple[Factors, int], ...] = ()
    arguments: tuple[Argument, ...] = ()
    defaults: Mapping[str, Any] | None = None

    def of(self, variables: Mapping[str, Any] | None) -> int:
        """The rows with the variables of a request, which are not validated yet."""
        if not self.pages and not self.arguments:
            return self.rows
        rows, values = self.rows, variables or {}
        if self.defaults:
            values = {**self.defaults, **values}
        for factors, times in self.pages:
            rows += prod(factor.rows(values) for factor in factors) * times
        for argument in self.arguments:
            rows += argument.rows(values)
        return rows


def page(node: FieldNode, definition: GraphQLField) -> Page | int | None:
    """The page size of a field; None for a field without pages."""
    names, is_feed = definition.args.keys() & ARGUMENTS.keys(), SINCE in definition.args
    if not names:
        return DEFAULT_CHANGE_PAGE if is_feed else None
    larger = LARGEST_CHANGE_PAGE if is_feed else LARGER.get(node.name.value)
    most = larger or max(ARGUMENTS[name] for name in names)
    given = [argument.value for argument in node.arguments or () if argument.name.value in names]
    known = [_rows(_literal(value, {})) for value in given if not isinstance(value, VariableNode | NullValueNode)]
    variables = tuple(value.name.value for value in given if isinstance(value, VariableNode))
    default = min(max(known, default=_omitted(definition, names)), most)
    return Page(variables, default, most) if variables else default


def conditions(node: FieldNode) -> tuple[int, list[Argument]]:
    """The rows of a field's constant filters and orders, and the arguments that contain variables."""
    rows, open_ = 0, list[Argument]()
    given = {argument.name.value: argument.value for argument in node.arguments or ()}
    for name in [name for name in (*FILTERS, ORDER, WRITES) if name in given]:
        argument = Argument(name, given[name], given.get("filter") if name == ORDER else None)
        if _has_variable(argument.node) or (argument.rows({}) and argument.beside and _has_variable(argument.beside)):
            open_.append(argument)
        else:
            rows += argument.rows({})
    return rows, open_


def _has_variable(node: ValueNode) -> bool:
    if isinstance(node, ListValueNode):
        return any(map(_has_variable, node.values))
    if isinstance(node, ObjectValueNode):
        return any(_has_variable(field.value) for field in node.fields)
    return isinstance(node, VariableNode)


def _argument_rows(name: str, value: Any, beside: Any) -> int:
    if name == WRITES:
        return _rows_of_writes(value)
    if name == "where":
        value = value.get("filter") if isinstance(value, dict) else None
    return _order_rows(value, beside) if name == ORDER else _filter_rows(value)


def _filter_rows(tree: Any) -> int:
    """One row for each node of a filter, and more for some conditions. Invalid filters are rejected later."""
    rows, waiting = 0, [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += [item for item in node if isinstance(item, dict | list)]
        elif isinstance(node, dict):
            rows += 1 + sum(ROWS_OF.get(name, 0) for name, value in node.items() if value is not None)
            rows += ROWS_OF_ANOTHER_WORD * _other_words(node.get(SEARCH))
            waiting += [value for value in node.values() if isinstance(value, dict | list)]
    return rows


def _other_words(text: Any) -> int:
    return max(len(words(text)) - 1, 0) if isinstance(text, str) else 0


def _rows_of_writes(writes: Any) -> int:
    listed = writes if isinstance(writes, list) else [writes]
    return sum(ROWS_OF_CHANGES.get(name, 0) for write in listed if isinstance(write, dict) for name in write)


def _order_rows(terms: Any, tree: Any) -> int:
    listed = [term for term in (terms if isinstance(terms, list) else [terms]) if isinstance(term, dict)]
    # Each index has one field, and the id.
    return ROWS_OF_A_SORT if len(listed) > 1 or not all(_has_index(term, tree) for term in listed) else 0


def _has_index(term: Mapping[str, Any], tree: Any) -> bool:
    field, nulls = term.get("field"), term.get("nulls")
    if not isinstance(field, str):
        return False
    if any(_is_in(tree, path) for path in EXCLUDING_NULLS.get(field, ())):
        return True
    usual = FIRST if term.get("direction") == "DESC" else LAST
    return field in INDEXED and (nulls is None or nulls == usual)


def _is_in(tree: Any, path: str) -> bool:
    """Whether a filter has a condition; false does not count, which is the default of `trashed`."""
    for name in path.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree is not None and tree is not False


def _omitted(definition: GraphQLField, names: Iterable[str]) -> int:
    """The page size if the arguments are omitted: the default in the schema, or DEFAULT_PAGE."""
    declared = [definition.args[name].default_value for name in names]
    return max((value for value in declared if isinstance(value, int)), default=DEFAULT_PAGE)


def is_known(node: FieldNode) -> bool:
    """Whether a field shows only the id of an object, which is part of the row that refers to it."""
    selections = node.selection_set.selections if node.selection_set else ()
    names = {one.name.value if isinstance(one, FieldNode) else "" for one in selections}
    return names <= {"id", "__typename"}


def rows(shown: int, counts: int, values: int) -> int:
    """Rows, counts over all rows, and values from introspection, in rows."""
    return shown + counts * ROWS_OF_A_COUNT + values // VALUES_OF_A_ROW


def defaults(operation: OperationDefinitionNode) -> dict[str, Any]:
    """The defaults of an operation's variables, as JSON values."""
    definitions = {node.variable.name.value: node.default_value for node in operation.variable_definitions or ()}
    return {name: _literal(value, {}) for name, value in definitions.items() if value}


def _literal(node: ValueNode | None, values: Mapping[str, Any]) -> Any:
    """A literal as a JSON value, variables replaced. Long integers are cut, because converting them takes long."""
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
    """The rows that a value requests, at least one. Other values than numbers are rejected later."""
    if isinstance(value, list):
        value = len(value)
    return int(min(max(value, 1), MOST_AT_ONCE)) if isinstance(value, int | float) else 1
