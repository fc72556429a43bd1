"""A load balancer's rows: one of each protocol, and the checks of its members. Pure.

The same row is on all routers of its subnet and on all switches of these: a switch translates for
clients inside, a router's gateway for those outside. A floating address is a further key of `vips`.

Checks come from an address of their own on the member's subnet. OVN leaves members out that have no
such address once a listener is checked, so where the address of one is missing nothing is checked.
A member that connects to itself by way of the balancer sees the balancer's address as the other
end. ovn-nb(5), Load_Balancer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.load_balancers import (
    BalancedProtocol,
    HealthCheck,
    Listener,
    LoadBalancer,
)
from unkai_scheduler.ovn.northbound.names import in_router, in_switch, name_of, row_uuid
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Place, Row


class _Backend(NamedTuple):
    """A member, as far as OVN is told."""

    port_id: str
    subnet_id: str
    address: str
    port_number: int


def rows(view: View, ident: str) -> Iterator[Row]:
    """Yield a load balancer's rows."""
    balancer = view.load_balancers.get(ident)
    if balancer is None:
        return
    places = _places(view, balancer)
    for protocol in BalancedProtocol:
        listeners = [some for some in balancer.listeners if some.protocol is protocol]
        if listeners:
            yield from _of_protocol(view, balancer, protocol, listeners, places)


def _of_protocol(
    view: View,
    balancer: LoadBalancer,
    protocol: BalancedProtocol,
    listeners: Sequence[Listener],
    places: frozenset[Place],
) -> Iterator[Row]:
    name = protocol.value.lower()
    uuid = row_uuid(balancer.id, name)
    vips: dict[str, str] = {}
    sources: dict[str, str] = {}
    checks: list[Row] = []
    for listener in listeners:
        backends = _backends(view, balancer, listener)
        checked = _sources(view, backends) if listener.health_check else {}
        sources |= checked
        for address in _addresses(view, balancer):
            key = _end(address, listener.port_number)
            vips[key] = ",".join(_end(some.address, some.port_number) for some in backends)
            if listener.health_check and checked:
                checks.append(_check(balancer, name, key, listener.health_check))
    yield Row(
        "Load_Balancer",
        uuid,
        {
            "name": f"{name_of(balancer.id)}-{name}",
            "protocol": name,
            "vips": vips,
            "ip_port_mappings": sources,
            "selection_fields": (),
            "options": {
                # Without a member that is well a client hears so at once; sessions of a member
                # that was taken away end.
                "reject": "true",
                "ct_flush": "true",
                "hairpin_snat_ip": balancer.address,
            },
        },
        member_of=places,
    )
    yield from checks


def _places(view: View, balancer: LoadBalancer) -> frozenset[Place]:
    subnet = view.subnets.get(balancer.subnet_id)
    switches = {subnet.network_id} if subnet else set()
    routers = view.routers_on_subnet.get(balancer.subnet_id, [])
    for router in routers:
        on = [view.subnets.get(interface.subnet_id) for interface in router.interfaces]
        switches |= {some.network_id for some in on if some}
    return frozenset(
        [in_router(router.id, "load_balancer") for router in routers]
        + [in_switch(network_id, "load_balancer") for network_id in switches]
    )


def _addresses(view: View, balancer: LoadBalancer) -> list[str]:
    floating = view.floating_ips_of_port.get(balancer.port_id, [])
    version = version_of(balancer.address)
    others = sorted(some.address for some in floating if version_of(some.address) == version)
    return [balancer.address, *others]


def _backends(view: View, balancer: LoadBalancer, listener: Listener) -> list[_Backend]:
    """Return the members that have an address of the balancer's version."""
    version = version_of(balancer.address)
    found = []
    for member in listener.members:
        port = view.ports.get(member.port_id)
        own = (
            [some for some in port.addresses if version_of(some.address) == version] if port else []
        )
        if port and own:
            number = member.port_number or listener.port_number
            found.append(_Backend(port.id, own[0].subnet_id, own[0].address, number))
    return found


def _sources(view: View, backends: Sequence[_Backend]) -> dict[str, str]:
    """Return `ip_port_mappings` of members; empty when one of them could not be checked."""
    sources = {some.subnet_id: view.probe_sources.get(some.subnet_id) for some in backends}
    if not all(sources.values()):
        return {}
    return {
        _bracketed(
            some.address
        ): f"{name_of(some.port_id)}:{_bracketed(sources[some.subnet_id] or '')}"
        for some in backends
    }


def _check(balancer: LoadBalancer, protocol: str, key: str, check: HealthCheck) -> Row:
    return Row(
        "Load_Balancer_Health_Check",
        row_uuid(balancer.id, f"check:{protocol}:{key}"),
        {
            "vip": key,
            "options": {
                "interval": str(check.interval_s),
                "timeout": str(check.timeout_s),
                "success_count": str(check.success_count),
                "failure_count": str(check.failure_count),
            },
        },
        parent=Place("Load_Balancer", row_uuid(balancer.id, protocol), "health_check"),
    )


def _end(address: str, port_number: int) -> str:
    return f"{_bracketed(address)}:{port_number}"


def _bracketed(address: str) -> str:
    return f"[{address}]" if version_of(address) == 6 else address
