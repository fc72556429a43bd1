"""Ports: where instances are plugged into networks.

Those of routers, load balancers and floating addresses are made and removed by their owners; here
they can be read, named and labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.domain.resources import Project
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.ovn.rows import unit_key
from unkai_scheduler.services import ovn_work, port_removals, probe_sources
from unkai_scheduler.services.checks import Violations, check_etag, check_mask, fetch, found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mac_addresses import free_mac
from unkai_scheduler.services.mutations import mutate
from unkai_scheduler.services.networking import check_configured, record_change, usable_network
from unkai_scheduler.services.owned_ports import OwnedPorts
from unkai_scheduler.services.plugging import Plugged, Plugging
from unkai_scheduler.services.port_addresses import assign
from unkai_scheduler.services.port_drafts import (
    CHANGEABLE,
    GROUP_FIELDS,
    Checked,
    PortDraft,
    check_changes,
    check_new,
)
from unkai_scheduler.services.port_spoofing import check_identity
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.services.security_groups import ensure_default_group
from unkai_scheduler.store import networks, ports, projects, security_groups, subnets
from unkai_wire.errors import FailedPrecondition, NotFound
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_OF_ALL = frozenset({"name", "labels"})
"""Fields that may change whoever has the port."""
_SENDING = frozenset({"allowed_address_pairs", "no_anti_spoofing"})
"""Fields that say as whom a port may send."""
_TOLD = ("addresses", "security_group_ids", "pairs", "anti_spoofing", "qos")
"""Fields of a row that OVN is told."""
_OWNERS = {
    PortOwner.ROUTER: "router",
    PortOwner.GATEWAY: "router",
    PortOwner.LOAD_BALANCER: "load balancer",
    PortOwner.FLOATING_IP: "floating address",
}


class PortsService:
    """Use cases of ports."""

    def __init__(self, context: ServiceContext, settings: NetworkSettings) -> None:
        self._context = context
        self._settings = settings

    async def create(self, call: Call, project_id: str, draft: PortDraft) -> Port:
        """Make a port with its addresses."""
        checked = check_new(draft)
        check_configured(self._settings)
        ident = self._context.new_id("port")

        def work(conn: Connection) -> Port:
            project = resolve_project(conn, project_id)
            return make_port(
                conn,
                self._context,
                call,
                project=project,
                draft=draft,
                checked=checked,
                ident=ident,
            )

        return await mutate(self._context, call, Port, work, wakes=[ident])

    async def get(self, port_id: str) -> Port:
        """Return one port."""
        return await read_row(self._context.uow, "port", port_id, ports.get)

    async def list(
        self,
        paging: Paging,
        *,
        project_id: str = "",
        name: str = "",
        network_id: str = "",
        owner_id: str = "",
        security_group_id: str = "",
    ) -> Page[Port]:
        """Return ports by name."""
        for kind, ident in (
            ("project", project_id),
            ("network", network_id),
            ("security_group", security_group_id),
        ):
            if ident:
                check_id(kind, ident, f"{kind}_id")
        names.check_text(name, "name", names.MAX_FILTER)
        names.check_text(owner_id, "owner_id", names.MAX_FILTER)
        conditions = [project_id, name, network_id, owner_id, security_group_id]
        page = plan(paging, "ports", conditions, _key, key_length=2)
        return await page.read(
            self._context.uow,
            partial(
                ports.list_page,
                project_id=project_id or None,
                name=name or None,
                network_id=network_id or None,
                owner_id=owner_id or None,
                security_group_id=security_group_id or None,
            ),
        )

    async def update(
        self, call: Call, port_id: str, draft: PortDraft, mask: Sequence[str], etag: str
    ) -> Port:
        """Change the fields that the mask names."""
        fields = check_mask(mask, CHANGEABLE)
        checked = check_changes(draft, fields)

        def work(conn: Connection) -> Port:
            plugging, moves = Plugging(conn, self._context, call), "fixed_addresses" in fields
            if moves or fields & GROUP_FIELDS:
                self._lock_projects(conn, port_id, moves=moves)
            instance, old = plugging.locked(
                port_id,
                "port.id",
                lambda port: _lock_moving(conn, port) if moves else None,
            )
            check_etag("port", old.id, old.etag, etag)
            _check_ours(old, fields)
            groups = self._groups(conn, call, old, draft, fields)
            new = replace(
                old,
                name=draft.name if "name" in fields else old.name,
                labels=dict(draft.labels) if "labels" in fields else old.labels,
                security_group_ids=groups,
                pairs=checked.pairs if "allowed_address_pairs" in fields else old.pairs,
                qos=draft.qos if "qos" in fields else old.qos,
                etag=self._context.new_etag(),
                update_time=self._context.clock(),
            )
            if "no_anti_spoofing" in fields:
                new = replace(new, anti_spoofing=not draft.no_anti_spoofing)
            if fields & _SENDING:
                network = found("network", new.network_id, networks.get(conn, new.network_id))
                check_identity(network, new)
            ports.replace(conn, new, etag=old.etag)
            if moves:
                new = replace(new, addresses=assign(conn, old, checked.addresses))
            if new.addresses != old.addresses:
                probe_sources.follow(conn, OwnedPorts(conn, self._context, call), old)
                if instance is not None:
                    plugging.reorder(instance, f"has port {new.name} at other addresses")
            if any(getattr(new, name) != getattr(old, name) for name in _TOLD):
                ovn_work.touched(conn, self._context, "port", new.id)
                new = replace(new, reconciling=True)
            _record(conn, self._context, call, row=new, change=EventType.UPDATED)
            return new

        return await mutate(self._context, call, Port, work, wakes=[port_id])

    async def delete(self, call: Call, port_id: str, etag: str = "") -> None:
        """Remove a port; one of an instance is taken out of it first."""

        def work(conn: Connection) -> Port:
            plugging = Plugging(conn, self._context, call)
            instance, row = plugging.locked(
                port_id, "port_id", lambda port: port_removals.lock(conn, [port.id])
            )
            check_etag("port", row.id, row.etag, etag)
            _check_ours(row, frozenset())
            port_removals.remove_port(conn, self._context, call, row)
            if instance is not None:
                plugging.reorder(instance, f"is rid of port {row.name}")
            return row

        await mutate(self._context, call, Port, work, wakes=[port_id])

    async def attach(self, call: Call, port_id: str, instance_id: str, etag: str = "") -> Plugged:
        """Plug a port into an instance."""
        with Violations() as wrong:
            with wrong.collect():
                check_id("port", port_id, "port_id")
            with wrong.collect():
                check_id("instance", instance_id, "instance_id")
        operation_id = self._context.new_id("operation")

        def work(conn: Connection) -> Plugged:
            plugging = Plugging(conn, self._context, call)
            return plugging.attach(port_id, instance_id, etag=etag, operation_id=operation_id)

        return await mutate(self._context, call, Plugged, work, wakes=[instance_id])

    async def detach(self, call: Call, port_id: str, etag: str = "") -> Plugged:
        """Take a port out of its instance; it stays."""
        operation_id = self._context.new_id("operation")

        def work(conn: Connection) -> Plugged:
            plugging = Plugging(conn, self._context, call)
            return plugging.detach(port_id, etag=etag, operation_id=operation_id)

        return await mutate(self._context, call, Plugged, work, wakes=[port_id])

    @staticmethod
    def _lock_projects(conn: Connection, port_id: str, *, moves: bool) -> None:
        """Lock a port's project, in which a group may be made, before all else.

        Where the port moves, hold its network's: an address for health checks may be made there.
        """
        port = fetch("port", port_id, "port.id", lambda ident: ports.get(conn, ident))
        network = networks.get(conn, port.network_id) if moves else None
        resolve_project(conn, port.project_id, held=[network.project_id] if network else [])

    def _groups(
        self, conn: Connection, call: Call, port: Port, draft: PortDraft, fields: frozenset[str]
    ) -> tuple[str, ...]:
        """Return the groups that a locked port shall be in from now on, held."""
        if not fields & GROUP_FIELDS:
            return port.security_group_ids
        said_ids = "security_group_ids" in fields
        said_none = "no_security_groups" in fields
        wants_none = draft.no_security_groups if said_none else not port.security_group_ids
        if said_ids and draft.security_group_ids:
            return _own_groups(conn, port.project_id, draft.security_group_ids)
        if wants_none:
            return ()
        if not said_ids and port.security_group_ids:
            return port.security_group_ids
        project = found("project", port.project_id, projects.get(conn, port.project_id))
        return (ensure_default_group(conn, self._context, call, project).id,)


def make_port(
    conn: Connection,
    context: ServiceContext,
    call: Call,
    *,
    project: Project,
    draft: PortDraft,
    checked: Checked,
    ident: str,
    instance_id: str = "",
    position: int = 0,
) -> Port:
    """Make a port in a project, which is locked, and give it addresses; return it as it is then.

    `instance_id`: it is of this new instance from the first, at this place, and goes with it.
    """
    network = usable_network(conn, project.id, draft.network_id, "port.network_id")
    subnets.lock_of(conn, network.id)
    if draft.security_group_ids:
        groups = _own_groups(conn, project.id, draft.security_group_ids)
    elif draft.no_security_groups:
        groups = ()
    else:
        groups = (ensure_default_group(conn, context, call, project).id,)
    now = context.clock()
    port = Port(
        id=ident,
        project_id=project.id,
        network_id=network.id,
        name=draft.name or f"port-{ident.partition('-')[2]}",
        mac_address=_mac(conn, context, network.id, checked.mac_address, ident),
        security_group_ids=groups,
        pairs=checked.pairs,
        anti_spoofing=not draft.no_anti_spoofing,
        qos=draft.qos,
        owner=PortOwner.INSTANCE if instance_id else None,
        owner_id=instance_id,
        position=position,
        delete_with_owner=bool(instance_id),
        etag=context.new_etag(),
        create_time=now,
        update_time=now,
        labels=dict(draft.labels),
    )
    check_identity(network, port)
    ports.insert(conn, port)
    port = replace(port, addresses=assign(conn, port, checked.addresses), reconciling=True)
    # Nothing else can name it yet.
    ovn_work.marked(conn, context, [unit_key("port", port.id)], "made")
    _record(conn, context, call, row=port, change=EventType.CREATED)
    return port


def _mac(
    conn: Connection, context: ServiceContext, network_id: str, wanted: str, ident: str
) -> str:
    """Return the MAC address of a new port: the wanted one, which no other may have, or a free."""
    if not wanted:
        return free_mac(conn, context, network_id, ident)
    holder = ports.by_mac(conn, network_id, wanted)
    if holder is not None:
        raise ports.mac_address_in_use(network_id, wanted, holder.id)
    return wanted


def _lock_moving(conn: Connection, port: Port) -> None:
    """Lock what changes when a port's addresses do, and the port."""
    networks.held(conn, port.network_id)
    subnets.lock_of(conn, port.network_id)
    there = subnets.of_network(conn, port.network_id)
    ports.lock(conn, port.id, *probe_sources.port_ids(conn, [subnet.id for subnet in there]))


def _own_groups(conn: Connection, project_id: str, idents: Sequence[str]) -> tuple[str, ...]:
    """Return these groups' ids; raise `NotFound` for one that is not the project's."""
    for ident in sorted(idents):
        group = security_groups.held(conn, ident)
        if group is None or group.project_id != project_id:
            raise NotFound.of("security_group", ident)
    return tuple(idents)


def _record(
    conn: Connection, context: ServiceContext, call: Call, *, row: Port, change: EventType
) -> None:
    record_change(
        conn,
        context,
        call,
        kind="port",
        row=row,
        change=change,
        what="was made" if change is EventType.CREATED else "was changed",
        state=row.state.value,
    )


def _key(port: Port) -> Sequence[str]:
    return [port.name, port.id]


def _check_ours(port: Port, fields: frozenset[str]) -> None:
    """Raise when a port's owner alone may do this to it."""
    word = _OWNERS.get(port.owner) if port.owner else None
    if word and (not fields or fields - _OF_ALL):
        raise FailedPrecondition(
            f"port {port.name} is of {word} {port.owner_id}, which alone changes and removes it",
            reason="PORT_HAS_OWNER",
            fix=f"change or remove the {word}",
            metadata={"port_id": port.id, "owner_id": port.owner_id},
        )
