"""Interfaces of instances, as compute.v1 has them: ports of network.v1, seen from the instance."""

from __future__ import annotations

from collections.abc import Iterable

from unkai.compute.v1 import instance_pb2
from unkai.network.v1 import port_pb2
from unkai_scheduler.domain.ports import FixedAddress, Port
from unkai_scheduler.services.launch_ports import InterfaceDraft


def interface_drafts(message: instance_pb2.Instance) -> tuple[InterfaceDraft, ...]:
    """Read what a user says of a new instance's interfaces."""
    return tuple(
        InterfaceDraft(
            port_id=one.port_id,
            network_id=one.network_id,
            addresses=tuple(
                FixedAddress(wanted.subnet_id, wanted.address) for wanted in one.fixed_addresses
            ),
            security_group_ids=tuple(one.security_group_ids),
        )
        for one in message.interfaces
    )


def interface_messages(ports: Iterable[Port]) -> list[instance_pb2.Instance.Interface]:
    """Write an instance's ports, which are in its order."""
    return [
        instance_pb2.Instance.Interface(
            port_id=port.id,
            network_id=port.network_id,
            fixed_addresses=[
                port_pb2.FixedAddress(subnet_id=one.subnet_id, address=one.address)
                for one in port.addresses
            ],
            security_group_ids=port.security_group_ids,
            mac_address=port.mac_address,
        )
        for port in ports
    ]
