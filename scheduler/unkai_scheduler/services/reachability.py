"""Whether one end reaches another: first by what the store says, then by OVN's own flows."""

from __future__ import annotations

from dataclasses import replace

from unkai_scheduler.domain.addresses import check_address, version_of
from unkai_scheduler.domain.reachability import EXTERNAL, Question, Reachability
from unkai_scheduler.domain.security_groups import Protocol
from unkai_scheduler.services.checks import Violations
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.networking import check_configured
from unkai_scheduler.services.reachability_checks import obstacle
from unkai_scheduler.services.reachability_scene import read_scene
from unkai_scheduler.settings import NetworkSettings
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import check_id

_MAX_PORT = 65535


class ReachabilityExplained:
    """The use case of `unkai network why`."""

    def __init__(self, context: ServiceContext, settings: NetworkSettings) -> None:
        self._context = context
        self._settings = settings

    async def explain(self, question: Question, *, confirm: bool = False) -> Reachability:
        """Say what becomes of a packet, and of its answer."""
        asked = check(question)
        check_configured(self._settings)
        scene = await self._context.uow.read(lambda conn: read_scene(conn, asked))
        found = obstacle(scene)
        if found is not None:
            return found
        raise FailedPrecondition(
            "nothing in the store stands in the way, and OVN's flows cannot be read: this "
            "scheduler is told of no southbound database",
            reason="FLOWS_NOT_READABLE",
            fix="set network.southbound in the settings of every scheduler and restart them",
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
