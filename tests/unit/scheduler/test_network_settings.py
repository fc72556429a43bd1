"""The settings of networks: what is read, what is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from unkai_scheduler.settings import InvalidSettings, NetworkSettings, load_settings

FINE = """
[network]
northbound = ["ssl:192.0.2.1:6641", "ssl:[2001:db8::1]:6641"]
underlay_mtu = 9000
underlay_ip_version = 6
dns_domain = "cloud.example"
dns_servers = ["2001:DB8::53"]
[network.physical_networks]
public = 1500
"""


def load(folder: Path, text: str) -> NetworkSettings:
    file = folder / "scheduler.toml"
    file.write_text(text)
    return load_settings(file).network


def test_without_an_ovn_there_are_no_networks(tmp_path: Path) -> None:
    network = load(tmp_path, "")
    assert (network.enabled, network.most_mtu(), network.dns_domain) == (False, 1442, "internal")


def test_tunnels_take_their_header_of_the_mtu_and_physical_networks_have_their_own(
    tmp_path: Path,
) -> None:
    network = load(tmp_path, FINE)
    assert network.enabled
    assert (network.most_mtu(), network.most_mtu("public")) == (9000 - 78, 1500)
    assert network.dns_servers == ("2001:db8::53",)


def test_physical_networks_are_read_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNKAI_SCHEDULER_NETWORK__PHYSICAL_NETWORKS", '{"lab": 9000}')
    monkeypatch.setenv("UNKAI_SCHEDULER_NETWORK__UNDERLAY_IP_VERSION", "6")
    network = load(tmp_path, "")
    assert (network.most_mtu("lab"), network.most_mtu()) == (9000, 1422)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('northbound = ["192.0.2.1:6641"]', "network.northbound.0: "),
        ('northbound = ["ssl:192.0.2.1"]', "network.northbound.0: "),
        ('northbound = ["unix:nb.sock"]', "network.northbound.0: "),
        ("underlay_mtu = 1357", "network.underlay_mtu: "),
        ("underlay_ip_version = 5", "network.underlay_ip_version: 5 is neither 4 nor 6"),
        ('dns_domain = "a b"', "network.dns_domain: 'a b' is not a domain"),
        ('dns_servers = ["x"]', "network.dns_servers.0: "),
        ("physical_networks = {Public = 1500}", "network.physical_networks.Public"),
        ("physical_networks = {public = 1}", "network.physical_networks.public: "),
        ("gateway = 1", "network.gateway: no such setting"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load(tmp_path, f"[network]\n{text}\n")
    assert f"scheduler.toml: {place}" in caught.value.problems[0]
