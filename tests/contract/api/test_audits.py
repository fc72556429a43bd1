"""The audit and adoption over gRPC: at the leader, and through any other scheduler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.api.test_peers_and_hosts import two_schedulers
from tests.support.api import Api, an_api, refused
from tests.support.builders import a_host, an_id, an_image, an_instance
from unkai.compute.v1 import instance_pb2, instance_service_pb2
from unkai.host.v1 import audit_pb2, audit_service_pb2
from unkai_scheduler.agents.fake import FakeAgents
from unkai_scheduler.agents.port import MACHINE_SPECS, MachineOrder
from unkai_scheduler.domain.findings import Finding, FindingKind, Remedy
from unkai_scheduler.domain.machines import Machine, MachineState
from unkai_scheduler.store import events, hosts, images
from unkai_wire.errors import InvalidArgument, Unavailable

pb = audit_service_pb2
MIB = 1 << 20


def a_finding(kind: FindingKind = FindingKind.ORPHAN, **changes: object) -> Finding:
    base = Finding(
        kind,
        an_id("host"),
        "h1",
        "a machine that the database does not know",
        Remedy.OPERATOR,
        "adopt it",
        instance_id=an_id("instance"),
        name="web",
        generation=3,
        machine_state="RUNNING",
        vcpus=2,
        memory_bytes=MIB,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


async def test_every_kind_of_finding_has_its_word_in_the_contract(tmp_path: Path) -> None:
    async with an_api(tmp_path) as api:
        api.leading.findings = [a_finding(kind) for kind in FindingKind]
        found = (await api.audits.ListFindings(pb.ListFindingsRequest())).findings

    kinds = {audit_pb2.Finding.Kind.Name(f.kind).removeprefix("KIND_") for f in found}
    assert kinds == {kind.name for kind in FindingKind}
    assert len(kinds) == len(audit_pb2.Finding.Kind.keys()) - 1, "UNSPECIFIED is none"


async def test_findings_come_in_pages_of_kinds_and_hosts_asked_for(tmp_path: Path) -> None:
    async with an_api(tmp_path) as api:
        all_found = [a_finding() for _ in range(5)] + [a_finding(FindingKind.LOST)]
        api.leading.findings = all_found
        api.leading.unseen_hosts = [f"h{n}" for n in range(150)]
        request = pb.ListFindingsRequest(page_size=2, kinds=[audit_pb2.Finding.KIND_ORPHAN])
        seen = []
        while True:
            page = await api.audits.ListFindings(request)
            seen += [finding.instance_id for finding in page.findings]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        one = pb.ListFindingsRequest(host_id=all_found[-1].host_id)
        lost = await api.audits.ListFindings(one)
        wrong = await refused(api.audits.ListFindings(pb.ListFindingsRequest(kinds=[99])))

    assert seen == sorted(finding.instance_id for finding in all_found[:5])
    assert [finding.kind for finding in lost.findings] == [audit_pb2.Finding.KIND_LOST]
    assert (len(page.audit.unseen_hosts), page.audit.unseen_host_count) == (100, 150)
    assert isinstance(wrong, InvalidArgument)


async def test_a_replica_passes_both_on_to_the_leader(tmp_path: Path) -> None:
    async with two_schedulers(tmp_path) as (leader, replica, _):
        leader.leading.findings = [a_finding()]
        page = await replica.audits.ListFindings(pb.ListFindingsRequest())
        ident = await remember(leader)
        request = instance_service_pb2.AdoptInstanceRequest(instance_id=ident, request_id="r-1")
        adopted = await replica.instances.AdoptInstance(request)
        again = await leader.instances.AdoptInstance(request)

    assert [finding.instance_name for finding in page.findings] == ["web"]
    assert adopted == again
    assert adopted.instance.state == instance_pb2.Instance.STATE_RUNNING


async def test_nobody_answers_for_a_leader_that_is_not_there(tmp_path: Path) -> None:
    async with two_schedulers(tmp_path) as (_, replica, etcd):
        etcd.leader = None
        request = instance_service_pb2.AdoptInstanceRequest(instance_id=an_id("instance"))
        alone = await refused(replica.audits.ListFindings(pb.ListFindingsRequest()))
        nobody = await refused(replica.instances.AdoptInstance(request))

    assert {type(alone), type(nobody)} == {Unavailable}
    assert {alone.reason, nobody.reason} == {"NO_LEADER"}


async def remember(api: Api, name: str = "web") -> str:
    """Let a host hold a machine that the database does not know; return its id."""
    agents = FakeAgents()
    host, image = a_host(features=(MACHINE_SPECS,)), an_image()
    endpoint = agents.add_host(host.id, host.name)
    row = an_instance(name=name, image_id=image.id)
    machine = Machine(row.id, host.id, 3, 3, 1, MachineState.RUNNING, name=name)
    agents.plant_machine(host.id, machine, MachineOrder(row, image, 64 * MIB, must_exist=True))
    api.services.adoptions._agents = agents
    api.live.set_endpoint(endpoint)
    await api.lead(lambda conn: (hosts.insert(conn, host), images.insert(conn, image)))
    api.leading.machines.append(machine)
    return row.id


async def test_who_adopted_is_in_the_event(tmp_path: Path) -> None:
    async with an_api(tmp_path) as api:
        ident = await remember(api)
        await api.instances.AdoptInstance(
            instance_service_pb2.AdoptInstanceRequest(instance_id=ident)
        )
        await api.stamp()
        told = await api.uow.read(
            lambda conn: events.list_page(conn, resource_id=ident, after=None, limit=9)
        )

    (event,) = told
    assert (event.reason, event.actor) == ("ADOPTED", "local")
    assert event.attributes["generation"] == "3"


@pytest.mark.parametrize(
    "wrong",
    [
        {"instance_id": "x"},
        {"instance_id": ""},
        {"host_id": "x"},
        {"project_id": "x"},
        {"name": "No"},
        {"request_id": "a b"},
    ],
)
async def test_a_request_that_names_nothing_is_refused(
    tmp_path: Path, wrong: dict[str, str]
) -> None:
    async with an_api(tmp_path) as api:
        asked = {"instance_id": an_id("instance"), **wrong}
        request = instance_service_pb2.AdoptInstanceRequest(**asked)
        error = await refused(api.instances.AdoptInstance(request))

    assert isinstance(error, InvalidArgument)
