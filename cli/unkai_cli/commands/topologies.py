"""`unkai network topology`: routers, networks, subnets and ports as a tree, from outside to inside.

`gathered` asks, and returns plain data (what `-o json` prints); `drawn` makes lines of it, purely.
A network that several routers are on is drawn whole below the first, by its name below the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unkai_cli.output import align

if TYPE_CHECKING:
    from unkai_cli.session import Session

_ROUTER_OWNED = {"ROUTER", "GATEWAY", "FLOATING_IP"}
"""Owners whose ports are drawn as what they are of."""
_LINES = ("├── ", "└── ", "│   ", "    ")
_LINES_ASCII = ("|-- ", "`-- ", "|   ", "    ")


@dataclass
class Branch:
    """One line, and what is below it."""

    text: str
    below: list[Branch] = field(default_factory=list)


def show(session: Session, *, ports: bool) -> None:
    """Print the topology in the format asked for."""
    found = gathered(session, ports=ports)
    printer = session.printer
    if printer.form in ("json", "yaml"):
        printer.one(found, ())
    elif printer.form in ("name", "value"):
        printer.rows(found["networks"], ())
    else:
        encoding = getattr(printer.out, "encoding", None) or "utf-8"
        plain = "utf" not in encoding.lower()
        for line in drawn(found, _LINES_ASCII if plain else _LINES):
            printer.line(line)


def gathered(session: Session, *, ports: bool) -> dict[str, Any]:
    """Return networks, routers and what is on them, each as the contract has it.

    Networks get `subnets`, `ports`, and `free_addresses`: floating ones that lead nowhere. Ports
    get `owner_name`, `floating_addresses`, and the `listeners` of their load balancer.
    """
    from unkai_cli.commands.ports import owner_text
    from unkai_cli.commands.resources import Names
    from unkai_cli.records import record

    client, names = session.client, Names(session, many=True)

    def all_of(noun: str, **filters: Any) -> list[dict[str, Any]]:
        asked = {"project_id": client.list_project_id, **filters}
        return [record(each) for each in client.pages(f"{noun}Service", f"List{noun}s", **asked)]

    own = all_of("Network")
    outside = all_of("Network", project_id="", external=True)
    networks = {row["id"]: row for row in [*outside, *own]}
    floating = all_of("FloatingIp")
    subnets = all_of("Subnet") + [
        row for each in outside for row in all_of("Subnet", project_id="", network_id=each["id"])
    ]
    plugged = all_of("Port") if ports else []
    balancers = {row["id"]: row for row in all_of("LoadBalancer")} if ports else {}
    for row in plugged:
        row["owner_name"] = owner_text(names, row)
        row["listeners"] = balancers.get(row["owner_id"], {}).get("listeners", [])
        row["floating_addresses"] = [
            each["address"] for each in floating if each["port_id"] == row["id"]
        ]
    for row in networks.values():
        row["subnets"] = list(_of_network({each["id"]: each for each in subnets}.values(), row))
        row["ports"] = list(_of_network(plugged, row))
        row["free_addresses"] = [
            each["address"] for each in _of_network(floating, row) if not each["port_id"]
        ]
    return {"networks": list(networks.values()), "routers": all_of("Router")}


def _of_network(rows: Iterable[Any], network: Mapping[str, Any]) -> Iterator[Any]:
    return (row for row in rows if row["network_id"] == network["id"])


def drawn(found: Mapping[str, Any], signs: Sequence[str] = _LINES) -> list[str]:
    """Return the topology as lines."""
    lines: list[str] = []
    for branch in Forest(found).branches():
        lines += ([""] if lines else []) + [branch.text, *_below(branch, "", signs)]
    return lines or ["no networks: 'unkai network create NAME --subnet CIDR' makes one"]


def _below(branch: Branch, indent: str, signs: Sequence[str]) -> Iterator[str]:
    for place, below in enumerate(branch.below, 1):
        last = place == len(branch.below)
        yield f"{indent}{signs[last]}{below.text}".rstrip()
        yield from _below(below, indent + signs[2 + last], signs)


class Forest:
    """Trees made of what was gathered; each network is drawn once."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._networks = {row["id"]: row for row in found["networks"]}
        self._routers = found["routers"]
        self._subnets = {
            subnet["id"]: subnet for row in found["networks"] for subnet in row["subnets"]
        }
        self._drawn: set[str] = set()

    def branches(self) -> list[Branch]:
        """Return external networks with their routers, other routers, networks with none."""
        trees = [self._outside(row) for row in self._networks.values() if row["external"]]
        known = {row["id"] for row in self._networks.values() if row["external"]}
        for router in self._routers:
            gateway = router["gateway"]
            if not gateway or gateway["network_id"] not in known:
                trees.append(self._router(router))
        alone = [row for key, row in self._networks.items() if key not in self._drawn]
        return trees + [self._network(row, "no router") for row in alone]

    def _outside(self, row: Mapping[str, Any]) -> Branch:
        branch = self._network(row, "external")
        branch.below += [Branch(f"floating {each}, free") for each in row["free_addresses"]]
        branch.below += [
            self._router(router)
            for router in self._routers
            if router["gateway"] and router["gateway"]["network_id"] == row["id"]
        ]
        return branch

    def _router(self, row: Mapping[str, Any]) -> Branch:
        branch = Branch(f"router {row['name']}  {_way_out(row['gateway'])}{_unready(row)}")
        networks: dict[str, list[str]] = {}
        for place in row["interfaces"]:
            subnet = self._subnets.get(place["subnet_id"])
            network_id = subnet["network_id"] if subnet else place["subnet_id"]
            networks.setdefault(network_id, []).append(place["address"])
        for network_id, addresses in networks.items():
            branch.below.append(self._joined(network_id, addresses))
        branch.below += [
            Branch(f"route {each['destination']} via {each['next_hop']}") for each in row["routes"]
        ]
        return branch

    def _joined(self, network_id: str, addresses: Sequence[str]) -> Branch:
        """Return a network below a router; `addresses`: the router's own there."""
        row = self._networks.get(network_id)
        where = f"router at {' '.join(filter(None, addresses))}"
        if row is None:
            return Branch(f"network {network_id}  of another project, {where}")
        if network_id in self._drawn:
            return Branch(f"network {row['name']}  see above, {where}")
        return self._network(row, where)

    def _network(self, row: Mapping[str, Any], what: str) -> Branch:
        self._drawn.add(row["id"])
        kind = row["type"].lower()
        if row["physical_network"]:
            kind += f" on {row['physical_network']}"
        if row["vlan_id"]:
            kind += f" VLAN {row['vlan_id']}"
        mtu = f", MTU {row['mtu']}" if row["mtu"] else ""
        branch = Branch(f"network {row['name']}  {kind}{mtu}, {what}{_unready(row)}")
        branch.below += [Branch(_subnet(each)) for each in row["subnets"]]
        branch.below += [Branch(text) for text in _ports(row["ports"])]
        return branch


def _way_out(gateway: Mapping[str, Any] | None) -> str:
    if not gateway:
        return "no way out"
    by = f" by {gateway['host_name']}" if gateway["host_name"] else ", no host"
    snat = "no SNAT" if gateway["no_snat"] else "SNAT"
    return f"{' '.join(gateway['addresses']) or 'no address'}{by}, {snat}"


def _subnet(row: Mapping[str, Any]) -> str:
    gateway = row["gateway_address"]
    dhcp = ", no DHCP" if row["no_dhcp"] else ""
    behind = f", gateway {gateway}" if gateway else ", no gateway"
    return f"subnet {row['name']}  {row['cidr']}{behind}{dhcp}{_unready(row)}"


def _ports(rows: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    cells = [
        [
            row["owner_name"] or f"port {row['name']}",
            " ".join(each["address"] for each in row["fixed_addresses"]),
            _doing(row) + _unready(row),
            " ".join(f"<- {address}" for address in row["floating_addresses"]),
        ]
        for row in rows
        if row["owner"] not in _ROUTER_OWNED
    ]
    return align(sorted(cells), [False] * 4) if cells else []


def _doing(row: Mapping[str, Any]) -> str:
    """Return a port's state; of a load balancer, which is on all hosts, where it listens."""
    if row["owner"] != "LOAD_BALANCER":
        return str(row["state"])
    return ",".join(f"{e['port_number']}/{e['protocol'].lower()}" for e in row["listeners"])


def _unready(row: Mapping[str, Any]) -> str:
    return " (OVN follows)" if row["reconciling"] else ""
