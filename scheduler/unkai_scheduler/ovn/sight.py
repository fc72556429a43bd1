"""What OVN's southbound database shows people: who has which port, which members are well.

Nothing is decided by it: what shall be is the store's. `Sight` is what is known now, kept by
`southbound.py`. While the database is away it shows what was seen last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from unkai_scheduler.domain.load_balancers import BalancedProtocol
from unkai_scheduler.ovn.northbound.names import name_of, router_port_name


class Chassis(NamedTuple):
    """A host as OVN knows it: its id, and the name it says it has."""

    host_id: str
    host_name: str


class Binding(NamedTuple):
    """Where a port is; a chassis' row, empty for none."""

    name: str
    chassis: str
    is_up: bool


class Service(NamedTuple):
    """A member that is checked."""

    port_name: str
    protocol: str
    port_number: int
    status: str
    """`online`, `offline`, `error`, or empty until it is known."""


@dataclass
class Sight:
    """What is known now, by the UUID of its row; and by what is asked for."""

    is_known: bool = False
    """The database was read at least once."""
    chassis: dict[str, Chassis] = field(default_factory=dict)
    bindings: dict[str, Binding] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    _bound: dict[str, str] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget everything: the database is read anew."""
        for known in (self.chassis, self.bindings, self.services, self._bound):
            known.clear()

    def take(self, rows: Iterable[list[Any]]) -> set[str]:
        """Take in rows that changed; return the names of ports that did."""
        ports: set[str] = set()
        for table, uuid, values in rows:
            if table == "Port_Binding":
                ports |= self._take_binding(uuid, values)
            elif table == "Chassis":
                self._put(self.chassis, uuid, Chassis(*map(_text, values)) if values else None)
                ports |= {b.name for b in self.bindings.values() if b.chassis == uuid}
            elif table == "Service_Monitor":
                self._put(self.services, uuid, _service(values) if values else None)
        return ports

    def _take_binding(self, uuid: str, values: list[Any] | None) -> set[str]:
        old = self.bindings.get(uuid)
        new = Binding(_text(values[0]), _text(values[1]), bool(values[2])) if values else None
        self._put(self.bindings, uuid, new)
        if old and self._bound.get(old.name) == uuid:
            del self._bound[old.name]
        if new:
            self._bound[new.name] = uuid
        return {some.name for some in (old, new) if some}

    def _put(self, known: dict[str, Any], uuid: str, value: object) -> None:
        if value is None:
            known.pop(uuid, None)
        else:
            known[uuid] = value

    def chassis_of(self, port_name: str) -> Chassis | None:
        """Return the host that has a port, by the port's name in OVN."""
        binding = self.binding(port_name)
        return self.chassis.get(binding.chassis) if binding else None

    def binding(self, port_name: str) -> Binding | None:
        """Return what is known of a port, by its name in OVN."""
        uuid = self._bound.get(port_name)
        return self.bindings.get(uuid) if uuid else None

    def gateway_host(self, port_id: str) -> str:
        """Return the name of the host that a router's gateway is on; empty when none has it."""
        found = self.chassis_of(f"cr-{router_port_name(port_id)}")
        return found.host_name or found.host_id if found else ""

    def is_well(self, port_id: str, protocol: BalancedProtocol, port_number: int) -> bool | None:
        """Tell whether a member answers its checks; None: not known."""
        name, spoken = name_of(port_id), protocol.value.lower()
        for some in self.services.values():
            if some[:3] == (name, spoken, port_number) and some.status:
                return some.status == "online"
        return None


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _service(values: list[Any]) -> Service:
    return Service(_text(values[0]), _text(values[1]), int(values[2]), _text(values[3]))
