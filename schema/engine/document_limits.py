"""What one document may ask for, held against its size before it is validated."""

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

# Fields that are asked for again: comparing them takes the square of their number, and tools merge them.
MOST_REPEATS = 20
# Tools ask for the schema once, with a field or two; what they ask shows it whole.
MOST_INTROSPECTION = 2


# Values in an operation's variables. A hundred new tasks with all their tags have three thousand.
MOST_VALUES = 5000


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one operation may have."""

    tokens: int = 1000
    depth: int = 10
    fields: int = 500
    root_fields: int = 20
    aliases: int = 100
    directives: int = 50
    cost: int = 2000


class Gauge:
    """Holds documents against the limits."""

    def __init__(self, schema: GraphQLSchema, limits: Limits) -> None:
        self.limits = limits
        self._schema, self._lengths = schema, lengths(schema)
        self._most_values = 2 * self._values_of_the_whole_schema()

    def check(self, document: DocumentNode) -> dict[OperationDefinitionNode, Size]:
        """The sizes of a document's operations; LimitExceeded where anything in it is too large."""
        sizes = Sizes(self._schema, self._lengths, document)
        for node in document.definitions:
            if isinstance(node, FragmentDefinitionNode):
                self._hold(sizes.fragment(node.name.value))
        operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        measured = {node: sizes.operation(node) for node in operations}
        for size in measured.values():
            self._hold(size)
            _hold(size.direct, self.limits.root_fields, "root fields")
            self.afford(prices.rows(size.rows, size.counts, size.values))
            _hold(size.introspection, MOST_INTROSPECTION, "fields that show the schema")
        return measured

    def cost(self, node: OperationDefinitionNode, size: Size) -> Cost:
        """What an operation costs."""
        rows, pages = prices.rows(size.rows, size.counts, size.values), tuple(size.pages.items())
        return Cost(rows, pages, tuple(size.arguments), prices.defaults(node))

    def afford(self, rows: int) -> None:
        """LimitExceeded for more rows than one operation may touch."""
        if rows > self.limits.cost:
            allowed = f"{self.limits.cost:,} are allowed in one request"
            raise LimitExceeded(f"The operation may touch {rows:,} rows; {allowed}. Ask for smaller pages.")

    def _hold(self, size: Size) -> None:
        _hold(size.fields, self.limits.fields, "fields")
        _hold(size.depth, self.limits.depth, "levels of nesting")
        _hold(size.aliases, self.limits.aliases, "aliases")
        _hold(size.directives, self.limits.directives, "directives")
        _hold(size.repeats, MOST_REPEATS, "repeated fields")
        _hold(size.values, self._most_values, "values of the schema")

    def _values_of_the_whole_schema(self) -> int:
        query = get_introspection_query(directive_is_repeatable=True, input_value_deprecation=True)
        document = parse(query)
        (node,) = (node for node in document.definitions if isinstance(node, OperationDefinitionNode))
        return Sizes(self._schema, self._lengths, document).operation(node).values


def count_values(variables: Mapping[str, Any]) -> int:
    """How many values variables have; LimitExceeded for more than are worth looking at one by one."""
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
        raise LimitExceeded(f"The operation has more than {most} {what}.")
