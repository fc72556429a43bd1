"""Errors across gRPC, both ways: class to status, status to class.

The only place where a status code is chosen. A server installs `ErrorInterceptor`; a client
calls `from_rpc_error` in its adapter. The status travels in the trailing metadata
`grpc-status-details-bin` as google.rpc.Status with google.rpc.ErrorInfo and, by class, BadRequest,
ResourceInfo, PreconditionFailure, QuotaFailure, RetryInfo, RequestInfo.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2

from unkai_wire import errors

STATUS_KEY = "grpc-status-details-bin"
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


def from_rpc_error(error: grpc.RpcError) -> errors.UnkaiError:
    """Return the error behind a failed call, ours or gRPC's own."""
    trailing = getattr(error, "trailing_metadata", lambda: None)() or ()
    for key, value in trailing:
        if key == STATUS_KEY:
            status = status_pb2.Status()
            status.ParseFromString(value if isinstance(value, bytes) else value.encode())
            return from_status(status)
    code: grpc.StatusCode = getattr(error, "code", lambda: grpc.StatusCode.UNKNOWN)()
    text: str = getattr(error, "details", lambda: "")() or str(code)
    kind = _CLASS_OF_CODE.get(code.value[0], errors.Internal)
    return kind(text, metadata={"grpc_code": code.name})


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
        error.message,
        trailing_metadata=((STATUS_KEY, to_status(error).SerializeToString()),),
    )


def _expected(error: Exception) -> errors.UnkaiError:
    return error if isinstance(error, errors.UnkaiError) else internal_error(error)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turn what a servicer raises into a status: the outermost interceptor of a server."""

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
        return wrap_handler(handler, _unary, _stream)


def wrap_handler(
    handler: Any,
    unary: Callable[[Callable[..., Any]], Callable[..., Any]],
    stream: Callable[[Callable[..., Any]], Callable[..., Any]],
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
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _unary(behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behaviour(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: everything becomes a status
            await _abort(context, _expected(error))

    return call


def _stream(behaviour: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            async for response in behaviour(request, context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: everything becomes a status
            await _abort(context, _expected(error))

    return call
