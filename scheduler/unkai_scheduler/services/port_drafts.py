"""What a user may say of a port, checked and in canonical form, whatever the database has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from unkai_scheduler.domain import names
from unkai_scheduler.domain.addresses import check_address, check_cidr, check_mac
from unkai_scheduler.domain.ports import AddressPair, FixedAddress, Qos
from unkai_scheduler.services.checks import Violations
from unkai_wire.errors import InvalidArgument
from unkai_wire.ids import check_id

MAX_ADDRESSES = 16
MAX_GROUPS = 16
MAX_PAIRS = 16
MAX_BITS = (2**32 - 1) * 1000
"""Per second, or at once: OVN's meters count to 32 bits of kilobits (ovn-nb(5), QoS)."""
CHANGEABLE = (
    "name",
    "labels",
    "fixed_addresses",
    "security_group_ids",
    "no_security_groups",
    "allowed_address_pairs",
    "no_anti_spoofing",
    "qos",
)
GROUP_FIELDS = frozenset({"security_group_ids", "no_security_groups"})


@dataclass(frozen=True, slots=True)
class PortDraft:
    """What a user may say of a port."""

    name: str = ""
    network_id: str = ""
    mac_address: str = ""
    addresses: Sequence[FixedAddress] = ()
    """Either part of each may be empty."""
    security_group_ids: Sequence[str] = ()
    no_security_groups: bool = False
    pairs: Sequence[AddressPair] = ()
    no_anti_spoofing: bool = False
    qos: Qos = field(default_factory=Qos)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checked:
    """What of a draft has a canonical form."""

    mac_address: str = ""
    addresses: tuple[FixedAddress, ...] = ()
    pairs: tuple[AddressPair, ...] = ()


def check_new(draft: PortDraft) -> Checked:
    """Return a new port's addresses; raise `InvalidArgument` for all that is wrong with it."""
    mac, checked = "", Checked()
    with Violations() as wrong:
        with wrong.collect():
            check_id("network", draft.network_id, "port.network_id")
        if draft.mac_address:
            with wrong.collect():
                mac = check_mac(draft.mac_address, "port.mac_address")
        with wrong.collect():
            named = {"name"} if draft.name else set()
            checked = check_changes(draft, frozenset(CHANGEABLE) - {"name"} | named)
    return Checked(mac, checked.addresses, checked.pairs)


def check_changes(draft: PortDraft, fields: frozenset[str]) -> Checked:
    """Return these fields' addresses; raise `InvalidArgument` for all that is wrong with them."""
    addresses: tuple[FixedAddress, ...] = ()
    pairs: tuple[AddressPair, ...] = ()
    with Violations() as wrong:
        if "name" in fields:
            with wrong.collect():
                names.check_name(draft.name, "port.name")
        if "labels" in fields:
            with wrong.collect():
                names.check_labels(draft.labels, "port.labels")
        if "fixed_addresses" in fields:
            with wrong.collect():
                addresses = _addresses(draft.addresses)
        if fields & GROUP_FIELDS:
            with wrong.collect():
                _check_groups(draft, fields)
        if "allowed_address_pairs" in fields:
            with wrong.collect():
                pairs = _pairs(draft.pairs)
        if "qos" in fields:
            _check_qos(wrong, draft.qos)
    return Checked("", addresses, pairs)


def _addresses(wanted: Sequence[FixedAddress]) -> tuple[FixedAddress, ...]:
    path = "port.fixed_addresses"
    _check_count(len(wanted), MAX_ADDRESSES, path, "addresses", "TOO_MANY_ADDRESSES")
    checked: list[FixedAddress] = []
    with Violations() as wrong:
        for number, one in enumerate(wanted):
            with wrong.collect():
                checked.append(_address(one, f"{path}[{number}]", checked))
    return tuple(checked)


def _address(wanted: FixedAddress, path: str, before: Sequence[FixedAddress]) -> FixedAddress:
    address = ""
    with Violations() as wrong:
        if wanted.subnet_id:
            with wrong.collect():
                check_id("subnet", wanted.subnet_id, f"{path}.subnet_id")
        if wanted.address:
            with wrong.collect():
                address = check_address(wanted.address, f"{path}.address")
        wrong.require(
            not address or all(some.address != address for some in before),
            f"{path}.address",
            f"{address} is named twice",
            "DUPLICATE_ADDRESS",
        )
    return FixedAddress(wanted.subnet_id, address)


def _check_groups(draft: PortDraft, fields: frozenset[str]) -> None:
    path = "port.security_group_ids"
    idents = draft.security_group_ids if "security_group_ids" in fields else ()
    _check_count(len(idents), MAX_GROUPS, path, "groups", "TOO_MANY_SECURITY_GROUPS")
    with Violations() as wrong:
        for number, ident in enumerate(idents):
            with wrong.collect():
                check_id("security_group", ident, f"{path}[{number}]")
        wrong.require(
            len(set(idents)) == len(idents), path, "names a group twice", "DUPLICATE_SECURITY_GROUP"
        )
        wrong.require(
            not (idents and "no_security_groups" in fields and draft.no_security_groups),
            path,
            "cannot be said together with no_security_groups",
            "GROUPS_AND_NO_GROUPS",
        )


def _pairs(wanted: Sequence[AddressPair]) -> tuple[AddressPair, ...]:
    path = "port.allowed_address_pairs"
    _check_count(len(wanted), MAX_PAIRS, path, "pairs", "TOO_MANY_ADDRESS_PAIRS")
    checked: list[AddressPair] = []
    with Violations() as wrong:
        for number, pair in enumerate(wanted):
            with wrong.collect():
                checked.append(_pair(pair, f"{path}[{number}]", checked))
    return tuple(checked)


def _pair(wanted: AddressPair, path: str, before: Sequence[AddressPair]) -> AddressPair:
    cidr, mac = "", ""
    with Violations() as wrong:
        with wrong.collect():
            cidr = check_cidr(wanted.cidr, f"{path}.cidr")
        if wanted.mac_address:
            with wrong.collect():
                mac = check_mac(wanted.mac_address, f"{path}.mac_address")
        wrong.require(
            AddressPair(cidr, mac) not in before, path, "is said twice", "DUPLICATE_ADDRESS_PAIR"
        )
    return AddressPair(cidr, mac)


def _check_qos(wrong: Violations, qos: Qos) -> None:
    for name, rate, burst in (
        ("egress", qos.egress_bits_per_s, qos.egress_burst_bits),
        ("ingress", qos.ingress_bits_per_s, qos.ingress_burst_bits),
    ):
        for path, number in ((f"{name}_bits_per_s", rate), (f"{name}_burst_bits", burst)):
            wrong.require(
                0 <= number <= MAX_BITS,
                f"port.qos.{path}",
                f"is {number}; it must be 0 to {MAX_BITS}",
                "INVALID_QOS",
            )
        wrong.require(
            bool(rate) or not burst,
            f"port.qos.{name}_burst_bits",
            f"needs {name}_bits_per_s: without a limit nothing is beyond it",
            "INVALID_QOS",
        )


def _check_count(count: int, most: int, path: str, words: str, reason: str) -> None:
    if count > most:
        raise InvalidArgument.field(path, f"has {count} {words}; {most} are allowed", reason=reason)
