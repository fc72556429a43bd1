"""The checks of a host: its files, its agent, etcd, and the schedulers. The hypervisor's: `guests`.

Names are stable: people put them into scripts. Each function looks at one thing and says what is
wrong with it; what several of them need is asked once, by the scene.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress

from unkai_agent.doctor.scene import Scene
from unkai_agent.host_facts import FEATURES, advertised_address, agent_version
from unkai_agent.ledger_files import examine
from unkai_agent.state_lock import holder_of
from unkai_wire.doctor import certificates, daemons, etcd, places
from unkai_wire.doctor.findings import Checks, Finding, Severity, finding
from unkai_wire.errors import UnkaiError
from unkai_wire.setting_values import split_address
from unkai_wire.tls import Role

CHECKS: Checks[Scene] = Checks()
_REACH_S = 2.0
_SLOW_CLOCKS = ("jiffies", "refined-jiffies", "acpi_pm", "pit", "hpet")


# Certificates


def _both(scene: Scene) -> Iterator[certificates.Certificate]:
    """Yield our own, and the switch's where it has others."""
    yield scene.certificate
    if scene.switch_certificate is not None:
        yield scene.switch_certificate


@CHECKS.add("certificate-files", "certificates, keys and CA are there and hold PEM")
def certificate_files(scene: Scene) -> Iterable[Finding]:
    """Judge the files."""
    found = [f for certificate in _both(scene) for f in certificates.unreadable(certificate)]
    return {f.what: f for f in found}.values()  # some files may be the same


@CHECKS.add("certificate-key", "each key is its certificate's")
def certificate_key(scene: Scene) -> Iterable[Finding]:
    """Judge the pairs."""
    for certificate in _both(scene):
        yield from certificates.other_key(certificate)


@CHECKS.add("key-mode", "nobody but its owner may read the key")
def key_mode(scene: Scene) -> Iterable[Finding]:
    """Judge the key's permissions."""
    return certificates.exposed_key(scene.certificate)


@CHECKS.add("certificate-ca", "the CA that we trust has made our certificate")
def certificate_ca(scene: Scene) -> Iterable[Finding]:
    """Judge the chain."""
    return certificates.other_ca(scene.certificate)


@CHECKS.add("certificate-dates", "certificates and CAs are valid today and for a month")
def certificate_dates(scene: Scene) -> Iterable[Finding]:
    """Judge the dates."""
    found = [f for certificate in _both(scene) for f in certificates.dates(certificate, scene.now)]
    return {f.what: f for f in found}.values()


@CHECKS.add("certificate-identity", "the certificate is a host's")
def certificate_identity(scene: Scene) -> Iterable[Finding]:
    """Judge whose it is."""
    return certificates.identity(scene.certificate, Role.FLEET if scene.simulated else Role.HOST)


@CHECKS.add("certificate-address", "the certificate names the address where we are reached")
def certificate_address(scene: Scene) -> Iterable[Finding]:
    """Judge the address."""
    try:
        address = advertised_address(scene.settings)
    except UnkaiError as error:
        yield finding(Severity.FAIL, error.message, "nobody can reach this host", error.fix)
        return
    yield from certificates.address(scene.certificate, split_address(address)[0])


# The agent


@CHECKS.add("agent-running", "the agent runs and answers")
def agent_running(scene: Scene) -> Iterable[Finding]:
    """Judge the process."""
    return daemons.running(scene.daemon())


@CHECKS.add("agent-ports", "its ports are free when it is down")
def agent_ports(scene: Scene) -> Iterable[Finding]:
    """Judge the ports."""
    listen = [("listen", scene.settings.listen)]
    if scene.settings.metrics_listen:
        listen.append(("metrics_listen", scene.settings.metrics_listen))
    return daemons.ports(scene.daemon(), listen)


@CHECKS.add("agent-files", "it may open enough files")
def agent_files(scene: Scene) -> Iterable[Finding]:
    """Judge the limit."""
    return daemons.open_files(scene.daemon())


@CHECKS.add("state-owner", "no other agent uses the state folder")
def state_owner(scene: Scene) -> Iterable[Finding]:
    """Judge who holds the folder's lock."""
    holder, daemon = holder_of(scene.settings.state_dir), scene.daemon()
    if holder is None or holder == daemon.pid:
        return
    yield finding(
        Severity.FAIL,
        f"process {holder} uses {scene.settings.state_dir}, and it is not the agent of "
        f"{scene.settings.socket}",
        "two agents in one folder would sweep what the other makes, so the second does not start",
        f"see what it is: ps -fp {holder}; stop it, or give one of them another state_dir",
    )


@CHECKS.add("ledger", "every file of the ledger can be read by this version")
def ledger(scene: Scene) -> Iterable[Finding]:
    """Judge the ledgers in the state folder."""
    folder = scene.settings.state_dir / "ledger"
    for file, problem, newer in examine(folder):
        if newer:
            yield finding(
                Severity.FAIL,
                f"{file} was written by a newer agent",
                "this agent does not start: it would forget what the newer one knew",
                "install that version again; guests run on meanwhile",
            )
        else:
            yield finding(
                Severity.FAIL,
                f"{file}: {problem}",
                "the agent does not know what it was asked to hold there; nothing is removed",
                f"restore the file from a backup, or adopt its machine; then remove {file}",
            )


@CHECKS.add("disk-space", "there is room for disks, images and the ledger")
def disk_space(scene: Scene) -> Iterable[Finding]:
    """Judge the room."""
    return places.room(_places(scene))


@CHECKS.add("disk-inodes", "new files can be made there")
def disk_inodes(scene: Scene) -> Iterable[Finding]:
    """Judge the inodes."""
    return places.inodes(_places(scene))


@CHECKS.add("disk-writable", "no such file system is read-only or fails")
def disk_writable(scene: Scene) -> Iterable[Finding]:
    """Judge whether we can write."""
    return places.writable(_places(scene))


def _places(scene: Scene) -> list[places.Place]:
    found = [places.Place(scene.settings.state_dir, "disks, images and the ledger")]
    if not scene.simulated:
        found.append(places.Place(scene.paths.libvirt, "libvirt's state", ours=False))
    return found


@CHECKS.add("live-figures", "the kernel tells pressure and the groups set exist")
def live_figures(scene: Scene) -> Iterable[Finding]:
    """Judge where samples come from."""
    if scene.simulated:
        return
    sampler = scene.settings.sampler
    wanted = {"sampler.cgroup2": sampler.cgroup2, "sampler.memory_v1": sampler.memory_v1}
    wanted |= {"sampler.blkio_v1": sampler.blkio_v1, "sampler.cpu_v1": sampler.cpu_v1}
    for setting, group in wanted.items():
        if group is not None and not group.is_dir():
            yield finding(
                Severity.FAIL,
                f"{setting} = {group} is not there",
                "there are no live figures, so nothing is placed on this host",
                f"make the group, or remove '{setting}' to sample the whole machine",
            )
    if sampler.cgroup2 is None and not (scene.paths.pressure / "cpu").exists():
        yield finding(
            Severity.WARN,
            f"this kernel tells no pressure: {scene.paths.pressure}/cpu is not there",
            "placement does not see that work waits on this host",
            "boot with psi=1 (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub)",
        )


@CHECKS.add("clock-source", "the kernel's clock is a good one")
def clock_source(scene: Scene) -> Iterable[Finding]:
    """Judge the clock source."""
    with suppress(OSError):
        name = scene.paths.clock_source.read_text().strip()
        if name in _SLOW_CLOCKS:
            yield finding(
                Severity.WARN,
                f"the kernel's clock source is {name}",
                "reading the time is slow and may drift: the kernel mistrusts the CPU's counter",
                "see 'dmesg | grep -i tsc'; the firmware's or hypervisor's settings mend it",
            )


# etcd and schedulers


@CHECKS.add("etcd-reachable", "each etcd member answers")
def etcd_reachable(scene: Scene) -> Iterable[Finding]:
    """Judge the network to etcd."""
    return etcd.reachable(scene.members())


@CHECKS.add("etcd-trust", "etcd and we take each other's certificates")
def etcd_trust(scene: Scene) -> Iterable[Finding]:
    """Judge the handshake with etcd."""
    return etcd.trusted(scene.members())


@CHECKS.add("etcd-quorum", "etcd has a leader")
def etcd_quorum(scene: Scene) -> Iterable[Finding]:
    """Judge the members' health."""
    return etcd.quorum(scene.members())


@CHECKS.add("clock-etcd", "this clock agrees with etcd's machines")
def clock_etcd(scene: Scene) -> Iterable[Finding]:
    """Judge the clocks."""
    return etcd.clock(scene.members())


@CHECKS.add("etcd-permission", "etcd lets this host register")
def etcd_permission(scene: Scene) -> Iterable[Finding]:
    """Judge what etcd answers to this certificate."""
    if scene.access().refused:
        yield finding(
            Severity.FAIL,
            "etcd refuses this host's certificate",
            "the host cannot register: schedulers do not see it",
            "on the control machine: unkai-scheduler etcd secure",
        )


@CHECKS.add("etcd-secured", "etcd asks for permission")
def etcd_secured(scene: Scene) -> Iterable[Finding]:
    """Judge whether etcd is open to all certificates."""
    if scene.access().unguarded:
        yield finding(
            Severity.FAIL,
            "etcd asks nobody for permission: this host may read and write what is not its own",
            "one stolen host key is enough to take the whole cloud's membership over",
            "on the control machine: unkai-scheduler etcd secure",
        )


@CHECKS.add("agent-registered", "this host stands in etcd as it is")
def agent_registered(scene: Scene) -> Iterable[Finding]:
    """Judge the host's record."""
    access, daemon = scene.access(), scene.daemon()
    if scene.simulated or not access.answered or access.refused:
        return
    record = access.record
    if record is None:
        if daemon.state is daemons.State.SERVING:
            yield finding(
                Severity.FAIL,
                "the agent runs, but its host is not registered in etcd",
                "schedulers do not see the host",
                "journalctl -u unkai-agent | grep etcd; then: systemctl restart unkai-agent",
            )
        return
    with suppress(UnkaiError):
        ours = advertised_address(scene.settings)
        if record.address != ours:
            yield finding(
                Severity.FAIL,
                f"this host is registered at {record.address}, but these settings say {ours}",
                "another machine has a copy of this certificate, or the agent runs with others",
                "systemctl restart unkai-agent; if it comes again, make the other its own "
                "certificate: unkai-scheduler cert host NAME",
            )


@CHECKS.add("scheduler-known", "a scheduler is registered and reached from here")
def scheduler_known(scene: Scene) -> Iterable[Finding]:
    """Judge the road to the schedulers."""
    access = scene.access()
    if not access.answered or access.refused:
        return
    if not access.schedulers:
        yield finding(
            Severity.WARN,
            "no scheduler is registered in etcd",
            "nothing new is placed; guests run on",
            "on the control machine: systemctl start unkai-scheduler",
        )
    for scheduler in access.schedulers:
        host, port = split_address(scheduler.address)
        try:
            socket.create_connection((host, port), timeout=_REACH_S).close()
        except OSError as error:
            yield finding(
                Severity.WARN,
                f"scheduler {scheduler.name} at {scheduler.address} is not reached: {error}",
                "images cannot be fetched from it",
                f"on its machine: systemctl status unkai-scheduler; between: nc -zv {host} {port}",
            )


@CHECKS.add("versions", "agent and schedulers are of one version")
def versions(scene: Scene) -> Iterable[Finding]:
    """Judge the versions in etcd and of the agent that runs."""
    ours, access = agent_version(), scene.access()
    for scheduler in access.schedulers:
        if scheduler.version != ours:
            yield finding(
                Severity.WARN,
                f"scheduler {scheduler.name} is version {scheduler.version}, this is {ours}",
                "versions may mix for an upgrade, not for good",
                "upgrade schedulers first, then agents: pip install --upgrade unkai",
            )
    record = access.record
    if record is None:
        return
    if record.agent_version != ours:
        yield finding(
            Severity.WARN,
            f"the agent that runs is version {record.agent_version}, installed is {ours}",
            "it was upgraded, and not restarted",
            "systemctl restart unkai-agent; guests run on",
        )
    elif set(FEATURES) - set(record.features):
        lacking = ", ".join(sorted(set(FEATURES) - set(record.features)))
        yield finding(
            Severity.WARN,
            f"the agent that runs lacks {lacking}, which the installed one has",
            "it was upgraded, and not restarted",
            "systemctl restart unkai-agent; guests run on",
        )
