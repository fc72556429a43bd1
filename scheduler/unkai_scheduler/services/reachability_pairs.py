"""What `ovn-trace` does not know: that a port may use a whole range by a pair. Pure.

It takes the range's first address for the only one, on the way in and on the way out; switches do
not. So a packet that it stops there is asked about twice more: with that first address, which shows
what the port's groups say of the other end; and from the network's metadata port, which has no
anti-spoofing and no group, with the address that it really has. See OVN 23.03's ovn-trace,
check_in_port_sec and check_out_port_sec; it may go when these look at masks.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import NamedTuple

from unkai_scheduler.domain.addresses import contains, version_of
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.ovn.northbound.names import metadata_name
from unkai_scheduler.ovn.trace_tree import End, Way
from unkai_scheduler.services.reachability_flows import Packet
from unkai_scheduler.services.reachability_reading import Reading


class StandIns(NamedTuple):
    """Two packets that are asked about in place of one."""

    out_of_port: Packet
    onward: Packet


def stand_ins(reading: Reading, packet: Packet) -> StandIns | None:
    """Return what to ask in place of a packet that was stopped wrongly as it left its port."""
    port = reading.ports.get(packet.inport)
    if port is None or not reading.last.stage.startswith("ls_in_apply_port_sec"):
        return None
    allowed = _range_with(port, packet.source)
    if not allowed:
        return None
    first = str(ip_network(allowed).network_address)
    return StandIns(
        replace(packet, source=first), replace(packet, inport=metadata_name(port.network_id))
    )


def is_let_out(way: Way) -> bool:
    """Tell whether a packet got through all that its own port's switch asks on the way in."""
    return way.end is not End.DROPPED or not way.steps[-1].stage.startswith(
        ("ls_in_apply_port_sec", "ls_in_acl")
    )


def delivered(reading: Reading) -> Reading:
    """Return a packet's way as it is where it was stopped wrongly at its end: it arrives."""
    port = reading.ports.get(reading.last.outport)
    stopped = reading.way.end is End.DROPPED and reading.last.stage.startswith(
        "ls_out_apply_port_sec"
    )
    if port is None or not stopped or not _range_with(port, reading.seen_destination):
        return reading
    last = replace(reading.last, actions=("output;",))
    steps = (*reading.way.steps[:-1], last)
    return replace(reading, way=Way(steps, End.ARRIVED, reading.last.outport))


def _range_with(port: Port, address: str) -> str:
    """Return the range by which a port may use an address; empty: none."""
    for pair in port.pairs:
        if version_of(pair.cidr) == version_of(address) and contains(pair.cidr, address):
            return pair.cidr
    return ""
