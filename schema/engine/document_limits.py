"""Limits on documents, checked before validation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FragmentDefinitionNode,
    GraphQLSchema,
    OperationDefinitionNode,
    get_introspection_query,
    parse,
)

from app.errors import LimitExceeded
from schema.engine import prices
from schema.engine.document_size import Size, Sizes, lengths
from schema.engine.prices import Cost

# Repeated fields: validation compares each with each, which takes quadratic time. Client libraries merge them anyway.
MOST_REPEATS = 20
# Tools query the whole schema with one or two of these fields.
MOST_INTROSPECTION = 2
# Values in an operation's variables. A hundred new tasks with all their tags have three thousand.
MOST_VALUES = 5000


@dataclass(frozen=True, slots=True)
class Limits:
    """The maximum sizes of one operation."""

    tokens: int = 1000
    depth: int = 10
    fields: int = 500
    root_fields: int = 20
    aliases: int = 100
    directives: int = 50
    cost: int = 2000


class Gauge:
    """Checks documents against the limits."""

    def __init__(self, schema: GraphQLSchema, limits: Limits) -> None:
        self.limits = limits
        self._schema, self._lengths = schema, lengths(schema)
        self._most_values = 2 * self._values_of_the_whole_schema()

    def check(self, document: DocumentNode) -> dict[OperationDefinitionNode, Size]:
        """The sizes of a document's operations; raises LimitExceeded if one is too large."""
        sizes = Sizes(self._schema, self._lengths, document)
        for node in document.definitions:
            if isinstance(node, FragmentDefinitionNode):
                self._hold(sizes.fragment(node.name.value))
        operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        measured = {node: sizes.operation(node) for node in operations}
        for size in measured.values():
            self._hold(size)
            _hold(size.direct, self.limits.root_fields, "root fields")
            self.check_cost(prices.rows(size.rows + size.fixed, size.counts, size.values))
            _hold(size.introspection, MOST_INTROSPECTION, "introspection fields (__schema, __type)")
        return measured

    def cost(self, node: OperationDefinitionNode, size: Size) -> Cost:
        """The cost of an operation."""
        rows, pages = prices.rows(size.rows + size.fixed, size.counts, size.values), tuple(size.pages.items())
        return Cost(rows, pages, tuple(size.arguments), prices.defaults(node))

    def check_cost(self, rows: int) -> None:
        """Raise LimitExceeded if an operation may touch too many rows."""
        if rows > self.limits.cost:
            limit = f"the limit is {self.limits.cost:,} per operation"
            raise LimitExceeded(
                f"The operation may touch {rows:,} rows; {limit}. Request smaller pages or fewer fields."
            )

    def _hold(self, size: Size) -> None:
        _hold(size.fields, self.limits.fields, "fields")
        _hold(size.depth, self.limits.depth, "levels of nesting")
        _hold(size.aliases, self.limits.aliases, "aliases")
        _hold(size.directives, self.limits.directives, "directives")
        _hold(size.repeats, MOST_REPEATS, "repeated fields")
        _hold(size.values, self._most_values, "values from introspection")

    def _values_of_the_whole_schema(self) -> int:
        query = get_introspection_query(directive_is_repeatable=True, input_value_deprecation=True)
        document = parse(query)
        (node,) = (node for node in document.definitions if isinstance(node, OperationDefinitionNode))
        return Sizes(self._schema, self._lengths, document).operation(node).values


def count_values(variables: Mapping[str, Any]) -> int:
    """The number of values in variables; raises LimitExceeded if there are more than MOST_VALUES."""
    waiting: list[Any] = [variables]
    count = 0
    while waiting:
        value = waiting.pop()
        count += len(value)
        _hold(count, MOST_VALUES, "values in its variables")
        inner = value if type(value) is list else value.values()
        waiting += [one for one in inner if type(one) is dict or type(one) is list]
    return count


def _hold(found: int, most: int, what: str) -> None:
    if found > most:
        raise LimitExceeded(f"The operation has more than {most:,} {what}.")
