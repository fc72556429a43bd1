"""What a hypervisor says of itself, asked on a connection of its own; for `diagnose`.

Beside the driver, which keeps one connection for its work: here each question opens one, read-only,
and closes it. Nothing here has a deadline: whoever asks must be able to leave the thread behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from unkai_agent.compute.libvirt_session import qemu_uids
from unkai_wire.errors import Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HypervisorFacts:
    """What a hypervisor says of itself. Versions are major * 1,000,000 + minor * 1,000 + micro."""

    libvirt_version: int
    qemu_version: int
    guest_uids: frozenset[int]
    """Users that guests run as; empty where libvirt does not say."""


def knock(uri: str) -> None:
    """See that a hypervisor answers, on a connection of its own. Blocks, perhaps for ever.

    Raises `Unavailable` when it cannot be reached.
    """
    _ask(uri, lambda connection: connection.getLibVersion())


def look_at(uri: str) -> HypervisorFacts:
    """Ask a hypervisor what it is. As `knock`; the first time it may have to try its emulators."""
    return _ask(
        uri,
        lambda connection: HypervisorFacts(
            connection.getLibVersion(),
            connection.getVersion(),
            frozenset(qemu_uids(connection.getCapabilities())),
        ),
    )


def _ask(uri: str, question: Callable[[Any], T]) -> T:
    import libvirt

    libvirt.registerErrorHandler(lambda _opaque, _error: None, None)
    try:
        connection = libvirt.openReadOnly(uri)
        try:
            return question(connection)
        finally:
            connection.close()
    except libvirt.libvirtError as error:
        raise Unavailable(
            f"libvirt cannot be reached at {uri}: {error.get_error_message()}",
            reason="HYPERVISOR_UNAVAILABLE",
            metadata={"uri": uri},
        ) from error
