"""The client: context to channel to call, operations to their end.

Uses grpc's synchronous API: it starts quicker than asyncio. Errors come out as `UnkaiError`s.
A mutation carries a request_id, so that repeating it after UNAVAILABLE is safe.
"""

from __future__ import annotations

import functools
import importlib
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from unkai_cli import names
from unkai_cli.channels import check_trust, open_channel
from unkai_cli.records import progress_text
from unkai_cli.settings import DEFAULT_PROJECT, Context
from unkai_wire import deadlines
from unkai_wire.errors import (
    DeadlineExceeded,
    Unavailable,
    UnkaiError,
)
from unkai_wire.rpc_errors import from_rpc_error, from_status

_SERVICES = {
    "InstanceService": "compute",
    "FlavorService": "compute",
    "KeyPairService": "compute",
    "PlacementGroupService": "compute",
    "ImageService": "storage",
    "HostService": "host",
    "AggregateService": "host",
    "PlacementService": "host",
    "AuditService": "host",
    "OperationService": "operation",
    "EventService": "event",
    "ProjectService": "identity",
    "NetworkService": "network",
    "SubnetService": "network",
    "PortService": "network",
    "RouterService": "network",
    "FloatingIpService": "network",
    "SecurityGroupService": "network",
    "LoadBalancerService": "network",
    "ReachabilityService": "network",
}
_ENDED = {3, 4, 5}
"""Operation states SUCCEEDED, FAILED, CANCELLED."""
_SUCCEEDED = 3
_PASSING = frozenset(
    {
        "NOT_LEADER",
        "NO_LEADER",
        "NO_SOCKET",
        "SCHEDULER_STOPPING",
        "SERVER_BUSY",
        "STREAM_BROKEN",
        "UNAVAILABLE",
    }
)
"""Why a stream could not begin, where a moment mends it: all are the schedulers' own matter. A host
that says nothing is as silent at the next try, and each of them lasts as long as its silence may.
"""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one call may take in all."""

    tries: int = 6
    """Tries of a call that ends in UNAVAILABLE: about 6 s in all, a leader's change with room."""
    timeout_s: float | None = None
    """Deadline of each try; None: the method's own."""
    beginning_s: float = 10.0
    """After this time a stream that could not begin is not begun again."""


class Client:
    """A connection to one cloud, made on first use."""

    def __init__(
        self,
        context: Context,
        project: str = "",
        *,
        all_projects: bool = False,
        patience: Patience | None = None,
        traceparent: str = "",
    ) -> None:
        """`traceparent`: the trace that all calls belong to (W3C Trace Context); empty: none."""
        self.context = context
        self._project = project or context.project or DEFAULT_PROJECT
        self._all_projects = all_projects
        self._patience = patience or Patience()
        self._schedulers = context.schedulers()
        self._turn = 0
        self._channel: grpc.Channel | None = None
        self._project_id = ""
        self._metadata = (("traceparent", traceparent),) if traceparent else ()

    def close(self) -> None:
        """Let go of the connection."""
        if self._channel is not None:
            self._channel.close()

    @property
    def channel(self) -> grpc.Channel:
        """The channel, made on first use."""
        if self._channel is None:
            self._channel = open_channel(self._scheduler)
        return self._channel

    @property
    def _scheduler(self) -> Context:
        """Where calls go just now."""
        return self._schedulers[self._turn % len(self._schedulers)]

    def _failed(self, error: Unavailable) -> None:
        """Turn to the next scheduler, where there is one; raise when no waiting can mend it."""
        check_trust(self._scheduler, error)
        if len(self._schedulers) > 1:
            self.close()
            self._channel = None
            self._turn += 1

    def messages(self, service: str) -> Any:
        """Return the module of a service's requests and responses."""
        area = _SERVICES[service]
        noun = _snake(service.removesuffix("Service"))
        return importlib.import_module(f"unkai.{area}.v1.{noun}_service_pb2")

    def _method(self, service: str, method: str) -> Any:
        area = _SERVICES[service]
        noun = _snake(service.removesuffix("Service"))
        module = importlib.import_module(f"unkai.{area}.v1.{noun}_service_pb2_grpc")
        stub = getattr(getattr(module, f"{service}Stub")(self.channel), method)
        return functools.partial(stub, metadata=self._metadata) if self._metadata else stub

    def call(
        self, service: str, method: str, *, timeout_s: float | None = None, **fields: Any
    ) -> Any:
        """Make a unary call; UNAVAILABLE is retried with the same request."""
        request = self.request(service, method, **fields)
        timeout = timeout_s or self._patience.timeout_s or _deadline_s(method)
        try:
            return self._retried(lambda: self._method(service, method)(request, timeout=timeout))
        except UnkaiError as failure:
            failure.request_id = failure.request_id or getattr(request, "request_id", "")
            raise

    def _retried(
        self,
        attempt: Callable[[], Any],
        may_pass: Callable[[int, Unavailable], bool] = lambda number, error: True,
    ) -> Any:
        """`may_pass`: tells, after so many tries, whether another one is worth it."""
        for number in range(1, self._patience.tries + 1):
            try:
                with _errors():
                    return attempt()
            except Unavailable as error:
                self._failed(error)
                if number == self._patience.tries or not may_pass(number, error):
                    raise
                _pause(number, error.retry_after_s)
        raise AssertionError

    def request(self, service: str, method: str, **fields: Any) -> Any:
        """Make the request message; one that takes a request_id gets a new one."""
        kind = getattr(self.messages(service), f"{method}Request")
        if "request_id" in kind.DESCRIPTOR.fields_by_name and "request_id" not in fields:
            fields["request_id"] = str(uuid.uuid4())
        return kind(**fields)

    def stream(self, service: str, method: str, **fields: Any) -> Iterator[Any]:
        """Make a call that answers with a stream; retry it where no scheduler lets it begin.

        Retrying may close the connection, and with it every call that is open.
        """
        request = self.request(service, method, **fields)
        end_s = time.monotonic() + self._patience.beginning_s

        def begin() -> tuple[Any, Iterator[Any]]:
            answers = self._method(service, method)(request)
            return next(answers, None), answers

        def may_pass(number: int, error: Unavailable) -> bool:
            # Each scheduler is asked: the first may be why the time is up.
            in_time = time.monotonic() < end_s or number < len(self._schedulers)
            return error.reason in _PASSING and in_time

        first, answers = self._retried(begin, may_pass)
        if first is not None:
            yield first
            yield from _translated(answers)

    def stream_once(self, service: str, method: str, **fields: Any) -> Iterator[Any]:
        """Make a call that answers with a stream, beside others that stay open."""
        yield from _translated(
            self._method(service, method)(self.request(service, method, **fields))
        )

    def upload(self, service: str, method: str, requests: Iterator[Any]) -> Any:
        """Make a call that sends a stream."""
        with _errors():
            return self._method(service, method)(requests)

    def watch(self, **filters: Any) -> Iterator[Any]:
        """Yield events after a revision, without end: a lost scheduler is looked for again.

        Raises `FailedPrecondition` / REVISION_GONE when the history does not reach back so far.
        """
        after, failures = filters.pop("after_revision", ""), 0
        while True:
            request = self.request("EventService", "WatchEvents", after_revision=after, **filters)
            try:
                for answer in _translated(self._method("EventService", "WatchEvents")(request)):
                    after, failures = answer.revision or after, 0
                    if answer.HasField("event"):
                        yield answer.event
            except Unavailable as error:
                self._failed(error)
                failures += 1
                if failures >= self._patience.tries:
                    raise
            _pause(failures, 0.0)

    def newest_revision(self) -> str:
        """Return the newest event revision: list after this, watch from it, and miss nothing."""
        return str(self.call("EventService", "ListEvents", page_size=1).revision)

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
        """Return the id that a name, an id or a unique prefix of an id stands for.

        Raise `NotFound` when it stands for none, `InvalidArgument` for several or when it is empty.
        """
        return names.resolve(self, kind, text)

    def wait_operation(
        self, operation: Any, *, timeout_s: float, progress: Callable[[str], None]
    ) -> Any:
        """Wait for an operation to end, telling its progress; raise what it failed with.

        A scheduler that is away meanwhile ends the waiting only when the time is up.
        """
        end, failures = time.monotonic() + timeout_s, 0
        progress(progress_text(operation))
        while operation.state not in _ENDED:
            left = end - time.monotonic()
            if left <= 0:
                raise _still_running(operation, timeout_s)
            try:
                operation, failures = self._look_at(operation, min(10.0, left)), 0
            except (Unavailable, DeadlineExceeded) as error:
                if isinstance(error, Unavailable):
                    self._failed(error)
                failures += 1
                progress(f"{error.message}; trying again")
                _pause(failures, 0.0)
                continue
            progress(progress_text(operation))
        if operation.state == _SUCCEEDED:
            return operation
        failure = from_status(operation.error)
        failure.request_id = operation.request_id
        raise failure

    def _look_at(self, operation: Any, longest_s: float) -> Any:
        """Return the operation when it moved on, or after the time given."""
        from google.protobuf import duration_pb2

        pause = duration_pb2.Duration()
        pause.FromMilliseconds(int(longest_s * 1000))
        request = self.request(
            "OperationService",
            "WaitOperation",
            operation_id=operation.id,
            timeout=pause,
            seen_update_time=operation.update_time.ToJsonString(),
        )
        with _errors():
            stub = self._method("OperationService", "WaitOperation")
            return stub(request, timeout=longest_s + 5).operation


class _errors:  # noqa: N801 - reads as a word in `with _errors():`
    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, grpc.RpcError):
            raise from_rpc_error(error) from error


def _translated(call: Iterable[Any]) -> Iterator[Any]:
    with _errors():
        yield from call


def _pause(failures: int, at_least_s: float) -> None:
    """Sleep before the next try: longer each time, with jitter; not at all after a success."""
    if failures:
        pause_s = min(max(at_least_s, 0.1 * 2**failures), 2.0)
        time.sleep(pause_s * random.uniform(0.7, 1.3))  # noqa: S311 - jitter, not a secret


def _still_running(operation: Any, waited_s: float) -> UnkaiError:
    return DeadlineExceeded(
        f"operation {operation.id} has not ended after {waited_s:.0f} s",
        reason="STILL_RUNNING",
        fix=f"go on waiting with 'unkai operation wait {operation.id}'",
        metadata={"operation_id": operation.id},
        request_id=operation.request_id,
    )


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _deadline_s(method: str) -> float:
    if method.startswith("Diagnose"):
        return deadlines.DIAGNOSE_S
    reads = method.startswith(("Get", "List", "Explain"))
    return deadlines.READ_S if reads else deadlines.WRITE_S
