"""What a host with networks is made of, from its settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unkai_agent.domain.hosts import HostIdentity
from unkai_agent.host_networks import join_settings, make_network_parts
from unkai_agent.network.driver import Datapath, SwitchTls
from unkai_agent.settings import NetworkSettings, NetworkTlsSettings, Settings, TlsSettings

IDENTITY = HostIdentity("hst-1", "h1")
OWN = TlsSettings(ca=Path("/p/ca"), certificate=Path("/p/crt"), key=Path("/p/key"))


def settings(**network: object) -> Settings:
    given = {"southbound": ("ssl:10.0.0.1:6642",)} | network
    return Settings(advertise="10.0.0.3:7444", tls=OWN, network=NetworkSettings(**given))  # type: ignore[arg-type]


def test_a_host_joins_as_its_certificate_names_it_at_the_address_it_is_reached_at() -> None:
    joined = join_settings(settings(), IDENTITY, Datapath.NETDEV)
    assert (joined.host_id, joined.host_name) == ("hst-1", "h1")
    assert (joined.encap_address, joined.remotes) == ("10.0.0.3", ("ssl:10.0.0.1:6642",))
    assert joined.tls == SwitchTls(key=OWN.key, certificate=OWN.certificate, ca=OWN.ca)


def test_the_switch_may_have_an_address_and_a_certificate_of_its_own() -> None:
    tls = NetworkTlsSettings(certificate=Path("/o/crt"), key=Path("/o/key"))
    joined = join_settings(
        settings(encap_address="192.168.0.3", tls=tls), IDENTITY, Datapath.SYSTEM
    )
    assert joined.encap_address == "192.168.0.3"
    assert joined.tls == SwitchTls(key=Path("/o/key"), certificate=Path("/o/crt"), ca=OWN.ca)


def test_without_tls_the_switch_is_given_no_certificate() -> None:
    joined = join_settings(settings(southbound=("unix:/sb",)), IDENTITY, Datapath.SYSTEM)
    assert joined.tls is None


async def test_making_them_asks_nothing_of_a_switch_that_may_be_down(tmp_path: Path) -> None:
    made = await make_network_parts(
        replace(
            settings(switch=f"unix:{tmp_path}/none", datapath="netdev", bridge_mappings={"x": "b"}),
            state_dir=tmp_path,
        ),
        IDENTITY,
    )
    assert made.membership.datapath is Datapath.NETDEV
    assert made.membership.bridge_mappings == {"x": "b"}
