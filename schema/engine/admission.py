"""Whether a request may run, and what it costs: every transport asks here before anything is executed."""

from dataclasses import dataclass
from functools import partial

from graphql import OperationType

from app.errors import IntrospectionRefused, MethodNotAllowed, RequestError
from app.identity.tokens import Principal
from app.observability.metrics import MISS, tally
from app.operations import GraphQLRequest
from app.sharing.preparing import Preparation
from app.sharing.rate_limits import Rates
from schema.engine.document_limits import count_values
from schema.engine.execution import Engine, Operation
from schema.engine.persisted import Documents

# What it is worth, in rows, to parse, validate and plan a document that was not seen before: at least, and for a field.
ROWS_OF_A_DOCUMENT = 100
ROWS_OF_A_FIELD = 10
# Variables are counted where their request has more bytes than these beside its document, and are then brought into
# form off the event loop where they have more values than these.
FEW_BYTES = 1000
FEW_VALUES = 200


@dataclass(frozen=True, slots=True)
class Admission:
    """The door of a server. `introspection` says who may see the schema: `on` everybody, `authenticated`, `off`."""

    engine: Engine
    documents: Documents
    rates: Rates
    preparation: Preparation
    introspection: str

    async def admit(self, request: GraphQLRequest, caller: Principal | RequestError) -> tuple[Operation, int]:
        """The operation of a request and its cost in rows; RequestError or RequestErrors where it may not run."""
        payer, is_user = request.payer, isinstance(caller, Principal)
        query = self.documents.text(request.query, request.document_id, payer, is_user=is_user)
        operation = self.engine.known(query, request.operation_name, payer, is_user=is_user)
        if operation is None:
            operation = await self._prepared(query, request, is_user=is_user)
        else:
            tally.hits += 1
        if request.variables and request.size > len(query) + FEW_BYTES:
            request.is_large = count_values(request.variables) > FEW_VALUES
        rows = operation.cost.of(request.variables)
        self._check(operation, rows, request, caller)
        if waits := self.rates.charge(payer, rows, is_user=is_user):
            await waits
        if request.document_id is not None:
            self.documents.keep(query, request.document_id, operation.tokens, payer, is_user=is_user)
        return operation, rows

    async def _prepared(self, query: str, request: GraphQLRequest, *, is_user: bool) -> Operation:
        """An operation that is not known yet. It is charged before and, by its size, afterwards."""
        MISS.inc()
        payer, name = request.payer, request.operation_name
        if waits := self.rates.charge(payer, ROWS_OF_A_DOCUMENT, is_user=is_user):
            await waits
        operation = await self.preparation.run(payer, partial(self.engine.prepared_once, query, name), is_user=is_user)
        self.engine.keep(query, name, operation, payer, is_user=is_user)
        more = ROWS_OF_A_FIELD * operation.size.fields - ROWS_OF_A_DOCUMENT
        if more > 0 and (waits := self.rates.charge(payer, more, is_user=is_user)):
            await waits
        return operation

    def _check(
        self, operation: Operation, rows: int, request: GraphQLRequest, caller: Principal | RequestError
    ) -> None:
        self.engine.gauge.afford(rows)
        if request.safe and operation.node.operation is OperationType.MUTATION:
            raise MethodNotAllowed("By GET nothing can be changed; send mutations by POST.")
        if operation.size.introspection and self.introspection != "on":
            self._check_introspection(caller)

    def _check_introspection(self, caller: Principal | RequestError) -> None:
        if self.introspection == "off":
            raise IntrospectionRefused("This server does not show its schema.")
        if isinstance(caller, RequestError):
            raise caller
