"""As whom a port may send: as itself, and as more only where all others are of its own project."""

from __future__ import annotations

from unkai_scheduler.domain.networks import Network
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.ovn.northbound.names import metadata_mac
from unkai_scheduler.store.ports import mac_address_in_use
from unkai_wire.errors import FailedPrecondition


def check_identity(network: Network, port: Port) -> None:
    """Raise when a port could be taken for the network itself, or for another project's.

    Each host answers metadata and names by one MAC address, which is no row's of the store. On a
    network that another project shares, ports beside it are others': there nobody lifts what keeps
    a port from sending as one of them.
    """
    serving = metadata_mac(network.id)
    if serving in {port.mac_address, *(pair.mac_address for pair in port.pairs)}:
        raise mac_address_in_use(network.id, serving)
    if network.project_id != port.project_id and (port.pairs or not port.anti_spoofing):
        raise FailedPrecondition(
            f"network {network.name} is another project's: a port there sends as itself alone",
            reason="NETWORK_OF_ANOTHER_PROJECT",
            fix="leave allowed_address_pairs empty and no_anti_spoofing false, or use a network of "
            "the project",
            metadata={"network_id": network.id, "project_id": network.project_id},
        )
