"""What a user sees when something goes wrong: four parts, and a documented exit code."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import grpc
import pytest

from tests.support.command_line import unkai
from tests.support.fake_api import FakeApi
from tests.support.served_api import ServedApi
from unkai_wire import errors

EXITS = [
    (errors.Internal("it broke"), 1),
    (errors.Cancelled("given up"), 1),
    (errors.Unsupported("cannot"), 1),
    (errors.InvalidArgument("wrong"), 2),
    (errors.NotFound.of("flavor", "f"), 3),
    (errors.AlreadyExists.of("flavor", "f"), 4),
    (errors.FailedPrecondition("not now"), 4),
    (errors.Conflict("moved"), 4),
    (errors.QuotaExceeded("too much", reason="QUOTA_INSTANCES"), 5),
    (errors.NoCapacity("full", reasons={"memory": 2}), 5),
    (errors.Unavailable("away"), 6),
    (errors.DeadlineExceeded("slow"), 6),
    (errors.PermissionDenied("no"), 7),
    (errors.Unauthenticated("who"), 7),
]


@pytest.mark.parametrize(("error", "code"), EXITS, ids=lambda v: getattr(v, "reason", str(v)))
def test_each_class_of_error_ends_with_its_exit_code(
    error: errors.UnkaiError, code: int, fake: FakeApi
) -> None:
    fake.script("ListFlavors", error)
    outcome = unkai("flavor", "list")
    assert (outcome.code, outcome.out) == (code, "")
    assert error.message in outcome.err


def test_every_documented_exit_code_is_shown_by_help() -> None:
    shown = " ".join(unkai("--help").out.split())
    documented = {code for _, code in EXITS} | {0, 130}
    listed = shown.split("Exit codes:")[1]
    assert documented <= {int(code) for code in re.findall(r"\b\d+\b", listed)}


def test_an_error_has_four_parts_what_why_fix_and_the_request(fake: FakeApi) -> None:
    refusal = errors.NoCapacity(
        "no host fits",
        reasons={"memory": 2, "vcpus": 1},
        fix="ask for less",
        metadata={"wanted_vcpus": "64"},
        request_id="req-7",
    )
    fake.script("ListFlavors", refusal)
    assert unkai("flavor", "list").err.splitlines() == [
        "error: no host fits",
        "  why: NO_CAPACITY (wanted_vcpus=64)",
        "       memory: 2 hosts",
        "       vcpus: 1 host",
        "  fix: ask for less",
        "  request: req-7",
    ]


def test_a_refused_change_tells_the_request_id_that_was_sent(fake: FakeApi) -> None:
    fake.script("CreateProject", errors.AlreadyExists.of("project", "lab"))
    outcome = unkai("project", "create", "lab")
    [sent] = fake.asked["CreateProject"]
    assert outcome.err.splitlines()[-1] == f"  request: {sent.request_id}"


def test_each_wrong_field_is_told(cloud: ServedApi) -> None:
    outcome = unkai("flavor", "create", "Not_A_Name", "-c", "300", "-m", "1K")
    assert outcome.code == 2
    assert "flavor.name:" in outcome.err
    assert "flavor.vcpus:" in outcome.err


def test_an_error_without_a_fix_of_its_own_still_says_what_to_do(fake: FakeApi) -> None:
    fake.script("ListFlavors", errors.PermissionDenied("no"))
    assert "\n  fix: " in unkai("flavor", "list").err


def test_control_characters_of_a_server_do_not_reach_the_terminal(fake: FakeApi) -> None:
    bad = "bad \x1b[2J news"
    for error in (
        errors.FailedPrecondition(bad, fix=bad, metadata={bad: bad}, request_id=bad),
        errors.InvalidArgument(bad, violations=[(bad, bad)]),
        errors.NoCapacity(bad, reasons={bad: 1}),
    ):
        fake.script("ListFlavors", error)
        told = unkai("flavor", "list").err
        assert "news" in told
        assert "\x1b" not in told


def test_no_socket_is_unavailable_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNKAI_SOCKET", "/nowhere/api.sock")
    outcome = unkai("flavor", "list")
    assert outcome.code == 6
    assert "NO_SOCKET" in outcome.err
    assert "unkai context use" in outcome.err


def test_a_missing_certificate_is_the_callers_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNKAI_ADDRESS", "127.0.0.1:1")
    for name in ("CA", "CERTIFICATE", "KEY"):
        monkeypatch.setenv(f"UNKAI_{name}", "/nowhere/pem")
    outcome = unkai("flavor", "list")
    assert outcome.code == 2
    assert "CERTIFICATE_UNREADABLE" in outcome.err


@pytest.mark.parametrize(
    ("typed", "guess"),
    [("imaeg", "'image'"), ("instances", "'instance'"), ("instance lisst", "'list'")],
)
def test_an_unknown_command_is_wrong_usage_with_a_guess(typed: str, guess: str) -> None:
    outcome = unkai(*typed.split())
    assert outcome.code == 2
    assert f"Did you mean {guess}" in outcome.err


@pytest.mark.parametrize(
    "words",
    [
        "launch tiny web",
        "launch tiny web --flavor nano -c 2",
        "launch tiny web -c 2 -m lots",
        "instance list --state ASLEEP",
        "instance update web",
        "flavor list -o xml",
        "flavor list -o value",
        "context add lab",
        "context add lab --address 1.2.3.4:7443",
    ],
)
def test_wrong_usage_ends_with_two(words: str, cloud: ServedApi) -> None:
    assert unkai(*words.split()).code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("instance", "show", "w\udcff"),
        ("instance", "list", "-l", "app=\udcff"),
        ("project", "create", "lab", "--description", "\udcff"),
        ("context", "add", "\udcff", "--socket", "/run/unkai.sock"),
    ],
    ids=lambda words: words[0],
)
def test_an_argument_that_is_not_utf_8_is_wrong_usage(
    words: tuple[str, ...], cloud: ServedApi
) -> None:
    outcome = unkai(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert "NOT_UTF8" in outcome.err
    assert "\\udcff" in outcome.err


@pytest.mark.parametrize("count", ["2147483648", "99999999999"])
def test_a_count_that_no_contract_holds_is_wrong_usage(count: str, cloud: ServedApi) -> None:
    for words in (("flavor", "create", "huge"), ("launch", "tiny", "huge")):
        outcome = unkai(*words, "-c", count, "-m", "64M")
        assert outcome.code == 2, outcome.err
        assert "--vcpus" in outcome.err


def test_user_data_that_no_message_holds_is_told_as_too_large(
    cloud: ServedApi, tmp_path: Path
) -> None:
    image = cloud.do(cloud.api.a_ready_image())
    file = tmp_path / "user-data"
    file.write_bytes(b"x" * (5 << 20))
    outcome = unkai("launch", image.name, "web", "--flavor", "nano", "--user-data", str(file))
    assert outcome.code == 2
    assert "MESSAGE_TOO_LARGE" in outcome.err


def test_a_key_file_that_is_no_text_is_refused_as_no_key(cloud: ServedApi, tmp_path: Path) -> None:
    file = tmp_path / "id.der"
    file.write_bytes(b"\x30\x82\xff\xfe")
    outcome = unkai("key", "add", "laptop", str(file))
    assert outcome.code == 2
    assert "INVALID_PUBLIC_KEY" in outcome.err


def test_a_command_whose_package_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "grpc_health.v1", None)
    for module in [name for name in sys.modules if name.startswith("unkai_lab")]:
        monkeypatch.delitem(sys.modules, module)
    outcome = unkai("lab", "status")
    assert outcome.code == 4
    assert "NOT_INSTALLED" in outcome.err
    assert "pip install 'unkai[lab]'" in outcome.err


def test_an_unknown_field_is_refused_with_the_fields_there_are(cloud: ServedApi) -> None:
    outcome = unkai("flavor", "list", "-o", "value=flavour")
    assert outcome.code == 2
    assert "vcpus" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_label_that_is_not_set_is_an_empty_value(cloud: ServedApi) -> None:
    cloud.do(cloud.api.create("web", labels={"app": "shop"}))
    assert unkai("instance", "list", "-o", "value=labels.app").out == "shop\n"
    assert unkai("instance", "list", "-o", "value=labels.tier").out == "\n"


def test_a_refused_upload_tells_why_and_frees_its_name(cloud: ServedApi, tmp_path: Path) -> None:
    backed = tmp_path / "bad.qcow2"
    backed.write_bytes(b"\x01" * (1 << 20))
    outcome = unkai("image", "upload", "bad", str(backed), "--format", "qcow2")
    assert outcome.code == 2
    assert "IMAGE_FORMAT_MISMATCH" in outcome.err
    cloud.lead(cloud.leader.settle)
    assert unkai("image", "list", "-o", "name").out == ""


def test_the_reason_of_a_refused_upload_survives_a_failing_clean_up(
    fake: FakeApi, tmp_path: Path
) -> None:
    from unkai.storage.v1 import image_pb2, image_service_pb2

    file = tmp_path / "tiny.raw"
    file.write_bytes(b"x")
    made = image_service_pb2.CreateImageResponse(image=image_pb2.Image(id="img-1", name="tiny"))
    _default_project(fake)
    fake.script("CreateImage", made)
    fake.script("UploadImage", errors.InvalidArgument("it lies", reason="IMAGE_LIES"))
    fake.script("DeleteImage", errors.Conflict("not now"))
    outcome = unkai("image", "upload", "tiny", str(file))
    assert outcome.code == 2
    assert "IMAGE_LIES" in outcome.err
    assert len(fake.asked["DeleteImage"]) == 1


def test_a_file_that_cannot_be_written_is_told_without_a_trace(
    cloud: ServedApi, tmp_path: Path
) -> None:
    image = cloud.do(cloud.api.a_ready_image())
    outcome = unkai("image", "download", image.name, str(tmp_path / "no" / "such" / "file"))
    assert outcome.code == 4
    assert "LOCAL_ERROR" in outcome.err


def _default_project(fake: FakeApi) -> None:
    from unkai.identity.v1 import project_pb2, project_service_pb2

    project = project_pb2.Project(id="prj-1", name="default")
    fake.script("ListProjects", project_service_pb2.ListProjectsResponse(projects=[project]))


def test_grpcs_own_errors_are_told_in_the_same_form(fake: FakeApi) -> None:
    outcome = unkai("flavor", "list")
    assert outcome.code == 1
    assert outcome.err.startswith("error: no script for ListFlavors")
    assert f"grpc_code={grpc.StatusCode.UNIMPLEMENTED.name}" in outcome.err
