"""The client: context to channel to call, names to ids, operations to their end.

Uses grpc's synchronous API: it starts quicker than asyncio. Errors come out as `UnkaiError`s.
A mutation carries a request_id, so that repeating it after UNAVAILABLE is safe.
"""

from __future__ import annotations

import importlib
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc

from unkai_cli.settings import DEFAULT_PROJECT, Context
from unkai_wire import deadlines, ids, tls
from unkai_wire.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable, UnkaiError
from unkai_wire.rpc_errors import from_rpc_error, from_status

RETRIES = 6
"""Tries of a call that ends in UNAVAILABLE: about 6 s in all, a leader's change with room."""
_SERVICES = {
    "InstanceService": "compute",
    "FlavorService": "compute",
    "KeyPairService": "compute",
    "ImageService": "storage",
    "HostService": "host",
    "PlacementService": "host",
    "OperationService": "operation",
    "EventService": "event",
    "ProjectService": "identity",
}
_PLURALS = {"project": "projects", "flavor": "flavors", "key_pair": "key_pairs"}


class Client:
    """A connection to one cloud, made on first use."""

    def __init__(self, context: Context, project: str = "", all_projects: bool = False) -> None:
        self.context = context
        self._project = project or context.project or DEFAULT_PROJECT
        self._all_projects = all_projects
        self._channel: grpc.Channel | None = None
        self._project_id = ""

    def close(self) -> None:
        """Let go of the connection."""
        if self._channel is not None:
            self._channel.close()

    @property
    def channel(self) -> grpc.Channel:
        """The channel, made on first use."""
        if self._channel is None:
            self._channel = _open(self.context)
        return self._channel

    def messages(self, service: str) -> Any:
        """Return the module of a service's requests and responses."""
        area = _SERVICES[service]
        noun = _snake(service.removesuffix("Service"))
        return importlib.import_module(f"unkai.{area}.v1.{noun}_service_pb2")

    def _method(self, service: str, method: str) -> Any:
        area = _SERVICES[service]
        noun = _snake(service.removesuffix("Service"))
        module = importlib.import_module(f"unkai.{area}.v1.{noun}_service_pb2_grpc")
        return getattr(getattr(module, f"{service}Stub")(self.channel), method)

    def call(
        self, service: str, method: str, *, timeout_s: float | None = None, **fields: Any
    ) -> Any:
        """Make a unary call; UNAVAILABLE is retried with the same request."""
        request = self.request(service, method, **fields)
        timeout = timeout_s or (
            deadlines.READ_S if method.startswith(("Get", "List", "Explain")) else deadlines.WRITE_S
        )
        stub = self._method(service, method)
        return _retried(lambda: stub(request, timeout=timeout))

    def request(self, service: str, method: str, **fields: Any) -> Any:
        """Make the request message; one that takes a request_id gets a new one."""
        kind = getattr(self.messages(service), f"{method}Request")
        if "request_id" in kind.DESCRIPTOR.fields_by_name and "request_id" not in fields:
            fields["request_id"] = str(uuid.uuid4())
        return kind(**fields)

    def stream(self, service: str, method: str, **fields: Any) -> Iterator[Any]:
        """Make a call that answers with a stream."""
        return _translated(self._method(service, method)(self.request(service, method, **fields)))

    def upload(self, service: str, method: str, requests: Iterator[Any]) -> Any:
        """Make a call that sends a stream."""
        with _errors():
            return self._method(service, method)(requests)

    def both(self, service: str, method: str, requests: Iterator[Any]) -> Any:
        """Make a call that streams both ways; return gRPC's call object."""
        return self._method(service, method)(requests)

    @property
    def project_id(self) -> str:
        """Id of the project in use."""
        if not self._project_id:
            self._project_id = self.resolve("project", self._project)
        return self._project_id

    @property
    def list_project_id(self) -> str:
        """Id of the project whose things are listed; empty for all."""
        return "" if self._all_projects else self.project_id

    def pages(self, service: str, method: str, limit: int = 0, **fields: Any) -> Iterator[Any]:
        """Yield a list's messages over all its pages, at most `limit` (0: all)."""
        token, given = "", 0
        while True:
            size = min(1000, limit - given) if limit else 1000
            answer = self.call(service, method, page_size=size, page_token=token, **fields)
            for message in getattr(answer, _snake(method.removeprefix("List"))):
                yield message
                given += 1
                if limit and given >= limit:
                    return
            token = answer.next_page_token
            if not token:
                return

    def resolve(self, kind: str, text: str) -> str:
        """Return the id that a name, an id or a unique prefix of an id stands for."""
        if ids.is_id(kind, text):
            return text
        service = "".join(part.capitalize() for part in kind.split("_")) + "Service"
        method = "List" + service.removesuffix("Service") + "s"
        filters: dict[str, Any] = {}
        if kind in ("instance", "key_pair", "image"):
            filters["project_id"] = self.project_id
        if kind != "operation":
            named = list(self.pages(service, method, name=text, **filters))
            if len(named) == 1:
                return str(named[0].id)
            if len(named) > 1:
                own = [m for m in named if m.project_id == filters.get("project_id")]
                if len(own) == 1:
                    return str(own[0].id)
                raise _ambiguous(kind, text, [str(m.id) for m in named])
        prefix = ids.PREFIXES[kind]
        if text.startswith(prefix + "-") and len(text) >= len(prefix) + 2:
            if kind == "instance" and len(text) >= 6:
                filters = {"id_prefix": text}
            elif kind == "instance":
                filters = {}
            found = [
                str(m.id)
                for m in self.pages(service, method, **filters)
                if str(m.id).startswith(text)
            ]
            if len(found) == 1:
                return found[0]
            if found:
                raise _ambiguous(kind, text, found)
        raise NotFound.of(kind, text)

    def wait_operation(
        self, operation: Any, *, timeout_s: float, progress: Callable[[str], None]
    ) -> Any:
        """Wait for an operation to end, telling its progress; raise what it failed with."""
        from google.protobuf import duration_pb2

        end, seen = time.monotonic() + timeout_s, ""
        while True:
            progress(progress_text(operation))
            if operation.state in (3, 4, 5):
                break
            left = end - time.monotonic()
            if left <= 0:
                raise FailedPrecondition(
                    f"operation {operation.id} has not ended after {timeout_s:.0f} s",
                    reason="STILL_RUNNING",
                    fix=f"go on waiting with 'unkai operation wait {operation.id}'",
                    metadata={"operation_id": operation.id},
                )
            step = min(10.0, left)
            seen = operation.update_time.ToJsonString()
            operation = self.call(
                "OperationService",
                "WaitOperation",
                timeout_s=step + 5,
                operation_id=operation.id,
                timeout=duration_pb2.Duration(nanos=int(step % 1 * 1e9), seconds=int(step)),
                seen_update_time=seen,
            ).operation
        if operation.state == 3:
            return operation
        failure = from_status(operation.error)
        failure.request_id = operation.request_id
        raise failure


def progress_text(operation: Any) -> str:
    """Return one line that says how far an operation is."""
    verb = type(operation).Verb.Name(operation.verb).removeprefix("VERB_").lower()
    state = type(operation).State.Name(operation.state).removeprefix("STATE_").lower()
    text = f"{verb} {operation.resource_kind}: {operation.progress_message or state}"
    if operation.queue_position:
        text += f" (number {operation.queue_position} in the queue)"
    if 0 < operation.progress_percent < 100:
        text += f" {operation.progress_percent}%"
    return text


def record(message: Any) -> dict[str, Any]:
    """Return a message as plain values: contract's field names, enums without their prefix."""
    from google.protobuf import json_format

    values: dict[str, Any] = json_format.MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
    return _tidy(values, message.DESCRIPTOR)


def _tidy(values: dict[str, Any], descriptor: Any) -> dict[str, Any]:
    for field in descriptor.fields:
        value = values.get(field.name)
        if value is None:
            continue
        if field.enum_type is not None:
            prefix = _snake(field.enum_type.name).upper() + "_"
            if isinstance(value, list):
                values[field.name] = [str(v).removeprefix(prefix) for v in value]
            else:
                values[field.name] = str(value).removeprefix(prefix)
        elif field.message_type is not None and field.message_type.full_name.startswith("unkai."):
            entries = value if isinstance(value, list) else [value]
            for entry in entries:
                _tidy(entry, field.message_type)
        elif field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64) and isinstance(
            value, str
        ):
            values[field.name] = int(value)
    return values


def open_socket(path: str) -> grpc.Channel:
    """Open a channel to a unix socket; raise `Unavailable` when there is none."""
    if not Path(path).exists():
        raise Unavailable(
            f"there is no socket {path}",
            reason="NO_SOCKET",
            fix="start the daemon on this machine, or choose another context with "
            "'unkai context use NAME'",
            metadata={"socket": path},
        )
    return grpc.insecure_channel(f"unix:{path}", options=[("grpc.max_receive_message_length", -1)])


def _open(context: Context) -> grpc.Channel:
    if context.socket:
        return open_socket(context.socket)
    files = tls.TlsFiles(Path(context.ca), Path(context.certificate), Path(context.key))
    try:
        credentials = files.channel_credentials()
    except OSError as error:
        raise InvalidArgument(
            f"a certificate of context {context.name} cannot be read: {error.strerror}",
            reason="CERTIFICATE_UNREADABLE",
            fix="correct the paths with 'unkai context add'",
            metadata={"context": context.name, "path": str(error.filename)},
        ) from error
    return grpc.secure_channel(
        context.address, credentials, options=tls.channel_options(tls.SCHEDULER_TLS_NAME)
    )


class _errors:  # noqa: N801 - reads as a word in `with _errors():`
    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, grpc.RpcError):
            raise from_rpc_error(error) from error


def _translated(call: Iterable[Any]) -> Iterator[Any]:
    with _errors():
        yield from call


def _retried(attempt: Callable[[], Any]) -> Any:
    for number in range(RETRIES):
        try:
            with _errors():
                return attempt()
        except Unavailable as error:
            if number == RETRIES - 1:
                raise
            pause = min(max(error.retry_after_s, 0.2 * 2**number), 2.0)
            time.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 - jitter, not a secret
    raise AssertionError


def _ambiguous(kind: str, text: str, found: list[str]) -> UnkaiError:
    return InvalidArgument(
        f"{text} stands for {len(found)} {kind.replace('_', ' ')}s: {', '.join(found[:5])}",
        reason="AMBIGUOUS",
        fix="give more characters of the id",
        metadata={"text": text},
    )


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
