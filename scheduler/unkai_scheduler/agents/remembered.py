"""What a host's ledger remembers of an order, read back: what an adoption is made from.

Pure. All of it is a host's word, and a host may mean harm: what is longer or larger than any order
of ours could be raises ValueError, which the client tells as HOST_ANSWER_ABSURD. Whether names and
references are good is for the adoption to say.
"""

from __future__ import annotations

from itertools import chain

from unkai.agent.v1 import machine_pb2, machine_service_pb2
from unkai.compute.v1 import instance_pb2
from unkai.storage.v1 import image_pb2
from unkai_scheduler.agents import convert, convert_ports
from unkai_scheduler.agents.port import HeldMachine, MachineOrder
from unkai_scheduler.domain.images import Image, ImageFormat, ImageState, Visibility
from unkai_scheduler.domain.instances import (
    MAX_KEY_PAIRS,
    MAX_STOP_GRACE_S,
    MAX_TRAITS,
    MAX_USER_DATA_BYTES,
    Instance,
    InstanceSpec,
    InstanceState,
    PlacementPolicy,
    Power,
    Seed,
)
from unkai_scheduler.domain.names import MAX_LABELS

_TEXT = 255
MAX_PORTS = 16
_PUBLIC_KEY = 16 << 10
"""Characters of the longest public key that is taken over."""
_POLICIES = {
    int(instance_pb2.Instance.PLACEMENT_POLICY_PACK): PlacementPolicy.PACK,
    int(instance_pb2.Instance.PLACEMENT_POLICY_SPREAD): PlacementPolicy.SPREAD,
}
_FORMATS = {
    int(image_pb2.Image.FORMAT_QCOW2): ImageFormat.QCOW2,
    int(image_pb2.Image.FORMAT_RAW): ImageFormat.RAW,
}


def held_of(answer: machine_service_pb2.GetMachineSpecResponse, host_id: str) -> HeldMachine:
    """Read a machine with its order."""
    machine = convert.machine_of(answer.machine, host_id)
    spec = answer.spec
    _check(spec.instance.id == machine.instance_id, "the order is another machine's")
    _check(len(spec.disks) == 1, f"it has {len(spec.disks)} disks")
    (disk,) = spec.disks
    seed = spec.seed
    _check(len(seed.public_keys) <= MAX_KEY_PAIRS, "it has too many public keys")
    _check(all(len(key) <= _PUBLIC_KEY for key in seed.public_keys), "a public key is too long")
    _check(len(spec.ports) <= MAX_PORTS, "it has too many ports")
    _check(all(0 <= port.position < MAX_PORTS for port in spec.ports), "a port's place is none")
    _check(len(seed.user_data) <= MAX_USER_DATA_BYTES, "its user-data is too long")
    order = MachineOrder(
        instance=_instance_of(spec, machine.generation, machine.run_epoch),
        image=_image_of(disk.image),
        disk_bytes=disk.size_bytes,
        must_exist=disk.existence == machine_pb2.DiskSpec.EXISTENCE_MUST_EXIST,
        public_keys=tuple(seed.public_keys),
        user_data=seed.user_data,
        ports=tuple(map(convert_ports.order_of, spec.ports)),
    )
    return HeldMachine(machine, order)


def _instance_of(spec: machine_pb2.MachineSpec, generation: int, run_epoch: int) -> Instance:
    message = spec.instance
    labels = dict(message.labels)
    _check(len(labels) <= MAX_LABELS, "it has too many labels")
    _check(len(message.key_pair_ids) <= MAX_KEY_PAIRS, "it names too many key pairs")
    traits = (message.required_traits, message.preferred_traits, message.forbidden_traits)
    _check(all(len(named) <= MAX_TRAITS for named in traits), "it names too many traits")
    texts = [message.name, message.project_id, message.image_id, message.flavor_id]
    texts += [
        message.zone,
        message.aggregate_id,
        message.placement_group_id,
        *message.key_pair_ids,
        *chain(*traits),
        *labels,
        *labels.values(),
    ]
    _check(all(len(text) <= _TEXT for text in texts), "a text of its instance is too long")
    off = message.desired_power == instance_pb2.Instance.POWER_OFF
    grace_s = spec.stop_grace.ToMilliseconds() / 1000
    return Instance(
        id=message.id,
        project_id=message.project_id,
        spec=InstanceSpec(
            name=message.name,
            image_id=message.image_id,
            vcpus=message.vcpus,
            memory_bytes=message.memory_bytes,
            disk_bytes=message.disk_bytes,
            flavor_id=message.flavor_id,
            key_pair_ids=tuple(message.key_pair_ids),
            required_traits=tuple(message.required_traits),
            preferred_traits=tuple(message.preferred_traits),
            forbidden_traits=tuple(message.forbidden_traits),
            zone=message.zone,
            aggregate_id=message.aggregate_id,
            placement_policy=_POLICIES.get(message.placement_policy),
            priority=message.priority,
            placement_group_id=message.placement_group_id,
            labels=labels,
            seed=Seed.METADATA if spec.metadata_seed else Seed.DISK,
        ),
        state=InstanceState.UNKNOWN,
        desired_power=Power.OFF if off else Power.ON,
        generation=generation,
        run_epoch=run_epoch,
        etag="",
        create_time=convert.moment_of(message.create_time),
        update_time=convert.moment_of(message.update_time),
        reboot_serial=max(0, spec.reboot_serial),
        reboot_force=spec.reboot_force,
        stop_grace_s=min(max(0.0, grace_s), float(MAX_STOP_GRACE_S)),
    )


def _image_of(message: image_pb2.Image) -> Image:
    _check(len(message.id) <= _TEXT and len(message.sha256) <= _TEXT, "its image's id is too long")
    epoch = convert.moment_of(message.create_time)
    return Image(
        id=message.id,
        project_id="",
        name="",
        visibility=Visibility.PRIVATE,
        state=ImageState.READY,
        etag="",
        create_time=epoch,
        update_time=epoch,
        format=_FORMATS.get(message.format),
        size_bytes=message.size_bytes,
        virtual_size_bytes=message.virtual_size_bytes,
        sha256=message.sha256,
    )


def _check(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)
