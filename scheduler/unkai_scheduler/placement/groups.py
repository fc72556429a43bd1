"""Where the members of placement groups are: instances by their hosts, as claims have them.

Sparse, and beside the fleet's columns: most instances are of no group. The fleet keeps it current
as claims are made and let go, and takes over what the store says of a host. What it means for a
request: `group_rules.py`.
"""

from __future__ import annotations

from collections.abc import Mapping


class Members:
    """Members by group and host."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}
        """By group and host."""
        self._on: dict[str, dict[str, str]] = {}
        """By host, its instances with their groups."""

    def copy(self) -> Members:
        """Return the same that can be changed apart."""
        other = Members()
        other._counts = {group_id: dict(counts) for group_id, counts in self._counts.items()}
        other._on = {host_id: dict(on) for host_id, on in self._on.items()}
        return other

    def add(self, host_id: str, instance_id: str, group_id: str) -> None:
        """Note that a host holds a member; no group's is no member."""
        self.remove(host_id, instance_id)
        if group_id:
            self._on.setdefault(host_id, {})[instance_id] = group_id
            counts = self._counts.setdefault(group_id, {})
            counts[host_id] = counts.get(host_id, 0) + 1

    def remove(self, host_id: str, instance_id: str) -> None:
        """Note that a host holds an instance no more; one that is no member is no error."""
        on = self._on.get(host_id)
        group_id = on.pop(instance_id, "") if on else ""
        if not group_id:
            return
        counts = self._counts[group_id]
        counts[host_id] -= 1
        if not counts[host_id]:
            del counts[host_id]
        if not counts:
            del self._counts[group_id]
        if not on:
            del self._on[host_id]

    def put(self, host_id: str, groups: Mapping[str, str]) -> None:
        """Take over which members a host holds: their groups by instance."""
        for instance_id in list(self._on.get(host_id, ())):
            self.remove(host_id, instance_id)
        for instance_id, group_id in groups.items():
            self.add(host_id, instance_id, group_id)

    def on(self, host_id: str) -> Mapping[str, str]:
        """Return the members that a host holds, with their groups, as they are now."""
        return dict(self._on.get(host_id, {}))

    def hosts_of(self, group_id: str) -> Mapping[str, int]:
        """Return how many members of a group each host holds that holds any."""
        return self._counts.get(group_id, {})
