"""Traces by OpenTelemetry's instrumentation. Imported only if tracing is on, as `taskql[otel]` is optional."""

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.trace import Status
from starlette.types import ASGIApp

from app.observability.metrics import Record
from app.settings import Settings

# The attributes that spans are exported with, in OpenTelemetry's old and new semantic conventions. All others are
# dropped, such as SQL.
SHOWN = frozenset(
    {
        *("http.method", "http.request.method", "http.status_code", "http.response.status_code", "http.scheme"),
        *("http.flavor", "http.host", "http.server_name", "http.target", "http.url", "http.route", "http.user_agent"),
        *("url.path", "url.scheme", "user_agent.original", "client.address", "client.port", "server.address"),
        *("server.port", "network.peer.address", "network.peer.port", "network.protocol.version", "network.transport"),
        *("net.host.name", "net.host.port", "net.peer.ip", "net.peer.name", "net.peer.port", "net.transport"),
        *("db.system", "db.system.name", "db.name", "db.namespace", "db.user", "error.type"),
        *("graphql.operation.name", "graphql.operation.type", "taskql.code", "taskql.request_id"),
    }
)
EXCEPTION_TYPE = "exception.type"


class Tracing:
    """Traces of one server process."""

    def __init__(self, settings: Settings) -> None:
        self._provider = TracerProvider(resource=_resource())
        exporter = OTLPSpanExporter() if settings.traces == "otlp" else ConsoleSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(Redacting(exporter)))
        self._statements = AsyncPGInstrumentor()  # type: ignore[no-untyped-call]  # it has no annotations
        self._statements.instrument(tracer_provider=self._provider)

    def around(self, app: ASGIApp) -> ASGIApp:
        """Wrap the application, so that each request has a span."""
        return OpenTelemetryMiddleware(app, tracer_provider=self._provider, exclude_spans=["receive", "send"])

    def describe(self, record: Record, code: str) -> None:
        """Add the operation and the code to the span of a request."""
        span = trace.get_current_span()
        span.set_attributes({"taskql.code": code, "taskql.request_id": record.request_id})
        if record.operation:
            span.set_attributes({"graphql.operation.name": record.operation, "graphql.operation.type": record.kind})

    def close(self) -> None:
        """Export the pending spans."""
        self._statements.uninstrument()
        self._provider.shutdown()


class Redacting(SpanExporter):
    """Exports spans without SQL, query strings and error text."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([_redacted(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _redacted(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        span.name,
        span.context,
        span.parent,
        span.resource,
        _shown(span.attributes or {}),
        [_outlined(event) for event in span.events],
        span.links,
        span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _shown(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.partition("?")[0] if isinstance(value, str) else value
        for name, value in attributes.items()
        if name in SHOWN
    }


def _outlined(event: Event) -> Event:
    kind = (event.attributes or {}).get(EXCEPTION_TYPE)
    return Event(event.name, {EXCEPTION_TYPE: kind} if kind else {}, event.timestamp)


def _resource() -> Resource:
    """The resource from OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES; the service name defaults to `taskql`."""
    named = Resource.create()
    is_unnamed = str(named.attributes[SERVICE_NAME]).startswith("unknown_service")
    return named.merge(Resource({SERVICE_NAME: "taskql"})) if is_unnamed else named
