"""Story: two schedulers over one database server. Any answers; one leads; its death is a moment.

1. What only the leader knows is told by the other one too: usage, explanations, consoles. 2. The
leader is killed again and again: another acts within 5 s, and callers meet nothing but UNAVAILABLE.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.acceptance import Shows, count, seeded
from tests.support.clouds import a_lab_on
from tests.support.daemons import until
from tests.support.evidence import leader_of, rows_of, wait_settled
from tests.support.fire import Caller, calling, delete_all
from tests.support.lab import wait_for
from tests.support.user import CONVERSATION, User
from unkai_lab.configuration import REAL_TRAIT, SIMULATED_TRAIT
from unkai_lab.lab import Lab
from unkai_lab.spec import POSTGRESQL
from unkai_wire.errors import DeadlineExceeded, Unavailable, UnkaiError

pytestmark = pytest.mark.timeout(900)
LEADER_S = 5.0


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    """Two schedulers on PostgreSQL, three members of etcd."""
    with a_lab_on(POSTGRESQL, hosts=1, simulated=3, etcd_members=3) as lab:
        yield lab


def the_leader(lab: Lab) -> str:
    return wait_for(lambda: leader_of(lab), "a scheduler leads", 15)


def other_than(lab: Lab, name: str) -> str:
    return next(each for each in lab.spec.scheduler_names if each != name)


def test_what_the_leader_alone_knows_is_told_by_the_other_one_too(pair: Lab, shows: Shows) -> None:
    replica = User(pair.socket(other_than(pair, the_leader(pair))))
    made = replica.launch("told", required_traits=[REAL_TRAIT])
    replica.wait_log(made.id, "login:")

    def with_figures() -> dict[str, dict[str, Any]]:
        found = replica.hosts()
        return found if all(host.get("usage") for host in found.values()) else {}

    hosts = wait_for(with_figures, "live figures of all hosts")
    assert len(hosts) == 4
    explained = replica.explain(made.id)
    assert explained["host_id"] == hosts[made.host_name]["id"]
    assert explained["candidates"], "with what was scored"
    assert _echo(replica, made.id), "a console, both ways"
    replica.close()
    delete_all(pair)
    shows(
        "solid 5 live data by a replica",
        "usage of hosts, an explanation, a console's log and an attached console came through the"
        " scheduler that does not lead",
    )


def _echo(user: User, instance_id: str) -> bool:
    """Type into a console; tell whether what was typed came back."""
    kind = user.client.messages("InstanceService").AttachConsoleRequest
    seen = bytearray()

    def requests() -> Iterator[Any]:
        yield kind(open=kind.Open(instance_id=instance_id))
        for line, answer in CONVERSATION:
            yield kind(input=line)
            until(lambda: answer in seen, f"{answer!r} is shown")  # noqa: B023

    call = user.client.both("InstanceService", "AttachConsole", requests())
    for answer in call:
        seen += answer.output
        if b"typed-42" in seen:
            break
    call.cancel()
    return b"typed-42" in seen


@dataclass
class Callers:
    """Reads and writes at both schedulers all the time, each tried once; what they meet is kept."""

    lab: Lab
    met: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    failures: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Callers:
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(len(self.lab.spec.scheduler_names))
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, number: int) -> None:
        caller = Caller(self.lab, number, timeout_s=10.0)
        mine = caller.user
        try:
            while not self._end.wait(0.1):
                key = f"k{number}-{uuid.uuid4().hex[:8]}"
                self._once(caller, mine, lambda user: user.hosts())
                public = _key_pair(key)
                self._once(caller, mine, public)
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failures.append(error)
        finally:
            caller.close()

    def _once(self, caller: Caller, mine: User, call: Any) -> None:
        try:
            call(mine)
        except UnkaiError as error:
            self.met[type(error).__name__] += 1
            caller.persist(call, 30.0)
            self.retried += 1
        else:
            self.met["answered"] += 1


def _key_pair(name: str) -> Any:
    """Return a write that names the same request each time it is tried."""
    request_id = str(uuid.uuid4())

    def write(user: User) -> Any:
        from unkai.compute.v1 import key_pair_pb2

        return user.client.call(
            "KeyPairService",
            "CreateKeyPair",
            key_pair=key_pair_pb2.KeyPair(name=name, public_key=_KEY),
            request_id=request_id,
        )

    return write


_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINHvRc5fqh74HYocpyaFAaTro7xn2hRcNfjNM+aDU1fq test@unkai"


def test_a_new_leader_acts_within_5_s_and_callers_meet_only_unavailable(
    pair: Lab, shows: Shows
) -> None:
    took: list[float] = []
    rng = seeded("new leader of two")
    before = rows_of(pair).term
    with Callers(pair) as callers:
        for number in range(count(30)):
            time.sleep(rng.uniform(0.5, 3.0))
            old = the_leader(pair)
            with calling(
                pair, first=pair.spec.scheduler_names.index(other_than(pair, old))
            ) as caller:
                pair.kill_scheduler(old)
                begun = time.monotonic()
                answer = caller.persist(
                    lambda user, n=number: user.create(  # type: ignore[misc]
                        f"next-{n}", required_traits=[SIMULATED_TRAIT], capacity_wait_s=30
                    )
                )
                wait_for(lambda: _is_placed(caller.user, answer.instance.id), "it is placed", 30)  # noqa: B023
                took.append(time.monotonic() - begun)
            pair.start_scheduler(old)
    delete_all(pair)
    rows = wait_settled(pair)
    assert not callers.failures, callers.failures
    assert set(callers.met) <= {"answered", "Unavailable"}, callers.met
    assert rows.term >= before + len(took)
    assert max(took) <= LEADER_S, took
    shows(
        "solid 5 new leader",
        f"{len(took)} SIGKILLs of the leader of two: the next placement after {max(took):.1f} s at"
        f" most, {sorted(took)[len(took) // 2]:.1f} s as a rule; meanwhile"
        f" {callers.met['answered']} calls were answered at once, {callers.met['Unavailable']} met"
        f" UNAVAILABLE and all {callers.retried} of them succeeded on retry",
    )


def _is_placed(user: User, instance_id: str) -> bool:
    with suppress(Unavailable, DeadlineExceeded):  # what callers may meet: `Callers` tells
        return bool(user.get(instance_id).host_name)
    return False
