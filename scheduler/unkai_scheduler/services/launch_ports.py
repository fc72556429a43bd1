"""The ports of a new instance: given to it, made for it, or one on the default network.

All are rows of the transaction that makes the instance, after its project is locked. What was made
for it goes with it (`delete_with_owner`), what it was given stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.ports import FixedAddress, Port, PortOwner
from unkai_scheduler.domain.resources import Project
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services import ovn_work
from unkai_scheduler.services.checks import Violations, found, renamed
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.default_networks import (
    ensure_default_network,
    lock_for_default,
)
from unkai_scheduler.services.instance_ports import MAX_INTERFACES, free_port
from unkai_scheduler.services.networking import check_configured, record_change
from unkai_scheduler.services.port_drafts import Checked, PortDraft, check_changes
from unkai_scheduler.services.ports import make_port
from unkai_scheduler.services.security_groups import ensure_default_group
from unkai_scheduler.store import networks, ports, security_groups, subnets
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_PATH = "instance.interfaces"
_FIELDS = frozenset({"fixed_addresses", "security_group_ids"})


@dataclass(frozen=True, slots=True)
class InterfaceDraft:
    """What a user may say of one interface of a new instance."""

    port_id: str = ""
    """One that is there; empty: one is made."""
    network_id: str = ""
    """Empty: the project's default network."""
    addresses: tuple[FixedAddress, ...] = ()
    """Either part of each may be empty."""
    security_group_ids: tuple[str, ...] = ()


def check_interfaces(
    drafts: Sequence[InterfaceDraft], *, no_network: bool
) -> tuple[InterfaceDraft, ...]:
    """Return the drafts in canonical form; raise `InvalidArgument` with all problems."""
    checked: list[InterfaceDraft] = []
    with Violations() as wrong:
        wrong.require(
            not (drafts and no_network),
            "instance.no_network",
            "cannot be said together with interfaces",
            "INTERFACES_AND_NO_NETWORK",
        )
        wrong.require(
            len(drafts) <= MAX_INTERFACES,
            _PATH,
            f"has {len(drafts)} interfaces; {MAX_INTERFACES} are allowed",
            "TOO_MANY_INTERFACES",
        )
        for number, draft in enumerate(drafts[:MAX_INTERFACES]):
            with wrong.collect():
                checked.append(_checked(draft, f"{_PATH}[{number}]", checked))
    return tuple(checked)


@dataclass(frozen=True, slots=True)
class LaunchPorts:
    """Plugs new instances into networks, within the transaction that makes them."""

    context: ServiceContext
    settings: NetworkSettings

    def plug(
        self,
        conn: Connection,
        call: Call,
        project: Project,
        instance_id: str,
        drafts: Sequence[InterfaceDraft],
    ) -> list[Port]:
        """Return the instance's ports, in the drafts' order; they are checked, and not empty.

        The project is locked. An instance whose user says nothing has one draft, an empty one
        (`wanted`).
        """
        return self.plug_each(conn, call, project, [instance_id], drafts)[0]

    def plug_each(
        self,
        conn: Connection,
        call: Call,
        project: Project,
        instance_ids: Sequence[str],
        drafts: Sequence[InterfaceDraft],
    ) -> list[list[Port]]:
        """Return the ports of each of several instances, as `plug` does, all of the same drafts.

        What they share is locked and looked up once. Several cannot be given one port.
        """
        check_configured(self.settings)
        named = {draft.network_id for draft in drafts if draft.network_id}
        if _needs_default(drafts):
            lock_for_default(conn, project, besides=named)
            drafts = self._with_default(conn, call, project, drafts)
        else:
            networks.lock(conn, locked=(), held=named)
            subnets.lock_of(conn, *named)
        ports.lock(conn, *[draft.port_id for draft in drafts if draft.port_id])
        drafts = self._in_groups(conn, call, project, drafts)
        return [self._plugged(conn, call, project, ident, drafts) for ident in instance_ids]

    def _plugged(
        self,
        conn: Connection,
        call: Call,
        project: Project,
        instance_id: str,
        drafts: Sequence[InterfaceDraft],
    ) -> list[Port]:
        plugged = []
        for number, draft in enumerate(drafts):
            if draft.port_id:
                port = free_port(conn, project.id, draft.port_id)
                plugged.append(self._give(conn, call, port, instance_id, position=number))
                continue
            with renamed(f"{_PATH}[{number}]", of="port."):
                made = make_port(
                    conn,
                    self.context,
                    call,
                    project=project,
                    draft=PortDraft(
                        network_id=draft.network_id, security_group_ids=draft.security_group_ids
                    ),
                    checked=Checked(addresses=draft.addresses),
                    ident=self.context.new_id("port"),
                    instance_id=instance_id,
                    position=number,
                )
            plugged.append(made)
        return plugged

    def wanted(
        self, drafts: Sequence[InterfaceDraft], *, no_network: bool
    ) -> Sequence[InterfaceDraft]:
        """Return what an instance shall have whose user said this.

        Nothing said means the default network, where there are networks at all.
        """
        if drafts or no_network or not self.settings.enabled:
            return drafts
        return (InterfaceDraft(),)

    def _with_default(
        self,
        conn: Connection,
        call: Call,
        project: Project,
        drafts: Sequence[InterfaceDraft],
    ) -> list[InterfaceDraft]:
        """Return the drafts with the default network where they name neither that nor a port."""
        network = ensure_default_network(conn, self.context, call, project, settings=self.settings)
        return [
            draft if draft.port_id or draft.network_id else replace(draft, network_id=network.id)
            for draft in drafts
        ]

    def _in_groups(
        self, conn: Connection, call: Call, project: Project, drafts: Sequence[InterfaceDraft]
    ) -> list[InterfaceDraft]:
        """Return the drafts with the default group where a port is made in none; all are held."""
        grouped = list(drafts)
        if any(not draft.port_id and not draft.security_group_ids for draft in drafts):
            default = ensure_default_group(conn, self.context, call, project).id
            grouped = [
                draft
                if draft.port_id or draft.security_group_ids
                else replace(draft, security_group_ids=(default,))
                for draft in drafts
            ]
        named = {ident for draft in grouped for ident in draft.security_group_ids}
        security_groups.lock(conn, locked=(), held=named)
        return grouped

    def _give(
        self, conn: Connection, call: Call, port: Port, instance_id: str, *, position: int
    ) -> Port:
        """Give an instance a port that was there before, and stays when the instance goes."""
        owned = replace(
            port,
            owner=PortOwner.INSTANCE,
            owner_id=instance_id,
            position=position,
            delete_with_owner=False,
            etag=self.context.new_etag(),
            update_time=self.context.clock(),
        )
        record_change(
            conn,
            self.context,
            call,
            kind="port",
            row=owned,
            change=EventType.UPDATED,
            what=f"is of instance {instance_id}",
            state=owned.state.value,
        )
        ports.replace(conn, owned, etag=None)
        ovn_work.touched(conn, self.context, "port", port.id, reason="plugged in")
        return found("port", port.id, ports.get(conn, port.id))


def _needs_default(drafts: Sequence[InterfaceDraft]) -> bool:
    return any(not draft.port_id and not draft.network_id for draft in drafts)


def _checked(draft: InterfaceDraft, path: str, before: Sequence[InterfaceDraft]) -> InterfaceDraft:
    if draft.port_id:
        _check_given(draft, path, before)
        return draft
    with Violations() as wrong:
        if draft.network_id:
            with wrong.collect():
                check_id("network", draft.network_id, f"{path}.network_id")
        with wrong.collect(), renamed(path, of="port."):
            said = PortDraft(addresses=draft.addresses, security_group_ids=draft.security_group_ids)
            draft = replace(draft, addresses=check_changes(said, _FIELDS).addresses)
    return draft


def _check_given(draft: InterfaceDraft, path: str, before: Sequence[InterfaceDraft]) -> None:
    with Violations() as wrong:
        with wrong.collect():
            check_id("port", draft.port_id, f"{path}.port_id")
        wrong.require(
            all(draft.port_id != other.port_id for other in before),
            f"{path}.port_id",
            "is named twice",
            "DUPLICATE_PORT",
        )
        for name, said in (
            ("network_id", draft.network_id),
            ("fixed_addresses", draft.addresses),
            ("security_group_ids", draft.security_group_ids),
        ):
            wrong.require(
                not said,
                f"{path}.{name}",
                "cannot be said together with port_id: the port has its own",
                "PORT_HAS_ITS_OWN",
            )
