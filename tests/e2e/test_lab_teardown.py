"""Story: whatever happens to a lab, `down` leaves nothing of it.

1. `up` is killed at many moments. 2. `down` is killed half-way and repeated. 3. Programs that left
their cgroup, and a lost journal, do not help anything to stay. 4. Two labs do not touch each other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.acceptance import count, seeded
from tests.support.lab import skip_without_a_lab_machine, wait_for
from unkai_lab import cgroups
from unkai_lab.errors import LabError
from unkai_lab.journal import Journal, ProcessId, StartedProcess
from unkai_lab.lab import Lab
from unkai_lab.lock import hold
from unkai_lab.spec import CONTROL, LabPaths, LabSpec
from unkai_lab.teardown import leftovers, take_down

SERVERS = ("--simulated", "2", "--schedulers", "2", "--etcd", "3", "--database")
SHAPES: tuple[tuple[str, ...], ...] = (
    ("--hosts", "2"),
    ("--hosts", "0", *SERVERS, "postgresql"),
    ("--hosts", "2", "--no-networks"),
    ("--hosts", "0", *SERVERS, "mariadb"),
)
"""What `up` makes when it is killed: hosts, with switches and the internet or without, or a control
plane with all that one may have."""


@pytest.fixture
def name() -> Iterator[str]:
    """A lab's name; whatever it was used for is gone afterwards."""
    skip_without_a_lab_machine()
    chosen = f"td-{os.getpid()}"[:14]
    yield chosen
    for each in (chosen, f"{chosen}b"):
        take_down(LabPaths.of(each))


def _spawn(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "unkai_lab", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _substrate(name: str, hosts: int = 1) -> Lab:
    """Make a lab's cells, network and libvirt daemons, without our own daemons."""
    lab = Lab.create(LabSpec(name=name, hosts=hosts))
    with hold(lab.paths.folder):
        lab.prepare()
        lab.boot(CONTROL)
    for host in lab.spec.host_names:
        lab.boot(host)
        lab.start_libvirt(host)
    return lab


@pytest.mark.timeout(400)  # 40 kills with the full counts, seconds each
def test_down_leaves_nothing_of_an_up_killed_at_any_moment(name: str) -> None:
    moments = seeded("lab up killed")
    paths = LabPaths.of(name)
    seen = set()
    for number in range(count(40, least=8)):
        # Of hosts most is made in the first second; a database server takes several.
        longest_s = (1.0, 4.0, 3.0, 8.0)[number % len(SHAPES)]
        pause_s = moments.uniform(0.25, longest_s)
        up = _spawn("up", "--name", name, *SHAPES[number % len(SHAPES)])
        time.sleep(pause_s)
        up.send_signal(signal.SIGKILL)
        up.wait(10)
        seen.add(len(leftovers(paths)))
        take_down(paths)
        assert leftovers(paths) == [], f"kill {number} after {pause_s:.3f} s"
    assert max(seen) > 0, "no kill met a lab that was there"


def test_a_down_that_was_killed_is_finished_by_the_next(name: str) -> None:
    lab = _substrate(name)
    moments = seeded("lab down killed")
    for _ in range(3):
        down = _spawn("down", "--name", name)
        time.sleep(moments.uniform(0.1, 0.4))
        down.send_signal(signal.SIGKILL)
        down.wait(10)
    take_down(lab.paths)
    assert leftovers(lab.paths) == []


def test_a_program_that_left_its_cgroup_is_ended_too(name: str) -> None:
    lab = _substrate(name)
    fugitive = subprocess.Popen(["sleep", "infinity"])
    process = ProcessId.of(fugitive.pid)
    assert process is not None
    lab.site.journal.started(StartedProcess("h1", "fugitive", process))
    assert fugitive.pid not in lab.site.pids("h1")

    lab.down()
    assert fugitive.wait(5) == -signal.SIGKILL


def test_a_process_that_got_a_recorded_pid_later_is_left_alone(name: str) -> None:
    lab = _substrate(name)
    bystander = subprocess.Popen(["sleep", "infinity"])
    try:
        process = ProcessId.of(bystander.pid)
        assert process is not None
        earlier = ProcessId(process.pid, process.start_ticks - 1)
        lab.site.journal.started(StartedProcess("h1", "agent", earlier))
        lab.down()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_lost_folder_does_not_save_a_process(name: str) -> None:
    lab = _substrate(name)
    lab.paths.journal.unlink()
    lab.paths.spec.unlink()
    assert lab.site.pids("h1")

    assert take_down(lab.paths)
    assert leftovers(lab.paths) == []


def test_taking_down_what_is_not_there_is_no_error(name: str) -> None:
    assert not take_down(LabPaths.of(name))


def test_two_labs_side_by_side_do_not_meet(name: str) -> None:
    one, two = _substrate(name), _substrate(f"{name}b")
    uuid = ["grep", "^host_uuid", "/etc/libvirt/libvirtd.conf"]
    uuids = {lab.run("h1", uuid).stdout for lab in (one, two)}
    assert len(uuids) == 2

    one.down()
    assert two.virsh("h1", "list", "--all").strip() == ""
    assert len(two.site.pids("h1")) >= 3
    two.down()
    assert leftovers(one.paths) == leftovers(two.paths) == []


def test_nothing_of_a_lab_is_in_the_machines_network(name: str) -> None:
    before = set(os.listdir("/sys/class/net"))
    lab = _substrate(name)
    assert set(os.listdir("/sys/class/net")) == before
    links = lab.run(CONTROL, ["ls", "/sys/class/net"]).stdout.split()
    assert "h1" not in links  # /sys is the machine's; the namespace is asked by ip
    shown = lab.run(CONTROL, ["ip", "-brief", "link"]).stdout
    assert "h1@" in shown
    assert "unkai0" in shown


def test_a_host_sees_its_own_libvirt_folders_and_an_empty_run(name: str) -> None:
    lab = _substrate(name)
    lab.run("h1", ["touch", "/run/mark", "/var/lib/libvirt/mark", "/etc/libvirt/mark"])
    assert not any(
        Path(path).exists() for path in ("/run/mark", "/var/lib/libvirt/mark", "/etc/libvirt/mark")
    )
    lab.stop_host("h1")
    assert lab.site.pids("h1") == []
    lab.boot("h1")
    kept = lab.run("h1", ["ls", "/run", "/var/lib/libvirt", "/etc/libvirt"]).stdout.split()
    assert kept.count("mark") == 2, "the disks' marks stay, the one in /run goes"


def test_every_process_of_a_host_is_in_its_own_cgroups(name: str) -> None:
    lab = _substrate(name)
    groups = lab.site.cell("h1").groups
    pids = cgroups.pids(groups.unified)
    assert len(pids) >= 3
    for folder in groups.folders():
        assert cgroups.pids(folder) == pids
    assert Journal(lab.paths.journal).groups()[:1] == [lab.site.cell(CONTROL).groups.unified]


def test_a_host_reaps_what_its_programs_leave_behind(name: str) -> None:
    lab = _substrate(name)
    # What QEMU does to become a daemon: its parent ends at once, so the host takes it in.
    pid = lab.run("h1", ["sh", "-c", "sleep 0.1 >/dev/null 2>&1 & echo $!"]).stdout.strip()
    lab.run("h1", ["sleep", "0.5"])
    shown = lab.run("h1", ["cat", f"/proc/{pid}/stat"], check=False)
    assert shown.returncode != 0, f"a dead process is still there: {shown.stdout}"


def test_a_program_given_up_by_its_caller_does_not_go_on(name: str) -> None:
    lab = _substrate(name)
    before = lab.site.pids("h1")
    with pytest.raises(LabError, match="did not end"):
        lab.run("h1", ["sleep", "infinity"], timeout_s=0.5)
    wait_for(lambda: lab.site.pids("h1") == before, "the program is gone", 5)
