"""Story: the lab's OVN carries packets before anything of ours has touched it, wired by hand.

1. DHCP, pings across hosts, packets of the largest size, a router out, a floating address.
2. Each of OVN's and the switch's programs is killed and started again; those of a host come again
   by themselves after a crash; a host is rebooted.
3. The databases let in whom they shall. 4. Two labs side by side share nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.lab import skip_without_a_lab_machine, unique, wait_for
from unkai_lab.configuration import scheduler_settings
from unkai_lab.lab import Lab
from unkai_lab.lock import hold
from unkai_lab.ovn import CENTRAL_PROGRAMS, NORTHBOUND, SOUTHBOUND, OvnDatabase, remote
from unkai_lab.spec import CONTROL, EXTERNAL, EXTERNAL_RANGE, FAR_ADDRESS, LabPaths, LabSpec
from unkai_lab.switches import CONTROLLER, SWITCH_PROGRAMS
from unkai_lab.teardown import leftovers, take_down

GATEWAY, FLOATING = EXTERNAL_RANGE[10], EXTERNAL_RANGE[20]
MTU = 1442
_LEASE = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address replace $ip/$mask dev $interface
ip route replace default via $router
"""


@dataclass(frozen=True)
class Guest:
    """A namespace on a host, plugged in as a machine would be."""

    lab: Lab
    host: str
    number: int

    @property
    def address(self) -> str:
        return f"10.0.0.1{self.number}"

    @property
    def mac(self) -> str:
        return f"02:00:00:00:01:0{self.number}"

    def plug_in(self) -> None:
        """Make it, and let it take an address."""
        tap, space = f"g{self.number}", f"/run/netns/g{self.number}"
        script = f"""
            mkdir -p /run/netns && touch {space}
            unshare --net={space} ip link set lo up
            ip link add {tap} mtu {MTU} type veth \
                peer name eth0 netns {space} mtu {MTU} address {self.mac}
            nsenter --net={space} ethtool -K eth0 tx off >/dev/null
            nsenter --net={space} ip link set eth0 up
            ip link set {tap} up
            ovs-vsctl --timeout=20 -- --if-exists del-port {tap}
            ovs-vsctl --timeout=20 -- add-port br-int {tap} \
                -- set Interface {tap} external-ids:iface-id=p{self.number}
            ovs-vsctl --timeout=30 wait-until Interface {tap} external-ids:ovn-installed=true
            printf '%s' "$1" >/run/lease && chmod 755 /run/lease
            """
        self.lab.run(self.host, ["sh", "-euc", script, "-", _LEASE], timeout_s=60)
        self.run("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-t", "9", "-s", "/run/lease")

    def run(self, *argv: str) -> str:
        """Run a program inside; it must succeed."""
        inside = ["nsenter", f"--net=/run/netns/g{self.number}", *argv]
        return self.lab.run(self.host, inside, timeout_s=60).stdout

    def reaches(self, address: object, *options: str) -> bool:
        """Tell whether one ping comes back."""
        inside = ["nsenter", f"--net=/run/netns/g{self.number}", "ping", "-c1", "-W1", *options]
        return self.lab.run(self.host, [*inside, str(address)], check=False).returncode == 0

    def await_reach(self, address: object) -> None:
        wait_for(lambda: self.reaches(address), f"{address} is reached from {self.host}", 60)


def _substrate(spec: LabSpec) -> Lab:
    """Make a lab's cells, OVN and switches, without our own daemons."""
    lab = Lab.create(spec, print)
    with hold(lab.paths.folder):
        lab.prepare()
        lab.boot(CONTROL)
        lab.start_external()
    lab.control.ovn.start()
    for host in spec.host_names:
        lab.boot(host)
        lab.switch(host).start()
        _join(lab, host)
    return lab


def _join(lab: Lab, host: str) -> None:
    """Let a host belong to OVN by its own certificate, as an agent does."""
    pki = lab.paths.cell(host) / "pki"
    switch = lab.switch(host)
    ids = {
        "system-id": _host_id(lab, host),
        "hostname": host,
        "ovn-remote": remote(lab.spec, SOUTHBOUND),
        "ovn-encap-type": "geneve",
        "ovn-encap-ip": lab.spec.tunnel_address(host),
        "ovn-bridge-datapath-type": "netdev",
        "ovn-monitor-all": "true",
    }
    if host in lab.spec.gateway_hosts:
        ids["ovn-bridge-mappings"] = "external:br-ex"
    words = [f"external-ids:{key}={value}" for key, value in ids.items()]
    files = [str(pki / name) for name in ("host.key", "host.crt", "ca.crt")]
    switch.vsctl("set-ssl", *files, "--", "set", "Open_vSwitch", ".", *words)


def _host_id(lab: Lab, host: str) -> str:
    certificate = str(lab.paths.cell(host) / "pki" / "host.crt")
    said = lab.run(host, ["openssl", "x509", "-noout", "-subject", "-in", certificate]).stdout
    return said.strip().rpartition(" ")[2]


def _wire(lab: Lab) -> None:
    """Make a network, its DHCP, a router with a way out, and a floating address of the second."""
    nb = lab.control.ovn
    chassis = {host: _host_id(lab, host) for host in lab.spec.gateway_hosts}

    def ctl(text: str) -> str:
        return nb.ctl(NORTHBOUND, *text.split())

    ctl("ls-add inside -- ls-add outside -- lr-add router")
    ctl(
        "create DHCP_Options cidr=10.0.0.0/24 options:server_id=10.0.0.1 options:lease_time=3600 "
        "options:server_mac=02:00:00:00:00:01 options:router=10.0.0.1"
    )
    dhcp = ctl("--bare --columns=_uuid list DHCP_Options").strip()
    for number in (1, 2):
        nb.ctl(
            NORTHBOUND,
            *("lsp-add", "inside", f"p{number}", "--", "lsp-set-addresses", f"p{number}"),
            f"02:00:00:00:01:0{number} 10.0.0.1{number}",
            *("--", "lsp-set-dhcpv4-options", f"p{number}", dhcp),
        )
    for switch, mac, network in (
        ("inside", "02:00:00:00:00:01", "10.0.0.1/24"),
        ("outside", "02:00:00:00:00:02", f"{GATEWAY}/{EXTERNAL_RANGE.prefixlen}"),
    ):
        ctl(
            f"lrp-add router to-{switch} {mac} {network} -- lsp-add {switch} from-{switch} "
            f"-- lsp-set-type from-{switch} router -- lsp-set-addresses from-{switch} router "
            f"-- lsp-set-options from-{switch} router-port=to-{switch}"
        )
    ctl(
        "lsp-add outside wire -- lsp-set-type wire localnet -- lsp-set-addresses wire unknown "
        "-- lsp-set-options wire network_name=external"
    )
    for priority, host in enumerate(reversed(lab.spec.gateway_hosts), 1):
        ctl(f"lrp-set-gateway-chassis to-outside {chassis[host]} {priority}")
    ctl(f"lr-route-add router 0.0.0.0/0 {EXTERNAL_RANGE[1]}")
    ctl(f"lr-nat-add router snat {GATEWAY} 10.0.0.0/24")
    ctl(f"lr-nat-add router dnat_and_snat {FLOATING} 10.0.0.12")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab whose OVN is wired by hand; h1 and h2 lead out, h3 does not."""
    skip_without_a_lab_machine(networks=True)
    spec = unique(LabSpec(name="ovn", hosts=3, networks=True))
    try:
        made = _substrate(spec)
        _wire(made)
        yield made
    finally:
        take_down(LabPaths.of(spec.name))
    assert leftovers(LabPaths.of(spec.name)) == []


@pytest.fixture(scope="module")
def guests(lab: Lab) -> tuple[Guest, Guest]:
    """Two guests on different hosts, the second on one that does not lead out."""
    pair = Guest(lab, "h1", 1), Guest(lab, "h3", 2)
    for guest in pair:
        guest.plug_in()
    return pair


def test_guests_reach_each_other_across_hosts_and_the_internet(
    lab: Lab, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    one.await_reach(two.address)
    size = MTU - 28  # what the headers of IP and ICMP leave
    assert two.reaches(one.address, "-M", "do", "-s", str(size))
    assert not two.reaches(one.address, "-M", "do", "-s", str(size + 1))
    one.await_reach(EXTERNAL_RANGE[1])
    assert one.run("wget", "-qO-", f"http://{FAR_ADDRESS}/") == f"you are {GATEWAY}\n"
    assert two.run("wget", "-qO-", f"http://{FAR_ADDRESS}/") == f"you are {FLOATING}\n"
    lab.run(EXTERNAL, ["ping", "-c1", "-W5", str(FLOATING)])


def test_what_is_killed_is_started_again_and_carries_as_before(
    lab: Lab, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    one.await_reach(two.address)
    for program in CENTRAL_PROGRAMS:
        lab.control.ovn.kill(program)
        assert lab.site.running(CONTROL, program) is None
    assert one.reaches(two.address), "OVN's central part carries no packets"
    lab.control.ovn.start()
    for program in SWITCH_PROGRAMS:
        lab.switch("h3").kill(program)
        assert lab.site.running("h3", program) is None
    lab.switch("h3").start()
    one.await_reach(two.address)
    assert lab.control.ovn.ctl(NORTHBOUND, "--bare", "--columns=name", "list", "Logical_Router")


def _comes_again(lab: Lab, host: str, program: str, signal_number: int) -> None:
    """Let a program crash, and wait for the next one of it."""
    monitor, before = lab.site.running(host, program), lab.site.worker(host, program)
    lab.switch(host).crash(program, signal_number)
    wait_for(lambda: lab.site.worker(host, program) not in (None, before), f"{program} is back")
    assert lab.site.running(host, program) == monitor
    wait_for(lambda: _pid_file(lab, host, program), f"{program} says its number")


def _pid_file(lab: Lab, host: str, program: str) -> bool:
    """Tell whether a program's file names the process that works, not its monitor."""
    folder = "/run/ovn" if program == CONTROLLER else "/run/openvswitch"
    written = lab.run(host, ["cat", f"{folder}/{program}.pid"], check=False).stdout.split()
    worker = lab.site.worker(host, program)
    if worker is None:
        return False
    status = Path(f"/proc/{worker.pid}/status").read_text()
    [inside] = [line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:")]
    return written == [inside]


def _plugged(lab: Lab, host: str) -> list[str]:
    """Return the numbers of the ports of guests and tunnels in the switch; -1: not opened."""
    asked = ["--format=csv", "--no-headings", "--columns=name,ofport", "list", "Interface"]
    return sorted(lab.switch(host).vsctl(*asked).split())


@pytest.mark.parametrize("signal_number", [signal.SIGSEGV, signal.SIGABRT])
@pytest.mark.parametrize("program", SWITCH_PROGRAMS)
def test_a_program_that_crashes_is_started_again_by_its_monitor(
    lab: Lab, guests: tuple[Guest, Guest], program: str, signal_number: int
) -> None:
    one, two = guests
    one.await_reach(two.address)
    before = _plugged(lab, "h3")
    _comes_again(lab, "h3", program, signal_number)
    one.await_reach(two.address)
    wait_for(lambda: _plugged(lab, "h3") == before, "every port is open again")


def test_a_program_that_is_killed_stays_away_with_its_monitor(lab: Lab) -> None:
    for program in SWITCH_PROGRAMS:
        pids = [lab.site.running("h2", program), lab.site.worker("h2", program)]
        assert None not in pids
        assert pids[0] != pids[1]
        lab.switch("h2").kill(program, signal.SIGTERM)
        assert [process and process.is_alive() for process in pids] == [False, False]
    lab.switch("h2").start()


def test_a_rebooted_host_belongs_to_ovn_as_before(lab: Lab, guests: tuple[Guest, Guest]) -> None:
    one, two = guests
    lab.stop_host("h3")
    lab.boot("h3")
    lab.switch("h3").start()
    two.plug_in()
    one.await_reach(two.address)


def _may_write(
    lab: Lab, database: OvnDatabase, cell: str, pki: Path, files: tuple[str, ...]
) -> str:
    """Write to a database from a cell with a certificate; return what was said against it."""
    program = "ovn-nbctl" if database is NORTHBOUND else "ovn-sbctl"
    key, certificate, ca = (str(pki / name) for name in files)
    argv = [program, "--timeout=10", f"--db={remote(lab.spec, database)}"]
    argv += [f"--private-key={key}", f"--certificate={certificate}", f"--ca-cert={ca}"]
    table = "NB_Global" if database is NORTHBOUND else "SB_Global"
    done = lab.run(cell, [*argv, "set", table, ".", "external_ids:mark=1"], check=False)
    return "" if done.returncode == 0 else done.stderr


def test_only_schedulers_write_northbound_and_hosts_their_own_rows_southbound(lab: Lab) -> None:
    host = ("host.key", "host.crt", "ca.crt")
    pki = lab.paths.cell("h1") / "pki"
    assert _may_write(lab, NORTHBOUND, "h1", pki, host)
    assert "permission" in _may_write(lab, SOUTHBOUND, "h1", pki, host)
    given = scheduler_settings(lab.spec, lab.paths, "scheduler")["network"]["tls"]
    files = (given["key"], given["certificate"], given["ca"])
    assert _may_write(lab, NORTHBOUND, CONTROL, Path("/"), files) == ""


def test_two_labs_share_no_switch_and_no_namespace(lab: Lab) -> None:
    spec = unique(LabSpec(name="ovb", hosts=1, networks=True))
    try:
        other = _substrate(spec)
        found = [each.control.ovn.ctl(SOUTHBOUND, "show") for each in (lab, other)]
        assert [text.count("Chassis ") for text in found] == [3, 1]
        other.run("h1", ["sh", "-euc", "mkdir -p /run/netns && touch /run/netns/mark"])
        assert "mark" not in lab.run("h1", ["ls", "/run/netns"]).stdout
        assert not Path("/run/netns/mark").exists()
    finally:
        take_down(LabPaths.of(spec.name))
    assert leftovers(LabPaths.of(spec.name)) == []
