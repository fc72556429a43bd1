"""What is kept in etcd: keys and records.

etcd holds membership and leadership and nothing else. All records are JSON under `/unkai/v1`;
readers ignore fields they do not know, so that versions can mix.

    /unkai/v1/hosts/<host id>          HostRecord, under the agent's lease
    /unkai/v1/schedulers/<name>        SchedulerRecord, under the scheduler's lease
    /unkai/v1/leader                   SchedulerRecord of the leader, under its lease
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

PREFIX = "/unkai/v1"
HOSTS_PREFIX = f"{PREFIX}/hosts/"
SCHEDULERS_PREFIX = f"{PREFIX}/schedulers/"
LEADER_KEY = f"{PREFIX}/leader"

HOST_LEASE_TTL_S = 6
"""A host is missed after this long: with the sweep of the registry well under 10 s."""
LEADER_LEASE_TTL_S = 3
"""A dead leader's key goes after this long: another leads within 5 s."""
MOST_BYTES = 1 << 56
"""No host has more bytes of anything, 64 PiB: with the highest ratio they still are a number that a
database, an array and a message hold."""
MOST_CPUS = 1 << 16
"""With the highest ratio, messages (32 bits) hold even the sum of many hosts."""
_LONG = 4096
"""Characters of the longest text in a record."""
_MANY = 1024
"""Most traits or features of a host."""
FORWARDS_NOTHING = "forwards nothing"
"""What a host says of its switch that is down."""
T = TypeVar("T", "HostRecord", "SchedulerRecord")


def host_key(host_id: str) -> str:
    """Return the key of a host's record."""
    return HOSTS_PREFIX + host_id


def scheduler_key(name: str) -> str:
    """Return the key of a scheduler's record."""
    return SCHEDULERS_PREFIX + name


def prefix_end(prefix: str) -> str:
    """Return the first key after all that begin with the prefix: etcd's end of a range."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What an agent says of its host when it registers. Written by that agent only."""

    host_id: str
    name: str
    address: str
    """`IP:PORT` of the agent's gRPC server."""
    tls_name: str
    """Name in the server's certificate: `<host id>.host.unkai.internal`, or a fleet's."""
    cpus: int
    memory_bytes: int
    disk_bytes: int
    accelerator: str
    accelerator_reason: str
    traits: tuple[str, ...]
    boot_id: str
    agent_version: str
    features: tuple[str, ...] = ()
    metrics_address: str = ""
    """`IP:PORT` of the agent's metrics endpoint; empty: none."""
    physical_networks: tuple[str, ...] = ()
    """The operator's networks that it is attached to."""
    datapath: str = ""
    """What its switch forwards frames by, `system` or `netdev`; empty: it has no networks."""
    network_problem: str = ""
    """Why its switch is not of OVN, or does not work; empty: all is well, or it has no networks.

    It has `FORWARDS_NOTHING` in it while no packet passes.
    """

    def to_json(self) -> str:
        """Return the record as JSON."""
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> HostRecord:
        """Read a record; raise ValueError when it is not one."""
        return _read(cls, text)


@dataclass(frozen=True, slots=True)
class SchedulerRecord:
    """A scheduler, and how to reach it."""

    name: str
    address: str
    """`IP:PORT` of its gRPC server."""
    version: str
    metrics_address: str = ""

    def to_json(self) -> str:
        """Return the record as JSON."""
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> SchedulerRecord:
        """Read a record; raise ValueError when it is not one."""
        return _read(cls, text)


def _to_json(record: Any) -> str:
    return json.dumps(dataclasses.asdict(record), sort_keys=True, separators=(",", ":"))


def _read(cls: type[T], text: str | bytes) -> T:
    """Read a record, believing nothing of it: who wrote it may mean harm."""
    name = cls.__name__
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a {name}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"not a {name}: {type(values).__name__}")  # noqa: TRY004 - callers treat any unreadable record alike
    found: dict[str, Any] = {}
    for field, wanted in _FIELDS[cls]:
        if field.name in values:
            found[field.name] = _checked(name, field.name, wanted, values[field.name])
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"not a {name}: lacks {field.name}")
    return cls(**found)


def _checked(record: str, field: str, wanted: Any, value: Any) -> Any:
    most = MOST_CPUS if field == "cpus" else MOST_BYTES
    if wanted is int and type(value) is int and 0 <= value <= most:
        return value
    if wanted is str and _is_text(value):
        return value
    if wanted == tuple[str, ...] and _is_list_of_texts(value):
        return tuple(value)
    raise ValueError(f"not a {record}: {field} is {str(value)[:64]!r}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONG


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MANY and all(map(_is_text, value))


def _fields_of(cls: type[Any]) -> list[tuple[dataclasses.Field[Any], Any]]:
    types = get_type_hints(cls)
    return [(field, types[field.name]) for field in dataclasses.fields(cls)]


_FIELDS = {cls: _fields_of(cls) for cls in (HostRecord, SchedulerRecord)}
"""Each record's fields with their types. Looked up once: records are read by thousands."""
