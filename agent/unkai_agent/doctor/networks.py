"""The checks of a host's networks: Open vSwitch, ovn-controller, tunnels, what frames pass by.

Where the settings name no southbound database there is nothing to find.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from unkai_agent.doctor.guests import CHECKS
from unkai_agent.doctor.scene import Scene
from unkai_agent.doctor.switch_facts import CONNECTED, SwitchFacts
from unkai_agent.domain.ports import INTEGRATION_BRIDGE
from unkai_agent.host_facts import tunnel_address
from unkai_agent.network.datapath import datapath_here
from unkai_agent.network.driver import Datapath
from unkai_agent.network.ovs import mappings_text
from unkai_wire.doctor.findings import Finding, Severity, finding
from unkai_wire.errors import UnkaiError

__all__ = ["CHECKS"]

_SWITCH_FIX = "systemctl restart openvswitch-switch; why: journalctl -u ovs-vswitchd -n 50"
_CONTROLLER_FIX = "systemctl restart ovn-controller; why: journalctl -u ovn-controller -n 50"
_NO_NETWORKS = "machines with ports are neither started nor seen by others here"


def _facts(scene: Scene) -> SwitchFacts | None:
    """Return what the switch says; None where the host has no networks, or it says nothing."""
    if scene.simulated or not scene.settings.network.enabled:
        return None
    facts = scene.switch()
    return None if facts.trouble else facts


@CHECKS.add("switch-answers", "Open vSwitch is there and answers")
def switch_answers(scene: Scene) -> Iterable[Finding]:
    """Judge the switch."""
    if scene.simulated or not scene.settings.network.enabled:
        return
    facts = scene.switch()
    trouble = facts.trouble
    if trouble:
        missing = trouble.endswith("is not installed")
        yield finding(
            Severity.FAIL,
            f"the host's switch does not answer: {trouble}",
            _NO_NETWORKS,
            "apt install openvswitch-switch ovn-host" if missing else _SWITCH_FIX,
        )
    elif facts.forwarder:
        yield finding(
            Severity.FAIL,
            f"ovs-vswitchd, which forwards packets, does not answer: {facts.forwarder}",
            _NO_NETWORKS,
            _SWITCH_FIX,
        )


@CHECKS.add("switch-joined", "the switch belongs to OVN as this host")
def switch_joined(scene: Scene) -> Iterable[Finding]:
    """Judge the switch's own words."""
    facts = _facts(scene)
    if facts is None or scene.principal is None:
        return
    network = scene.settings.network
    unknown = "OVN does not know this host's ports"
    wanted = {
        "system-id": (scene.principal.host_id, unknown),
        "ovn-remote": (",".join(network.southbound), unknown),
        "ovn-encap-ip": (_tunnel_address(scene), "other hosts' tunnels to this one lead elsewhere"),
        "ovn-bridge-mappings": (
            mappings_text(network.bridge_mappings),
            "what leaves by the operator's networks is lost here",
        ),
    }
    for key, (value, why) in wanted.items():
        held = facts.said.get(key, "")
        if held != value:
            yield finding(
                Severity.FAIL,
                f"the switch has {key} {held or 'not set'}, and not {value or 'none'}",
                why,
                "systemctl restart unkai-agent, which joins it; its log says what hinders it",
            )
    kept = _kept_id(scene.paths.system_id)
    if kept and kept != scene.principal.host_id:
        path = scene.paths.system_id
        yield finding(
            Severity.WARN,
            f"{path} gives the switch another name at each start: {kept}",
            "until the agent has joined it again OVN takes the host for another",
            f"echo {scene.principal.host_id} > {path}",
        )


def _tunnel_address(scene: Scene) -> str:
    try:
        return tunnel_address(scene.settings)
    except UnkaiError:
        return ""  # another check's


def _is_here(address: str) -> bool:
    """Tell whether a device of this host has an address: else nothing can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as tried:
        try:
            tried.bind((address, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def _kept_id(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


@CHECKS.add("ovn-controller", "ovn-controller runs and is connected to OVN's southbound database")
def ovn_controller(scene: Scene) -> Iterable[Finding]:
    """Judge what ovn-controller says."""
    facts = _facts(scene)
    if facts is None or facts.controller == CONNECTED:
        return
    if facts.controller == "not connected":
        remotes = ", ".join(scene.settings.network.southbound)
        yield finding(
            Severity.FAIL,
            f"ovn-controller is not connected to the southbound database at {remotes}",
            "what is plugged in goes on as it was; nothing new is, and no rule changes",
            "see that they listen there, and take this host's certificate; then: "
            + _CONTROLLER_FIX,
        )
    else:
        yield finding(
            Severity.FAIL,
            f"ovn-controller does not answer: {facts.controller}",
            _NO_NETWORKS,
            _CONTROLLER_FIX,
        )


@CHECKS.add("switch-datapath", "the switch forwards as the settings say, and the kernel can")
def switch_datapath(scene: Scene) -> Iterable[Finding]:
    """Judge the integration bridge."""
    facts, wanted = _facts(scene), scene.settings.network.datapath
    if facts is None:
        return
    found = facts.bridges.get(INTEGRATION_BRIDGE)
    if found is None:
        yield finding(
            Severity.FAIL,
            f"the switch has no bridge {INTEGRATION_BRIDGE}",
            "no port can be plugged in",
            f"ovn-controller makes it once the host has joined: {_CONTROLLER_FIX}",
        )
        return
    if wanted not in ("auto", found):
        yield finding(
            Severity.WARN,
            f"the switch's datapath is {found}, and network.datapath is {wanted}",
            "the agent does not change it while ports of machines use it",
            "stop the host's machines, then: systemctl restart unkai-agent",
        )
    if found == "system" and datapath_here() is not Datapath.SYSTEM:
        yield finding(
            Severity.FAIL,
            "the switch's datapath is the kernel's, and the kernel has no openvswitch",
            "no packet passes",
            "modprobe openvswitch; or set network.datapath = 'netdev'",
        )


@CHECKS.add("tunnels", "tunnels to other hosts, ports of machines and bridges are open")
def tunnels(scene: Scene) -> Iterable[Finding]:
    """Judge the interfaces, and the bridges that the settings name."""
    facts = _facts(scene)
    if facts is None:
        return
    for row in facts.interfaces:
        options: Mapping[str, str] = row["options"]
        if row["error"] or row["ofport"] == -1:
            problem = row["error"] or "it is not open"
            to = options.get("remote_ip")
            what = f"the tunnel to {to}" if to else f"interface {row['name']}"
            why = "machines here and there do not reach each other" if to else "nothing passes it"
            yield finding(
                Severity.FAIL if to else Severity.WARN, f"{what}: {problem}", why, _SWITCH_FIX
            )
    address = _tunnel_address(scene)
    if address and not _is_here(address):
        yield finding(
            Severity.FAIL,
            f"no device of this host has {address}, at which tunnels from other hosts end",
            "machines here and on other hosts do not reach each other",
            f"ip address add {address}/PREFIX dev DEVICE, and in the host's network settings; "
            "or name another address: network.encap_address",
        )
    for network, bridge in sorted(scene.settings.network.bridge_mappings.items()):
        if bridge not in facts.bridges:
            yield finding(
                Severity.FAIL,
                f"the switch has no bridge {bridge}, which leads to {network}",
                f"what leaves by {network} is lost here",
                f"ovs-vsctl add-br {bridge}; ovs-vsctl add-port {bridge} CARD",
            )
