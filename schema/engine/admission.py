"""Admits requests for execution, and charges them. Every transport uses it before it executes anything."""

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

# The cost, in rows, of parsing, validating and planning a new document: the minimum, and per field.
ROWS_OF_A_DOCUMENT = 100
ROWS_OF_A_FIELD = 10
# Variables are counted if their request has more than this many bytes besides its document. If they have more than this
# many values, they are coerced on a thread.
FEW_BYTES = 1000
FEW_VALUES = 200


@dataclass(frozen=True, slots=True)
class Admission:
    """Admits requests. `introspection` is the setting: who may query the schema."""

    engine: Engine
    documents: Documents
    rates: Rates
    preparation: Preparation
    introspection: str

    async def admit(self, request: GraphQLRequest, caller: Principal | RequestError) -> tuple[Operation, int]:
        """The operation of a request, and its cost in rows; raises RequestError or RequestErrors if it is rejected."""
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
        """Prepare a new operation. It is charged the minimum before, and the rest by its size afterwards."""
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
        self.engine.gauge.check_cost(rows)
        if request.safe and operation.node.operation is OperationType.MUTATION:
            raise MethodNotAllowed("Mutations cannot be sent by GET; use POST.")
        if operation.size.introspection and self.introspection != "on":
            self._check_introspection(caller)

    def _check_introspection(self, caller: Principal | RequestError) -> None:
        if self.introspection == "off":
            raise IntrospectionRefused("Introspection is disabled on this server.")
        if isinstance(caller, RequestError):
            raise caller
