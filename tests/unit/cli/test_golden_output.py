"""Each command's output as people and scripts read it, on the real API."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tests.support.api import an_ssh_key
from tests.support.builders import (
    DEFAULT_PROJECT_ID,
    NOON,
    a_claim,
    a_decision,
    a_key_pair,
    a_placement_group,
    an_aggregate,
    an_event,
    an_image,
    an_instance,
    an_operation,
)
from tests.support.command_line import GOLDEN, Outcome, check_golden, unkai
from tests.support.served_api import ServedApi
from unkai_cli.main import cli
from unkai_scheduler.domain.aggregates import OwnRatios
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.store import (
    aggregates,
    claims,
    events,
    images,
    instances,
    key_pairs,
    operations,
    placement_groups,
)
from unkai_wire.errors import NoCapacity

FORMS = ("table", "wide", "json", "yaml", "name")
READS = {
    "instance list": (),
    "instance show": ("web",),
    "instance explain": ("web",),
    "instance events": ("web",),
    "image list": (),
    "image show": ("tiny",),
    "flavor list": (),
    "flavor show": ("nano",),
    "placement-group list": (),
    "placement-group show": ("apart",),
    "key list": (),
    "key show": ("laptop",),
    "host list": (),
    "host show": ("h1",),
    "host top": ("--once",),
    "aggregate list": (),
    "aggregate show": ("fast",),
    "operation list": (),
    "operation show": (),
    "event list": (),
    "project list": (),
    "project show": ("default",),
    "context list": (),
    "context show": (),
    "version": (),
}
"""Each command that changes nothing, with its arguments."""


def _furnish(served: ServedApi) -> str:
    """Fill a cloud; return the id of the operation in it."""
    image = an_image(name="tiny", sha256="ab" * 32)
    group = a_placement_group(name="apart", labels={"app": "shop"})
    key = a_key_pair(name="laptop", public_key=an_ssh_key(), fingerprint="SHA256:abc")
    web = an_instance(
        name="web",
        image_id=image.id,
        state=InstanceState.RUNNING,
        labels={"app": "shop"},
        placement_group_id=group.id,
    )
    lost = an_instance(
        name="big",
        image_id=image.id,
        vcpus=64,
        state=InstanceState.FAILED,
        state_reason=NoCapacity("no host fits", reasons={"vcpus": 1}).to_record(),
    )
    operation = an_operation(
        resource_id=web.id,
        state=OperationState.SUCCEEDED,
        progress_message="done",
        progress_percent=100,
        end_time=NOON,
        request_id="11111111-2222-4333-8444-555555555555",
    )

    fast = an_aggregate(
        name="fast",
        description="quick ones",
        host_ids=(served.host.id,),
        project_ids=(DEFAULT_PROJECT_ID,),
        traits=("SSD", "GENERATION_3"),
        ratios=OwnRatios(cpu=4.0, disk=1.5),
        labels={"rack": "b"},
    )
    happened = an_event(
        resource_id=web.id, resource_name="web", state="RUNNING", message="web runs on h1"
    )

    def work(conn: Any) -> None:
        images.insert(conn, image)
        key_pairs.insert(conn, key)
        aggregates.insert(conn, fast)
        placement_groups.insert(conn, group)
        for row in (web, lost):
            instances.insert(conn, row)
        claims.insert(conn, [a_claim(web, served.host)])
        instances.save_decision(conn, a_decision(web.id))
        operations.insert(conn, operation)
        events.insert(conn, happened)

    served.lead(work)
    return operation.id


@pytest.fixture(scope="module")
def furnished(
    tmp_path_factory: pytest.TempPathFactory, pki: Path
) -> Iterator[tuple[ServedApi, str]]:
    """A cloud with one of everything, for commands that change nothing; and an operation's id."""
    with ServedApi(tmp_path_factory.mktemp("furnished") / "cloud", pki=pki) as served:
        yield served, _furnish(served)


@pytest.fixture
def ask(
    furnished: tuple[ServedApi, str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    monkeypatch.setenv("UNKAI_SOCKET", str(furnished[0].socket))
    return unkai


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", READS)
def test_a_reading_command_prints_as_its_golden_file_says(
    command: str, form: str, ask: Callable[..., Outcome], furnished: tuple[ServedApi, str]
) -> None:
    arguments = [*command.split(), *READS[command], "-o", form]
    if command == "operation show":
        arguments.append(furnished[1])
    if command == "context list":
        unkai("context", "add", "lab", "--socket", "/run/lab.sock")
    outcome = ask(*arguments)
    shown = outcome.out.replace(str(furnished[0].socket), "/run/api.sock")
    assert outcome.code == 0, outcome.err
    check_golden(f"{command.replace(' ', '-')}.{form}", shown)


def test_changing_commands_print_as_their_golden_files_say(
    cloud: ServedApi, tmp_path: Path
) -> None:
    public_key = tmp_path / "id.pub"
    public_key.write_text(an_ssh_key())
    image = tmp_path / "tiny.raw"
    image.write_bytes(b"\x01" * (2 << 20))
    story = [
        ("key add laptop", str(public_key)),
        ("image upload tiny", str(image)),
        ("flavor create two -c 2 -m 256M --disk 1G",),
        ("placement-group create apart --policy anti-affinity --max 2 -l app=shop",),
        ("placement-group create zones --policy anti-affinity --scope zone --soft",),
        ("placement-group create near --policy affinity",),
        ("launch tiny web --flavor nano --key laptop -l app=shop --network none --group apart",),
        ("placement-group list",),
        ("placement-group update near --name close -l a=b",),
        ("placement-group delete close zones",),
        (
            "instance create tiny db -c 2 -m 512Mi --disk 64M --policy spread --network none "
            "--no-wait",
        ),
        ("instance stop web",),
        ("instance start web",),
        ("instance reboot web",),
        ("instance update web --name www -l tier=front --remove-label app",),
        ("instance list -l tier",),
        ("instance delete www db",),
        ("placement-group delete apart",),
        ("image download tiny", str(tmp_path / "copy.raw")),
        ("image delete tiny",),
        ("key delete laptop",),
        ("flavor delete two",),
        ("host update h1 --zone room-2",),
        ("aggregate create quick --host h1 --trait SSD --dedicate default --cpu-ratio 2",),
        ("aggregate update quick --trait FAST --remove-trait SSD --undedicate default",),
        ("aggregate update quick --name fast --description ours --cpu-ratio 0 -l rack=b",),
        ("aggregate remove-host fast h1",),
        ("aggregate add-host fast h1",),
        ("aggregate delete fast",),
        ("host cordon h1 --reason disk",),
        ("host uncordon h1",),
        ("project create lab --description trial",),
        ("project delete lab",),
        ("operation list -A",),
    ]
    told = []
    for words, *more in story:
        outcome = unkai(*words.split(), *more)
        told.append(f"$ unkai {words}\n{outcome.out}{outcome.err}")
        assert outcome.code == 0, outcome.err
    text = "".join(told).replace(str(tmp_path), "/tmp")
    check_golden("story", text)
    assert (tmp_path / "copy.raw").read_bytes() == image.read_bytes()


def test_every_command_has_a_golden_file_or_is_known_not_to_need_one(tmp_path: Path) -> None:
    stories = ("story.txt", "networks/story.txt")
    story = "".join((GOLDEN / name).read_text() for name in stories)
    elsewhere = {
        "ls",  # instance list under another name
        "instance console",
        "ssh",  # see test_forwards.py, as of the next
        "forward",
        "instance logs",
        "operation wait",
        "operation cancel",
        "event watch",
        "doctor",  # see test_doctor.py
        "audit drift",  # see test_audits.py, as of the next two
        "audit orphans",
        "placement simulate",  # see test_placement.py, as of the next
        "placement losses",
        "placement replay",  # see test_replays.py
        "instance adopt",
        "host remove",  # see test_host_removal.py
        "context add",
        "context use",
        "context remove",
        "completion",
    }
    missing = [
        path
        for path in _leaves()
        if path not in READS
        and path not in elsewhere
        and not (GOLDEN / f"networks/{path.replace(' ', '-')}.txt").exists()
        and f"$ unkai {path} " not in story
    ]
    assert missing == []


def _leaves() -> Iterator[str]:
    with click.Context(cli) as ctx:
        for name in cli.list_commands(ctx):
            command = cli.get_command(ctx, name)
            assert command is not None
            if name == "lab":
                continue  # another package's
            yield from _below(command, name, ctx)


def _below(command: click.Command, path: str, ctx: click.Context) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield path
        return
    for name in command.list_commands(ctx):
        found = command.get_command(ctx, name)
        assert found is not None
        yield from _below(found, f"{path} {name}", ctx)


def test_the_uploaded_key_is_what_the_file_held(cloud: ServedApi, tmp_path: Path) -> None:
    public_key = tmp_path / "id.pub"
    public_key.write_text(an_ssh_key("two") + "\n")
    assert unkai("key", "add", "laptop", str(public_key)).code == 0
    shown = unkai("key", "show", "laptop", "-o", "value=public_key").out
    assert base64.b64decode(shown.split()[1]) == base64.b64decode(an_ssh_key("two").split()[1])
