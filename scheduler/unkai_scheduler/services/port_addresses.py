"""Which addresses a port gets: what was asked for, matched with what it has and what is free.

All subnets of the network are locked at once before any address is taken, so that two callers never
wait for each other. A port keeps what it has as far as that is what is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unkai_scheduler.domain.addresses import check_usable, contains, eui64, version_of
from unkai_scheduler.domain.networks import Ipv6Mode, Subnet
from unkai_scheduler.domain.ports import FixedAddress, Port
from unkai_scheduler.services.checks import Violations
from unkai_scheduler.services.port_removals import check_no_floating_ips
from unkai_scheduler.store import addresses, subnets
from unkai_wire.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

FIELD = "port.fixed_addresses"
_OF_THEIR_OWN = frozenset({Ipv6Mode.SLAAC, Ipv6Mode.DHCPV6_STATELESS})
"""Guests make their address of their MAC address; no other is any use to them."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """One address that a port shall have: this one, or one of the first subnet with room."""

    subnets: tuple[Subnet, ...]
    address: str = ""

    def is_met_by(self, some: FixedAddress) -> bool:
        """Tell whether an address is what is wished for."""
        if self.address:
            return some.address == self.address
        return some.subnet_id in {subnet.id for subnet in self.subnets}


def assign(
    conn: Connection, port: Port, wanted: Sequence[FixedAddress]
) -> tuple[FixedAddress, ...]:
    """Give a port what is asked for, and take the rest from it; return its addresses in order.

    The network's subnets are locked (`subnets.lock_of`).
    `wanted`: empty for one of each version that the network has. Raises `InvalidArgument` for what
    cannot be had there, `AlreadyExists` / ADDRESS_IN_USE, `FailedPrecondition` / NO_FREE_ADDRESS,
    or PORT_HAS_FLOATING_IP when one leads to an address that would go.
    """
    there = subnets.of_network(conn, port.network_id)
    wishes = _wishes(port, there, wanted)
    kept, left = _match(wishes, port.addresses)
    if left:
        gone = frozenset(some.address for some in left)
        check_no_floating_ips(conn, port, gone)
        addresses.give_back(conn, port.id, gone)
    for number, wish in enumerate(wishes):
        if number not in kept:
            kept[number] = _take(conn, port, wish, position=number)
    ordered = tuple(kept[number] for number in range(len(wishes)))
    if port.addresses:
        addresses.put_in_order(conn, port.id, [some.address for some in ordered])
    return ordered


def _wishes(port: Port, there: Sequence[Subnet], wanted: Sequence[FixedAddress]) -> list[_Wish]:
    if not wanted:
        of_version = [
            tuple(subnet for subnet in there if subnet.version == version) for version in (4, 6)
        ]
        return [_Wish(some) for some in of_version if some]
    wishes: list[_Wish] = []
    with Violations() as wrong:
        for number, one in enumerate(wanted):
            with wrong.collect():
                wishes.append(_wish(port, there, one, f"{FIELD}[{number}]"))
    return wishes


def _wish(port: Port, there: Sequence[Subnet], wanted: FixedAddress, path: str) -> _Wish:
    named = [some for some in there if wanted.subnet_id in {"", some.id}]
    if not named:
        problem = (
            f"{wanted.subnet_id} is not a subnet of the network"
            if wanted.subnet_id
            else "cannot be had: the network has no subnets"
        )
        raise InvalidArgument.field(f"{path}.subnet_id", problem, reason="SUBNET_NOT_ON_NETWORK")
    if not wanted.address:
        return _Wish(tuple(named))
    subnet = next((some for some in named if _has(some, wanted.address)), None)
    if subnet is None:
        cidrs = ", ".join(some.cidr for some in named)
        raise InvalidArgument.field(
            f"{path}.address",
            f"{wanted.address} is not in {cidrs}",
            reason="ADDRESS_NOT_IN_SUBNET",
        )
    if wanted.address not in {some.address for some in port.addresses}:
        _check_may_have(port, subnet, wanted.address, f"{path}.address")
    return _Wish((subnet,), wanted.address)


def _check_may_have(port: Port, subnet: Subnet, address: str, path: str) -> None:
    check_usable(address, subnet.cidr, path)
    if address == subnet.gateway_address:
        raise InvalidArgument.field(
            path,
            f"{address} is the gateway's address of subnet {subnet.name}",
            reason="ADDRESS_IS_GATEWAY",
        )
    own = _own_address(port, subnet)
    if own and address != own:
        raise InvalidArgument.field(
            path,
            f"on subnet {subnet.name} guests make their address of their MAC address: {own}",
            reason="ADDRESS_NOT_OF_MAC",
            fix="leave the address empty, or use a subnet with DHCPV6_STATEFUL",
        )


def _match(
    wishes: Sequence[_Wish], having: Sequence[FixedAddress]
) -> tuple[dict[int, FixedAddress], list[FixedAddress]]:
    """Return what a port has already by the number of the wish, and what no wish is met by.

    Wishes for one address come first: a vague one must not take what another names.
    """
    left, kept = list(having), {}
    for number, wish in sorted(enumerate(wishes), key=lambda some: not some[1].address):
        met = next((some for some in left if wish.is_met_by(some)), None)
        if met is not None:
            kept[number] = met
            left.remove(met)
    return kept, left


def _take(
    conn: Connection,
    port: Port,
    wish: _Wish,
    *,
    position: int,
) -> FixedAddress:
    if wish.address:
        (subnet,) = wish.subnets
        return addresses.take_this(conn, subnet.id, port.id, wish.address, position=position)
    for subnet in wish.subnets:
        own = _own_address(port, subnet)
        if not own:
            taken = addresses.take(conn, subnet.id, port.id, position=position)
            if taken is not None:
                return taken
        elif addresses.holder(conn, subnet.network_id, own) is None:
            return addresses.take_this(conn, subnet.id, port.id, own, position=position)
    names = ", ".join(subnet.name for subnet in wish.subnets)
    raise FailedPrecondition(
        f"all addresses of subnet {names} that the port may have are in use",
        reason="NO_FREE_ADDRESS",
        fix="remove what needs none any more, or widen the subnet's allocation ranges",
        metadata={"subnets": names},
    )


def _own_address(port: Port, subnet: Subnet) -> str:
    """Return the address that a guest makes of the port's MAC there; empty: it is given one."""
    return eui64(port.mac_address, subnet.cidr) if subnet.ipv6_mode in _OF_THEIR_OWN else ""


def _has(subnet: Subnet, address: str) -> bool:
    return subnet.version == version_of(address) and contains(subnet.cidr, address)
