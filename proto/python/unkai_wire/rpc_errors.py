"""Errors across gRPC, both ways: class to status, status to class.

The only place where a status code is chosen. A server installs `ErrorInterceptor`; a client
calls `from_rpc_error` in its adapter. The status travels in the trailing metadata
`grpc-status-details-bin` as google.rpc.Status with google.rpc.ErrorInfo and, by class, BadRequest,
ResourceInfo, PreconditionFailure, QuotaFailure, RetryInfo, RequestInfo. The trap: a client refuses
a whole answer whose trailing metadata exceeds 8 KiB, so what is sent is bounded.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2

from unkai_wire import errors

STATUS_KEY = "grpc-status-details-bin"
MAX_STATUS_BYTES = 4096
"""Largest status sent. In base64, and with the message once more, it stays below the 8,192 bytes of
metadata that gRPC accepts (`grpc.max_metadata_size`, gRPC core's channel arguments)."""
MAX_MESSAGE_BYTES = 700
"""Largest message beside the details: percent-encoding may triple it."""
_MAX_SHORTENED = 16
_MAX_SHORTENED_TEXT = 48
_BROKEN_STREAM = "Internal error from Core"
"""What grpc.aio (1.85) says in place of the server's status when a write comes too late."""
_TOO_LARGE = "message larger than max"
"""In what gRPC core says of a message over `grpc.max_receive_message_length`."""
_FIX = "fix"
_LOG = logging.getLogger("unkai.rpc")

_CODE_OF_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_CLASS_OF_CODE: dict[int, type[errors.UnkaiError]] = {
    c.code: c for c in reversed(errors.CLASSES.values())
}


def status_code(error: errors.UnkaiError) -> grpc.StatusCode:
    """Return the gRPC code of an error."""
    return _CODE_OF_NUMBER[error.code]


def to_status(error: errors.UnkaiError) -> status_pb2.Status:
    """Return the error as google.rpc.Status with its details."""
    metadata = dict(error.metadata)
    if error.fix:
        metadata[_FIX] = error.fix
    if isinstance(error, errors.NoCapacity):
        metadata |= {f"reason.{k}": str(v) for k, v in error.reasons.items()}
    messages: list[Any] = [
        details_pb2.ErrorInfo(reason=error.reason, domain=errors.ERROR_DOMAIN, metadata=metadata)
    ]
    match error:
        case errors.InvalidArgument():
            violations = [
                details_pb2.BadRequest.FieldViolation(field=f, description=d)
                for f, d in error.violations
            ]
            messages.append(details_pb2.BadRequest(field_violations=violations))
        case errors.NotFound() | errors.AlreadyExists():
            messages.append(
                details_pb2.ResourceInfo(
                    resource_type=error.resource_kind, resource_name=error.resource
                )
            )
        case errors.FailedPrecondition():
            violation = details_pb2.PreconditionFailure.Violation(
                type=error.reason, description=error.message
            )
            messages.append(details_pb2.PreconditionFailure(violations=[violation]))
        case errors.QuotaExceeded() | errors.NoCapacity():
            messages.append(
                details_pb2.QuotaFailure(
                    violations=[
                        details_pb2.QuotaFailure.Violation(
                            subject=error.reason, description=error.message
                        )
                    ]
                )
            )
        case errors.Unavailable():
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(int(error.retry_after_s * 1000))
            messages.append(details_pb2.RetryInfo(retry_delay=delay))
        case _:
            pass
    if error.request_id:
        messages.append(details_pb2.RequestInfo(request_id=error.request_id))
    status = status_pb2.Status(code=error.code, message=error.message)
    for message in messages:
        packed = any_pb2.Any()
        packed.Pack(message)
        status.details.append(packed)
    return status


def bounded_status(error: errors.UnkaiError) -> status_pb2.Status:
    """Return the error's status, shortened where it would be too large to be sent."""
    status = to_status(error)
    return status if status.ByteSize() <= MAX_STATUS_BYTES else to_status(_shortened(error))


def _shortened(error: errors.UnkaiError) -> errors.UnkaiError:
    """Return the error with fewer and shorter texts; class and reason stay."""
    record = error.to_record()
    details = record["details"]
    if "violations" in details:
        details["violations"] = [
            [_cut(text) for text in violation] for violation in details["violations"]
        ][:_MAX_SHORTENED]
    for key in ("resource_kind", "resource"):
        if key in details:
            details[key] = _cut(details[key])
    if "reasons" in details:
        details["reasons"] = dict(list(details["reasons"].items())[:_MAX_SHORTENED])
    short = errors.UnkaiError.from_record(
        record
        | {
            "message": _cut(error.message, MAX_MESSAGE_BYTES // 4),
            "fix": _cut(error.fix, MAX_MESSAGE_BYTES // 4),
            "metadata": {
                _cut(k): _cut(v) for k, v in list(error.metadata.items())[:_MAX_SHORTENED]
            },
        }
    )
    short.request_id = _cut(error.request_id)
    return short


def _cut(text: str, most_bytes: int = _MAX_SHORTENED_TEXT) -> str:
    """Return the text, cut to so many bytes of UTF-8; the cut shows as an ellipsis."""
    raw = text.encode(errors="replace")
    return text if len(raw) <= most_bytes else raw[: most_bytes - 3].decode(errors="ignore") + "…"


def from_status(status: status_pb2.Status) -> errors.UnkaiError:
    """Return the error that a google.rpc.Status stands for."""
    kind = _CLASS_OF_CODE.get(status.code, errors.Internal)
    info, extra, request_id = details_pb2.ErrorInfo(), dict[str, Any](), ""
    for packed in status.details:
        if packed.Is(details_pb2.ErrorInfo.DESCRIPTOR):
            packed.Unpack(info)
        elif packed.Is(details_pb2.BadRequest.DESCRIPTOR):
            bad = details_pb2.BadRequest()
            packed.Unpack(bad)
            extra["violations"] = [(v.field, v.description) for v in bad.field_violations]
        elif packed.Is(details_pb2.ResourceInfo.DESCRIPTOR):
            resource = details_pb2.ResourceInfo()
            packed.Unpack(resource)
            extra["resource_kind"] = resource.resource_type
            extra["resource"] = resource.resource_name
        elif packed.Is(details_pb2.RetryInfo.DESCRIPTOR):
            retry = details_pb2.RetryInfo()
            packed.Unpack(retry)
            extra["retry_after_s"] = retry.retry_delay.ToMilliseconds() / 1000
        elif packed.Is(details_pb2.RequestInfo.DESCRIPTOR):
            request = details_pb2.RequestInfo()
            packed.Unpack(request)
            request_id = request.request_id
    metadata = dict(info.metadata)
    fix = metadata.pop(_FIX, "")
    if kind.code == errors.NoCapacity.code:
        reasons = {k[7:]: int(metadata.pop(k)) for k in list(metadata) if k.startswith("reason.")}
        kind = errors.QuotaExceeded if info.reason.startswith("QUOTA") else errors.NoCapacity
        if kind is errors.NoCapacity:
            extra["reasons"] = reasons
    reason = info.reason if info.domain == errors.ERROR_DOMAIN else ""
    return kind(
        status.message, reason=reason, fix=fix, metadata=metadata, request_id=request_id, **extra
    )


def _status_of(raw: str | bytes) -> status_pb2.Status:
    status = status_pb2.Status()
    status.ParseFromString(raw if isinstance(raw, bytes) else raw.encode())
    return status


def from_rpc_error(error: grpc.RpcError) -> errors.UnkaiError:
    """Return the error behind a failed call, ours or gRPC's own."""
    trailing = getattr(error, "trailing_metadata", lambda: None)() or ()
    for key, value in trailing:
        if key == STATUS_KEY:
            try:
                return from_status(_status_of(value))
            except (DecodeError, ValueError):
                break  # who answers so does not speak our language: gRPC's own code must do
    code: grpc.StatusCode = getattr(error, "code", lambda: grpc.StatusCode.UNKNOWN)()
    text: str = getattr(error, "details", lambda: "")() or str(code)
    if code is grpc.StatusCode.INTERNAL and text == _BROKEN_STREAM:
        return errors.Unavailable(
            "the call ended while we were sending; why is not known",
            reason="STREAM_BROKEN",
            fix="call again: what is wrong with the call will be said then",
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _exhausted(text)
    kind = _CLASS_OF_CODE.get(code.value[0], errors.Internal)
    return kind(text, metadata={"grpc_code": code.name})


def _exhausted(text: str) -> errors.UnkaiError:
    """Return what gRPC's own RESOURCE_EXHAUSTED means: neither a quota nor hosts are its matter."""
    metadata = {"grpc_code": grpc.StatusCode.RESOURCE_EXHAUSTED.name}
    if _TOO_LARGE in text:
        return errors.InvalidArgument(
            text, reason="MESSAGE_TOO_LARGE", fix="send less in one message", metadata=metadata
        )
    return errors.Unavailable(text, reason="SERVER_BUSY", metadata=metadata)


def internal_error(error: BaseException) -> errors.Internal:
    """Log an unexpected error once, with traceback and an id, and return what the caller gets."""
    ident = secrets.token_hex(6)
    _LOG.error("unexpected_error id=%s", ident, exc_info=error)
    return errors.Internal(
        f"an internal error occurred; its id is {ident}",
        reason="INTERNAL",
        fix="look for this id in the daemon's log and report it",
        metadata={"error_id": ident},
    )


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: errors.UnkaiError) -> None:
    await context.abort(
        status_code(error),
        _cut(error.message, MAX_MESSAGE_BYTES),
        trailing_metadata=((STATUS_KEY, bounded_status(error).SerializeToString()),),
    )


def _expected(error: Exception) -> errors.UnkaiError:
    return error if isinstance(error, errors.UnkaiError) else internal_error(error)


@dataclass(frozen=True, slots=True)
class _Undecodable:
    """Stands for a request whose bytes are no message of the method's type."""


def undecodable() -> errors.InvalidArgument:
    """Make the error for a request whose bytes are no message of the method's type."""
    return errors.InvalidArgument.field(
        "request",
        "its bytes are not a message of this method, or hold text that is not UTF-8",
        reason="UNDECODABLE_REQUEST",
        fix="make the client from the contracts of this version",
    )


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turn what a servicer raises into a status: the outermost interceptor of a server.

    Requests are decoded inside it too: gRPC's own answer to a broken one is UNKNOWN.
    """

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        decode = handler.request_deserializer

        def decoded(raw: bytes) -> Any:
            try:
                return decode(raw) if decode else raw
            except DecodeError:
                return _Undecodable()

        return wrap_handler(handler, _unary, _stream, request_deserializer=decoded)


def wrap_handler(
    handler: Any,
    unary: Callable[[Callable[..., Any]], Callable[..., Any]],
    stream: Callable[[Callable[..., Any]], Callable[..., Any]],
    *,
    request_deserializer: Callable[[bytes], Any] | None = None,
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return the handler with its behaviour wrapped: `unary` for one answer, `stream` for many."""
    makers = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler, unary),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler, stream),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler, unary),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler, stream),
    }
    name, make, wrap = makers[bool(handler.request_streaming), bool(handler.response_streaming)]
    return make(
        wrap(getattr(handler, name)),
        request_deserializer=request_deserializer or handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _checked(request: Any) -> Any:
    """Return a decoded request, or a stream of them; raise `InvalidArgument` for a broken one."""
    if isinstance(request, _Undecodable):
        raise undecodable()
    return _each_checked(request) if hasattr(request, "__aiter__") else request


async def _each_checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


def _unary(behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behaviour(_checked(request), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: everything becomes a status
            await _abort(context, _expected(error))

    return call


def _stream(behaviour: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            async for response in behaviour(_checked(request), context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: everything becomes a status
            await _abort(context, _expected(error))

    return call
