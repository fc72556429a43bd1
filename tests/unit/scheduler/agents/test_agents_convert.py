"""Conversions between the domain's words and `agent.v1`'s."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support.builders import an_image, an_instance
from unkai.agent.v1 import machine_pb2, machine_service_pb2
from unkai.compute.v1 import instance_pb2
from unkai.host.v1 import usage_pb2
from unkai.storage.v1 import image_pb2
from unkai_scheduler.agents import convert
from unkai_scheduler.agents.port import MachineOrder
from unkai_scheduler.domain.images import ImageState, Visibility
from unkai_scheduler.domain.instances import InstanceState, PlacementPolicy, Power
from unkai_scheduler.domain.machines import MachineState
from unkai_wire.errors import FailedPrecondition, Internal, Unavailable


@pytest.mark.parametrize("state", InstanceState)
def test_every_instance_state_has_its_number(state: InstanceState) -> None:
    message = convert.instance_message(an_instance(state=state))

    assert instance_pb2.Instance.State.Name(message.state) == f"STATE_{state.value}"


@pytest.mark.parametrize("power", Power)
def test_every_power_has_its_number(power: Power) -> None:
    message = convert.instance_message(an_instance(desired_power=power))

    assert instance_pb2.Instance.Power.Name(message.desired_power) == f"POWER_{power.value}"


@pytest.mark.parametrize("policy", PlacementPolicy)
def test_every_policy_has_its_number(policy: PlacementPolicy) -> None:
    instance = an_instance()
    spec = dataclasses.replace(instance.spec, placement_policy=policy)
    message = convert.instance_message(dataclasses.replace(instance, spec=spec))

    name = instance_pb2.Instance.PlacementPolicy.Name(message.placement_policy)
    assert name == f"PLACEMENT_POLICY_{policy.name}"


@pytest.mark.parametrize("state", ImageState)
@pytest.mark.parametrize("visibility", Visibility)
def test_every_image_state_and_visibility_has_its_number(
    state: ImageState, visibility: Visibility
) -> None:
    message = convert.image_message(an_image(state=state, visibility=visibility))

    assert image_pb2.Image.State.Name(message.state) == f"STATE_{state.value}"
    name = image_pb2.Image.Visibility.Name(message.visibility)
    assert name == f"VISIBILITY_{visibility.value}"


@pytest.mark.parametrize("state", MachineState)
def test_every_machine_state_is_understood(state: MachineState) -> None:
    number = machine_pb2.Machine.State.Value(f"STATE_{state.value}")
    message = machine_pb2.Machine(instance_id="ins-1", state=number)

    assert convert.machine_of(message, "hst-1").state is state


@pytest.mark.parametrize("number", [0, 99])
def test_a_state_we_do_not_know_is_our_error_and_names_the_machine(number: int) -> None:
    message = machine_pb2.Machine.FromString(
        machine_pb2.Machine(instance_id="ins-1").SerializeToString() + bytes([0x28, number])
    )

    with pytest.raises(Internal) as caught:
        convert.machine_of(message, "hst-1")

    assert caught.value.metadata["instance_id"] == "ins-1"


def test_a_kind_of_change_of_newer_agents_is_passed_over() -> None:
    assert convert.change_of(machine_service_pb2.WatchMachinesResponse(), "hst-1") is None


def test_the_user_data_travels_in_the_seed_alone() -> None:
    order = MachineOrder(an_instance(), an_image(), 1 << 30, must_exist=False, user_data=b"#cloud")
    spec = convert.spec_message(order)

    assert spec.seed.user_data == b"#cloud"
    assert spec.instance.user_data == b""


@pytest.mark.parametrize(
    ("must_exist", "existence"), [(True, "EXISTENCE_MUST_EXIST"), (False, "EXISTENCE_CREATE")]
)
def test_a_disk_may_be_made_only_before_the_first_run(must_exist: bool, existence: str) -> None:
    order = MachineOrder(an_instance(), an_image(), 1 << 30, must_exist=must_exist)
    (disk,) = convert.spec_message(order).disks

    assert machine_pb2.DiskSpec.Existence.Name(disk.existence) == existence
    assert (disk.name, disk.size_bytes) == ("root", 1 << 30)


@pytest.mark.parametrize("absurd", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_a_figure_that_is_none_is_not_believed(absurd: float) -> None:
    for read, message in (
        (convert.host_usage_of, usage_pb2.HostUsage(cpu_used_cores=absurd)),
        (convert.machine_usage_of, usage_pb2.MachineUsage(cpu_used_cores=absurd)),
    ):
        with pytest.raises(Unavailable, match="cpu_used_cores") as caught:
            read(message)
        assert caught.value.reason == "HOST_FIGURE_ABSURD"


def test_a_rate_below_zero_is_zero() -> None:
    usage = convert.host_usage_of(usage_pb2.HostUsage(cpu_used_cores=-0.5, cpu_wait_cores=2.5))

    assert (usage.cpu_used_cores, usage.cpu_wait_cores) == (0.0, 2.5)


def test_what_a_host_says_at_length_is_shortened() -> None:
    long = "x" * 100_000
    message = machine_pb2.Machine(
        instance_id="ins-a",
        state=machine_pb2.Machine.STATE_FAILED,
        step=long,
        accelerator=long,
        instance=instance_pb2.Instance(name=long, project_id=long),
        error=convert.status_message(
            FailedPrecondition(
                long, reason="DISK_FULL", fix=long, metadata={"disk": long}
            ).to_record()
        ),
    )

    machine = convert.machine_of(message, "hst-1")

    assert machine.error is not None
    assert machine.error["reason"] == "DISK_FULL"
    assert len(repr(machine)) < 8_000


def test_an_id_without_end_is_none() -> None:
    tombstone = machine_pb2.Tombstone(instance_id="x" * 100_000)

    with pytest.raises(ValueError, match="100000 characters"):
        convert.tombstone_of(tombstone, "hst-1")
