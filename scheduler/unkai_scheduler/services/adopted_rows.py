"""What an adoption writes: the rows that a host's memory comes to, checked like a user's request.

A restored database may lack what the instance stands on, too. Its key pairs get their rows back
from the order, as its image does (`adopted_images.py`), so that the instance can be stopped and
started as any other.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from unkai_scheduler.agents.port import HeldMachine
from unkai_scheduler.domain.instances import Instance, InstanceState, Power
from unkai_scheduler.domain.machines import LEAP, Machine, MachineState
from unkai_scheduler.domain.names import check_name
from unkai_scheduler.domain.resources import KeyPair, Project
from unkai_scheduler.services.instance_drafts import InstanceDraft, check_draft
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.services.public_keys import parse_public_key
from unkai_scheduler.store import (
    aggregates,
    flavors,
    instances,
    key_pairs,
    placement_groups,
    projects,
)
from unkai_wire.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from unkai_wire.ids import is_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME = 56
"""Characters of a name that has `-` and six more to take."""
_STATES = {
    MachineState.RUNNING: InstanceState.RUNNING,
    MachineState.STOPPING: InstanceState.STOPPING,
    MachineState.STOPPED: InstanceState.STOPPED,
    MachineState.AWAITING_PERMIT: InstanceState.AWAITING_PERMIT,
    MachineState.LOST: InstanceState.LOST,
}
_STANDS_IN = "adopted"
"""Name that a bad one is replaced by while the rest is checked."""


def instance_of(held: HeldMachine, project_id: str, now: datetime, etag: str) -> Instance:
    """Return the row, under the name its host remembers; raise when no user could have made it."""
    machine, order = held.machine, held.order
    _check(held)
    told = order.instance
    spec = replace(
        told.spec, disk_bytes=told.spec.disk_bytes or order.disk_bytes, user_data=order.user_data
    )
    is_on = told.desired_power is Power.ON
    busy = InstanceState.STARTING if is_on else InstanceState.STOPPING
    made = told.create_time
    return replace(
        told,
        project_id=project_id,
        spec=spec,
        state=_STATES.get(machine.state, busy),
        state_reason=machine.error if machine.state is MachineState.LOST else None,
        generation=machine.generation,
        run_epoch=machine.run_epoch,
        observed_generation=machine.observed_generation,
        reboot_serial=max(told.reboot_serial, machine.reboot_serial),
        has_run=order.must_exist or _ran(machine),
        # Whatever was under way, nobody remembers it.
        operation_id="",
        delete_requested=False,
        attempt=0,
        accelerator=machine.accelerator,
        start_time=machine.start_time,
        etag=etag,
        create_time=made if datetime(2020, 1, 1, tzinfo=UTC) < made <= now else now,
        update_time=now,
        due_time=now,
    )


def rejoined(known: Instance, told: Instance) -> Instance:
    """Return the row of an instance that is in the database on no host.

    What the user asked for is as the row says, what there is as its host says; neither number goes
    back. Raises for a machine that cannot have begun as this instance.
    """
    if told.spec.image_id != known.spec.image_id:
        raise FailedPrecondition(
            f"the machine was made from image {told.spec.image_id[:64]!r}, instance "
            f"{known.spec.name} from {known.spec.image_id}",
            reason="ORPHAN_ABSURD",
            fix="mistrust the host; on it, the machine's disk can be copied and uploaded as an "
            "image",
            metadata={"instance_id": known.id, "name": known.spec.name},
        )
    return replace(
        told,
        spec=known.spec,
        project_id=known.project_id,
        generation=max(told.generation, known.generation),
        run_epoch=max(told.run_epoch, known.run_epoch),
        reboot_serial=max(told.reboot_serial, known.reboot_serial),
        has_run=told.has_run or known.has_run,
        create_time=known.create_time,
    )


def _ran(machine: Machine) -> bool:
    """Tell whether somebody's data may be on its disk: then it must exist from now on."""
    return (
        machine.start_time is not None
        or machine.guest_shutdown
        or machine.state in {MachineState.RUNNING, MachineState.AWAITING_PERMIT, MachineState.LOST}
    )


def _check(held: HeldMachine) -> None:
    """Raise `FailedPrecondition` / ORPHAN_ABSURD for what our own order cannot have said."""
    machine, told, image = held.machine, held.order.instance, held.order.image
    spec = told.spec
    draft = InstanceDraft(
        # The name may be given anew; whether the one remembered is good is looked at then.
        name=_STANDS_IN,
        image_id=spec.image_id,
        vcpus=spec.vcpus,
        memory_bytes=spec.memory_bytes,
        disk_bytes=spec.disk_bytes or held.order.disk_bytes,
        key_pair_ids=spec.key_pair_ids,
        user_data=held.order.user_data,
        required_traits=spec.required_traits,
        preferred_traits=spec.preferred_traits,
        forbidden_traits=spec.forbidden_traits,
        zone=spec.zone,
        aggregate_id=spec.aggregate_id,
        placement_policy=spec.placement_policy,
        priority=spec.priority,
        labels=spec.labels,
    )
    try:
        check_draft(draft, 0.0)
    except InvalidArgument as error:
        raise _absurd(machine, error.message) from error
    for holds, problem in (
        (0 < machine.generation <= LEAP, f"generation {machine.generation}"),
        (0 < machine.run_epoch <= LEAP, f"run epoch {machine.run_epoch}"),
        (0 <= machine.observed_generation <= machine.generation, "an observed generation above it"),
        (max(told.reboot_serial, machine.reboot_serial) <= LEAP, "endless reboots"),
        (image.id == spec.image_id, "a disk of another image"),
        (_SHA256.fullmatch(image.sha256) and image.format, "an image without digest or format"),
        (0 < image.size_bytes <= LEAP << 20, f"an image of {image.size_bytes} bytes"),
        (0 < image.virtual_size_bytes <= LEAP << 20, "an image without a size"),
    ):
        if not holds:
            raise _absurd(machine, problem)


def _absurd(machine: Machine, problem: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"what host {machine.host_id} remembers of machine {machine.instance_id} was never "
        f"ordered: {problem[:255]}",
        reason="ORPHAN_ABSURD",
        fix="mistrust the host; on it, the machine's disk can be copied and uploaded as an image",
        metadata={"instance_id": machine.instance_id, "host_id": machine.host_id},
    )


def project_of(
    conn: Connection, project_id: str, held: HeldMachine, warnings: list[str]
) -> Project:
    """Return the project asked for, the one remembered, or `default` where that is gone."""
    if project_id:
        return resolve_project(conn, project_id)
    remembered = held.order.instance.project_id
    seen = projects.get(conn, remembered) if is_id("project", remembered) else None
    known = projects.locked(conn, seen.id) if seen is not None else None
    if known is not None:
        return known
    default = resolve_project(conn, "")
    warnings.append(f"its project {remembered[:64]!r} is gone: it belongs to {default.name} now")
    return default


def name_of(
    conn: Connection, row: Instance, given: str, warnings: list[str], *, rename_if_taken: bool
) -> str:
    """Return the name it gets; raise `AlreadyExists` when that is taken."""
    wanted = given or row.spec.name
    try:
        check_name(wanted, "name")
    except InvalidArgument as error:
        raise FailedPrecondition(
            f"its host remembers it by {wanted[:64]!r}, which is no name",
            reason="ORPHAN_NAMELESS",
            fix="give it a name: 'unkai instance adopt --name NAME'",
            metadata={"instance_id": row.id},
        ) from error
    if instances.find(conn, row.project_id, wanted) is None:
        return wanted
    other = f"{wanted[:_LONGEST_NAME].rstrip('-')}-{row.id[-6:]}"
    if rename_if_taken and not given and instances.find(conn, row.project_id, other) is None:
        warnings.append(f"its name {wanted} is taken: it is called {other} now")
        return other
    raise AlreadyExists(
        f"an instance {wanted} is there already in its project",
        reason="INSTANCE_EXISTS",
        fix="give it another name: 'unkai instance adopt --name NAME', or '--rename'",
        metadata={"resource_kind": "instance", "resource": wanted, "instance_id": row.id},
        resource_kind="instance",
        resource=wanted,
    )


def flavor_of(conn: Connection, row: Instance) -> str:
    """Return the flavor remembered, when there is one that has the same figures still."""
    flavor = flavors.held(conn, row.spec.flavor_id) if row.spec.flavor_id else None
    same = flavor is not None and (flavor.vcpus, flavor.memory_bytes) == (
        row.spec.vcpus,
        row.spec.memory_bytes,
    )
    return row.spec.flavor_id if same else ""


def with_known_aggregate(conn: Connection, held: HeldMachine) -> HeldMachine:
    """Return what is remembered, without an aggregate that is gone; one that is there is held."""
    told = held.order.instance
    ident = told.spec.aggregate_id
    if not is_id("aggregate", ident) or aggregates.held(conn, ident) is not None:
        return held
    told = replace(told, spec=replace(told.spec, aggregate_id=""))
    return replace(held, order=replace(held.order, instance=told))


def group_of(conn: Connection, row: Instance, project_id: str) -> str:
    """Return the placement group remembered, when the project has it still."""
    ident = row.spec.placement_group_id
    group = placement_groups.held(conn, ident) if ident else None
    return ident if group is not None and group.project_id == project_id else ""


def restore_key_pairs(
    conn: Connection, held: HeldMachine, project_id: str, now: datetime, warnings: list[str]
) -> tuple[str, ...]:
    """Give key pairs their rows back, where the order tells which key is whose.

    Returns those that the instance names from now on: none of another project, which its host may
    have named to learn the key or to keep others from deleting it.
    """
    idents, keys = held.order.instance.spec.key_pair_ids, held.order.public_keys
    told = dict(zip(idents, keys, strict=True)) if len(idents) == len(keys) else {}
    named: list[str] = []
    for ident in idents:
        known = key_pairs.held(conn, ident)
        if known is not None and known.project_id != project_id:
            warnings.append(f"its key pair {ident} is another project's: it is left out")
            continue
        named.append(ident)
        row = _key_pair(ident, told.get(ident, ""), project_id, now) if known is None else None
        if row is None:
            continue
        if key_pairs.find(conn, project_id, row.name) is not None:
            row = replace(row, name=ident)
        key_pairs.insert(conn, row)
        warnings.append(
            f"its key pair {ident} was not known: it is called {row.name} now, with the key that "
            f"its host remembers, {row.fingerprint}; see whose it is before you use it"
        )
    return tuple(named)


def _key_pair(ident: str, public_key: str, project_id: str, now: datetime) -> KeyPair | None:
    """Return the row of a key that a host remembers; None when that is no key."""
    try:
        line, fingerprint = parse_public_key(public_key)
    except InvalidArgument:
        return None
    name, etag = f"key-{ident[-6:]}", ident[-16:]
    return KeyPair(ident, project_id, name, line, fingerprint, etag=etag, create_time=now)
