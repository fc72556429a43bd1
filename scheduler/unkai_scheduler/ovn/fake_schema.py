"""The part of OVN's northbound schema that the fake keeps to: facts of schema 7.0.0 (OVN 23.03).

A column is written as its type: `s` string, `i` integer, `b` boolean, `{s:s}` a map, `>Table` a
strong reference to it, `~Table` a weak one. `s(a|b)`: one of these. `?` after it: or none; `*`: any
number; `+`: at least one.
"""

from __future__ import annotations

import re

from unkai_scheduler.ovn.schema import Column, Kind, Schema, Table

_TABLES = {
    "NB_Global!": "name s; options {s:s}; ipsec b",
    "Logical_Switch!": "name s; ports >Logical_Switch_Port*; acls >ACL*; qos_rules >QoS*; "
    "load_balancer ~Load_Balancer*; dns_records ~DNS*; other_config {s:s}",
    "Logical_Switch_Port": "name s; type s; options {s:s}; parent_name s?; tag_request i[0,4095]?; "
    "tag i[1,4095]?; "
    "addresses s*; port_security s*; enabled b?; dhcpv4_options ~DHCP_Options?; "
    "dhcpv6_options ~DHCP_Options?; ha_chassis_group >HA_Chassis_Group?",
    "Address_Set!": "name s; addresses s*",
    "Port_Group!": "name s; ports ~Logical_Switch_Port*; acls >ACL*",
    "Load_Balancer!": "name s; vips {s:s}; protocol s(tcp|udp|sctp)?; "
    "health_check >Load_Balancer_Health_Check*; ip_port_mappings {s:s}; "
    "selection_fields s(eth_src|eth_dst|ip_src|ip_dst|tp_src|tp_dst)*; options {s:s}",
    "Load_Balancer_Health_Check": "vip s; options {s:s}",
    "ACL": "name s?; priority i[0,32767]; direction s(from-lport|to-lport); match s; "
    "action s(allow|allow-related|allow-stateless|drop|reject); log b; "
    "severity s(alert|warning|notice|info|debug)?; meter s?; label i[0,4294967295]; options {s:s}",
    "QoS": "priority i[0,32767]; direction s(from-lport|to-lport); match s; "
    "action {s(dscp):i[0,63]}; bandwidth {s(rate|burst):i[1,4294967295]}",
    "Logical_Router!": "name s; ports >Logical_Router_Port*; "
    "static_routes >Logical_Router_Static_Route*; policies >Logical_Router_Policy*; enabled b?; "
    "nat >NAT*; load_balancer ~Load_Balancer*; options {s:s}",
    "Logical_Router_Port": "name s; gateway_chassis >Gateway_Chassis*; "
    "ha_chassis_group >HA_Chassis_Group?; options {s:s}; networks s+; mac s; peer s?; enabled b?; "
    "ipv6_ra_configs {s:s}",
    "Logical_Router_Static_Route": "route_table s; ip_prefix s; policy s(src-ip|dst-ip)?; "
    "nexthop s; output_port s?; options {s:s}",
    "Logical_Router_Policy": "priority i[0,32767]; match s; action s(allow|drop|reroute); "
    "nexthop s?; nexthops s*; options {s:s}",
    "NAT": "external_ip s; external_mac s?; external_port_range s; logical_ip s; logical_port s?; "
    "type s(dnat|snat|dnat_and_snat); allowed_ext_ips >Address_Set?; "
    "exempted_ext_ips >Address_Set?; gateway_port ~Logical_Router_Port?; options {s:s}",
    "DHCP_Options!": "cidr s; options {s:s}",
    "DNS!": "records {s:s}",
    "Gateway_Chassis": "name s; chassis_name s; priority i[0,32767]; options {s:s}",
    "HA_Chassis": "chassis_name s; priority i[0,32767]",
    "HA_Chassis_Group!": "name s; ha_chassis >HA_Chassis*",
}
UNIQUE_NAMES = frozenset(
    {
        "Logical_Switch_Port",
        "Logical_Router_Port",
        "Port_Group",
        "Address_Set",
        "Gateway_Chassis",
        "HA_Chassis_Group",
    }
)
"""Tables in which no two rows have one name."""
_ATOM = re.compile(
    r"(?P<sign>[sib]|[>~](?P<table>\w+))(?:\((?P<words>[^)]*)\))?(?:\[(?P<least>\d+),(?P<most>\d+)\])?"
)
_NAMES = {"s": "string", "i": "integer", "b": "boolean"}
_NUMBERS: dict[str, tuple[int, int | None]] = {
    "": (1, 1),
    "?": (0, 1),
    "*": (0, None),
    "+": (1, None),
}


def northbound_schema() -> Schema:
    """Return the tables."""
    return {name.rstrip("!"): _table(name, text) for name, text in _TABLES.items()}


def _table(name: str, text: str) -> Table:
    columns = dict(part.strip().split(" ", 1) for part in text.split(";"))
    columns["external_ids"] = "{s:s}"
    return Table(
        name.rstrip("!"), name.endswith("!"), {n: _column(kind) for n, kind in columns.items()}
    )


def _column(text: str) -> Column:
    if text.startswith("{"):
        key, value = text.strip("{}").split(":")
        return Column(_kind(key), _kind(value), 0, None)
    number = text[-1] if text[-1] in "?*+" else ""
    return Column(_kind(text.removesuffix(number)), None, *_NUMBERS[number])


def _kind(text: str) -> Kind:
    match = _ATOM.fullmatch(text)
    assert match, text
    sign, words = match["sign"][0], match["words"]
    least, most = (float(match[name]) if match[name] else None for name in ("least", "most"))
    return Kind(
        _NAMES.get(sign, "uuid"),
        frozenset(words.split("|")) if words else None,
        least,
        most,
        refers_to=match["table"] or "",
        strong=sign == ">",
    )
