"""The names on a network: what guests there are told, and what of it is told to a host. Pure data.

An instance is found under its own name by the addresses of its ports on that network. Names are
unique within a project, and a network may be shared by several: one name that several instances
have is the network's own project's, then the oldest instance's. The others have none there, so that
nobody takes a name from who has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MOST_NAMES = 20_000
"""Of one network; agents take no more."""
MOST_ADDRESSES = 32
"""Of one name; agents take no more."""


@dataclass(frozen=True, slots=True)
class NamedAddress:
    """An address that an instance has on a network."""

    network_id: str
    instance_id: str
    name: str
    project_id: str
    address: str


@dataclass(frozen=True, slots=True)
class Naming:
    """What a network says of the names on it."""

    project_id: str
    domain: str


@dataclass(frozen=True, slots=True)
class Names:
    """All names on one network, in one domain."""

    domain: str
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NameChange:
    """What a host is told: all names, or what changed since a revision that it holds."""

    network_id: str
    base_revision: int
    """0: `put` is all there is."""
    revision: int
    domain: str
    put: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()


def names_of(
    networks: Mapping[str, Naming], named: Iterable[NamedAddress]
) -> tuple[dict[str, Names], dict[str, frozenset[str]]]:
    """Return the names on each network that has some, and the networks of each instance."""
    holders: dict[tuple[str, str], dict[tuple[bool, str], list[str]]] = {}
    on: dict[str, set[str]] = {}
    for one in named:
        on.setdefault(one.instance_id, set()).add(one.network_id)
        network = networks.get(one.network_id)
        rank = (network is None or network.project_id != one.project_id, one.instance_id)
        held = holders.setdefault((one.network_id, one.name), {})
        held.setdefault(rank, []).append(one.address)
    tables: dict[str, dict[str, tuple[str, ...]]] = {}
    for network_id, name in sorted(holders):
        table = tables.setdefault(network_id, {})
        if network_id in networks and len(table) < MOST_NAMES:
            ranks = holders[network_id, name]
            table[name] = tuple(sorted(ranks[min(ranks)])[:MOST_ADDRESSES])
    names = {
        network_id: Names(networks[network_id].domain, table)
        for network_id, table in tables.items()
        if network_id in networks
    }
    return names, {ident: frozenset(some) for ident, some in on.items()}


class RevisedNames:
    """The names of one network at a revision, and at the one before."""

    def __init__(self, network_id: str, names: Names, revision: int) -> None:
        self._network_id = network_id
        self._names = names
        self._before = Names("")
        self._before_revision = 0
        self.revision = revision

    def move(self, names: Names, revision: int) -> None:
        """Take over what the names are now, at a higher revision, unless they are the same."""
        if names == self._names:
            return
        self._before, self._before_revision = self._names, self.revision
        self._names, self.revision = names, revision

    def change_for(self, held: int) -> NameChange:
        """Return what a host is to be told that holds a revision; 0: nobody knows which.

        Who holds this one or the one before is told the last change: it fits both.
        """
        now = self._names.addresses
        if not self._before_revision or held not in (self._before_revision, self.revision):
            return NameChange(self._network_id, 0, self.revision, self._names.domain, now)
        before = self._before.addresses
        return NameChange(
            self._network_id,
            self._before_revision,
            self.revision,
            self._names.domain,
            {name: some for name, some in now.items() if before.get(name) != some},
            frozenset(before.keys() - now.keys()),
        )
