"""A small OpenTelemetry collector: keeps the spans that are sent to it, as they came."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc


@dataclass(frozen=True)
class Span:
    """One span, and who sent it."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str]
    seconds: float


@dataclass
class Collector(pb_grpc.TraceServiceServicer):
    """What was sent. `raw` is every byte of it, to look for what must not be there."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    _lock: Any = field(default_factory=threading.Lock)

    def Export(self, request: Any, context: Any) -> Any:
        """Keep the spans."""
        with self._lock:
            self.raw += request.SerializeToString()
            for sent in request.resource_spans:
                service = _attributes(sent.resource.attributes)["service.name"]
                for scope in sent.scope_spans:
                    self.spans += [_span(service, span) for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    def of_trace(self, trace_id: str) -> list[Span]:
        """Return the spans of one trace."""
        with self._lock:
            return [span for span in self.spans if span.trace_id == trace_id]


def _span(service: str, span: Any) -> Span:
    return Span(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _attributes(span.attributes),
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _attributes(pairs: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in pairs}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on loopback."""
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    pb_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    collector.endpoint = f"http://127.0.0.1:{port}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(0).wait(5)
