"""What OVN's databases tell the scheduler's doctor; nothing in them is changed.

One connection each, and a few requests of RFC 7047. Whether ovn-northd is there is asked by the
lock that it holds: what is given at once nobody had; it is given back by hanging up.
"""

from __future__ import annotations

import datetime as dt
import json
import socket
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from unkai_scheduler.network_settings import NetworkSettings
from unkai_wire.setting_values import split_address

NORTHBOUND, SOUTHBOUND = "OVN_Northbound", "OVN_Southbound"
_GLOBALS = {NORTHBOUND: "Logical_Switch", SOUTHBOUND: "Datapath_Binding"}
_LOCK = "ovn_northd"
"""What northd locks in the southbound database while it works; ovn-northd(8)."""
_ANSWER_S = 3.0
_LAG_S = 3.0
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Server:
    """What one of the servers says."""

    database: str
    remote: str
    trouble: str = ""
    """Why it cannot be asked; empty when it can."""
    trust: bool = False
    """That is about certificates."""
    probes_ms: dict[str, int | None] = field(default_factory=dict)
    """Its listeners that stand in the database, each with its inactivity probe."""
    switches: frozenset[str] = frozenset()
    """UUIDs of the logical switches that it has, or has translated."""
    ends: dt.datetime | None = None
    """When its certificate ends; None: it showed none."""
    lock_free: bool = False
    """Nobody has northd's lock."""


@dataclass(frozen=True, slots=True)
class OvnFacts:
    """All servers, and what northd has left undone."""

    servers: tuple[Server, ...] = ()
    behind: int = 0
    """Logical switches that were not translated within `_LAG_S`."""

    def of(self, database: str) -> list[Server]:
        """Return the servers of a database that could be asked."""
        return [s for s in self.servers if s.database == database and not s.trouble]


def look(network: NetworkSettings) -> OvnFacts:
    """Ask all servers that the settings name, at once; again while northd seems to be behind."""
    asked = [(NORTHBOUND, remote) for remote in network.northbound]
    asked += [(SOUTHBOUND, remote) for remote in network.southbound]
    if not network.enabled:
        return OvnFacts()
    end_s = time.monotonic() + _LAG_S
    first = facts = OvnFacts(tuple(_ask_all(asked, network)))
    missing = _missing(first)
    while missing and time.monotonic() < end_s:
        time.sleep(0.3)
        facts = OvnFacts(tuple(_ask_all(asked, network)))
        missing &= _missing(facts)
    return OvnFacts(first.servers, len(missing))


def _missing(facts: OvnFacts) -> frozenset[str]:
    wanted, there = facts.of(NORTHBOUND), facts.of(SOUTHBOUND)
    if not wanted or not there:
        return frozenset()
    has = frozenset().union(*(server.switches for server in there))
    return frozenset().union(*(server.switches for server in wanted)) - has


def _ask_all(asked: Sequence[tuple[str, str]], network: NetworkSettings) -> list[Server]:
    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(lambda one: _ask(one[0], one[1], network), asked))


def _ask(database: str, remote: str, network: NetworkSettings) -> Server:
    try:
        with _connected(remote, network) as connection:
            try:
                return _read(database, remote, connection)
            except ConnectionError as error:
                # With TLS 1.3 our certificate is refused after the handshake; the alert that says
                # so is lost when what we sent meanwhile is not read.
                trust = remote.startswith("ssl:")
                return Server(database, remote, str(error), trust=trust)
    except ssl.SSLError as error:
        words = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
        return Server(database, remote, str(words), trust=True)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        return Server(database, remote, str(error) or type(error).__name__)


def _connected(remote: str, network: NetworkSettings) -> socket.socket:
    kind, _, address = remote.partition(":")
    if kind == "unix":
        local = socket.socket(socket.AF_UNIX)
        local.settimeout(_ANSWER_S)
        try:
            local.connect(address)
        except OSError:
            local.close()
            raise
        return local
    host, port = split_address(address)
    context = _context(network) if kind == "ssl" else None
    plain = socket.create_connection((host, port), timeout=_ANSWER_S)
    if context is None:
        return plain
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _context(network: NetworkSettings) -> ssl.SSLContext:
    tls = network.tls
    try:
        context = ssl.create_default_context(cafile=str(tls.ca))
        context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:
        names = f"{tls.ca}, {tls.certificate}, {tls.key}"
        raise ssl.SSLError(0, f"our own files cannot be used ({names}): {error}") from error
    return context


def _read(database: str, remote: str, connection: socket.socket) -> Server:
    table = _GLOBALS[database]
    columns = ["_uuid"] if database == NORTHBOUND else ["external_ids"]
    listeners, rows = _call(
        connection,
        "transact",
        database,
        _select("Connection", "target", "inactivity_probe"),
        _select(table, *columns),
    )
    free = database == SOUTHBOUND and _call(connection, "lock", _LOCK)["locked"] is True
    return Server(
        database,
        remote,
        probes_ms={row["target"]: _optional(row["inactivity_probe"]) for row in listeners["rows"]},
        switches=frozenset(filter(None, map(_switch_of, rows["rows"]))),
        ends=_end_of(connection),
        lock_free=free,
    )


def _end_of(connection: socket.socket) -> dt.datetime | None:
    """Return when the certificate ends that the other side has shown."""
    if not isinstance(connection, ssl.SSLSocket):
        return None
    shown = (connection.getpeercert() or {}).get("notAfter")
    return dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown)), dt.UTC)


def _select(table: str, *columns: str) -> dict[str, Any]:
    return {"op": "select", "table": table, "where": [], "columns": columns}


def _switch_of(row: dict[str, Any]) -> str:
    if "_uuid" in row:
        return str(row["_uuid"][1])
    return str(dict(row["external_ids"][1]).get("logical-switch", ""))


def _optional(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _call(connection: socket.socket, method: str, *params: Any) -> Any:
    """Send a request and return its result; what else the server says is passed over."""
    request = {"method": method, "params": params, "id": method}
    connection.sendall(json.dumps(request).encode())
    decoder, text, end_s = json.JSONDecoder(), "", time.monotonic() + _ANSWER_S
    while len(text) < _MOST_BYTES and time.monotonic() < end_s:
        piece = connection.recv(1 << 20)
        if not piece:
            raise ConnectionError("it hung up")
        text += piece.decode("utf-8", "replace")
        try:
            answer, used = decoder.raw_decode(text)
        except ValueError:
            continue
        if answer.get("id") == method:
            if answer["error"] is not None:
                raise ValueError(f"it refuses {method}: {answer['error']}")
            return answer["result"]
        text = text[used:].lstrip()
    raise TimeoutError("no answer")
