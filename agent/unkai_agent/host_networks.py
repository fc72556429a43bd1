"""The network parts of a real host, made from its settings. Used by `main` alone.

Imported only where the settings name OVN's southbound database: what it needs costs memory. Making
asks nothing of the switch, which may be down: joining it is `converge.switch`'s, again and again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from unkai_agent.domain.hosts import HostIdentity
from unkai_agent.host_facts import NETWORK_FEATURE, PORT_FEATURE, tunnel_address
from unkai_agent.network.datapath import datapath_here
from unkai_agent.network.driver import Datapath, JoinSettings, SwitchTls
from unkai_agent.network.flows import FlowCounters
from unkai_agent.network.metadata.tokens import Tokens
from unkai_agent.network.names.server import Resolvers
from unkai_agent.network.names.table import NameTables
from unkai_agent.network.ovs_database import OvsDatabase
from unkai_agent.network.ovs_driver import OvsNetwork
from unkai_agent.network.service import HostNetworks
from unkai_agent.network.switch_programs import programs_beside
from unkai_agent.settings import Settings

FEATURES = (PORT_FEATURE, NETWORK_FEATURE)


@dataclass(frozen=True, slots=True)
class NetworkParts:
    """What a host with networks has more than others."""

    driver: OvsNetwork
    networks: HostNetworks
    membership: JoinSettings
    flows: FlowCounters


async def make_network_parts(settings: Settings, identity: HostIdentity) -> NetworkParts:
    """Make them, finding out what the kernel forwards by where the settings leave it open."""
    kind = settings.network.datapath
    datapath = await asyncio.to_thread(datapath_here) if kind == "auto" else Datapath(kind)
    switch = settings.network.switch
    driver = OvsNetwork(
        OvsDatabase(("ovs-vsctl", f"--db={switch}")),
        programs=programs_beside(switch, settings.network.controller_dir),
    )
    names = NameTables(settings.state_dir / "names")
    return NetworkParts(
        driver=driver,
        networks=HostNetworks(driver, names, Resolvers().ask, Tokens()),
        membership=join_settings(settings, identity, datapath),
        flows=FlowCounters(switch),
    )


def join_settings(settings: Settings, identity: HostIdentity, datapath: Datapath) -> JoinSettings:
    """Return how the host's switch shall belong to OVN."""
    network, own = settings.network, settings.tls
    tls = None
    if any(remote.startswith("ssl:") for remote in network.southbound):
        tls = SwitchTls(
            key=network.tls.key or own.key,
            certificate=network.tls.certificate or own.certificate,
            ca=network.tls.ca or own.ca,
        )
    return JoinSettings(
        host_id=identity.host_id,
        host_name=identity.name,
        remotes=network.southbound,
        encap_address=tunnel_address(settings),
        datapath=datapath,
        bridge_mappings=network.bridge_mappings,
        tls=tls,
    )
