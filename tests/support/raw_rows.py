"""The database's rows, read as rows: by SQL written here, through none of the product's code.

A SQLite file is read with `sqlite3`, a server by its SQLAlchemy URL. All of one reading is of one
moment. Run as a program (`python -m tests.support.raw_rows SETTINGS`, a scheduler's of its database
as JSON) it prints the rows as JSON, for databases that only a lab's cell reaches.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

Row = dict[str, Any]
Tables = dict[str, list[Row]]
"""Rows by table; moments as text or datetime, as the driver gives them."""

COLUMNS: Mapping[str, str] = {
    "leader_term": "term",
    "history": "epoch newest_number pruned_number",
    "projects": "id name",
    "images": "id state",
    "key_pairs": "id",
    "placement_groups": "id project_id",
    "hosts": "id name state cpus memory_bytes disk_bytes",
    "instances": (
        "id project_id name image_id state desired_power generation observed_generation run_epoch"
        " has_run delete_requested operation_id vcpus memory_bytes disk_bytes labels key_pair_ids"
        " placement_group_id"
    ),
    "instance_labels": "instance_id name value",
    "instance_key_pairs": "instance_id key_pair_id",
    "claims": "instance_id host_id vcpus memory_bytes disk_bytes run_epoch",
    "tombstones": "instance_id host_id generation run_epoch",
    "operations": (
        "id verb state resource_kind resource_id progress_message request_id create_time end_time"
    ),
    "events": "sequence id epoch number resource_kind resource_id type reason",
    "requests": "principal request_id method answer",
    "networks": "id project_id name type mtu dns_domain physical_network vlan_id external shared",
    "subnets": (
        "id project_id network_id cidr gateway_address dhcp ipv6_mode dns_servers host_routes"
    ),
    "ports": (
        "id project_id network_id name mac_address pairs anti_spoofing egress_bits_per_s"
        " egress_burst_bits ingress_bits_per_s ingress_burst_bits owner_kind owner_id position"
    ),
    "addresses": "network_id address subnet_id port_id position",
    "security_groups": "id project_id name",
    "security_group_rules": (
        "id group_id direction ip_version protocol port_first port_last icmp_type icmp_code"
        " remote_cidr remote_group_id"
    ),
    "port_security_groups": "port_id group_id",
    "routers": "id project_id name gateway_port_id snat routes",
    "router_interfaces": "router_id subnet_id port_id position",
    "floating_ips": "id project_id name holder_port_id port_id fixed_address router_id",
    "load_balancers": "id project_id name subnet_id port_id listeners",
    "load_balancer_members": (
        "load_balancer_id protocol listener_port_number port_id port_number position"
    ),
    "ovn_work": "kind id attempt reason",
    "ovn_tombstones": "kind id",
}
"""What is read. Large columns are left out."""
_JSON = {"labels", "key_pair_ids", "answer", "listeners", "routes", "pairs", "dns_servers"} | {
    "host_routes"
}
_BOOLEAN = {"has_run", "delete_requested", "dhcp", "external", "shared", "anti_spoofing", "snat"}


def read_tables(url: str, trust: ssl.SSLContext | None = None) -> Tables:
    """Read all tables of a database, `sqlite:///PATH` or a server's URL with an async driver."""
    if url.startswith("sqlite:///"):
        return _read_file(url.removeprefix("sqlite:///"))
    # In a thread of its own: the caller's may run a loop already.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(_read_server(url, trust))).result()


def read_by_settings(settings: Mapping[str, Any]) -> Tables:
    """Read all tables of a database as a scheduler's settings name it."""
    if settings["url"].startswith("sqlite:"):
        return read_tables(settings["url"])
    scheme, _, rest = settings["url"].partition("://")
    user, _, place = rest.partition("@")
    if file := settings.get("password_file"):
        user = f"{user}:{quote(Path(file).read_text().strip(), safe='')}"
    driver = {"postgresql": "postgresql+asyncpg", "mariadb": "mysql+asyncmy"}[scheme]
    trust = None
    if tls := settings.get("tls"):
        trust = ssl.create_default_context(cafile=tls["ca"])
        trust.load_cert_chain(tls["certificate"], tls["key"])
    return read_tables(f"{driver}://{user}@{place}", trust)


def _queries() -> Iterable[tuple[str, list[str], str]]:
    for table, words in COLUMNS.items():
        columns = words.split()
        yield table, columns, f"SELECT {', '.join(columns)} FROM {table}"


def _read_file(path: str) -> Tables:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
        db.execute("BEGIN")
        return {
            table: [_row(columns, values) for values in db.execute(query)]
            for table, columns, query in _queries()
        }


async def _read_server(url: str, trust: ssl.SSLContext | None) -> Tables:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(
        url, isolation_level="REPEATABLE READ", connect_args={"ssl": trust} if trust else {}
    )
    try:
        async with engine.connect() as db:
            found = {}
            for table, columns, query in _queries():
                answer = await db.execute(text(query))
                found[table] = [_row(columns, values) for values in answer]
            return found
    finally:
        await engine.dispose()


def _row(columns: list[str], values: Iterable[Any]) -> Row:
    return {column: _value(column, value) for column, value in zip(columns, values, strict=True)}


def _value(column: str, value: Any) -> Any:
    if column in _JSON and isinstance(value, str | bytes):
        return json.loads(value)
    return bool(value) if column in _BOOLEAN else value


def main(print_line: Callable[[str], None] = print) -> None:
    """Print the rows of the database whose settings are the first argument."""
    print_line(json.dumps(read_by_settings(json.loads(sys.argv[1])), default=str))


if __name__ == "__main__":
    main()
