"""What may be supposed in a simulation: checked steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unkai_scheduler.domain import names
from unkai_scheduler.services.checks import Violations, renamed
from unkai_scheduler.services.instance_drafts import InstanceDraft, check_needs, check_traits
from unkai_scheduler.services.launch_ports import check_interfaces
from unkai_wire.ids import check_id

MAX_STEPS = 16
MAX_COUNT = 10_000
"""Hosts added, and instances made, in all steps together."""
MAX_LOST = 1000
"""Hosts of one step that are lost at once."""
MAX_CPUS = 1 << 16
MAX_MEMORY_BYTES = 64 << 40
MAX_DISK_BYTES = 1 << 50
_MIN_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class HostsDraft:
    """Hosts that shall be there too: like one that is there, or of these figures."""

    count: int
    like_host_id: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    zone: str = ""
    traits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LossDraft:
    """Hosts that shall be lost, all at once."""

    host_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InstancesDraft:
    """Instances that shall be made."""

    count: int
    instance: InstanceDraft


StepDraft = HostsDraft | LossDraft | InstancesDraft


def check_steps(drafts: Sequence[StepDraft]) -> None:
    """Raise `InvalidArgument` with all that is wrong with the steps whatever there is."""
    with Violations() as wrong:
        wrong.require(
            1 <= len(drafts) <= MAX_STEPS,
            "steps",
            f"has {len(drafts)} steps; it must have 1 to {MAX_STEPS}",
            "INVALID_STEPS",
        )
        lost: list[str] = []
        for number, draft in enumerate(drafts[:MAX_STEPS]):
            path = f"steps[{number}]"
            match draft:
                case HostsDraft():
                    _check_hosts(wrong, draft, f"{path}.add_hosts")
                case LossDraft():
                    _check_lost(wrong, draft, f"{path}.lose_hosts.host_ids", lost)
                    lost += draft.host_ids
                case InstancesDraft():
                    _check_count(wrong, draft.count, f"{path}.place_instances.count")
                    with wrong.collect(), renamed(f"{path}.place_instances"):
                        check_needs(draft.instance)
                    with wrong.collect(), renamed(f"{path}.place_instances"):
                        check_interfaces(
                            draft.instance.interfaces, no_network=draft.instance.no_network
                        )
        for kind, what in ((HostsDraft, "hosts"), (InstancesDraft, "instances")):
            total = sum(draft.count for draft in drafts if isinstance(draft, kind))
            wrong.require(
                total <= MAX_COUNT,
                "steps",
                f"have {total} {what} in all; {MAX_COUNT} are allowed",
                "TOO_MANY_SIMULATED",
            )


def _check_count(wrong: Violations, count: int, path: str) -> None:
    wrong.require(
        1 <= count <= MAX_COUNT, path, f"is {count}; it must be 1 to {MAX_COUNT}", "INVALID_COUNT"
    )


def _check_lost(wrong: Violations, draft: LossDraft, path: str, before: Sequence[str]) -> None:
    idents = draft.host_ids
    wrong.require(
        1 <= len(idents) <= MAX_LOST and len({*before, *idents}) == len(before) + len(idents),
        path,
        f"must be 1 to {MAX_LOST} different hosts, each lost once",
        "INVALID_HOSTS",
    )
    for ident in idents[:MAX_LOST]:
        with wrong.collect():
            check_id("host", ident, path)


def _check_hosts(wrong: Violations, draft: HostsDraft, path: str) -> None:
    _check_count(wrong, draft.count, f"{path}.count")
    figures = (draft.cpus, draft.memory_bytes, draft.disk_bytes, draft.zone, draft.traits)
    if draft.like_host_id:
        with wrong.collect():
            check_id("host", draft.like_host_id, f"{path}.like_host_id")
        wrong.require(
            not any(figures),
            f"{path}.like_host_id",
            "cannot be said together with figures, zone or traits",
            "LIKE_AND_FIGURES",
        )
        return
    for name, figure, least, most in (
        ("cpus", draft.cpus, 1, MAX_CPUS),
        ("memory_bytes", draft.memory_bytes, _MIN_BYTES, MAX_MEMORY_BYTES),
        ("disk_bytes", draft.disk_bytes, _MIN_BYTES, MAX_DISK_BYTES),
    ):
        wrong.require(
            least <= figure <= most,
            f"{path}.{name}",
            f"is {figure}; it must be {least} to {most}, or like_host_id be named",
            "INVALID_FIGURE",
        )
    if draft.zone:
        with wrong.collect():
            names.check_name(draft.zone, f"{path}.zone")
    check_traits(wrong, f"{path}.traits", draft.traits)
