"""Networks behind a served API, and what a test asks of the store there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from tests.support.api import Api
from tests.support.builders import an_id
from tests.support.networks import a_network, a_subnet, add_port
from tests.support.store import noon
from unkai_scheduler.domain.networks import Network, NetworkType, Subnet
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.store import networks, ovn_work, ports, subnets
from unkai_scheduler.store.tables_networks import ovn_work as work_rows
from unkai_wire.tls import Principal, Role


@dataclass(frozen=True)
class Wired:
    """A network with one subnet."""

    network: Network
    subnet: Subnet


async def a_wired_network(api: Api, cidr: str = "10.0.0.0/24", **changes: Any) -> Wired:
    """Insert a network with a subnet."""
    subnet_changes = {k: changes.pop(k) for k in ("gateway_address", "ranges") if k in changes}
    network = a_network(**changes)
    subnet = a_subnet(network, cidr, project_id=network.project_id, **subnet_changes)

    def work(conn: Connection) -> None:
        networks.insert(conn, network)
        subnets.insert(conn, subnet)

    await api.uow.write(work)
    return Wired(network, subnet)


async def an_external_network(api: Api, cidr: str = "203.0.113.0/24", **changes: Any) -> Wired:
    """Insert an external network with a subnet."""
    base = {"external": True, "type": NetworkType.FLAT, "physical_network": f"outside-{cidr[:9]}"}
    return await a_wired_network(api, cidr, **{**base, **changes})


async def another_subnet(api: Api, network: Network, cidr: str, **changes: Any) -> Subnet:
    """Insert a further subnet of a network."""
    subnet = a_subnet(network, cidr, **changes)
    await api.uow.write(lambda conn: subnets.insert(conn, subnet))
    return subnet


async def a_plugged_port(api: Api, wired: Wired, **changes: Any) -> Port:
    """Insert a port with an address of the network's subnet."""
    made = await api.uow.write(
        lambda conn: add_port(conn, wired.network, wired.subnet.id, **changes)
    )
    return await read(api, lambda conn: ports.get(conn, made.id))


async def read(api: Api, look: Callable[[Connection], Any]) -> Any:
    """Look into the store."""
    return await api.uow.read(look)


async def settled(api: Api) -> None:
    """Let OVN have all that was changed until now."""

    def work(conn: Connection) -> None:
        conn.execute(work_rows.delete())

    await api.uow.write(work)


async def marked(api: Api) -> set[str]:
    """Return the keys of the units that OVN does not have yet."""

    def look(conn: Connection) -> set[str]:
        columns = (work_rows.c.kind, work_rows.c.id)
        return {f"{kind}:{ident}" for kind, ident in conn.execute(select(*columns))}

    return set(await api.uow.read(look))


async def entombed(api: Api, *keys: str) -> set[str]:
    """Return those of these keys that have a tombstone."""
    return set(await api.uow.read(lambda conn: ovn_work.tombs(conn, keys)))


def a_context(api: Api) -> ServiceContext:
    """Make the context of a service over the API's store."""
    return ServiceContext(api.uow, noon, an_id, lambda ids: None)


def a_call(method: str = "/unkai.compute.v1.InstanceService/CreateInstance") -> Call:
    """Make the call of somebody on this machine."""
    return Call(Principal(Role.LOCAL, "root"), method)
