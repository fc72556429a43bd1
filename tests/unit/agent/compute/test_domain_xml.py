"""The domain XML, against golden files.

Renew them with `UNKAI_RENEW_GOLDEN=1 pytest tests/unit/agent/compute/test_domain_xml.py`, then read
the difference before committing it.
"""

from __future__ import annotations

import os
import re
import string
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compute import GIB, MIB, a_domain_spec
from unkai_agent.compute import domain_xml
from unkai_agent.compute.driver import DomainDisk, DomainPort, DomainSpec
from unkai_wire import ids

_GOLDEN = Path(__file__).parents[3] / "golden" / "domain_xml"
_ID = "ins-01h455vb4pex5vsknk084sn02q"
_FOLDER = Path("/var/lib/unkai/agent/machines") / _ID
_IMAGE = Path("/var/lib/unkai/agent/images/0f1e.qcow2")


def a_spec(accelerator: str = "tcg", **changes: object) -> DomainSpec:
    spec = a_domain_spec(_FOLDER, instance_id=_ID, accelerator=accelerator)
    root = DomainDisk(_FOLDER / "root.qcow2", "qcow2", backing_path=_IMAGE, backing_format="qcow2")
    spec = replace(
        spec, disks=(root,), seed=_FOLDER / "seed.iso", console_log=_FOLDER / "console.log"
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def a_domain_port(position: int = 0, **changes: object) -> DomainPort:
    port = DomainPort(
        port_id=f"prt-01h455vb4pex5vsknk084sn0{position:02d}",
        interface_id=f"01890a5d-ac96-774b-bcce-b302099a80{position:02d}",
        device=f"tapvsknk084sn0{position:02d}",
        mac_address=f"02:00:00:00:00:{position:02x}",
        mtu=1442,
        position=position,
    )
    return replace(port, **changes)  # type: ignore[arg-type]


_CASES = {
    "tcg": a_spec(),
    "kvm": a_spec("kvm", vcpus=4, memory_bytes=8 * GIB, generation=7, run_epoch=3),
    "no_seed": a_spec(seed=None),
    "two_disks": a_spec(
        disks=(
            DomainDisk(_FOLDER / "root.qcow2", "qcow2"),
            DomainDisk(_FOLDER / "more.raw", "raw"),
        )
    ),
    "ports": a_spec(ports=(a_domain_port(0), a_domain_port(3, offloads=False, mtu=9000))),
    "metadata": a_spec(seed=None, metadata_seed=True, ports=(a_domain_port(),)),
}


@pytest.mark.parametrize("case", sorted(_CASES))
def test_the_xml_is_that_of_the_golden_file(case: str) -> None:
    path = _GOLDEN / f"{case}.xml"
    rendered = domain_xml.render(_CASES[case])
    if os.environ.get("UNKAI_RENEW_GOLDEN") == "1":
        path.write_text(rendered)
    assert rendered == path.read_text()


def test_golden_files_have_a_case_each() -> None:
    assert {path.stem for path in _GOLDEN.glob("*.xml")} == set(_CASES)


def test_what_is_written_into_the_metadata_is_read_back() -> None:
    spec = a_spec(generation=5, run_epoch=2)
    root = ET.fromstring(domain_xml.render(spec))
    metadata = root.find("metadata")
    assert metadata is not None
    identity = domain_xml.parse_identity(ET.tostring(metadata[0], encoding="unicode"))
    assert identity is not None
    assert (identity.instance_id, identity.project_id) == (spec.instance_id, spec.project_id)
    assert (identity.generation, identity.run_epoch, identity.accelerator) == (5, 2, "tcg")
    assert identity.definition == domain_xml.definition_of(domain_xml.render(spec))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no xml",
        "<other/>",
        "<machine/>",
        "<machine instance_id='ins-1' generation='1' run_epoch='1'/>",
        f"<machine instance_id='{_ID}' generation='x' run_epoch='1'/>",
    ],
)
def test_foreign_metadata_is_nobody(text: str) -> None:
    assert domain_xml.parse_identity(text) is None


def test_metadata_without_its_prefix_is_ours_too() -> None:
    text = f"<machine instance_id='{_ID}' generation='1' run_epoch='2'/>"
    identity = domain_xml.parse_identity(text)
    assert identity is not None
    assert identity.run_epoch == 2


@pytest.mark.parametrize(
    "change",
    [
        {"vcpus": 2},
        {"memory_bytes": 128 * MIB},
        {"generation": 2},
        {"run_epoch": 2},
        {"name": "other.sn02q"},
        {"seed": None},
        {"ports": (a_domain_port(),)},
        {"metadata_seed": True},
    ],
    ids=str,
)
def test_any_change_of_the_spec_changes_the_digest(change: dict[str, object]) -> None:
    before = domain_xml.render(a_spec())
    after = domain_xml.render(replace(a_spec(), **change))  # type: ignore[arg-type]
    assert domain_xml.definition_of(before) != domain_xml.definition_of(after)


@pytest.mark.parametrize("change", [{"offloads": False}, {"mtu": 1500}, {"position": 1}], ids=str)
def test_any_change_of_a_port_changes_the_digest(change: dict[str, object]) -> None:
    before = domain_xml.render(a_spec(ports=(a_domain_port(),)))
    after = domain_xml.render(a_spec(ports=(a_domain_port(**change),)))  # type: ignore[arg-type]
    assert domain_xml.definition_of(before) != domain_xml.definition_of(after)


def test_a_port_keeps_its_slot_when_others_go() -> None:
    def slot_of(ports: tuple[DomainPort, ...], device: str) -> str | None:
        root = ET.fromstring(domain_xml.render(a_spec(ports=ports)))
        found = None
        for interface in root.findall("devices/interface"):
            target, address = interface.find("target"), interface.find("address")
            assert target is not None
            assert address is not None
            if target.get("dev") == device:
                found = address
        return found.get("slot") if found is not None else None

    ports = tuple(a_domain_port(position) for position in range(16))
    slots = [slot_of(ports, port.device) for port in ports]
    assert len(set(slots)) == 16
    assert slot_of(ports[3:4], ports[3].device) == slots[3]


@pytest.mark.parametrize("case", sorted(_CASES))
def test_libvirts_schema_takes_the_golden_files(case: str) -> None:
    libvirt = pytest.importorskip("libvirt")
    connection = libvirt.open("test:///default")  # within this process: no libvirtd is asked
    text = (_GOLDEN / f"{case}.xml").read_text()
    text = re.sub('<domain type="(qemu|kvm)">', '<domain type="test">', text)
    domain = connection.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    kept = ET.fromstring(domain.XMLDesc())
    domain.undefine()
    for element in ("devices/interface", "sysinfo/chassis/entry"):
        assert len(kept.findall(element)) == len(ET.fromstring(text).findall(element))


def test_a_disk_without_a_known_image_leaves_the_chain_to_its_header() -> None:
    rendered = domain_xml.render(_CASES["two_disks"])
    assert "backingStore" not in rendered


def test_a_backing_format_must_be_named() -> None:
    disk = DomainDisk(_FOLDER / "root.qcow2", "qcow2", backing_path=_IMAGE)
    with pytest.raises(ValueError, match="backing format"):
        domain_xml.render(a_spec(disks=(disk,)))


@given(
    name=st.text(string.printable.strip() + "é漢", min_size=1, max_size=40),
    vcpus=st.integers(1, 512),
    memory_mib=st.integers(1, 4 * 1024 * 1024),
    file=st.text(string.ascii_letters + "<>&'\" ", min_size=1, max_size=40),
)
def test_whatever_the_names_the_xml_says_what_the_spec_says(
    name: str, vcpus: int, memory_mib: int, file: str
) -> None:
    spec = a_spec(
        name=name, vcpus=vcpus, memory_bytes=memory_mib * MIB, seed=Path("/machines") / file
    )
    rendered = domain_xml.render(spec)
    root = ET.fromstring(rendered)
    sources = [element.get("file") for element in root.findall("devices/disk/source")]
    assert root.findtext("name") == name
    assert root.findtext("uuid") == str(ids.uuid_of(_ID))
    assert int(root.findtext("vcpu", "")) == vcpus
    assert int(root.findtext("memory", "")) == memory_mib * 1024
    assert sources == [str(spec.disks[0].path), str(spec.seed)]
    assert rendered == domain_xml.render(spec)
