"""A load balancer as it is shown: the columns of lists, and the members of one alone."""

from __future__ import annotations

from unkai_cli.commands.resources import LAST, NAME, Columns, Names
from unkai_cli.output import Column, Record


def columns(names: Names) -> Columns:
    """Return the columns of lists."""
    return (
        NAME,
        Column("ADDRESS", lambda r: r["address"]),
        Column("LISTENERS", lambda r: ",".join(_written(e) for e in r["listeners"])),
        Column("MEMBERS", _well, right=True),
        Column("SUBNET", lambda r: names.of("subnet", r["subnet_id"])),
        *LAST,
    )


def _well(row: Record) -> str:
    """Return how many members get connections, of how many."""
    members = [member for listener in row["listeners"] for member in listener["members"]]
    return f"{sum(member['health'] != 'DOWN' for member in members)}/{len(members)}"


def _written(listener: Record) -> str:
    return f"{listener['port_number']}/{listener['protocol'].lower()}"


def member_columns(names: Names) -> Columns:
    """Return the columns of the members of one load balancer."""
    return (
        Column("LISTENER", lambda r: r["listener"]),
        Column("MEMBER", lambda r: names.of("port", r["port_id"])),
        Column("ADDRESS", lambda r: r["address"]),
        Column("PORT", lambda r: str(r["port_number"]), right=True),
        Column("HEALTH", lambda r: r["health"].replace("UNSPECIFIED", "")),
    )


def member_rows(row: Record) -> list[Record]:
    """Return a row for each member of each listener."""
    return [
        {
            **member,
            "listener": _written(listener),
            "port_number": member["port_number"] or listener["port_number"],
        }
        for listener in row["listeners"]
        for member in listener["members"]
    ]
