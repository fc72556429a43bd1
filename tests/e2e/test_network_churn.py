"""Story: networks, ports, floating addresses and instances come and go while daemons are killed.

Twelve callers at once; each cycle makes a network with a subnet on a router, a port with a floating
address and an instance that runs with the port; then all of it is removed. Meanwhile the scheduler
and the agents get SIGKILL in turn, every few seconds. Afterwards the independent checker finds that
store, OVN's databases and the hosts' switches say one thing, and nothing of the cycles is left.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.acceptance import Shows, count, seeded
from tests.support.fire import Caller, calling
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique
from tests.support.network_evidence import look, wait_agreed
from tests.support.user import User, tiny_image
from unkai.compute.v1 import instance_pb2
from unkai.network.v1 import floating_ip_pb2, network_pb2, port_pb2, router_pb2, subnet_pb2
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
CALLERS = 12
CYCLES = 200
GUESTS_AT_ONCE = 4
"""A guest that starts takes a CPU for itself where it is emulated: the other callers are at their
networks meanwhile, or wait."""
LEAST_KILLS = 10
"""Of the scheduler, and of agents."""


class Life:
    """What one caller makes and removes, again and again, whatever happens."""

    def __init__(
        self, caller: Caller, outside: str, router: str, guests: threading.Semaphore
    ) -> None:
        self._caller = caller
        self._guests = guests
        self._outside = outside
        self._router = router

    def cycle(self, number: int) -> None:
        """Make everything of a cycle, and remove it."""
        name = f"c{number}"
        network = self._do("Network", "Create", network=network_pb2.Network(name=name)).network
        cidr = f"10.{100 + number // 250}.{number % 250}.0/24"
        draft = subnet_pb2.Subnet(name=name, network_id=network.id, cidr=cidr)
        subnet = self._do("Subnet", "Create", subnet=draft).subnet
        place = router_pb2.Router.Interface(subnet_id=subnet.id)
        self._call("RouterService", "AddRouterInterface", router_id=self._router, interface=place)
        port = self._do("Port", "Create", port=port_pb2.Port(network_id=network.id)).port
        floating = floating_ip_pb2.FloatingIp(network_id=self._outside, port_id=port.id)
        address = self._do("FloatingIp", "Create", floating_ip=floating).floating_ip
        with self._guests:
            self._run(name, port.id)
        self._do("FloatingIp", "Delete", floating_ip_id=address.id)
        # It was the user's, so it stayed when the instance went.
        self._do("Port", "Delete", port_id=port.id)
        gone = {"router_id": self._router, "subnet_id": subnet.id}
        self._call("RouterService", "RemoveRouterInterface", **gone)
        self._do("Network", "Delete", network_id=network.id)

    def _run(self, name: str, port_id: str) -> None:
        """Let an instance run with the port, and remove it."""
        interface = instance_pb2.Instance.Interface(port_id=port_id)
        request_id = str(uuid.uuid4())
        answer = self._caller.persist(
            lambda user: user.create(
                name, interfaces=[interface], capacity_wait_s=120, request_id=request_id
            )
        )
        self._caller.finish(answer.operation)
        gone = self._do("Instance", "Delete", instance_id=answer.instance.id)
        self._caller.finish(gone.operation)

    def _do(self, noun: str, verb: str, **fields: Any) -> Any:
        return self._call(f"{noun}Service", f"{verb}{noun}", **fields)

    def _call(self, service: str, method: str, **fields: Any) -> Any:
        """Call until it is answered: its request id makes it once."""
        request_id = str(uuid.uuid4())

        def call(user: User) -> Any:
            return user.client.call(service, method, request_id=request_id, **fields)

        return self._caller.persist(call)


def _shoot(lab: Lab, rng: random.Random, over: threading.Event, kills: Counter[str]) -> None:
    """Kill the scheduler and an agent in turn until it is over, or one of them does not start."""
    try:
        while not over.is_set():
            if kills["agents"] > kills["scheduler"]:
                lab.kill_scheduler()
                time.sleep(rng.uniform(0.0, 1.0))
                lab.start_scheduler()
                kills["scheduler"] += 1
            else:
                host = rng.choice(lab.spec.host_names)
                lab.kill_agent(host)
                time.sleep(rng.uniform(0.0, 1.0))
                lab.start_agent(host)
                kills["agents"] += 1
            over.wait(rng.uniform(2.0, 8.0))
    finally:
        over.set()


def _outside(user: User) -> tuple[str, str]:
    """Return the external network, and a router that leads there."""
    network = network_pb2.Network(
        name="outside",
        type=network_pb2.Network.TYPE_FLAT,
        physical_network="external",
        external=True,
    )
    made = user.client.call("NetworkService", "CreateNetwork", network=network).network
    draft = subnet_pb2.Subnet(
        name="outside", network_id=made.id, cidr="198.51.100.0/24", no_dhcp=True
    )
    user.client.call("SubnetService", "CreateSubnet", subnet=draft)
    gateway = router_pb2.Router.Gateway(network_id=made.id)
    router = router_pb2.Router(name="edge", gateway=gateway)
    return made.id, user.client.call("RouterService", "CreateRouter", router=router).router.id


def test_what_comes_and_goes_under_fire_leaves_store_ovn_and_switches_of_one_mind(
    shows: Shows,
) -> None:
    skip_without_a_lab_machine()
    cycles, rng = count(CYCLES), seeded("network churn")
    kills: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    numbers = iter(range(1, cycles + 1))
    turn, over = threading.Lock(), threading.Event()
    with running_lab(unique(LabSpec(name="churn", hosts=2, networks=True))) as lab:
        user = User(lab.socket())
        user.upload("tiny", tiny_image())
        outside, router = _outside(user)
        user.close()
        wait_agreed(lab)

        guests = threading.Semaphore(GUESTS_AT_ONCE)

        def live(first: int) -> None:
            with calling(lab, first=first) as caller:
                life = Life(caller, outside, router, guests)
                while not over.is_set() and (number := _next(numbers, turn)):
                    life.cycle(number)
                failed.update(caller.failed)

        with ThreadPoolExecutor(CALLERS + 1) as pool:
            shooting = pool.submit(_shoot, lab, rng, over, kills)
            try:
                for job in [pool.submit(live, first) for first in range(CALLERS)]:
                    job.result()
            finally:
                over.set()
                shooting.result()
        assert _next(numbers, turn) == 0, "some cycles never began"
        wait_agreed(lab)
        tables = look(lab).tables
    left = {row["name"] for row in tables["networks"]} - {"outside"}
    assert left == set()
    assert {row["owner_kind"] for row in tables["ports"]} == {"GATEWAY"}
    assert min(kills["scheduler"], kills["agents"]) >= count(LEAST_KILLS)
    shows(
        "networks 5 churn",
        f"{cycles} cycles of network, subnet, interface, port, floating address and instance by"
        f" {CALLERS} at once, SIGKILLs of {dict(kills)}: store, OVN and switches agree; calls met"
        f" {dict(failed)}",
    )


def _next(numbers: Any, turn: threading.Lock) -> int:
    with turn:
        return next(numbers, 0)
