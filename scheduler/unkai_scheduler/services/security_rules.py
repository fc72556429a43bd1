"""Rules of security groups: what a user may say of one, checked and put in one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unkai_scheduler.domain import names
from unkai_scheduler.domain.addresses import check_cidr, version_of
from unkai_scheduler.domain.security_groups import Direction, Protocol, Rule
from unkai_scheduler.services.checks import Violations
from unkai_wire.errors import InvalidArgument
from unkai_wire.ids import NewId, check_id

MAX_RULES = 256
MAX_DESCRIPTION = 255
MAX_PORT = 65_535
MAX_ICMP = 255
_WITH_PORTS = frozenset({Protocol.TCP, Protocol.UDP, Protocol.SCTP})


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """What a user may say of a rule; a direction of None: nothing was said."""

    direction: Direction | None = None
    ip_version: int = 0
    protocol: Protocol | None = None
    port_first: int = 0
    port_last: int = 0
    icmp_type: int | None = None
    icmp_code: int | None = None
    remote_cidr: str = ""
    remote_group_id: str = ""
    description: str = ""


def all_out(new_id: NewId) -> Rule:
    """Make the rule that lets everything out."""
    return Rule(new_id("security_group_rule"), Direction.EGRESS)


def make_rules(drafts: Sequence[RuleDraft], field: str, new_id: NewId) -> tuple[Rule, ...]:
    """Make rules; raise `InvalidArgument` for all that is wrong with them."""
    if len(drafts) > MAX_RULES:
        raise InvalidArgument.field(
            field, f"has {len(drafts)} rules; {MAX_RULES} are allowed", reason="TOO_MANY_RULES"
        )
    made: list[Rule] = []
    said: dict[object, str] = {}
    with Violations() as wrong:
        for number, draft in enumerate(drafts):
            path = f"{field}[{number}]"
            with wrong.collect():
                rule = make_rule(draft, path, new_id)
                made.append(rule)
                first = said.setdefault(rule.meaning, path)
                if first != path:
                    raise InvalidArgument.field(
                        path, f"says the same as {first}", reason="DUPLICATE_RULE"
                    )
    return tuple(made)


def make_rule(draft: RuleDraft, field: str, new_id: NewId) -> Rule:
    """Make a rule in canonical form; raise `InvalidArgument` for all that is wrong with it."""
    cidr = ""
    with Violations() as wrong:
        wrong.require(
            draft.direction is not None,
            f"{field}.direction",
            "must be INGRESS, to the instance, or EGRESS, from it",
            "INVALID_DIRECTION",
        )
        with wrong.collect():
            cidr = _remote(draft, field)
        _check_ports(wrong, draft, field)
        _check_icmp(wrong, draft, field)
        with wrong.collect():
            names.check_text(draft.description, f"{field}.description", MAX_DESCRIPTION)
    assert draft.direction is not None  # checked above
    return Rule(
        id=new_id("security_group_rule"),
        direction=draft.direction,
        ip_version=version_of(cidr) if cidr else draft.ip_version,
        protocol=draft.protocol,
        port_first=draft.port_first,
        port_last=draft.port_last or draft.port_first,
        icmp_type=draft.icmp_type,
        icmp_code=draft.icmp_code,
        remote_cidr=cidr,
        remote_group_id=draft.remote_group_id,
        description=draft.description,
    )


def renewed(old: Sequence[Rule], new: Sequence[Rule]) -> tuple[Rule, ...]:
    """Return the new rules; one that says the same as an old one keeps that one's id."""
    idents = {rule.meaning: rule.id for rule in old}
    return tuple(replace(rule, id=idents.get(rule.meaning, rule.id)) for rule in new)


def _remote(draft: RuleDraft, field: str) -> str:
    """Return the other end's CIDR in canonical form; empty: none is said."""
    if draft.remote_group_id:
        check_id("security_group", draft.remote_group_id, f"{field}.remote_group_id")
    if not draft.remote_cidr:
        return ""
    if draft.remote_group_id:
        raise InvalidArgument.field(
            f"{field}.remote_cidr",
            "cannot be said together with remote_group_id",
            reason="TWO_REMOTES",
            fix="make a rule of each: what one of them allows is allowed",
        )
    cidr = check_cidr(draft.remote_cidr, f"{field}.remote_cidr")
    if draft.ip_version not in {0, version_of(cidr)}:
        raise InvalidArgument.field(
            f"{field}.ip_version",
            f"is {draft.ip_version}, and {cidr} is of IPv{version_of(cidr)}",
            reason="INVALID_IP_VERSION",
        )
    return cidr


def _check_ports(wrong: Violations, draft: RuleDraft, field: str) -> None:
    first, last = draft.port_first, draft.port_last
    if not first and not last:
        return
    wrong.require(
        draft.protocol in _WITH_PORTS,
        f"{field}.port_first",
        "port numbers are of TCP, UDP and SCTP alone",
        "INVALID_PORT_RANGE",
    )
    wrong.require(
        1 <= first <= MAX_PORT,
        f"{field}.port_first",
        f"is {first}; it must be 1 to {MAX_PORT}, or port_last be 0 too: all port numbers",
        "INVALID_PORT_RANGE",
    )
    wrong.require(
        last == 0 or first <= last <= MAX_PORT,
        f"{field}.port_last",
        f"is {last}; it must be port_first to {MAX_PORT}, or 0: port_first alone",
        "INVALID_PORT_RANGE",
    )


def _check_icmp(wrong: Violations, draft: RuleDraft, field: str) -> None:
    said = {"icmp_type": draft.icmp_type, "icmp_code": draft.icmp_code}
    for name, number in said.items():
        if number is None:
            continue
        wrong.require(
            draft.protocol is Protocol.ICMP,
            f"{field}.{name}",
            "is of ICMP alone",
            "INVALID_ICMP",
        )
        wrong.require(
            0 <= number <= MAX_ICMP,
            f"{field}.{name}",
            f"is {number}; it must be 0 to {MAX_ICMP}",
            "INVALID_ICMP",
        )
    wrong.require(
        draft.icmp_code is None or draft.icmp_type is not None,
        f"{field}.icmp_code",
        "needs icmp_type",
        "INVALID_ICMP",
    )
