"""What a guest reads of itself, against golden files, and as cloud-init walks it.

Renew them with `UNKAI_RENEW_GOLDEN=1 pytest tests/unit/agent/network/metadata/test_documents.py`,
then read the difference before committing it.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.agent import a_spec
from tests.support.ports import a_full_port, a_network_id, a_port, an_ipv4, an_ipv6
from unkai_agent.domain.machines import MachineSpec, SeedSpec
from unkai_agent.domain.ports import Ipv6Mode
from unkai_agent.network.guests import Guest, Guests, link_local_of
from unkai_agent.network.metadata.documents import (
    EC2_VERSIONS,
    OPENSTACK_VERSIONS,
    Tree,
    listing,
    look_up,
    tree_of,
)
from unkai_wire.ids import uuid_of

_GOLDEN = Path(__file__).parents[4] / "golden" / "metadata"
_SEED = SeedSpec("web-1", ("ssh-ed25519 AAAA ada", "ssh-rsa BBBB bob"), b"#!/bin/sh\n")


def a_guest(**changes: object) -> Guest:
    ports = (
        a_full_port(),
        a_port(2, addresses=(an_ipv6("fd02::9", Ipv6Mode.DHCPV6_STATELESS),)),
    )
    spec = a_spec(seed=_SEED, ports=ports)
    spec = replace(spec, **changes)  # type: ignore[arg-type]
    return Guest(spec, spec.ports[0])


def files_of(tree: Tree, path: str = "") -> dict[str, str]:
    found = {}
    for name, each in tree.items():
        if isinstance(each, bytes):
            found[f"{path}/{name}"] = each.decode()
        else:
            found |= files_of(each, f"{path}/{name}")
    return found


_CASES = {
    "everything": a_guest(),
    "little": a_guest(seed=SeedSpec("web"), ports=(a_port(dns_domain="", addresses=()),)),
}


@pytest.mark.parametrize("case", sorted(_CASES))
def test_the_tree_is_that_of_the_golden_file(case: str) -> None:
    tree = tree_of(_CASES[case])
    latest = {name: tree[name] for name in ("latest",)} | {
        "openstack": {"latest": look_up(tree, ("openstack", "latest"))}
    }
    rendered = json.dumps(files_of(latest), indent=1) + "\n"  # type: ignore[arg-type]
    path = _GOLDEN / f"{case}.json"
    if os.environ.get("UNKAI_RENEW_GOLDEN") == "1":
        path.write_text(rendered)
    assert rendered == path.read_text()


def test_every_version_says_the_same() -> None:
    tree = tree_of(a_guest())
    assert all(tree[version] == tree["latest"] for version in EC2_VERSIONS)
    openstack = look_up(tree, ("openstack",))
    assert isinstance(openstack, dict)
    assert tuple(openstack) == OPENSTACK_VERSIONS
    assert all(each == openstack["latest"] for each in openstack.values())


def test_a_walk_as_cloud_init_does_it_finds_every_file() -> None:
    """A line that ends in `/` is a folder; `0=name` is a key (cloudinit/sources/helpers/ec2.py)."""
    tree = tree_of(a_guest())

    def walk(path: tuple[str, ...]) -> set[str]:
        found = look_up(tree, path)
        assert found is not None, path
        if isinstance(found, bytes):
            return {"/".join(path)}
        reached: set[str] = set()
        for line in listing(found, path).decode().split("\n"):
            if "=" in line:
                reached |= walk((*path, line.partition("=")[0], "openssh-key"))
            else:
                reached |= walk((*path, line.rstrip("/")))
                assert isinstance(look_up(tree, (*path, line.rstrip("/"))), bytes) is (
                    not line.endswith("/")
                )
        return reached

    meta = look_up(tree, ("latest", "meta-data"))
    assert isinstance(meta, dict)
    assert walk(("latest", "meta-data")) == {f"latest/meta-data{path}" for path in files_of(meta)}


def test_openstacks_uuid_is_the_instances() -> None:
    guest = a_guest()
    found = look_up(tree_of(guest), ("openstack", "latest", "meta_data.json"))
    assert isinstance(found, bytes)
    told = json.loads(found)
    assert told["uuid"] == str(uuid_of(guest.spec.instance_id))
    assert told["public_keys"] == {"key-0": "ssh-ed25519 AAAA ada", "key-1": "ssh-rsa BBBB bob"}


def test_every_card_that_openstack_tells_of_is_one_of_the_machines() -> None:
    guest = a_guest()
    found = look_up(tree_of(guest), ("openstack", "latest", "network_data.json"))
    assert isinstance(found, bytes)
    told = json.loads(found)
    assert {link["ethernet_mac_address"] for link in told["links"]} == {
        port.mac_address for port in guest.spec.ports
    }
    assert {network["link"] for network in told["networks"]} <= {
        link["id"] for link in told["links"]
    }


@pytest.mark.parametrize("path", [("x",), ("latest", "meta-data", "mac", "x"), ("latest", "..")])
def test_what_is_not_there_is_nothing(path: tuple[str, ...]) -> None:
    assert look_up(tree_of(a_guest()), path) is None


def machines() -> list[MachineSpec]:
    """Two machines with one address, each on a network of its own; a third with two ports."""
    other = a_network_id(2)
    return [
        a_spec(1, ports=(a_port(1, addresses=(an_ipv4("10.0.0.5"), an_ipv6("fd00::5"))),)),
        a_spec(2, ports=(a_port(2, network_id=other, addresses=(an_ipv4("10.0.0.5"),)),)),
        a_spec(3, ports=(a_port(3), a_port(4, network_id=other))),
    ]


def test_equal_addresses_on_two_networks_are_two_guests() -> None:
    specs = machines()
    guests = Guests(specs)
    for number, network in ((0, a_network_id(1)), (1, a_network_id(2))):
        guest = guests.asking(network, "10.0.0.5")
        assert guest is not None
        assert guest.spec == specs[number]
    assert guests.asking(a_network_id(3), "10.0.0.5") is None


@pytest.mark.parametrize(
    "address", ["fd00::5", "FD00:0::5", link_local_of("02:00:00:00:00:01"), "fe80::ff:fe00:1%um0"]
)
def test_a_guest_is_known_by_each_of_its_addresses(address: str) -> None:
    specs = machines()
    guest = Guests(specs).asking(a_network_id(1), address)
    assert guest is not None
    assert guest.spec == specs[0]


@pytest.mark.parametrize("address", ["10.0.0.99", "", "x", "fe80::1", "10.0.0.5 "])
def test_an_address_of_nobody_is_nobody(address: str) -> None:
    assert Guests(machines()).asking(a_network_id(1), address) is None


def test_an_address_that_two_have_is_nobodys() -> None:
    port = a_port(1)
    both = [a_spec(1, ports=(port,)), a_spec(2, ports=(replace(port, port_id=a_port(2).port_id),))]
    assert Guests(both).asking(a_network_id(1), "10.0.0.5") is None
