"""Rows that are there for the whole cloud: the port group of ports that may not spoof. Pure.

A connection that no rule allows any more is cut only by an explicit rule that drops: then OVN marks
it, and what follows is dropped in both directions. OVN's own default would let it live.

What guests need to start, or ask of their own network, passes whatever their groups say: DHCP,
metadata, names. Priorities: 1020 no DHCP server inside, 1010 these, 1002 the groups' rules, 1000
drop. ovn-nb(5), table ACL.
"""

from __future__ import annotations

from collections.abc import Iterator

from unkai_scheduler.ovn.northbound.names import CLOUD, DROP_GROUP, drop_place
from unkai_scheduler.ovn.northbound.networks import METADATA_V4, METADATA_V6
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Row, child_uuid

BASE_ID = "base"
_IN, _OUT = "to-lport", "from-lport"
_DHCPV6_SERVERS = "ff02::1:2"
"""All DHCPv6 relay agents and servers of a link, RFC 8415 section 7.1."""
_RULES = (
    ("no-dhcp-server", 1020, "drop", "ip4 && udp.src == 67 && udp.dst == 68"),
    ("no-dhcpv6-server", 1020, "drop", "ip6 && udp.src == 547 && udp.dst == 546"),
    (
        "dhcp",
        1010,
        "allow-related",
        f"ip4 && ip4.dst == {{255.255.255.255, {METADATA_V4}}} && udp.src == 68 && udp.dst == 67",
    ),
    (
        "dhcpv6",
        1010,
        "allow-related",
        f"ip6 && ip6.dst == {_DHCPV6_SERVERS} && udp.src == 546 && udp.dst == 547",
    ),
    ("metadata", 1010, "allow-related", f"ip4.dst == {METADATA_V4} && tcp.dst == 80"),
    ("metadata-v6", 1010, "allow-related", f"ip6.dst == {METADATA_V6} && tcp.dst == 80"),
    ("names-udp", 1010, "allow-related", f"ip4.dst == {METADATA_V4} && udp.dst == 53"),
    ("names-tcp", 1010, "allow-related", f"ip4.dst == {METADATA_V4} && tcp.dst == 53"),
    ("names-udp-v6", 1010, "allow-related", f"ip6.dst == {METADATA_V6} && udp.dst == 53"),
    ("names-tcp-v6", 1010, "allow-related", f"ip6.dst == {METADATA_V6} && tcp.dst == 53"),
)
"""What leaves a port: name, priority, action, match."""


def rows(_view: View, ident: str) -> Iterator[Row]:
    """Yield the rows of the whole cloud."""
    if ident != BASE_ID:
        return
    yield Row("Port_Group", drop_place("ports").uuid, {"name": DROP_GROUP})
    for name, priority, action, match in _RULES:
        yield _acl(name, _OUT, priority, action, f"inport == @{DROP_GROUP} && {match}")
    yield _acl("drop-out", _OUT, 1000, "drop", f"inport == @{DROP_GROUP} && ip")
    yield _acl("drop-in", _IN, 1000, "drop", f"outport == @{DROP_GROUP} && ip")


def _acl(name: str, direction: str, priority: int, action: str, match: str) -> Row:
    return Row(
        "ACL",
        child_uuid(CLOUD, f"acl:{name}"),
        {
            "direction": direction,
            "priority": priority,
            "action": action,
            "match": match,
            "external_ids": {"unkai_rule": name},
        },
        parent=drop_place("acls"),
    )
