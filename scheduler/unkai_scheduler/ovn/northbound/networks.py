"""A network's rows: its switch, the way to the operator's network, the port for metadata. Pure.

OVN's own address management stays off: no `other_config:subnet`, no `dynamic` addresses.
"""

from __future__ import annotations

from collections.abc import Iterator

from unkai_scheduler.domain.networks import Network, NetworkType
from unkai_scheduler.ovn.northbound.names import (
    metadata_mac,
    metadata_name,
    name_of,
    row_uuid,
    switch_uuid,
)
from unkai_scheduler.ovn.northbound.switch_ports import switch_port
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Row

METADATA_V4 = "169.254.169.254"
METADATA_V6 = "fe80::a9fe:a9fe"


def rows(view: View, ident: str) -> Iterator[Row]:
    """Yield a network's rows."""
    network = view.networks.get(ident)
    if network is None:
        return
    yield Row("Logical_Switch", switch_uuid(ident), {"name": name_of(ident)})
    if network.type is not NetworkType.OVERLAY:
        yield _way_out(network)
    yield switch_port(
        row_uuid(ident, "metadata"),
        ident,
        {
            "name": metadata_name(ident),
            "type": "localport",
            "addresses": frozenset([f"{metadata_mac(ident)} {METADATA_V4} {METADATA_V6}"]),
        },
    )


def _way_out(network: Network) -> Row:
    # ovn-northd copies a tag_request that is not 0 to tag, and never takes a tag away.
    tag = network.vlan_id if network.type is NetworkType.VLAN else ()
    return switch_port(
        row_uuid(network.id, "localnet"),
        network.id,
        {
            "name": f"phys-{name_of(network.id)}",
            "type": "localnet",
            "addresses": frozenset(["unknown"]),
            "options": {"network_name": network.physical_network},
            "tag_request": tag,
            "tag": tag,
        },
    )
