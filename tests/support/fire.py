"""A control plane under fire: callers who create and delete, and what they were promised.

Each caller knows all schedulers. It repeats a call with its request id until one answers, and goes
to the next one when its own does not. What a call failed with is counted: a story says what it may
have been. Afterwards `check` compares what was promised with what the database says; whether
anything is doubled or leaked is the checker's business (`evidence.py`).
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from google.protobuf import duration_pb2

from tests.support.evidence import Rows, TwinWatch, wait_settled
from tests.support.sights import Rules
from tests.support.user import User
from unkai.operation.v1.operation_pb2 import Operation
from unkai_cli.client import Client, Patience
from unkai_cli.settings import Context
from unkai_lab.configuration import REAL_TRAIT, SIMULATED_TRAIT
from unkai_lab.lab import Lab
from unkai_wire.errors import (
    AlreadyExists,
    DeadlineExceeded,
    NoCapacity,
    NotFound,
    Unavailable,
)
from unkai_wire.rpc_errors import from_status

T = TypeVar("T")
_ENDED = (Operation.STATE_SUCCEEDED, Operation.STATE_FAILED, Operation.STATE_CANCELLED)
PERSISTENCE_S = 180.0


class Cloud(Protocol):
    """What has schedulers: a lab, or daemons on this machine."""

    def sockets(self) -> Sequence[Path]:
        """Return the unix sockets of all schedulers."""


class Caller:
    """A user of all schedulers of a cloud, one at a time."""

    def __init__(self, cloud: Cloud, first: int = 0, *, timeout_s: float = 5.0) -> None:
        self._users = [_user(socket, timeout_s) for socket in cloud.sockets()]
        self._turn = first
        self.failed: Counter[str] = Counter()
        """What calls failed with before they were answered, by class."""

    @property
    def user(self) -> User:
        """The user at the scheduler in turn."""
        return self._users[self._turn % len(self._users)]

    def persist(self, call: Callable[[User], T], deadline_s: float = PERSISTENCE_S) -> T:
        """Repeat a call until it is answered, by whichever scheduler."""
        end = time.monotonic() + deadline_s
        while True:
            try:
                return call(self.user)
            except (Unavailable, DeadlineExceeded) as error:
                self.failed[type(error).__name__] += 1
                self._turn += 1
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def finish(self, operation: Any, deadline_s: float = PERSISTENCE_S) -> Any:
        """Wait until an operation has ended well; raise what it failed with."""
        end = time.monotonic() + deadline_s
        while operation.state not in _ENDED:
            assert time.monotonic() < end, f"after {deadline_s:g} s still at work: {operation}"
            operation = self.persist(lambda user: _look(user, operation.id), deadline_s)  # noqa: B023
        if operation.state != Operation.STATE_SUCCEEDED:
            raise from_status(operation.error)
        return operation

    def close(self) -> None:
        """Let go of all connections."""
        for user in self._users:
            user.close()


def _user(socket: Any, timeout_s: float) -> User:
    user = User(socket)
    patience = Patience(tries=1, timeout_s=timeout_s)
    user.client = Client(Context("fire", socket=str(socket)), patience=patience)
    return user


@contextmanager
def calling(cloud: Cloud, **options: Any) -> Iterator[Caller]:
    """Have a caller for the time of a block."""
    caller = Caller(cloud, **options)
    try:
        yield caller
    finally:
        caller.close()


@dataclass(frozen=True, slots=True)
class Life:
    """What a caller does with one instance."""

    name: str
    trait: str
    stays: bool
    hurries: bool
    """It is deleted without waiting for its create."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all callers do together."""

    creates: int
    """At least so many; while `goes_on`, more."""
    real: int = 0
    """How many of them on real hosts, spread evenly."""
    kept_ratio: float = 0.1
    """Share of the instances that stay: each real one is a guest that takes CPU."""
    callers: int = 4
    simulated_flavor: str = "nano"
    """What is asked for on simulated hosts; on real ones it is `nano`."""
    capacity_wait_s: int = 60
    may_lack_capacity: bool = False
    pause_s: float = 0.0
    """Longest pause of a caller between two lives: spreads them over the time of the faults."""


@dataclass
class Traffic:
    """The callers at work, from entering to leaving."""

    cloud: Cloud
    story: str
    rng: random.Random
    plan: Plan
    kept: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    """Instances that found no room."""
    real: int = 0
    operations: dict[str, str] = field(default_factory=dict)
    """Verb of each operation that was accepted, by id."""
    early: set[str] = field(default_factory=set)
    """Instances deleted before their create had ended."""
    failed: Counter[str] = field(default_factory=Counter)
    failures: list[BaseException] = field(default_factory=list)
    goes_on: bool = False
    """Callers begin new lives though all that were planned are over."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = 0

    @property
    def ended(self) -> int:
        """Lives that are over, or have come to stay."""
        return len(self.kept) + len(self.deleted) + len(self.refused)

    def __enter__(self) -> Traffic:
        # Drawn before the threads start, so that a seed repeats the plan.
        seeds = [self.rng.random() for _ in range(self.plan.callers)]
        self._threads = [
            threading.Thread(target=self._run, args=(number, seed), daemon=True)
            for number, seed in enumerate(seeds)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.goes_on = False
        if error is not None:
            # The story is over. They see it at their next life; whoever waits is left behind.
            self.failures.append(error)
            return
        for thread in self._threads:
            thread.join(PERSISTENCE_S * 2)
        assert not any(thread.is_alive() for thread in self._threads), "callers are still waiting"

    @property
    def is_over(self) -> bool:
        """Tell whether every caller has gone home."""
        return not any(thread.is_alive() for thread in self._threads)

    def _next(self, rng: random.Random) -> Life | None:
        with self._lock:
            number = self._begun
            if number >= self.plan.creates and not self.goes_on:
                return None
            self._begun += 1
            # The real ones come evenly among the planned; those beyond the plan are simulated.
            real = self.plan.real
            is_real = number < self.plan.creates and (
                number * real // self.plan.creates != (number + 1) * real // self.plan.creates
            )
            self.real += is_real
        return Life(
            f"{self.story}-{number}",
            trait=REAL_TRAIT if is_real else SIMULATED_TRAIT,
            stays=rng.random() < self.plan.kept_ratio,
            hurries=rng.random() < 0.3,
        )

    def _run(self, number: int, seed: float) -> None:
        rng = random.Random(seed)
        caller = Caller(self.cloud, number)
        try:
            while not self.failures and (life := self._next(rng)):
                self._live(caller, life)
                time.sleep(rng.uniform(0.0, self.plan.pause_s))
        except BaseException as error:  # noqa: BLE001 - told by `check`, in the test's thread
            self.failures.append(error)
        finally:
            with self._lock:
                self.failed += caller.failed
            caller.close()

    def _live(self, caller: Caller, life: Life) -> None:
        wanted = {
            "request_id": str(uuid.uuid4()),
            "capacity_wait_s": self.plan.capacity_wait_s,
            "required_traits": [life.trait],
            "flavor": "nano" if life.trait == REAL_TRAIT else self.plan.simulated_flavor,
        }
        answer = caller.persist(lambda user: user.create(life.name, **wanted))
        ident = answer.instance.id
        self.operations[answer.operation.id] = "CREATE"
        if life.stays or not life.hurries:
            try:
                caller.finish(answer.operation)
            except NoCapacity:
                assert self.plan.may_lack_capacity
                self.refused.add(ident)
                return
        if life.stays:
            self.kept.add(ident)
            return
        if life.hurries:
            self.early.add(ident)
        self._delete(caller, ident)

    def _delete(self, caller: Caller, ident: str) -> None:
        again = str(uuid.uuid4())
        operation = caller.persist(
            lambda user: user.act("Delete", ident, wait=False, request_id=again)
        )
        self.operations[operation.id] = "DELETE"
        caller.finish(operation)
        with pytest.raises(NotFound):
            caller.persist(lambda user: user.get(ident))
        self.deleted.add(ident)

    def check(self, rows: Rows) -> None:
        """Compare what was promised with what the database says."""
        assert not self.failures, self.failures
        assert self.ended >= self.plan.creates
        states = {ident: state for ident, (state, _) in rows.instances.items()}
        assert {i: states.get(i) for i in self.kept} == dict.fromkeys(self.kept, "RUNNING")
        assert {i: states.get(i) for i in self.refused} == dict.fromkeys(self.refused, "FAILED")
        assert not self.deleted & states.keys()
        for ident, verb in self.operations.items():
            ended_verb, state, resource = rows.ended[ident]
            cancelled = verb == "CREATE" and resource in self.early
            refused = verb == "CREATE" and resource in self.refused
            assert ended_verb == verb
            wanted = "FAILED" if refused else "SUCCEEDED"
            assert state == wanted or (cancelled and state == "CANCELLED"), (ident, state)


Shooter = Callable[[Traffic, random.Random], Any]


def under_fire(
    lab: Lab, story: str, rng: random.Random, plan: Plan, shoot: Shooter
) -> tuple[Traffic, TwinWatch, Rows]:
    """Let traffic run while `shoot` acts; then everything must have ended and fit together."""
    traffic = Traffic(lab, story, rng, plan)
    with TwinWatch(lab, pause_s=0.1) as twins:
        with traffic:
            shoot(traffic, rng)
        rows = wait_settled(lab, _rules(plan), deadline_s=180.0)
    traffic.check(rows)
    assert twins.samples > 5
    assert not twins.twins
    return traffic, twins, rows


def _rules(plan: Plan) -> Rules:
    """Return what may be afterwards: an instance that was refused stays, and holds nothing."""
    refusals = {"FAILED"} if plan.may_lack_capacity else set()
    return Rules(lasting=Rules().lasting | refusals)


def delete_all(lab: Lab) -> None:
    """Delete every instance and wait until all are gone."""
    with calling(lab) as caller:
        operations = []
        for each in caller.persist(lambda user: user.list()):
            try:
                operations.append(
                    caller.persist(lambda user, i=each.id: user.act("Delete", i, wait=False))  # type: ignore[misc]
                )
            except (AlreadyExists, NotFound):
                continue
        for operation in operations:
            caller.finish(operation)


def upload(cloud: Cloud, name: str, file: Any) -> None:
    """Upload an image by whichever scheduler answers."""
    with calling(cloud, timeout_s=30.0) as caller:
        caller.persist(lambda user: user.upload(name, file))


def _look(user: User, ident: str) -> Any:
    """Wait a moment for an operation to end; return it as it is then."""
    moment = duration_pb2.Duration(seconds=3)
    return user.client.call(
        "OperationService", "WaitOperation", operation_id=ident, timeout=moment
    ).operation
