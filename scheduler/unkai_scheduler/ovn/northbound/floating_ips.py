"""A floating address's row: the way in to one address, and its own address on the way out. Pure.

It passes the router's gateway host, which answers ARP for it. One that leads to a load balancer has
no row: a router translates once, so it is a further address of the balancer. ovn-nb(5), NAT.
"""

from __future__ import annotations

from collections.abc import Iterator

from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.domain.routers import FloatingIp
from unkai_scheduler.ovn.northbound.names import row_uuid
from unkai_scheduler.ovn.northbound.translations import translation
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Row


def rows(view: View, ident: str) -> Iterator[Row]:
    """Yield a floating address's row, if it leads to an instance's port."""
    floating = view.floating_ips.get(ident)
    fixed = _target(view, floating) if floating else ""
    if floating is None or not fixed:
        return
    yield translation(
        row_uuid(ident, "nat"), floating.router_id, "dnat_and_snat", floating.address, fixed
    )


def _target(view: View, floating: FloatingIp) -> str:
    port = view.ports.get(floating.port_id)
    if port is None or not floating.router_id or port.owner is PortOwner.LOAD_BALANCER:
        return ""
    own = [some.address for some in port.addresses if version_of(some.address) == 4]
    return floating.fixed_address or next(iter(own), "")
