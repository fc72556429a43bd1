"""Between the domain's words and `agent.v1`'s, both ways. Pure.

An order carries the whole instance as its user sees it: an agent's ledger must be enough to write
the row again in an empty database. The user-data travels once, in the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from unkai.agent.v1 import (
    fence_pb2,
    host_service_pb2,
    machine_pb2,
    machine_service_pb2,
    port_pb2,
)
from unkai.compute.v1 import instance_pb2
from unkai.host.v1 import usage_pb2
from unkai.storage.v1 import image_pb2
from unkai_scheduler.agents.convert_ports import port_message
from unkai_scheduler.agents.port import (
    Alive,
    MachineChange,
    MachineOrder,
    Synced,
    UsageSample,
)
from unkai_scheduler.domain.hosts import HostUsage, MachineUsage, PortUsage
from unkai_scheduler.domain.images import Image, ImageFormat
from unkai_scheduler.domain.instances import Instance, InstanceState, PlacementPolicy, Seed
from unkai_scheduler.domain.machines import (
    Fence,
    HostDescription,
    Machine,
    MachineState,
    PortSeen,
    Tombstone,
)
from unkai_wire.errors import Internal, Unavailable, UnkaiError
from unkai_wire.rpc_errors import bounded_status, from_status, to_status

ROOT_DISK = "root"
_TEXT = 255
_PORTS = 16
"""Most ports of a machine that are believed."""
"""Longest text that is taken over from a host; names and ids are shorter."""

_FORMATS = {
    None: image_pb2.Image.FORMAT_UNSPECIFIED,
    ImageFormat.QCOW2: image_pb2.Image.FORMAT_QCOW2,
    ImageFormat.RAW: image_pb2.Image.FORMAT_RAW,
}
_POLICIES = {
    None: instance_pb2.Instance.PLACEMENT_POLICY_UNSPECIFIED,
    PlacementPolicy.PACK: instance_pb2.Instance.PLACEMENT_POLICY_PACK,
    PlacementPolicy.SPREAD: instance_pb2.Instance.PLACEMENT_POLICY_SPREAD,
}
_WANTS_POWER = {
    int(instance_pb2.Instance.POWER_ON): True,
    int(instance_pb2.Instance.POWER_OFF): False,
}
_SETTLED = {
    InstanceState.RUNNING,
    InstanceState.STOPPED,
    InstanceState.FAILED,
    InstanceState.LOST,
    InstanceState.DELETED_ON_HOST,
}


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Write a moment; None stays absent."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def moment_of(message: Timestamp) -> datetime:
    """Read a moment, aware, UTC."""
    return message.ToDatetime(tzinfo=UTC)


def status_message(record: Mapping[str, Any] | None) -> Status | None:
    """Write an error's record as google.rpc.Status."""
    return None if record is None else to_status(UnkaiError.from_record(record))


def fence_message(fence: Fence) -> fence_pb2.Fence:
    """Write a fence."""
    return fence_pb2.Fence(term=fence.term, generation=fence.generation, run_epoch=fence.run_epoch)


def image_message(image: Image) -> image_pb2.Image:
    """Write an image as its user sees it."""
    return image_pb2.Image(
        id=image.id,
        project_id=image.project_id,
        name=image.name,
        labels=dict(image.labels),
        etag=image.etag,
        visibility=image_pb2.Image.Visibility.Value(f"VISIBILITY_{image.visibility.value}"),
        format=_FORMATS[image.format],
        size_bytes=image.size_bytes,
        virtual_size_bytes=image.virtual_size_bytes,
        sha256=image.sha256,
        state=image_pb2.Image.State.Value(f"STATE_{image.state.value}"),
        state_reason=status_message(image.state_reason),
        create_time=timestamp(image.create_time),
        update_time=timestamp(image.update_time),
    )


def instance_message(instance: Instance) -> instance_pb2.Instance:
    """Write an instance as its user sees it, without its user-data."""
    spec = instance.spec
    return instance_pb2.Instance(
        id=instance.id,
        project_id=instance.project_id,
        name=spec.name,
        labels=dict(spec.labels),
        etag=instance.etag,
        image_id=spec.image_id,
        flavor_id=spec.flavor_id,
        vcpus=spec.vcpus,
        memory_bytes=spec.memory_bytes,
        disk_bytes=spec.disk_bytes,
        key_pair_ids=spec.key_pair_ids,
        required_traits=spec.required_traits,
        preferred_traits=spec.preferred_traits,
        forbidden_traits=spec.forbidden_traits,
        zone=spec.zone,
        aggregate_id=spec.aggregate_id,
        placement_policy=_POLICIES[spec.placement_policy],
        priority=spec.priority,
        placement_group_id=spec.placement_group_id,
        state=instance_pb2.Instance.State.Value(f"STATE_{instance.state.value}"),
        state_reason=status_message(instance.state_reason),
        desired_power=instance_pb2.Instance.Power.Value(f"POWER_{instance.desired_power.value}"),
        host_id=instance.host_id,
        host_name=instance.host_name,
        generation=instance.generation,
        run_epoch=instance.run_epoch,
        effective_accelerator=instance.accelerator,
        reconciling=instance.state not in _SETTLED
        or instance.observed_generation < instance.generation,
        create_time=timestamp(instance.create_time),
        update_time=timestamp(instance.update_time),
        start_time=timestamp(instance.start_time),
        seed=instance_pb2.Instance.Seed.Value(f"SEED_{spec.seed.value}"),
    )


def spec_message(order: MachineOrder) -> machine_pb2.MachineSpec:
    """Write an order."""
    disk = machine_pb2.DiskSpec
    grace = Duration()
    grace.FromMilliseconds(int(order.instance.stop_grace_s * 1000))
    return machine_pb2.MachineSpec(
        instance=instance_message(order.instance),
        disks=[
            disk(
                name=ROOT_DISK,
                size_bytes=order.disk_bytes,
                image=image_message(order.image),
                existence=disk.EXISTENCE_MUST_EXIST if order.must_exist else disk.EXISTENCE_CREATE,
            )
        ],
        seed=machine_pb2.SeedSpec(
            hostname=order.instance.spec.name,
            public_keys=order.public_keys,
            user_data=order.user_data,
        ),
        reboot_serial=order.instance.reboot_serial,
        reboot_force=order.instance.reboot_force,
        stop_grace=grace,
        ports=map(port_message, order.ports),
        metadata_seed=order.instance.spec.seed is Seed.METADATA,
    )


def tombstone_message(tombstone: Tombstone) -> machine_pb2.Tombstone:
    """Write a tombstone."""
    return machine_pb2.Tombstone(
        instance_id=tombstone.instance_id,
        generation=tombstone.generation,
        run_epoch=tombstone.run_epoch,
        remove_time=timestamp(tombstone.remove_time),
    )


def tombstone_of(message: machine_pb2.Tombstone, host_id: str) -> Tombstone:
    """Read a tombstone that a host sent."""
    return Tombstone(
        _bounded_id(message.instance_id),
        host_id,
        message.generation,
        message.run_epoch,
        moment_of(message.remove_time),
    )


def machine_of(message: machine_pb2.Machine, host_id: str) -> Machine:
    """Read a machine that a host sent; raise `Internal` for a state we do not know."""
    name = machine_pb2.Machine.State.Name(message.state) if message.state in _STATES else ""
    if not name:
        raise Internal(
            f"host {host_id} reports machine {message.instance_id} in state {message.state}, "
            "which this scheduler does not know",
            reason="UNKNOWN_MACHINE_STATE",
            fix="bring the scheduler to the agents' version",
            metadata={
                "host_id": host_id,
                "instance_id": message.instance_id,
                "state": str(message.state),
            },
        )
    return Machine(
        instance_id=_bounded_id(message.instance_id),
        host_id=host_id,
        generation=message.generation,
        observed_generation=message.observed_generation,
        run_epoch=message.run_epoch,
        state=MachineState(name.removeprefix("STATE_")),
        step=message.step[:_TEXT],
        error=_error_of(message.error) if message.HasField("error") else None,
        retry_time=moment_of(message.retry_time) if message.HasField("retry_time") else None,
        guest_shutdown=message.guest_shutdown,
        reboot_serial=message.reboot_serial,
        accelerator=message.accelerator[:_TEXT],
        start_time=moment_of(message.start_time) if message.HasField("start_time") else None,
        name=message.instance.name[:_TEXT],
        project_id=message.instance.project_id[:_TEXT],
        wants_power=_WANTS_POWER.get(message.instance.desired_power),
        vcpus=max(0, message.instance.vcpus),
        memory_bytes=max(0, message.instance.memory_bytes),
        disk_bytes=max(0, message.instance.disk_bytes),
        step_done_bytes=max(0, message.step_done_bytes),
        step_total_bytes=max(0, message.step_total_bytes),
        ports=tuple(map(_port_seen, message.ports[:_PORTS])),
    )


def _port_seen(message: port_pb2.PortStatus) -> PortSeen:
    error = _error_of(message.error) if message.HasField("error") else None
    return PortSeen(message.port_id[:_TEXT], message.installed, error)


def _bounded_id(text: str) -> str:
    """Return an id that a host names; raise ValueError for one that is none, being too long."""
    if len(text) > _TEXT:
        raise ValueError(f"it names an instance by {len(text)} characters")
    return text


def _error_of(status: Status) -> dict[str, Any]:
    """Read a machine's error, shortened: it is kept in a row that lists show."""
    return from_status(bounded_status(from_status(status))).to_record()


def left_of(
    message: machine_service_pb2.RemoveMachineResponse, host_id: str
) -> Machine | Tombstone:
    """Read what a removal leaves: the machine while it goes, then its tombstone."""
    if message.HasField("tombstone"):
        return tombstone_of(message.tombstone, host_id)
    return machine_of(message.machine, host_id)


_STATES = frozenset(machine_pb2.Machine.State.values()) - {machine_pb2.Machine.STATE_UNSPECIFIED}


def change_of(
    message: machine_service_pb2.WatchMachinesResponse, host_id: str
) -> MachineChange | None:
    """Read one message of a machine watch; None for a kind that newer agents send."""
    match message.WhichOneof("change"):
        case "machine":
            return machine_of(message.machine, host_id)
        case "tombstone":
            return tombstone_of(message.tombstone, host_id)
        case "synced":
            return Synced()
        case "alive":
            return Alive()
        case _:
            return None


def description_of(message: host_service_pb2.HostDescription) -> HostDescription:
    """Read what an agent says of its host."""
    return HostDescription(
        host_id=message.host_id,
        name=message.name,
        agent_version=message.agent_version,
        boot_id=message.boot_id,
        cpus=message.cpus,
        memory_bytes=message.memory_bytes,
        disk_bytes=message.disk_bytes,
        accelerator=message.accelerator,
        accelerator_reason=message.accelerator_reason,
        traits=tuple(message.traits),
        features=tuple(message.features),
        highest_term=message.highest_term,
    )


def host_usage_of(message: usage_pb2.HostUsage) -> HostUsage:
    """Read a host's sample; raise `Unavailable` when a figure is none, so that none is believed."""
    figures = {name: _figure(name, getattr(message, name)) for name in _HOST_FIGURES}
    return HostUsage(sample_time=moment_of(message.sample_time), **figures)


def machine_usage_of(message: usage_pb2.MachineUsage) -> MachineUsage:
    """Read a machine's sample."""
    instance_id = message.instance_id
    figures = {n: _figure(n, getattr(message, n)) for n in _MACHINE_FIGURES}
    ports = tuple(_port_usage_of(port) for port in message.ports[:_PORTS_MAX])
    return MachineUsage(instance_id=instance_id, ports=ports, **figures)


def _port_usage_of(message: usage_pb2.PortUsage) -> PortUsage:
    figures = {n: _figure(n, getattr(message, n)) for n in _PORT_FIGURES}
    return PortUsage(port_id=message.port_id, **figures)


def _figure(name: str, value: Any) -> Any:
    # Written so that NaN, which is neither more nor less than anything, fails too. A counter that
    # began anew may give a negative rate, which is no harm meant.
    if -_MOST <= value <= _MOST:
        return max(value, type(value)(0))
    raise Unavailable(
        f"a host says that its {name} is {value}",
        reason="HOST_FIGURE_ABSURD",
        metadata={"figure": name, "value": str(value)},
    )


def sample_of(message: host_service_pb2.WatchUsageResponse, host_id: str) -> UsageSample:
    """Read one message of a usage watch; the host is the one asked, whatever it calls itself."""
    machines = tuple(machine_usage_of(m) for m in message.machines)
    return UsageSample(host_id, host_usage_of(message.host), machines)


_PORTS_MAX = 32
"""More ports no machine has."""
_MOST = float(1 << 62)
"""No count of bytes or nanoseconds is larger; placement's integers hold no more."""
_HOST_FIGURES = tuple(name for name in HostUsage.__slots__ if name != "sample_time")
_MACHINE_FIGURES = tuple(
    name for name in MachineUsage.__slots__ if name not in ("instance_id", "ports")
)
_PORT_FIGURES = tuple(name for name in PortUsage.__slots__ if name != "port_id")
"""Field names are the same on both sides."""
