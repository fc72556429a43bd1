"""libvirt's complaints in our words, without libvirt."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from unkai_agent.compute.libvirt_errors import translate, without_paths
from unkai_wire.errors import Conflict, FailedPrecondition, NotFound, Unavailable, UnkaiError

_LIBVIRT = SimpleNamespace(
    VIR_FROM_RPC=7,
    VIR_ERR_NO_CONNECT=5,
    VIR_ERR_INVALID_CONN=6,
    VIR_ERR_RPC=39,
    VIR_ERR_AUTH_FAILED=45,
    VIR_ERR_AUTH_CANCELLED=79,
    VIR_ERR_AUTH_UNAVAILABLE=94,
    VIR_ERR_NO_DOMAIN=42,
    VIR_ERR_OPERATION_TIMEOUT=68,
)
_INTERNAL, _OPERATION_FAILED = 1, 9


def an_error(text: str, code: int = _INTERNAL, domain: int = 10) -> SimpleNamespace:
    return SimpleNamespace(
        get_error_code=lambda: code,
        get_error_domain=lambda: domain,
        get_error_message=lambda: text,
    )


def translated(text: str, code: int = _INTERNAL, domain: int = 10) -> UnkaiError:
    return translate(_LIBVIRT, an_error(text, code, domain), act="start", instance_id="ins-1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "Cannot access storage file '/var/x/root.qcow2': No such file or directory",
            "DISK_MISSING",
        ),
        ("Could not open '/var/x/root.qcow2': Permission denied", "DISK_NOT_ACCESSIBLE"),
        ("unable to write to '/run/libvirt/x': No space left on device", "DISK_FULL"),
        ('Failed to get "write" lock\nIs another process using the image', "DISK_IN_USE"),
        ("cannot set up guest memory 'pc.ram': Cannot allocate memory", "HOST_MEMORY_EXHAUSTED"),
        ("Could not access KVM kernel module: Permission denied", "ACCELERATOR_UNAVAILABLE"),
        ("domain 'a.b' already exists with uuid 1-2", "DOMAIN_NAME_TAKEN"),
        ("something nobody foresaw", "HYPERVISOR_REFUSED"),
    ],
)
def test_a_cause_has_its_reason_and_a_fix(text: str, reason: str) -> None:
    error = translated(text)
    assert isinstance(error, FailedPrecondition)
    assert error.reason == reason
    assert error.fix
    assert "/var" not in str(error.to_record())
    assert "/run" not in str(error.to_record())


@pytest.mark.parametrize(
    ("code", "domain"),
    [
        (_LIBVIRT.VIR_ERR_NO_CONNECT, 0),
        (_LIBVIRT.VIR_ERR_RPC, 0),
        (_LIBVIRT.VIR_ERR_OPERATION_TIMEOUT, 10),
        (_INTERNAL, _LIBVIRT.VIR_FROM_RPC),
    ],
)
def test_trouble_on_the_way_to_libvirt_may_be_retried(code: int, domain: int) -> None:
    error = translated("client socket is closed", code, domain)
    assert isinstance(error, Unavailable)
    assert error.reason == "HYPERVISOR_UNAVAILABLE"


def test_a_missing_domain_is_not_found() -> None:
    assert isinstance(translated("no domain", _LIBVIRT.VIR_ERR_NO_DOMAIN), NotFound)


def test_a_console_that_is_held_is_a_conflict() -> None:
    error = translated("Active console session exists for this domain", _OPERATION_FAILED)
    assert isinstance(error, Conflict)
    assert error.reason == "CONSOLE_IN_USE"


def test_texts_are_one_bounded_line_without_paths() -> None:
    text = without_paths("cannot open '/var/lib/unkai/a b', nor /etc/x:\n" + "x" * 1000)
    assert text.startswith("cannot open '(path)")
    assert "/etc" not in text
    assert "\n" not in text
    assert len(text) <= 300
