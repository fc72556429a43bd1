"""What becomes of an instance's ports when it is gone, or holds nothing any more.

Those that were made with it go, those it was given are free again, and floating addresses that led
to them lead nowhere. The leader does so in the transaction that forgets the instance, or gives its
creation up: so no address outlives what it was for, and none is given out twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.ports import Port, PortState
from unkai_scheduler.services import ovn_work, port_removals
from unkai_scheduler.services.checks import found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.floating_ip_changes import FloatingIpChanges
from unkai_scheduler.services.networking import record_change
from unkai_scheduler.store import ports
from unkai_wire.errors import FailedPrecondition, NotFound
from unkai_wire.tls import Principal, Role

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


MAX_INTERFACES = 16


@dataclass(frozen=True, slots=True)
class InstancePorts:
    """Takes ports out of instances, within the leader's transactions."""

    context: ServiceContext
    scheduler: str
    """The leader's name, who is the actor of the events."""

    def lock(self, conn: Connection, instance_ids: Iterable[str]) -> None:
        """Lock what shall be freed of several instances, at once; these are locked."""
        owned = ports.of_owners(conn, instance_ids)
        port_removals.lock(conn, [port.id for some in owned.values() for port in some])

    def free(self, conn: Connection, instance_id: str) -> None:
        """Free all that an instance is plugged in by; it is locked, and its ports (`lock`)."""
        owned = ports.of_owner(conn, instance_id)
        if not owned:
            return
        idents = [port.id for port in owned]
        call = Call(Principal(Role.SCHEDULER, self.scheduler), "")
        FloatingIpChanges(conn, self.context, call).take_from(idents)
        for port in sorted(owned, key=lambda port: port.id):
            if port.delete_with_owner:
                port_removals.remove_port(conn, self.context, call, port)
            else:
                let_go(conn, self.context, call, port)


def let_go(conn: Connection, context: ServiceContext, call: Call, port: Port) -> Port:
    """Take a locked port out of its instance; it stays, with its addresses."""
    free = replace(
        port,
        owner=None,
        owner_id="",
        position=0,
        delete_with_owner=False,
        state=PortState.DOWN,
        etag=context.new_etag(),
        update_time=context.clock(),
    )
    ports.replace(conn, free, etag=None)
    ovn_work.touched(conn, context, "port", port.id, reason="taken out")
    record_change(
        conn,
        context,
        call,
        kind="port",
        row=free,
        change=EventType.UPDATED,
        what=f"was taken out of instance {port.owner_id}",
        state=free.state.value,
    )
    return replace(free, reconciling=True)


def free_port(conn: Connection, project_id: str, port_id: str) -> Port:
    """Return a port of the project, which is locked, that nothing is plugged into."""
    port = found("port", port_id, ports.get(conn, port_id))
    if port.project_id != project_id:
        raise NotFound.of("port", port_id)
    if port.owner is not None:
        raise FailedPrecondition(
            f"port {port.name} is in use by {port.owner_id}",
            reason="PORT_IN_USE",
            fix="name a port that nothing is plugged into, or a network: one is made there",
            metadata={"port_id": port.id, "name": port.name, "owner_id": port.owner_id},
        )
    return port
