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
    # The values if they contain no variables.
    fixed: Mapping[str, Any] | None = field(compare=False)

    def values(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """The coerced values, by Python names. Raises GraphQLError for a required argument without a value."""
        if self.fixed is not None:
            return self.fixed
        return get_argument_values(self.definition, self.node, VariableValues({}, dict(variables)))


def arguments(definition: GraphQLField, node: FieldNode) -> Arguments | None:
    """The arguments of a field; None for a field without any. A page has a size even if none is given."""
    if not node.arguments and "first" not in definition.args:
        return None
    text = " ".join(sorted(map(print_ast, node.arguments or ())))
    fixed = None if "$" in text else get_argument_values(definition, node)
    return Arguments(text, definition, node, fixed)
