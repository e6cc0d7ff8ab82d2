"""Internals of libraries that TaskQL relies on: a change in a library fails here by name."""

from types import FunctionType
from typing import Any

import asyncpg
import pytest
from conftest import Server, connect
from graphql import (
    GraphQLArgument,
    GraphQLField,
    GraphQLInt,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLSchema,
    GraphQLString,
)
from prometheus_client import CollectorRegistry, Histogram
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.observability.metrics import Latencies
from app.shapes import require
from app.web.http_protocol import BoundedRequests
from app.web.socket_protocol import BoundedSockets
from schema.engine.execution import Engine, Rendered
from schema.engine.single import RENDERED

HANDLERS = {"__init__", "connection_made", "connection_lost", "data_received", "resume_writing", "shutdown"}
PARSED = {"on_headers_complete", "on_body", "on_message_complete", "on_response_complete"}
OVERRIDDEN = {
    BoundedRequests: HANDLERS | PARSED | {"_should_upgrade", "_start_asgi_task"},
    BoundedSockets: HANDLERS - {"resume_writing"}
    | {"start_keepalive", "handle_ping", "__init__", "run_asgi", "send_500_response"}
    | {"handle_parser_exception", "receive", "send_receive_event_to_app"},
}
INFO = [
    *("field_name", "field_nodes", "return_type", "parent_type", "path", "schema", "fragments", "root_value"),
    *("operation", "variable_values", "context", "is_awaitable", "abort_signal", "async_helpers"),
]


def test_what_is_required_is_named() -> None:
    """With an incompatible library the server does not start, and names what it relies on."""
    require(holds=True, relied_on="Nothing was said.")
    with pytest.raises(ImportError, match=r"differs .* It had a name\. Install the versions that requirements/ pins\."):
        require(holds=False, relied_on="It had a name.")


@pytest.mark.parametrize("ours", OVERRIDDEN)
def test_protocols_override_what_uvicorn_calls(ours: type) -> None:
    """Exactly these methods override uvicorn's: a renamed one would never be called."""
    theirs: type = HttpToolsProtocol if ours is BoundedRequests else WebSocketsSansIOProtocol
    own = {name for name, value in vars(ours).items() if isinstance(value, FunctionType)}

    assert own & set(dir(theirs)) == OVERRIDDEN[ours]


async def test_a_connection_has_a_socket(server: Server) -> None:
    """An asyncpg connection exposes its socket, which is checked for a closed connection before use."""
    connection: Any = await connect(server.owner_url)
    try:
        assert connection._transport.get_extra_info("socket").fileno() > 0  # noqa: SLF001 - as Connection does
    finally:
        await connection.close()
    assert hasattr(asyncpg.Connection, "_transport")


def test_latencies_are_what_a_histogram_counts() -> None:
    """Latencies added in bulk equal single observations."""
    registry = CollectorRegistry()
    buckets = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
    together, single = (Histogram(name, "", buckets=buckets, registry=registry) for name in ("together", "single"))
    latencies = Latencies(together)
    for seconds in (0.0, 0.001, 0.0011, 0.3, 0.3, 5.0, 7.0):
        latencies.add(seconds)
        single.observe(seconds)
    latencies.settle()

    def samples(histogram: Histogram) -> list[Any]:
        found = [sample for metric in histogram.collect() for sample in metric.samples]
        return [(sample.name.partition("_")[2], sample.labels, sample.value) for sample in found]

    assert [one for one in samples(together) if one[0] != "created"] == [
        one for one in samples(single) if one[0] != "created"
    ]


def test_resolve_info_has_its_fields_in_this_order() -> None:
    """Variables and context are inserted into GraphQLResolveInfo by position."""
    assert list(GraphQLResolveInfo._fields) == INFO


async def test_a_single_field_is_told_what_graphql_core_tells() -> None:
    """A single root field gets the same info directly as from graphql-core."""
    told: list[GraphQLResolveInfo[Any]] = []

    async def resolve(_source: None, info: GraphQLResolveInfo[Any], **_arguments: Any) -> Rendered:
        told.append(info)
        return Rendered("x")

    field = GraphQLField(GraphQLString, {"number": GraphQLArgument(GraphQLInt)}, resolve, extensions={RENDERED: True})
    engine = Engine(GraphQLSchema(GraphQLObjectType("Query", {"field": field})))
    operation = engine.prepared("query ($number: Int) { it: field(number: $number) }", None)
    assert operation.single
    context = object()

    for _ in range(2):
        await engine.execute(operation, {"number": 7}, context)  # type: ignore[arg-type]  # its attributes are not used
        operation.single = None

    direct, executed = (info._asdict() for info in told)
    assert direct.keys() == executed.keys()
    assert direct["variable_values"].coerced == executed["variable_values"].coerced == {"number": 7}
    assert direct["context"] is executed["context"] is context
    helpers = ("variable_values", "context", "async_helpers", "is_awaitable")
    for name in direct.keys() - set(helpers):
        assert direct[name] == executed[name], name
