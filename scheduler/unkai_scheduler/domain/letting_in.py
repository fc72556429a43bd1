"""Whether rules let a connection in that a host makes from inside a network. Pure.

The host's end is the metadata port, whose addresses are the same on all networks. It is in no
group, so only rules by CIDR, or for everybody, are about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from unkai_scheduler.domain.security_groups import Direction, Protocol, Rule

SOURCES = {4: "169.254.169.254", 6: "fe80::a9fe:a9fe"}
"""Where such a connection comes from, by version."""


def lets_in(rules: Iterable[Rule], version: int, port_number: int) -> bool:
    """Tell whether some rule allows TCP to this port from a host's end of the network."""
    return any(_allows(rule, version, port_number) for rule in rules)


def _allows(rule: Rule, version: int, port_number: int) -> bool:
    if rule.direction is not Direction.INGRESS or rule.remote_group_id:
        return False
    if rule.protocol not in {None, Protocol.TCP} or rule.ip_version not in {0, version}:
        return False
    if rule.port_first and not rule.port_first <= port_number <= max(
        rule.port_first, rule.port_last
    ):
        return False
    return not rule.remote_cidr or ip_address(SOURCES[version]) in ip_network(rule.remote_cidr)
