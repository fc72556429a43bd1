"""How a port goes: out of load balancers, with its addresses, and with its unit of OVN.

`lock` takes what goes with it: an address for health checks, which is one of another port.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.load_balancers import LoadBalancer
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.services import ovn_work, probe_sources
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.networking import record_change
from unkai_scheduler.services.owned_ports import OwnedPorts
from unkai_scheduler.store import floating_ips, load_balancers, ports, subnets
from unkai_wire.errors import FailedPrecondition

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


def lock(conn: Connection, port_ids: Sequence[str]) -> list[Port]:
    """Lock ports that shall be removed, and what changes with them; return those there are."""
    of_members = _subnets_of_members(conn, port_ids)
    subnets.lock(conn, *of_members)
    ports.lock(conn, *port_ids, *probe_sources.port_ids(conn, of_members))
    lock_balancers(conn, port_ids)
    return sorted(ports.list_some(conn, port_ids), key=lambda port: port.id)


def lock_balancers(conn: Connection, port_ids: Sequence[str]) -> None:
    """Lock the load balancers that have one of these ports, which are locked, as a member."""
    load_balancers.lock(conn, *load_balancers.naming(conn, port_ids))


def _subnets_of_members(conn: Connection, port_ids: Sequence[str]) -> set[str]:
    """Return the subnets that an address for health checks may leave once these ports are gone."""
    return {
        one.subnet_id
        for port in ports.list_some(conn, port_ids)
        if load_balancers.naming(conn, [port.id])
        for one in port.addresses
    }


def remove_port(conn: Connection, context: ServiceContext, call: Call, port: Port) -> None:
    """Delete a port and give its addresses back; load balancers lose it as a member.

    The port is locked (`lock`). An address that only its health checks came from goes too.

    Raises `FailedPrecondition` / PORT_HAS_FLOATING_IP while a floating address leads to it. Of a
    router's or load balancer's port, what names it must be gone before.
    """
    check_no_floating_ips(conn, port)
    ovn_work.touched(conn, context, "port", port.id, reason="port removed")
    named = load_balancers.drop_members(conn, port.id)
    ports.delete(conn, port.id)
    for row in load_balancers.list_some(conn, named):
        _lost_member(conn, context, call, row, port)
    if named:
        subnet_ids = {one.subnet_id for one in port.addresses}
        probe_sources.release(conn, OwnedPorts(conn, context, call), subnet_ids)
    if ovn_work.has_unit(port):
        ovn_work.removed(conn, context, "port", port.id)
    record_change(
        conn,
        context,
        call,
        kind="port",
        row=port,
        change=EventType.DELETED,
        what="was removed",
        state=port.state.value,
    )


def _lost_member(
    conn: Connection, context: ServiceContext, call: Call, row: LoadBalancer, port: Port
) -> None:
    """Write a load balancer, locked, that a port was taken out of."""
    row = replace(row, etag=context.new_etag(), update_time=context.clock())
    load_balancers.replace(conn, row, etag=None)
    record_change(
        conn,
        context,
        call,
        kind="load_balancer",
        row=row,
        change=EventType.UPDATED,
        what=f"lost its member port {port.name}",
    )


def check_no_floating_ips(
    conn: Connection, port: Port, given: frozenset[str] | None = None
) -> None:
    """Raise while a floating address leads to a port; `given`: to one of these of its addresses."""
    leading = [
        some
        for some in floating_ips.of_ports(conn, [port.id])
        if given is None or some.fixed_address in given
    ]
    if leading:
        first = leading[0]
        raise FailedPrecondition(
            f"floating address {first.address} leads to {first.fixed_address} of port {port.name}",
            reason="PORT_HAS_FLOATING_IP",
            fix="let the floating address lead elsewhere first",
            metadata={"port_id": port.id, "floating_ip_id": first.id, "address": first.address},
        )
