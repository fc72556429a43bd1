"""TCP and UDP between guests on two hosts, against the same OVN wired by hand in the same run.

A lab of two hosts with a guest on each. Beside the interface that the cloud gave it, each guest is
given one whose switch, ports, port security and rules (what is allowed is tracked, all else
dropped) were made by `ovn-nbctl`; the domain's interface is the same but for its id. `nuttcp` in
the guests samples both ways in turn, ours first in one pair and last in the next: one connection of
TCP, and datagrams sent as quickly as the guest can, by what arrived. No sample is left out, and one
that gives no figure ends the benchmark. The interval is a bootstrap of the median ratio.

Launching: from accepted to RUNNING with a port, against `virsh create` of the same domain, plugged
into the same switch. Guests are emulated, so absolute figures say nothing. Last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import statistics
import sys
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.launch import Cloud, Floor  # noqa: E402
from tests.support.guest_shell import GuestShell  # noqa: E402
from tests.support.images import built_tiny  # noqa: E402
from tests.support.lab import wait_for  # noqa: E402
from tests.support.user import User  # noqa: E402
from unkai.compute.v1 import instance_pb2  # noqa: E402
from unkai_lab.lab import Lab  # noqa: E402
from unkai_lab.ovn import NORTHBOUND  # noqa: E402
from unkai_lab.spec import LabSpec  # noqa: E402
from unkai_lab.teardown import take_down  # noqa: E402

GUESTS = ("one", "two")
BY_HAND = ("192.168.77.1", "192.168.77.2")
MTU = 1442
SAMPLE_S, SAMPLE_LIMIT_S = 2, 30
DATAGRAM = 1024
LIMIT_S = 1500
"""For all of it, so that it ends before those that run it lose patience."""
RESAMPLES = 4000


def wire_by_hand(lab: Lab) -> list[str]:
    """Make a switch with two ports that may send as themselves alone; return their ids."""
    idents = [str(uuid.uuid4()) for _ in BY_HAND]
    words = ["ls-add", "by-hand"]
    for number, (ident, address) in enumerate(zip(idents, BY_HAND, strict=True)):
        own = f"{_mac(number)} {address}"
        words += ["--", "lsp-add", "by-hand", ident]
        words += ["--", "lsp-set-addresses", ident, own, "--", "lsp-set-port-security", ident, own]
    words += ["--", "pg-add", "by_hand", *idents]
    for direction, end in (("to-lport", "outport"), ("from-lport", "inport")):
        match = f"{end} == @by_hand && ip4"
        words += ["--", "acl-add", "by_hand", direction, "1002", match, "allow-related"]
        match = f"{end} == @by_hand && ip"
        words += ["--", "acl-add", "by_hand", direction, "1000", match, "drop"]
    lab.control.ovn.ctl(NORTHBOUND, *words)
    return idents


def _mac(number: int) -> str:
    return f"0a:00:00:00:77:0{number + 1}"


def plug_by_hand(lab: Lab, host: str, number: int, ident: str) -> None:
    """Give a host's only domain a second interface, like its first but for its id."""
    (domain,) = lab.virsh(host, "list", "--name").split()
    tree = ET.fromstring(lab.virsh(host, "dumpxml", "--inactive", domain))
    interface = tree.find("./devices/interface")
    assert interface is not None
    for name in ("alias", "address"):
        for element in interface.findall(name):
            interface.remove(element)
    _set(interface, "mac", "address", _mac(number))
    _set(interface, "target", "dev", f"hand{number}")
    _set(interface, "virtualport/parameters", "interfaceid", ident)
    file = lab.paths.cell(host) / "by-hand.xml"
    file.write_text(ET.tostring(interface, encoding="unicode"))
    lab.virsh(host, "attach-device", domain, str(file), "--live")


def _set(element: ET.Element, path: str, name: str, value: str) -> None:
    found = element.find(path)
    assert found is not None, path
    found.attrib[name] = value


def set_up(shell: GuestShell, number: int) -> None:
    """Let a guest use its second interface.

    Which name the guest gave it depends on when it looked.
    """
    found = f"grep -l {_mac(number)} /sys/class/net/*/address"
    wait_for(lambda: shell.succeeds(found), "the guest sees its second interface", 60)
    device = shell.run(f"echo card=$({found} | cut -d/ -f5)=").split("card=")[1].split("=")[0]
    shell.run(
        f"ip link set {device} mtu {MTU} up; ip address add {BY_HAND[number]}/24 dev {device}"
    )


class Samples:
    """Streams from one guest to another: `nuttcp` sends, and says what its other end counted."""

    def __init__(self, sender: GuestShell, receiver: GuestShell) -> None:
        self._sender = sender
        receiver.run("nuttcp -S")

    def tcp(self, address: str) -> float:
        """Return KiB a second that arrived of one connection."""
        return self._sample(address, "")

    def udp(self, address: str) -> float:
        """Return KiB a second that arrived of datagrams sent as quickly as the guest can."""
        return self._sample(address, f"-u -Ru -l{DATAGRAM}")

    def _sample(self, address: str, options: str) -> float:
        said = self._sender.run(
            f"timeout {SAMPLE_LIMIT_S} nuttcp -fparse -T{SAMPLE_S} {options} {address}",
            within_s=SAMPLE_LIMIT_S + 30,
        )
        found = re.search(r"rate_Mbps=([0-9.]+)", said)
        if found is None:
            sys.exit(f"no sample: {said}")
        return float(found[1]) * 1e6 / 8 / 1024


def in_turn(sample: Callable[[str], float], ways: tuple[str, str]) -> dict[str, float]:
    """Sample both ways twice, there and back, so that a drift falls on both; return the means."""
    first, second = ways
    rates: dict[str, list[float]] = {first: [], second: []}
    for way in (first, second, second, first):
        rates[way].append(sample(way))
    return {way: statistics.mean(each) for way, each in rates.items()}


class FloorWithPort(Floor):
    """`virsh create` of the same domain, its interface plugged into the same switch."""

    def create(self, number: int) -> float:
        """Create the domain once, with an interface id of its own."""
        interface = self._tree.find("./devices/interface")
        assert interface is not None
        _set(interface, "target", "dev", f"floor{number}")
        _set(interface, "virtualport/parameters", "interfaceid", str(uuid.uuid4()))
        return super().create(number)


def launches(lab: Lab, pairs: int) -> tuple[list[float], list[float]]:
    """Return the seconds of launching with a port and of `virsh create`, pair by pair."""
    ours, floor_s = [], []
    with grpc.insecure_channel(f"unix:{lab.paths.scheduler_socket}") as channel:
        cloud = Cloud(channel)
        user = User(lab.socket())
        image_id = user.client.resolve("image", "tiny")
        flavor_id = cloud.flavor("nano")
        user.close()
        warm, _ = cloud.launch("warm", image_id, flavor_id)
        domain = lab.virsh("h1", "list", "--name").split()[0]
        folder = lab.paths.cell("h1") / "floor"
        folder.mkdir(mode=0o755)
        floor = FloorWithPort(lab, lab.virsh("h1", "dumpxml", "--inactive", domain), folder)
        floor.create(0)
        cloud.delete(warm)
        print("pair  ours s  virsh s  ratio")
        for number in range(1, pairs + 1):
            ident, took = cloud.launch(f"pair-{number}", image_id, flavor_id)
            cloud.delete(ident)
            ours.append(took)
            floor_s.append(floor.create(number))
            print(f"{number:4}  {took:6.3f}  {floor_s[-1]:7.3f}  {took / floor_s[-1]:5.2f}")
    return ours, floor_s


def carries(lab: Lab, image: Path, pairs: int) -> tuple[list[float], list[float]]:
    """Return ratios of TCP and of UDP, pair by pair."""
    user = User(lab.socket())
    user.upload("tiny", image)
    spread = instance_pb2.Instance.PLACEMENT_POLICY_SPREAD
    made = [user.launch(name, placement_policy=spread) for name in GUESTS]
    by_host = {one.host_name: one for one in made}
    if len(by_host) != len(lab.spec.host_names):
        sys.exit(f"both guests are on {set(by_host)}")
    first, second = (by_host[host] for host in lab.spec.host_names)
    idents = wire_by_hand(lab)
    for number, host in enumerate(lab.spec.host_names):
        plug_by_hand(lab, host, number, idents[number])
    ours = next(one for one in _addresses(second) if "." in one)
    tcp, udp = [], []
    with GuestShell(lab, first.name) as shell, GuestShell(lab, second.name) as other:
        set_up(shell, 0)
        set_up(other, 1)
        for address in (ours, BY_HAND[1]):
            wait_for(
                lambda a=address: shell.succeeds(f"ping -c1 -W1 {a}"), f"{address} answers", 60
            )
        samples = Samples(shell, other)
        print("pair  TCP ours KiB/s  by hand  ratio  UDP ours KiB/s  by hand  ratio", flush=True)
        for number in range(1, pairs + 1):
            ways = (ours, BY_HAND[1]) if number % 2 else (BY_HAND[1], ours)
            t = in_turn(samples.tcp, ways)
            u = in_turn(samples.udp, ways)
            tcp.append(t[ours] / t[BY_HAND[1]])
            udp.append(u[ours] / u[BY_HAND[1]])
            print(
                f"{number:4}  {t[ours]:14.0f}  {t[BY_HAND[1]]:7.0f}  {tcp[-1]:5.2f}"
                f"  {u[ours]:14.0f}  {u[BY_HAND[1]]:7.0f}  {udp[-1]:5.2f}",
                flush=True,
            )
    user.delete_all()
    user.close()
    return tcp, udp


def _addresses(instance: object) -> list[str]:
    """Return an instance's addresses."""
    return [fixed.address for each in instance.interfaces for fixed in each.fixed_addresses]  # type: ignore[attr-defined]


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median (Efron 1979, percentiles)."""
    rng = random.Random(1)
    medians = sorted(
        statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES)
    )
    return medians[int(RESAMPLES * 0.025)], medians[int(RESAMPLES * 0.975)]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=30, help="pairs to time, at least 30 to quote")
    parser.add_argument("--launches", type=int, default=20)
    parser.add_argument("--image", type=Path, help="default: tiny, built of its newest recipe")
    arguments = parser.parse_args()
    image = arguments.image or built_tiny()
    # Whoever ends it early finds no lab left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended early"))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"not done within {LIMIT_S} s"))
    signal.alarm(LIMIT_S)
    lab = Lab.create(LabSpec(name="bench-network", hosts=2, networks=True))
    try:
        lab.up()
        tcp, udp = carries(lab, image, arguments.pairs)
        lab.stop_host("h2")
        ours, floor_s = launches(lab, arguments.launches)
    finally:
        take_down(lab.paths)
    ratios = [a / b for a, b in zip(ours, floor_s, strict=True)]
    low, high = interval(tcp)
    udp_low, udp_high = interval(udp)
    results = {
        "tcp_ratio_p50": statistics.median(tcp),
        "tcp_ratio_lo": low,
        "tcp_ratio_hi": high,
        "udp_ratio_p50": statistics.median(udp),
        "udp_ratio_lo": udp_low,
        "udp_ratio_hi": udp_high,
        "launch_ratio_p50": statistics.median(ratios),
        "launch_ratio_max": max(ratios),
        "accepted_to_running_s_p50": statistics.median(ours),
        "virsh_create_s_p50": statistics.median(floor_s),
    }
    results = {name: round(figure, 3) for name, figure in results.items()}
    params = {"pairs": arguments.pairs, "launches": arguments.launches}
    print(json.dumps({"bench": "network", "params": params, "results": results}))


if __name__ == "__main__":
    main()
