"""A security group's rows: a port group, and for each rule what it allows. Pure.

Ports enter the group by their own rows. That another group is the other end is said by the set of
its members' addresses, which OVN keeps under the port group's name; pairs of a port are not in it.

The trap: a match that names a group OVN has not is an error in OVN's daemons, not here, and the
rule does not hold. The store keeps a group while a rule names it. ovn-sb(5), match expressions.
"""

from __future__ import annotations

from collections.abc import Iterator

from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.security_groups import Direction, Protocol, Rule
from unkai_scheduler.ovn.northbound.names import group_name, group_place, rule_uuid
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Row

_PRIORITY = 1002
"""Above what drops (`base.py`)."""


def rows(view: View, ident: str) -> Iterator[Row]:
    """Yield a group's rows."""
    group = view.security_groups.get(ident)
    if group is None:
        return
    yield Row("Port_Group", group_place(ident, "ports").uuid, {"name": group_name(ident)})
    for rule in group.rules:
        for version in _versions(rule):
            yield Row(
                "ACL",
                rule_uuid(ident, rule.id, version),
                {
                    "direction": "to-lport" if _comes_in(rule) else "from-lport",
                    "priority": _PRIORITY,
                    "action": "allow-related",
                    "match": match(ident, rule, version),
                    "external_ids": {"unkai_rule": rule.id},
                },
                parent=group_place(ident, "acls"),
            )


def match(group_id: str, rule: Rule, version: int) -> str:
    """Return a rule in OVN's language, for IPv4 or IPv6."""
    port, other_end = ("outport", "src") if _comes_in(rule) else ("inport", "dst")
    parts = [f"{port} == @{group_name(group_id)}", f"ip{version}"]
    if rule.remote_cidr and not rule.remote_cidr.endswith("/0"):
        parts.append(f"ip{version}.{other_end} == {rule.remote_cidr}")
    elif rule.remote_group_id:
        members = f"${group_name(rule.remote_group_id)}_ip{version}"
        parts.append(f"ip{version}.{other_end} == {members}")
    return " && ".join([*parts, *_protocol(rule, version)])


def _versions(rule: Rule) -> tuple[int, ...]:
    wanted = {rule.ip_version} if rule.ip_version else {4, 6}
    if rule.remote_cidr:
        wanted &= {version_of(rule.remote_cidr)}
    return tuple(sorted(wanted))


def _comes_in(rule: Rule) -> bool:
    return rule.direction is Direction.INGRESS


def _protocol(rule: Rule, version: int) -> list[str]:
    if rule.protocol is None:
        return []
    if rule.protocol is Protocol.ICMP:
        return _icmp(rule, f"icmp{version}")
    name = rule.protocol.value.lower()
    first, last = rule.port_first, rule.port_last or rule.port_first
    if not first or (first, last) == (1, 65535):
        return [name]
    if first == last:
        return [name, f"{name}.dst == {first}"]
    return [name, f"{name}.dst >= {first}", f"{name}.dst <= {last}"]


def _icmp(rule: Rule, name: str) -> list[str]:
    parts = [name]
    if rule.icmp_type is not None:
        parts.append(f"{name}.type == {rule.icmp_type}")
        if rule.icmp_code is not None:
            parts.append(f"{name}.code == {rule.icmp_code}")
    return parts
