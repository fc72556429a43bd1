"""Floating addresses: made, moved from port to port, taken away.

The address itself is one of a port on the external network, the holder, so that nothing else is
given it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.addresses import check_address, version_of
from unkai_scheduler.domain.networks import Network, Subnet
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.domain.routers import FloatingIp
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.checks import Violations, check_etag, check_mask, fetch, found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.floating_ip_changes import FloatingIpChanges
from unkai_scheduler.services.floating_ip_targets import Target, check_alone, find_target
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import mutate
from unkai_scheduler.services.networking import check_configured
from unkai_scheduler.services.owned_ports import OwnedPorts, subnet_of, take_free
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.services.router_places import check_external
from unkai_scheduler.store import addresses, floating_ips, networks, ports, subnets
from unkai_wire.errors import FailedPrecondition, InvalidArgument
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_CHANGEABLE = ("name", "labels", "port_id", "fixed_address")


@dataclass(frozen=True, slots=True)
class FloatingIpDraft:
    """What a user may say of a floating address."""

    name: str = ""
    """Empty: one is made of the id."""
    network_id: str = ""
    """Empty: the only external one."""
    address: str = ""
    """Empty: one that is free."""
    port_id: str = ""
    fixed_address: str = ""
    """Empty: the port's first of IPv4."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FloatingIpFilter:
    """Which floating addresses a caller wants; empty fields leave all in."""

    project_id: str = ""
    name: str = ""
    port_id: str = ""
    instance_id: str = ""

    def check(self) -> None:
        """Raise `InvalidArgument` for what can match nothing."""
        with Violations() as wrong:
            for kind in ("project", "port", "instance"):
                ident = getattr(self, f"{kind}_id")
                if ident:
                    with wrong.collect():
                        check_id(kind, ident, f"{kind}_id")
            with wrong.collect():
                names.check_text(self.name, "name", names.MAX_FILTER)

    def conditions(self) -> list[str]:
        """Return the filter as plain values, for the page token."""
        return [self.project_id, self.name, self.port_id, self.instance_id]


class FloatingIpsService:
    """Use cases of floating addresses."""

    def __init__(self, context: ServiceContext, settings: NetworkSettings) -> None:
        self._context = context
        self._settings = settings

    async def create(self, call: Call, project_id: str, draft: FloatingIpDraft) -> FloatingIp:
        """Make a floating address, and let it lead to a port if the draft names one."""
        draft = _checked(draft, frozenset({*_CHANGEABLE, "network_id", "address"}))
        check_configured(self._settings)
        ident = self._context.new_id("floating_ip")

        def work(conn: Connection) -> FloatingIp:
            project = resolve_project(conn, project_id)
            network = _external(conn, draft.network_id)
            target = find_target(
                conn,
                project.id,
                network,
                draft.port_id,
                draft.fixed_address,
                lock_between=partial(_hold, conn, network),
            )
            check_alone(conn, target, ident)
            holder = OwnedPorts(conn, self._context, call).make(
                network, project.id, PortOwner.FLOATING_IP, ident
            )
            now = self._context.clock()
            row = FloatingIp(
                id=ident,
                project_id=project.id,
                name=draft.name or _name_of(ident),
                network_id=network.id,
                address=_take(conn, network, holder.id, draft.address),
                holder_port_id=holder.id,
                etag=self._context.new_etag(),
                create_time=now,
                update_time=now,
                port_id=target.port_id,
                fixed_address=target.fixed_address,
                router_id=target.router_id,
                labels=dict(draft.labels),
            )
            return self._changes(conn, call).make(row)

        return await mutate(self._context, call, FloatingIp, work, wakes=[ident])

    async def get(self, floating_ip_id: str) -> FloatingIp:
        """Return one floating address."""
        return await read_row(self._context.uow, "floating_ip", floating_ip_id, floating_ips.get)

    async def list(self, paging: Paging, wanted: FloatingIpFilter) -> Page[FloatingIp]:
        """Return floating addresses by name."""
        wanted.check()
        page = plan(paging, "floating_ips", wanted.conditions(), _key, key_length=2)
        return await page.read(
            self._context.uow,
            partial(
                floating_ips.list_page,
                project_id=wanted.project_id or None,
                name=wanted.name or None,
                port_id=wanted.port_id or None,
                instance_id=wanted.instance_id or None,
            ),
        )

    async def update(
        self,
        call: Call,
        floating_ip_id: str,
        draft: FloatingIpDraft,
        mask: Sequence[str],
        etag: str,
    ) -> FloatingIp:
        """Change the fields that the mask names: another port moves the address."""
        fields = check_mask(mask, _CHANGEABLE)
        draft = _checked(draft, fields)
        check_id("floating_ip", floating_ip_id, "floating_ip.id")

        def work(conn: Connection) -> FloatingIp:
            seen = found("floating_ip", floating_ip_id, floating_ips.get(conn, floating_ip_id))
            target = _new_target(conn, seen, draft, fields)
            old = found("floating_ip", seen.id, floating_ips.locked(conn, seen.id))
            check_etag("floating_ip", old.id, old.etag, etag)
            if target is None:
                target = Target(old.port_id, old.fixed_address, old.router_id)
            elif old.port_id != seen.port_id:  # it may be that whose address was looked up
                check_etag("floating_ip", old.id, old.etag, seen.etag)
            check_alone(conn, target, old.id)
            new = replace(
                old,
                name=(draft.name or _name_of(old.id)) if "name" in fields else old.name,
                labels=dict(draft.labels) if "labels" in fields else old.labels,
            )
            return self._changes(conn, call).change(old, new, target)

        return await mutate(self._context, call, FloatingIp, work, wakes=[floating_ip_id])

    async def delete(self, call: Call, floating_ip_id: str, etag: str = "") -> None:
        """Remove a floating address; its holder gives the address back."""

        def work(conn: Connection) -> FloatingIp:
            seen = fetch(
                "floating_ip",
                floating_ip_id,
                "floating_ip_id",
                lambda ident: floating_ips.get(conn, ident),
            )
            ports.lock(conn, seen.holder_port_id)
            row = found("floating_ip", seen.id, floating_ips.locked(conn, seen.id))
            check_etag("floating_ip", row.id, row.etag, etag)
            self._changes(conn, call).remove(row)
            return row

        await mutate(self._context, call, FloatingIp, work, wakes=[floating_ip_id])

    def _changes(self, conn: Connection, call: Call) -> FloatingIpChanges:
        return FloatingIpChanges(conn, self._context, call)


def _key(row: FloatingIp) -> Sequence[str]:
    return [row.name, row.id]


def _name_of(ident: str) -> str:
    return f"floating-ip-{ident.partition('-')[2]}"


def _checked(draft: FloatingIpDraft, fields: frozenset[str]) -> FloatingIpDraft:
    """Return the draft in canonical form; raise `InvalidArgument` with all problems."""
    canonical = {"address": "", "fixed_address": ""}
    with Violations() as wrong:
        if "name" in fields and draft.name:
            with wrong.collect():
                names.check_name(draft.name, "floating_ip.name")
        if "labels" in fields:
            with wrong.collect():
                names.check_labels(draft.labels, "floating_ip.labels")
        for kind in ("network", "port"):
            ident = getattr(draft, f"{kind}_id")
            if f"{kind}_id" in fields and ident:
                with wrong.collect():
                    check_id(kind, ident, f"floating_ip.{kind}_id")
        for name in ("address", "fixed_address"):
            if name in fields and getattr(draft, name):
                with wrong.collect():
                    canonical[name] = _check_ipv4(getattr(draft, name), f"floating_ip.{name}")
        wrong.require(
            not {"port_id", "fixed_address"} <= fields
            or bool(draft.port_id)
            or not draft.fixed_address,
            "floating_ip.fixed_address",
            "is an address of a port, but no port_id is given",
            "PORT_REQUIRED",
        )
    return replace(draft, address=canonical["address"], fixed_address=canonical["fixed_address"])


def _check_ipv4(text: str, field_name: str) -> str:
    address = check_address(text, field_name)
    if version_of(address) != 4:
        raise InvalidArgument.field(
            field_name, f"{address} is not an IPv4 address", reason="IPV4_REQUIRED"
        )
    return address


def _external(conn: Connection, network_id: str) -> Network:
    """Return the external network of this id, or the only one there is; it is not held yet."""
    if not network_id:
        several = networks.list_page(conn, after=None, limit=2, external=True)
        if len(several) != 1:
            raise _no_only_one(several)
        network_id = several[0].id
    network = found("network", network_id, networks.get(conn, network_id))
    check_external(network)
    return network


def _hold(conn: Connection, network: Network) -> None:
    """Hold an external network and lock its subnets, of which an address is about to be taken."""
    found("network", network.id, networks.held(conn, network.id))
    subnets.lock_of(conn, network.id)


def _no_only_one(several: Sequence[Network]) -> FailedPrecondition:
    if several:
        return FailedPrecondition(
            "there are several external networks",
            reason="SEVERAL_EXTERNAL_NETWORKS",
            fix="name the one that the address shall be of",
        )
    return FailedPrecondition(
        "there is no external network",
        reason="NO_EXTERNAL_NETWORK",
        fix="make one: 'unkai network create --external', with a subnet of its addresses",
    )


def _take(conn: Connection, network: Network, holder_id: str, address: str) -> str:
    """Give the holder this IPv4 address of a network, or one that is free."""
    inside: list[Subnet] = [
        subnet for subnet in subnets.of_network(conn, network.id) if subnet.version == 4
    ]
    if address:
        subnet = subnet_of(inside, address, "floating_ip.address")
        return addresses.take_this(conn, subnet.id, holder_id, address).address
    if not inside:
        raise FailedPrecondition(
            f"network {network.name} has no IPv4 subnet",
            reason="NETWORK_HAS_NO_SUBNET",
            fix="give the network a subnet first",
            metadata={"network_id": network.id, "name": network.name},
        )
    return take_free(conn, inside, holder_id).address


def _new_target(
    conn: Connection, seen: FloatingIp, draft: FloatingIpDraft, fields: frozenset[str]
) -> Target | None:
    """Return where a floating address shall lead after an update; None: where it leads already."""
    if not fields & {"port_id", "fixed_address"}:
        return None
    port_id = draft.port_id if "port_id" in fields else seen.port_id
    address = draft.fixed_address if "fixed_address" in fields else ""
    if address and not port_id:
        raise FailedPrecondition(
            f"floating address {seen.name} leads to no port, so to no address of one",
            reason="FLOATING_IP_LEADS_NOWHERE",
            fix="name the port too",
            metadata={"floating_ip_id": seen.id, "name": seen.name},
        )
    network = found("network", seen.network_id, networks.get(conn, seen.network_id))
    return find_target(conn, seen.project_id, network, port_id, address)
