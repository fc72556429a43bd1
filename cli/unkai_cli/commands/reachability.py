"""`unkai network why`: names to ports and addresses, the question, and its answer in words.

The scheduler walks OVN's flows; nothing is sent, also with `--confirm`: whoever asks sends then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unkai_cli.commands.addresses import Endpoint, is_address
from unkai_cli.commands.resources import read, words
from unkai_cli.commands.targets import addresses_of, chosen, of_kinds, ports_of
from unkai_cli.output import EXIT_FAILED, Column, Printer, note
from unkai_wire import deadlines
from unkai_wire.errors import FailedPrecondition

if TYPE_CHECKING:
    from unkai_cli.session import Session

EXTERNAL = "external"
"""Either end: anywhere outside the cloud."""
SOURCES = ("instance", "port")
TARGETS = ("instance", "load_balancer", "floating_ip", "port")


@dataclass(frozen=True, slots=True)
class Place:
    """An end of the way: its addresses on one network."""

    network_id: str
    addresses: Sequence[str]
    port_id: str = ""
    external: bool = False
    """It is outside, beyond that network where it is the source."""


def why(
    session: Session,
    source: str,
    target: Endpoint,
    *,
    source_address: str,
    network: str,
    version: int,
    confirm: bool,
) -> int:
    """Ask, print the answer, and return the exit code: 1 when it is not reachable."""
    from unkai_cli.records import record

    sources = (
        [_outside(session, network)]
        if source == EXTERNAL
        else _source_places(session, source, source_address)
    )
    targets = _target_places(session, target)
    begin, end = ends(_nearest_first(session, sources, targets, source_address), targets)
    address = EXTERNAL if end.external else destination(begin, end, source_address, version)
    if confirm:
        note(f"looking for packets to {address} for some seconds: send some now")
    asked = {
        "source_port_id": begin.port_id,
        "source_network_id": begin.network_id if begin.external else "",
        "source_address": source_address,
        "destination_address": address,
    }
    answer = session.client.call(
        "ReachabilityService",
        "Explain",
        timeout_s=deadlines.EXPLAIN_S,
        **asked,
        protocol=f"PROTOCOL_{target.protocol.upper()}",
        port_number=target.port_number,
        confirm=confirm,
    )
    found = record(answer.reachability)
    service = {"protocol": target.protocol, "port_number": target.port_number}
    found["asked"] = {"source": source, "destination": target.name, **asked, **service}
    _print(session.printer, found)
    return EXIT_FAILED if found["verdict"] == "UNREACHABLE" else 0


def _nearest_first(
    session: Session, sources: Sequence[Place], targets: Sequence[Place], address: str
) -> Sequence[Place]:
    """Put first the port whose subnet has an address: the one it shall send from, or the far end's.

    An address that is sent from is one of its network alone.
    """
    if len(sources) < 2:
        return sources
    far = [a for some in targets if not some.network_id for a in some.addresses]
    known = [address] if address else far
    nearest = sorted(sources, key=lambda place: not _has_subnet_of(session, place, known))
    return nearest[:1] if address else nearest


def _has_subnet_of(session: Session, place: Place, addresses: Sequence[str]) -> bool:
    from ipaddress import ip_address, ip_network

    subnets = session.client.pages("SubnetService", "ListSubnets", network_id=place.network_id)
    networks = [ip_network(str(subnet.cidr)) for subnet in subnets]
    return any(ip_address(address) in network for address in addresses for network in networks)


def ends(sources: Sequence[Place], targets: Sequence[Place]) -> tuple[Place, Place]:
    """Return one place of each: a pair on one network if there is one, else the first of each."""
    for source in sources:
        for target in targets:
            if source.network_id and source.network_id == target.network_id:
                return source, target
    return sources[0], targets[0]


def destination(source: Place, target: Place, source_address: str, version: int) -> str:
    """Return the address to ask about: of the kind wanted, else of one that the source has."""
    own = [source_address] if source_address else source.addresses
    kinds = [version] if version else sorted({_version(each) for each in own}) or [4, 6]
    for kind in kinds:
        for address in target.addresses:
            if _version(address) == kind:
                return address
    if target.addresses and not version:
        return target.addresses[0]
    kind_text = f"IPv{version} address" if version else "address"
    raise FailedPrecondition(
        f"the far end has no {kind_text}",
        reason="NO_ADDRESS",
        fix="name another end, or give its port an address with 'unkai port update'",
    )


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _source_places(session: Session, text: str, address: str) -> list[Place]:
    kind, ident = chosen(session, text, SOURCES)
    if kind == "port":
        return [_place(read(session, kind, ident))]
    places = [_place(port) for port in ports_of(session, ident)]
    return [place for place in places if address and address in place.addresses] or places


def _outside(session: Session, network: str) -> Place:
    """Return the outside beyond an external network: the one named, or the only one."""
    if network:
        return Place(session.client.resolve("network", network), [], external=True)
    found = list(session.client.pages("NetworkService", "ListNetworks", external=True))
    if len(found) == 1:
        return Place(str(found[0].id), [], external=True)
    names = ", ".join(sorted(str(some.name) for some in found)) or "none"
    raise FailedPrecondition(
        f"there are {len(found)} external networks to come in by: {names}",
        reason="NO_NETWORK_NAMED",
        fix="say which: --network NAME",
        metadata={"networks": names},
    )


def _target_places(session: Session, target: Endpoint) -> list[Place]:
    if not target.kind and target.name == EXTERNAL:
        return [Place("", [], external=True)]
    if not target.kind and is_address(target.name):
        return [Place("", [target.name])]
    kind, ident = of_kinds(session, target.name, [target.kind] if target.kind else TARGETS)
    if kind == "instance":
        return [_place(port) for port in ports_of(session, ident)]
    found = read(session, kind, ident)
    if kind == "port":
        return [_place(found)]
    return [Place("", [str(found.address)])]


def _place(port: Any) -> Place:
    return Place(str(port.network_id), addresses_of(port), str(port.id))


def _words(asked: Mapping[str, Any]) -> str:
    """Say what was asked."""
    name, address = asked["destination"], asked["destination_address"]
    words = f"{asked['source']} to {name}" + ("" if name == address else f" ({address})")
    return f"{words}, {asked['protocol']} {asked['port_number'] or ''}".rstrip()


def _print(printer: Printer, found: Mapping[str, Any]) -> None:
    verdict = found["verdict"].lower().replace("_", " ")
    match printer.form:
        case "table" | "wide":
            printer.line(f"{_words(found['asked'])}: {verdict}")
            printer.line(found["summary"])
            if found["hops"]:
                printer.line()
                printer.table(found["hops"], _columns(found["hops"]))
            if found["fix"]:
                printer.line()
                printer.line(f"fix: {found['fix']}")
            if printer.form == "wide" and found["trace"]:
                printer.line()
                printer.line(found["trace"].rstrip())
        case "name":
            printer.line(verdict)
        case _:
            printer.one(found, ())


def _columns(hops: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns; PACKETS where something was counted."""
    columns = [
        Column("WAY", lambda hop: "back" if hop["answer"] else "there"),
        Column("AT", _thing),
        Column("WHAT", lambda hop: hop["message"] + (" [ends here]" if hop["dropped"] else "")),
    ]
    if any(hop["packet_count"] is not None for hop in hops):
        columns.insert(2, Column("PACKETS", _packets, right=True))
    return columns


def _thing(hop: Mapping[str, Any]) -> str:
    return f"{words(hop['resource_kind'])} {hop['resource_name'] or hop['resource_id']}".strip()


def _packets(hop: Mapping[str, Any]) -> str:
    return "" if hop["packet_count"] is None else str(hop["packet_count"])
