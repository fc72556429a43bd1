"""Between `agent.v1`'s words and the domain's, both ways. Pure.

What comes in is checked here once, field by field, so that everything behind trusts it: names
become file names and domain names, numbers become limits.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from unkai.agent.v1 import fence_pb2, host_service_pb2, machine_pb2, storage_service_pb2
from unkai.compute.v1 import instance_pb2
from unkai.host.v1 import usage_pb2
from unkai.storage.v1 import image_pb2
from unkai_agent.api.convert_ports import port_message, port_specs, port_status_message
from unkai_agent.domain.hosts import HostUsage, MachineUsage, UsageSample
from unkai_agent.domain.machines import (
    DiskSpec,
    Fence,
    ImageFormat,
    ImageRef,
    LedgerEntry,
    Machine,
    MachineSpec,
    Power,
    SeedSpec,
    Tombstone,
)
from unkai_agent.storage.driver import CachedImage
from unkai_wire.errors import InvalidArgument, UnkaiError
from unkai_wire.ids import check_id
from unkai_wire.rpc_errors import to_status

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_DISK_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_USER_DATA_BYTES = 64 * 1024
_FORMATS = {
    image_pb2.Image.FORMAT_QCOW2: ImageFormat.QCOW2,
    image_pb2.Image.FORMAT_RAW: ImageFormat.RAW,
}
_POWERS = {instance_pb2.Instance.POWER_ON: Power.ON, instance_pb2.Instance.POWER_OFF: Power.OFF}


def fence(message: fence_pb2.Fence) -> Fence:
    """Read a fence; the ledger checks its numbers."""
    return Fence(term=message.term, generation=message.generation, run_epoch=message.run_epoch)


def machine_spec(message: machine_pb2.MachineSpec, right: Fence) -> MachineSpec:
    """Read a spec; generation and run epoch are the fence's. Raises `InvalidArgument`."""
    instance = message.instance
    check_id("instance", instance.id, "spec.instance.id")
    check_id("project", instance.project_id, "spec.instance.project_id")
    _check(_NAME.fullmatch(instance.name), "spec.instance.name", "is not a name")
    _check(1 <= instance.vcpus <= 256, "spec.instance.vcpus", "must be 1 to 256")
    _check(instance.memory_bytes >= 1 << 20, "spec.instance.memory_bytes", "must be 1 MiB or more")
    _check(instance.desired_power in _POWERS, "spec.instance.desired_power", "must be ON or OFF")
    _check(message.disks, "spec.disks", "must name a boot disk")
    names = [disk.name for disk in message.disks]
    _check(len(set(names)) == len(names), "spec.disks", "two have the same name")
    seed = message.seed
    _check(len(seed.user_data) <= _USER_DATA_BYTES, "spec.seed.user_data", "is over 64 KiB")
    _check(message.reboot_serial >= 0, "spec.reboot_serial", "must be 0 or more")
    _check(message.stop_grace.ToMilliseconds() >= 0, "spec.stop_grace", "must be 0 or more")
    return MachineSpec(
        instance_id=instance.id,
        name=instance.name,
        project_id=instance.project_id,
        vcpus=instance.vcpus,
        memory_bytes=instance.memory_bytes,
        power=_POWERS[instance.desired_power],
        disks=tuple(_disk(disk, f"spec.disks[{i}]") for i, disk in enumerate(message.disks)),
        seed=SeedSpec(
            hostname=seed.hostname or instance.name,
            public_keys=tuple(seed.public_keys),
            user_data=seed.user_data,
        ),
        generation=right.generation,
        run_epoch=right.run_epoch,
        reboot_serial=message.reboot_serial,
        reboot_force=message.reboot_force,
        stop_grace_s=message.stop_grace.ToMilliseconds() / 1000,
        instance=instance.SerializeToString(deterministic=True),
        ports=port_specs(message.ports, "spec.ports"),
        metadata_seed=message.metadata_seed,
    )


def image_ref(message: image_pb2.Image, path: str) -> ImageRef:
    """Read the image that a disk begins as. Raises `InvalidArgument`."""
    check_id("image", message.id, f"{path}.id")
    _check(message.format in _FORMATS, f"{path}.format", "must be QCOW2 or RAW")
    _check(message.size_bytes > 0, f"{path}.size_bytes", "must be above 0")
    _check(message.virtual_size_bytes > 0, f"{path}.virtual_size_bytes", "must be above 0")
    return ImageRef(
        image_id=message.id,
        sha256=sha256(message.sha256, f"{path}.sha256"),
        size_bytes=message.size_bytes,
        virtual_size_bytes=message.virtual_size_bytes,
        format=_FORMATS[message.format],
    )


def sha256(text: str, path: str) -> str:
    """Return the text when it is a SHA-256 in hexadecimal, else raise `InvalidArgument`."""
    _check(_SHA256.fullmatch(text), path, "is not a SHA-256 in hexadecimal")
    return text


def tombstone(message: machine_pb2.Tombstone) -> Tombstone:
    """Read a tombstone that a leader sends back."""
    check_id("instance", message.instance_id, "tombstones.instance_id")
    return Tombstone(
        instance_id=message.instance_id,
        generation=message.generation,
        run_epoch=message.run_epoch,
        remove_time=_moment(message.remove_time, "tombstones.remove_time"),
    )


def machine_message(machine: Machine) -> machine_pb2.Machine:
    """Write a machine as observed."""
    message = machine_pb2.Machine(
        instance_id=machine.instance_id,
        generation=machine.generation,
        observed_generation=machine.observed_generation,
        run_epoch=machine.run_epoch,
        state=machine_pb2.Machine.State.Value(f"STATE_{machine.state.value}"),
        step=machine.step,
        retry_time=_timestamp(machine.retry_time),
        guest_shutdown=machine.guest_shutdown,
        reboot_serial=machine.reboot_serial,
        accelerator=machine.accelerator,
        domain_name=machine.domain_name,
        start_time=_timestamp(machine.start_time),
        observe_time=_timestamp(machine.observe_time),
        step_done_bytes=machine.step_done_bytes,
        step_total_bytes=machine.step_total_bytes,
        ports=[port_status_message(status) for status in machine.ports],
    )
    if machine.error is not None:
        message.error.CopyFrom(to_status(UnkaiError.from_record(machine.error)))
    message.instance.ParseFromString(machine.instance)
    return message


def spec_message(entry: LedgerEntry) -> machine_pb2.MachineSpec:
    """Write an order as the ledger keeps it; what may hold somebody's data must exist."""
    spec, disk = entry.spec, machine_pb2.DiskSpec
    message = machine_pb2.MachineSpec(
        disks=[
            disk(
                name=wanted.name,
                size_bytes=wanted.size_bytes,
                image=_image_message(wanted.image),
                existence=disk.EXISTENCE_CREATE if entry.is_new else disk.EXISTENCE_MUST_EXIST,
            )
            for wanted in spec.disks
        ],
        seed=machine_pb2.SeedSpec(
            hostname=spec.seed.hostname,
            public_keys=spec.seed.public_keys,
            user_data=spec.seed.user_data,
        ),
        reboot_serial=spec.reboot_serial,
        reboot_force=spec.reboot_force,
        ports=[port_message(port) for port in spec.ports],
        metadata_seed=spec.metadata_seed,
    )
    message.instance.ParseFromString(spec.instance)
    message.stop_grace.FromMilliseconds(int(spec.stop_grace_s * 1000))
    return message


def _image_message(image: ImageRef) -> image_pb2.Image:
    formats = {ours: theirs for theirs, ours in _FORMATS.items()}
    return image_pb2.Image(
        id=image.image_id,
        sha256=image.sha256,
        size_bytes=image.size_bytes,
        virtual_size_bytes=image.virtual_size_bytes,
        format=formats[image.format],
    )


def tombstone_message(stone: Tombstone) -> machine_pb2.Tombstone:
    """Write a tombstone."""
    return machine_pb2.Tombstone(
        instance_id=stone.instance_id,
        generation=stone.generation,
        run_epoch=stone.run_epoch,
        remove_time=_timestamp(stone.remove_time),
    )


def cached_image_message(image: CachedImage) -> storage_service_pb2.CachedImage:
    """Write an entry of the image cache."""
    return storage_service_pb2.CachedImage(
        sha256=image.sha256,
        size_bytes=image.size_bytes,
        disk_count=image.disk_count,
        use_time=_timestamp(image.use_time),
    )


def usage_message(host_id: str, sample: UsageSample) -> host_service_pb2.WatchUsageResponse:
    """Write one sample."""
    return host_service_pb2.WatchUsageResponse(
        host_id=host_id,
        host=_host_usage(sample.host),
        machines=[_machine_usage(machine) for machine in sample.machines],
    )


def _host_usage(usage: HostUsage) -> usage_pb2.HostUsage:
    return usage_pb2.HostUsage(
        sample_time=_timestamp(usage.sample_time),
        interval_s=usage.interval_s,
        cpu_used_cores=usage.cpu_used_cores,
        cpu_used_ratio=usage.cpu_used_ratio,
        cpu_wait_cores=usage.cpu_wait_cores,
        cpu_pressure_ratio=usage.cpu_pressure_ratio,
        memory_pressure_ratio=usage.memory_pressure_ratio,
        memory_full_pressure_ratio=usage.memory_full_pressure_ratio,
        io_pressure_ratio=usage.io_pressure_ratio,
        io_full_pressure_ratio=usage.io_full_pressure_ratio,
        memory_total_bytes=usage.memory_total_bytes,
        memory_available_bytes=usage.memory_available_bytes,
        disk_available_bytes=usage.disk_available_bytes,
        disk_read_bytes_per_s=usage.disk_read_bytes_per_s,
        disk_write_bytes_per_s=usage.disk_write_bytes_per_s,
        network_receive_bytes_per_s=usage.network_receive_bytes_per_s,
        network_transmit_bytes_per_s=usage.network_transmit_bytes_per_s,
        machines_running=usage.machines_running,
    )


def _machine_usage(usage: MachineUsage) -> usage_pb2.MachineUsage:
    return usage_pb2.MachineUsage(
        instance_id=usage.instance_id,
        cpu_used_cores=usage.cpu_used_cores,
        cpu_wait_cores=usage.cpu_wait_cores,
        memory_resident_bytes=usage.memory_resident_bytes,
        disk_read_bytes_per_s=usage.disk_read_bytes_per_s,
        disk_write_bytes_per_s=usage.disk_write_bytes_per_s,
        disk_reads_per_s=usage.disk_reads_per_s,
        disk_writes_per_s=usage.disk_writes_per_s,
        ports=[usage_pb2.PortUsage(**asdict(port)) for port in usage.ports],
    )


def _disk(message: machine_pb2.DiskSpec, path: str) -> DiskSpec:
    existence = machine_pb2.DiskSpec
    allowed = (existence.EXISTENCE_CREATE, existence.EXISTENCE_MUST_EXIST)
    _check(_DISK_NAME.fullmatch(message.name), f"{path}.name", "is not a disk's name")
    _check(message.size_bytes > 0, f"{path}.size_bytes", "must be above 0")
    _check(message.existence in allowed, f"{path}.existence", "must be CREATE or MUST_EXIST")
    return DiskSpec(
        name=message.name,
        size_bytes=message.size_bytes,
        image=image_ref(message.image, f"{path}.image"),
        must_exist=message.existence == existence.EXISTENCE_MUST_EXIST,
    )


def _check(right: object, path: str, problem: str) -> None:
    if not right:
        raise InvalidArgument.field(path, problem)


def _moment(message: Timestamp, path: str) -> datetime:
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument.field(path, "is not a time of the years 1 to 9999") from error


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message
