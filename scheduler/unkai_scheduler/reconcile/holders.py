"""Holders: which hosts hold a machine of an instance, by their last word, whatever the claim says.

The instance loop asks before it decides and before it orders; `held.py` has what is said of it. An
answer is as old as the hosts' last words: one that has yet to tell may hold it, too.
"""

from __future__ import annotations

from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.reconcile.cases import Holder
from unkai_scheduler.reconcile.hosts import Hosts
from unkai_scheduler.reconcile.live import LiveState


class Holders:
    """Knows who holds what, from the state of the hosts and from what they told."""

    def __init__(self, hosts: Hosts, live: LiveState) -> None:
        self._hosts = hosts
        self._live = live

    def others(self, instance: Instance) -> list[Holder]:
        """Return the hosts but its own that hold a machine of it by their last word.

        A deletion waits for none that is gone and cannot be removed, having no row; where it
        might be made a second time, its word still counts.
        """
        hosts, holders = self._hosts, self._live.holders(instance.id)
        others = [host_id for host_id in holders if host_id != instance.host_id]
        if instance.delete_requested or instance.state is InstanceState.DELETING:
            others = [i for i in others if hosts.is_written(i) or not hosts.is_gone(i)]
        return [self._holder(host_id) for host_id in others]

    def would_double(self, instance: Instance) -> bool:
        """Tell whether an order would make a machine that another host has told of meanwhile."""
        here = self._live.machine(instance.host_id, instance.id)
        return here is None and not instance.has_run and bool(self.others(instance))

    def may_yet_turn_up(self, instance: Instance) -> bool:
        """Tell whether a host that has yet to tell may hold what is about to be forgotten."""
        is_settled = bool(instance.host_id) and instance.has_run
        return not is_settled and self._hosts.may_yet_tell()

    def _holder(self, host_id: str) -> Holder:
        hosts = self._hosts
        return Holder(
            host_id,
            hosts.name(host_id),
            speaks=hosts.state(host_id) is HostState.UP,
            is_written=hosts.is_written(host_id),
        )
