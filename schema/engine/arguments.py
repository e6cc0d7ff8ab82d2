"""Arguments of fields below a root field, which no resolver receives: the statement of the root field contains them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphql import FieldNode, GraphQLField, get_argument_values, print_ast
from graphql.execution.values import VariableValues


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a field as written; equal if they are written alike, so that operations share selections."""

    text: str
    definition: GraphQLField = field(compare=False)
    node: FieldNode = field(compare=False)

    def values(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The coerced values, by Python names. Raises GraphQLError for a required argument without a value."""
        return get_argument_values(self.definition, self.node, VariableValues({}, dict(variables)))


def arguments(definition: GraphQLField, node: FieldNode) -> Arguments | None:
    """The arguments of a field; None for a field that has none."""
    if not definition.args:
        return None
    return Arguments(" ".join(sorted(map(print_ast, node.arguments or ()))), definition, node)
