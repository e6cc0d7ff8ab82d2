"""Prepared operations: each document is parsed, validated and planned once, then only executed."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import orjson
import strawberry
from graphql import (
    DocumentNode,
    ExecutionResult,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
    GraphQLSchema,
    GraphQLUnionType,
    OperationDefinitionNode,
    get_named_type,
    is_abstract_type,
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
from graphql.execution.collect_fields import (
    FieldDetails,
    FieldDetailsList,
    FragmentDetails,
    collect_fields,
    collect_subfields,
)
from graphql.execution.values import VariableValues
from graphql.language import VariableNode
from graphql.language.visitor import Visitor, visit
from graphql.pyutils import AwaitableOrValue, Path

from app.database.rendering import Field, Selection, Selections
from app.errors import BadUserInput, LimitExceeded, RequestError
from app.observability.masking import MASKED, outline
from app.sharing.caches import FairCache
from schema.engine import wording
from schema.engine.arguments import arguments
from schema.engine.coercion import Coercions
from schema.engine.document_limits import Gauge, Limits
from schema.engine.document_size import Size
from schema.engine.persisted import ANONYMOUS_PART, is_padded, weight
from schema.engine.prices import Cost
from schema.engine.single import SingleField, single_field

log = logging.getLogger(__name__)

# A prepared operation takes some 400 bytes for each token of its document.
MOST_TOKENS = 100_000
MOST_FRESH = 100
# Variants of one operation, one for each combination of @skip and @include. If there are more, they are built again.
MOST_VARIANTS = 64
MOST_ERRORS = 5
# One validation rule of graphql-core adds suggestions although hide_suggestions is set.
HINT = " Did you mean"
DEFAULTS = Limits()

T = TypeVar("T")
# A document's text, and the name of the operation to execute.
Named = tuple[str, str | None]
# The selections of the root fields, by response key and name of the object type.
Variant = dict[tuple[str | int, str], Selection]


class Surroundings(Protocol):
    """What the engine needs of a request's context."""

    def on_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        """Run work on a thread because it would block the event loop."""
        ...


@dataclass(slots=True)
class Rendered:
    """A finished value, which graphql-core adds to the response unchanged."""

    value: object


class RenderingExecutor(Executor[None]):
    """graphql-core's executor, which skips the completion of finished values."""

    def complete_value(  # noqa: PLR0913, PLR0917 - graphql-core's signature
        self,
        return_type: GraphQLOutputType,
        field_details_list: FieldDetailsList,
        info: GraphQLResolveInfo[None],
        path: Path,
        result: Any,
        position_context: None,
    ) -> Any:
        if type(result) is Rendered:
            return result.value
        return super().complete_value(return_type, field_details_list, info, path, result, position_context)


class RequestErrors(Exception):
    """Errors of a request that is rejected before execution."""

    def __init__(self, errors: list[GraphQLError], code: str) -> None:
        super().__init__(code)
        self.errors = [_coded(error, code) for error in errors[:MOST_ERRORS]]
        for error in self.errors:
            error.message = error.message.partition(HINT)[0]
            # A scalar raises it for an invalid literal. Without it, the error is not masked as a bug.
            if isinstance(error.original_error, ValueError):
                error.original_error = None


@dataclass(slots=True)
class Operation:
    """One operation of a document, ready to execute, with the selections that were collected so far."""

    schema: GraphQLSchema
    node: OperationDefinitionNode
    fragments: dict[str, FragmentDetails]
    conditions: tuple[str, ...]
    cost: Cost
    size: Size
    selected: Selections
    coercions: Coercions
    tokens: int
    variants: dict[tuple[Any, ...], Variant] = field(default_factory=dict)
    # The one variant of an operation without conditions.
    only: Variant | None = None
    single: SingleField | None = None
    answer: ExecutionResult | None = None
    name: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        self.name, self.kind = self.node.name.value if self.node.name else "", self.node.operation.value
        self.single = single_field(self.executor(VariableValues({}, {}), None), self.coercions)
        if not self.conditions:
            self.only = self.collect(VariableValues({}, {}))

    @property
    def introspects(self) -> bool:
        return self.size.introspection > 0

    def executor(self, variables: VariableValues, context: object) -> RenderingExecutor:
        """graphql-core's executor, for operations that are not a `SingleField`."""
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

    def selection(self, info: strawberry.Info[Any, Any], type_name: str) -> Selection:
        """The fields of an object type that a root field selects."""
        variant = self.only or self.collect(VariableValues({}, info.variable_values))
        return variant[info.path.key, type_name]

    def collect(self, variables: VariableValues) -> Variant:
        """The selections of all root fields. They depend on variables only by @skip and @include."""
        key = self._variant(variables)
        return self.variants.get(key) or self._collect(key, variables)

    def has_collected(self, variables: VariableValues) -> bool:
        """Whether `collect` finds the selections in its cache."""
        return self._variant(variables) in self.variants

    def _variant(self, variables: VariableValues) -> tuple[Any, ...]:
        return tuple(map(variables.coerced.get, self.conditions)) if self.conditions else ()

    def _collect(self, key: tuple[Any, ...], variables: VariableValues) -> Variant:
        root = cast("GraphQLObjectType", self.schema.get_root_type(self.node.operation))
        fields = collect_fields(self.schema, self.fragments, variables, root, self.node).grouped_field_set
        if len(self.variants) >= MOST_VARIANTS:
            self.variants.clear()
        found = self.variants[key] = {
            (name, type_.name): self._selected(type_, details, variables)
            for name, details in fields.items()
            for type_ in self._shown(root, details)
        }
        return found

    def _shown(self, root: GraphQLObjectType, details: list[FieldDetails]) -> Sequence[GraphQLObjectType]:
        """The object types of a root field's value."""
        name = details[0].node.name.value
        named = get_named_type(root.fields[name].type) if name in root.fields else None
        if isinstance(named, GraphQLObjectType):
            return (named,)
        return self.schema.get_possible_types(named) if is_abstract_type(named) else ()

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
            given = arguments(type_.fields[name], details[0].node)
            return Field(key, name, self._selected(shown, details, variables), arguments=given)
        if isinstance(shown, GraphQLUnionType):
            return Field(key, name, None, tuple(self._selected(one, details, variables) for one in shown.types))
        return Field(key, name)


class Engine:
    """Executes operations of the schema.

    Prepared operations are cached by document and operation name. Callers, told apart by `payer`, share the cache
    fairly.
    """

    def __init__(self, schema: GraphQLSchema, limits: Limits = DEFAULTS) -> None:
        self.schema = schema
        self.gauge = Gauge(schema, limits)
        self._pinned: dict[Named, Operation] = {}
        self._users = FairCache[Named, Operation](MOST_TOKENS)
        self._anonymous = FairCache[Named, Operation](MOST_TOKENS // ANONYMOUS_PART)
        # Operations that the preparation thread has finished, and that are not in a cache yet.
        self._fresh: dict[Named, Operation] = {}
        self._selections = Selections()
        self._coercions = Coercions()

    def known(self, query: str, operation_name: str | None, payer: str, *, is_user: bool) -> Operation | None:
        """The cached operation of a document. One of an anonymous caller that a user requests moves to the users'."""
        key = query, operation_name
        known = self._users.get(key) or self._pinned.get(key)
        if known is None and (known := self._anonymous.get(key)) and is_user:
            self._anonymous.drop(key)
            self._users.put(key, known, payer, weight(known.tokens))
        return known

    def prepared_once(self, query: str, operation_name: str | None) -> Operation:
        """Prepare an operation, once if several callers request it at the same time."""
        key = query, operation_name
        known = self._fresh.get(key)
        if known is None:
            if len(self._fresh) >= MOST_FRESH:
                self._fresh.clear()
            known = self._fresh[key] = self.prepared(query, operation_name)
        return known

    def keep(self, query: str, operation_name: str | None, operation: Operation, payer: str, *, is_user: bool) -> None:
        """Cache an operation for all callers."""
        if not is_padded(query, operation.tokens):
            store = self._users if is_user else self._anonymous
            store.put((query, operation_name), operation, payer, weight(operation.tokens))
        self._fresh.pop((query, operation_name), None)

    def pin(self, query: str) -> None:
        """Prepare all operations of a document permanently; raises RequestErrors if one of them is invalid."""
        document = self._parsed(query)
        operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        names = [node.name.value for node in operations if node.name]
        for name in names if len(operations) > 1 else [*names, None]:
            self._pinned[query, name] = self.prepared(query, name)

    def execute(
        self,
        operation: Operation,
        variables: Mapping[str, Any] | None,
        context: Surroundings,
        *,
        is_large: bool = False,
    ) -> Awaitable[ExecutionResult]:
        """Execute an operation; raises RequestErrors for invalid variables.

        With `is_large` the variables are coerced on a thread.
        """
        given = variables or {}
        if operation.single and not is_large and (values := operation.single.variables(given)):
            return operation.single.run(values, context)
        return self._execute(operation, dict(given), context, is_large=is_large)

    async def _execute(
        self, operation: Operation, given: dict[str, Any], context: Surroundings, *, is_large: bool
    ) -> ExecutionResult:
        if operation.answer is not None:
            return operation.answer
        if (
            operation.single
            and is_large
            and (single := await context.on_thread(partial(operation.single.variables, given)))
        ):
            return await operation.single.run(single, context)
        coerced = partial(self._variables, operation, given)
        values = await context.on_thread(coerced) if is_large else coerced()
        await self._ready(operation, values, context)
        if operation.introspects:
            return await self._introspected(operation, values, context)
        result = operation.executor(values, context).execute_operation()
        return cast("ExecutionResult", await result if isinstance(result, Awaitable) else result)

    async def _ready(self, operation: Operation, values: VariableValues, context: Surroundings) -> None:
        if not operation.has_collected(values):
            with suppress(GraphQLError):  # an invalid @skip or @include, which execution reports
                await context.on_thread(partial(operation.collect, values))

    async def _introspected(
        self, operation: Operation, values: VariableValues, context: Surroundings
    ) -> ExecutionResult:
        """Execute introspection. Without variables and errors the result is cached: the schema never changes."""
        begun = await context.on_thread(operation.executor(values, context).execute_operation)
        result = cast("ExecutionResult", await begun if isinstance(begun, Awaitable) else begun)
        if begun is result and not result.errors and not operation.node.variable_definitions:
            data = await context.on_thread(partial(orjson.dumps, result.data))
            operation.answer = result = ExecutionResult(cast("dict[str, Any]", orjson.Fragment(data)), None)
        return result

    async def subscribe(
        self, operation: Operation, variables: Mapping[str, Any] | None, context: Surroundings
    ) -> AsyncGenerator[ExecutionResult, None]:
        """The results of a subscription, one per event.

        Raises RequestErrors for invalid variables, and GraphQLError if the source of events fails.
        """
        values = self._variables(operation, dict(variables or {}))
        await self._ready(operation, values, context)
        executor = operation.executor(values, context)
        started = create_source_event_stream(executor)
        source = await started if isinstance(started, Awaitable) else started
        if isinstance(source, ExecutionResult):
            raise (source.errors or [])[0]
        try:
            async with aclosing(map_source_to_response_event(executor, source, _event)) as results:
                async for result in results:
                    yield result
                    if result.data:  # it was sent, and others keep the result until the next one, which may take days
                        result.data.clear()
        except Exception as error:
            raise located_error(error, [operation.node]) from error

    def _variables(self, operation: Operation, given: dict[str, Any]) -> VariableValues:
        definitions = operation.node.variable_definitions or ()
        values = get_variable_values(self.schema, definitions, given, MOST_ERRORS, hide_suggestions=True)
        if isinstance(values, list):
            fragments = [details.definition for details in operation.fragments.values()]
            wording.explain(values, self.schema, operation.node, fragments, given)
            raise RequestErrors(values, BadUserInput.code)
        return values

    def prepared(self, query: str, operation_name: str | None) -> Operation:
        """Parse, validate and plan an operation, without the caches; raises RequestErrors if it is invalid."""
        document = None
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
        finally:
            if document is not None:
                _unchain(document)

    def _parsed(self, query: str) -> DocumentNode:
        try:
            return parse(query, max_tokens=self.gauge.limits.tokens, allow_empty_selection_sets=False)
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
            size,
            self._selections,
            self._coercions,
            document.token_count or 0,
        )


def _event(executor: Executor[None]) -> AwaitableOrValue[ExecutionResult]:
    """The result for one event of a subscription. A finished event is not executed."""
    (node, *_), event = executor.operation.selection_set.selections, executor.root_value
    if type(event) is Rendered and isinstance(node, FieldNode):
        return ExecutionResult({(node.alias or node.name).value: event.value}, None)
    return execute_subscription_event(executor)


def _chosen(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    if name is not None:
        operations = [node for node in operations if node.name and node.name.value == name]
    if len(operations) == 1:
        return operations[0]
    problem = (
        "The document has several operations; choose one with operationName."
        if operations
        else "The document has no operation with this operationName."
    )
    raise RequestErrors([GraphQLError(problem)], BadUserInput.code)


def _unchain(document: DocumentNode) -> None:
    """Unlink the tokens. As a doubly linked list only garbage collection would free them."""
    token = document.loc.start_token if document.loc else None
    while token is not None:
        following, token.prev, token.next = token.next, None, None
        token = following


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
    """An expected failure as the only error of a request that is rejected before execution."""
    return RequestErrors([GraphQLError(str(error))], error.code)


def _coded(error: GraphQLError, code: str) -> GraphQLError:
    error.message = wording.null(error.message)
    error.extensions = {**(error.extensions or {}), "code": code}
    return error


def _shown(error: GraphQLError) -> dict[str, Any]:
    return {**error.formatted, "message": wording.short(error.message)}


def formatted(error: GraphQLError, request_id: str) -> dict[str, Any]:
    """An error as the caller may see it. Unexpected errors are logged and masked."""
    cause = error.original_error
    if isinstance(cause, RequestError) or (cause is None and error.extensions):
        return _shown(error)
    if cause is None or isinstance(cause, GraphQLError):
        return _shown(_coded(error, BadUserInput.code))
    log.error("request %s failed in %s: %s", request_id, error.path, outline(cause))
    masked = {"message": MASKED, "path": error.path}
    locations = error.formatted.get("locations")
    extensions = {"code": RequestError.code, "requestId": request_id}
    return masked | ({"locations": locations} if locations else {}) | {"extensions": extensions}
