"""Interfaces of instances: what is asked for and what is shown."""

from __future__ import annotations

from dataclasses import replace

from tests.support.builders import an_id
from tests.support.networks import a_network, a_port
from unkai.compute.v1 import instance_pb2
from unkai_scheduler.api.interfaces import interface_drafts, interface_messages
from unkai_scheduler.domain.ports import FixedAddress
from unkai_scheduler.services.launch_ports import InterfaceDraft


def test_what_is_asked_for_is_read_whole() -> None:
    message = instance_pb2.Instance()
    message.interfaces.add(port_id="p")
    asked = message.interfaces.add(network_id="n", security_group_ids=["g"])
    asked.fixed_addresses.add(subnet_id="s", address="10.0.0.9")
    assert interface_drafts(message) == (
        InterfaceDraft(port_id="p"),
        InterfaceDraft("", "n", (FixedAddress("s", "10.0.0.9"),), ("g",)),
    )


def test_what_is_shown_is_the_port() -> None:
    addresses = (FixedAddress(an_id("subnet"), "10.0.0.9"),)
    bare = a_port(a_network(), security_group_ids=(an_id("security_group"),))
    (shown,) = interface_messages([replace(bare, addresses=addresses)])
    assert (shown.port_id, shown.network_id) == (bare.id, bare.network_id)
    assert [(one.subnet_id, one.address) for one in shown.fixed_addresses] == [
        (addresses[0].subnet_id, "10.0.0.9")
    ]
    assert tuple(shown.security_group_ids) == bare.security_group_ids
    assert shown.mac_address == bare.mac_address
