"""Ports as plain JSON values in the ledger, and back. Pure; see `records.py`."""

from __future__ import annotations

import dataclasses
from typing import Any

from unkai_agent.domain.ports import HostRoute, Ipv6Mode, MetadataPort, PortAddress, PortSpec

Record = dict[str, Any]


def port_to_record(port: PortSpec) -> Record:
    """Return a port as JSON values."""
    record = dataclasses.asdict(port)
    for address in record["addresses"]:
        mode = address["ipv6_mode"]
        address["ipv6_mode"] = mode.value if mode else None
    return record


def port_from_record(record: Record) -> PortSpec:
    """Read a port; raise ValueError, KeyError or TypeError when it is not one."""
    metadata = record.get("metadata")
    return PortSpec(
        port_id=str(record["port_id"]),
        network_id=str(record["network_id"]),
        mac_address=str(record["mac_address"]),
        mtu=int(record["mtu"]),
        position=int(record["position"]),
        addresses=tuple(_address_from_record(each) for each in record.get("addresses", ())),
        dns_servers=tuple(str(each) for each in record.get("dns_servers", ())),
        dns_domain=str(record.get("dns_domain", "")),
        host_routes=tuple(
            HostRoute(str(each["destination"]), str(each["next_hop"]))
            for each in record.get("host_routes", ())
        ),
        metadata=_metadata_from_record(metadata) if metadata else None,
    )


def _address_from_record(record: Record) -> PortAddress:
    mode = record.get("ipv6_mode")
    return PortAddress(
        address=str(record["address"]),
        prefix_length=int(record["prefix_length"]),
        gateway_address=str(record.get("gateway_address", "")),
        dhcp=bool(record.get("dhcp", True)),
        ipv6_mode=Ipv6Mode(mode) if mode else None,
    )


def _metadata_from_record(record: Record) -> MetadataPort:
    return MetadataPort(
        interface_id=str(record["interface_id"]),
        mac_address=str(record["mac_address"]),
        addresses=tuple(str(each) for each in record.get("addresses", ())),
    )
