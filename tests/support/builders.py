"""Builders of the scheduler's domain objects: a test names only what matters to it."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from unkai_scheduler.domain.aggregates import Aggregate
from unkai_scheduler.domain.decisions import Candidate, Decision, FilterResult, Term
from unkai_scheduler.domain.events import Event, EventType
from unkai_scheduler.domain.hosts import Host, HostState
from unkai_scheduler.domain.images import Image, ImageFormat, ImageState, Visibility
from unkai_scheduler.domain.instances import Claim, Instance, InstanceSpec, InstanceState, Power
from unkai_scheduler.domain.operations import Operation, OperationState, Verb
from unkai_scheduler.domain.placement_groups import GroupPolicy, PlacementGroup
from unkai_scheduler.domain.resources import Flavor, KeyPair, Project
from unkai_wire import ids

MIB = 1 << 20
GIB = 1 << 30
NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
"""The builders' now."""

_numbers = itertools.count(1)


def an_id(kind: str) -> str:
    """Make an id that sorts after all made before it in this process."""
    number = next(_numbers)
    return ids.encode(ids.PREFIXES[kind], ids.uuid7(1_800_000_000_000 + number, number))


DEFAULT_PROJECT_ID = an_id("project")
"""Id of the `default` project in stores that `tests.support.store` opens."""


def an_etag() -> str:
    """Make an etag unlike all before it."""
    return f"etag-{next(_numbers)}"


def a_project(**changes: Any) -> Project:
    """Make a project with a name of its own."""
    ident = changes.pop("id", "") or an_id("project")
    base = Project(ident, f"project-{ident[-6:]}", "", an_etag(), NOON, NOON)
    return replace(base, **changes)


def a_flavor(**changes: Any) -> Flavor:
    """Make a flavor of 1 vCPU, 128 MiB, and no disk of its own."""
    ident = changes.pop("id", "") or an_id("flavor")
    base = Flavor(ident, f"flavor-{ident[-6:]}", 1, 128 * MIB, 0, an_etag(), NOON, NOON)
    return replace(base, **changes)


def a_placement_group(**changes: Any) -> PlacementGroup:
    """Make a placement group of the default project: apart on hosts, without exception."""
    ident = changes.pop("id", "") or an_id("placement_group")
    base = PlacementGroup(
        id=ident,
        project_id=DEFAULT_PROJECT_ID,
        name=f"group-{ident[-6:]}",
        policy=GroupPolicy.ANTI_AFFINITY,
        etag=an_etag(),
        create_time=NOON,
        update_time=NOON,
        max_per_place=1,
    )
    return replace(base, **changes)


def a_key_pair(**changes: Any) -> KeyPair:
    """Make a key pair of the default project."""
    ident = changes.pop("id", "") or an_id("key_pair")
    base = KeyPair(
        id=ident,
        project_id=DEFAULT_PROJECT_ID,
        name=f"key-{ident[-6:]}",
        public_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE " + ident,
        fingerprint="SHA256:" + hashlib.sha256(ident.encode()).hexdigest()[:43],
        etag=an_etag(),
        create_time=NOON,
    )
    return replace(base, **changes)


def an_image(**changes: Any) -> Image:
    """Make a READY private qcow2 image of the default project."""
    ident = changes.pop("id", "") or an_id("image")
    base = Image(
        id=ident,
        project_id=DEFAULT_PROJECT_ID,
        name=f"image-{ident[-6:]}",
        visibility=Visibility.PRIVATE,
        state=ImageState.READY,
        etag=an_etag(),
        create_time=NOON,
        update_time=NOON,
        format=ImageFormat.QCOW2,
        size_bytes=13 * MIB,
        virtual_size_bytes=64 * MIB,
        sha256=hashlib.sha256(ident.encode()).hexdigest(),
    )
    return replace(base, **changes)


def a_host(**changes: Any) -> Host:
    """Make an UP host of 8 CPUs, 16 GiB of memory and 100 GiB of disk."""
    ident = changes.pop("id", "") or an_id("host")
    name = f"host-{ident[-6:]}"
    base = Host(
        id=ident,
        name=name,
        state=HostState.UP,
        address="127.0.0.1:7444",
        tls_name=f"{name}.host.unkai",
        cpus=8,
        memory_bytes=16 * GIB,
        disk_bytes=100 * GIB,
        accelerator="tcg",
        traits=(),
        boot_id="boot-1",
        agent_version="0.1.0",
        features=(),
        etag=an_etag(),
        create_time=NOON,
        update_time=NOON,
    )
    return replace(base, **changes)


def an_aggregate(**changes: Any) -> Aggregate:
    """Make an aggregate that has no hosts and says nothing."""
    ident = changes.pop("id", "") or an_id("aggregate")
    base = Aggregate(ident, f"aggregate-{ident[-6:]}", an_etag(), NOON, NOON)
    return replace(base, **changes)


_SPEC_FIELDS = frozenset(InstanceSpec.__dataclass_fields__)


def an_instance(**changes: Any) -> Instance:
    """Make an instance, PROVISIONING on no host; fields of its spec may be named too."""
    ident = changes.pop("id", "") or an_id("instance")
    spec = changes.pop("spec", None) or InstanceSpec(
        name=f"vm-{ident[-6:]}",
        image_id="img-00000000000000000000000000",
        vcpus=1,
        memory_bytes=128 * MIB,
        disk_bytes=64 * MIB,
    )
    spec = replace(spec, **{k: changes.pop(k) for k in list(changes) if k in _SPEC_FIELDS})
    base = Instance(
        id=ident,
        project_id=DEFAULT_PROJECT_ID,
        spec=spec,
        state=InstanceState.PROVISIONING,
        desired_power=Power.ON,
        generation=1,
        run_epoch=1,
        etag=an_etag(),
        create_time=NOON,
        update_time=NOON,
    )
    return replace(base, **changes)


def a_claim(instance: Instance, host: Host, **changes: Any) -> Claim:
    """Make the claim of a host on an instance, with what the instance takes."""
    spec = instance.spec
    base = Claim(
        instance_id=instance.id,
        host_id=host.id,
        vcpus=spec.vcpus,
        memory_bytes=spec.memory_bytes,
        disk_bytes=spec.disk_bytes,
        run_epoch=instance.run_epoch,
        create_time=NOON,
    )
    return replace(base, **changes)


def an_operation(**changes: Any) -> Operation:
    """Make a PENDING operation that creates an instance and has 10 minutes left."""
    base = Operation(
        id=changes.pop("id", "") or an_id("operation"),
        project_id=DEFAULT_PROJECT_ID,
        verb=Verb.CREATE,
        resource_kind="instance",
        resource_id=changes.pop("resource_id", "") or an_id("instance"),
        state=OperationState.PENDING,
        create_time=NOON,
        update_time=NOON,
        deadline_time=NOON + timedelta(minutes=10),
        capacity_deadline_time=NOON,
    )
    return replace(base, **changes)


def an_event(**changes: Any) -> Event:
    """Make an unstamped event about an instance of the default project."""
    base = Event(
        id=changes.pop("id", "") or an_id("event"),
        project_id=DEFAULT_PROJECT_ID,
        resource_kind="instance",
        resource_id=changes.pop("resource_id", "") or an_id("instance"),
        resource_name="vm-1",
        type=EventType.UPDATED,
        actor="client:admin",
        create_time=NOON,
    )
    return replace(base, **changes)


def a_decision(instance_id: str, *, candidates: int = 2, **changes: Any) -> Decision:
    """Make a decision with the first candidate as its winner."""
    made = tuple(_a_candidate(place) for place in range(candidates))
    base = Decision(
        instance_id=instance_id,
        decide_time=NOON,
        policy="spread",
        host_count=candidates + 1,
        filters=(
            FilterResult("state", 0),
            FilterResult("memory", 1, ("host-small",), "host-small lacks 512 MiB of memory"),
        ),
        candidates=made,
        host_id=made[0].host_id if made else "",
        host_name=made[0].host_name if made else "",
        summary="the least loaded of the hosts that fit",
    )
    return replace(base, **changes)


def _a_candidate(place: int) -> Candidate:
    terms = ("spread", "cpu_load", "cpu_wait", "memory_pressure", "io_pressure")
    share = 0.125 * (place + 1)
    inputs = {
        "cpu_used_ratio": share,
        "cpu_wait_cores": share,
        "memory_available_bytes": (4 - place) * 2.0**30,
        "io_pressure_ratio": share,
        "recent_cpu_load_ratio": share,
        "recent_io_pressure_ratio": share,
        "expected_cpu_cores": 0.3 * place,
        "expected_memory_mib": 128.0 * place,
        "sample_age_s": 0.5,
    }
    return Candidate(
        host_id=an_id("host"),
        host_name=f"host-{place}",
        total_score=60_000 - place,
        terms=tuple(Term(name, 60_000 - place, 16) for name in terms),
        inputs=inputs,
    )
