"""Sends whatever was drawn to a method, and judges the answer: served, or refused exactly.

`Target` is a server under fuzz: its channel, what its fields may hold, and a digest of all it
keeps. `search` has hypothesis look for a request that the target does not answer as it should.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

from tests.support.any_request import any_requests
from unkai_wire.errors import InvalidArgument
from unkai_wire.rpc_errors import STATUS_KEY, from_rpc_error

PATIENCE_S = 20.0
"""A call that takes longer hangs."""
STREAM_S = 0.5
"""How long a stream that says nothing is listened to."""
LARGEST_BYTES = 4 << 20
"""gRPC refuses larger messages by itself, before any code of ours."""
FIRST_ANSWERS = 3
"""What is read of a stream."""
OURS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
EXPLORE = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target],
    database=None,
    print_blob=True,
)


@dataclass
class Answer:
    """What came of a call."""

    responses: list[Any] = field(default_factory=list)
    error: Any = None
    """The `grpc.RpcError` that ended it; None: it was served."""


@dataclass
class Target:
    """A server under fuzz."""

    channel: grpc.Channel
    known: Mapping[str, Sequence[Any]]
    everything: Callable[[], str]
    """A digest of all that the server keeps: a refused call must not change it."""
    keep_notes: Collection[str] = ()
    """Methods whose refusal is itself written down."""
    waits: Collection[str] = ()
    """Methods that answer only once there is news."""
    codes: Collection[grpc.StatusCode] = OURS
    calls: int = 0
    refused: int = 0

    def try_one(self, method: MethodDescriptor, requests: list[Any]) -> Answer:
        """Send requests; raise `AssertionError` unless the answer is as it should be."""
        name = f"{method.containing_service.name}.{method.name}"
        before = self.everything()
        answer = send(self.channel, method, requests, waits=name in self.waits)
        self.calls += 1
        if answer.error is not None:
            self.refused += 1
            check_refusal(answer.error, self.codes)
            if name not in self.keep_notes:
                assert self.everything() == before, "a refused call changed something"
        return answer


def search(target: Target, method: MethodDescriptor, *, examples: int, start: int) -> None:
    """Try so many drawn requests on a method; raise what the first bad answer raised.

    `start`: the seed, the same one draws the same requests.
    """

    @seed(start)
    @settings(EXPLORE, max_examples=examples)
    @given(choice=st.data())
    def try_any(choice: st.DataObject) -> None:
        tidy = choice.draw(st.sampled_from([False, False, True]))
        requests = choice.draw(any_requests(method, target.known, tidy=tidy))
        assume(all(request.ByteSize() < LARGEST_BYTES for request in requests))
        target.try_one(method, requests)

    try_any()


def check_refusal(error: Any, codes: Collection[grpc.StatusCode] = OURS) -> None:
    """Assert that a refusal is one of ours, with its details."""
    said = f"{error.code()}: {str(error.details())[:300]}"
    assert error.code() in codes, said
    assert STATUS_KEY in dict(error.trailing_metadata() or ()), f"no details with {said}"
    ours = from_rpc_error(error)
    assert ours.reason, said
    assert ours.message, said
    if isinstance(ours, InvalidArgument):
        assert ours.violations, said
        assert all(field and problem for field, problem in ours.violations), said


def send(
    channel: grpc.Channel, method: MethodDescriptor, requests: list[Any], *, waits: bool = False
) -> Answer:
    """Call a method; of a stream, what comes at once is read. `waits`: silence is an answer."""
    waits = waits or method.server_streaming
    path = f"/{method.containing_service.full_name}/{method.name}"
    make = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[method.client_streaming, method.server_streaming]
    stub = make(
        path,
        request_serializer=_serialized,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    sent: Any = iter(requests) if method.client_streaming else requests[0]
    answer = Answer()
    try:
        if not method.server_streaming:
            answer.responses.append(stub(sent, timeout=STREAM_S if waits else PATIENCE_S))
            return answer
        call = stub(sent, timeout=STREAM_S)
        deque(map(answer.responses.append, islice(call, FIRST_ANSWERS)), maxlen=0)
        call.cancel()
    except grpc.RpcError as error:
        silent: Any = error
        if not (waits and silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED):
            answer.error = error
    return answer


def _serialized(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())
