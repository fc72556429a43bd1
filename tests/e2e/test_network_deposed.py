"""Story: whoever no longer leads cannot write to OVN, whatever it believes.

The northbound database itself knows the highest term. 1. It hears of a higher one, of which the
leader knows nothing: nothing more comes of the leader's term, and its work is done under a higher
one. 2. Leaders are stopped, child processes included, while users make and remove networks; another
leads meanwhile; revived, they go on with what they were about to write. The database's own log
says who wrote what: the terms in it never fall.
"""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.acceptance import Shows, count, seeded
from tests.support.evidence import leader_of
from tests.support.faults import halted
from tests.support.fire import Caller, calling
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.network_evidence import northbound_of, wait_agreed
from tests.support.sights import uuid_of
from tests.support.user import User
from unkai.network.v1 import network_pb2
from unkai_lab.lab import Lab
from unkai_lab.ovn import NORTHBOUND, ovn_folder
from unkai_lab.spec import POSTGRESQL, LabSpec

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
TERM = "unkai term "
"""How the comment begins that the cloud gives its transactions."""
FAR = 1000
ROUNDS = 10
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    skip_without_a_lab_machine()
    spec = LabSpec(name="deposed", hosts=1, schedulers=2, database=POSTGRESQL, networks=True)
    with running_lab(unique(spec)) as made:
        wait_agreed(made)
        yield made


def _records(lab: Lab) -> list[dict[str, object]]:
    """Return all transactions in the northbound database's own log, oldest first."""
    log = ovn_folder(lab.paths) / f"{NORTHBOUND.program}.db"
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def _terms(records: Sequence[dict[str, object]]) -> list[int]:
    """Return the terms of those transactions that are the cloud's."""
    comments = [str(record.get("_comment", "")) for record in records]
    return [int(said.removeprefix(TERM)) for said in comments if said.startswith(TERM)]


def _stored_term(lab: Lab) -> int:
    (row,) = northbound_of(lab)["NB_Global"]
    return int(row["external_ids"]["unkai_term"])


def test_a_term_that_the_database_has_seen_outranked_writes_nothing_more(
    lab: Lab, shows: Shows
) -> None:
    term = _stored_term(lab)
    far, before = term + FAR, len(_records(lab))
    lab.control.ovn.ctl(NORTHBOUND, "set", "NB_Global", ".", f"external_ids:unkai_term={far}")
    with calling(lab) as caller:
        draft = network_pb2.Network(name="late")
        wanted = uuid_of(_call(caller, "CreateNetwork", network=draft).network.id)
    wait_for(
        lambda: wanted in {row["name"] for row in northbound_of(lab)["Logical_Switch"]},
        "the network comes to OVN under a higher term",
        PATIENCE_S,
    )
    wait_agreed(lab)
    later = _terms(_records(lab)[before:])
    raised = next(
        place
        for place, record in enumerate(_records(lab)[before:])
        if f"unkai_term={far}" in str(record.get("_comment"))
    )
    after = _terms(_records(lab)[before + raised :])
    assert after
    assert min(after) > far, f"terms {later} were written after {far}"
    assert any(b"is at term %d" % far in _log(lab, name) for name in lab.spec.scheduler_names)
    shows(
        "networks 6 deposed",
        f"term {term} was refused once the database knew {far}; all {len(after)} later"
        f" transactions have terms from {min(after)} on",
    )


def test_leaders_that_are_revived_write_nothing_under_their_old_term(
    lab: Lab, shows: Shows
) -> None:
    rounds, rng = count(ROUNDS), seeded("deposed")
    before, over = len(_records(lab)), threading.Event()
    with ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(_come_and_go, lab, number, over) for number in range(4)]
        try:
            for _ in range(rounds):
                _depose(lab, rng)
        finally:
            over.set()
        made = sum(each.result() for each in busy)
    wait_agreed(lab)
    terms = _terms(_records(lab)[before:])
    assert len(set(terms)) >= rounds, "each round had a leader that wrote"
    assert terms == sorted(terms), "an old term has written after a newer one"
    shows(
        "networks 6 revived leaders",
        f"{rounds} leaders stopped and revived while {made} networks came and went: of"
        f" {len(terms)} transactions of {len(set(terms))} terms none has a lower term than one"
        " before it; store and OVN agree",
    )


def _depose(lab: Lab, rng: random.Random) -> None:
    """Stop the leader until another has written; revive it, and see that it writes no more."""
    time.sleep(rng.uniform(0.0, 1.0))
    old = wait_for(lambda: leader_of(lab), "one leads", PATIENCE_S)
    term = _stored_term(lab)
    with _all_halted(lab, old):
        wait_for(lambda: leader_of(lab) not in ("", old), "another leads", PATIENCE_S)
        wait_for(lambda: _stored_term(lab) > term, "another has written", PATIENCE_S)


@contextmanager
def _all_halted(lab: Lab, scheduler: str) -> Iterator[None]:
    """Stop a scheduler with its child processes."""
    process = lab.site.running(lab.spec.scheduler_cell(scheduler), "scheduler")
    assert process is not None
    with ExitStack() as stack:
        for pid in _family(process.pid):
            stack.enter_context(halted(pid))
        yield


def _family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []  # it has ended
    return [pid, *(one for child in text.split() for one in _family(int(child)))]


def _come_and_go(lab: Lab, number: int, over: threading.Event) -> int:
    """Make and remove networks until it is over; return how many."""
    made = 0
    with calling(lab, first=number) as caller:
        while not over.is_set():
            draft = network_pb2.Network(name=f"n{number}-{made}")
            network = _call(caller, "CreateNetwork", network=draft).network
            _call(caller, "DeleteNetwork", network_id=network.id)
            made += 1
    return made


def _call(caller: Caller, method: str, **fields: Any) -> Any:
    """Call until it is answered: its request id makes it once."""
    request_id = str(uuid.uuid4())

    def call(user: User) -> Any:
        return user.client.call("NetworkService", method, request_id=request_id, **fields)

    return caller.persist(call)


def _log(lab: Lab, scheduler: str) -> bytes:
    return lab.paths.log(lab.spec.scheduler_cell(scheduler), "scheduler").read_bytes()
