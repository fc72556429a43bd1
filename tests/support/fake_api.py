"""A gRPC server on a unix socket that answers as a test's script says, and keeps what was asked.

For what the real API does not do on demand: being unavailable, being slow, answering nonsense.
"""

from __future__ import annotations

import importlib
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from unkai_wire.errors import UnkaiError
from unkai_wire.rpc_errors import STATUS_KEY, status_code, to_status

_AREAS = {
    "compute": ("instance", "flavor", "key_pair", "placement_group"),
    "storage": ("image",),
    "host": ("host", "aggregate", "placement"),
    "operation": ("operation",),
    "event": ("event",),
    "identity": ("project",),
    "network": (
        "network",
        "subnet",
        "port",
        "router",
        "floating_ip",
        "security_group",
        "load_balancer",
        "reachability",
    ),
}


class FakeApi:
    """Answers calls from scripts; use it as a context manager.

    A script is a queue for each method (`CreateInstance`) of messages and errors; the last entry
    stays for all later calls. A list is the messages of one stream, errors among them. A function
    makes the answer of the request.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.asked: dict[str, list[Any]] = defaultdict(list)
        self.metadata: dict[str, list[Any]] = defaultdict(list)
        """What came with each call."""
        self._scripts: dict[str, deque[Any]] = {}
        self._server = grpc.server(ThreadPoolExecutor(max_workers=8))
        self._server.add_generic_rpc_handlers((_Handler(self._answer),))
        self._server.add_insecure_port(f"unix:{socket}")

    def __enter__(self) -> FakeApi:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait(5)

    def script(self, method: str, *answers: Any) -> None:
        """Say what the next calls of a method get."""
        self._scripts[method] = deque(answers)

    def _answer(self, method: str, requests: list[Any], context: grpc.ServicerContext) -> Any:
        self.asked[method] += requests
        self.metadata[method].append(context.invocation_metadata())
        script = self._scripts.get(method)
        if not script:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no script for {method}")
        assert script is not None
        answer = script.popleft() if len(script) > 1 else script[0]
        if not callable(answer):
            return answer
        try:
            return answer(requests[0])
        except UnkaiError as refusal:
            return refusal


class _Handler(grpc.GenericRpcHandler):
    """Finds the messages of any public method by its descriptor."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._methods = dict(_public_methods())

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return how a call is handled."""
        method = self._methods.get(handler_call_details.method)
        if method is None:
            return None
        kinds = {
            "request_deserializer": GetMessageClass(method.input_type).FromString,
            "response_serializer": lambda message: message.SerializeToString(),
        }

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            requests = list(request) if method.client_streaming else [request]
            answer = self._answer(method.name, requests, context)
            return _given(answer, context)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            first = [next(request)] if method.client_streaming else [request]
            for answer in self._answer(method.name, first, context):
                yield _given(answer, context)

        if method.server_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if method.client_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(stream, **kinds)
        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(unary, **kinds)
        return grpc.unary_unary_rpc_method_handler(unary, **kinds)


def _given(answer: Any, context: grpc.ServicerContext) -> Any:
    if isinstance(answer, UnkaiError):
        context.set_trailing_metadata(((STATUS_KEY, to_status(answer).SerializeToString()),))
        context.abort(status_code(answer), answer.message)
    return answer


def _public_methods() -> Iterator[tuple[str, Any]]:
    for area, nouns in _AREAS.items():
        for noun in nouns:
            module = importlib.import_module(f"unkai.{area}.v1.{noun}_service_pb2")
            for service in module.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    yield f"/{service.full_name}/{method.name}", method
