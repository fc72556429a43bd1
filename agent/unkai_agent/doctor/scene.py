"""What the checks of a host look at: each thing is asked once, under a deadline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from unkai_agent.compute.kvm_proof import PROOF_DEADLINE_S, prove_kvm
from unkai_agent.compute.libvirt_facts import HypervisorFacts, knock, look_at
from unkai_agent.doctor import etcd_access
from unkai_agent.doctor.switch_facts import SwitchFacts, look_at_switch
from unkai_agent.domain.clock import Clock, system_clock
from unkai_agent.domain.hosts import Accelerator
from unkai_agent.settings import NetworkTlsSettings, Settings
from unkai_wire.doctor import certificates, daemons, etcd
from unkai_wire.doctor.findings import Probe
from unkai_wire.errors import UnkaiError
from unkai_wire.tls import Principal, TlsFiles

EMULATOR = "qemu-system-x86_64"
_ETCD_S = 6.0
_LIBVIRT_S = 5.0
_FACTS_S = 8.0
_SWITCH_S = 8.0


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a host keeps what is not ours."""

    qemu_conf: Path = Path("/etc/libvirt/qemu.conf")
    libvirt: Path = Path("/var/lib/libvirt")
    kvm: Path = Path("/dev/kvm")
    pressure: Path = Path("/proc/pressure")
    system_id: Path = Path("/etc/openvswitch/system-id.conf")
    """What Debian's start script names the switch by."""
    clock_source: Path = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether libvirt answers; `trouble`: why not."""

    trouble: str = ""
    hangs: bool = False


class Scene:
    """One host's settings, and what is around its agent."""

    def __init__(
        self, settings: Settings, *, paths: Paths | None = None, clock: Clock = system_clock
    ) -> None:
        self.settings = settings
        self.paths = paths or Paths()
        self.now = clock()
        tls = settings.tls.files()
        self.simulated = settings.fleet.hosts > 0
        kind = "fleet" if self.simulated else "host"
        renew = f"on the control machine: unkai-scheduler cert {kind} NAME --out new"
        found = certificates.look(tls, renew)
        self.principal: Principal | None = (
            certificates.principal_of(found.own) if found.own is not None else None
        )
        if self.principal is not None and self.principal.host_id:
            name, ident = self.principal.name, self.principal.host_id
            renew = (
                f"on the control machine: unkai-scheduler cert host {name} --host-id {ident} "
                "--out new"
            )
        then = "; copy new/* here, systemctl restart unkai-agent: guests run on"
        self.certificate = replace(found, renew=renew, then=then)
        self.switch_certificate = _of_switch(settings, self.certificate)
        self.daemon = Probe(
            lambda: daemons.look("unkai-agent", settings.socket),
            within_s=daemons.ANSWER_S + 3,
            late=daemons.Daemon("unkai-agent", settings.socket, daemons.State.SILENT),
        )
        endpoints = settings.etcd.endpoints
        silent = [etcd.Member(endpoint, "no answer") for endpoint in endpoints]
        self.members = Probe(
            lambda: etcd.look_at_all(endpoints, tls), within_s=_ETCD_S, late=silent
        )
        self.access = Probe(
            lambda: etcd_access.look(
                endpoints, tls, self.principal.host_id if self.principal else ""
            ),
            within_s=_ETCD_S,
            late=etcd_access.Access(),
        )
        uri = settings.libvirt.uri
        self.libvirt = Probe(
            lambda: _answer(uri),
            within_s=_LIBVIRT_S,
            late=Answer(f"no answer within {_LIBVIRT_S:g} s", hangs=True),
        )
        # A libvirtd that is busy trying its emulators is not one that hangs: no facts, then.
        self.hypervisor: Probe[HypervisorFacts | None] = Probe(
            lambda: _facts(uri), within_s=_FACTS_S, late=None
        )

        network = settings.network
        self.switch = Probe(
            lambda: look_at_switch(network.switch, network.controller_dir),
            within_s=_SWITCH_S,
            late=SwitchFacts(f"no answer within {_SWITCH_S:g} s"),
        )

    @property
    def where(self) -> str:
        """How this party is called in findings."""
        return f"agent {self.principal.name}" if self.principal else "agent"

    def prove_kvm(self) -> Accelerator:
        """Run a guest on KVM, as QEMU's user."""
        proof = prove_kvm(EMULATOR, self.settings.libvirt.qemu_user, deadline_s=PROOF_DEADLINE_S)
        return asyncio.run(proof)


def _of_switch(
    settings: Settings, own: certificates.Certificate
) -> certificates.Certificate | None:
    """Look at what the switch shows to OVN; None: nothing, or what the agent shows."""
    network = settings.network
    given = network.tls
    by_tls = any(remote.startswith("ssl:") for remote in network.southbound)
    if not by_tls or given == NetworkTlsSettings():
        return None
    files = TlsFiles(
        given.ca or settings.tls.ca,
        given.certificate or settings.tls.certificate,
        given.key or settings.tls.key,
    )
    then = "; copy host.* over them; ovn-controller takes them by itself"
    return certificates.look(files, own.renew, then)


def _answer(uri: str) -> Answer:
    try:
        knock(uri)
    except ModuleNotFoundError:
        return Answer("the Python module libvirt is not installed")
    except UnkaiError as error:
        return Answer(error.message)
    return Answer()


def _facts(uri: str) -> HypervisorFacts | None:
    try:
        return look_at(uri)
    except (ModuleNotFoundError, UnkaiError):
        return None  # another check's
