"""`network why`: which ends it asks about, and what its verdict means to a script."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.command_line import unkai
from tests.support.fake_networks import FakeNetworks, blocked
from unkai.network.v1 import reachability_pb2, reachability_service_pb2
from unkai_cli.commands.reachability import Place, destination, ends
from unkai_wire.errors import FailedPrecondition


def answered(verdict: str) -> reachability_service_pb2.ExplainResponse:
    """Return an answer of a verdict alone."""
    found = reachability_pb2.Reachability(
        verdict=f"VERDICT_{verdict}",  # type: ignore[arg-type]
        summary="so it is",
    )
    return reachability_service_pb2.ExplainResponse(reachability=found)


@pytest.fixture
def cloud(networks: FakeNetworks) -> FakeNetworks:
    """Two networks; web is on both, db on the second, each with both kinds of addresses."""
    networks.add("network", name="one", id="net-00000000000000000000000001")
    networks.add("network", name="two", id="net-00000000000000000000000002")
    networks.machine("web", "net-00000000000000000000000001", "10.1.0.5", "fd01::5")
    web = networks.one("instance", "web")
    second = networks.add(
        "port", name="web-1", network_id="net-00000000000000000000000002", position=1
    )
    second.owner_id = web.id
    networks.machine("db", "net-00000000000000000000000002", "10.2.0.6", "fd02::6")
    networks.api.script("Explain", answered("REACHABLE"))
    return networks


def asked(cloud: FakeNetworks) -> Any:
    return cloud.api.asked["Explain"][-1]


@pytest.mark.parametrize(
    ("verdict", "code"), [("REACHABLE", 0), ("LEAVES_CLOUD", 0), ("UNREACHABLE", 1)]
)
def test_the_exit_code_is_the_verdict(verdict: str, code: int, cloud: FakeNetworks) -> None:
    cloud.api.script("Explain", answered(verdict))
    outcome = unkai("network", "why", "web", "db:443", "-o", "name")
    assert outcome.code == code
    assert outcome.out.strip() == verdict.lower().replace("_", " ")


def test_ends_on_one_network_are_asked_about_first(cloud: FakeNetworks) -> None:
    unkai("network", "why", "web", "db:5432")
    request = asked(cloud)
    assert request.source_port_id == cloud.one("port", "web-1").id
    assert (request.destination_address, request.port_number) == ("10.2.0.6", 5432)
    assert request.protocol == 1


@pytest.mark.parametrize(
    ("words", "address", "protocol", "number"),
    [
        (("db",), "10.2.0.6", 3, 0),
        (("db:53/udp",), "10.2.0.6", 2, 53),
        (("db:9/sctp", "-6"), "fd02::6", 4, 9),
        (("db:udp/53",), "10.2.0.6", 2, 53),
        (("db:icmp",), "10.2.0.6", 3, 0),
        (("[fd02::6]:icmp",), "fd02::6", 3, 0),
        (("instance/db:80",), "10.2.0.6", 1, 80),
        (("[fd02::6]:80",), "fd02::6", 1, 80),
        (("198.51.100.7:443",), "198.51.100.7", 1, 443),
        (("floating-ip/front:80",), "192.0.2.10", 1, 80),
        (("shop:80",), "10.0.0.100", 1, 80),
    ],
)
def test_each_way_to_name_the_far_end(
    words: tuple[str, ...], address: str, protocol: int, number: int, cloud: FakeNetworks
) -> None:
    cloud.add("floating_ip", name="front")
    cloud.add("load_balancer", name="shop")
    outcome = unkai("network", "why", "web", *words)
    assert outcome.code == 0, outcome.err
    request = asked(cloud)
    assert request.destination_address == address
    assert (request.protocol, request.port_number) == (protocol, number)


def test_an_address_of_the_source_chooses_its_port_and_the_kind(cloud: FakeNetworks) -> None:
    assert unkai("network", "why", "web", "db:80", "--from", "fd01::5").code == 0
    request = asked(cloud)
    assert request.source_port_id != cloud.one("port", "web-1").id
    assert (request.source_address, request.destination_address) == ("fd01::5", "fd02::6")


def test_the_port_on_the_subnet_of_an_address_is_asked_about(cloud: FakeNetworks) -> None:
    for network, cidr in (("one", "10.1.0.0/24"), ("two", "10.2.0.0/24")):
        cloud.add("subnet", name=network, network_id=cloud.one("network", network).id, cidr=cidr)
    own = [port for port in cloud.all("port") if port.owner_id == cloud.one("instance", "web").id]
    first, second = (port.id for port in sorted(own, key=lambda port: port.position))
    for words, port in (
        (("10.1.0.77:80",), first),
        (("10.2.0.77:80",), second),
        (("192.0.2.1:80",), first),
        (("10.1.0.77:80", "--from", "10.2.0.99"), second),
    ):
        assert unkai("network", "why", "web", *words).code == 0
        assert asked(cloud).source_port_id == port, words


def test_what_was_asked_is_in_the_answer_for_programs(cloud: FakeNetworks) -> None:
    outcome = unkai("network", "why", "web", "db:53/udp", "-o", "json")
    told = json.loads(outcome.out)["asked"]
    assert (told["source"], told["destination"]) == ("web", "db")
    assert (told["destination_address"], told["source_port_id"]) == (
        "10.2.0.6",
        cloud.one("port", "web-1").id,
    )
    assert (told["protocol"], told["port_number"]) == ("udp", 53)


def test_the_outside_is_an_end_too(cloud: FakeNetworks) -> None:
    assert unkai("network", "why", "web", "external:443").code == 0
    request = asked(cloud)
    assert (request.destination_address, request.port_number) == ("external", 443)
    assert request.source_port_id
    assert not request.source_network_id

    cloud.add("network", name="internet", id="net-00000000000000000000000009", external=True)
    outcome = unkai("network", "why", "external", "192.0.2.10:22", "--network", "internet")
    assert outcome.code == 0, outcome.err
    request = asked(cloud)
    assert request.source_network_id == "net-00000000000000000000000009"
    assert not request.source_port_id
    assert request.destination_address == "192.0.2.10"


def test_confirming_says_to_send_packets_and_shows_what_was_counted(cloud: FakeNetworks) -> None:
    answer = blocked()
    answer.reachability.hops[0].packet_count = 12
    cloud.api.script("Explain", answer)
    outcome = unkai("network", "why", "port/web-1", "db:5432", "--confirm")
    assert asked(cloud).confirm
    assert "looking for packets to 10.2.0.6" in outcome.err
    assert "PACKETS" in outcome.out
    assert "12" in outcome.out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("web", "db:0"), 2, "write 1 to 65535"),
        (("web", "db:65536"), 2, "write 1 to 65535"),
        (("web", "db:-1"), 2, "write 1 to 65535"),
        (("web", "db:https"), 2, "write 1 to 65535"),
        (("web", "db:"), 2, "NAME:443"),
        (("web", ":443"), 2, "NAME:PORT"),
        (("web", "db:443/gre"), 2, "NAME:53/udp"),
        (("web", "db:443/"), 2, "NAME:53/udp"),
        (("web", "db:443/icmp"), 2, "icmp has no port"),
        (("web", "db:tcp"), 2, "NAME:443"),
        (("web", "fd02::6:80:x"), 2, "[fd00::1]:443"),
        (("web", "[db]:443"), 2, "[fd00::1]:443"),
        (("web", "volume/db:80"), 2, "is of no kind"),
        (("web", "db:80", "--from", "10.0.0.300"), 2, "is not an address"),
        (("nothing", "db:80"), 3, "TARGET_NOT_FOUND"),
        (("web", "nothing:80"), 3, "TARGET_NOT_FOUND"),
        (("web", "load-balancer/db:80"), 3, "'unkai load-balancer list'"),
        (("bare", "db:80"), 4, "NO_PORT"),
        (("web", "10.0.0.5:80", "-6"), 4, "NO_ADDRESS"),
    ],
)
def test_what_cannot_be_asked_is_told_with_what_to_do(
    words: tuple[str, ...], code: int, told: str, cloud: FakeNetworks
) -> None:
    cloud.add("instance", name="bare")
    outcome = unkai("network", "why", *words)
    assert (outcome.code, told in outcome.err) == (code, True), outcome.err
    assert not cloud.api.asked["Explain"]


A, B = Place("n1", ["10.0.0.5"], "a"), Place("n2", ["fd00::5"], "b")


def test_the_first_of_each_stands_where_no_network_is_shared() -> None:
    assert ends([A, B], [Place("", ["192.0.2.1"])]) == (A, Place("", ["192.0.2.1"]))
    assert ends([A, B], [Place("n3", []), Place("n2", ["fd00::6"])])[0] == B


def test_the_far_address_is_of_a_kind_that_the_source_has() -> None:
    both = Place("n1", ["10.0.0.6", "fd00::6"])
    assert destination(A, both, "", 0) == "10.0.0.6"
    assert destination(B, both, "", 0) == "fd00::6"
    assert destination(A, both, "", 6) == "fd00::6"
    assert destination(A, Place("n1", ["fd00::6"]), "", 0) == "fd00::6"
    with pytest.raises(FailedPrecondition):
        destination(A, Place("n1", []), "", 0)
