"""What a host says it offers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unkai_agent import host_facts
from unkai_agent.metrics import GroupLimits
from unkai_agent.settings import CapacitySettings, EtcdSettings, Settings
from unkai_wire.errors import FailedPrecondition

_CPUS = len(os.sched_getaffinity(0))
_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
_WITHOUT_RESERVE = CapacitySettings(memory_reserve_bytes=0)


@pytest.mark.parametrize(
    ("limits", "cpus", "memory_bytes"),
    [
        (GroupLimits(), _CPUS, _MEMORY),
        (GroupLimits(cpu_cores=1.9, memory_bytes=1 << 20), 1, 1 << 20),
        (GroupLimits(cpu_cores=0.2), 1, _MEMORY),
        (GroupLimits(cpu_cores=1e6, memory_bytes=1 << 62), _CPUS, _MEMORY),
    ],
)
def test_what_is_found_out_is_no_more_than_the_groups_allow(
    tmp_path: Path, limits: GroupLimits, cpus: int, memory_bytes: int
) -> None:
    offered = host_facts.capacity(_WITHOUT_RESERVE, tmp_path, limits)
    assert (offered.cpus, offered.memory_bytes) == (cpus, memory_bytes)


def test_what_is_set_is_believed(tmp_path: Path) -> None:
    settings = CapacitySettings(cpus=7, memory_bytes=1 << 40)
    offered = host_facts.capacity(settings, tmp_path, GroupLimits(1.0, 1 << 20))
    assert (offered.cpus, offered.memory_bytes) == (7, 1 << 40)


def test_without_a_way_to_etcd_it_is_said_what_to_set() -> None:
    settings = Settings(etcd=EtcdSettings(endpoints=("no-such-name.invalid:2379",)))
    with pytest.raises(FailedPrecondition) as caught:
        host_facts.advertised_address(settings)
    assert caught.value.reason == "NO_ADDRESS"
    assert "advertise" in caught.value.fix
