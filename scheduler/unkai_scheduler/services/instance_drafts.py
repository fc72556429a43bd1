"""What a user may say of a new instance, and what it comes to: checked figures, references met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.aggregates import Aggregate
from unkai_scheduler.domain.images import Image, ImageState, Visibility
from unkai_scheduler.domain.instances import (
    MAX_CAPACITY_WAIT_S,
    MAX_DISK_BYTES,
    MAX_KEY_PAIRS,
    MAX_MEMORY_BYTES,
    MAX_PRIORITY,
    MAX_TRAITS,
    MAX_USER_DATA_BYTES,
    MAX_VCPUS,
    MIB,
    MIN_MEMORY_BYTES,
    InstanceSpec,
    PlacementPolicy,
    Seed,
)
from unkai_scheduler.domain.resources import Flavor, Project
from unkai_scheduler.services.checks import Violations, check_size, found
from unkai_scheduler.services.launch_ports import InterfaceDraft
from unkai_scheduler.store import aggregates, flavors, images, key_pairs, placement_groups
from unkai_wire.errors import FailedPrecondition, InvalidArgument, NotFound
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class InstanceDraft:
    """What a user may say of an instance; 0 and empty take the flavor's or the image's figure."""

    name: str = ""
    image_id: str = ""
    flavor_id: str = ""
    vcpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    key_pair_ids: tuple[str, ...] = ()
    user_data: bytes = field(default=b"", repr=False)
    required_traits: tuple[str, ...] = ()
    preferred_traits: tuple[str, ...] = ()
    forbidden_traits: tuple[str, ...] = ()
    zone: str = ""
    aggregate_id: str = ""
    placement_policy: PlacementPolicy | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    seed: Seed = Seed.DISK
    priority: int = 0
    placement_group_id: str = ""
    interfaces: tuple[InterfaceDraft, ...] = ()
    no_network: bool = False


def check_draft(draft: InstanceDraft, capacity_wait_s: float) -> None:
    """Raise `InvalidArgument` with all that is wrong whatever the state of the store."""
    with Violations() as wrong:
        check_words(wrong, draft, frozenset({"name", "labels"}))
        _check_references(wrong, draft)
        _check_figures(wrong, draft)
        wrong.require(
            len(draft.user_data) <= MAX_USER_DATA_BYTES,
            "instance.user_data",
            f"has {len(draft.user_data)} bytes; {MAX_USER_DATA_BYTES} are allowed",
            "USER_DATA_TOO_LONG",
        )
        _check_place(wrong, draft)
        wrong.require(
            0 <= draft.priority <= MAX_PRIORITY,
            "instance.priority",
            f"is {draft.priority}; it must be 0 to {MAX_PRIORITY}",
            "INVALID_PRIORITY",
        )
        wrong.require(
            0 <= capacity_wait_s <= MAX_CAPACITY_WAIT_S,
            "capacity_wait",
            f"must be 0 to {MAX_CAPACITY_WAIT_S} s (7 days)",
            "INVALID_DURATION",
        )


def check_needs(draft: InstanceDraft) -> None:
    """Raise as `check_draft`, for what a host is chosen by alone."""
    with Violations() as wrong:
        if draft.flavor_id:
            with wrong.collect():
                check_id("flavor", draft.flavor_id, "instance.flavor_id")
        if draft.image_id:
            with wrong.collect():
                check_id("image", draft.image_id, "instance.image_id")
        _check_figures(wrong, draft)
        wrong.require(
            bool(draft.disk_bytes or draft.flavor_id or draft.image_id),
            "instance.disk_bytes",
            "is 0; it must be given, or a flavor or an image be named",
            "INVALID_SIZE",
        )
        _check_place(wrong, draft)


def check_words(wrong: Violations, draft: InstanceDraft, fields: frozenset[str]) -> None:
    """Note what is wrong with the fields that may change later too."""
    if "name" in fields:
        with wrong.collect():
            names.check_name(draft.name, "instance.name")
    if "labels" in fields:
        with wrong.collect():
            names.check_labels(draft.labels, "instance.labels")


def _check_references(wrong: Violations, draft: InstanceDraft) -> None:
    with wrong.collect():
        check_id("image", draft.image_id, "instance.image_id")
    if draft.flavor_id:
        with wrong.collect():
            check_id("flavor", draft.flavor_id, "instance.flavor_id")
    keys = draft.key_pair_ids
    wrong.require(
        len(keys) <= MAX_KEY_PAIRS and len(set(keys)) == len(keys),
        "instance.key_pair_ids",
        f"must be at most {MAX_KEY_PAIRS} different ids",
        "INVALID_KEY_PAIRS",
    )
    for key in keys:
        with wrong.collect():
            check_id("key_pair", key, "instance.key_pair_ids")


def check_traits(wrong: Violations, field: str, traits: Sequence[str]) -> None:
    """Note when these are no traits."""
    wrong.require(
        len(traits) <= MAX_TRAITS
        and len(set(traits)) == len(traits)
        and all(map(names.is_trait, traits)),
        field,
        f"must be at most {MAX_TRAITS} different words of A-Z, 0-9 and _",
        "INVALID_TRAITS",
    )


def _check_place(wrong: Violations, draft: InstanceDraft) -> None:
    """Note what is wrong with what is said of its host."""
    check_traits(wrong, "instance.required_traits", draft.required_traits)
    check_traits(wrong, "instance.preferred_traits", draft.preferred_traits)
    check_traits(wrong, "instance.forbidden_traits", draft.forbidden_traits)
    for what, traits in (
        ("required", draft.required_traits),
        ("preferred", draft.preferred_traits),
    ):
        both = sorted(set(traits).intersection(draft.forbidden_traits))
        wrong.require(
            not both,
            "instance.forbidden_traits",
            f"names {', '.join(both)[:255]}, which {'is' if len(both) == 1 else 'are'} {what} too",
            "TRAITS_CONTRADICT",
        )
    if draft.zone:
        with wrong.collect():
            names.check_name(draft.zone, "instance.zone")
    if draft.aggregate_id:
        with wrong.collect():
            check_id("aggregate", draft.aggregate_id, "instance.aggregate_id")
    if draft.placement_group_id:
        with wrong.collect():
            check_id("placement_group", draft.placement_group_id, "instance.placement_group_id")


def _check_figures(wrong: Violations, draft: InstanceDraft) -> None:
    named = bool(draft.flavor_id)
    wrong.require(
        (named and draft.vcpus == 0) or 1 <= draft.vcpus <= MAX_VCPUS,
        "instance.vcpus",
        f"is {draft.vcpus}; it must be 1 to {MAX_VCPUS}, or a flavor be named",
        "INVALID_VCPUS",
    )
    check_size(
        wrong,
        "instance.memory_bytes",
        draft.memory_bytes,
        MIN_MEMORY_BYTES,
        MAX_MEMORY_BYTES,
        may_be_0=named,
    )
    check_size(wrong, "instance.disk_bytes", draft.disk_bytes, MIB, MAX_DISK_BYTES, may_be_0=True)


def settle(conn: Connection, project: Project, draft: InstanceDraft) -> InstanceSpec:
    """Turn a checked draft into a spec: references exist and may be used, figures are copied."""
    if draft.aggregate_id:
        ident = draft.aggregate_id
        _check_allowed(project, found("aggregate", ident, aggregates.held(conn, ident)))
    flavor = None
    if draft.flavor_id:
        flavor = found("flavor", draft.flavor_id, flavors.held(conn, draft.flavor_id))
        _check_agrees(draft, flavor)
    image = _usable_image(project.id, draft.image_id, images.held(conn, draft.image_id))
    for ident in draft.key_pair_ids:
        key = key_pairs.held(conn, ident)
        if key is None or key.project_id != project.id:
            raise NotFound.of("key_pair", ident)
    if draft.placement_group_id:
        group = placement_groups.held(conn, draft.placement_group_id)
        if group is None or group.project_id != project.id:
            raise NotFound.of("placement_group", draft.placement_group_id)
    return _spec(draft, flavor, _disk_bytes(draft, flavor, image))


def sketch(conn: Connection, project: Project, draft: InstanceDraft) -> InstanceSpec:
    """Turn a draft that `check_needs` has checked into what a host would be asked for.

    Nothing is held, and there need not be an image.
    """
    if draft.aggregate_id:
        ident = draft.aggregate_id
        _check_allowed(project, found("aggregate", ident, aggregates.get(conn, ident)))
    flavor = None
    if draft.flavor_id:
        flavor = found("flavor", draft.flavor_id, flavors.get(conn, draft.flavor_id))
        _check_agrees(draft, flavor)
    if not draft.image_id:
        return _spec(draft, flavor, draft.disk_bytes or (flavor.disk_bytes if flavor else 0))
    image = _usable_image(project.id, draft.image_id, images.get(conn, draft.image_id))
    return _spec(draft, flavor, _disk_bytes(draft, flavor, image))


def _spec(draft: InstanceDraft, flavor: Flavor | None, disk_bytes: int) -> InstanceSpec:
    return InstanceSpec(
        name=draft.name,
        image_id=draft.image_id,
        vcpus=flavor.vcpus if flavor else draft.vcpus,
        memory_bytes=flavor.memory_bytes if flavor else draft.memory_bytes,
        disk_bytes=disk_bytes,
        flavor_id=draft.flavor_id,
        key_pair_ids=draft.key_pair_ids,
        user_data=draft.user_data,
        required_traits=draft.required_traits,
        preferred_traits=draft.preferred_traits,
        forbidden_traits=draft.forbidden_traits,
        zone=draft.zone,
        aggregate_id=draft.aggregate_id,
        placement_policy=draft.placement_policy,
        seed=draft.seed,
        priority=draft.priority,
        placement_group_id=draft.placement_group_id,
        labels=dict(draft.labels),
    )


def _check_allowed(project: Project, aggregate: Aggregate) -> None:
    """Raise unless a project's instances are placed in an aggregate."""
    if aggregate.project_ids and project.id not in aggregate.project_ids:
        raise FailedPrecondition(
            f"aggregate {aggregate.name} is dedicated to other projects than {project.name}",
            reason="AGGREGATE_DEDICATED",
            fix="ask for no aggregate or another one, or have the operator dedicate it to the "
            "project too: 'unkai aggregate update --dedicate'",
            metadata={"aggregate": aggregate.name, "project": project.name},
        )


def _check_agrees(draft: InstanceDraft, flavor: Flavor) -> None:
    """Refuse figures beside a flavor that it does not have: one of the two would be ignored."""
    with Violations() as wrong:
        for name, asked, given in (
            ("vcpus", draft.vcpus, flavor.vcpus),
            ("memory_bytes", draft.memory_bytes, flavor.memory_bytes),
        ):
            wrong.require(
                asked in (0, given),
                f"instance.{name}",
                f"is {asked}, but flavor {flavor.name} has {given}; give one of the two",
                "FLAVOR_DISAGREES",
            )


def _usable_image(project_id: str, image_id: str, image: Image | None) -> Image:
    if image is None or (image.visibility is Visibility.PRIVATE and image.project_id != project_id):
        raise NotFound.of("image", image_id)
    if image.state is not ImageState.READY:
        raise not_ready(image)
    return image


def not_ready(image: Image) -> FailedPrecondition:
    """Return the error of an image that cannot be used in its state."""
    fix = {
        ImageState.UPLOADING: "upload its bytes, or wait until it is READY",
        ImageState.FAILED: "its bytes were refused: delete it and upload another file",
    }.get(image.state, "use another image")
    return FailedPrecondition(
        f"image {image.name} is {image.state.value}, not READY",
        reason="IMAGE_NOT_READY",
        fix=fix,
        metadata={"image_id": image.id, "name": image.name, "state": image.state.value},
    )


def _disk_bytes(draft: InstanceDraft, flavor: Flavor | None, image: Image) -> int:
    """Return the root disk's size: as asked, else the flavor's, else the image's own."""
    own = -(-image.virtual_size_bytes // MIB) * MIB
    size = draft.disk_bytes or (flavor.disk_bytes if flavor else 0) or own
    if size < image.virtual_size_bytes:
        raise InvalidArgument.field(
            "instance.disk_bytes",
            f"is {size}, but the image holds a disk of {image.virtual_size_bytes} bytes",
            reason="DISK_TOO_SMALL",
            fix=f"ask for at least {own} bytes",
        )
    return size
