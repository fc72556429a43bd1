"""The fake hypervisor's menu of faults, and what befalls its machines by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.compute import GIB, a_domain_spec
from unkai_agent.compute.driver import Domain, DomainSpec, DomainState, OffReason
from unkai_agent.compute.fake import FakeCompute
from unkai_agent.compute.fake_domain import MachineLoad
from unkai_agent.domain.hosts import Accelerator
from unkai_wire.errors import FailedPrecondition, Unavailable


class StoppedTime:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def time() -> StoppedTime:
    return StoppedTime()


@pytest.fixture
def compute(time: StoppedTime) -> FakeCompute:
    return FakeCompute(monotonic=time.monotonic, sleep=time.sleep, call_deadline_s=10)


async def a_running_machine(compute: FakeCompute) -> DomainSpec:
    spec = a_domain_spec(Path("/nowhere"))
    await compute.define(spec)
    await compute.start(spec.instance_id)
    return spec


async def seen(compute: FakeCompute, spec: DomainSpec) -> Domain:
    domain = await compute.get_domain(spec.instance_id)
    assert domain is not None
    return domain


async def test_a_hang_costs_the_deadline_and_then_the_hypervisor_is_unavailable(
    compute: FakeCompute, time: StoppedTime
) -> None:
    compute.faults.hang = True
    with pytest.raises(Unavailable) as refused:
        await compute.list_domains()
    assert refused.value.reason == "HYPERVISOR_UNAVAILABLE"
    assert time.now_s == 10


async def test_an_error_of_the_next_start_is_raised_once(compute: FakeCompute) -> None:
    compute.faults.start_errors = [FailedPrecondition("full", reason="DISK_FULL")]
    spec = a_domain_spec(Path("/nowhere"))
    await compute.define(spec)
    with pytest.raises(FailedPrecondition):
        await compute.start(spec.instance_id)
    assert (await seen(compute, spec)).state is DomainState.OFF
    await compute.start(spec.instance_id)
    assert (await seen(compute, spec)).state is DomainState.RUNNING


async def test_an_error_of_the_next_define_leaves_nothing(compute: FakeCompute) -> None:
    compute.faults.define_errors = [FailedPrecondition("no", reason="HYPERVISOR_REFUSED")]
    with pytest.raises(FailedPrecondition):
        await compute.define(a_domain_spec(Path("/nowhere")))
    assert await compute.list_domains() == []


async def test_a_lost_answer_is_of_a_call_that_acted(compute: FakeCompute) -> None:
    compute.faults.lose_answers = 1
    spec = a_domain_spec(Path("/nowhere"))
    with pytest.raises(Unavailable):
        await compute.define(spec)
    assert (await seen(compute, spec)).name == spec.name


async def test_a_machine_may_die_at_its_start(compute: FakeCompute) -> None:
    compute.faults.crash_on_start = 1
    spec = await a_running_machine(compute)
    assert (await seen(compute, spec)).off_reason is OffReason.CRASHED


async def test_a_guest_may_ignore_the_power_button(compute: FakeCompute) -> None:
    spec = await a_running_machine(compute)
    compute.faults.ignore_shutdown = True
    await compute.shutdown(spec.instance_id)
    assert (await seen(compute, spec)).state is DomainState.RUNNING


async def test_after_a_reboot_of_the_host_nobody_knows_why_machines_are_off(
    compute: FakeCompute,
) -> None:
    spec = await a_running_machine(compute)
    compute.reboot_host()
    domain = await seen(compute, spec)
    assert (domain.state, domain.off_reason) == (DomainState.OFF, OffReason.UNKNOWN)


async def test_a_machine_paused_by_an_error_says_so_until_it_is_resumed(
    compute: FakeCompute,
) -> None:
    spec = await a_running_machine(compute)
    compute.pause_by_error(spec.instance_id)
    paused = await seen(compute, spec)
    assert (paused.state, paused.paused_by_error) == (DomainState.PAUSED, True)
    await compute.start(spec.instance_id)
    resumed = await seen(compute, spec)
    assert (resumed.state, resumed.paused_by_error) == (DomainState.RUNNING, False)


async def test_latency_is_the_time_of_each_call(time: StoppedTime) -> None:
    compute = FakeCompute(latency_s=0.25, monotonic=time.monotonic, sleep=time.sleep)
    await compute.list_domains()
    await compute.usage()
    assert time.now_s == 0.5


async def test_the_accelerator_is_the_one_given() -> None:
    compute = FakeCompute(accelerator=Accelerator("kvm"))
    assert (await compute.prove_accelerator()).name == "kvm"


async def test_counters_follow_the_load_over_time(compute: FakeCompute, time: StoppedTime) -> None:
    spec = await a_running_machine(compute)
    compute.set_load(
        spec.instance_id, MachineLoad(cpu_cores=0.5, cpu_wait_cores=0.1, memory_ratio=0.25)
    )
    await time.sleep(4)
    compute.set_load(spec.instance_id, MachineLoad(cpu_cores=0.0, memory_ratio=0.25))
    await time.sleep(4)
    (usage,) = await compute.usage()
    assert (usage.cpu_time_ns, usage.cpu_wait_ns) == (2_000_000_000, 400_000_000)
    assert usage.memory_resident_bytes == spec.memory_bytes // 4
    assert usage.memory_resident_bytes < GIB
    assert (usage.disk_write_bytes, usage.disk_writes) == (8 * 4096, 8)


async def test_the_console_log_is_written_where_wanted(tmp_path: Path) -> None:
    compute = FakeCompute(write_console_logs=True)
    spec = a_domain_spec(tmp_path)
    await compute.define(spec)
    await compute.start(spec.instance_id)
    compute.print_on_console(spec.instance_id, b"hello\r\n")
    assert spec.console_log.read_bytes() == compute.console_text(spec.instance_id)
    assert spec.console_log.read_bytes().endswith(b"hello\r\n")
