"""Starting and resuming a domain, whoever else starts, resumes or ends it meanwhile.

Below `libvirt_driver.py`: each method returns what a worker thread does with its connection.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from unkai_agent.compute import libvirt_errors
from unkai_agent.compute.libvirt_domains import must_look_up
from unkai_agent.compute.libvirt_session import qemu_uids


class Starts:
    """What starts domains of one libvirtd."""

    def __init__(self, libvirt: Any) -> None:
        self._libvirt = libvirt
        self._not_root: weakref.WeakSet[Any] = weakref.WeakSet()
        """Connections whose libvirtd is known not to run guests as root."""

    def boot(self, instance_id: str, *, paused: bool) -> Callable[[Any], None]:
        """Start a domain that is off; unless `paused`, let one that sleeps go on."""

        def work(connection: Any) -> None:
            domain = must_look_up(self._libvirt, connection, instance_id)
            # Another's start under way shows as a pause, which may be over by now.
            roused = not paused and self._rouse(domain)
            if not roused and not domain.isActive():
                self._refuse_root(connection, instance_id)
                self._create(domain, paused=paused)

        return work

    def resume(self, instance_id: str) -> Callable[[Any], None]:
        """Let a domain that sleeps go on."""

        def work(connection: Any) -> None:
            domain = must_look_up(self._libvirt, connection, instance_id)
            if not self._rouse(domain) and not domain.isActive():
                raise libvirt_errors.unavailable("the machine went off meanwhile")

        return work

    def _rouse(self, domain: Any) -> bool:
        """Let a domain that sleeps go on; tell whether it slept."""
        state, _ = domain.state()
        if state == self._libvirt.VIR_DOMAIN_SHUTDOWN:
            raise libvirt_errors.unavailable("the machine is still powering off")
        if state == self._libvirt.VIR_DOMAIN_PAUSED:
            self._unless_running(domain, domain.resume)
        elif state == self._libvirt.VIR_DOMAIN_PMSUSPENDED:
            self._unless_running(domain, domain.pMWakeup)
        else:
            return False
        return True

    def _refuse_root(self, connection: Any, instance_id: str) -> None:
        """Refuse to start guests on a libvirtd that would run them as root. Asked for once each."""
        if connection in self._not_root:
            return
        if 0 in qemu_uids(connection.getCapabilities()):
            raise libvirt_errors.qemu_as_root(instance_id)
        self._not_root.add(connection)

    def _create(self, domain: Any, *, paused: bool) -> None:
        try:
            if paused:
                domain.createWithFlags(self._libvirt.VIR_DOMAIN_START_PAUSED)
            else:
                domain.create()
        except self._libvirt.libvirtError:
            if not domain.isActive():  # else another call was quicker
                raise

    def _unless_running(self, domain: Any, act: Callable[[], Any]) -> None:
        """Do `act`; that the domain runs meanwhile is what we wanted, that it is off is no refusal:
        the start that it was paused for has failed."""
        try:
            act()
        except self._libvirt.libvirtError as error:
            if not domain.isActive():
                raise libvirt_errors.unavailable("the machine went off meanwhile") from error
            if domain.state()[0] != self._libvirt.VIR_DOMAIN_RUNNING:
                raise
