"""Where the machine keeps its cgroups, read from its mounts; a cell's groups from that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unkai_lab.cgroups import (
    CellGroups,
    count_disk,
    disk_of,
    make_groups,
    parse_mounts,
    throttle,
)
from unkai_lab.errors import LabError

HYBRID = """\
20 1 0:18 / /sys rw,relatime - sysfs sysfs rw
30 20 0:25 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
UNIFIED = "30 20 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_a_hybrid_machine_has_v1_controllers_beside_cgroup2() -> None:
    found = parse_mounts(HYBRID)
    assert found.unified == Path("/sys/fs/cgroup/unified")
    assert dict(found.v1) == {
        "memory": Path("/sys/fs/cgroup/memory"),
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "cpuacct": Path("/sys/fs/cgroup/cpu,cpuacct"),
    }


def test_controllers_mounted_together_are_one_folder() -> None:
    groups = CellGroups.of(parse_mounts(HYBRID), "demo.1", "h1")
    assert groups.folders() == [
        Path("/sys/fs/cgroup/unified/unkai-lab/demo.1/h1"),
        Path("/sys/fs/cgroup/memory/unkai-lab/demo.1/h1"),
        Path("/sys/fs/cgroup/cpu,cpuacct/unkai-lab/demo.1/h1"),
    ]


def test_a_unified_machine_has_cgroup2_alone() -> None:
    groups = CellGroups.of(parse_mounts(UNIFIED), "demo.1", "h1")
    assert groups.folders() == [Path("/sys/fs/cgroup/unkai-lab/demo.1/h1")]
    assert groups.controller("memory") is None


def test_a_machine_without_cgroup2_is_refused_with_the_fix() -> None:
    with pytest.raises(LabError, match="no cgroup2") as caught:
        parse_mounts("32 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    assert "mount" in caught.value.fix


def test_each_group_is_announced_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("")
    groups = CellGroups(
        tmp_path / "unkai-lab/demo.1/h1", (("memory", tmp_path / "m/unkai-lab/demo.1/h1"),)
    )
    there_when_announced = []
    make_groups(groups, lambda folder: there_when_announced.append(folder.exists()))
    assert there_when_announced == [False, False]
    assert all(folder.is_dir() for folder in groups.folders())


def test_controllers_of_cgroup2_are_handed_down_to_the_cell(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    for below in ("", "unkai-lab", "unkai-lab/demo.1"):
        (tmp_path / below).mkdir(exist_ok=True)
        (tmp_path / below / "cgroup.subtree_control").write_text("memory pids\n")
    make_groups(CellGroups(tmp_path / "unkai-lab/demo.1/h1"), lambda folder: None)
    for below in ("", "unkai-lab", "unkai-lab/demo.1"):
        assert (tmp_path / below / "cgroup.subtree_control").read_text() == "+cpu +io"


def test_a_throttle_uses_v1_where_the_machine_keeps_controllers_there(tmp_path: Path) -> None:
    groups = CellGroups(tmp_path / "u", (("memory", tmp_path / "m"), ("cpu", tmp_path / "c")))
    for folder in groups.folders():
        folder.mkdir()
    throttle(groups, 0.5, 1 << 30)
    assert (tmp_path / "c/cpu.cfs_quota_us").read_text() == "50000"
    assert (tmp_path / "m/memory.limit_in_bytes").read_text() == str(1 << 30)
    assert list((tmp_path / "u").iterdir()) == []


def test_a_throttle_uses_cgroup2_where_there_is_no_v1(tmp_path: Path) -> None:
    throttle(CellGroups(tmp_path), 1.5, 1 << 20)
    assert (tmp_path / "cpu.max").read_text() == "150000 100000"
    assert (tmp_path / "memory.max").read_text() == str(1 << 20)


def test_no_limit_writes_nothing(tmp_path: Path) -> None:
    throttle(CellGroups(tmp_path), 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_bytes_on_the_disk_are_counted_by_a_limit_beyond_reach(tmp_path: Path) -> None:
    groups = CellGroups(tmp_path / "u", (("blkio", tmp_path / "b"),))
    for folder in groups.folders():
        folder.mkdir()
    count_disk(groups, "254:0")
    for way in ("read", "write"):
        text = (tmp_path / f"b/blkio.throttle.{way}_bps_device").read_text()
        assert text == "254:0 1000000000000\n"


def test_a_machine_without_v1_blkio_needs_no_limit(tmp_path: Path) -> None:
    (tmp_path / "u").mkdir()
    count_disk(CellGroups(tmp_path / "u"), "254:0")
    assert list((tmp_path / "u").iterdir()) == []


@pytest.mark.parametrize("is_partition", [True, False])
def test_the_disk_of_a_folder_is_the_whole_one(tmp_path: Path, is_partition: bool) -> None:
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    links = tmp_path / "block"
    place = tmp_path / ("devices/vda/vda1" if is_partition else "devices/vda")
    place.mkdir(parents=True)
    (place / "dev").write_text(f"{number}\n")
    if is_partition:
        (place / "partition").write_text("1\n")
        (place.parent / "dev").write_text("254:0\n")
    links.mkdir()
    (links / number).symlink_to(place)
    assert disk_of(tmp_path, links) == ("254:0" if is_partition else number)


def test_a_folder_on_no_disk_has_none(tmp_path: Path) -> None:
    assert disk_of(tmp_path, tmp_path / "nothing") is None
