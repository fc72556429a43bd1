"""libvirt's bulk statistics as counters, and domains' UUIDs as ids."""

from __future__ import annotations

import uuid

from unkai_agent.compute.driver import DomainUsage
from unkai_agent.compute.libvirt_session import instance_id_of
from unkai_agent.compute.libvirt_usage import usage_of
from unkai_wire import ids


def test_vcpus_and_disks_are_summed() -> None:
    stats = {
        "cpu.time": 390,
        "vcpu.maximum": 2,
        "vcpu.0.delay": 7,
        "vcpu.1.delay": 5,
        "balloon.rss": 44724,
        "block.count": 2,
        "block.0.rd.bytes": 512,
        "block.0.rd.reqs": 1,
        "block.0.wr.bytes": 1024,
        "block.0.wr.reqs": 2,
        "block.1.rd.bytes": 2048,
        "block.1.rd.reqs": 4,
    }
    assert usage_of("ins-1", stats) == DomainUsage(
        instance_id="ins-1",
        cpu_time_ns=390,
        cpu_wait_ns=12,
        memory_resident_bytes=44724 * 1024,
        disk_read_bytes=2560,
        disk_write_bytes=1024,
        disk_reads=5,
        disk_writes=2,
    )


def test_what_is_missing_counts_as_zero() -> None:
    assert usage_of("ins-1", {}) == DomainUsage("ins-1", 0, 0, 0, 0, 0, 0, 0)


def test_a_domain_of_ours_is_known_by_its_uuid() -> None:
    instance_id = ids.new_id("instance")
    assert instance_id_of(str(ids.uuid_of(instance_id))) == instance_id
    assert instance_id_of(str(uuid.uuid4())) is None
