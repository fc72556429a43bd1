"""Ledger entries and tombstones as plain JSON values, and back.

Pure. A field added later has a default on reading, so that a newer agent reads an older ledger;
an older one ignores what it does not know.
"""

from __future__ import annotations

import base64
import dataclasses
from datetime import datetime
from typing import Any

from unkai_agent.domain.machines import (
    DiskSpec,
    Fence,
    ImageFormat,
    ImageRef,
    LedgerEntry,
    MachineSpec,
    Power,
    SeedSpec,
    Tombstone,
)
from unkai_agent.domain.port_records import port_from_record, port_to_record

Record = dict[str, Any]


def entry_to_record(entry: LedgerEntry) -> Record:
    """Return an entry as JSON values."""
    return {
        "version": 1,
        "spec": _spec_to_record(entry.spec),
        "term": entry.term,
        "has_started": entry.has_started,
        "boot_id": entry.boot_id,
        "running": entry.running,
        "start_time": _time_to_text(entry.start_time),
        "reboot_serial_done": entry.reboot_serial_done,
        "guest_shutdown": entry.guest_shutdown,
        "stop_asked": entry.stop_asked,
        "plugging": entry.plugging,
        "observed_generation": entry.observed_generation,
        "removal": dataclasses.asdict(entry.removal) if entry.removal else None,
    }


def entry_from_record(record: Record) -> LedgerEntry:
    """Read an entry; raise ValueError, KeyError or TypeError when it is not one."""
    removal = record.get("removal")
    return LedgerEntry(
        spec=_spec_from_record(record["spec"]),
        term=int(record["term"]),
        has_started=bool(record.get("has_started", False)),
        boot_id=str(record.get("boot_id", "")),
        running=bool(record.get("running", False)),
        start_time=_time_from_text(record.get("start_time")),
        reboot_serial_done=int(record.get("reboot_serial_done", 0)),
        guest_shutdown=bool(record.get("guest_shutdown", False)),
        stop_asked=bool(record.get("stop_asked", False)),
        plugging=bool(record.get("plugging", False)),
        observed_generation=int(record.get("observed_generation", 0)),
        removal=_fence_from_record(removal) if removal else None,
    )


def tombstone_to_record(stone: Tombstone) -> Record:
    """Return a tombstone as JSON values."""
    return {
        "version": 1,
        "instance_id": stone.instance_id,
        "generation": stone.generation,
        "run_epoch": stone.run_epoch,
        "remove_time": _time_to_text(stone.remove_time),
        "acknowledge_time": _time_to_text(stone.acknowledge_time),
    }


def tombstone_from_record(record: Record) -> Tombstone:
    """Read a tombstone; raise ValueError, KeyError or TypeError when it is not one."""
    return Tombstone(
        instance_id=str(record["instance_id"]),
        generation=int(record["generation"]),
        run_epoch=int(record["run_epoch"]),
        remove_time=datetime.fromisoformat(record["remove_time"]),
        acknowledge_time=_time_from_text(record.get("acknowledge_time")),
    )


def _spec_to_record(spec: MachineSpec) -> Record:
    return {
        "instance_id": spec.instance_id,
        "name": spec.name,
        "project_id": spec.project_id,
        "vcpus": spec.vcpus,
        "memory_bytes": spec.memory_bytes,
        "power": spec.power.value,
        "disks": [_disk_to_record(disk) for disk in spec.disks],
        "seed": {
            "hostname": spec.seed.hostname,
            "public_keys": list(spec.seed.public_keys),
            "user_data": _to_base64(spec.seed.user_data),
        },
        "generation": spec.generation,
        "run_epoch": spec.run_epoch,
        "reboot_serial": spec.reboot_serial,
        "reboot_force": spec.reboot_force,
        "stop_grace_s": spec.stop_grace_s,
        "instance": _to_base64(spec.instance),
        "ports": [port_to_record(port) for port in spec.ports],
        "metadata_seed": spec.metadata_seed,
    }


def _spec_from_record(record: Record) -> MachineSpec:
    seed = record["seed"]
    return MachineSpec(
        instance_id=str(record["instance_id"]),
        name=str(record["name"]),
        project_id=str(record["project_id"]),
        vcpus=int(record["vcpus"]),
        memory_bytes=int(record["memory_bytes"]),
        power=Power(record["power"]),
        disks=tuple(_disk_from_record(disk) for disk in record["disks"]),
        seed=SeedSpec(
            hostname=str(seed["hostname"]),
            public_keys=tuple(seed["public_keys"]),
            user_data=_from_base64(seed["user_data"]),
        ),
        generation=int(record["generation"]),
        run_epoch=int(record["run_epoch"]),
        reboot_serial=int(record["reboot_serial"]),
        reboot_force=bool(record["reboot_force"]),
        stop_grace_s=float(record["stop_grace_s"]),
        instance=_from_base64(record["instance"]),
        ports=tuple(port_from_record(port) for port in record.get("ports", ())),
        metadata_seed=bool(record.get("metadata_seed", False)),
    )


def _disk_to_record(disk: DiskSpec) -> Record:
    return {
        "name": disk.name,
        "size_bytes": disk.size_bytes,
        "image": dataclasses.asdict(disk.image) | {"format": disk.image.format.value},
        "must_exist": disk.must_exist,
    }


def _disk_from_record(record: Record) -> DiskSpec:
    image = record["image"]
    return DiskSpec(
        name=str(record["name"]),
        size_bytes=int(record["size_bytes"]),
        image=ImageRef(
            image_id=str(image["image_id"]),
            sha256=str(image["sha256"]),
            size_bytes=int(image["size_bytes"]),
            virtual_size_bytes=int(image["virtual_size_bytes"]),
            format=ImageFormat(image["format"]),
        ),
        must_exist=bool(record["must_exist"]),
    )


def _fence_from_record(record: Record) -> Fence:
    return Fence(
        term=int(record["term"]),
        generation=int(record["generation"]),
        run_epoch=int(record["run_epoch"]),
    )


def _to_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _time_to_text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _time_from_text(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
