"""The search of `test_any_request` finds what it looks for: here bugs are planted for it.

Each is met by one rare input alone. A search that did not find one would say nothing about those
that nobody planted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.contract.api.test_any_request import AGENTS, PUBLIC, furnish, public_target
from tests.support.acceptance import Shows, seeded
from tests.support.agent import an_instance_id
from tests.support.any_call import Target, search
from tests.support.served_agent import HOST_ID, ServedAgent
from tests.support.served_api import ServedApi
from unkai_agent.api.machines import MachineServicer
from unkai_scheduler.api.events import EventServicer
from unkai_scheduler.api.flavors import FlavorServicer
from unkai_scheduler.api.images import ImageServicer
from unkai_scheduler.api.instances import InstanceServicer
from unkai_scheduler.api.projects import ProjectServicer
from unkai_wire.errors import AlreadyExists, InvalidArgument

EXAMPLES = 200
"""As many as the full count of each method."""
SEARCHES = 5
"""A search is drawn: of a bug that one request in a hundred meets, some see nothing."""


@dataclass(frozen=True)
class Planted:
    """A bug: in which method of which servicer, and for which request."""

    servicer: Any
    method: str
    is_met: Callable[[Any], bool]

    def __str__(self) -> str:
        return f"{self.servicer.__name__.removesuffix('Servicer')}Service.{self.method}"


PUBLIC_BUGS = (
    Planted(FlavorServicer, "CreateFlavor", lambda r: r.flavor.memory_bytes < 0),
    Planted(InstanceServicer, "ListInstances", lambda r: r.page_size == (1 << 31) - 1),
    Planted(InstanceServicer, "StopInstance", lambda r: r.grace.nanos == 1_000_000_000),
    Planted(InstanceServicer, "UpdateInstance", lambda r: "name" in r.update_mask.paths),
    Planted(ImageServicer, "UploadImage", lambda r: r.chunk.startswith(b"QFI")),
    Planted(EventServicer, "WatchEvents", lambda r: "image" in r.resource_kinds),
)
AGENT_BUGS = (
    Planted(MachineServicer, "EnsureMachine", lambda r: len(r.spec.disks) > 60),
    Planted(MachineServicer, "ReadConsoleLog", lambda r: r.tail_bytes == -(1 << 63)),
)


def plant(monkeypatch: pytest.MonkeyPatch, bug: Planted) -> None:
    """Have the servicer raise `KeyError` where the bug is met; a server made after has it."""
    sound = getattr(bug.servicer, bug.method)

    def judge(request: Any) -> None:
        if bug.is_met(request):
            raise KeyError("planted")

    async def judged(requests: Any) -> Any:
        async for request in requests:
            judge(request)
            yield request

    def buggy(self: Any, request: Any, context: Any) -> Any:
        if hasattr(request, "__aiter__"):
            return sound(self, judged(request), context)
        judge(request)
        return sound(self, request, context)

    monkeypatch.setattr(bug.servicer, bug.method, buggy)


@contextmanager
def a_public_target(folder: Path) -> Iterator[Target]:
    with ServedApi(folder / "a") as served:
        served.leader.idle = True
        known = dict(served.do(furnish(served)))
        with grpc.insecure_channel(f"unix:{served.socket}") as channel:
            yield public_target(channel, known, served)


def found(target: Target, method: Any, what: str) -> str:
    """Search; return what was found, or fail."""
    rng = seeded(f"planted {what}")
    for _ in range(SEARCHES):
        try:
            search(target, method, examples=EXAMPLES, start=rng.getrandbits(64))
        except BaseException as error:  # noqa: BLE001 - several found at once come as a group
            return f"{error}{''.join(map(str, getattr(error, 'exceptions', ())))}"
    raise AssertionError(f"{what} was not found in {SEARCHES} searches of {EXAMPLES} requests")


@pytest.mark.parametrize("bug", PUBLIC_BUGS, ids=lambda bug: bug.method)
def test_a_key_error_for_one_rare_request_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: Planted, shows: Shows
) -> None:
    plant(monkeypatch, bug)
    with a_public_target(tmp_path) as target:
        said = found(target, PUBLIC[str(bug)], str(bug))
        assert "INTERNAL" in said
        shows(f"solid 7 planted {bug}", f"found within {target.calls} calls")


@pytest.mark.parametrize("bug", AGENT_BUGS, ids=lambda bug: bug.method)
def test_a_key_error_for_one_rare_order_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: Planted, shows: Shows
) -> None:
    plant(monkeypatch, bug)
    known = {"host_id": [HOST_ID], "instance_id": [an_instance_id()], "=term": [1]}
    with ServedAgent(tmp_path / "agent") as served, served.channel() as channel:
        target = Target(channel, known, served.kept)
        said = found(target, AGENTS[str(bug)], str(bug))
        assert "INTERNAL" in said
        shows(f"solid 7 planted {bug}", f"found within {target.calls} calls")


def test_a_refusal_that_changed_something_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = FlavorServicer.CreateFlavor

    async def half_done(self: Any, request: Any, context: Any) -> Any:
        made = await sound(self, request, context)
        if made.flavor.name == "mini":
            return made
        raise AlreadyExists.of("flavor", made.flavor.name)

    monkeypatch.setattr(FlavorServicer, "CreateFlavor", half_done)
    with a_public_target(tmp_path) as target:
        said = found(target, PUBLIC["FlavorService.CreateFlavor"], "a hidden write")
    assert "a refused call changed something" in said


def test_a_refusal_without_its_field_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def vague(self: Any, request: Any, context: Any) -> Any:
        raise InvalidArgument("something is wrong", reason="INVALID")

    monkeypatch.setattr(ProjectServicer, "GetProject", vague)
    with a_public_target(tmp_path) as target:
        found(target, PUBLIC["ProjectService.GetProject"], "a vague refusal")
