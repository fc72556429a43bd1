"""What `ovn-trace --detailed` printed, as the way of one packet. Pure.

Its output is a tree of blocks, each with a title underlined by hyphens: a pipeline
(`ingress(dp=…, inport=…)`), what connection tracking did (`ct_snat(ip4.src=…)`), or a branch that
is another packet: a question for a neighbour (`arp`), an answer that OVN itself gives (`icmp4`,
`tcp_reset`). The packet's own way are the blocks that are not indented, until such a branch.

The trap: `drop;` is printed only where nothing else is; a packet is dropped wherever its last step
leads nowhere. ovn-trace(8).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

_STEP = re.compile(r"( ?)(\d+)\. (\S+?)(?: \([^)]*\))?: (.*), priority (\d+), uuid ([0-9a-f]{8})")
_NOTHING = re.compile(r"( ?)(\d+)\. (?:(\S+): )?no match \(implicit drop\)")
_PIPELINE = re.compile(r'(ingress|egress|multicast)\(dp="([^"]*)"(.*)\)')
_PART = re.compile(r'(inport|outport|mcgroup)="([^"]*)"')
_OUTPUT = re.compile(r'/\* output to "([^"]*)", type "([^"]*)" \*/')
_THROUGH = frozenset({"patch", "l3gateway"})
_ASKS = frozenset({"arp", "nd_ns"})
_REFUSES = frozenset({"icmp4", "icmp6", "icmp4_error", "icmp6_error", "tcp_reset", "sctp_abort"})


class End(Enum):
    """How a packet's way ends."""

    ARRIVED = "ARRIVED"
    DROPPED = "DROPPED"
    REFUSED = "REFUSED"
    """OVN answers that it does not go on."""
    NEIGHBOUR_ASKED = "NEIGHBOUR_ASKED"
    """It waits until the next one's MAC address is known."""
    FLOODED = "FLOODED"


@dataclass(frozen=True, slots=True)
class Step:
    """A logical flow that the packet matched."""

    stage: str
    match: str
    priority: int
    uuid: str
    """The first 8 digits: OpenFlow's cookie."""
    actions: tuple[str, ...]
    datapath: str
    """UUID of the switch's or router's northbound row."""
    inport: str
    outport: str
    """Empty in an ingress pipeline."""
    changes: str = ""
    """What connection tracking made of it, as `ip4.src=192.0.2.7`."""


@dataclass(frozen=True, slots=True)
class Way:
    """The way of one packet."""

    steps: tuple[Step, ...]
    end: End
    port: str = ""
    """Where it arrived."""
    port_type: str = ""
    """Of that port: empty for a machine's, `localnet` for the outside."""


@dataclass
class _Block:
    title: str
    lines: list[str] = field(default_factory=list)


def read(text: str) -> Way:
    """Return the way that an output tells of."""
    steps: list[Step] = []
    datapath = inport = outport = ""
    for block in _blocks(text):
        if found := _PIPELINE.fullmatch(block.title):
            parts = dict(_PART.findall(found[3]))
            if found[1] == "multicast":
                return Way(tuple(steps), End.FLOODED)
            datapath, inport = found[2], parts.get("inport", inport)
            outport = parts.get("outport", "")
        elif block.title in _ASKS:
            return Way(tuple(steps), End.NEIGHBOUR_ASKED)
        elif block.title in _REFUSES:
            return Way(tuple(steps), End.REFUSED)
        elif steps and (change := _change(block.title)):
            steps[-1] = _changed(steps[-1], change)
        steps += _steps(block, datapath, inport, outport)
        for port, kind in _OUTPUT.findall("\n".join(block.lines)):
            if kind not in _THROUGH:
                return Way(tuple(steps), End.ARRIVED, port, kind)
    return Way(tuple(steps), End.DROPPED)


def _blocks(text: str) -> Iterator[_Block]:
    """Yield the blocks that are not indented; lines of others are dropped."""
    lines = text.splitlines()
    block = _Block("")
    for place, line in enumerate(lines):
        below = lines[place + 1] if place + 1 < len(lines) else ""
        if line and below and set(below) == {"-"} and len(below) == len(line):
            yield block
            block = _Block(line)
        elif line.strip() and set(line.strip()) != {"-"}:
            block.lines.append(line)
    yield block


def _steps(block: _Block, datapath: str, inport: str, outport: str) -> Iterator[Step]:
    place = 0
    while place < len(block.lines):
        line = block.lines[place]
        place += 1
        if found := _STEP.fullmatch(line):
            first = place
            while place < len(block.lines) and block.lines[place].startswith("    "):
                place += 1
            actions = tuple(some.strip() for some in block.lines[first:place])
            stage, match, priority, uuid = found[3], found[4], int(found[5]), found[6]
            yield Step(stage, match, priority, uuid, actions, datapath, inport, outport)
        elif found := _NOTHING.fullmatch(line):
            yield Step(found[3] or "", "", 0, "", (), datapath, inport, outport)


def _change(title: str) -> str:
    """Return what a block of connection tracking says that it changed."""
    found = re.match(r"ct_\w+\((ip[46]\.(?:src|dst)=[0-9a-f.:]+)\)", title)
    return found[1] if found else ""


def _changed(step: Step, change: str) -> Step:
    return Step(
        step.stage,
        step.match,
        step.priority,
        step.uuid,
        step.actions,
        step.datapath,
        step.inport,
        step.outport,
        change,
    )
