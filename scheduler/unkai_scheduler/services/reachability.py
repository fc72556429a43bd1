"""Whether one end reaches another: first by what the store says, then by OVN's own flows."""

from __future__ import annotations

from dataclasses import replace

from unkai_scheduler.domain.addresses import check_address, version_of
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.domain.reachability import EXTERNAL, Hop, Question, Reachability, Verdict
from unkai_scheduler.domain.security_groups import Protocol
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.ovn import trace_tree
from unkai_scheduler.ovn.trace import Sight, Tracer, Tracking
from unkai_scheduler.ovn.trace_tree import End
from unkai_scheduler.services.checks import Violations
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.networking import check_configured
from unkai_scheduler.services.reachability_checks import Named, at, obstacle
from unkai_scheduler.services.reachability_counters import PathCounters
from unkai_scheduler.services.reachability_ends import Cause, cause_of, leaves
from unkai_scheduler.services.reachability_flows import Packet, back, onward, there, to_member
from unkai_scheduler.services.reachability_reading import Reading, cookies_of
from unkai_scheduler.services.reachability_scene import Scene, read_scene
from unkai_scheduler.services.reachability_sight import members, names_to_look_at, unseen, well
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import check_id

MAX_TRACE_BYTES = 64 * 1024
MAX_ROUTERS = 8
"""Routers that a packet is followed through where each must first ask for the next."""
_MAX_PORT = 65535


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
        found = unseen(scene, sight) or await _Walk(scene, sight, self._tracer).whole()
        if not confirm or self._counters is None:
            return found
        hosts = {binding.host for binding in sight.bindings.values() if binding.host}
        return replace(found, hops=await self._counters.counted(found.hops, hosts))


class _Walk:
    """One question put to OVN: the packet there, further members of a balancer, the answer."""

    def __init__(self, scene: Scene, sight: Sight, tracer: Tracer) -> None:
        self._scene = scene
        self._sight = sight
        self._tracer = tracer
        self._hops: list[Hop] = []
        self._outputs: list[str] = []

    async def whole(self) -> Reachability:
        """Return the answer."""
        packet = there(self._scene)
        if packet is None:
            raise _no_way_in(self._scene)
        reading = await self._read(packet)
        if reading.is_answered_by_router:
            return self._end(Verdict.REACHABLE, "is answered by the router itself")
        if cause := cause_of(reading):
            return self._blocked(cause, reading)
        if leaves(reading):
            return self._end(Verdict.LEAVES_CLOUD, "leaves the cloud; what is beyond is not known")
        port = reading.ports.get(reading.way.port)
        if port is None:
            return self._end(Verdict.LEAVES_CLOUD, "goes to what is no port of an instance")
        if self._goes_on_from(port):
            called = self._scene.called(port)
            return self._end(
                Verdict.LEAVES_CLOUD, f"is for {called} to send on; what it does is not known"
            )
        seen = reading.seen_source or self._scene.source_address
        return (
            await self._other_members(port, seen)
            or await self._answer(port, seen, is_hidden=bool(reading.seen_source))
            or self._end(Verdict.REACHABLE, "arrives, and the answer comes back")
        )

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
        number = self._scene.question.port_number
        packet = back(self._scene, port, to, number)
        if packet is None:
            return self._blocked(_knows_no_way_back(self._scene, port, to))
        reading = await self._read(packet)
        if is_hidden and reading.has_entered_router:
            return None
        cause = cause_of(reading)
        if cause is None or self._is_router_turning(reading):
            return None
        summary = f"it arrives, but the answer does not come back: {cause.summary}"
        return self._blocked(replace(cause, summary=summary), reading)

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
        flow = packet.flow(self._scene.question.protocol)
        output = await self._tracer.trace(flow, packet.tracking)
        self._outputs.append(output)
        is_answer = packet.tracking is Tracking.ANSWER
        way = trace_tree.read(output)
        reading = Reading(self._scene, way, packet.source, packet.destination, answer=is_answer)
        self._hops += reading.hops()
        return reading

    def _blocked(self, cause: Cause, reading: Reading | None = None) -> Reachability:
        is_answer = reading is None or reading.answer
        cookies = cookies_of(reading.last) if reading else ()
        self._hops.append(
            Hop(*cause.place, cause.summary, dropped=True, answer=is_answer, cookies=cookies)
        )
        pending = self._pending()
        summary = cause.summary + (f" ({pending} may not be in OVN yet)" if pending else "")
        return Reachability(
            Verdict.UNREACHABLE, summary, cause.reason, cause.fix, tuple(self._hops), self._trace()
        )

    def _end(self, verdict: Verdict, what: str) -> Reachability:
        scene = self._scene
        source = scene.called(scene.source) if scene.source else "outside"
        summary = f"{scene.question.service} from {source} to {scene.destination} {what}"
        return Reachability(verdict, summary, hops=tuple(self._hops), trace=self._trace())

    def _pending(self) -> str:
        """Return what of the scene OVN may not have as it is in the store."""
        scene = self._scene
        rows: list[Named] = [
            port for port in (scene.source, scene.end) if port and port.reconciling
        ]
        rows += [some for some in scene.groups.values() if some.reconciling]
        rows += [some for some in scene.routers.values() if some.reconciling]
        return ", ".join(dict.fromkeys(row.name for row in rows))

    def _trace(self) -> str:
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


def check(question: Question) -> Question:
    """Return a question in canonical form; raise `InvalidArgument` for what is wrong with it."""
    with Violations() as wrong:
        one = bool(question.source_port_id) != bool(question.source_network_id)
        wrong.require(
            one,
            "source_port_id",
            "is needed, or source_network_id for what comes from outside, and not both",
            "SOURCE_NEEDED",
        )
        if question.source_port_id:
            with wrong.collect():
                check_id("port", question.source_port_id, "source_port_id")
        if question.source_network_id:
            with wrong.collect():
                check_id("network", question.source_network_id, "source_network_id")
        has_ports = question.protocol is not Protocol.ICMP
        least, most = (1, _MAX_PORT) if has_ports else (0, 0)
        wrong.require(
            least <= question.port_number <= most,
            "port_number",
            f"is {question.port_number}; "
            + (
                f"{question.protocol.value} needs 1 to {_MAX_PORT}"
                if has_ports
                else "ICMP has none"
            ),
            "INVALID_PORT_NUMBER",
        )
        source = destination = ""
        if question.source_address:
            with wrong.collect():
                source = check_address(question.source_address, "source_address")
        if question.destination_address == EXTERNAL:
            destination = EXTERNAL
        else:
            with wrong.collect():
                destination = check_address(question.destination_address, "destination_address")
        alike = not source or destination in {"", EXTERNAL}
        wrong.require(
            alike or version_of(source) == version_of(destination),
            "source_address",
            f"{source} is not of the same version as {destination}",
            "ADDRESSES_DIFFER",
        )
    return replace(question, source_address=source, destination_address=destination)
