"""Checks of security groups in OVN: members, rules, and the drop of all else."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from ipaddress import ip_network

from tests.support.findings import Finding
from tests.support.network_check.findings import Kind
from tests.support.network_check.sight import Cloud, in_words, version_of
from tests.support.ovsdb_look import Row
from tests.support.sights import uuid_of


def check_groups(cloud: Cloud) -> Iterator[Finding]:
    inside: dict[str, set[str]] = defaultdict(set)
    for row in cloud.sight.tables["port_security_groups"]:
        port = cloud.ports[row["port_id"]]
        if port["anti_spoofing"] and cloud.is_guests(port):
            inside[row["group_id"]].add(uuid_of(row["port_id"]))
    for ident in cloud.groups:
        found = cloud.named("Port_Group", _group_name(ident))
        if len(found) != 1:
            yield Finding(Kind.GROUP_AT_ODDS, ident, f"{len(found)} port groups")
            continue
        ports = {one["name"] for one in cloud.refers(found[0], "ports")}
        if ports != inside[ident]:
            yield Finding(Kind.GROUP_AT_ODDS, ident, f"differs by {ports ^ inside[ident]}")
        rules = [r for r in cloud.sight.tables["security_group_rules"] if r["group_id"] == ident]
        wanted = Counter(rule for row in rules for rule in _acls(ident, row))
        said = Counter(_acl(row) for row in cloud.refers(found[0], "acls"))
        if set(said) != set(wanted) or said - wanted:
            yield Finding(
                Kind.RULES_AT_ODDS,
                ident,
                f"missing {in_words(wanted - said)}, too much {in_words(said - wanted)}",
            )


_Acl = tuple[str, int, str, frozenset[str]]


def _acl(row: Row) -> _Acl:
    conditions = frozenset(part.strip() for part in row["match"].split("&&"))
    return row["direction"], row["priority"], row["action"], conditions


def _acls(group_id: str, rule: Row) -> Iterator[_Acl]:
    """Yield what a rule is in OVN, for each version that it is about."""
    comes_in = rule["direction"] == "INGRESS"
    end, other = ("outport", "src") if comes_in else ("inport", "dst")
    for version in (4, 6):
        if rule["ip_version"] not in {0, version}:
            continue
        if rule["remote_cidr"] and version_of(rule["remote_cidr"]) != version:
            continue
        parts = [f"{end} == @{_group_name(group_id)}", f"ip{version}"]
        if rule["remote_cidr"] and ip_network(rule["remote_cidr"]).prefixlen:
            parts.append(f"ip{version}.{other} == {rule['remote_cidr']}")
        if rule["remote_group_id"]:
            name = _group_name(rule["remote_group_id"])
            parts.append(f"ip{version}.{other} == ${name}_ip{version}")
        parts += _protocol(rule, version)
        direction = "to-lport" if comes_in else "from-lport"
        yield direction, 1002, "allow-related", frozenset(parts)


def _protocol(rule: Row, version: int) -> list[str]:
    if rule["protocol"] is None:
        return []
    if rule["protocol"] == "ICMP":
        name = f"icmp{version}"
        kinds = [("type", rule["icmp_type"]), ("code", rule["icmp_code"])]
        return [name, *(f"{name}.{word} == {n}" for word, n in kinds if n is not None)]
    name = rule["protocol"].lower()
    first = rule["port_first"]
    last = rule["port_last"] or first
    if not first or (first, last) == (1, 65535):
        return [name]
    if first == last:
        return [name, f"{name}.dst == {first}"]
    return [name, f"{name}.dst >= {first}", f"{name}.dst <= {last}"]


def check_drops(cloud: Cloud) -> Iterator[Finding]:
    """All ports that may not spoof are in one group, whose last word is to drop."""
    found = cloud.named("Port_Group", "unkai_drop")
    guests = [port for port in cloud.ports.values() if cloud.is_guests(port)]
    wanted = {uuid_of(port["id"]) for port in guests if port["anti_spoofing"]}
    if len(found) != 1:
        if wanted:
            yield Finding(Kind.DROP_AT_ODDS, "unkai_drop", f"{len(found)} port groups")
        return
    ports = {one["name"] for one in cloud.refers(found[0], "ports")}
    if ports != wanted:
        yield Finding(Kind.DROP_AT_ODDS, "unkai_drop", f"differs by {ports ^ wanted}")
    acls = [_acl(row) for row in cloud.refers(found[0], "acls")]
    for direction, end in (("to-lport", "outport"), ("from-lport", "inport")):
        if (direction, 1000, "drop", frozenset([f"{end} == @unkai_drop", "ip"])) not in acls:
            yield Finding(Kind.DROP_AT_ODDS, "unkai_drop", f"nothing drops {direction}")
    for direction, priority, action, conditions in acls:
        opens = action != "drop" and (direction, priority) != ("from-lport", 1010)
        served = {"tcp.dst == 80", "udp.dst == 53", "tcp.dst == 53", "udp.dst == 67"}
        served |= {"udp.dst == 547"}
        if opens or (action != "drop" and not conditions & served):
            yield Finding(Kind.DROP_AT_ODDS, "unkai_drop", f"lets {in_words(conditions)} pass")


def _group_name(ident: str) -> str:
    return "pg_" + uuid_of(ident).replace("-", "_")
