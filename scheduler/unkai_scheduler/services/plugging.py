"""Ports plugged into instances that are there, and taken out of them.

Either raises the instance's generation: its host is ordered the ports it shall have from now on,
and makes the machine equal to that, running or not. A port that is taken out is nobody's at once,
and OVN lets nothing pass by it any more: neither the guest nor its host is relied on for that.

Instances are locked before subnets, and these before ports, as the leader does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.operations import Operation, Verb
from unkai_scheduler.domain.port_orders import NETWORKS
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.services import ovn_work
from unkai_scheduler.services.checks import check_etag, fetch, found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.instance_changes import InstanceChanges, Why, check_not_deleting
from unkai_scheduler.services.instance_ports import MAX_INTERFACES, free_port, let_go
from unkai_scheduler.services.networking import record_change
from unkai_scheduler.store import hosts, instances, networks, operations, ports
from unkai_wire.errors import FailedPrecondition

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

PLUGGING_S = 120.0
"""Seconds that it is waited for before the operation fails; what was ordered stays ordered, and no
other operation is held up by a host that is silent or an OVN that is away."""
ATTACHABLE = frozenset({InstanceState.RUNNING, InstanceState.STOPPED})
_SHOWN = 160
"""Characters of what a host says of its switch."""
_OVERTAKEN = Why("PORT_TAKEN_OUT", "had a port taken out meanwhile")


@dataclass(frozen=True, slots=True)
class Plugged:
    """A port as it is now, and the instance's operation."""

    port: Port
    operation: Operation


class Plugging:
    """What one call plugs in and takes out."""

    def __init__(self, conn: Connection, context: ServiceContext, call: Call) -> None:
        self._conn = conn
        self._context = context
        self._call = call
        self._changes = InstanceChanges(conn, context, call)

    def attach(self, port_id: str, instance_id: str, *, etag: str, operation_id: str) -> Plugged:
        """Plug a free port into an instance that runs or is off."""
        instance = self._changes.idle(instance_id, ATTACHABLE, "given a port")
        ports.lock(self._conn, port_id)
        port = fetch(
            "port", port_id, "port_id", lambda i: free_port(self._conn, instance.project_id, i)
        )
        check_etag("port", port.id, port.etag, etag)
        self._check_host(instance, port)
        given = replace(
            port,
            owner=PortOwner.INSTANCE,
            owner_id=instance.id,
            position=self._place(instance),
            etag=self._context.new_etag(),
            update_time=self._context.clock(),
        )
        ports.replace(self._conn, given, etag=None)
        ovn_work.touched(self._conn, self._context, "port", port.id, reason="plugged in")
        self._record(given, f"is of instance {instance.id}")
        new = self._changes.changed(instance, operation_id=operation_id)
        accepted = self._changes.accept(
            new, Verb.ATTACH, f"is given port {port.name}", longest_s=PLUGGING_S
        )
        return Plugged(replace(given, reconciling=True), accepted.operation)

    def detach(self, port_id: str, *, etag: str, operation_id: str) -> Plugged:
        """Take a port out of its instance, whatever that is doing."""
        instance, port = self.locked(port_id, "port_id")
        check_etag("port", port.id, port.etag, etag)
        if instance is None:
            raise FailedPrecondition(
                f"port {port.name} is not plugged into an instance",
                reason="PORT_NOT_ATTACHED",
                metadata={"port_id": port.id, "name": port.name},
            )
        check_not_deleting(instance)
        free = let_go(self._conn, self._context, self._call, port)
        what = f"is rid of port {port.name}"
        active = operations.active_for(self._conn, instance.id)
        if active is not None and active.verb is not Verb.ATTACH:
            self.reorder(instance, what)
            return Plugged(free, active)
        if active is not None:
            self._changes.cancel(active, instance.spec.name, _OVERTAKEN)
        new = self._changes.changed(instance, operation_id=operation_id)
        return Plugged(
            free, self._changes.accept(new, Verb.DETACH, what, longest_s=PLUGGING_S).operation
        )

    def locked(
        self, port_id: str, path: str, lock_between: Callable[[Port], object] = lambda _port: None
    ) -> tuple[Instance | None, Port]:
        """Return a port with the instance that it is plugged into, both locked.

        `lock_between`: locks what comes after the one and before the other.
        """
        seen = fetch("port", port_id, path, lambda ident: ports.get(self._conn, ident))
        instance = None
        if seen.owner is PortOwner.INSTANCE:
            instance = instances.locked(self._conn, seen.owner_id)
        lock_between(seen)
        port = found("port", seen.id, ports.locked(self._conn, seen.id))
        if port.owner_id != seen.owner_id:
            check_etag("port", port.id, port.etag, seen.etag)
        return instance, port

    def reorder(self, instance: Instance, what: str) -> None:
        """Have the host of a locked instance ordered anew what it is plugged in by."""
        if instance.delete_requested or not instance.host_id:
            return
        new = self._changes.changed(instance)
        instances.replace(self._conn, new, etag=None)
        self._changes.record(new, EventType.UPDATED, what)

    def _place(self, instance: Instance) -> int:
        """Return the first place that no port of the instance has."""
        taken = {port.position for port in ports.of_owner(self._conn, instance.id)}
        free = next((place for place in range(MAX_INTERFACES) if place not in taken), None)
        if free is None:
            raise FailedPrecondition(
                f"instance {instance.spec.name} has {MAX_INTERFACES} ports, which is the most",
                reason="TOO_MANY_INTERFACES",
                fix="take one out first: 'unkai port detach'",
                metadata={"instance_id": instance.id},
            )
        return free

    def _check_host(self, instance: Instance, port: Port) -> None:
        """Raise unless the instance's host is on the port's network, and its switch is well."""
        host = hosts.get(self._conn, instance.host_id)
        name = host.name if host else instance.host_id
        network = found("network", port.network_id, networks.get(self._conn, port.network_id))
        metadata = {"host": name, "instance_id": instance.id, "network_id": network.id}
        physical = network.physical_network
        if host is None or NETWORKS not in host.features:
            problem = "has no virtual networks"
        elif host.network_problem:
            raise FailedPrecondition(
                f"the switch of host {name}, where instance {instance.spec.name} is, is in trouble"
                f": {host.network_problem[:_SHOWN]}",
                reason="HOST_SWITCH_IN_TROUBLE",
                fix="try again once 'unkai host show' tells of no network problem",
                metadata=metadata | {"problem": host.network_problem[:_SHOWN]},
            )
        elif physical and physical not in host.physical_networks:
            problem = f"is not attached to physical network {physical}"
        else:
            return
        raise FailedPrecondition(
            f"host {name}, where instance {instance.spec.name} is, {problem}",
            reason="HOST_LACKS_NETWORK",
            fix="make the instance with the port: a host that has the network is chosen then",
            metadata=metadata,
        )

    def _record(self, port: Port, what: str) -> None:
        record_change(
            self._conn,
            self._context,
            self._call,
            kind="port",
            row=port,
            change=EventType.UPDATED,
            what=what,
            state=port.state.value,
        )
