"""What a host serves, from its machines' ports; its counters; what its kernel can do."""

from __future__ import annotations

from tests.support.ports import a_network_id, a_port, an_ipv4, an_ipv6
from unkai_agent.domain.ports import MetadataPort
from unkai_agent.network.datapath import datapath_here, has_family
from unkai_agent.network.device_counters import counters
from unkai_agent.network.driver import Datapath, NetworkSite, PortCounters, sites_of

# As Linux 6.1 writes it.
_DEVICES = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo: 100 2 0 0 0 0 0 0 100 2 0 0 0 0 0 0
tapvsknk084sn02q: 5000 50 0 5 0 0 0 0 700000 700 0 7 0 0 0 0
tapx:1 2 3 4 0 0 0 0 9 10 11 12 0 0 0 0
"""


def test_a_network_is_served_once_with_all_subnets_of_machines_here() -> None:
    ports = (
        a_port(1, addresses=(an_ipv4("10.0.0.5"), an_ipv6("fd00::5"))),
        a_port(2, addresses=(an_ipv4("10.1.0.5"),)),
        a_port(3, network_id=a_network_id(2)),
    )
    first, second = sites_of(ports)
    assert first == NetworkSite(
        network_id=a_network_id(1),
        interface_id=ports[0].metadata.interface_id if ports[0].metadata else "",
        mac_address="02:00:00:00:fe:01",
        mtu=1442,
        addresses=("10.0.0.2/24",),
        subnets=("10.1.0.0/24", "fd00::/64"),
    )
    assert second.network_id == a_network_id(2)


def test_a_network_without_a_metadata_port_is_not_served() -> None:
    assert sites_of((a_port(metadata=None),)) == ()


def test_of_orders_of_different_ages_the_port_made_last_is_believed() -> None:
    moved = MetadataPort("meta-1", "02:00:00:00:fe:01", ("10.0.0.9/24",))
    [site] = sites_of((a_port(2, metadata=moved, mtu=9000), a_port(1)))
    assert (site.addresses, site.mtu) == (("10.0.0.9/24",), 9000)


def test_counters_are_the_guests_view() -> None:
    assert counters(_DEVICES) == {
        "tapvsknk084sn02q": PortCounters(700000, 700, 7, 5000, 50, 5),
        "tapx": PortCounters(9, 10, 12, 1, 2, 4),
    }


def test_the_kernel_is_asked_for_a_family_by_name() -> None:
    assert has_family("nlctrl")
    assert not has_family("no_such_family")
    assert datapath_here() in set(Datapath)
