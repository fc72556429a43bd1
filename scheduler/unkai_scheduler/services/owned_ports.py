"""Ports that routers, load balancers and floating addresses have: made, given addresses, removed.

Nobody plugs anything into them; they keep their addresses from being given out twice. OVN has no
unit of such a port: its owner's says what is to be said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from unkai_scheduler.domain.addresses import check_usable, contains, version_of
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.networks import Network, Subnet
from unkai_scheduler.domain.ports import FixedAddress, Port, PortOwner
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.mac_addresses import free_mac
from unkai_scheduler.services.networking import record_change
from unkai_scheduler.store import addresses, ports
from unkai_wire.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


class OwnedPorts:
    """Makes and removes ports of one call, each with its event."""

    def __init__(self, conn: Connection, context: ServiceContext, call: Call) -> None:
        self._conn = conn
        self._context = context
        self._call = call

    def make(self, network: Network, project_id: str, owner: PortOwner, owner_id: str) -> Port:
        """Make a port without addresses."""
        ident = self._context.new_id("port")
        now = self._context.clock()
        port = Port(
            id=ident,
            project_id=project_id,
            network_id=network.id,
            name=f"port-{ident.partition('-')[2]}",
            mac_address=free_mac(self._conn, self._context, network.id, ident),
            etag=self._context.new_etag(),
            create_time=now,
            update_time=now,
            owner=owner,
            owner_id=owner_id,
            delete_with_owner=True,
        )
        ports.insert(self._conn, port)
        self._record(port, EventType.CREATED, "was made")
        return port

    def remove(self, idents: Iterable[str]) -> None:
        """Remove ports that nothing refers to any more; their addresses are free then."""
        for port in ports.list_some(self._conn, idents):
            ports.delete(self._conn, port.id)
            self._record(port, EventType.DELETED, "was removed")

    def _record(self, port: Port, change: EventType, what: str) -> None:
        record_change(
            self._conn,
            self._context,
            self._call,
            kind="port",
            row=port,
            change=change,
            what=what,
        )


def take_free(
    conn: Connection, subnets: Sequence[Subnet], port_id: str, *, position: int = 0
) -> FixedAddress:
    """Give a port an address of the first of these subnets with room; raise NO_FREE_ADDRESS."""
    for subnet in sorted(subnets, key=lambda subnet: subnet.id):
        taken = addresses.take(conn, subnet.id, port_id, position=position)
        if taken is not None:
            return taken
    names = ", ".join(subnet.name for subnet in subnets)
    raise FailedPrecondition(
        f"all addresses of subnet {names} are in use",
        reason="NO_FREE_ADDRESS",
        fix="remove what needs none any more, or widen the subnet's allocation ranges",
        metadata={"subnets": names},
    )


def subnet_of(subnets: Sequence[Subnet], address: str, field: str) -> Subnet:
    """Return the subnet on which something may have this address; raise `InvalidArgument`.

    The gateway's address is its router's alone.
    """
    subnet = next((one for one in subnets if _of_same(one, address)), None)
    if subnet is None:
        cidrs = ", ".join(one.cidr for one in subnets) or "none"
        raise InvalidArgument.field(
            field,
            f"{address} is in no subnet of the network ({cidrs})",
            reason="ADDRESS_NOT_IN_SUBNET",
        )
    check_usable(address, subnet.cidr, field)
    if address == subnet.gateway_address:
        raise InvalidArgument.field(
            field,
            f"{address} is the gateway's address of subnet {subnet.name}",
            reason="ADDRESS_IS_GATEWAY",
        )
    return subnet


def _of_same(subnet: Subnet, address: str) -> bool:
    return subnet.version == version_of(address) and contains(subnet.cidr, address)
