"""Story: somebody damages OVN's northbound database by hand; the cloud puts it right, and says so.

Rows are deleted and altered behind the cloud's back. Within 30 s all is as the store says, an event
names each unit that was mended, what is not the cloud's is as it was; and whoever no longer leads
cannot write.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.acceptance import Shows, count, seeded
from tests.support.checker import uuid_of
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique
from tests.support.network_checker import check
from tests.support.network_evidence import lines, look, wait_agreed
from tests.support.ovsdb_look import Row
from tests.support.user import User
from unkai.network.v1 import network_pb2, port_pb2, router_pb2, security_group_pb2, subnet_pb2
from unkai_lab.lab import Lab
from unkai_lab.ovn import NORTHBOUND
from unkai_lab.spec import LabSpec

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
WHOLE_S = 30.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="damage", hosts=1, networks=True))) as made:
        yield made


def _fill(user: User) -> None:
    """Make networks, ports with rules, and a router between them."""
    call = user.client.call
    router = call("RouterService", "CreateRouter", router=router_pb2.Router(name="edge")).router
    group = call(
        "SecurityGroupService",
        "CreateSecurityGroup",
        security_group=security_group_pb2.SecurityGroup(name="web"),
    ).security_group
    for number in range(3):
        wanted = network_pb2.Network(name=f"n{number}")
        network = call("NetworkService", "CreateNetwork", network=wanted).network
        draft = subnet_pb2.Subnet(
            name=f"s{number}", network_id=network.id, cidr=f"10.{number}.0.0/24"
        )
        subnet = call("SubnetService", "CreateSubnet", subnet=draft).subnet
        place = router_pb2.Router.Interface(subnet_id=subnet.id)
        call("RouterService", "AddRouterInterface", router_id=router.id, interface=place)
        for _ in range(4):
            port = port_pb2.Port(network_id=network.id, security_group_ids=[group.id])
            call("PortService", "CreatePort", port=port)


def _foreign(lab: Lab) -> list[Row]:
    """Return all rows that are not the cloud's, but for the one that has its term."""
    return [
        row
        for table, some in look(lab).northbound.items()
        for row in some
        if table != "NB_Global" and "unkai_unit" not in row.get("external_ids", {})
    ]


def _damages(lab: Lab) -> list[list[str]]:
    """Return commands that each spoil something."""
    tables = look(lab).tables
    ports = [uuid_of(row["id"]) for row in tables["ports"] if row["owner_kind"] is None]
    network, router = tables["networks"][0]["id"], tables["routers"][0]["id"]
    name = uuid_of(network)
    return [
        ["lsp-del", ports[0]],
        ["lsp-set-addresses", ports[1], "02:00:00:00:00:0a 10.9.9.9"],
        ["lsp-set-port-security", ports[2]],
        ["clear", "Logical_Switch_Port", ports[3], "dhcpv4_options"],
        ["ls-del", name],
        ["set", "Logical_Switch", uuid_of(tables["networks"][1]["id"]), "name=else"],
        ["lr-del", uuid_of(router)],
        ["acl-del", "unkai_drop"],
        ["clear", "Port_Group", "unkai_drop", "ports"],
        ["--all", "destroy", "DHCP_Options"],
        ["--all", "destroy", "Port_Group"],
        ["--all", "destroy", "Logical_Switch"],
    ]


def test_damage_by_hand_is_mended_told_and_touches_nothing_foreign(lab: Lab, shows: Shows) -> None:
    user = User(lab.socket())
    ovn = lab.control.ovn
    _fill(user)
    ovn.ctl(NORTHBOUND, "ls-add", "foreign", "--", "lsp-add", "foreign", "f1")
    ovn.ctl(NORTHBOUND, "lr-add", "foreign-router")
    wait_agreed(lab)
    damages = _damages(lab)[:-1]  # the last would take what is foreign, too
    seeded("damage").shuffle(damages)
    before, worst_s = _foreign(lab), 0.0
    for damage in damages[: max(4, count(len(damages)))]:
        begun_s = time.monotonic()
        ovn.ctl(NORTHBOUND, *damage)
        while found := check(look(lab)):
            assert time.monotonic() < begun_s + WHOLE_S, f"{damage}:\n{lines(found)}"
        worst_s = max(worst_s, time.monotonic() - begun_s)
    assert _foreign(lab) == before
    told = [row for row in look(lab).tables["events"] if row["reason"] == "OVN_REPAIRED"]
    assert told
    user.close()
    shows(
        "networks 6 damage",
        f"whole again after {worst_s:.1f} s at worst; {len(told)} events say what was mended;"
        " foreign rows as they were",
    )


def test_whoever_no_longer_leads_cannot_write(lab: Lab, shows: Shows) -> None:
    """The database itself knows the term: raised by another, it is no more this scheduler's."""
    user = User(lab.socket())
    wait_agreed(lab)
    (row,) = look(lab).northbound["NB_Global"]
    term = int(row["external_ids"]["unkai_term"])
    lab.control.ovn.ctl(
        NORTHBOUND, "set", "NB_Global", ".", f"external_ids:unkai_term={term + 1000}"
    )
    made = user.client.call(
        "NetworkService", "CreateNetwork", network=network_pb2.Network(name="late")
    ).network
    time.sleep(3.0)
    names = {one["name"] for one in look(lab).northbound["Logical_Switch"]}
    (after,) = look(lab).northbound["NB_Global"]
    refused = uuid_of(made.id) not in names
    new_term = int(after["external_ids"]["unkai_term"])
    assert refused or new_term > term + 1000, "an old term has written"
    lab.control.ovn.ctl(NORTHBOUND, "set", "NB_Global", ".", f"external_ids:unkai_term={term}")
    wait_agreed(lab)
    user.close()
    shows("networks 6 deposed", f"term {term} wrote nothing once the database knew {term + 1000}")
