"""The names of one network, as the leader tells them: whole, or as changes to a known revision.

Kept on the host's disk, so that guests are answered while no scheduler is there. A file that cannot
be read is dropped: its network's revision is then 0, and the leader tells all anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from unkai_wire.errors import FailedPrecondition, Unavailable
from unkai_wire.ids import is_id

_VERSION = 1


@dataclass(frozen=True, slots=True)
class NameChanges:
    """What the leader says of a network's names."""

    network_id: str
    base_revision: int
    """0: `put` is all there is."""
    revision: int
    domain: str
    put: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Addresses by name."""
    removed: frozenset[str] = frozenset()


class NameTable:
    """The names of one network at a revision. Never changed; `after` makes another."""

    def __init__(
        self,
        domain: str = "",
        revision: int = 0,
        names: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.domain = domain
        self.revision = revision
        self.names: Mapping[str, tuple[str, ...]] = dict(names or {})
        self._by_address: dict[str, str] = {}
        for name, addresses in sorted(self.names.items()):
            for address in addresses:
                self._by_address.setdefault(address, name)

    def addresses(self, name: str, version: int) -> list[str] | None:
        """Return a name's addresses of a kind (4 or 6); None: there is no such name."""
        found = self.names.get(name)
        return None if found is None else [a for a in found if ip_address(a).version == version]

    def name_of(self, address: str) -> str | None:
        """Return the name that has an address, in its canonical form."""
        return self._by_address.get(address)

    def after(self, changes: NameChanges) -> NameTable:
        """Return the table after changes. What was told before is told again harmlessly.

        Raises `FailedPrecondition` / NAMES_REVISION when they are older than what is held, as
        those of a call that was given up may be, or based on another revision.
        """
        is_late = changes.revision < self.revision
        if not is_late and changes.base_revision == 0:
            return NameTable(changes.domain, changes.revision, changes.put)
        if changes.revision == self.revision:
            return self
        if is_late or changes.base_revision != self.revision:
            raise FailedPrecondition(
                f"the host holds revision {self.revision} of the network's names, which nothing "
                f"leads to from {changes.base_revision} to {changes.revision}",
                reason="NAMES_REVISION",
                fix="tell all names as they are now, with a base revision of 0",
                metadata={
                    "network_id": changes.network_id,
                    "held": str(self.revision),
                    "base": str(changes.base_revision),
                    "revision": str(changes.revision),
                },
            )
        names = {k: v for k, v in self.names.items() if k not in changes.removed}
        return NameTable(changes.domain, changes.revision, names | dict(changes.put))


class NameTables:
    """The tables of a host's networks, in memory and in files. Calls that change block a little."""

    def __init__(self, root: Path) -> None:
        """Read what is kept in `root`, making it if need be."""
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._tables: dict[str, NameTable] = {}
        for path in root.glob("net-*.json"):
            table = _read(path)
            if table is not None and is_id("network", path.stem):
                self._tables[path.stem] = table

    def of(self, network_id: str) -> NameTable:
        """Return a network's table; an empty one when nothing was told."""
        return self._tables.get(network_id) or NameTable()

    def change(self, changes: NameChanges) -> NameTable:
        """Take changes over, onto the disk first. Raises as `after`, and NAMES_UNWRITABLE."""
        table = self.of(changes.network_id).after(changes)
        path = self._path(changes.network_id)
        beside = path.with_suffix(".tmp")
        try:
            beside.write_text(json.dumps(_record(table), sort_keys=True))
            beside.rename(path)
        except OSError as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise Unavailable(
                f"the host cannot keep the network's names: {error.strerror}",
                reason="NAMES_UNWRITABLE",
                fix="free space on the file system of the agent's state folder",
                metadata={"network_id": changes.network_id},
                retry_after_s=5.0,
            ) from error
        self._tables[changes.network_id] = table
        return table

    def keep_only(self, networks: Iterable[str]) -> None:
        """Forget networks that no machine here is on any more."""
        for network_id in self._tables.keys() - set(networks):
            del self._tables[network_id]
            self._path(network_id).unlink(missing_ok=True)

    def _path(self, network_id: str) -> Path:
        return self._root / f"{network_id}.json"


def _record(table: NameTable) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "domain": table.domain,
        "revision": table.revision,
        "names": {name: list(addresses) for name, addresses in table.names.items()},
    }


def _read(path: Path) -> NameTable | None:
    try:
        record = json.loads(path.read_bytes())
        if record["version"] != _VERSION:
            return None
        names = {str(name): tuple(map(str, each)) for name, each in record["names"].items()}
        return NameTable(str(record["domain"]), int(record["revision"]), names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
