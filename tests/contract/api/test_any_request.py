"""Whatever a client sends to a public method, it is told exactly what is wrong, or is served.

Requests are drawn from the contracts (`tests.support.any_request`). No answer is INTERNAL or
UNKNOWN, every refusal is one of ours with all its details, and a refused call changed nothing.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.support.acceptance import count
from tests.support.any_request import any_requests
from tests.support.api import Api, an_ssh_key
from tests.support.served_api import ServedApi
from tests.unit.scheduler.api.test_policy_table import CONTRACTS
from unkai.compute.v1 import flavor_pb2, flavor_service_pb2, key_pair_pb2, key_pair_service_pb2
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai_scheduler.store.tables import metadata
from unkai_wire.errors import InvalidArgument
from unkai_wire.rpc_errors import STATUS_KEY, from_rpc_error

PATIENCE_S = 20.0
"""A call that takes longer hangs."""
STREAM_S = 0.5
"""How long a stream that says nothing is listened to."""
LARGEST_BYTES = 4 << 20
"""gRPC refuses larger messages by itself, before any code of ours."""
METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}.{method.name}": method
    for contract in CONTRACTS
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if service.name != "PeerService"
}
OURS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.UNAVAILABLE,
    }
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApi]:
    with ServedApi(tmp_path_factory.mktemp("any") / "a") as served:
        served.leader.idle = True
        yield served


@pytest.fixture(scope="module")
def known(served: ServedApi) -> dict[str, Sequence[str]]:
    """Make one of each resource; return texts that a field may hold, by the end of its name."""
    return dict(served.do(_furnish(served)))


async def _furnish(served: ServedApi) -> dict[str, Sequence[str]]:
    api = served.api
    image = await api.a_ready_image("tiny")
    flavor = await api.flavors.CreateFlavor(
        flavor_service_pb2.CreateFlavorRequest(
            flavor=flavor_pb2.Flavor(name="mini", vcpus=1, memory_bytes=64 << 20)
        )
    )
    project = await api.projects.CreateProject(
        project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name="lab"))
    )
    key = await api.key_pairs.CreateKeyPair(
        key_pair_service_pb2.CreateKeyPairRequest(
            key_pair=key_pair_pb2.KeyPair(name="me", public_key=an_ssh_key())
        )
    )
    created = await api.create("web", image_id=image.id)
    await api.stamp()
    ids = {
        "image_id": [image.id],
        "flavor_id": [flavor.flavor.id],
        "project_id": [project.project.id],
        "key_pair_id": [key.key_pair.id],
        "key_pair_ids": [key.key_pair.id],
        "instance_id": [created.instance.id],
        "operation_id": [created.operation.id],
        "resource_id": [created.instance.id],
        "host_id": [served.host.id],
        "host_ids": [served.host.id],
    }
    return ids | {
        "id": [one for many in ids.values() for one in many],
        "paths": ["name", "labels", "description", "vcpus"],
        "resource_kinds": ["instance", "image"],
        "after_revision": ["1.0", "1.1", "1.99"],
        "public_key": [an_ssh_key("two")],
        "name": ["db", "web", "tiny"],
        "request_id": ["one", "two"],
    }


@pytest.mark.parametrize("name", sorted(METHODS))
@settings(
    max_examples=count(200),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target],
    database=None,
    print_blob=True,
)
@given(choice=st.data())
def test_any_request_is_served_or_refused_exactly(
    served: ServedApi, known: dict[str, Sequence[str]], name: str, choice: st.DataObject
) -> None:
    method = METHODS[name]
    requests = choice.draw(any_requests(method, known))
    assume(all(request.ByteSize() < LARGEST_BYTES for request in requests))
    before = served.do(_everything(served.api))
    error = _send(served, method, requests)
    if error is None:
        return
    _check_refusal(error)
    if not name.startswith("ImageService.Upload"):  # a refused file makes its image FAILED
        assert served.do(_everything(served.api)) == before, "a refused call changed something"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_bytes_that_are_no_message_are_an_invalid_argument(served: ServedApi, name: str) -> None:
    error = _send(served, METHODS[name], [b"\x0a\xff\xff\xff\xff\x7f\x01"])
    assert error is not None
    _check_refusal(error)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def _check_refusal(error: Any) -> None:
    said = f"{error.code()}: {str(error.details())[:300]}"
    assert error.code() in OURS, said
    assert STATUS_KEY in dict(error.trailing_metadata() or ()), f"no details with {said}"
    ours = from_rpc_error(error)
    assert ours.reason, said
    if isinstance(ours, InvalidArgument):
        assert ours.violations, said
        assert all(field and problem for field, problem in ours.violations), said


async def _everything(api: Api) -> str:
    """Return a digest of every row there is."""

    def read(conn: Any) -> str:
        digest = hashlib.sha256()
        for table in metadata.sorted_tables:
            rows = conn.execute(table.select().order_by(*table.primary_key.columns))
            digest.update(repr([tuple(row) for row in rows]).encode())
        return digest.hexdigest()

    return await api.uow.read(read)


def _send(served: ServedApi, method: MethodDescriptor, requests: list[Any]) -> Any:
    """Call a method; return its error or None. Of a stream, what comes at once is read."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    with grpc.insecure_channel(f"unix:{served.socket}") as channel:
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
        try:
            if method.server_streaming:
                deque(islice(stub(sent, timeout=STREAM_S), 3))
            else:
                stub(sent, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            silent = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return None if method.server_streaming and silent else error
    return None


def _serialized(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())
