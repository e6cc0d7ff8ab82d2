"""A fast path for operations with one root field, as most are: it caches what graphql-core computes for each request.

All other operations, and requests with invalid variables, are executed by graphql-core, which words the errors.
"""

from collections.abc import Mapping
from typing import Any

from graphql import (
    ArgumentNode,
    ExecutionResult,
    FieldNode,
    GraphQLArgument,
    GraphQLError,
    GraphQLField,
    GraphQLResolveInfo,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    Undefined,
    VariableNode,
    get_argument_values,
    is_non_null_type,
    is_required_argument,
    located_error,
    type_from_ast,
)
from graphql.execution import Executor
from graphql.execution.values import VariableValues
from graphql.language.visitor import Visitor, visit
from graphql.pyutils import Path

from app.shapes import require
from schema.engine.coercion import Coercions

# The part of a resolver's info that differs between requests. `_fields` of a NamedTuple is public.
_VARIABLES = GraphQLResolveInfo._fields.index("variable_values")
require(
    GraphQLResolveInfo._fields[_VARIABLES + 1] == "context",
    "In graphql-core's GraphQLResolveInfo the context followed the variables.",
)
# What a field has among its extensions whose resolver is called directly, and gives a `Rendered` value or None.
RENDERED = "rendered"


class SingleField:
    """A root field whose arguments are constants or variables. Its resolver returns a `Rendered` value or None."""

    def __init__(
        self, executor: Executor[None], node: FieldNode, field: GraphQLField, root: Any, coercions: Coercions
    ) -> None:
        self._key = (node.alias or node.name).value
        self._field = field
        info = executor.build_resolve_info(field, [node], root, Path(None, self._key, root.name))
        # The info for resolvers, without the variables and the context.
        self._before, self._after = info[:_VARIABLES], info[_VARIABLES + 2 :]
        self._nodes = info.field_nodes
        self._types = [
            (name, is_non_null_type(type_), coercions.of(type_))
            for name, type_ in _types(executor.schema, executor.operation).items()
        ]
        given = {argument.name.value: argument for argument in node.arguments or ()}
        self._variables = [
            (field.args[name].out_name or name, argument.value.name.value)
            for name, argument in given.items()
            if isinstance(argument.value, VariableNode)
        ]
        constant = {name: arg for name, arg in field.args.items() if not _is_variable(given.get(name))}
        self._constants = get_argument_values(GraphQLField(field.type, constant), node)

    def variables(self, given: Mapping[str, Any]) -> VariableValues | None:
        """The coerced variables; None if they are invalid, which graphql-core then reports."""
        coerced = {}
        for name, required, coerce in self._types:
            if name in given:
                coerced[name] = value = coerce(given[name])
                if value is Undefined:
                    return None
            elif required:
                return None
        return VariableValues({}, coerced)

    async def run(self, variables: VariableValues, context: object) -> ExecutionResult:
        """Execute the operation."""
        info: GraphQLResolveInfo[Any] = GraphQLResolveInfo._make((*self._before, variables, context, *self._after))
        given, values = self._constants.copy(), variables.coerced
        for name, variable in self._variables:
            if variable in values:
                given[name] = values[variable]
        try:
            result = await self._field.resolve(None, info, **given)  # type: ignore[misc]  # each has one
        except Exception as error:  # noqa: BLE001 - whatever a resolver raises becomes an error of its field
            data = None if is_non_null_type(self._field.type) else {self._key: None}
            return ExecutionResult(data, [located_error(error, self._nodes, [self._key])])
        return ExecutionResult({self._key: result and result.value}, None)


def single_field(executor: Executor[None], coercions: Coercions) -> SingleField | None:
    """The field of an operation that the fast path can execute, or None."""
    schema, operation = executor.schema, executor.operation
    node, *others = operation.selection_set.selections
    root = schema.get_root_type(operation.operation)
    if others or operation.operation is OperationType.SUBSCRIPTION or root is None:
        return None
    field = root.fields.get(node.name.value) if isinstance(node, FieldNode) else None
    if field is None or not isinstance(node, FieldNode) or RENDERED not in field.extensions:
        return None
    if not _is_plain(operation, node, field):
        return None
    try:
        return SingleField(executor, node, field, root, coercions)
    except GraphQLError:  # a constant of a @oneOf input, whose fields validation does not count
        return None


def _types(schema: GraphQLSchema, operation: OperationDefinitionNode) -> dict[str, Any]:
    return {node.variable.name.value: type_from_ast(schema, node.type) for node in operation.variable_definitions or ()}


def _is_plain(operation: OperationDefinitionNode, node: FieldNode, field: GraphQLField) -> bool:
    """Whether there are no directives, no defaults of variables, and no variables within input objects or lists."""
    defaults = any(variable.default_value for variable in operation.variable_definitions or ())
    if defaults or operation.directives or node.directives:
        return False
    return all(_is_constant(argument) or _is_free(argument, field.args) for argument in node.arguments or ())


def _is_variable(argument: ArgumentNode | None) -> bool:
    return argument is not None and isinstance(argument.value, VariableNode)


def _is_free(argument: ArgumentNode, arguments: Mapping[str, GraphQLArgument]) -> bool:
    """Whether a variable is the whole value, and the argument accepts it omitted or null."""
    known = arguments[argument.name.value]
    accepts = is_required_argument(known) or not is_non_null_type(known.type)
    return _is_variable(argument) and known.default is None and accepts


def _is_constant(argument: ArgumentNode) -> bool:
    return not _has_variable(argument)


def has_variables(node: FieldNode) -> bool:
    """Whether the arguments of a field contain variables."""
    return any(map(_has_variable, node.arguments or ()))


def _has_variable(argument: ArgumentNode) -> bool:
    finder = _VariableFinder()
    visit(argument.value, finder)
    return finder.found


class _VariableFinder(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def enter_variable(self, *_args: Any) -> None:
        self.found = True
