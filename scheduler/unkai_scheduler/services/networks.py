"""Networks: what instances' ports are on. True in the database at once; OVN follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.networks import Network, NetworkType
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services import ovn_work
from unkai_scheduler.services.checks import Violations, check_etag, check_mask, fetch
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import mutate
from unkai_scheduler.services.networking import check_configured, record_change
from unkai_scheduler.services.port_removals import lock_balancers, remove_port
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.services.subnets import remove_subnet
from unkai_scheduler.store import networks, ports, subnets
from unkai_wire.errors import FailedPrecondition, InvalidArgument
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

MIN_MTU = 576
"""What every host on IPv4 takes whole (RFC 791)."""
MAX_VLAN_ID = 4094
_CHANGEABLE = ("name", "labels", "mtu", "dns_domain")
_TOLD = ("mtu", "dns_domain")
"""Fields that OVN is told."""
_OWNERS = {
    PortOwner.INSTANCE: "instances",
    PortOwner.ROUTER: "routers",
    PortOwner.GATEWAY: "gateways of routers",
    PortOwner.LOAD_BALANCER: "load balancers",
    PortOwner.FLOATING_IP: "floating addresses",
}


@dataclass(frozen=True, slots=True)
class NetworkDraft:
    """What a user may say of a network."""

    name: str = ""
    type: NetworkType = NetworkType.OVERLAY
    physical_network: str = ""
    vlan_id: int = 0
    external: bool = False
    shared: bool = False
    mtu: int = 0
    dns_domain: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class NetworksService:
    """Use cases of networks."""

    def __init__(self, context: ServiceContext, settings: NetworkSettings) -> None:
        self._context = context
        self._settings = settings

    async def create(self, call: Call, project_id: str, draft: NetworkDraft) -> Network:
        """Make a network."""
        self._check_new(draft)
        ident = self._context.new_id("network")

        def work(conn: Connection) -> Network:
            now = self._context.clock()
            network = Network(
                id=ident,
                project_id=resolve_project(conn, project_id).id,
                name=draft.name,
                type=draft.type,
                mtu=draft.mtu or self._settings.most_mtu(draft.physical_network),
                dns_domain=draft.dns_domain or self._settings.dns_domain,
                physical_network=draft.physical_network,
                vlan_id=draft.vlan_id,
                external=draft.external,
                shared=draft.shared,
                etag=self._context.new_etag(),
                create_time=now,
                update_time=now,
                labels=dict(draft.labels),
            )
            _check_free(conn, network)
            return insert_network(conn, self._context, call, network)

        return await mutate(self._context, call, Network, work, wakes=[ident])

    async def get(self, network_id: str) -> Network:
        """Return one network."""
        return await read_row(self._context.uow, "network", network_id, networks.get)

    async def list(
        self, paging: Paging, *, project_id: str = "", name: str = "", external: bool = False
    ) -> Page[Network]:
        """Return networks by name; `external`: the external ones of all projects."""
        if project_id:
            check_id("project", project_id, "project_id")
        names.check_text(name, "name", names.MAX_FILTER)
        page = plan(paging, "networks", [project_id, name, external], _key, key_length=2)
        return await page.read(
            self._context.uow,
            partial(
                networks.list_page,
                project_id=None if external else project_id or None,
                name=name or None,
                external=external or None,
            ),
        )

    async def update(
        self, call: Call, network_id: str, draft: NetworkDraft, mask: Sequence[str], etag: str
    ) -> Network:
        """Change the fields that the mask names."""
        fields = check_mask(mask, _CHANGEABLE)
        with Violations() as wrong:
            _check_words(wrong, draft, fields)

        def work(conn: Connection) -> Network:
            old = _locked(conn, network_id, "network.id")
            new = replace(
                old,
                name=draft.name if "name" in fields else old.name,
                labels=dict(draft.labels) if "labels" in fields else old.labels,
                mtu=self._mtu(draft.mtu, old) if "mtu" in fields else old.mtu,
                etag=self._context.new_etag(),
                update_time=self._context.clock(),
            )
            if "dns_domain" in fields:
                new = replace(new, dns_domain=draft.dns_domain or self._settings.dns_domain)
            networks.replace(conn, new, etag=etag or None)
            if any(getattr(new, name) != getattr(old, name) for name in _TOLD):
                ovn_work.touched(conn, self._context, "network", new.id)
                new = replace(new, reconciling=True)
            self._record(conn, call, new, EventType.UPDATED, "was changed")
            return new

        return await mutate(self._context, call, Network, work, wakes=[network_id])

    async def delete(self, call: Call, network_id: str, etag: str = "") -> None:
        """Remove a network that nothing is plugged into, with its subnets and free ports."""

        def work(conn: Connection) -> Network:
            row = _locked(conn, network_id, "network_id")
            check_etag("network", row.id, row.etag, etag)
            _check_unused(conn, row)  # before thousands of ports are locked for nothing
            subnets.lock_of(conn, row.id)
            port_ids = ports.ids_on_network(conn, row.id)
            ports.lock(conn, *port_ids)
            lock_balancers(conn, port_ids)
            _check_unused(conn, row)  # one may have been plugged in meanwhile
            for port in ports.of_kind_on_network(conn, row.id, None):
                remove_port(conn, self._context, call, port)
            for subnet in subnets.of_network(conn, row.id):
                remove_subnet(conn, self._context, call, subnet)
            networks.delete(conn, row.id)
            ovn_work.removed(conn, self._context, "network", row.id)
            self._record(conn, call, row, EventType.DELETED, "was removed")
            return row

        await mutate(self._context, call, Network, work, wakes=[network_id])

    def _check_new(self, draft: NetworkDraft) -> None:
        """Raise for what is wrong with a new network, whatever there is in the database."""
        with Violations() as wrong:
            _check_words(wrong, draft, frozenset(_CHANGEABLE))
            _check_carrier(wrong, draft)
        check_configured(self._settings)
        named = draft.physical_network
        if named and named not in self._settings.physical_networks:
            known = ", ".join(sorted(self._settings.physical_networks))
            raise FailedPrecondition(
                f"no physical network is named {named[:64]!r}; "
                + (f"there are {known}" if known else "the operator has named none"),
                reason="UNKNOWN_PHYSICAL_NETWORK",
                fix="name it in network.physical_networks of every scheduler's settings",
                metadata={"physical_network": named[:64], "known": known},
            )
        _check_mtu(draft.mtu, self._settings.most_mtu(named))

    def _mtu(self, wanted: int, network: Network) -> int:
        """Return the MTU that a network shall have from now on."""
        named = network.physical_network
        if named and named not in self._settings.physical_networks:
            most = network.mtu  # the operator has taken it away since
        else:
            most = self._settings.most_mtu(named)
        _check_mtu(wanted, most)
        return wanted or most

    def _record(
        self, conn: Connection, call: Call, row: Network, change: EventType, what: str
    ) -> None:
        record_change(conn, self._context, call, kind="network", row=row, change=change, what=what)


def insert_network(
    conn: Connection, context: ServiceContext, call: Call, network: Network
) -> Network:
    """Insert a network with its event and its work on OVN; return it as it is then."""
    networks.insert(conn, network)
    ovn_work.touched(conn, context, "network", network.id, reason="made")
    record_change(
        conn, context, call, kind="network", row=network, change=EventType.CREATED, what="was made"
    )
    return replace(network, reconciling=True)


def _key(network: Network) -> Sequence[str]:
    return [network.name, network.id]


def _locked(conn: Connection, network_id: str, path: str) -> Network:
    return fetch("network", network_id, path, lambda ident: networks.locked(conn, ident))


def _check_words(wrong: Violations, draft: NetworkDraft, fields: frozenset[str]) -> None:
    if "name" in fields:
        with wrong.collect():
            names.check_name(draft.name, "network.name")
    if "labels" in fields:
        with wrong.collect():
            names.check_labels(draft.labels, "network.labels")
    if "mtu" in fields:
        wrong.require(
            draft.mtu == 0 or draft.mtu >= MIN_MTU,
            "network.mtu",
            f"is {draft.mtu}; it must be {MIN_MTU} bytes or more, or 0: as many as fit",
            "INVALID_MTU",
        )
    if "dns_domain" in fields and draft.dns_domain:
        with wrong.collect():
            names.check_domain(draft.dns_domain, "network.dns_domain")


def _check_carrier(wrong: Violations, draft: NetworkDraft) -> None:
    """Note what does not fit together of what carries the network."""
    is_overlay = draft.type is NetworkType.OVERLAY
    wrong.require(
        not (is_overlay and draft.physical_network),
        "network.physical_network",
        "an OVERLAY network runs over tunnels, on no network of the operator's",
        "INVALID_PHYSICAL_NETWORK",
    )
    wrong.require(
        is_overlay or bool(draft.physical_network),
        "network.physical_network",
        f"must name the operator's network that a {draft.type.value} network is",
        "INVALID_PHYSICAL_NETWORK",
    )
    if draft.type is NetworkType.VLAN:
        wrong.require(
            1 <= draft.vlan_id <= MAX_VLAN_ID,
            "network.vlan_id",
            f"is {draft.vlan_id}; it must be 1 to {MAX_VLAN_ID}",
            "INVALID_VLAN_ID",
        )
    else:
        wrong.require(
            draft.vlan_id == 0,
            "network.vlan_id",
            f"is {draft.vlan_id}; a network of type {draft.type.value} has none",
            "INVALID_VLAN_ID",
        )
    wrong.require(
        not (draft.external and is_overlay),
        "network.external",
        "an external network is the operator's: its type is FLAT or VLAN",
        "INVALID_EXTERNAL_NETWORK",
    )


def _check_mtu(wanted: int, most: int) -> None:
    if wanted > most:
        raise InvalidArgument.field(
            "network.mtu",
            f"is {wanted}; what carries the network takes packets of {most} bytes whole",
            reason="INVALID_MTU",
            fix=f"say {most} or less, or 0: as many as fit",
        )


def _check_free(conn: Connection, network: Network) -> None:
    """Raise `AlreadyExists` when another network is on the same one of the operator's."""
    if not network.physical_network:
        return
    other = networks.on_provider(conn, network.physical_network, network.vlan_id)
    if other is not None:
        raise networks.physical_network_taken(network.physical_network, network.vlan_id, other)


def _check_unused(conn: Connection, network: Network) -> None:
    counts = ports.count_by_owner(conn, network.id)
    used = [f"{counts[kind]} of {word}" for kind, word in _OWNERS.items() if counts.get(kind)]
    if used:
        number = sum(count for kind, count in counts.items() if kind)
        raise FailedPrecondition(
            f"network {network.name} has ports: {', '.join(used)}",
            reason="NETWORK_IN_USE",
            fix="remove what is on it first; 'unkai port list' tells what that is",
            metadata={"network_id": network.id, "ports": str(number)},
        )
