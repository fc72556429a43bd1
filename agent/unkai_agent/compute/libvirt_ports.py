"""Ports of domains that are on: what is plugged in, and plugging and unplugging.

Below `libvirt_driver.py`, in its worker threads. Traps: a device that was asked for back goes when
its guest lets it, and may never go; asking by its name does not wait, as asking by its XML does.
A QEMU that still waits for its guest refuses to be asked again, which is no failure.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from unkai_agent.compute import domain_xml
from unkai_agent.compute.driver import DomainPort

_PENDING = "already in the process of unplug"
"""What QEMU answers to a second asking (hw/acpi/pcihp.c, qdev-monitor.c)."""


def live_ports(domain: Any) -> Mapping[str, bool]:
    """Return the ports plugged in, by id: whether the link is up."""
    if not domain.isActive():
        return {}
    found = domain_xml.live_ports(domain.XMLDesc(0))
    return {port_id: _is_up(element) for port_id, element in found.items()}


def attach(libvirt: Any, domain: Any, port: DomainPort) -> None:
    """Plug a port in, unless it is.

    Its slot may still be that of a port whose guest has not let go: then libvirt chooses another,
    until the machine's next start.
    """
    plugged = domain_xml.live_ports(domain.XMLDesc(0))
    if port.port_id in plugged:
        return
    taken = {domain_xml.slot_of(element) for element in plugged.values()}
    text = domain_xml.render_port(port, taken)
    domain.attachDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def raise_link(libvirt: Any, domain: Any, port_id: str) -> None:
    """Let the link of a plugged port be up; one that is gone has none."""
    element = domain_xml.live_ports(domain.XMLDesc(0)).get(port_id)
    if element is None or _is_up(element):
        return
    link = element.find("link")
    assert link is not None, "without it the link is up"
    link.set("state", "up")
    text = ET.tostring(element, encoding="unicode")
    domain.updateDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def detach(libvirt: Any, domain: Any, port_id: str) -> None:
    """Take a port out of the definition, then ask the guest for it."""
    alias = domain_xml.alias_of(port_id)
    inactive = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    if port_id in domain_xml.live_ports(inactive):
        domain.detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    if port_id not in live_ports(domain):
        return
    try:
        domain.detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except libvirt.libvirtError as error:
        if _PENDING not in str(error) and port_id in live_ports(domain):
            raise


def _is_up(element: ET.Element) -> bool:
    link = element.find("link")
    return link is None or link.get("state") != "down"
