"""Any sequence of calls: what one answers is what the next may hold, until nothing is unthinkable.

A single drawn request rarely meets a resource in a state other than its first. Here hypothesis
makes stories: calls of any method whose ids, etags, tokens and revisions come from answers before,
between them a leader that ends what is under way, well or not. The rules are those of
`test_any_request`; a story that breaks one is shortened to its fewest calls.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.contract.api.test_any_request import AGENTS, PUBLIC, furnish, public_target
from tests.support.acceptance import Shows, count, seeded
from tests.support.agent import IMAGE, an_instance_id
from tests.support.any_call import EXPLORE, LARGEST_BYTES, Target
from tests.support.any_request import any_requests
from tests.support.served_agent import HOST_ID, ServedAgent
from tests.support.served_api import ServedApi
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import encode, uuid7

pytestmark = pytest.mark.timeout(600)
STREAMS = frozenset(name for name, method in PUBLIC.items() if method.server_streaming)
UNARY = sorted(name for name in PUBLIC if name not in STREAMS)
MOSTLY = st.sampled_from([True, True, True, False])
SIZES = {
    "vcpus": [1, 2],
    "memory_bytes": [64 << 20, 128 << 20],
    "size_bytes": [1 << 20],
}
NEWEST = 6
"""Values of a kind that are kept: the newest are the likeliest to matter."""
TOLD = re.compile(r"(_id|_ids|etag|page_token|revision|request_id|generation|run_epoch)$")
TOTAL = {"calls": 0, "refused": 0}


def learn(known: dict[str, Any], message: Any) -> None:
    """Take the ids, etags, tokens and revisions of an answer into what fields may hold."""
    own = re.sub(r"(?<!^)(?=[A-Z])", "_", message.DESCRIPTOR.name).lower()
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            many = value if _is_list(field) else [value]
            for one in many:
                if hasattr(one, "DESCRIPTOR"):
                    learn(known, one)
        elif field.name == "id":
            _keep(known, f"{own}_id", value)
        elif field.type == FieldDescriptor.TYPE_STRING and TOLD.search(field.name):
            _keep(known, field.name.removeprefix("next_"), value)


def _is_list(field: Any) -> bool:
    return bool(field.is_repeated) and not field.message_type.GetOptions().map_entry


def _keep(known: dict[str, Any], name: str, value: Any) -> None:
    values = list(value) if isinstance(value, list | tuple) else [value]
    for one in (str(v) for v in values):
        kept = [k for k in known.get(name, ()) if k != one]
        known[name] = [*kept, one][-NEWEST:]


class AnyStory(RuleBasedStateMachine):
    """A user's calls in any order, with a leader between them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="story-"))
        self.served = ServedApi(self.folder / "a")
        self.served.__enter__()
        self.served.leader.idle = True
        self.known: dict[str, Any] = dict(self.served.do(furnish(self.served)))
        self.channel = grpc.insecure_channel(f"unix:{self.served.socket}")
        self.target = public_target(self.channel, self.known, self.served)

    @rule(data=st.data(), name=st.sampled_from(UNARY), tidy=MOSTLY)
    def call(self, data: st.DataObject, name: str, tidy: bool) -> None:
        requests = data.draw(any_requests(PUBLIC[name], self.known, tidy=tidy))
        if all(request.ByteSize() < LARGEST_BYTES for request in requests):
            for response in self.target.try_one(PUBLIC[name], requests).responses:
                learn(self.known, response)

    @rule(fails=st.booleans())
    def lead(self, fails: bool) -> None:
        if fails:
            self.served.leader.failures.append(FailedPrecondition("no room", reason="DISK_FULL"))
        self.served.do(self.served.api.lead(self.served.leader.settle))

    def teardown(self) -> None:
        TOTAL["calls"] += self.target.calls
        TOTAL["refused"] += self.target.refused
        self.channel.close()
        self.served.__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)


class AnyOrders(RuleBasedStateMachine):
    """A leader's orders to one agent in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="orders-"))
        self.served = ServedAgent(self.folder)
        self.served.__enter__()
        self.known: dict[str, Any] = {
            "host_id": [HOST_ID],
            "instance_id": [an_instance_id(n) for n in range(1, 3)],
            "project_id": [encode("prj", uuid7(0, 1))],
            "name": ["web", "root"],
            "=sha256": [IMAGE.sha256],
            "=existence": [1, 2],
            "=desired_power": [1, 2],
            "=format": [1, 2],
            **SIZES,
            "id": [an_instance_id(1), IMAGE.image_id],
            "=term": [1, 2],
            "=generation": [0, 1, 2, 3],
            "=run_epoch": [1, 2],
        }
        self.channel = self.served.channel()
        self.target = Target(self.channel, self.known, self.served.kept)

    @rule(
        data=st.data(),
        name=st.sampled_from(sorted(n for n, m in AGENTS.items() if not m.server_streaming)),
        tidy=MOSTLY,
    )
    def call(self, data: st.DataObject, name: str, tidy: bool) -> None:
        requests = data.draw(any_requests(AGENTS[name], self.known, tidy=tidy))
        if all(request.ByteSize() < LARGEST_BYTES for request in requests):
            for response in self.target.try_one(AGENTS[name], requests).responses:
                learn(self.known, response)

    def teardown(self) -> None:
        TOTAL["calls"] += self.target.calls
        TOTAL["refused"] += self.target.refused
        self.channel.close()
        self.served.__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)


def _run(machine: type[RuleBasedStateMachine], stories: int, steps: int, start: int) -> str:
    TOTAL.update(calls=0, refused=0)
    seed(start)(machine)
    run = cast("Any", run_state_machine_as_test)
    run(machine, settings=settings(EXPLORE, max_examples=stories, stateful_step_count=steps))
    return f"{TOTAL['calls']} calls in {stories} stories, {TOTAL['refused']} refused, start {start}"


def test_any_sequence_of_calls_is_served_or_refused_exactly(shows: Shows) -> None:
    start = seeded("stories").getrandbits(64)
    shows("solid 7 fuzz, stories", _run(AnyStory, count(60), 40, start))


def test_any_sequence_of_orders_is_served_or_refused_exactly(shows: Shows) -> None:
    start = seeded("orders").getrandbits(64)
    shows("solid 7 fuzz, orders", _run(AnyOrders, count(60), 30, start))
