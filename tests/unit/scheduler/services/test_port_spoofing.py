"""As whom a port may send: never as the network itself, nor as another project's port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, an_api, refused
from tests.support.network_calls import a_network, a_port, a_subnet, change_port
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai.network.v1 import network_pb2, port_pb2
from unkai_scheduler.ovn.northbound.names import metadata_mac

PAIR = port_pb2.AddressPair(cidr="10.0.0.1/32")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with an_api(tmp_path / "a") as served:
        yield served


async def a_shared_network(api: Api) -> tuple[network_pb2.Network, str]:
    """Make a network that all projects may use, and another project."""
    network = await a_network(api, shared=True)
    await a_subnet(api, network.id)
    project = project_pb2.Project(name="guests")
    asked = project_service_pb2.CreateProjectRequest(project=project)
    return network, (await api.projects.CreateProject(asked)).project.id


async def test_no_port_has_the_mac_address_that_serves_metadata(api: Api) -> None:
    network = await a_network(api)
    serving = metadata_mac(network.id)
    port = await a_port(api, network.id)
    pair = port_pb2.AddressPair(cidr="10.0.0.1/32", mac_address=serving)

    as_its_own = await refused(a_port(api, network.id, mac_address=serving))
    as_a_pairs = await refused(change_port(api, port, allowed_address_pairs=[pair]))

    assert as_its_own.reason == as_a_pairs.reason == "MAC_ADDRESS_IN_USE"


@pytest.mark.parametrize("wish", [{"no_anti_spoofing": True}, {"allowed_address_pairs": [PAIR]}])
async def test_on_another_projects_network_a_port_sends_as_itself_alone(
    api: Api, wish: dict[str, Any]
) -> None:
    network, project_id = await a_shared_network(api)
    port = await a_port(api, network.id, project_id=project_id)

    made = await refused(a_port(api, network.id, project_id=project_id, **wish))
    changed = await refused(change_port(api, port, **wish))

    assert made.reason == changed.reason == "NETWORK_OF_ANOTHER_PROJECT"
    assert (await a_port(api, network.id, **wish)).id
