"""Story: the independent checker sees, on a real host, what is put there behind everyone's back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.evidence import findings, wait_clean
from tests.support.findings import Kind
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.sights import uuid_of
from tests.support.user import User, tiny_image
from unkai_lab.configuration import REAL_TRAIT, SIMULATED_TRAIT
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec
from unkai_wire import ids

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name><uuid>{unit}</uuid><memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
</domain>
"""


@pytest.fixture(scope="module")
def watched_lab() -> Iterator[Lab]:
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="check", hosts=1, simulated=1))) as made:
        yield made


@pytest.fixture
def owner(watched_lab: Lab) -> Iterator[User]:
    user = User(watched_lab.paths.scheduler_socket)
    user.upload("tiny", tiny_image())
    yield user
    user.delete_all()
    user.close()


def define(lab: Lab, name: str, unit: str) -> Path:
    """Write a domain's XML where the host sees it."""
    path = lab.paths.cell("h1") / f"{name}.xml"
    path.write_text(DOMAIN.format(name=name, unit=unit))
    return path


def kinds(lab: Lab) -> set[Kind]:
    return {finding.kind for finding in findings(lab)}


def wait_kinds(lab: Lab, *wanted: Kind) -> None:
    """Wait until a look has these and no others: one may meet what is just being done."""
    wait_for(lambda: kinds(lab) == set(wanted), f"{wanted} are found")


def test_what_is_put_on_a_host_is_seen(watched_lab: Lab, owner: User) -> None:
    lab, agent = watched_lab, watched_lab.paths.cell("h1") / "agent"
    real = owner.launch("real", required_traits=[REAL_TRAIT])
    owner.launch("simulated", required_traits=[SIMULATED_TRAIT])
    wait_clean(lab)

    # 1. Files.
    stranger = ids.new_id("instance")
    (agent / "machines" / stranger).mkdir()
    entry = agent / "ledger" / "machines" / f"{real.id}.json"
    shutil.copy(entry, entry.with_name(f"{stranger}.json"))
    part = agent / "images" / "x.part"
    part.touch()
    wait_kinds(lab, Kind.MACHINE_WITHOUT_INSTANCE, Kind.HALF_MADE_FILE)
    texts = {"h1: folder", "h1: ledger entry"}
    wait_for(lambda: texts <= {f.text for f in findings(lab)}, f"{texts} are found")
    (agent / "machines" / stranger).rmdir()
    entry.with_name(f"{stranger}.json").unlink()
    part.unlink()

    # 2. A domain that is nobody's, off and on.
    lab.virsh("h1", "define", str(define(lab, "stranger", uuid_of(stranger))))
    wait_kinds(lab, Kind.MACHINE_WITHOUT_INSTANCE)
    lab.virsh("h1", "start", "stranger")
    wait_kinds(lab, Kind.MACHINE_WITHOUT_INSTANCE, Kind.QEMU_WITHOUT_INSTANCE)
    lab.virsh("h1", "destroy", "stranger")
    lab.virsh("h1", "undefine", "stranger")

    # 3. A twin of a guest, which no libvirt knows.
    folder = lab.paths.cell("h1") / "twin"
    twin = ["qemu-system-x86_64", "-uuid", uuid_of(real.id), "-S", "-nodefaults"]
    twin += ["-display", "none", "-accel", "tcg", "-pidfile", str(folder)]
    lab.site.start("h1", "twin", twin)
    wait_for(lambda: Kind.QEMU_TWICE in kinds(lab), "the twin is seen")
    lab.site.kill("h1", "twin")

    wait_clean(lab)
