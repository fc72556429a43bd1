"""What libvirt alone can show of the compute port: hangs, restarts, who QEMU runs as, embedding."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.boot_sector import GREETING
from tests.support.compute import LibvirtHarness, until, until_state
from tests.support.libvirt import (
    QEMU_USER,
    PrivateLibvirt,
    give_to_qemu,
    private_libvirt,
    unavailable_reason,
)
from unkai_agent.compute.driver import DomainDisk, DomainState
from unkai_agent.compute.kvm_proof import prove_kvm
from unkai_agent.compute.libvirt_driver import LibvirtDriver
from unkai_wire import ids
from unkai_wire.errors import FailedPrecondition, Unavailable

_WHY_NOT = unavailable_reason()
pytestmark = [pytest.mark.real, pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)]

_REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def libvirt() -> Iterator[PrivateLibvirt]:
    with private_libvirt() as running:
        yield running


@pytest.fixture
async def harness(libvirt: PrivateLibvirt) -> AsyncIterator[LibvirtHarness]:
    made = LibvirtHarness(libvirt)
    yield made
    for domain in await made.driver.list_domains():
        await made.driver.destroy(domain.instance_id)
        await made.driver.undefine(domain.instance_id)
    await made.driver.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that QEMU's user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="uke-", dir="/tmp") as name:
        folder = Path(name)
        give_to_qemu(folder)
        yield folder


def process_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def run(*command: str | Path, text: str = "") -> None:
    subprocess.run(command, input=text.encode(), check=True, timeout=20)


async def test_the_guest_boots_and_its_console_is_logged(harness: LibvirtHarness) -> None:
    spec = harness.spec()
    await harness.driver.define(spec)
    await harness.driver.start(spec.instance_id)
    await harness.wait_for_guest(spec)
    assert GREETING in spec.console_log.read_bytes()


async def test_qemu_runs_as_its_own_user_under_seccomp(harness: LibvirtHarness) -> None:
    spec = harness.spec()
    await harness.driver.define(spec)
    await harness.driver.start(spec.instance_id)
    pid = harness.libvirt.qemu_pid(ids.uuid_of(spec.instance_id))
    status = process_status(pid)
    assert int(status["Uid"].split()[0]) == pwd.getpwnam(QEMU_USER).pw_uid
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert int(status["CapEff"], 16) == 0


async def test_a_libvirtd_that_would_run_guests_as_root_starts_none() -> None:
    with private_libvirt(qemu_user="root") as libvirt:
        harness = LibvirtHarness(libvirt)
        spec = harness.spec()
        await harness.driver.define(spec)
        with pytest.raises(FailedPrecondition) as caught:
            await harness.driver.start(spec.instance_id)
        assert caught.value.reason == "QEMU_AS_ROOT"
        domain = await harness.driver.get_domain(spec.instance_id)
        assert domain is not None
        assert domain.state is DomainState.OFF
        await harness.driver.close()


async def test_a_hung_libvirtd_costs_each_call_its_deadline_and_no_more(
    harness: LibvirtHarness,
) -> None:
    spec = harness.spec()
    await harness.driver.define(spec)  # a fresh libvirtd takes seconds for its first look at QEMU
    driver = LibvirtDriver(harness.libvirt.uri, call_deadline_s=2.0, workers=2)
    harness.libvirt.stop_daemon()
    try:
        begin = time.monotonic()
        answers = await asyncio.gather(
            *(driver.get_domain(spec.instance_id) for _ in range(4)),
            driver.usage(),
            return_exceptions=True,
        )
        took_s = time.monotonic() - begin
    finally:
        harness.libvirt.continue_daemon()
    assert [type(answer) for answer in answers] == [Unavailable] * 5
    assert {answer.reason for answer in answers if isinstance(answer, Unavailable)} == {
        "HYPERVISOR_UNAVAILABLE"
    }
    assert took_s < 5 * 2.0, "one waited for another's deadline"
    assert (await until_state(driver, spec, DomainState.OFF)).name == spec.name
    await driver.close()


async def test_after_libvirtd_restarts_machines_are_found_again_and_hinted_at(
    harness: LibvirtHarness,
) -> None:
    spec = harness.spec()
    await harness.driver.define(spec)
    await harness.driver.start(spec.instance_id)
    await harness.wait_for_guest(spec)
    harness.libvirt.restart_daemon()
    changes = harness.driver.watch()
    domain = None
    async with asyncio.timeout(20):
        while domain is None:
            try:
                domain = await harness.driver.get_domain(spec.instance_id)
            except Unavailable:
                await asyncio.sleep(0.1)
        assert await anext(changes) == spec.instance_id
    assert domain.state is DomainState.RUNNING


async def test_consoles_leave_no_connection_open(harness: LibvirtHarness) -> None:
    spec = harness.spec()
    await harness.driver.define(spec)
    await harness.driver.start(spec.instance_id)
    await harness.wait_for_guest(spec)

    async def nothing_typed() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def attach() -> None:
        console = harness.driver.attach_console(spec.instance_id, nothing_typed(), force=False)
        assert await anext(console) == b""
        await console.aclose()  # type: ignore[attr-defined]

    def sockets() -> int:
        return len(os.listdir("/proc/self/fd"))

    await attach()
    before = sockets()
    for _ in range(8):
        await attach()

    async def all_are_closed() -> bool:
        return sockets() <= before

    await until(all_are_closed)


async def test_domains_outlive_their_driver(harness: LibvirtHarness) -> None:
    spec = harness.spec()
    await harness.driver.define(spec)
    await harness.driver.start(spec.instance_id)
    await harness.driver.close()
    harness.driver = LibvirtDriver(harness.libvirt.uri)
    domain = await harness.driver.get_domain(spec.instance_id)
    assert domain is not None
    assert domain.state is DomainState.RUNNING


async def test_events_come_from_changes_that_others_made(harness: LibvirtHarness) -> None:
    spec = harness.spec()
    await harness.driver.define(spec)
    await harness.driver.start(spec.instance_id)
    changes = harness.driver.watch()
    await harness.crash(spec)
    async with asyncio.timeout(10):
        assert await anext(changes) == spec.instance_id


async def test_a_missing_disk_is_named_without_its_path(harness: LibvirtHarness) -> None:
    spec = harness.spec()
    await harness.driver.define(spec)
    spec.disks[0].path.unlink()
    with pytest.raises(FailedPrecondition) as refused:
        await harness.driver.start(spec.instance_id)
    assert refused.value.reason == "DISK_MISSING"
    assert str(harness.libvirt.folder) not in str(refused.value.to_record())
    domain = await harness.driver.get_domain(spec.instance_id)
    assert domain is not None
    assert domain.state is DomainState.OFF


async def test_a_disk_that_qemu_may_not_open_is_said_to_be_so(harness: LibvirtHarness) -> None:
    spec = harness.spec()
    os.chown(spec.disks[0].path, 0, 0)
    spec.disks[0].path.chmod(0o600)
    await harness.driver.define(spec)
    with pytest.raises(FailedPrecondition) as refused:
        await harness.driver.start(spec.instance_id)
    assert refused.value.reason == "DISK_NOT_ACCESSIBLE"


async def test_a_disk_open_elsewhere_is_not_opened_twice(harness: LibvirtHarness) -> None:
    first, second = harness.spec(), harness.spec()
    twin = replace(second, disks=first.disks)
    for spec in (first, twin):
        await harness.driver.define(spec)
    await harness.driver.start(first.instance_id)
    with pytest.raises(FailedPrecondition) as refused:
        await harness.driver.start(twin.instance_id)
    assert refused.value.reason == "DISK_IN_USE"


async def test_an_overlay_boots_what_its_backing_image_holds(harness: LibvirtHarness) -> None:
    spec = harness.spec()
    base = spec.disks[0].path
    overlay = base.with_suffix(".qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, overlay)
    give_to_qemu(overlay)
    disk = DomainDisk(overlay, "qcow2", backing_path=base, backing_format="raw")
    spec = replace(spec, disks=(disk,))
    await harness.driver.define(spec)
    await harness.driver.start(spec.instance_id)
    await harness.wait_for_guest(spec)


async def test_foreign_domains_are_not_ours(harness: LibvirtHarness) -> None:
    foreign = f"""<domain type='qemu'><name>foreign</name>
      <uuid>{ids.uuid7()}</uuid><memory unit='MiB'>16</memory>
      <os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"""
    virsh = ("virsh", "-q", "-c", harness.libvirt.uri)
    run(*virsh, "define", "/dev/stdin", text=foreign)
    try:
        assert await harness.driver.list_domains() == []
    finally:
        run(*virsh, "undefine", "foreign")


async def test_the_proof_runs_a_guest_to_its_end_where_the_accelerator_works() -> None:
    proven = await prove_kvm("qemu-system-x86_64", QEMU_USER, accelerator="tcg", deadline_s=20)
    assert (proven.name, proven.reason) == ("tcg", "")


async def test_the_proof_of_kvm_ends_in_time_and_gives_a_reason_for_tcg(
    harness: LibvirtHarness,
) -> None:
    begin = time.monotonic()
    accelerator = await harness.driver.prove_accelerator()
    assert time.monotonic() - begin < 8
    assert (accelerator.name == "kvm") == (accelerator.reason == "")


_EMBEDDED = """
import asyncio, sys
from pathlib import Path
from tests.support.compute import a_domain_spec, until_state
from tests.support.boot_sector import echo_guest
from tests.support.libvirt import give_to_qemu
from unkai_agent.compute.driver import DomainState
from unkai_agent.compute.libvirt_driver import LibvirtDriver

async def main(root, instance_id, act):
    # The first call waits until libvirt has tried every emulator, which takes CPU.
    driver = LibvirtDriver(f"qemu:///embed?root={root}", start_deadline_s=90, call_deadline_s=90)
    spec = a_domain_spec(Path(root), instance_id=instance_id)
    if act == "start":
        disk = spec.disks[0].path
        disk.write_bytes(echo_guest())
        give_to_qemu(disk)
        await driver.define(spec)
        await driver.start(instance_id)
    print((await until_state(driver, spec, DomainState.RUNNING)).state.value)
    if act == "stop":
        await driver.destroy(instance_id)
        print((await driver.get_domain(instance_id)).state.value)
    await driver.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.timeout(320)
def test_embedded_libvirt_finds_its_machines_again_in_the_next_process(
    open_folder: Path,
) -> None:
    root = open_folder
    (root / "etc").mkdir(parents=True)
    (root / "etc/qemu.conf").write_text(
        'stdio_handler = "file"\nsecurity_driver = "none"\ncgroup_controllers = []\n'
        "namespaces = []\nremember_owner = 0\n"
    )
    instance_id = ids.new_id("instance")
    # In a process namespace whose first process reaps what QEMU leaves behind: libvirt takes a
    # zombie for alive. All in it ends with it.
    act = f"{sys.executable} -c '{_EMBEDDED}' {root} {instance_id}"
    done = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
            *("sh", "-c", f"{act} start && {act} stop"),
        ],
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["RUNNING", "RUNNING", "OFF"]
