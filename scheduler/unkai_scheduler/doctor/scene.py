"""What the checks of a scheduler look at: each thing is asked once, under a deadline."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from unkai_scheduler.cluster import etcd_access
from unkai_scheduler.doctor import ovn_facts
from unkai_scheduler.domain.clock import Clock, system_clock
from unkai_scheduler.settings import Settings
from unkai_scheduler.store.findings import Finding as DatabaseFinding
from unkai_scheduler.store.upkeep import open_upkeep
from unkai_wire.doctor import certificates, daemons, etcd, places
from unkai_wire.doctor.findings import Probe
from unkai_wire.errors import UnkaiError
from unkai_wire.setting_values import split_address
from unkai_wire.tls import Role, TlsFiles

_ETCD_S = 6.0
_DATABASE_S = 8.0
_OVN_S = 9.0
_REACH_S = 2.0
_ASKED_AT_ONCE = 32
UNREACHABLE = "reachable"
"""What the store calls the finding of a database that does not answer."""


class Scene:
    """A scheduler's settings, and what is around it."""

    def __init__(self, settings: Settings, *, clock: Clock = system_clock) -> None:
        self.settings = settings
        self.now = clock()
        self.version = version("unkai")
        self.certificate = certificates.look(
            settings.tls.files(),
            f"on the control machine: unkai-scheduler cert scheduler {settings.name} --out new",
            "; copy new/* here, systemctl restart unkai-scheduler",
        )
        self.etcd_certificate = certificates.look(
            settings.etcd.tls.files(),
            f"move {settings.etcd.tls.certificate} and its key away, then: "
            f"unkai-scheduler init --name {settings.name}; systemctl restart unkai-scheduler",
        )
        self.ovn_certificate = _towards_ovn(settings)
        self.handed_out = _handed_out(settings.tls.files())
        endpoints, tls = settings.etcd.endpoints, settings.etcd.tls.files()
        self.daemon = Probe(
            lambda: daemons.look("unkai-scheduler", settings.socket),
            within_s=daemons.ANSWER_S + 3,
            late=daemons.Daemon("unkai-scheduler", settings.socket, daemons.State.SILENT),
        )
        self.members = Probe(
            lambda: etcd.look_at_all(endpoints, tls),
            within_s=_ETCD_S,
            late=[etcd.Member(endpoint, "no answer") for endpoint in endpoints],
        )
        self.access = Probe(
            lambda: etcd_access.look(endpoints, tls), within_s=_ETCD_S, late=etcd_access.Access()
        )
        network = settings.network
        self.ovn = Probe(
            lambda: ovn_facts.look(network),
            within_s=_OVN_S,
            late=ovn_facts.OvnFacts(
                tuple(
                    ovn_facts.Server(ovn_facts.NORTHBOUND, remote, "no answer")
                    for remote in network.northbound
                )
            ),
        )
        hung = DatabaseFinding(UNREACHABLE, f"no answer within {_DATABASE_S:g} s", "restart it")
        self.database = Probe(lambda: _database(settings, clock), within_s=_DATABASE_S, late=[hung])

    @property
    def where(self) -> str:
        """How this party is called in findings."""
        return f"scheduler {self.settings.name}"

    def places(self) -> list[places.Place]:
        """Return the folders that must take what the scheduler writes."""
        found = []
        if self.settings.database.kind == "sqlite":
            file = Path(self.settings.database.url.removeprefix("sqlite:///"))
            found.append(places.Place(file.parent, "the database"))
        if self.settings.images.url.startswith("file://"):
            folder = Path(self.settings.images.url.removeprefix("file://"))
            found.append(places.Place(folder, "images"))
        return found

    def unreached(self, addresses: Iterable[str]) -> dict[str, str]:
        """Return the addresses that take no connection from here, each with why."""

        def trouble(address: str) -> str:
            try:
                socket.create_connection(split_address(address), timeout=_REACH_S).close()
            except (OSError, ValueError) as error:
                return str(error) or type(error).__name__
            return ""

        asked = sorted(set(addresses))
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            answers = dict(zip(asked, pool.map(trouble, asked), strict=True))
        return {address: why for address, why in answers.items() if why}


def _towards_ovn(settings: Settings) -> certificates.Certificate | None:
    """Look at what we show to OVN's databases; None: nothing."""
    if not settings.network.uses_tls:
        return None
    return certificates.look(
        settings.network.tls.files(),
        f"on the control machine: unkai-scheduler cert ovn-client {settings.name} --out new",
        "; copy new/* here, systemctl restart unkai-scheduler",
    )


def _handed_out(own: TlsFiles) -> list[certificates.Certificate]:
    """Look at the certificates of people and monitors that lie beside our own."""
    folder = own.certificate.parent
    found = []
    for role in (Role.CLIENT, Role.MONITOR):
        for path in sorted(folder.glob(f"{role.value}-*.crt")):
            name = path.stem.removeprefix(f"{role.value}-")
            renew = (
                f"move {path} and its key away, then: "
                f"unkai-scheduler cert {role.value} {name} --out {folder}"
            )
            files = TlsFiles(own.ca, path, path.with_suffix(".key"))
            found.append(certificates.look(files, renew, "; copy both to where they are used"))
    return found


def _database(settings: Settings, clock: Clock) -> list[DatabaseFinding]:
    try:
        return open_upkeep(settings.database, clock).check()
    except UnkaiError as error:
        fix = error.fix or "see that the database server runs"
        return [DatabaseFinding(UNREACHABLE, error.message, fix)]
