"""The checks of a scheduler: its files, its process, the database, etcd, and what stands there.

Names are stable: people put them into scripts. Each function looks at one thing and says what is
wrong with it; what several of them need is asked once, by the scene.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterable, Iterator

from unkai_scheduler.doctor import networks
from unkai_scheduler.doctor.scene import UNREACHABLE, Scene
from unkai_wire.doctor import certificates, daemons, etcd, places
from unkai_wire.doctor.findings import Checks, Finding, Severity, finding
from unkai_wire.setting_values import split_address
from unkai_wire.tls import Role

CHECKS: Checks[Scene] = Checks()
_TOLD = ("revision", "integrity", "room", "clock", UNREACHABLE)
"""The store's findings that have a check of their own; `database` has the others."""


def _both(scene: Scene) -> Iterator[certificates.Certificate]:
    yield scene.certificate
    yield scene.etcd_certificate


def _all(scene: Scene) -> Iterator[certificates.Certificate]:
    yield from _both(scene)
    if scene.ovn_certificate is not None:
        yield scene.ovn_certificate


# Certificates


@CHECKS.add("certificate-files", "certificates, keys and CA are there and hold PEM")
def certificate_files(scene: Scene) -> Iterable[Finding]:
    """Judge the files."""
    found = [f for certificate in _all(scene) for f in certificates.unreadable(certificate)]
    return {f.what: f for f in found}.values()  # the CA's file is often the same


@CHECKS.add("certificate-key", "each key is its certificate's")
def certificate_key(scene: Scene) -> Iterable[Finding]:
    """Judge the pairs."""
    for certificate in _all(scene):
        yield from certificates.other_key(certificate)


@CHECKS.add("key-mode", "nobody but its owner may read a key, the CA's least of all")
def key_mode(scene: Scene) -> Iterable[Finding]:
    """Judge the keys' permissions."""
    for certificate in _all(scene):
        yield from certificates.exposed_key(certificate)
    key = scene.settings.tls.ca.with_name("ca.key")
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError:
        return
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield finding(
            Severity.FAIL,
            f"{key} has mode {mode:04o}",
            "whoever reads it can make a certificate of anybody",
            f"chmod 0600 {key}; if others have been on this machine, make a new CA",
        )


@CHECKS.add("certificate-ca", "the CA that we trust has made our certificates")
def certificate_ca(scene: Scene) -> Iterable[Finding]:
    """Judge the chains."""
    for certificate in _both(scene):
        yield from certificates.other_ca(certificate)


@CHECKS.add(
    "certificate-dates",
    "our certificates, and those in our folder, are valid today and for a month",
)
def certificate_dates(scene: Scene) -> Iterable[Finding]:
    """Judge the dates."""
    looked_at = (*_all(scene), *scene.handed_out)
    found = [f for certificate in looked_at for f in certificates.dates(certificate, scene.now)]
    return {f.what: f for f in found}.values()


@CHECKS.add("certificate-identity", "the certificates are a scheduler's")
def certificate_identity(scene: Scene) -> Iterable[Finding]:
    """Judge whose they are."""
    for certificate in _both(scene):
        yield from certificates.identity(certificate, Role.SCHEDULER)


@CHECKS.add("certificate-address", "the certificate names the address where we are reached")
def certificate_address(scene: Scene) -> Iterable[Finding]:
    """Judge the address."""
    address = split_address(scene.settings.advertise_address)[0]
    return certificates.address(scene.certificate, address)


# The scheduler


@CHECKS.add("scheduler-running", "the scheduler runs and answers")
def scheduler_running(scene: Scene) -> Iterable[Finding]:
    """Judge the process."""
    return daemons.running(scene.daemon())


@CHECKS.add("scheduler-ports", "its ports are free when it is down")
def scheduler_ports(scene: Scene) -> Iterable[Finding]:
    """Judge the ports."""
    listen = [("listen", scene.settings.listen)]
    if scene.settings.metrics_listen:
        listen.append(("metrics_listen", scene.settings.metrics_listen))
    return daemons.ports(scene.daemon(), listen)


@CHECKS.add("scheduler-files", "it may open enough files")
def scheduler_files(scene: Scene) -> Iterable[Finding]:
    """Judge the limit."""
    return daemons.open_files(scene.daemon())


@CHECKS.add("disk-space", "there is room for the database and for images")
def disk_space(scene: Scene) -> Iterable[Finding]:
    """Judge the room."""
    return places.room(scene.places())


@CHECKS.add("disk-inodes", "new files can be made there")
def disk_inodes(scene: Scene) -> Iterable[Finding]:
    """Judge the inodes."""
    return places.inodes(scene.places())


@CHECKS.add("disk-writable", "no such file system is read-only or fails")
def disk_writable(scene: Scene) -> Iterable[Finding]:
    """Judge whether we can write."""
    return places.writable(scene.places())


# The database


@CHECKS.add("database-reachable", "the database answers")
def database_reachable(scene: Scene) -> Iterable[Finding]:
    """Judge the road to the database."""
    return _of_database(scene, UNREACHABLE, "requests fail with UNAVAILABLE; guests run on")


@CHECKS.add("database-revision", "the database has this version's schema")
def database_revision(scene: Scene) -> Iterable[Finding]:
    """Judge the revision."""
    return _of_database(scene, "revision", "this scheduler cannot work with it as it is")


@CHECKS.add("database-integrity", "the database is whole")
def database_integrity(scene: Scene) -> Iterable[Finding]:
    """Judge what the database says of itself."""
    return _of_database(scene, "integrity", "what it holds cannot be relied on")


@CHECKS.add("clock-database", "this clock agrees with the database server's")
def clock_database(scene: Scene) -> Iterable[Finding]:
    """Judge the clocks: a file has none of its own."""
    return _of_database(scene, "clock", "the cloud's times are the database's, and mislead")


@CHECKS.add("database", "its settings, term and history are as they must be")
def database(scene: Scene) -> Iterable[Finding]:
    """Judge the rest."""
    rest = {found.what for found in scene.database()} - set(_TOLD)
    for what in sorted(rest):
        yield from _of_database(scene, what, "the scheduler relies on it")


def _of_database(scene: Scene, what: str, why: str) -> Iterable[Finding]:
    for found in scene.database():
        if found.what == what and not found.ok:
            yield finding(Severity.FAIL, f"database: {what}: {found.text}", why, found.fix)


# etcd, and what stands there


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


@CHECKS.add("etcd-space", "etcd has room left")
def etcd_space(scene: Scene) -> Iterable[Finding]:
    """Judge the room in etcd."""
    return etcd.space(scene.members())


@CHECKS.add("clock-etcd", "this clock agrees with etcd's machines")
def clock_etcd(scene: Scene) -> Iterable[Finding]:
    """Judge the clocks."""
    return etcd.clock(scene.members())


@CHECKS.add("etcd-permission", "etcd lets schedulers work")
def etcd_permission(scene: Scene) -> Iterable[Finding]:
    """Judge what etcd answers to this certificate."""
    if scene.access().refused:
        yield finding(
            Severity.FAIL,
            "etcd refuses this scheduler's certificate",
            "it sees no host and can never lead",
            "on the control machine: unkai-scheduler etcd secure",
        )


@CHECKS.add("etcd-secured", "etcd asks for permission")
def etcd_secured(scene: Scene) -> Iterable[Finding]:
    """Judge whether etcd is open to all certificates."""
    if scene.access().unguarded:
        yield finding(
            Severity.FAIL,
            "etcd asks nobody for permission: each certificate may write everything",
            "one stolen host key is enough to take the whole cloud's membership over",
            "on the control machine: unkai-scheduler etcd secure",
        )


@CHECKS.add("leader", "a scheduler leads")
def leader(scene: Scene) -> Iterable[Finding]:
    """Judge the election."""
    access = scene.access()
    if access.answered and not access.refused and access.leader is None:
        yield finding(
            Severity.FAIL,
            "no scheduler leads",
            "accepted requests wait; guests run on",
            "systemctl restart unkai-scheduler; why: journalctl -u unkai-scheduler | grep -i term",
        )


@CHECKS.add("scheduler-registered", "this scheduler stands in etcd as it is")
def scheduler_registered(scene: Scene) -> Iterable[Finding]:
    """Judge this scheduler's record."""
    access, name = scene.access(), scene.settings.name
    if not access.answered or access.refused or scene.daemon().state is not daemons.State.SERVING:
        return
    own = [record for record in access.schedulers if record.name == name]
    if not own:
        yield finding(
            Severity.FAIL,
            f"the scheduler runs, but {name} is not registered in etcd",
            "agents and other schedulers do not find it",
            "journalctl -u unkai-scheduler | grep etcd; then: systemctl restart unkai-scheduler",
        )
    elif own[0].address != scene.settings.advertise_address:
        yield finding(
            Severity.FAIL,
            f"{name} is registered at {own[0].address}, but these settings say "
            f"{scene.settings.advertise_address}",
            "two schedulers have one name, or this one runs with other settings",
            "give each its own 'name'; systemctl restart unkai-scheduler",
        )


@CHECKS.add("host-names", "no two hosts have one name or one address")
def host_names(scene: Scene) -> Iterable[Finding]:
    """Judge the hosts' records."""
    hosts = scene.access().hosts
    # Simulated hosts share their fleet's address, and its name in the certificate.
    real = [host for host in hosts if host.tls_name.startswith(host.host_id)]
    for name, count in Counter(host.name for host in hosts).items():
        if count > 1:
            ids = ", ".join(host.host_id for host in hosts if host.name == name)
            yield finding(
                Severity.FAIL,
                f"{count} hosts are called {name}: {ids}",
                "nobody can tell them apart by name",
                "make one a certificate of another name: unkai-scheduler cert host NAME",
            )
    for address, count in Counter(host.address for host in real).items():
        if count > 1:
            names = ", ".join(host.name for host in real if host.address == address)
            yield finding(
                Severity.FAIL,
                f"{count} hosts say that they are at {address}: {names}",
                "orders to one reach the other, which refuses them",
                "set 'advertise' of each to its own address; systemctl restart unkai-agent",
            )


@CHECKS.add("host-records", "what hosts say of themselves can be read")
def host_records(scene: Scene) -> Iterable[Finding]:
    """Judge records that make no sense."""
    if scene.access().unreadable:
        yield finding(
            Severity.FAIL,
            f"{scene.access().unreadable} host records in etcd make no sense",
            "those hosts are not seen",
            "bring their agents to this version; if they are, mistrust the hosts",
        )


@CHECKS.add("agents-reached", "each agent is reached from here")
def agents_reached(scene: Scene) -> Iterable[Finding]:
    """Judge the network to the hosts."""
    hosts = scene.access().hosts
    unreached = scene.unreached(host.address for host in hosts)
    for host in hosts:
        if why := unreached.get(host.address):
            name, port = split_address(host.address)
            yield finding(
                Severity.FAIL,
                f"the agent of {host.name} at {host.address} is not reached: {why}",
                "its host stays CONNECTING: nothing is placed there, its machines are UNKNOWN",
                f"let schedulers through to its port {port}: nc -zv {name} {port}; on the host: "
                "see 'advertise' and its firewall",
            )


@CHECKS.add("versions", "schedulers and agents are of one version")
def versions(scene: Scene) -> Iterable[Finding]:
    """Judge the versions that stand in etcd."""
    access = scene.access()
    for record in access.schedulers:
        if record.version != scene.version:
            yield finding(
                Severity.WARN,
                f"scheduler {record.name} is version {record.version}, this is {scene.version}",
                "versions may mix for an upgrade, not for good; or it was not restarted since",
                f"on {record.name}: pip install --upgrade unkai; systemctl restart unkai-scheduler",
            )
    for host in access.hosts:
        if host.agent_version != scene.version:
            yield finding(
                Severity.WARN,
                f"the agent of {host.name} is version {host.agent_version}, "
                f"the scheduler {scene.version}",
                "versions may mix for an upgrade, not for good; or it was not restarted since",
                f"on {host.name}: pip install --upgrade unkai; systemctl restart unkai-agent",
            )


# What carries networks


CHECKS.add("ovn-reachable", "OVN's databases answer")(networks.reachable)
CHECKS.add("ovn-trust", "OVN's databases and we take each other's certificates")(networks.trusted)
CHECKS.add("ovn-northd", "ovn-northd runs and translates what we write")(networks.northd)
CHECKS.add("ovn-patience", "OVN's databases wait long enough for clients")(networks.patience)
CHECKS.add("ovn-programs", "the programs that 'network why' runs are installed")(networks.programs)
CHECKS.add("physical-networks", "each physical network of the settings is attached to a host")(
    networks.physical_networks
)
