"""Render libvirt's domain XML from a `DomainSpec`, and read back what we put into it. Pure.

Used by `libvirt_driver.py` on the way in (`render`) and out (`parse_identity`). The text is stable:
the same spec gives the same bytes, so a digest of it inside the metadata tells whether a defined
domain still is what is wanted (libvirt rewrites the rest of what it is given). Golden files in
`tests/golden/domain_xml` show each case.

Trap: an empty `<backingStore/>` ends the chain, so QEMU would ignore the image a disk stands on.
It is rendered only under a backing file that we were told of. Source of all elements: libvirt's
"Domain XML format" (formatdomain), version 9.0.
"""

from __future__ import annotations

import hashlib
import string
import xml.etree.ElementTree as ET
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from unkai_agent.compute.driver import DomainDisk, DomainPort, DomainSpec
from unkai_agent.domain.ports import INTEGRATION_BRIDGE
from unkai_wire import ids

NAMESPACE = "urn:unkai:domain:v1"
"""XML namespace of our metadata. A URN, so that it depends on nobody's web site."""

METADATA_TAG = "machine"

MACHINE_TYPE = "pc"
"""`pc` (i440FX): under TCG as quick to a boot sector as `q35` (0.5 s), with 7 MB less memory."""

_BALLOON_STATS_PERIOD_S = 10

_FIRST_PORT_SLOT = 0x10
"""PCI slot of a machine's first port, on a bus of 32: those below are for all else."""

_METADATA_SOURCE = "OpenStack Nova"
"""Asset tag of the chassis by which cloud-init's ds-identify and OpenStack data source know that
the metadata service is there (cloudinit/sources/DataSourceOpenStack.py, VALID_DMI_ASSET_TAGS)."""

_ALIAS = "ua-"
"""libvirt keeps names of devices that begin so (formatdomain, "alias")."""

_OFFLOADS = {
    "host": ("csum", "gso", "tso4", "tso6", "ecn", "ufo"),
    "guest": ("csum", "tso4", "tso6", "ecn", "ufo"),
}
"""virtio's offloads in either direction, as libvirt names them."""


@dataclass(frozen=True, slots=True)
class DomainIdentity:
    """What our metadata in a domain's definition says."""

    instance_id: str
    project_id: str
    generation: int
    run_epoch: int
    accelerator: str
    definition: str
    """Digest of the XML it was defined with; equal digests mean that nothing differs."""


def render(spec: DomainSpec) -> str:
    """Return the domain's XML, ending in a newline."""
    root = _domain(spec, "")
    digest = hashlib.sha256(ET.tostring(root)).hexdigest()[:32]
    root = _domain(spec, digest)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def render_port(port: DomainPort, taken: Collection[int] = ()) -> str:
    """Return the XML of a port that is plugged into a running domain: its link is down.

    `taken`: PCI slots that others have; it is put into none where its own is one of them.
    """
    element = _interface(port)
    address = element.find("address")
    if address is not None and slot_of(element) in taken:
        element.remove(address)
    ET.SubElement(element, "link", state="down")
    return ET.tostring(element, encoding="unicode")


def alias_of(port_id: str) -> str:
    """Return the name by which libvirt tells of a port's device."""
    return f"{_ALIAS}{port_id}"


def live_ports(domain_text: str) -> dict[str, ET.Element]:
    """Return the interfaces of ports in a domain's XML, by the port's id."""
    root = ET.fromstring(domain_text)  # noqa: S314  libvirt's own output
    found: dict[str, ET.Element] = {}
    for element in root.iterfind("devices/interface"):
        alias = element.find("alias")
        name = "" if alias is None else alias.get("name", "")
        if name.startswith(_ALIAS):
            found[name.removeprefix(_ALIAS)] = element
    return found


def slot_of(interface: ET.Element) -> int:
    """Return the PCI slot of an interface; -1: it has none."""
    address = interface.find("address")
    return -1 if address is None else int(address.get("slot", "-1"), 16)


def parse_identity(metadata_xml: str) -> DomainIdentity | None:
    """Read the metadata element that `render` wrote; None when it is not ours or unreadable."""
    try:
        element = ET.fromstring(metadata_xml)  # noqa: S314  libvirt's own output
    except ET.ParseError:
        return None
    if element.tag not in (METADATA_TAG, f"{{{NAMESPACE}}}{METADATA_TAG}"):
        return None
    instance_id = element.get("instance_id", "")
    numbers = [element.get(name, "") for name in ("generation", "run_epoch")]
    if not ids.is_id("instance", instance_id) or not all(n.isdecimal() for n in numbers):
        return None
    return DomainIdentity(
        instance_id=instance_id,
        project_id=element.get("project_id", ""),
        generation=int(numbers[0]),
        run_epoch=int(numbers[1]),
        accelerator=element.get("accelerator", ""),
        definition=element.get("definition", ""),
    )


def definition_of(domain_text: str) -> str:
    """Return the digest that `render` put into a domain's XML."""
    root = ET.fromstring(domain_text)  # noqa: S314  our own output
    element = root.find(f"metadata/{{{NAMESPACE}}}{METADATA_TAG}")
    return "" if element is None else element.get("definition", "")


def _domain(spec: DomainSpec, digest: str) -> ET.Element:
    kvm = spec.accelerator == "kvm"
    root = ET.Element("domain", {"type": "kvm" if kvm else "qemu"})
    _text(root, "name", spec.name)
    _text(root, "uuid", str(ids.uuid_of(spec.instance_id)))
    root.append(_metadata(spec, digest))
    for tag in ("memory", "currentMemory"):
        _text(root, tag, str(spec.memory_bytes // 1024), unit="KiB")
    _text(root, "vcpu", str(spec.vcpus), placement="static")
    os = ET.SubElement(root, "os")
    _text(os, "type", "hvm", arch="x86_64", machine=MACHINE_TYPE)
    if spec.metadata_seed:
        ET.SubElement(os, "smbios", mode="sysinfo")
        root.append(_sysinfo())
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    root.append(_cpu(kvm))
    root.append(_clock())
    for event, act in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _text(root, f"on_{event}", act)
    pm = ET.SubElement(root, "pm")
    ET.SubElement(pm, "suspend-to-mem", enabled="no")
    ET.SubElement(pm, "suspend-to-disk", enabled="no")
    root.append(_devices(spec))
    # No <seclabel>: the confinement that the host's libvirt is set up with stays in force.
    return root


def _metadata(spec: DomainSpec, digest: str) -> ET.Element:
    metadata = ET.Element("metadata")
    ET.SubElement(
        metadata,
        f"unkai:{METADATA_TAG}",
        {
            "xmlns:unkai": NAMESPACE,
            "instance_id": spec.instance_id,
            "project_id": spec.project_id,
            "generation": str(spec.generation),
            "run_epoch": str(spec.run_epoch),
            "accelerator": spec.accelerator,
            "definition": digest,
        },
    )
    return metadata


def _cpu(kvm: bool) -> ET.Element:
    if kvm:
        return ET.Element("cpu", mode="host-passthrough", check="none", migratable="on")
    return ET.Element("cpu", mode="maximum", check="none")


def _sysinfo() -> ET.Element:
    sysinfo = ET.Element("sysinfo", type="smbios")
    system = ET.SubElement(sysinfo, "system")
    _text(system, "entry", "unkai", name="manufacturer")
    _text(system, "entry", "unkai", name="product")
    chassis = ET.SubElement(sysinfo, "chassis")
    _text(chassis, "entry", _METADATA_SOURCE, name="asset")
    return sysinfo


def _clock() -> ET.Element:
    clock = ET.Element("clock", offset="utc")
    ET.SubElement(clock, "timer", name="rtc", tickpolicy="catchup")
    ET.SubElement(clock, "timer", name="pit", tickpolicy="delay")
    ET.SubElement(clock, "timer", name="hpet", present="no")
    return clock


def _devices(spec: DomainSpec) -> ET.Element:
    devices = ET.Element("devices")
    for index, disk in enumerate(spec.disks):
        devices.append(_disk(disk, index, boot=index == 0))
    if spec.seed is not None:
        seed = DomainDisk(spec.seed, "raw", read_only=True)
        devices.append(_disk(seed, len(spec.disks), boot=False))
    for port in spec.ports:
        devices.append(_interface(port))
    # Nothing is plugged in by USB; without the controller the firmware has less to look for.
    ET.SubElement(devices, "controller", type="usb", model="none")
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "log", file=str(spec.console_log), append="on")
    ET.SubElement(serial, "target", type="isa-serial", port="0")
    console = ET.SubElement(devices, "console", type="pty")
    ET.SubElement(console, "log", file=str(spec.console_log), append="on")
    ET.SubElement(console, "target", type="serial", port="0")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    balloon = ET.SubElement(devices, "memballoon", model="virtio")
    ET.SubElement(balloon, "stats", period=str(_BALLOON_STATS_PERIOD_S))
    return devices


def _disk(disk: DomainDisk, index: int, *, boot: bool) -> ET.Element:
    element = ET.Element("disk", type="file", device="disk")
    # A full or failing host disk pauses the guest, at reads as at writes (`rerror_policy` follows):
    # it is resumed when the host is mended, and has seen nothing. QEMU's own default would tell the
    # guest of all but a full disk, and most then turn their file system read-only, or lose writes.
    driver = {"name": "qemu", "type": disk.format, "cache": "writeback", "error_policy": "stop"}
    if not disk.read_only:
        driver |= {"discard": "unmap", "detect_zeroes": "unmap"}
    ET.SubElement(element, "driver", driver)
    ET.SubElement(element, "source", file=str(disk.path))
    if disk.backing_path is not None:
        element.append(_backing(disk.backing_path, disk.backing_format))
    ET.SubElement(element, "target", dev=f"vd{string.ascii_lowercase[index]}", bus="virtio")
    if boot:
        ET.SubElement(element, "boot", order="1")
    if disk.read_only:
        ET.SubElement(element, "readonly")
    return element


def _interface(port: DomainPort) -> ET.Element:
    element = ET.Element("interface", type="bridge")
    ET.SubElement(element, "mac", address=port.mac_address)
    ET.SubElement(element, "source", bridge=INTEGRATION_BRIDGE)
    virtualport = ET.SubElement(element, "virtualport", type="openvswitch")
    ET.SubElement(virtualport, "parameters", interfaceid=port.interface_id)
    ET.SubElement(element, "target", dev=port.device)
    ET.SubElement(element, "model", type="virtio")
    if not port.offloads:
        driver = ET.SubElement(element, "driver")
        for side, names in _OFFLOADS.items():
            ET.SubElement(driver, side, dict.fromkeys(names, "off"))
    # Without it libvirt takes over the bridge's own.
    ET.SubElement(element, "mtu", size=str(port.mtu))
    # Nothing boots by network; the firmware need not look.
    ET.SubElement(element, "rom", enabled="no")
    # By this name libvirt tells of the device, such as that it was unplugged.
    ET.SubElement(element, "alias", name=alias_of(port.port_id))
    slot = f"{_FIRST_PORT_SLOT + port.position:#04x}"
    ET.SubElement(
        element, "address", type="pci", domain="0x0000", bus="0x00", slot=slot, function="0x0"
    )
    return element


def _backing(path: Path, image_format: str) -> ET.Element:
    if image_format not in ("qcow2", "raw"):
        raise ValueError(f"backing format {image_format!r} is neither qcow2 nor raw")
    backing = ET.Element("backingStore", type="file")
    ET.SubElement(backing, "format", type=image_format)
    ET.SubElement(backing, "source", file=str(path))
    ET.SubElement(backing, "backingStore")
    return backing


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
