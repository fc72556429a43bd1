"""Whether one end reaches another: first by what the store says, then by OVN's own flows."""

from __future__ import annotations

from dataclasses import replace

from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.domain.reachability import Hop, Question, Reachability, Verdict
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.ovn import trace_tree
from unkai_scheduler.ovn.trace import Sight, Tracer, Tracking
from unkai_scheduler.ovn.trace_tree import End
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.networking import check_configured
from unkai_scheduler.services.reachability_checks import Named, at, obstacle
from unkai_scheduler.services.reachability_counters import PathCounters, joined
from unkai_scheduler.services.reachability_ends import (
    Cause,
    answer_hidden,
    cause_of,
    leaves,
    other_port,
    unanswerable,
)
from unkai_scheduler.services.reachability_flows import Packet, back, onward, there, to_member
from unkai_scheduler.services.reachability_pairs import delivered, is_let_out, stand_ins
from unkai_scheduler.services.reachability_question import check
from unkai_scheduler.services.reachability_reading import Reading, cookies_of
from unkai_scheduler.services.reachability_routes import sending
from unkai_scheduler.services.reachability_rows import read_scene
from unkai_scheduler.services.reachability_scene import Scene, first_of
from unkai_scheduler.services.reachability_sight import (
    gateway_lost,
    members,
    names_to_look_at,
    troubles,
    unseen,
    well,
)
from unkai_scheduler.store import hosts
from unkai_wire.errors import FailedPrecondition

MAX_TRACE_BYTES = 64 * 1024
MAX_ROUTERS = 8
"""Routers that a packet is followed through where each must first ask for the next."""


class ReachabilityExplained:
    """The use case of `unkai network why`."""

    def __init__(
        self,
        context: ServiceContext,
        settings: NetworkSettings,
        tracer: Tracer | None = None,
        counters: PathCounters | None = None,
    ) -> None:
        """`tracer`: None where nobody told of a southbound database. `counters`: for `confirm`."""
        self._context = context
        self._settings = settings
        self._tracer = tracer
        self._counters = counters

    async def explain(self, question: Question, *, confirm: bool = False) -> Reachability:
        """Say what becomes of a packet, and of its answer."""
        asked = check(question)
        check_configured(self._settings)
        scene = await self._context.uow.read(lambda conn: read_scene(conn, asked))
        found = obstacle(scene)
        if found is not None:
            return found
        if self._tracer is None:
            raise _no_tracer()
        sight = await self._tracer.look(names_to_look_at(scene))
        ids = sorted({binding.host for binding in sight.bindings.values() if binding.host})
        known = await self._context.uow.read(lambda conn: hosts.list_some(conn, ids))
        scene = replace(scene, hosts={host.id: host for host in known})
        found = (
            unseen(scene, sight) or await _Walk(scene, sight, self._tracer, counted=confirm).whole()
        )
        if not confirm or self._counters is None:
            return found
        return replace(found, hops=await self._counters.counted(found.hops, ids))


class _Walk:
    """One question put to OVN: the packet there, further members of a balancer, the answer."""

    def __init__(self, scene: Scene, sight: Sight, tracer: Tracer, *, counted: bool) -> None:
        """`counted`: ask about later packets too; other flows let them through than the first."""
        self._counted = counted
        self._scene = scene
        self._sight = sight
        self._tracer = tracer
        self._hops: list[Hop] = []
        self._outputs: list[str] = []

    async def whole(self) -> Reachability:
        """Return the answer."""
        if self._scene.is_own and self._scene.source:
            self._hops.append(Hop(*at("port", self._scene.source), "it is its own address"))
            return self._end(Verdict.REACHABLE, "goes to itself, and never leaves its guest")
        packet = there(self._scene)
        if packet is None:
            raise _no_way_in(self._scene)
        reading = await self._read(packet)
        if found := self._blocked_there(reading):
            return found
        if answers := self._answering(reading):
            return self._end(Verdict.REACHABLE, f"is answered by {answers}")
        port = reading.ports.get(reading.way.port)
        if port is None or leaves(reading) or self._goes_on_from(port):
            return self._end(Verdict.LEAVES_CLOUD, self._beyond(reading, port))
        seen = reading.seen_source or self._scene.source_address
        if port == self._scene.source:
            # A balancer or its own floating address led back. OVN turns the answer, unseen.
            return self._end(Verdict.REACHABLE, self._arrival())
        return (
            await self._other_members(port, seen)
            or await self._answer(port, seen, is_hidden=bool(reading.seen_source))
            or self._end(Verdict.REACHABLE, self._arrival())
        )

    def _answering(self, reading: Reading) -> str:
        """Return who answers that is no instance; empty: nobody."""
        if self._scene.is_for_metadata:
            return "the metadata service of its host"
        return "the router itself" if reading.is_answered_by_router else ""

    def _blocked_there(self, reading: Reading) -> Reachability | None:
        if reading.is_answered_by_router:
            return None
        if lost := self._lost(reading):
            return lost
        cause = cause_of(reading) or (unanswerable(reading) if leaves(reading) else None)
        return self._blocked(cause, reading) if cause else None

    def _arrival(self) -> str:
        takers = [self._scene.called(port) for port in self._scene.takers]
        if not takers:
            return "arrives, and the answer comes back"
        others = f"; {', '.join(takers[1:])} may as well" if takers[1:] else ""
        return (
            f"arrives, and the answer comes back, where {takers[0]} has taken this address, as "
            f"its port may{others}"
        )

    def _lost(self, reading: Reading) -> Reachability | None:
        """Tell of a router on the way whose gateway is nowhere, or on a silent host."""
        router = reading.leaving_by
        if router is None and reading.last.stage == "lr_in_ip_routing":
            router = reading.routers.get(reading.last.datapath)
        if router is None or router.gateway is None:
            return None
        found = gateway_lost(self._scene, self._sight, router)
        if found is None:
            return None
        return replace(found, hops=(*self._hops, *found.hops), trace=self._told())

    def _beyond(self, reading: Reading, port: Port | None) -> str:
        if leaves(reading):
            return "leaves the cloud; what is beyond is not known"
        if port is None:
            return "goes to what is no port of an instance"
        return f"is for {self._scene.called(port)} to send on; what it does is not known"

    def _goes_on_from(self, port: Port) -> bool:
        ends = {self._scene.end.id} if self._scene.end else set()
        ends |= {member.port_id for member in members(self._scene)}
        return port.id not in ends

    async def _other_members(self, chosen: Port, seen: str) -> Reachability | None:
        """Ask for the members that the balancer did not choose this time."""
        for member in well(self._scene, self._sight):
            if member.port_id == chosen.id:
                continue
            packet = to_member(self._scene, member, seen)
            if packet is None:
                continue
            reading = await self._read(packet)
            if cause := cause_of(reading):
                return self._blocked(cause, reading)
        return None

    async def _answer(self, port: Port, to: str, *, is_hidden: bool) -> Reachability | None:
        """Ask for the answer. `is_hidden`: a router turns it back, which a trace cannot see."""
        number, asked = self._scene.question.port_number, self._asked_at(port, to)
        by = sending(self._scene, port, to)
        if by is not None and (cause := other_port(self._scene, port, by, asked)):
            return self._blocked(cause)
        packet = back(self._scene, asked, to, number, by) if by else None
        if packet is None:
            return self._blocked(_knows_no_way_back(self._scene, port, to))
        reading = await self._read(packet)
        if is_hidden and reading.has_entered_router:
            return None
        if self._is_router_turning(reading):
            return None
        cause = cause_of(reading) or answer_hidden(reading, asked)
        if cause is None:
            return None
        summary = f"it arrives, but the answer does not come back: {cause.summary}"
        return self._blocked(replace(cause, summary=summary), reading)

    def _asked_at(self, port: Port, to: str) -> str:
        """Return the address that a port is asked at, which it answers from."""
        end = self._scene.end
        return (
            self._scene.end_address if end and port.id == end.id else first_of(port, version_of(to))
        )

    def _is_router_turning(self, reading: Reading) -> bool:
        """Tell whether an answer to the outside ends where a floating address is put back."""
        hidden = self._scene.floating is not None or self._scene.balancer is not None
        return hidden and self._scene.source is None and reading.has_entered_router

    async def _read(self, packet: Packet) -> Reading:
        """Read a packet's way, also on from where a router would first ask who its neighbour is."""
        for _ in range(MAX_ROUTERS):
            reading = await self._read_once(packet)
            hop = reading.next_hop
            if reading.way.end is not End.NEIGHBOUR_ASKED or hop is None:
                break
            sent_on = onward(self._scene, packet, *hop, reading.seen_destination)
            if sent_on is None:
                break
            packet = sent_on
        return reading

    async def _read_once(self, packet: Packet) -> Reading:
        reading = await self._trace(packet)
        instead = stand_ins(reading, packet)
        if instead is None:
            self._hops += await self._with_later(packet, reading)
            return reading
        begun = await self._trace(instead.out_of_port)
        self._hops += begun.hops(before="ls_out")
        if not is_let_out(begun.way):
            return begun
        reading = await self._trace(instead.onward)
        self._hops += await self._with_later(instead.onward, reading)
        return reading

    async def _with_later(self, packet: Packet, reading: Reading) -> list[Hop]:
        """Return a packet's hops, with the flows that a later packet of its connection passes."""
        hops = list(reading.hops())
        if not self._counted or packet.tracking is not Tracking.NEW:
            return hops
        later = await self._trace(replace(packet, tracking=Tracking.LATER))
        self._outputs.pop()
        return joined(hops, later.hops())

    async def _trace(self, packet: Packet) -> Reading:
        output = await self._tracer.trace(
            packet.flow(self._scene.question.protocol), packet.tracking
        )
        self._outputs.append(output)
        is_answer = packet.tracking is Tracking.ANSWER
        way = trace_tree.read(output)
        handing = {name: binding.cookie for name, binding in self._sight.bindings.items()}
        reading = Reading(
            self._scene, way, packet.source, packet.destination, answer=is_answer, handing=handing
        )
        return delivered(reading)

    def _blocked(self, cause: Cause, reading: Reading | None = None) -> Reachability:
        is_answer = reading is None or reading.answer
        cookies = cookies_of(reading.last) if reading else ()
        self._hops.append(
            Hop(*cause.place, cause.summary, dropped=True, answer=is_answer, cookies=cookies)
        )
        pending = self._pending()
        summary = cause.summary + (f" ({pending} may not be in OVN yet)" if pending else "")
        return Reachability(
            Verdict.UNREACHABLE, summary, cause.reason, cause.fix, tuple(self._hops), self._told()
        )

    def _end(self, verdict: Verdict, what: str) -> Reachability:
        scene = self._scene
        source = scene.called(scene.source) if scene.source else "outside"
        summary = f"{scene.question.service} from {source} to {scene.destination_said} {what}"
        if troubled := troubles(scene, self._sight):
            summary += f" ({troubled})"
        return Reachability(verdict, summary, hops=tuple(self._hops), trace=self._told())

    def _pending(self) -> str:
        """Return what of the scene OVN may not have as it is in the store."""
        scene = self._scene
        rows: list[Named] = [
            port for port in (scene.source, scene.end) if port and port.reconciling
        ]
        rows += [some for some in scene.groups.values() if some.reconciling]
        rows += [some for some in scene.routers.values() if some.reconciling]
        return ", ".join(dict.fromkeys(row.name for row in rows))

    def _told(self) -> str:
        return "\n".join(self._outputs).encode()[:MAX_TRACE_BYTES].decode("utf-8", "ignore")


def _knows_no_way_back(scene: Scene, port: Port, to: str) -> Cause:
    return Cause(
        "NO_WAY_BACK",
        f"it arrives, but {scene.called(port)} knows no router that leads to {to}",
        "set the gateway of its subnet to a router's address there with 'unkai subnet update', or "
        "give a router its address with 'unkai router add-subnet'",
        at("port", port),
    )


def _no_tracer() -> FailedPrecondition:
    return FailedPrecondition(
        "nothing in the store stands in the way, and OVN's flows cannot be read: this "
        "scheduler is told of no southbound database",
        reason="FLOWS_NOT_READABLE",
        fix="set network.southbound in the settings of every scheduler and restart them",
    )


def _no_way_in(scene: Scene) -> FailedPrecondition:
    return FailedPrecondition(
        f"nothing says by which port a packet to {scene.destination} would come in",
        reason="NO_WAY_IN",
        fix="name an external network of the operator's (flat or VLAN), or a port as the source",
        metadata={"destination": scene.destination},
    )
