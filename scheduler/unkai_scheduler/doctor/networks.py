"""The checks of what carries networks, as the scheduler sees it; without `[network]` all pass."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from unkai_scheduler.doctor.ovn_facts import NORTHBOUND, SOUTHBOUND, OvnFacts, Server
from unkai_scheduler.doctor.scene import Scene
from unkai_wire.doctor import certificates
from unkai_wire.doctor.findings import Finding, Severity, finding
from unkai_wire.setting_values import split_address

PROBE_MS = 60_000
_CTL = {NORTHBOUND: "ovn-nbctl", SOUTHBOUND: "ovn-sbctl"}
_NAMES = {NORTHBOUND: "northbound", SOUTHBOUND: "southbound"}
_LOST = {
    NORTHBOUND: "changes of networks wait; what guests have goes on",
    SOUTHBOUND: "routers find no way out, and 'network why' cannot answer; guests go on",
}
_PROGRAMS = {"ovn-trace": "ovn-common", "ovsdb-client": "openvswitch-common"}


def reachable(scene: Scene) -> Iterable[Finding]:
    """Judge the way to OVN's databases."""
    for server in scene.ovn().servers:
        if server.trouble and not server.trust:
            yield finding(
                Severity.FAIL,
                f"OVN's {_NAMES[server.database]} database at {server.remote} does not answer: "
                f"{server.trouble}",
                _LOST[server.database],
                "on its machine: systemctl status ovn-central; its listeners: "
                f"{_CTL[server.database]} get-connection",
            )


def trusted(scene: Scene) -> Iterable[Finding]:
    """Judge the handshakes with OVN's databases, and for how long they will succeed."""
    tls = scene.settings.network.tls
    for server in scene.ovn().servers:
        name = f"OVN's {_NAMES[server.database]} database at {server.remote}"
        if server.trust and "expired" in server.trouble and not _has_ended(scene):
            yield finding(
                Severity.FAIL,
                f"the certificate of {name} has ended: {server.trouble}",
                _LOST[server.database],
                _renewed(server),
            )
        elif server.trust:
            yield finding(
                Severity.FAIL,
                f"{name} and this scheduler do not trust each other: {server.trouble}",
                _LOST[server.database],
                f"openssl verify -CAfile {tls.ca} {tls.certificate}; its certificate must be of "
                f"that CA and name its address; what it was given: {_CTL[server.database]} get-ssl",
            )
        elif server.ends is not None and server.ends - scene.now < certificates.SOON:
            days = (server.ends - scene.now).days
            yield finding(
                Severity.WARN,
                f"the certificate of {name} ends {server.ends:%Y-%m-%d %H:%M} UTC, in {days} days",
                f"then: {_LOST[server.database]}",
                _renewed(server),
            )


def _has_ended(scene: Scene) -> bool:
    """Tell whether it is our own certificate that has ended."""
    found = scene.ovn_certificate
    own = None if found is None else found.own
    return own is not None and own.not_valid_after_utc <= scene.now


def _renewed(server: Server) -> str:
    kind, _, place = server.remote.partition(":")
    address = split_address(place)[0] if kind == "ssl" else "ADDRESS"
    return (
        f"on the control machine: unkai-scheduler cert ovn NAME --address {address} --out new; "
        "copy new/* over the old files there, systemctl restart 'ovn-ovsdb-server-*': "
        "traffic flows on"
    )


def northd(scene: Scene) -> Iterable[Finding]:
    """Judge whether somebody translates northbound to southbound."""
    facts = scene.ovn()
    servers = facts.of(SOUTHBOUND)
    if servers and all(server.lock_free for server in servers):
        what = "ovn-northd does not run: nobody has its lock in the southbound database"
    elif facts.behind:
        what = f"ovn-northd does not keep up: networks not translated: {facts.behind}"
    else:
        return
    yield finding(
        Severity.FAIL,
        what,
        "hosts do not learn of any change of networks; what guests have goes on",
        "on OVN's machine: systemctl restart ovn-northd; why: "
        "tail /var/log/ovn/ovn-northd.log; is it paused? ovn-appctl -t ovn-northd status",
    )


def patience(scene: Scene) -> Iterable[Finding]:
    """Judge how long the servers wait for a client that reads everything."""
    for database, target, probe_ms in sorted(_impatient(scene.ovn())):
        said = f"{probe_ms} ms" if probe_ms else "5000 ms, as nothing else is said"
        yield finding(
            Severity.WARN,
            f"OVN's {_NAMES[database]} database hangs up on {target} clients after {said}",
            "a scheduler or host that reads a large database is cut off, and begins again",
            f"{_CTL[database]} set connection . inactivity_probe={PROBE_MS}",
        )


def _impatient(facts: OvnFacts) -> set[tuple[str, str, int]]:
    return {
        (server.database, target, probe_ms or 0)
        for server in facts.servers
        for target, probe_ms in server.probes_ms.items()
        if probe_ms != 0 and (probe_ms or 0) < PROBE_MS
    }


def programs(scene: Scene) -> Iterable[Finding]:
    """Judge whether `network why` has what it asks OVN with."""
    if not scene.settings.network.enabled:
        return
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            yield finding(
                Severity.WARN,
                f"{program} is not installed",
                "'unkai network why' cannot follow a packet",
                f"apt install {package}",
            )


def physical_networks(scene: Scene) -> Iterable[Finding]:
    """Judge whether a host is attached to each of the operator's networks."""
    access, network = scene.access(), scene.settings.network
    if not network.enabled or not access.hosts:
        return
    attached = {name for host in access.hosts for name in host.physical_networks}
    for name in sorted(set(network.physical_networks) - attached):
        yield finding(
            Severity.WARN,
            f"no host is attached to physical network {name}",
            "nothing can be placed on its networks, and routers have no way out through it",
            f"on a host: bridge_mappings = {{{name} = BRIDGE}} in [network] of agent.toml; "
            "systemctl restart unkai-agent",
        )
