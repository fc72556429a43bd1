"""The network-config of a seed, against golden files.

Renew them with `UNKAI_RENEW_GOLDEN=1 pytest tests/unit/agent/storage/test_network_config.py`, then
read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.support.ports import a_full_port, a_port, an_ipv4, an_ipv6
from unkai_agent.domain.ports import Ipv6Mode, MetadataPort, PortSpec
from unkai_agent.storage.network_config import network_config

_GOLDEN = Path(__file__).parents[3] / "golden" / "network_config"

_CASES: dict[str, tuple[PortSpec, ...]] = {
    "ipv4": (a_port(),),
    "ipv4_alone": (
        a_port(
            addresses=(an_ipv4(gateway_address="", dhcp=False),),
            dns_servers=(),
            dns_domain="",
            metadata=None,
        ),
    ),
    "slaac": (a_port(addresses=(an_ipv4(), an_ipv6("fd00::1234", Ipv6Mode.SLAAC))),),
    "stateless": (a_port(addresses=(an_ipv6("fd00::1234", Ipv6Mode.DHCPV6_STATELESS),)),),
    "stateful": (a_port(addresses=(an_ipv4(), an_ipv6())),),
    "unadvertised": (a_port(addresses=(an_ipv6("fd00::1234", Ipv6Mode.SLAAC, dhcp=False),)),),
    "everything": (a_full_port(),),
    "two": (a_port(2, addresses=(an_ipv4("10.1.0.9"), an_ipv6())), a_port()),
    "nothing": (a_port(addresses=(), dns_servers=()),),
}


@pytest.mark.parametrize("case", sorted(_CASES))
def test_the_text_is_that_of_the_golden_file(case: str) -> None:
    path = _GOLDEN / f"{case}.json"
    rendered = network_config(_CASES[case])
    if os.environ.get("UNKAI_RENEW_GOLDEN") == "1":
        path.write_text(rendered)
    assert rendered == path.read_text()


def test_golden_files_have_a_case_each() -> None:
    assert {path.stem for path in _GOLDEN.glob("*.json")} == set(_CASES)


@pytest.mark.parametrize("case", sorted(_CASES))
def test_it_is_yaml_and_every_route_has_a_next_hop(case: str) -> None:
    told = yaml.safe_load(network_config(_CASES[case]))
    assert told["version"] == 2
    routes = [route for card in told["ethernets"].values() for route in card.get("routes", [])]
    assert all(route["via"] for route in routes)


def test_one_port_alone_has_the_default_route_of_a_kind() -> None:
    cards = yaml.safe_load(network_config(_CASES["two"]))["ethernets"]
    assert "dhcp4-overrides" not in cards["port0"]
    assert cards["port1"]["dhcp4-overrides"]["route-metric"] == 400
    assert cards["port1"]["gateway6"] == "fd00::1"
    assert cards["port1"]["optional"]
    assert "optional" not in cards["port0"]


def test_what_a_lease_tells_is_not_set_besides() -> None:
    card = yaml.safe_load(network_config((a_port(),)))["ethernets"]["port0"]
    assert card["dhcp4"]
    assert not card.keys() & {"addresses", "gateway4", "routes"}


def test_a_guest_with_a_lease_is_told_the_domain_with_name_servers() -> None:
    port = a_port()
    card = yaml.safe_load(network_config((port,)))["ethernets"]["port0"]
    # cloud-init 22.4 drops `search` without `addresses`, and overrides of a lease for networkd.
    assert card["nameservers"] == {
        "addresses": list(port.dns_servers),
        "search": [port.dns_domain],
    }


def test_the_metadata_service_is_reached_by_its_address_on_the_guests_own_subnet() -> None:
    elsewhere = MetadataPort("meta-1", "02:00:00:00:fe:01", ("10.9.0.2/24",))
    both = MetadataPort("meta-1", "02:00:00:00:fe:01", ("10.9.0.2/24", "10.0.0.2/24"))
    cards = [
        yaml.safe_load(
            network_config((a_port(addresses=(an_ipv4(dhcp=False),), metadata=metadata),))
        )["ethernets"]["port0"]
        for metadata in (elsewhere, both)
    ]
    assert "routes" not in cards[0]
    assert cards[1]["routes"] == [{"to": "169.254.169.254/32", "via": "10.0.0.2"}]
