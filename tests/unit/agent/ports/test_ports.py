"""A machine's ports: on the wire, in the ledger, and what is refused at the door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.agent import a_fence, a_spec
from tests.support.ports import a_full_port, a_port
from unkai.agent.v1.port_pb2 import PortSpec as Message
from unkai_agent.api.convert_ports import port_message, port_specs, port_status_message
from unkai_agent.domain import records
from unkai_agent.domain.machines import LedgerEntry
from unkai_agent.domain.ports import PortStatus
from unkai_agent.ledger import Ledger
from unkai_wire.errors import FailedPrecondition, InvalidArgument
from unkai_wire.ids import new_id, uuid_of


def test_a_port_comes_back_from_the_wire_as_it_was_sent() -> None:
    ports = (a_full_port(), a_port(2, metadata=None))
    assert port_specs([port_message(port) for port in ports], "ports") == ports


def test_a_port_comes_back_from_the_ledger_as_it_was_accepted(tmp_path: Path) -> None:
    spec = a_spec(ports=(a_full_port(), a_port(2)), metadata_seed=True)
    Ledger(tmp_path / "ledger").accept(a_fence(spec), spec)
    assert [entry.spec for entry in Ledger(tmp_path / "ledger").entries()] == [spec]


def test_that_ports_are_being_plugged_outlives_the_agent(tmp_path: Path) -> None:
    spec = a_spec(ports=(a_port(),))
    ledger = Ledger(tmp_path / "ledger")
    ledger.accept(a_fence(spec), spec)
    ledger.update(spec.instance_id, plugging=True)
    assert [entry.plugging for entry in Ledger(tmp_path / "ledger").entries()] == [True]


def test_an_entry_from_before_there_were_ports_has_none() -> None:
    record = records.entry_to_record(LedgerEntry(a_spec(), term=1))
    del record["plugging"], record["spec"]["ports"], record["spec"]["metadata_seed"]
    entry = records.entry_from_record(record)
    assert (entry.spec.ports, entry.spec.metadata_seed, entry.plugging) == ((), False, False)


def test_ports_are_held_by_their_positions() -> None:
    first, second = a_port(1), a_port(2)
    assert port_specs([port_message(second), port_message(first)], "ports") == (first, second)


def test_a_device_has_a_name_that_linux_takes_and_ports_made_together_do_not_share() -> None:
    ports = [a_port(port_id=new_id("port")) for _ in range(100)]
    devices = {port.device for port in ports}
    assert len(devices) == 100
    assert {len(device) for device in devices} == {15}
    assert ports[0].interface_id == str(uuid_of(ports[0].port_id))


def _with(**changes: object) -> Callable[[Message], None]:
    def change(message: Message) -> None:
        for field, value in changes.items():
            setattr(message, field, value)

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_with(port_id="prt-1"), "port_id"),
        (_with(network_id=""), "network_id"),
        (_with(mac_address="01:00:00:00:00:01"), "mac_address"),
        (_with(mac_address="fe:00:00:00:00:01"), "mac_address"),
        (_with(mac_address="02:00:00:00:00:0G"), "mac_address"),
        (_with(mac_address="02:00:00:00:00:01\n"), "mac_address"),
        (_with(mtu=575), "mtu"),
        (_with(position=16), "position"),
        (_with(position=-1), "position"),
        (_with(dns_domain="a..b"), "dns_domain"),
        (_with(dns_domain="a\n"), "dns_domain"),
        (_with(dns_domain="a" * 64), "dns_domain"),
        (lambda m: m.dns_servers.append("ns.example"), "dns_servers[1]"),
        (lambda m: m.dns_servers.append("fe80::1%eth0"), "dns_servers[1]"),
        (lambda m: m.dns_servers.extend(["10.0.0.1"] * 8), "dns_servers"),
        (lambda m: m.addresses.add(address="x"), "addresses[1].address"),
        (lambda m: m.addresses.add(address="10.0.0.1"), "addresses[1].prefix_length"),
        (
            lambda m: m.addresses.add(address="10.0.0.1", prefix_length=33),
            "addresses[1].prefix_length",
        ),
        (
            lambda m: m.addresses.add(
                address="10.0.0.1", prefix_length=24, gateway_address="fd00::1"
            ),
            "addresses[1].gateway_address",
        ),
        (
            lambda m: m.addresses.add(address="fd00::1", prefix_length=64),
            "addresses[1].ipv6_mode",
        ),
        (
            lambda m: m.host_routes.add(destination="10.0.0.1/24", next_hop="10.0.0.2"),
            "host_routes[0].destination",
        ),
        (
            lambda m: m.host_routes.add(destination="10.0.0.0/24", next_hop=""),
            "host_routes[0].next_hop",
        ),
        (lambda m: m.metadata.addresses.append("10.0.0.2/240"), "metadata.addresses[1]"),
        (lambda m: setattr(m.metadata, "interface_id", "a b"), "metadata.interface_id"),
        (lambda m: setattr(m.metadata, "mac_address", ""), "metadata.mac_address"),
    ],
)
def test_what_is_no_port_is_refused_by_its_field(
    change: Callable[[Message], None], field: str
) -> None:
    message = port_message(a_port())
    change(message)
    with pytest.raises(InvalidArgument) as caught:
        port_specs([message], "spec.ports")
    assert caught.value.metadata["field"] == f"spec.ports[0].{field}"


@pytest.mark.parametrize("change", [{"position": 0}, {"port_id": a_port().port_id}], ids=str)
def test_two_ports_share_neither_position_nor_id(change: dict[str, object]) -> None:
    messages = [port_message(a_port()), port_message(a_port(2, **change))]
    with pytest.raises(InvalidArgument):
        port_specs(messages, "spec.ports")


def test_why_a_port_is_not_installed_is_told() -> None:
    error = FailedPrecondition("no device", reason="PORT_NO_DEVICE")
    message = port_status_message(PortStatus("prt-1", installed=False, error=error.to_record()))
    assert not message.installed
    assert message.error.message == "no device"
