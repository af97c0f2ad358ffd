"""Traces, metrics and logs of a service.

- Traces and metrics are OpenTelemetry's. Without a collector configured the API's no-op spans cost next to nothing.
- A trace crosses HTTP, NATS and SQL in the W3C `traceparent` header; `wardmesh.server.database` adds the SQL spans.
- Logs are JSON lines on standard error, each with the request's id, trace, principal and (if it is one) agent.

What always holds: no body, no header and no exception text is ever attached to a span, a metric or a log line.
Standard library loggers are the interface, so libraries' lines come out in the same form.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import structlog
from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanKind, Status, StatusCode

from wardmesh.headers import TRACE_PARENT
from wardmesh.ids import AgentId, Principal, RequestId
from wardmesh.subjects import RpcSubject

_tracer = trace.get_tracer("wardmesh")
_meter = metrics.get_meter("wardmesh")
_calls = _meter.create_counter("wardmesh.calls", unit="{call}", description="Requests answered, by operation and code")
_duration = _meter.create_histogram("wardmesh.call.duration", unit="s", description="Time from arrival to answer")
_NANOSECONDS: Final = 1e9


class RequestContext(NamedTuple):
    """What every log line of a request says."""

    request_id: RequestId
    principal: Principal
    operation: str


_current: ContextVar[RequestContext | None] = ContextVar("wardmesh_request", default=None)


@dataclass(slots=True)
class ServerSpan:
    """The span of one request."""

    span: Span
    trace_id: str | None

    def fail(self, code: str) -> None:
        """Mark the request as refused or failed with this error code."""
        if self.span.is_recording():
            self.span.set_status(Status(StatusCode.ERROR, code))
            self.span.set_attribute("error.type", code)


def is_tracing() -> bool:
    """Tell whether anybody keeps spans; making ones that nobody keeps costs a request a tenth of its time."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def server_span(
    operation: str, subject: RpcSubject, request_id: RequestId, headers: Mapping[str, str], *, tracing: bool = True
) -> AbstractContextManager[ServerSpan]:
    """Continue the caller's trace while a request is answered, and put its ids on every log line.

    `tracing` is what `is_tracing` said when the process began: asking costs as much as a gate.
    """
    context = RequestContext(request_id, subject.principal, operation)
    if not tracing and TRACE_PARENT not in headers:
        return _Untraced(context)
    return _traced(context, subject, headers)


class _Untraced:
    """What a request is wrapped in when nobody keeps spans: its ids for the log, and nothing else."""

    __slots__ = ("_context", "_reset")

    def __init__(self, context: RequestContext) -> None:
        self._context = context

    def __enter__(self) -> ServerSpan:
        self._reset = _current.set(self._context)
        return _NO_SPAN

    def __exit__(self, *_: object) -> None:
        _current.reset(self._reset)


_NO_SPAN: Final = ServerSpan(trace.INVALID_SPAN, None)


@contextmanager
def _traced(context: RequestContext, subject: RpcSubject, headers: Mapping[str, str]) -> Iterator[ServerSpan]:
    parent = propagate.extract(headers) if TRACE_PARENT in headers else None
    reset = _current.set(context)
    try:
        with _tracer.start_as_current_span(
            context.operation,
            context=parent,
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if span.is_recording():
                span.set_attributes(
                    {
                        "rpc.system": "nats",
                        "rpc.service": subject.service,
                        # As declared: what a subject says may be any word, a secret in the wrong place among them.
                        "rpc.method": context.operation.partition(".")[2],
                        "wardmesh.scope": subject.scope,
                        "wardmesh.principal": subject.principal,
                        "wardmesh.request_id": context.request_id,
                    }
                )
            present = span.get_span_context()
            yield ServerSpan(span, format(present.trace_id, "032x") if present.is_valid else None)
    finally:
        _current.reset(reset)


@contextmanager
def consumer_span(name: str, headers: Mapping[str, str] | None) -> Iterator[Span]:
    """Continue the trace of a message read from a stream."""
    parent = propagate.extract(headers) if headers and TRACE_PARENT in headers else None
    with _tracer.start_as_current_span(
        name, context=parent, kind=SpanKind.CONSUMER, record_exception=False, set_status_on_exception=False
    ) as span:
        yield span


def trace_parent() -> str | None:
    """Return the present span as a `traceparent` header, or None if there is none."""
    span = trace.get_current_span()
    if isinstance(span, NonRecordingSpan) and not span.get_span_context().is_valid:
        return None
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get(TRACE_PARENT)


def record_call(operation: str, code: str, nanoseconds: int) -> None:
    """Count one answered request."""
    attributes = {"operation": operation, "code": code}
    _calls.add(1, attributes)
    _duration.record(nanoseconds / _NANOSECONDS, attributes)


def configure_logging(service: str, level: str) -> None:
    """Write JSON lines to standard error from now on."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _context_of(service),
        _without_exception_text,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Their lines quote URLs, protocol frames and bodies; ours say what happened without them.
    for chatty in ("nats", "faststream", "asyncio", "uvicorn.access", "httpcore2", "httpx2", "urllib3"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def configure_export(service: str, endpoint: str | None) -> None:
    """Send traces and metrics to the collector at `endpoint` (OTLP over HTTP); without one, keep none."""
    if endpoint is None:
        return
    # Imported here: the exporters pull in much that a mesh without a collector never needs.
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": f"wardmesh-{service}"})
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    trace.set_tracer_provider(tracers)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{endpoint.rstrip('/')}/v1/metrics"))
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[reader]))


def _context_of(service: str) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        context = _current.get()
        if context is not None:
            event.setdefault("request_id", context.request_id)
            event.setdefault("principal", context.principal)
            event.setdefault("operation", context.operation)
            if isinstance(context.principal, AgentId):
                event.setdefault("agent", context.principal)
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            event["trace_id"] = format(span.trace_id, "032x")
            event["span_id"] = format(span.span_id, "016x")
        return event

    return add


def _without_exception_text(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep the type of an exception; its text may quote a body."""
    exc_info = event.pop("exc_info", None)
    event.pop("stack_info", None)
    if isinstance(exc_info, tuple) and exc_info[0] is not None:
        event["error_type"] = exc_info[0].__name__
    elif isinstance(exc_info, BaseException):
        event["error_type"] = type(exc_info).__name__
    return event
