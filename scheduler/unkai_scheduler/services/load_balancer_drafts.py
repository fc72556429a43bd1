"""What a user may say of a load balancer, and what of it is always wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from unkai_scheduler.domain import names
from unkai_scheduler.domain.addresses import check_address
from unkai_scheduler.domain.load_balancers import HealthCheck, Listener, Member
from unkai_scheduler.services.checks import Violations
from unkai_wire.ids import check_id

CHANGEABLE = ("name", "labels", "listeners")
MAX_LISTENERS = 32
MAX_MEMBERS = 64
MAX_PORT_NUMBER = 65_535
_DEFAULT = HealthCheck()
_LIMITS = {"interval_s": 3600, "timeout_s": 3600, "failure_count": 10, "success_count": 10}
"""Most of each figure of a health check; the least is 1, and 0 means its default."""


@dataclass(frozen=True, slots=True)
class LoadBalancerDraft:
    """What a user may say of a load balancer; 0 in listeners means what the contract says."""

    name: str = ""
    subnet_id: str = ""
    address: str = ""
    """Empty: one that is free."""
    listeners: tuple[Listener, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


def check_load_balancer(draft: LoadBalancerDraft, fields: frozenset[str]) -> LoadBalancerDraft:
    """Return the draft in canonical form, with figures for each 0; raise `InvalidArgument`."""
    address = ""
    listeners: tuple[Listener, ...] = ()
    with Violations() as wrong:
        if "name" in fields:
            with wrong.collect():
                names.check_name(draft.name, "load_balancer.name")
        if "labels" in fields:
            with wrong.collect():
                names.check_labels(draft.labels, "load_balancer.labels")
        if "subnet_id" in fields:
            with wrong.collect():
                check_id("subnet", draft.subnet_id, "load_balancer.subnet_id")
        if "address" in fields and draft.address:
            with wrong.collect():
                address = check_address(draft.address, "load_balancer.address")
        if "listeners" in fields:
            listeners = _checked_listeners(wrong, draft.listeners)
    return replace(draft, address=address, listeners=listeners)


def _checked_listeners(wrong: Violations, given: Sequence[Listener]) -> tuple[Listener, ...]:
    path = "load_balancer.listeners"
    wrong.require(
        len(given) <= MAX_LISTENERS,
        path,
        f"has {len(given)} listeners; {MAX_LISTENERS} are allowed",
        "TOO_MANY_LISTENERS",
    )
    seen: set[tuple[str, int]] = set()
    checked: list[Listener] = []
    for number, listener in enumerate(given[:MAX_LISTENERS]):
        here = f"{path}[{number}]"
        _check_port_number(wrong, listener.port_number, f"{here}.port_number")
        key = (listener.protocol.value, listener.port_number)
        wrong.require(
            key not in seen,
            f"{here}.port_number",
            f"{listener.protocol.value} {listener.port_number} is there twice",
            "DUPLICATE_LISTENER",
        )
        seen.add(key)
        members = _checked_members(wrong, listener, here)
        check = listener.health_check
        if check is not None:
            check = _checked_health_check(wrong, check, f"{here}.health_check")
        checked.append(replace(listener, members=members, health_check=check))
    return tuple(checked)


def _checked_members(wrong: Violations, listener: Listener, path: str) -> tuple[Member, ...]:
    wrong.require(
        len(listener.members) <= MAX_MEMBERS,
        f"{path}.members",
        f"has {len(listener.members)} members; {MAX_MEMBERS} are allowed",
        "TOO_MANY_MEMBERS",
    )
    checked: list[Member] = []
    for number, member in enumerate(listener.members[:MAX_MEMBERS]):
        here = f"{path}.members[{number}]"
        with wrong.collect():
            check_id("port", member.port_id, f"{here}.port_id")
        if member.port_number:
            _check_port_number(wrong, member.port_number, f"{here}.port_number")
        one = Member(member.port_id, member.port_number or listener.port_number)
        wrong.require(
            one not in checked,
            here,
            f"port {member.port_id[:64]} at {one.port_number} is there twice",
            "DUPLICATE_MEMBER",
        )
        checked.append(one)
    return tuple(checked)


def _check_port_number(wrong: Violations, number: int, path: str) -> None:
    wrong.require(
        1 <= number <= MAX_PORT_NUMBER,
        path,
        f"is {number}; it must be 1 to {MAX_PORT_NUMBER}",
        "INVALID_PORT_NUMBER",
    )


def _checked_health_check(wrong: Violations, check: HealthCheck, path: str) -> HealthCheck:
    figures: dict[str, int] = {}
    for name, most in _LIMITS.items():
        given = getattr(check, name)
        wrong.require(
            0 <= given <= most,
            f"{path}.{name}",
            f"is {given}; it must be 1 to {most}, or 0 for {getattr(_DEFAULT, name)}",
            "INVALID_HEALTH_CHECK",
        )
        figures[name] = given or getattr(_DEFAULT, name)
    return HealthCheck(**figures)
