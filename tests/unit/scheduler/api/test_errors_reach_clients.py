"""What a service raises is what its client catches: class, reason, metadata, fix, request id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.api import an_api, refused
from unkai.compute.v1 import flavor_service_pb2, instance_pb2, instance_service_pb2
from unkai.event.v1 import event_service_pb2
from unkai_scheduler.services.flavors import FlavorsService
from unkai_wire import errors
from unkai_wire.rpc_errors import from_rpc_error

EXTRAS: dict[str, dict[str, Any]] = {
    "InvalidArgument": {"violations": [("flavor.vcpus", "is 0")]},
    "NotFound": {"resource_kind": "flavor", "resource": "flv-1"},
    "AlreadyExists": {"resource_kind": "flavor", "resource": "small"},
    "NoCapacity": {"reasons": {"MEMORY": 3}},
    "Unavailable": {"retry_after_s": 2.5},
}


@pytest.mark.parametrize("name", sorted(errors.CLASSES))
async def test_every_class_keeps_its_reason_and_details(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    raised = errors.CLASSES[name](
        "what and which",
        reason="QUOTA_VCPUS" if name == "QuotaExceeded" else "A_REASON",
        fix="do this",
        metadata={"flavor_id": "flv-1"},
        **EXTRAS.get(name, {}),
    )

    async def failing(*_: object) -> None:
        raise raised

    monkeypatch.setattr(FlavorsService, "delete", failing)
    async with an_api(tmp_path / "a") as api:
        request = flavor_service_pb2.DeleteFlavorRequest(flavor_id="flv-1", request_id="req-7")
        caught = await refused(api.flavors.DeleteFlavor(request))

    assert type(caught) is type(raised)
    assert caught.to_record() == raised.to_record()
    assert caught.request_id == "req-7"


async def test_a_stream_s_error_keeps_its_reason_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with an_api(tmp_path / "a") as api:
        request = event_service_pb2.WatchEventsRequest(after_revision="99.1")
        with pytest.raises(grpc.RpcError) as caught:
            async for _ in api.events.WatchEvents(request):
                pass
    error = from_rpc_error(caught.value)
    assert type(error) is errors.FailedPrecondition
    assert error.reason == "REVISION_GONE"


async def test_our_bug_tells_its_caller_an_id_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("/secret/path")

    monkeypatch.setattr(FlavorsService, "get", broken)
    async with an_api(tmp_path / "a") as api:
        caught = await refused(api.flavors.GetFlavor(flavor_service_pb2.GetFlavorRequest()))

    assert type(caught) is errors.Internal
    assert "secret" not in caught.message
    assert caught.metadata["error_id"] in caught.message


async def test_a_slow_answer_ends_at_the_policy_s_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio
    from dataclasses import replace

    from unkai_scheduler.api import policy

    async def hanging(*_: object) -> None:
        await asyncio.Event().wait()

    method = "/unkai.compute.v1.FlavorService/GetFlavor"
    quick = replace(policy.TABLE[method], deadline_s=0.05)
    monkeypatch.setattr(policy, "TABLE", {**policy.TABLE, method: quick})
    monkeypatch.setattr(FlavorsService, "get", hanging)
    async with an_api(tmp_path / "a") as api:
        caught = await refused(api.flavors.GetFlavor(flavor_service_pb2.GetFlavorRequest()))

    assert type(caught) is errors.DeadlineExceeded


async def test_all_wrong_fields_are_named_in_one_error(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        instance = instance_pb2.Instance(
            name="Web!",
            image_id="tiny",
            vcpus=0,
            memory_bytes=1,
            disk_bytes=5,
            required_traits=["kvm"],
            key_pair_ids=["nonsense"],
            user_data=b"x" * 65537,
            labels={"": "x"},
        )
        request = instance_service_pb2.CreateInstanceRequest(instance=instance)
        request.capacity_wait.seconds = 8 * 24 * 3600
        caught = await refused(api.instances.CreateInstance(request))

    assert isinstance(caught, errors.InvalidArgument)
    assert {field for field, _ in caught.violations} == {
        "instance.name",
        "instance.image_id",
        "instance.vcpus",
        "instance.memory_bytes",
        "instance.disk_bytes",
        "instance.required_traits",
        "instance.key_pair_ids",
        "instance.user_data",
        "instance.labels",
        "capacity_wait",
    }
