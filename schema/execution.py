"""Prepared operations: parsed, checked and planned once per text, then straight to execution."""

import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

from graphql import (
    DocumentNode,
    ExecutionResult,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLSchema,
    GraphQLUnionType,
    OperationDefinitionNode,
    get_named_type,
    located_error,
    parse,
    specified_rules,
    validate,
)
from graphql.execution import (
    Executor,
    create_source_event_stream,
    default_field_resolver,
    default_type_resolver,
    execute_subscription_event,
    get_variable_values,
    map_source_to_response_event,
)
from graphql.execution.collect_fields import FieldDetails, FragmentDetails, collect_subfields
from graphql.execution.values import VariableValues
from graphql.language import VariableNode
from graphql.language.visitor import Visitor, visit
from graphql.pyutils import AwaitableOrValue

from app.errors import BadUserInput, LimitExceeded, RequestError
from app.masking import MASKED, outline
from app.rendering import Field, Selection, Selections
from schema import wording
from schema.coercion import Coercions
from schema.cost import Cost
from schema.limits import Gauge, Limits
from schema.single import SingleField, single_field
from schema.size import Size

log = logging.getLogger(__name__)

# A prepared operation takes some 80 bytes for each character of its text, so the store is bounded by text. The smallest
# takes 6 KB all the same.
MOST_TEXT = 500_000
LEAST_TEXT = 80
LONGEST_STORED = 20_000
# Of one operation: its root fields, in as many variants as conditions make. What goes beyond is collected again.
MOST_SELECTIONS = 64
MOST_ERRORS = 5
# What one rule of graphql-core says although it was asked to hide suggestions.
HINT = " Did you mean"
DEFAULTS = Limits()


@dataclass(slots=True)
class Rendered:
    """A finished value: graphql-core passes it into the answer as it is."""

    value: object


class RenderingExecutor(Executor[None]):
    """graphql-core's executor, but for values that are finished already."""

    def complete_value(self, *args: Any) -> Any:
        result = args[4]
        return result.value if type(result) is Rendered else super().complete_value(*args)


class RequestErrors(Exception):
    """A request that does not come to execution."""

    def __init__(self, errors: list[GraphQLError], code: str) -> None:
        super().__init__(code)
        self.errors = [_coded(error, code) for error in errors[:MOST_ERRORS]]
        for error in self.errors:
            error.message = error.message.partition(HINT)[0]
            # So a scalar says that a literal does not fit, which is no bug to be masked.
            if isinstance(error.original_error, ValueError):
                error.original_error = None


@dataclass(slots=True)
class Operation:
    """One operation of a document, ready to run, with the selections it has been found to make."""

    schema: GraphQLSchema
    node: OperationDefinitionNode
    fragments: dict[str, FragmentDetails]
    conditions: tuple[str, ...]
    cost: Cost
    introspects: bool
    selected: Selections
    coercions: Coercions
    selections: dict[tuple[Any, ...], Selection] = field(default_factory=dict)
    single: SingleField | None = None
    name: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        self.name, self.kind = self.node.name.value if self.node.name else "", self.node.operation.value
        self.single = single_field(self.executor(VariableValues({}, {}), None), self.coercions)

    def executor(self, variables: VariableValues, context: object) -> RenderingExecutor:
        """What runs it where it is not as plain as a single field."""
        return RenderingExecutor(
            self.schema,
            {name: details.definition for name, details in self.fragments.items()},
            self.fragments,
            None,
            context,
            self.node,
            variables,
            default_field_resolver,
            default_type_resolver,
            default_field_resolver,
            hide_suggestions=True,
        )

    def selection(self, info: GraphQLResolveInfo[Any], type_name: str) -> Selection:
        """What a root field asks of an object type; @skip and @include are all that variables change in it."""
        variables = info.variable_values
        key = (info.path.key, type_name, *map(variables.coerced.get, self.conditions))
        known = self.selections.get(key)
        if known is None:
            if len(self.selections) >= MOST_SELECTIONS:
                self.selections.clear()
            details = [FieldDetails(node, None) for node in info.field_nodes]
            type_ = cast("GraphQLObjectType", self.schema.type_map[type_name])
            known = self.selections[key] = self._selected(type_, details, variables)
        return known

    def _selected(self, type_: GraphQLObjectType, details: list[FieldDetails], variables: VariableValues) -> Selection:
        collected = collect_subfields(self.schema, self.fragments, variables, self.node, type_, details)
        entries = collected.grouped_field_set.items()
        return self.selected.of(type_.name, tuple(self._entry(key, type_, nodes, variables) for key, nodes in entries))

    def _entry(
        self, key: str, type_: GraphQLObjectType, details: list[FieldDetails], variables: VariableValues
    ) -> Field:
        name = details[0].node.name.value
        shown = get_named_type(type_.fields[name].type) if name in type_.fields else None
        if isinstance(shown, GraphQLObjectType):
            return Field(key, name, self._selected(shown, details, variables))
        if isinstance(shown, GraphQLUnionType):
            return Field(key, name, None, tuple(self._selected(one, details, variables) for one in shown.types))
        return Field(key, name)


class Engine:
    """Runs requests against the schema."""

    def __init__(self, schema: GraphQLSchema, limits: Limits = DEFAULTS) -> None:
        self.schema = schema
        self.gauge = Gauge(schema, limits)
        self._pinned: dict[tuple[str, str | None], Operation] = {}
        self._operations: OrderedDict[tuple[str, str | None], Operation] = OrderedDict()
        self._selections = Selections()
        self._coercions = Coercions()
        self._text = 0

    def prepare(self, query: str, operation_name: str | None) -> Operation:
        """The operation of a text, from the store where it was seen before; RequestErrors where it cannot run."""
        known = self.known(query, operation_name)
        if known is not None:
            return known
        operation = self._prepared(query, operation_name)
        if len(query) <= LONGEST_STORED:
            self._store((query, operation_name), operation)
        return operation

    def known(self, query: str, operation_name: str | None) -> Operation | None:
        """The operation of a text that was seen before."""
        key = (query, operation_name)
        known = self._operations.get(key)
        if known is not None:
            self._operations.move_to_end(key)
            return known
        return self._pinned.get(key)

    def pin(self, query: str) -> None:
        """Prepare all operations of a document for good; RequestErrors where one of them cannot run."""
        document = self._parsed(query)
        operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        names = [node.name.value for node in operations if node.name]
        for name in names if len(operations) > 1 else [*names, None]:
            self._pinned[query, name] = self._prepared(query, name)

    def _store(self, key: tuple[str, str | None], operation: Operation) -> None:
        self._operations[key] = operation
        self._text += _weight(key[0])
        while self._text > MOST_TEXT:
            (oldest, _), _ = self._operations.popitem(last=False)
            self._text -= _weight(oldest)

    def execute(
        self, operation: Operation, variables: Mapping[str, Any] | None, context: object
    ) -> Awaitable[ExecutionResult]:
        """Run a prepared operation; RequestErrors where its variables do not fit."""
        given = variables or {}
        if operation.single and (values := operation.single.variables(given)):
            return operation.single.run(values, context)
        return self._execute(operation, self._variables(operation, dict(given)), context)

    async def _execute(self, operation: Operation, values: VariableValues, context: object) -> ExecutionResult:
        result = operation.executor(values, context).execute_operation()
        return cast("ExecutionResult", await result if isinstance(result, Awaitable) else result)

    async def subscribe(
        self, operation: Operation, variables: Mapping[str, Any] | None, context: object
    ) -> AsyncGenerator[ExecutionResult, None]:
        """The results of a prepared subscription, one an event.

        RequestErrors where its variables do not fit; a GraphQLError where its source cannot begin or breaks off.
        """
        executor = operation.executor(self._variables(operation, dict(variables or {})), context)
        started = create_source_event_stream(executor)
        source = await started if isinstance(started, Awaitable) else started
        if isinstance(source, ExecutionResult):
            raise (source.errors or [])[0]
        try:
            async with aclosing(map_source_to_response_event(executor, source, _event)) as results:
                async for result in results:
                    yield result
        except Exception as error:
            raise located_error(error, [operation.node]) from error

    def _variables(self, operation: Operation, given: dict[str, Any]) -> VariableValues:
        definitions = operation.node.variable_definitions or ()
        values = get_variable_values(self.schema, definitions, given, MOST_ERRORS, hide_suggestions=True)
        if isinstance(values, list):
            wording.show_as_json(values, self.schema, given)
            raise RequestErrors(values, BadUserInput.code)
        return values

    def _prepared(self, query: str, operation_name: str | None) -> Operation:
        try:
            document = self._parsed(query)
            sizes = self.gauge.check(document)
            errors = validate(self.schema, document, specified_rules, MOST_ERRORS, hide_suggestions=True)
            if errors:
                raise RequestErrors(errors, "GRAPHQL_VALIDATION_FAILED")
            node = _chosen(document, operation_name)
            return self._planned(document, node, sizes[node])
        except RecursionError:
            raise refused(LimitExceeded("The document is nested too deeply.")) from None
        except LimitExceeded as error:
            raise refused(error) from None

    def _parsed(self, query: str) -> DocumentNode:
        try:
            return parse(query, max_tokens=self.gauge.limits.tokens)
        except GraphQLError as error:
            too_much = error.message.endswith("Parsing aborted.")
            raise RequestErrors([error], LimitExceeded.code if too_much else "GRAPHQL_PARSE_FAILED") from None

    def _planned(self, document: DocumentNode, node: OperationDefinitionNode, size: Size) -> Operation:
        return Operation(
            self.schema,
            node,
            _fragments(document),
            _condition_variables(document),
            self.gauge.cost(node, size),
            size.introspection > 0,
            self._selections,
            self._coercions,
        )


def _event(executor: Executor[None]) -> AwaitableOrValue[ExecutionResult]:
    """The answer for one event of a subscription; of one that is finished already there is nothing to execute."""
    (node, *_), event = executor.operation.selection_set.selections, executor.root_value
    if type(event) is Rendered and isinstance(node, FieldNode):
        return ExecutionResult({(node.alias or node.name).value: event.value}, None)
    return execute_subscription_event(executor)


def _weight(query: str) -> int:
    return max(len(query), LEAST_TEXT)


def _chosen(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    if name is not None:
        operations = [node for node in operations if node.name and node.name.value == name]
    if len(operations) == 1:
        return operations[0]
    problem = (
        "The document has several operations; name one with operationName."
        if operations
        else "The document has no such operation."
    )
    raise RequestErrors([GraphQLError(problem)], BadUserInput.code)


def _fragments(document: DocumentNode) -> dict[str, FragmentDetails]:
    nodes = (node for node in document.definitions if isinstance(node, FragmentDefinitionNode))
    return {node.name.value: FragmentDetails(node) for node in nodes}


class _ConditionVisitor(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def enter_directive(self, node: Any, *_args: Any) -> None:
        arguments = (argument.value for argument in node.arguments)
        self.names |= {value.name.value for value in arguments if isinstance(value, VariableNode)}


def _condition_variables(document: DocumentNode) -> tuple[str, ...]:
    visitor = _ConditionVisitor()
    visit(document, visitor)
    return tuple(sorted(visitor.names))


def refused(error: RequestError) -> RequestErrors:
    """An expected failure, as the one error of a request that does not come to execution."""
    return RequestErrors([GraphQLError(str(error))], error.code)


def _coded(error: GraphQLError, code: str) -> GraphQLError:
    error.message = wording.null(error.message)
    error.extensions = {**(error.extensions or {}), "code": code}
    return error


def formatted(error: GraphQLError, request_id: str) -> dict[str, Any]:
    """An error as the caller may see it: what was not expected is logged once and masked."""
    cause = error.original_error
    if isinstance(cause, RequestError) or (cause is None and error.extensions):
        return dict(error.formatted)
    if cause is None or isinstance(cause, GraphQLError):
        return dict(_coded(error, BadUserInput.code).formatted)
    log.error("request %s failed in %s: %s", request_id, error.path, outline(cause))
    masked = {"message": MASKED, "path": error.path}
    locations = error.formatted.get("locations")
    extensions = {"code": RequestError.code, "requestId": request_id}
    return masked | ({"locations": locations} if locations else {}) | {"extensions": extensions}
