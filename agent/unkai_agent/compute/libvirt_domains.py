"""Domains as libvirt shows them at a moment: whose they are and how they fare.

Below `libvirt_driver.py`, in its worker threads. A domain may go while it is looked at: then there
is none, which is no error.
"""

from __future__ import annotations

from typing import Any

from unkai_agent.compute import domain_xml
from unkai_agent.compute.domain_xml import DomainIdentity
from unkai_agent.compute.driver import DiskError, Domain, DomainState, OffReason
from unkai_wire import ids
from unkai_wire.errors import NotFound


def look_up(libvirt: Any, connection: Any, instance_id: str) -> Any:
    """Return a machine's domain (virDomain), or None."""
    try:
        return connection.lookupByUUIDString(str(ids.uuid_of(instance_id)))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def must_look_up(libvirt: Any, connection: Any, instance_id: str) -> Any:
    """Return a machine's domain (virDomain); raise `NotFound`."""
    domain = look_up(libvirt, connection, instance_id)
    if domain is None:
        raise NotFound.of("domain", instance_id)
    return domain


def identity_of(libvirt: Any, domain: Any) -> DomainIdentity | None:
    """Read our metadata; None: the domain is not ours, or gone."""
    try:
        metadata = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, domain_xml.NAMESPACE, 0)
    except libvirt.libvirtError as error:
        gone = (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN)
        if error.get_error_code() in gone:
            return None
        raise
    return domain_xml.parse_identity(metadata)


def observed(libvirt: Any, domain: Any) -> Domain | None:
    """Look at a domain now; None: it is not ours, or gone.

    libvirt alone is asked: a QEMU that hangs holds nothing up.
    """
    identity = identity_of(libvirt, domain)
    if identity is None:
        return None
    try:
        code, reason = domain.state()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    state = _state(libvirt, code)
    return Domain(
        instance_id=identity.instance_id,
        name=domain.name(),
        state=state,
        off_reason=_off_reason(libvirt, code, reason) if state is DomainState.OFF else None,
        generation=identity.generation,
        run_epoch=identity.run_epoch,
        accelerator=identity.accelerator,
        paused_by_error=state is DomainState.PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR,
    )


def disk_error(libvirt: Any, domain: Any) -> DiskError | None:
    """Ask QEMU what it met at the domain's disks (virDomainGetDiskErrors); a full one says most.

    Blocks as long as that QEMU hangs.
    """
    try:
        errors = set(domain.diskErrors().values())
    except libvirt.libvirtError:
        return None  # gone, or resumed: the next look tells
    if libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE in errors:
        return DiskError.NO_ROOM
    return DiskError.FAILED if errors - {libvirt.VIR_DOMAIN_DISK_ERROR_NONE} else None


def _state(libvirt: Any, code: int) -> DomainState:
    return {
        libvirt.VIR_DOMAIN_RUNNING: DomainState.RUNNING,
        libvirt.VIR_DOMAIN_BLOCKED: DomainState.RUNNING,
        libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
        libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
        libvirt.VIR_DOMAIN_SHUTDOWN: DomainState.STOPPING,
    }.get(code, DomainState.OFF)


def _off_reason(libvirt: Any, code: int, reason: int) -> OffReason:
    if code == libvirt.VIR_DOMAIN_CRASHED:
        return OffReason.CRASHED
    return {
        libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: OffReason.GUEST_SHUTDOWN,
        libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: OffReason.DESTROYED,
        libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: OffReason.CRASHED,
        libvirt.VIR_DOMAIN_SHUTOFF_FAILED: OffReason.CRASHED,
    }.get(reason, OffReason.UNKNOWN)
