"""Traces: how a trace travels between our processes, and the spans that both daemons make of it.

Off by default, and then free: nothing of OpenTelemetry is imported, every function returns at
once. `start` turns it on for the process. A trace begins with a call of the API (or in whoever
calls it, by the metadata `traceparent`, W3C Trace Context) and with nothing else: `span` outside a
trace does nothing, so that loops and timers make none. What goes on later and elsewhere takes the
trace up again with `continued`, from the text that was kept with the operation.

Spans carry ids, names and reasons. Never messages, requests or anything a user wrote: a trace
leaves the cloud. What cannot be exported in time is dropped: a dead collector costs a full queue.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from unkai_wire.errors import FailedPrecondition, UnkaiError

if TYPE_CHECKING:
    from unkai_wire.tls import TlsFiles

KEY = "traceparent"
"""The metadata's key, as https://www.w3.org/TR/trace-context/ names it."""
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
QUEUE_SPANS = 2048
"""Spans that wait for the collector at most; more are dropped."""
EXPORT_S = 5.0
"""One export may take so long."""
STOP_S = 2.0
"""So long the last spans may take at the end of the process."""
_LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})

_tracer: Any = None


@dataclass(frozen=True, slots=True)
class Options:
    """Where spans go, and who says so."""

    service: str
    """`unkai-scheduler` or `unkai-agent`."""
    name: str
    """Of this scheduler or host."""
    version: str
    endpoint: str
    """`https://HOST:PORT` of a collector (OTLP over gRPC); `http` on this machine only."""
    sample_ratio: float
    tls: TlsFiles


def check_endpoint(text: str) -> str:
    """Return the text when it is a collector's address or empty; raise ValueError otherwise."""
    if not text:
        return text
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port is None:
        raise ValueError(f"{text!r} is not https://HOST:PORT")
    if parts.scheme == "http" and parts.hostname not in _LOCAL:
        raise ValueError(f"{text!r} would send traces in plain text: write https://HOST:PORT")
    return text


def start(options: Options) -> Callable[[], None]:
    """Make spans from now on; return what ends that, which takes 2 s at most.

    Raises `FailedPrecondition` / TRACING_NOT_INSTALLED.
    """
    global _tracer  # noqa: PLW0603 - a process has one tracer, as it has one log
    try:
        provider = _provider(options)
    except ImportError as error:
        raise FailedPrecondition(
            f"tracing is on (tracing.endpoint is {options.endpoint}), but OpenTelemetry is not "
            "installed",
            reason="TRACING_NOT_INSTALLED",
            fix="run pip install 'unkai[tracing]', or empty tracing.endpoint",
        ) from error
    _tracer = provider.get_tracer("unkai", options.version)

    def stop() -> None:
        global _tracer  # noqa: PLW0603
        _tracer = None
        ending = threading.Thread(target=provider.shutdown, name="tracing-stop", daemon=True)
        ending.start()
        ending.join(STOP_S)

    return stop


def _provider(options: Options) -> Any:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    # It says of each span batch that the collector is away; the daemon's log is not for that.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    plain = options.endpoint.startswith("http://")
    exporter = OTLPSpanExporter(
        endpoint=options.endpoint,
        insecure=plain,
        credentials=None if plain else options.tls.channel_credentials(),
        timeout=EXPORT_S,
    )
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(options.sample_ratio)),
        resource=Resource.create(
            {
                "service.name": options.service,
                "service.instance.id": options.name,
                "service.version": options.version,
            }
        ),
        shutdown_on_exit=False,
    )
    processor = BatchSpanProcessor(
        exporter,
        max_queue_size=QUEUE_SPANS,
        schedule_delay_millis=1000,
        max_export_batch_size=QUEUE_SPANS // 4,
        export_timeout_millis=EXPORT_S * 1000,
    )
    provider.add_span_processor(processor)
    return provider


def is_on() -> bool:
    """Tell whether this process makes spans."""
    return _tracer is not None


def traceparent() -> str:
    """Return the trace that we are in as text to keep or to send; "" outside of any."""
    if _tracer is None:
        return ""
    context = _current()
    if not context.is_valid or not context.trace_flags.sampled:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


@contextmanager
def continued(parent: str) -> Iterator[None]:
    """Be in the trace that was kept as text while this lasts; in none when it is empty."""
    if _tracer is None:
        yield
        return
    from opentelemetry import context

    token = context.attach(_context_of(parent))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def span(name: str, **attributes: str) -> Iterator[None]:
    """Make a span of what happens inside, if we are in a trace. It fails with what fails in it."""
    if _tracer is None or not _current().is_valid:
        yield
        return
    with _spanned(name, "INTERNAL", attributes):
        yield


def record(name: str, parent: str, took_s: float, attributes: Mapping[str, str]) -> None:
    """Make a span of what has just ended, in the trace that was kept as text."""
    if _tracer is None or not parent:
        return
    end_ns = time.time_ns()
    made = _tracer.start_span(
        name,
        context=_context_of(parent),
        start_time=end_ns - int(took_s * 1e9),
        attributes=dict(attributes),
    )
    made.end(end_ns)


def server_interceptors(*, begins: bool) -> Sequence[Any]:
    """Return the interceptors that make a span of each call with one answer; none when off.

    `begins`: a call that comes without a trace begins one.
    """
    return [_server_interceptor(begins=begins)] if _tracer is not None else []


def client_interceptors() -> Sequence[Any]:
    """Return the interceptors of a channel that take the trace along; none when off."""
    return [_client_interceptor()] if _tracer is not None else []


def is_traceparent(text: str) -> bool:
    """Tell whether a text is a `traceparent` of the version that we know."""
    return _TRACEPARENT.fullmatch(text) is not None


def _current() -> Any:
    from opentelemetry import trace

    return trace.get_current_span().get_span_context()


def _context_of(parent: str) -> Any:
    """Return the context of a kept trace; an empty one when it is none."""
    from opentelemetry import trace
    from opentelemetry.context import Context

    if not is_traceparent(parent):
        return Context()
    _, trace_id, span_id, flags = parent.split("-")
    remote = trace.SpanContext(
        int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16))
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), Context())


@contextmanager
def _spanned(name: str, kind: str, attributes: Mapping[str, str]) -> Iterator[None]:
    from opentelemetry.trace import SpanKind, Status, StatusCode

    with _tracer.start_as_current_span(
        name,
        kind=SpanKind[kind],
        attributes=dict(attributes),
        record_exception=False,  # its text may say what nobody outside shall read
        set_status_on_exception=False,
    ) as made:
        try:
            yield
        except BaseException as error:
            reason = error.reason if isinstance(error, UnkaiError) else type(error).__name__
            made.set_status(Status(StatusCode.ERROR, reason))
            raise


def _server_interceptor(*, begins: bool) -> Any:
    import grpc

    from unkai_wire.rpc_errors import wrap_handler

    class TraceInterceptor(grpc.aio.ServerInterceptor):
        """Makes a span of each call; what streams may last for days and has none."""

        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            method = str(handler_call_details.method).lstrip("/")
            sent = dict(handler_call_details.invocation_metadata or ()).get(KEY, "")
            parent = sent if isinstance(sent, str) and is_traceparent(sent) else ""

            def unary(behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
                async def call(request: Any, context: Any) -> Any:
                    if _tracer is None or not (parent or begins):
                        return await behaviour(request, context)
                    with continued(parent), _spanned(method, "SERVER", {"rpc.system": "grpc"}):
                        return await behaviour(request, context)

                return call

            return wrap_handler(handler, unary, lambda behaviour: behaviour)

    return TraceInterceptor()


def _client_interceptor() -> Any:
    import grpc

    class TraceInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
        """Makes a span of a call and sends it along."""

        async def intercept_unary_unary(
            self, continuation: Any, client_call_details: Any, request: Any
        ) -> Any:
            if _tracer is None or not _current().is_valid:
                return await continuation(client_call_details, request)
            method = client_call_details.method
            name = (method.decode() if isinstance(method, bytes) else str(method)).lstrip("/")
            with _spanned(name, "CLIENT", {"rpc.system": "grpc"}):
                metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()))
                if sent := traceparent():
                    metadata.add(KEY, sent)
                details = grpc.aio.ClientCallDetails(
                    client_call_details.method,
                    client_call_details.timeout,
                    metadata,
                    client_call_details.credentials,
                    client_call_details.wait_for_ready,
                )
                call = await continuation(details, request)
                return await call

    return TraceInterceptor()
