"""Whether a request may run, and what it costs: every transport asks here before anything is executed."""

from dataclasses import dataclass

from graphql import OperationType

from app.auth import Principal
from app.errors import IntrospectionRefused, MethodNotAllowed, RequestError
from app.operations import GraphQLRequest
from app.persisted import Documents
from app.rate import Rates, network
from app.telemetry import MISS, tally
from schema.execution import Engine, Operation
from schema.limits import MOST_VALUES, check_variables

# What it is worth, in rows, to parse, validate and plan a document that was not seen before.
ROWS_OF_A_DOCUMENT = 100


@dataclass(frozen=True, slots=True)
class Admission:
    """The door of a server. `introspection` says who may see the schema: `on` everybody, `authenticated`, `off`."""

    engine: Engine
    documents: Documents
    rates: Rates
    introspection: str

    async def admit(self, request: GraphQLRequest, caller: Principal | RequestError) -> tuple[Operation, int]:
        """The operation of a request and its cost in rows; RequestError or RequestErrors where it may not run."""
        is_user = isinstance(caller, Principal)
        payer = str(caller.user_id) if isinstance(caller, Principal) else network(request.address)
        query = self.documents.text(request.query, request.document_id)
        operation = self.engine.known(query, request.operation_name)
        if operation is None:
            MISS.inc()
            await self._charge(payer, ROWS_OF_A_DOCUMENT, is_user=is_user)
            operation = self.engine.prepare(query, request.operation_name)
        else:
            tally.hits += 1
        rows = operation.cost.of(request.variables)
        self._check(operation, rows, request, caller)
        await self._charge(payer, rows, is_user=is_user)
        self.documents.keep(request.query, request.document_id)
        return operation, rows

    async def _charge(self, payer: str, rows: int, *, is_user: bool) -> None:
        if waits := self.rates.charge(payer, rows, is_user=is_user):
            await waits

    def _check(
        self, operation: Operation, rows: int, request: GraphQLRequest, caller: Principal | RequestError
    ) -> None:
        self.engine.gauge.afford(rows)
        if request.variables and request.size > MOST_VALUES:
            check_variables(request.variables)
        if request.safe and operation.node.operation is OperationType.MUTATION:
            raise MethodNotAllowed("By GET nothing can be changed; send mutations by POST.")
        if operation.introspects and self.introspection != "on":
            self._check_introspection(caller)

    def _check_introspection(self, caller: Principal | RequestError) -> None:
        if self.introspection == "off":
            raise IntrospectionRefused("This server does not show its schema.")
        if isinstance(caller, RequestError):
            raise caller
