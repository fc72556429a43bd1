"""Say in our words what libvirt complained about. Pure; the libvirt module is passed in.

libvirt has few codes for many causes: what QEMU or the kernel said comes as English text under
one code, so texts are matched too, the most telling first. Messages never carry host paths:
what is quoted from libvirt goes into the metadata with paths struck out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from unkai_wire.errors import Conflict, FailedPrecondition, NotFound, Unavailable, UnkaiError

_PATH = re.compile(r"(?<![\w/])/(?:[^\s/'\",:;]+/?)+")
_DETAIL_LIMIT = 300


@dataclass(frozen=True, slots=True)
class _Cause:
    """A text in libvirt's message, and what it means to us."""

    text: str
    reason: str
    message: str
    fix: str


_CAUSES = (
    _Cause(
        "No space left on device",
        "DISK_FULL",
        "the host's disk is full",
        "free room on the host, or remove machines from it",
    ),
    # libvirt 9.0 says no more of it: it could open the file, and not write 32 bytes.
    _Cause(
        "failed to write master key file",
        "DISK_FULL",
        "the host's disk is full",
        "free room on the host where /var/lib/libvirt is, or remove machines from it",
    ),
    _Cause(
        'Failed to get "write" lock',
        "DISK_IN_USE",
        "another process has the machine's disk open",
        "find and stop the other QEMU or qemu-img on the host",
    ),
    _Cause(
        "already exists with uuid",
        "DOMAIN_NAME_TAKEN",
        "the domain's name belongs to another domain on this host",
        "rename the instance, or remove the other domain from the host",
    ),
    _Cause(
        "Could not access KVM",
        "ACCELERATOR_UNAVAILABLE",
        "KVM does not work on this host any more",
        "restart the agent: it proves again what the host can do",
    ),
    _Cause(
        "failed to initialize kvm",
        "ACCELERATOR_UNAVAILABLE",
        "KVM does not work on this host any more",
        "restart the agent: it proves again what the host can do",
    ),
    _Cause(
        "Cannot allocate memory",
        "HOST_MEMORY_EXHAUSTED",
        "the host has no memory left for the machine",
        "stop machines on the host, or lower its memory allocation ratio",
    ),
    _Cause(
        "cannot set up guest memory",
        "HOST_MEMORY_EXHAUSTED",
        "the host has no memory left for the machine",
        "stop machines on the host, or lower its memory allocation ratio",
    ),
    _Cause(
        "Permission denied",
        "DISK_NOT_ACCESSIBLE",
        "the user that runs QEMU may not open the machine's files",
        "check the agent's setting of that user against libvirt's qemu.conf",
    ),
    _Cause(
        "No such file or directory",
        "DISK_MISSING",
        "a file of the machine is missing on the host",
        "look at the machine's disks on the host",
    ),
)


def lost_connection(libvirt: Any, error: Any) -> bool:
    """Tell whether the error is about reaching libvirtd, not about what was asked of it."""
    return error.get_error_domain() == libvirt.VIR_FROM_RPC or error.get_error_code() in (
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_CANCELLED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    )


def translate(libvirt: Any, error: Any, *, act: str, instance_id: str = "") -> UnkaiError:
    """Return our error for a `libvirt.libvirtError` raised while trying to `act`."""
    code, text = error.get_error_code(), error.get_error_message() or ""
    metadata = {"act": act, "detail": without_paths(text)}
    if instance_id:
        metadata["instance_id"] = instance_id
    if lost_connection(libvirt, error):
        return unavailable("the hypervisor cannot be reached", metadata)
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        return unavailable("the hypervisor is busy with the machine", metadata)
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return NotFound.of("domain", instance_id)
    if "Active console session exists" in text:
        return console_in_use(instance_id)
    for cause in _CAUSES:
        if cause.text.lower() in text.lower():
            return FailedPrecondition(
                f"cannot {act}: {cause.message}",
                reason=cause.reason,
                fix=cause.fix,
                metadata=metadata,
            )
    return FailedPrecondition(
        f"cannot {act}: the hypervisor refused: {metadata['detail']}",
        reason="HYPERVISOR_REFUSED",
        fix="see libvirt's and QEMU's logs on the host",
        metadata=metadata,
    )


def unavailable(message: str, metadata: dict[str, str] | None = None) -> Unavailable:
    """Return the error that the port promises for a hypervisor that does not answer."""
    return Unavailable(
        message,
        reason="HYPERVISOR_UNAVAILABLE",
        fix="it is tried again by itself; look at libvirtd on the host if this goes on",
        retry_after_s=1.0,
        metadata=metadata,
    )


def console_in_use(instance_id: str) -> Conflict:
    """Return the error for a console that somebody holds."""
    return Conflict(
        "somebody else is attached to the console",
        reason="CONSOLE_IN_USE",
        fix="wait, or attach by force, which ends the other session",
        metadata={"instance_id": instance_id},
    )


def console_taken_over(instance_id: str) -> Conflict:
    """Return the error for a console session that another has ended by force."""
    return Conflict(
        "somebody else has taken the console over",
        reason="CONSOLE_TAKEN_OVER",
        fix="attach by force to take it back",
        metadata={"instance_id": instance_id},
    )


def qemu_as_root(instance_id: str) -> FailedPrecondition:
    """Return the error for a libvirtd that would run guests as root."""
    return FailedPrecondition(
        "the host's libvirt would run the machine as root",
        reason="QEMU_AS_ROOT",
        fix='set user = "libvirt-qemu" in /etc/libvirt/qemu.conf on the host and restart libvirtd',
        metadata={"instance_id": instance_id},
    )


def is_off(instance_id: str, act: str) -> FailedPrecondition:
    """Return the error for an act that needs a running machine."""
    return FailedPrecondition(
        f"cannot {act}: the machine is off",
        reason="DOMAIN_OFF",
        fix="start it first",
        metadata={"instance_id": instance_id, "act": act},
    )


def is_not_off(instance_id: str, act: str) -> FailedPrecondition:
    """Return the error for an act that needs a machine that is off."""
    return FailedPrecondition(
        f"cannot {act}: the machine is not off",
        reason="DOMAIN_NOT_OFF",
        fix="stop it first",
        metadata={"instance_id": instance_id, "act": act},
    )


def without_paths(text: str) -> str:
    """Return the text's first 300 characters on one line, file paths struck out."""
    return _PATH.sub("(path)", " ".join(text.split()))[:_DETAIL_LIMIT]
