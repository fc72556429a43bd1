"""The ports of an adopted machine: plugged in as before, or given their rows back from its order.

A restored database may lack them, while the guest goes on with their addresses. What the host says
is taken as far as a user of the project could have asked for it: on a network that the project may
use, with addresses and a MAC address that nothing else has. What a port's security groups were, no
host remembers: such a port is in the project's default one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.addresses import check_mac, check_usable, contains, version_of
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.domain.networks import Network, Subnet
from unkai_scheduler.domain.port_orders import AddressOrder, PortOrder
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.services import ovn_work
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.networking import record_change
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.services.security_groups import ensure_default_group
from unkai_scheduler.store import addresses, networks, ports, subnets
from unkai_wire.errors import InvalidArgument
from unkai_wire.ids import is_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


class AdoptedPorts:
    """Plugs in what one adoption finds."""

    def __init__(self, conn: Connection, context: ServiceContext, call: Call) -> None:
        self._conn = conn
        self._context = context
        self._call = call

    def restore(self, row: Instance, told: Sequence[PortOrder]) -> list[str]:
        """Plug an adopted instance in as its host remembers; return what is otherwise."""
        if not told:
            return []
        resolve_project(self._conn, row.project_id)
        self._lock(told)
        warnings: list[str] = []
        taken = {port.position for port in ports.of_owner(self._conn, row.id)}
        for order in told:
            problem = self._plug(row, order, taken)
            if problem:
                warnings.append(f"its port {order.port_id[:64]!r} {problem}")
        return warnings

    def _lock(self, told: Sequence[PortOrder]) -> None:
        """Hold the networks that are told of, and lock their subnets and these ports, at once."""
        on = {order.network_id for order in told if is_id("network", order.network_id)}
        networks.lock(self._conn, locked=(), held=on)
        subnets.lock_of(self._conn, *on)
        ports.lock(self._conn, *[one.port_id for one in told if is_id("port", one.port_id)])

    def _plug(self, row: Instance, order: PortOrder, taken: set[int]) -> str:
        """Plug in one port; return what is wrong or new about it."""
        if not is_id("port", order.port_id):
            return "is none: it is left out"
        known = ports.get(self._conn, order.port_id)
        if known is not None and known.owner_id == row.id:
            return ""
        if order.position in taken:
            return "is at the place of another one: it is left out"
        if known is None:
            return self._make(row, order, taken)
        if known.owner is not None or known.project_id != row.project_id:
            return "is in use elsewhere: it is left out"
        self._give(replace(known, etag=self._context.new_etag()), row, order, taken)
        return ""

    def _make(self, row: Instance, order: PortOrder, taken: set[int]) -> str:
        network = self._network(row, order.network_id)
        if network is None:
            return "is on a network that is gone or not its project's: it is left out"
        try:
            mac = check_mac(order.mac_address, "mac_address")
        except InvalidArgument:
            return "has no sound MAC address: it is left out"
        if ports.by_mac(self._conn, network.id, mac) is not None:
            return f"has MAC address {mac}, which is in use: it is left out"
        now = self._context.clock()
        group = ensure_default_group(
            self._conn, self._context, self._call, resolve_project(self._conn, row.project_id)
        )
        port = Port(
            id=order.port_id,
            project_id=row.project_id,
            network_id=network.id,
            name=f"port-{order.port_id.partition('-')[2]}",
            mac_address=mac,
            security_group_ids=(group.id,),
            etag=self._context.new_etag(),
            create_time=now,
            update_time=now,
            delete_with_owner=True,
        )
        if ports.find(self._conn, row.project_id, port.name) is not None:
            return "has a name that is taken: it is left out"
        ports.insert(self._conn, port)
        lost = self._take(port, order.addresses)
        self._give(port, row, order, taken, change=EventType.CREATED)
        return "was not known: it is in the default security group now" + (
            f", without {', '.join(lost)}" if lost else ""
        )

    def _network(self, row: Instance, network_id: str) -> Network | None:
        network = networks.get(self._conn, network_id) if is_id("network", network_id) else None
        if network is None or not (network.shared or network.project_id == row.project_id):
            return None
        return network

    def _take(self, port: Port, told: Sequence[AddressOrder]) -> list[str]:
        """Give a port its addresses back; return those that it cannot have."""
        there = subnets.of_network(self._conn, port.network_id)
        lost: list[str] = []
        for position, one in enumerate(told):
            subnet = _subnet_of(there, one.address)
            if subnet is None or addresses.holder(self._conn, port.network_id, one.address):
                lost.append(one.address[:64])
                continue
            addresses.take_this(self._conn, subnet.id, port.id, one.address, position=position)
        return lost

    def _give(
        self,
        port: Port,
        row: Instance,
        order: PortOrder,
        taken: set[int],
        *,
        change: EventType = EventType.UPDATED,
    ) -> None:
        taken.add(order.position)
        given = replace(
            port,
            owner=PortOwner.INSTANCE,
            owner_id=row.id,
            position=order.position,
            update_time=self._context.clock(),
        )
        ports.replace(self._conn, given, etag=None)
        ovn_work.touched(self._conn, self._context, "port", port.id, reason="adopted")
        record_change(
            self._conn,
            self._context,
            self._call,
            kind="port",
            row=given,
            change=change,
            what=f"was adopted with instance {row.id}",
            state=given.state.value,
        )


def _subnet_of(there: Sequence[Subnet], address: str) -> Subnet | None:
    """Return the subnet on which an interface may have an address; None: there is none."""
    try:
        for subnet in there:
            if version_of(address) == subnet.version and contains(subnet.cidr, address):
                check_usable(address, subnet.cidr, "address")
                return None if address == subnet.gateway_address else subnet
    except (InvalidArgument, ValueError):
        return None
    return None
