"""What may be asked of reachability. Pure."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from unkai_scheduler.domain.addresses import check_address, version_of
from unkai_scheduler.domain.reachability import EXTERNAL, Question
from unkai_scheduler.domain.security_groups import Protocol
from unkai_scheduler.ovn.northbound.networks import METADATA_V4, METADATA_V6
from unkai_scheduler.services.checks import Violations
from unkai_wire.errors import InvalidArgument
from unkai_wire.ids import check_id

_MAX_PORT = 65535


def check(question: Question) -> Question:
    """Return a question in canonical form; raise `InvalidArgument` for what is wrong with it."""
    with Violations() as wrong:
        _check_source(question, wrong)
        _check_service(question, wrong)
        source = destination = ""
        if question.source_address:
            with wrong.collect():
                source = _address(question.source_address, "source_address")
        if question.destination_address == EXTERNAL:
            destination = EXTERNAL
        else:
            with wrong.collect():
                destination = _address(question.destination_address, "destination_address")
        wrong.require(
            not (question.source_network_id and destination == EXTERNAL),
            "destination_address",
            "is outside, as the source is: name an end inside the cloud",
            "BOTH_OUTSIDE",
        )
        alike = not source or destination in {"", EXTERNAL}
        wrong.require(
            alike or version_of(source) == version_of(destination),
            "source_address",
            f"{source} is not of the same version as {destination}",
            "ADDRESSES_DIFFER",
        )
    return replace(question, source_address=source, destination_address=destination)


def _check_source(question: Question, wrong: Violations) -> None:
    wrong.require(
        bool(question.source_port_id) != bool(question.source_network_id),
        "source_port_id",
        "is needed, or source_network_id for what comes from outside, and not both",
        "SOURCE_NEEDED",
    )
    for kind in ("port", "network"):
        field = f"source_{kind}_id"
        if ident := getattr(question, field):
            with wrong.collect():
                check_id(kind, ident, field)


def _check_service(question: Question, wrong: Violations) -> None:
    has_ports = question.protocol is not Protocol.ICMP
    least, most = (1, _MAX_PORT) if has_ports else (0, 0)
    needed = f"{question.protocol.value} needs 1 to {_MAX_PORT}" if has_ports else "ICMP has none"
    wrong.require(
        least <= question.port_number <= most,
        "port_number",
        f"is {question.port_number}; {needed}",
        "INVALID_PORT_NUMBER",
    )


def _address(text: str, field: str) -> str:
    """Return an address of one machine, as it is written everywhere."""
    address = check_address(text, field)
    if address in {METADATA_V4, METADATA_V6}:
        return address
    known = ip_address(address)
    what = (
        "is a group's (multicast)"
        if known.is_multicast
        else "is link-local: every network has it, so ask for another address of the machine"
        if known.is_link_local
        else "is everybody's own (loopback)"
        if known.is_loopback
        else "is nobody's"
        if known.is_unspecified or known.is_reserved or address == "255.255.255.255"
        else ""
    )
    if what:
        raise InvalidArgument.field(field, f"{address} {what}", reason="INVALID_ADDRESS")
    return address
