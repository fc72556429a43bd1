"""What machines use, from libvirt's bulk statistics; below `LibvirtDriver.usage`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unkai_agent.compute.driver import DomainUsage
from unkai_agent.compute.libvirt_session import instance_id_of


def usage_of_all(libvirt: Any, connection: Any) -> list[DomainUsage]:
    """Ask for all running domains in one call; one that is busy is not waited for."""
    groups = (
        libvirt.VIR_DOMAIN_STATS_STATE
        | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
        | libvirt.VIR_DOMAIN_STATS_BALLOON
        | libvirt.VIR_DOMAIN_STATS_VCPU
        | libvirt.VIR_DOMAIN_STATS_BLOCK
    )
    flags = (
        libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
        | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    )
    return [
        usage_of(instance_id, stats)
        for domain, stats in connection.getAllDomainStats(groups, flags)
        if (instance_id := instance_id_of(domain.UUIDString())) is not None
    ]


def usage_of(instance_id: str, stats: Mapping[str, Any]) -> DomainUsage:
    """Sum what libvirt's bulk statistics say of one domain; what is missing counts as 0.

    Names after virConnectGetAllDomainStats. `vcpu.N.delay` needs a kernel with schedstat.
    """
    vcpus = range(int(stats.get("vcpu.maximum", 0)))
    disks = range(int(stats.get("block.count", 0)))

    def blocks(name: str) -> int:
        return sum(int(stats.get(f"block.{i}.{name}", 0)) for i in disks)

    return DomainUsage(
        instance_id=instance_id,
        cpu_time_ns=int(stats.get("cpu.time", 0)),
        cpu_wait_ns=sum(int(stats.get(f"vcpu.{i}.delay", 0)) for i in vcpus),
        memory_resident_bytes=int(stats.get("balloon.rss", 0)) * 1024,
        disk_read_bytes=blocks("rd.bytes"),
        disk_write_bytes=blocks("wr.bytes"),
        disk_reads=blocks("rd.reqs"),
        disk_writes=blocks("wr.reqs"),
    )
