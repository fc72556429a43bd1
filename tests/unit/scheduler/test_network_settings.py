"""The settings of networks: what is read, what is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_scheduler.settings import InvalidSettings, load_settings

FINE = """
[network]
northbound = ["ssl:192.0.2.1:6641", "ssl:[2001:db8::1]:6641"]
southbound = ["unix:/run/ovn/ovnsb_db.sock"]
compare_s = 60
underlay_mtu = 9000
underlay_ip_version = 6
dns_domain = "cloud.example"
dns_servers = ["2001:DB8::53"]
[network.physical_networks]
public = 1500
[network.tls]
ca = "/pki/ovn-ca.crt"
certificate = "/pki/ovn.crt"
key = "/pki/ovn.key"
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


def test_the_way_to_each_database_has_its_remotes_and_what_we_show_it(tmp_path: Path) -> None:
    network = load(tmp_path, FINE)
    north = OvnSettings.of(network.northbound, network)
    assert north.remotes == ("ssl:192.0.2.1:6641", "ssl:[2001:db8::1]:6641")
    assert (north.authority, north.certificate, north.key) == (
        Path("/pki/ovn-ca.crt"),
        Path("/pki/ovn.crt"),
        Path("/pki/ovn.key"),
    )
    assert OvnSettings.of(network.southbound, network).certificate is None
    assert (network.uses_tls, network.compare_s) == (True, 60)


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
        ('northbound = ["ssl::6641"]', "network.northbound.0: "),
        ('northbound = ["ssl:ovn.example:6641"]', "network.northbound.0: 'ssl:ovn.example:6641'"),
        ('southbound = ["tls:192.0.2.1:6642"]', "network.southbound.0: "),
        ("southbound = 1", "network.southbound: must be a list"),
        ("compare_s = 1", "network.compare_s: must be 10.0 or more"),
        ('tls = {cert = "x"}', "network.tls.cert: no such setting"),
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
