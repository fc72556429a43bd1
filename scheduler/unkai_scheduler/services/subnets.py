"""Subnets: the addresses of networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.addresses import overlaps
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.networks import Network, Subnet
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services import ovn_work
from unkai_scheduler.services.checks import Violations, check_etag, check_mask, fetch, found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import mutate
from unkai_scheduler.services.networking import check_configured, record_change
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.services.subnet_drafts import (
    Plan,
    SubnetDraft,
    check_new,
    check_told,
    check_words,
)
from unkai_scheduler.store import addresses, networks, subnets
from unkai_wire.errors import FailedPrecondition, NotFound
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_CHANGEABLE = ("name", "labels", "allocation_ranges", "no_dhcp", "dns_servers", "host_routes")
_TOLD = ("dhcp", "dns_servers", "host_routes")
"""Fields of a row that OVN is told."""


class SubnetsService:
    """Use cases of subnets."""

    def __init__(self, context: ServiceContext, settings: NetworkSettings) -> None:
        self._context = context
        self._settings = settings

    async def create(self, call: Call, project_id: str, draft: SubnetDraft) -> Subnet:
        """Make a subnet; without a project, in that of its network."""
        checked = check_new(draft)
        if project_id:
            check_id("project", project_id, "project_id")
        check_configured(self._settings)
        ident = self._context.new_id("subnet")

        def work(conn: Connection) -> Subnet:
            network = _network(conn, project_id, draft.network_id)
            now = self._context.clock()
            subnet = Subnet(
                id=ident,
                project_id=network.project_id,
                network_id=network.id,
                name=draft.name,
                cidr=checked.cidr,
                gateway_address=checked.gateway_address,
                ranges=checked.ranges,
                dhcp=not draft.no_dhcp,
                ipv6_mode=checked.ipv6_mode,
                dns_servers=checked.dns_servers,
                host_routes=checked.host_routes,
                etag=self._context.new_etag(),
                create_time=now,
                update_time=now,
                labels=dict(draft.labels),
            )
            _check_fits(network, subnets.of_network(conn, network.id), checked)
            return insert_subnet(conn, self._context, call, subnet)

        return await mutate(self._context, call, Subnet, work, wakes=[ident])

    async def get(self, subnet_id: str) -> Subnet:
        """Return one subnet."""
        return await read_row(self._context.uow, "subnet", subnet_id, subnets.get)

    async def list(
        self, paging: Paging, *, project_id: str = "", name: str = "", network_id: str = ""
    ) -> Page[Subnet]:
        """Return subnets by name."""
        if project_id:
            check_id("project", project_id, "project_id")
        if network_id:
            check_id("network", network_id, "network_id")
        names.check_text(name, "name", names.MAX_FILTER)
        page = plan(paging, "subnets", [project_id, name, network_id], _key, key_length=2)
        return await page.read(
            self._context.uow,
            partial(
                subnets.list_page,
                project_id=project_id or None,
                name=name or None,
                network_id=network_id or None,
            ),
        )

    async def update(
        self, call: Call, subnet_id: str, draft: SubnetDraft, mask: Sequence[str], etag: str
    ) -> Subnet:
        """Change the fields that the mask names; addresses in use stay, in the ranges or not."""
        fields = check_mask(mask, _CHANGEABLE)
        with Violations() as wrong:
            check_words(wrong, draft, fields)

        def work(conn: Connection) -> Subnet:
            old = _locked(conn, subnet_id, "subnet.id")
            told = check_told(draft, old.cidr, old.gateway_address, fields)
            new = replace(
                old,
                name=draft.name if "name" in fields else old.name,
                labels=dict(draft.labels) if "labels" in fields else old.labels,
                ranges=told.ranges if "allocation_ranges" in fields else old.ranges,
                dhcp=not draft.no_dhcp if "no_dhcp" in fields else old.dhcp,
                dns_servers=told.dns_servers if "dns_servers" in fields else old.dns_servers,
                host_routes=told.host_routes if "host_routes" in fields else old.host_routes,
                etag=self._context.new_etag(),
                update_time=self._context.clock(),
            )
            subnets.replace(conn, new, etag=etag or None)
            if any(getattr(new, name) != getattr(old, name) for name in _TOLD):
                ovn_work.touched(conn, self._context, "subnet", new.id)
                new = replace(new, reconciling=True)
            self._record(conn, call, new, EventType.UPDATED, "was changed")
            return new

        return await mutate(self._context, call, Subnet, work, wakes=[subnet_id])

    async def delete(self, call: Call, subnet_id: str, etag: str = "") -> None:
        """Remove a subnet of which no address is in use."""

        def work(conn: Connection) -> Subnet:
            row = _locked(conn, subnet_id, "subnet_id")
            check_etag("subnet", row.id, row.etag, etag)
            used = addresses.count_by_subnet(conn, row.id)
            if used:
                raise FailedPrecondition(
                    f"{used} addresses of subnet {row.name} are in use",
                    reason="SUBNET_IN_USE",
                    fix="remove the ports that have them first; 'unkai port list' names them",
                    metadata={"subnet_id": row.id, "addresses": str(used)},
                )
            remove_subnet(conn, self._context, call, row)
            return row

        await mutate(self._context, call, Subnet, work, wakes=[subnet_id])

    def _record(
        self, conn: Connection, call: Call, row: Subnet, change: EventType, what: str
    ) -> None:
        record_change(conn, self._context, call, kind="subnet", row=row, change=change, what=what)


def insert_subnet(conn: Connection, context: ServiceContext, call: Call, subnet: Subnet) -> Subnet:
    """Insert a subnet with its event and its work on OVN; return it as it is then.

    Its network is locked, and it overlaps none of that one's.
    """
    subnets.insert(conn, subnet)
    ovn_work.touched(conn, context, "subnet", subnet.id, reason="made")
    record_change(
        conn, context, call, kind="subnet", row=subnet, change=EventType.CREATED, what="was made"
    )
    return replace(subnet, reconciling=True)


def remove_subnet(conn: Connection, context: ServiceContext, call: Call, subnet: Subnet) -> None:
    """Delete a subnet of which no address is in use."""
    subnets.delete(conn, subnet.id)
    ovn_work.removed(conn, context, "subnet", subnet.id)
    record_change(
        conn, context, call, kind="subnet", row=subnet, change=EventType.DELETED, what="was removed"
    )


def _key(subnet: Subnet) -> Sequence[str]:
    return [subnet.name, subnet.id]


def _locked(conn: Connection, subnet_id: str, path: str) -> Subnet:
    return fetch("subnet", subnet_id, path, lambda ident: subnets.locked(conn, ident))


def _network(conn: Connection, project_id: str, network_id: str) -> Network:
    """Return the network of a new subnet, locked after its project."""
    known = found("network", network_id, networks.get(conn, network_id))
    project = resolve_project(conn, project_id or known.project_id)
    network = networks.locked(conn, network_id)
    if network is None or network.project_id != project.id:
        raise NotFound.of("network", network_id)
    return network


def _check_fits(network: Network, others: Sequence[Subnet], new: Plan) -> None:
    """Raise `FailedPrecondition` when a subnet cannot be beside the network's others."""
    other = next((some for some in others if overlaps(some.cidr, new.cidr)), None)
    if other is not None:
        raise FailedPrecondition(
            f"{new.cidr} overlaps {other.cidr} of subnet {other.name}",
            reason="SUBNET_OVERLAPS",
            fix="choose other addresses, or another network: networks may use the same ones",
            metadata={"network_id": network.id, "subnet_id": other.id, "cidr": other.cidr},
        )
    # One router port advertises them all, in one mode.
    other = next((some for some in others if some.ipv6_mode not in {None, new.ipv6_mode}), None)
    if new.ipv6_mode is not None and other is not None and other.ipv6_mode is not None:
        raise FailedPrecondition(
            f"subnet {other.name} of the network gives IPv6 addresses by {other.ipv6_mode.value}; "
            "all of a network do it the same way",
            reason="IPV6_MODE_DIFFERS",
            fix=f"choose {other.ipv6_mode.value}, or another network",
            metadata={
                "network_id": network.id,
                "subnet_id": other.id,
                "ipv6_mode": other.ipv6_mode.value,
            },
        )
